//! What policy comes to on this machine: Group Policy over what the administrator set, over the default.
//!
//! A value that is none is refused by itself, and the next that has something to say is asked. No value holds a secret.

use std::{fmt, io};

use abi::cpu_list::CpuList;
use abi::policy::{Row, ServicePolicy, TextPolicy};

use crate::service::events::Level;

pub mod allowed;
pub mod engine;
pub mod tunnel;

/// Where Group Policy writes, below HKEY_LOCAL_MACHINE: only administrators may, and it goes when the policy does.
pub const GROUP: &str = r"SOFTWARE\Policies\Penstock";
/// Where an administrator does.
pub const LOCAL: &str = r"SOFTWARE\Penstock";

/// A value of the registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A REG_DWORD.
    Dword(u32),
    /// A REG_SZ.
    Text(String),
    /// Any other.
    Other,
}

/// Where values are read.
pub trait Registry {
    /// The value `name` of `key`, if there is one.
    ///
    /// # Errors
    ///
    /// Whatever reading says.
    fn value(&self, key: &str, name: &str) -> io::Result<Option<Value>>;
}

/// Nothing is set.
pub struct NoRegistry;

impl Registry for NoRegistry {
    fn value(&self, _: &str, _: &str) -> io::Result<Option<Value>> {
        Ok(None)
    }
}

impl tunnel::Listed for NoRegistry {
    fn names(&self, _: &str) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }
}

/// Who said what a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// Group Policy ([`GROUP`]).
    Group,
    /// The administrator of this machine ([`LOCAL`]).
    Local,
    /// Nobody.
    Default,
}

impl fmt::Display for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Group => r"Group Policy, HKLM\SOFTWARE\Policies\Penstock",
            Self::Local => r"this machine, HKLM\SOFTWARE\Penstock",
            Self::Default => "the default",
        })
    }
}

/// What a value comes to.
#[derive(Debug, PartialEq, Eq)]
pub struct Effective<V> {
    /// What it is.
    pub value: V,
    /// Who said so.
    pub from: From,
    /// Who was not listened to, and why.
    pub refused: Vec<(From, String)>,
}

impl<V: fmt::Display> fmt::Display for Effective<V> {
    /// Indented lines, for a person.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "  here: {} (from {})", self.value, self.from)?;
        self.refused
            .iter()
            .try_for_each(|(from, why)| writeln!(f, "  refused: {why} (from {from})"))
    }
}

/// What a number comes to.
pub fn number(row: &Row, registry: &impl Registry) -> Effective<u32> {
    let (range, default) = (&row.range, row.default);
    effective(registry, row.name, default, |value| match value {
        Value::Dword(number) if range.contains(number) => Ok(*number),
        Value::Dword(number) => {
            let (least, most) = (range.start(), range.end());
            Err(format!("{number} is not from {least} to {most}, default {default}"))
        }
        _ => Err("it is no REG_DWORD".to_owned()),
    })
}

/// Whether the commands of tunnels' files are run.
pub fn runs_scripts(registry: &impl Registry) -> bool {
    number(&ServicePolicy::DangerousScriptExecution.row(), registry).value == 1
}

/// Whether Network Configuration Operators may see how tunnels do.
pub fn limited_operators(registry: &impl Registry) -> bool {
    number(&ServicePolicy::LimitedOperators.row(), registry).value == 1
}

/// Whether events of this level are told.
pub fn is_told(level: Level, registry: &impl Registry) -> bool {
    let told = number(&ServicePolicy::EventLogLevel.row(), registry).value;
    told >= match level {
        Level::Error => 0,
        Level::Warning => 1,
        Level::Information => 2,
    }
}

/// When packets are kept from leaving beside a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KillSwitch {
    /// Never.
    Never,
    /// Where a default route goes through it.
    DefaultRoute,
    /// Always.
    Always,
}

