//! The rules, and who keeps them.
//!
//! Each names its code in InfVerif, where there is one. That tool's modes `/h` (what Microsoft's signature asks for) and
//! `/w` (driver isolation) differ in what they still excuse; nothing is excused here.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/devtest/inf-validation-errors-and-warnings>, and pages
//! that the rules' own files name.

use std::fmt;

use crate::{stamp::Date, text::Inf};

mod adapter;
mod files;
mod install;
mod references;
mod registry;
mod service;
mod version;

#[cfg(test)]
mod tests;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where, from 1 on.
    pub line: usize,
    /// What was broken.
    pub rule: Rule,
    /// How.
    pub text: String,
}

macro_rules! rules {
    ($($(#[doc = $doc:literal])+ $name:ident $code:literal;)*) => {
        /// A rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Rule { $($(#[doc = $doc])+ $name,)* }

        impl Rule {
            /// Every rule.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// What InfVerif calls it; 0 where it has no such rule or its page does not say.
            #[must_use]
            pub const fn code(self) -> u16 {
                match self { $(Self::$name => $code,)* }
            }
        }
    };
}

rules! {
    /// The file is ASCII, or UTF-16 with its mark.
    Encoding 1003;
    /// A line is a section's name or an entry of a section, and quotations end.
    Syntax 1002;
    /// `Signature` is `$Windows NT$`.
    Signature 1001;
    /// The class is Net, by name and GUID.
    Class 0;
    /// There is a provider, and it is not Microsoft.
    Provider 1204;
    /// A catalog is named.
    Catalog 1233;
    /// `DriverVer` is a date that is not to come, and four numbers of 16 bits.
    DriverVer 0;
    /// `PnpLockdown` is 1: nobody but the installer changes the files.
    Lockdown 0;
    /// Models are those of x64 from Server 2022 on, and no undecorated ones.
    Decoration 0;
    /// The driver is for devices.
    Devices 1297;
    /// There is no `[DefaultInstall]` beside `[Manufacturer]`.
    DefaultInstall 1212;
    /// Files that are copied are listed, with the disk they come from.
    SourceFile 1230;
    /// Every file stays in the driver store (DIRID 13).
    Destination 1306;
    /// A file keeps its name and folder, and no two have one name.
    Renamed 1100;
    /// A section that is named is there.
    SectionMissing 1203;
    /// A section that is there is named.
    SectionUnused 2083;
    /// A section is named by one directive.
    SectionShared 1205;
    /// A directive names what it needs.
    Incomplete 1006;
    /// An entry is one that this linter knows: it does not vouch for what it cannot judge.
    Unknown 0;
    /// Nothing is said twice.
    Twice 1330;
    /// Strings that are named are there.
    StringMissing 1235;
    /// Strings that are there are named.
    StringUnused 0;
    /// No directives that change what is not the driver's own, or that Windows has given up.
    Legacy 1300;
    /// No co-installers.
    CoInstaller 1303;
    /// No section for a class of Microsoft's.
    ClassInstall 1285;
    /// No `Include` and `Needs`: what this package is stands in it.
    Included 1220;
    /// Registry values are relative to the device or the service (`HKR`).
    Root 1304;
    /// Nothing is appended to a list of strings.
    Appended 1305;
    /// A value's type is one of the registry's, and its data is of that type.
    ValueType 0;
    /// A service is the device's, and there is one.
    ServiceOfDevice 1296;
    /// The service is the one whose name driver and scripts have.
    ServiceName 0;
    /// The service is a kernel driver that is started when a device needs it.
    ServiceStart 0;
    /// The driver is run from the driver store.
    ServiceBinary 0;
    /// The framework's version is the one the driver is built for.
    Framework 0;
    /// The device's access list is a protected one that gives others no more than Windows' own does.
    Access 0;
    /// The texts of events are in a file of Windows' or of the package.
    EventSource 0;
    /// The adapter is what NetAdapterCx is told, as the driver makes it.
    Adapter 0;
    /// Keywords are those that have a meaning, with the ranges they have.
    Keyword 0;
    /// A policy value is one of the table's, within its range, and replaces none that was set.
    Policy 0;
    /// No names that are others'.
    Trademark 0;
}

impl Problem {
    /// A problem.
    #[must_use]
    pub const fn new(line: usize, rule: Rule, text: String) -> Self {
        Self { line, rule, text }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, rule, text } = self;
        write!(f, "line {line}: {rule:?}: {text}")?;
        match rule.code() {
            0 => Ok(()),
            code => write!(f, " (InfVerif {code})"),
        }
    }
}

/// Whom the rules tell.
struct Report<'a> {
    inf: &'a Inf,
    problems: Vec<Problem>,
}

impl Report<'_> {
    fn tell(&mut self, line: usize, rule: Rule, text: impl Into<String>) {
        self.problems.push(Problem::new(line, rule, text.into()));
    }

    /// Tells of it unless it holds.
    fn expect(&mut self, holds: bool, line: usize, rule: Rule, text: impl FnOnce() -> String) {
        if !holds {
            self.tell(line, rule, text());
        }
    }
}

/// The hardware IDs of the devices that an INF is for.
#[must_use]
pub fn hardware_ids(inf: &Inf) -> Vec<String> {
    references::models(inf).flat_map(|model| model.fields.iter().skip(1)).cloned().collect()
}

/// What is wrong with an INF file, in the order of its lines; `today` is the day after which nothing is dated.
#[must_use]
pub fn check(bytes: &[u8], today: Date) -> Vec<Problem> {
    let (inf, problems) = Inf::read(bytes);
    let mut report = Report { inf: &inf, problems };
    version::check(&mut report, today);
    let package = references::walk(&mut report);
    files::check(&mut report, &package);
    install::check(&mut report, &package);
    registry::check(&mut report, &package);
    service::check(&mut report, &package);
    adapter::check(&mut report, &package);
    let mut problems = report.problems;
    problems.sort_by_key(|problem| problem.line);
    problems
}
