//! Registry values.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/install/inf-addreg-directive>.

use std::collections::HashSet;

use abi::policy::{Policy, SCALING_EXCLUDE};

use super::{Report, Rule, references::Package};
use crate::text::{Entry, number};

/// `FLG_ADDREG_NOCLOBBER`: a value that is there stays.
const NO_CLOBBER: u32 = 0x2;
/// `FLG_ADDREG_APPEND`
const APPEND: u32 = 0x8;
/// `FLG_ADDREG_KEYONLY`
const KEY_ONLY: u32 = 0x10;
/// `REG_SZ`, `REG_EXPAND_SZ`, `REG_DWORD`.
pub(super) const TYPES: [u32; 3] = [0, 0x2_0000, 0x1_0001];
/// `REG_DWORD`
const DWORD: u32 = 0x1_0001;
/// Where a type is in the flags.
const TYPE_MASK: u32 = 0xffff_0001;

/// A value, as `AddReg` writes it: root, key, name, flags, data.
pub(super) struct Value<'a> {
    pub(super) line: usize,
    pub(super) key: String,
    pub(super) name: String,
    pub(super) flags: u32,
    pub(super) data: String,
    root: &'a str,
}

impl<'a> Value<'a> {
    pub(super) fn read(report: &Report<'a>, entry: &'a Entry) -> Self {
        let field = |number| report.inf.resolved(entry.field(number));
        let flags = if entry.field(3).is_empty() { Some(0) } else { number(entry.field(3)) };
        Value {
            line: entry.line,
            key: field(1),
            name: field(2),
            // What is no number is of no type.
            flags: flags.unwrap_or(u32::MAX),
            data: field(4),
            root: entry.field(0),
        }
    }
}

pub(super) fn check(report: &mut Report<'_>, package: &Package<'_>) {
    let sections = [
        &package.device_values,
        &package.hardware_values,
        &package.service_values,
        &package.event_sources,
    ];
    for (kind, sections) in sections.into_iter().enumerate() {
        let mut seen = HashSet::new();
        for entry in sections.iter().flat_map(|section| &section.entries) {
            let value = Value::read(report, entry);
            value.check(report);
            let name = (kind, value.key.to_ascii_lowercase(), value.name.to_ascii_lowercase());
            report.expect(seen.insert(name), value.line, Rule::Twice, || {
                format!("value `{}` of key `{}` is set twice", value.name, value.key)
            });
        }
    }
    for entry in package.service_values.iter().flat_map(|section| &section.entries) {
        let value = Value::read(report, entry);
        let wrong = value.wrong_as_policy();
        wrong.into_iter().for_each(|wrong| report.tell(value.line, Rule::Policy, wrong));
    }
}

impl Value<'_> {
    fn check(&self, report: &mut Report<'_>) {
        let Self { line, name, flags, data, .. } = self;
        report.expect(self.root.eq_ignore_ascii_case("HKR"), *line, Rule::Root, || {
            format!("root {} is not HKR", self.root)
        });
        if name.eq_ignore_ascii_case("CoInstallers32") {
            return report.tell(*line, Rule::CoInstaller, "there are no co-installers any more");
        }
        if *flags != u32::MAX && flags & APPEND != 0 {
            return report.tell(*line, Rule::Appended, format!("`{name}` is appended to"));
        }
        let known = TYPES.contains(&(flags & TYPE_MASK))
            && flags & !(TYPE_MASK | NO_CLOBBER | KEY_ONLY) == 0;
        let is_key = flags & KEY_ONLY != 0;
        let fits = match flags & TYPE_MASK {
            _ if is_key => name.is_empty() && data.is_empty(),
            DWORD => number(data).is_some(),
            _ => true,
        };
        report.expect(known && fits, *line, Rule::ValueType, || {
            format!("`{name}` with flags {flags:#x} cannot be `{data}`")
        });
    }

    /// What is wrong with a value of the service's: all that is there is policy, which the driver reads as the table
    /// says, and which an upgrade must leave as it is.
    fn wrong_as_policy(&self) -> Option<String> {
        let Self { key, name, flags, data, .. } = self;
        if !key.eq_ignore_ascii_case("Parameters") {
            return Some(format!("the driver reads `Parameters`, and not `{key}`"));
        }
        if flags & KEY_ONLY != 0 {
            return None;
        }
        let known = Policy::ALL.iter().find(|policy| policy.name() == name);
        let fits = match known {
            _ if name == SCALING_EXCLUDE => {
                flags & TYPE_MASK == 0 && abi::cpu_list::CpuList::parse(data).is_ok()
            }
            None => return Some(format!("there is no policy `{name}`")),
            Some(policy) => {
                let fits = number(data).is_some_and(|number| policy.range().contains(&number));
                flags & TYPE_MASK == DWORD && fits
            }
        };
        match (fits, flags & NO_CLOBBER) {
            (false, _) => Some(format!("policy {name} cannot be `{data}` with flags {flags:#x}")),
            (true, 0) => {
                Some(format!("policy {name} would be set anew by each upgrade: add flag 2"))
            }
            (true, _) => None,
        }
    }
}