/// When packets are kept from leaving beside tunnels.
pub fn kill_switch(registry: &impl Registry) -> KillSwitch {
    match number(&ServicePolicy::KillSwitch.row(), registry).value {
        0 => KillSwitch::Never,
        1 => KillSwitch::DefaultRoute,
        _ => KillSwitch::Always,
    }
}

/// What a text comes to, as it is written.
pub fn text(policy: TextPolicy, registry: &impl Registry) -> Effective<String> {
    if matches!(policy, TextPolicy::AllowedInterfaces | TextPolicy::AllowedEndpoints) {
        return allowed::shown(policy, registry);
    }
    effective(registry, policy.name(), policy.default().to_owned(), |value| match value {
        Value::Text(text) => check_text(policy, text).map(|()| text.clone()),
        _ => Err("it is no REG_SZ".to_owned()),
    })
}

/// Whether a text is one that the value takes.
///
/// # Errors
///
/// What it would have to be.
pub fn check_text(policy: TextPolicy, text: &str) -> Result<(), String> {
    if text.chars().count() > policy.longest() {
        return Err(format!("it has more than {} characters", policy.longest()));
    }
    let is_one = match policy {
        TextPolicy::ScalingExclude => CpuList::parse(text).is_ok(),
        TextPolicy::ConfigurationFolder => is_folder(text),
        TextPolicy::AllowedInterfaces | TextPolicy::AllowedEndpoints => {
            return allowed::check(policy, text);
        }
    };
    if is_one { Ok(()) } else { Err(format!("it is not {}", policy.form())) }
}

/// A folder of a drive, named whole: `D:\\Tunnels`, and not the drive itself.
fn is_folder(text: &str) -> bool {
    let is_part = |part: &str| {
        !part.trim_matches(['.', ' ']).is_empty()
            && !part.contains(|letter: char| letter.is_control() || r#"/:*?"<>|"#.contains(letter))
    };
    match text.split_once(r":\") {
        Some((drive, path)) => {
            drive.len() == 1
                && drive.bytes().all(|letter| letter.is_ascii_alphabetic())
                && path.split('\\').all(is_part)
        }
        None => false,
    }
}

fn effective<V>(
    registry: &impl Registry,
    name: &str,
    default: V,
    read: impl Fn(&Value) -> Result<V, String>,
) -> Effective<V> {
    let mut refused = Vec::new();
    for (from, key) in [(From::Group, GROUP), (From::Local, LOCAL)] {
        let value = match registry.value(key, name) {
            Ok(None) => continue,
            Ok(Some(value)) => read(&value),
            Err(error) => Err(crate::words::said(&error)),
        };
        match value {
            Ok(value) => return Effective { value, from, refused },
            Err(why) => refused.push((from, why)),
        }
    }
    Effective { value: default, from: From::Default, refused }
}

#[cfg(test)]
mod tests {
    use abi::policy::Policy;

    use super::*;

    struct Set(Vec<(&'static str, &'static str, Value)>);

    impl Registry for Set {
        fn value(&self, key: &str, name: &str) -> io::Result<Option<Value>> {
            let found = self.0.iter().find(|(at, of, _)| (*at, *of) == (key, name));
            Ok(found.map(|(.., value)| value.clone()))
        }
    }

    #[test]
    fn group_policy_is_over_local_over_the_default() {
        let group = || (GROUP, "Mtu", Value::Dword(1300));
        let local = || (LOCAL, "Mtu", Value::Dword(1280));
        for (set, value, from) in [
            (vec![], 1420, From::Default),
            (vec![local()], 1280, From::Local),
            (vec![local(), group()], 1300, From::Group),
        ] {
            let read = number(&Policy::Mtu.row(), &Set(set));
            assert_eq!(read, Effective { value, from, refused: vec![] });
        }
    }

    #[test]
    fn commands_are_run_where_policy_says_so_alone() {
        let value = |from, number| (from, "DangerousScriptExecution", Value::Dword(number));
        for (set, runs) in [
            (vec![], false),
            (vec![value(LOCAL, 1)], true),
            (vec![value(LOCAL, 1), value(GROUP, 0)], false),
            (vec![value(GROUP, 1)], true),
            (vec![value(GROUP, 2)], false),
        ] {
            assert_eq!(runs_scripts(&Set(set)), runs);
        }
    }

    #[test]
    fn what_is_no_value_is_refused_alone() {
        let set = Set(vec![
            (GROUP, "Mtu", Value::Dword(9000)),
            (LOCAL, "Mtu", Value::Dword(1280)),
            (LOCAL, "SimdCap", Value::Text("4".to_owned())),
            (GROUP, "ScalingExclude", Value::Dword(1)),
            (LOCAL, "ScalingExclude", Value::Text("0-1, 1:3".to_owned())),
        ]);
        assert_eq!(
            number(&Policy::Mtu.row(), &set).to_string(),
            "  here: 1280 (from this machine, HKLM\\SOFTWARE\\Penstock)\n  refused: 9000 is not from 576 to 1968, \
             default 1420 (from Group Policy, HKLM\\SOFTWARE\\Policies\\Penstock)\n"
        );
        assert_eq!(
            number(&Policy::SimdCap.row(), &set).to_string(),
            "  here: 4 (from the default)\n  refused: it is no REG_DWORD (from this machine, HKLM\\SOFTWARE\\Penstock)\n"
        );
        let excluded = text(TextPolicy::ScalingExclude, &set);
        assert_eq!((&*excluded.value, excluded.from), ("0-1, 1:3", From::Local));
        assert_eq!(excluded.refused.len(), 1);
    }

    #[test]
    fn a_folder_is_of_a_drive_and_named_whole() {
        let is_one = |text: &str| check_text(TextPolicy::ConfigurationFolder, text).is_ok();
        assert!(is_one(r"D:\Tunnels") && is_one(r"c:\Program Files\Our tunnels"));
        let long = format!(r"C:\{}", "x".repeat(200));
        for text in [
            "",
            "D:",
            r"D:\",
            r"D:\Tunnels\",
            r"D:\a\..\b",
            r"\\server\share\x",
            r"D:Tunnels",
            r"D:\a:b",
            "/etc",
            &long,
        ] {
            assert!(!is_one(text), "{text}");
        }
    }

    #[test]
    fn a_list_that_allows_is_shown_with_what_is_wrong() {
        let set = Set(vec![
            (GROUP, "AllowedInterfaces", Value::Text("office, a b".to_owned())),
            (GROUP, "AllowedEndpoints", Value::Dword(1)),
            (LOCAL, "AllowedEndpoints", Value::Text("a".to_owned())),
        ]);
        let interfaces = text(TextPolicy::AllowedInterfaces, &set);
        assert_eq!((&*interfaces.value, interfaces.from), ("office, a b", From::Group));
        assert_eq!(interfaces.refused.len(), 1);
        let endpoints = text(TextPolicy::AllowedEndpoints, &set);
        assert_eq!((&*endpoints.value, endpoints.from), ("nothing", From::Group));
        assert_eq!(kill_switch(&set), KillSwitch::DefaultRoute);
    }

    #[test]
    fn events_are_told_from_the_level_on_that_policy_says() {
        for (set, told) in [
            (vec![], [true, true, true]),
            (vec![(LOCAL, "EventLogLevel", Value::Dword(1))], [true, true, false]),
            (vec![(GROUP, "EventLogLevel", Value::Dword(0))], [true, false, false]),
            (vec![(GROUP, "EventLogLevel", Value::Dword(3))], [true, true, true]),
        ] {
            let set = Set(set);
            let levels = [Level::Error, Level::Warning, Level::Information];
            assert_eq!(levels.map(|level| is_told(level, &set)), told);
        }
    }
}
