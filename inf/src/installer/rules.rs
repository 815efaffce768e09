//! The rules of the tables, of which Windows Installer itself asks some (its ICEs), and some only we do.
//!
//! Source: <https://learn.microsoft.com/windows/win32/msi/ice-reference>, and the pages of the tables.

use std::collections::{HashMap, HashSet};
use std::fmt;

use super::{CABINET, Row, Table, Tables};

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The tables are those that are known here, with the columns they have.
    Tables,
    /// A key is there once.
    Twice,
    /// What is referred to is there.
    Missing,
    /// GUIDs are GUIDs, in upper case.
    Guid,
    /// A component has the GUID that it has always had: Windows counts who needs a component by it.
    ComponentId,
    /// A component is 64-bit, belongs to a feature, and its key path is one of its files.
    Component,
    /// It is installed for the machine, whoever installs it.
    PerMachine,
    /// No button changes or repairs it.
    Maintenance,
    /// It restarts nothing by itself.
    Restart,
    /// Standard actions are in their order, at numbers of their own.
    Sequence,
    /// An action that runs a program runs it from the script, and between its beginning and its end.
    Deferred,
    /// Such an action is undone by one before it, on the same condition, that fails quietly.
    Rollback,
    /// Such an action runs as the system.
    Impersonate,
    /// Such an action opens no window.
    Window,
    /// A path that an action is given is in quotes.
    Quotes,
    /// Older products and the same are replaced within the transaction; a newer one is left alone.
    Upgrade,
    /// It says which Windows it needs.
    Launch,
    /// A public property that something depends on can be given by whoever is not elevated yet.
    Public,
    /// The folder of programs that the system runs cannot be set.
    Folder,
    /// A version is three numbers that Windows Installer compares; a file's, four.
    Version,
    /// Files are in one embedded cabinet, in its order.
    Cabinet,
    /// The service is the one that the program is, and goes when the product does.
    Service,
    /// The source of events has a file of texts.
    EventSource,
    /// The path keeps what it had.
    Path,
    /// The summary is of a compressed package for 64-bit Windows.
    Summary,
    /// No names that are others'.
    Trademark,
}

impl Rule {
    /// Every rule.
    pub const ALL: &[Self] = &[
        Self::Tables,
        Self::Twice,
        Self::Missing,
        Self::Guid,
        Self::ComponentId,
        Self::Component,
        Self::PerMachine,
        Self::Maintenance,
        Self::Restart,
        Self::Sequence,
        Self::Deferred,
        Self::Rollback,
        Self::Impersonate,
        Self::Window,
        Self::Quotes,
        Self::Upgrade,
        Self::Launch,
        Self::Public,
        Self::Folder,
        Self::Version,
        Self::Cabinet,
        Self::Service,
        Self::EventSource,
        Self::Path,
        Self::Summary,
        Self::Trademark,
    ];
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// In which table, and row.
    pub place: String,
    /// What was broken.
    pub rule: Rule,
    /// How.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, rule, text } = self;
        write!(f, "{place}: {rule:?}: {text}")
    }
}

/// The components, with the GUIDs that they have in every version.
const COMPONENTS: &[(&str, &str)] = &[
    ("Program", "{AA461EAD-CC87-4564-A90C-D6D962916A68}"),
    ("Path", "{B17DFCE4-CA86-439C-BD66-588A43F51B8D}"),
    ("Driver", "{B4194060-37E6-4F0B-9B1A-092DDBD15929}"),
];
/// That by which versions of this product know each other.
const UPGRADE_CODE: &str = "{576EC863-694B-4CD9-8098-2C104DE573F9}";
/// What runs actions.
const WINDOWLESS: &str = "penstockw.exe";

/// The standard actions of an installation, in the order that Windows Installer asks for.
///
/// Source: <https://learn.microsoft.com/windows/win32/msi/suggested-installexecutesequence>.
const ORDER: &[&str] = &[
    "FindRelatedProducts",
    "AppSearch",
    "LaunchConditions",
    "ValidateProductID",
    "CostInitialize",
    "FileCost",
    "CostFinalize",
    "MigrateFeatureStates",
    "InstallValidate",
    "InstallInitialize",
    "RemoveExistingProducts",
    "ProcessComponents",
    "UnpublishFeatures",
    "StopServices",
    "DeleteServices",
    "RemoveRegistryValues",
    "RemoveEnvironmentStrings",
    "RemoveFiles",
    "RemoveFolders",
    "CreateFolders",
    "InstallFiles",
    "WriteRegistryValues",
    "WriteEnvironmentStrings",
    "InstallServices",
    "StartServices",
    "RegisterUser",
    "RegisterProduct",
    "PublishFeatures",
    "PublishProduct",
    "InstallFinalize",
];
/// The standard actions of other sequences.
const OTHER_ACTIONS: &[&str] = &["ExecuteAction", "InstallAdminPackage"];
const SEQUENCES: [&str; 5] = [
    "InstallExecuteSequence",
    "InstallUISequence",
    "AdvtExecuteSequence",
    "AdminExecuteSequence",
    "AdminUISequence",
];
/// A column, and the table whose key it is.
const REFERENCES: &[(&str, &str)] = &[
    ("Directory_Parent", "Directory"),
    ("Directory_", "Directory"),
    ("Feature_", "Feature"),
    ("Feature_Parent", "Feature"),
    ("Component_", "Component"),
    ("Signature_", "RegLocator"),
];

// Of an action's type.
const PROGRAM: u32 = 18;
const KIND: u32 = 63;
const CONTINUE: u32 = 64;
const ROLLBACK: u32 = 256;
const IN_SCRIPT: u32 = 1024;
const AS_SYSTEM: u32 = 2048;

struct Report<'a> {
    tables: &'a Tables,
    problems: Vec<Problem>,
}

/// What is wrong with the tables of an MSI, filled in.
#[must_use]
pub fn check(tables: &Tables) -> Vec<Problem> {
    let mut report = Report { tables, problems: Vec::new() };
    report.references();
    report.properties();
    report.components();
    report.files();
    report.sequences();
    report.actions();
    report.upgrade();
    report.service();
    report.rest();
    report.problems
}

impl<'a> Report<'a> {
    fn expect(&mut self, holds: bool, place: &str, rule: Rule, text: impl Into<String>) {
        if !holds {
            self.problems.push(Problem { place: place.to_owned(), rule, text: text.into() });
        }
    }

    fn rows(&self, table: &str) -> impl Iterator<Item = Row<'a>> + use<'a> {
        self.tables.get(table).into_iter().flat_map(Table::rows)
    }

    fn row(&self, table: &str, name: &str) -> Option<Row<'a>> {
        self.rows(table).find(|row| row.name() == name)
    }

    fn property(&self, name: &str) -> &'a str {
        self.row("Property", name).map_or("", |row| row.get("Value"))
    }

    /// Where an action is in the sequence of an installation.
    fn sequence(&self, action: &str) -> Option<u32> {
        self.row("InstallExecuteSequence", action).map(|row| row.number("Sequence"))
    }

    fn references(&mut self) {
        let template = super::read(super::TEMPLATE).unwrap_or_default();
        for name in template.keys() {
            let same = self.tables.get(name).map(|table| &table.columns)
                == template.get(name).map(|table| &table.columns);
            self.expect(same, name, Rule::Tables, "it is not there as it is known here");
        }
        for (name, table) in self.tables {
            self.expect(template.contains_key(name), name, Rule::Tables, "nobody judges it");
            let mut keys = HashSet::new();
            for row in table.rows() {
                let place = format!("{name}: {}", row.name());
                let fields = table.columns.iter().zip(row.fields);
                let key: Vec<_> =
                    fields.filter(|(column, _)| column.is_key).map(|(_, field)| field).collect();
                self.expect(keys.insert(key), &place, Rule::Twice, "its key is another's, too");
                for (column, of) in REFERENCES {
                    let to = row.get(column);
                    let there = to.is_empty() || self.row(of, to).is_some();
                    self.expect(there, &place, Rule::Missing, format!("there is no {of} {to}"));
                }
            }
        }
    }

    fn properties(&mut self) {
        for (name, value, rule, why) in [
            ("ALLUSERS", "1", Rule::PerMachine, "it is installed for one user"),
            ("ARPNOMODIFY", "1", Rule::Maintenance, "it can be changed by a button"),
            ("ARPNOREPAIR", "1", Rule::Maintenance, "users can have actions run as the system"),
            ("REBOOT", "ReallySuppress", Rule::Restart, "it may restart the machine"),
            ("MSIRESTARTMANAGERCONTROL", "Disable", Rule::Restart, "it may end other programs"),
            ("UpgradeCode", UPGRADE_CODE, Rule::Upgrade, "older products have another"),
        ] {
            self.expect(self.property(name) == value, &format!("Property: {name}"), rule, why);
        }
        let guids = ["ProductCode", "UpgradeCode"].map(|name| self.property(name));
        for guid in guids {
            self.expect(is_guid(guid), "Property", Rule::Guid, format!("{guid} is none"));
        }
        let version = self.property("ProductVersion");
        let numbers: Vec<u32> = version.split('.').filter_map(|part| part.parse().ok()).collect();
        let fits = matches!(numbers[..], [0..=255, 0..=255, 0..=65_535]);
        self.expect(
            fits && version.split('.').count() == 3,
            "Property: ProductVersion",
            Rule::Version,
            format!("{version}: two numbers up to 255 and one up to 65535"),
        );
        let secure: Vec<_> = self.property("SecureCustomProperties").split(';').collect();
        let own = self.rows("Property").map(Row::name);
        let found = self.rows("Upgrade").map(|row| row.get("ActionProperty"));
        let given: Vec<_> = own.filter(|name| name.starts_with("PENSTOCK_")).chain(found).collect();
        for name in &given {
            let text = "it is not in SecureCustomProperties";
            self.expect(secure.contains(name), &format!("Property: {name}"), Rule::Public, text);
        }
        for name in secure {
            let text = format!("{name} is no property of ours");
            self.expect(given.contains(&name), "SecureCustomProperties", Rule::Public, text);
        }
    }

    fn components(&mut self) {
        for row in self.rows("Component") {
            let (place, id) = (format!("Component: {}", row.name()), row.get("ComponentId"));
            self.expect(is_guid(id), &place, Rule::Guid, format!("{id} is none"));
            let known = COMPONENTS.contains(&(row.name(), id));
            self.expect(known, &place, Rule::ComponentId, format!("{id} is not what it has had"));
            let of_key = self.row("File", row.get("KeyPath")).map(|file| file.get("Component_"));
            let holds = row.get("KeyPath").is_empty() || of_key == Some(row.name());
            self.expect(holds, &place, Rule::Component, "its key path is no file of its own");
            self.expect(row.number("Attributes") == 256, &place, Rule::Component, "it is 32-bit");
            let mut features = self.rows("FeatureComponents");
            let used = features.any(|used| used.get("Component_") == row.name());
            self.expect(used, &place, Rule::Component, "no feature has it");
            let folder = row.get("Directory_");
            let public = folder.chars().all(|letter| !letter.is_lowercase());
            let text = format!("{folder} can be set to where users may write");
            self.expect(!public, &place, Rule::Folder, text);
        }
        let mut parents = HashMap::new();
        for row in self.rows("Directory") {
            parents.insert(row.name(), row.get("Directory_Parent"));
        }
        let below = parents.get("PenstockFolder").copied();
        let text = "programs are not below those of 64-bit Windows";
        let holds = below == Some("ProgramFiles64Folder");
        self.expect(holds, "Directory: PenstockFolder", Rule::Folder, text);
    }

    fn files(&mut self) {
        let mut last = 0;
        let mut rows: Vec<_> = self.rows("File").collect();
        rows.sort_by_key(|row| row.number("Sequence"));
        for (row, wanted) in rows.into_iter().zip(1..) {
            let place = format!("File: {}", row.name());
            last = row.number("Sequence");
            self.expect(
                last == wanted,
                &place,
                Rule::Cabinet,
                format!("it is not number {wanted}"),
            );
            let (long, version) = (row.get("FileName").split('|').next_back(), row.get("Version"));
            let text = "its name in the cabinet is another";
            self.expect(long == Some(row.name()), &place, Rule::Cabinet, text);
            let is_four =
                version.split('.').filter(|part| part.parse::<u16>().is_ok()).count() == 4;
            let is_image = [".exe", ".sys"].iter().any(|end| row.name().ends_with(end));
            let text = format!("`{version}`: an image has four numbers, another file none");
            self.expect(is_image == is_four, &place, Rule::Version, text);
            self.expect(row.number("FileSize") > 0, &place, Rule::Cabinet, "it is empty");
        }
        let wanted = format!("#{CABINET}");
        let media: Vec<_> = self.rows("Media").collect();
        let one = matches!(media[..], [row] if row.get("Cabinet") == wanted && row.number("LastSequence") == last);
        self.expect(one, "Media", Rule::Cabinet, format!("it is not {wanted} with {last} files"));
    }

    fn sequences(&mut self) {
        for table in SEQUENCES {
            let mut rows: Vec<_> = self.rows(table).collect();
            rows.sort_by_key(|row| row.number("Sequence"));
            let mut before: Option<(&str, u32, usize)> = None;
            for row in rows {
                let (name, number) = (row.name(), row.number("Sequence"));
                let place = format!("{table}: {name}");
                let free = number > 0 && before.is_none_or(|(_, other, _)| other != number);
                self.expect(
                    free,
                    &place,
                    Rule::Sequence,
                    format!("{number} is no number of its own"),
                );
                let position = ORDER.iter().position(|known| *known == name);
                let known = position.is_some()
                    || OTHER_ACTIONS.contains(&name)
                    || self.row("CustomAction", name).is_some();
                self.expect(known, &place, Rule::Missing, "there is no such action");
                let last = before.map_or(0, |(.., position)| position);
                if let Some((other, ..)) = before {
                    let holds = position.is_none_or(|position| position >= last);
                    self.expect(holds, &place, Rule::Sequence, format!("it comes after {other}"));
                }
                before = Some((name, number, position.unwrap_or(last)));
            }
        }
        for action in ORDER {
            let there = self.sequence(action).is_some();
            self.expect(there, "InstallExecuteSequence", Rule::Sequence, format!("no {action}"));
        }
    }

    fn actions(&mut self) {
        let between = self.sequence("InstallInitialize")..self.sequence("InstallFinalize");
        for row in self.rows("CustomAction") {
            let (name, kind) = (row.name(), row.number("Type"));
            let place = format!("CustomAction: {name}");
            let at = self.sequence(name);
            let holds = kind & KIND == PROGRAM && kind & IN_SCRIPT != 0 && between.contains(&at);
            let text = "it is no program that is run from the script";
            self.expect(holds, &place, Rule::Deferred, text);
            self.expect(kind & AS_SYSTEM != 0, &place, Rule::Impersonate, "it runs as the user");
            let text = format!("it runs {}", row.get("Source"));
            self.expect(row.get("Source") == WINDOWLESS, &place, Rule::Window, text);
            let there = self.row("File", row.get("Source")).is_some();
            self.expect(there, &place, Rule::Missing, "there is no such file");
            self.quoted(&place, row.get("Target"));
            if kind & ROLLBACK != 0 {
                let text = "that it fails would end the rollback";
                self.expect(kind & CONTINUE != 0, &place, Rule::Rollback, text);
                continue;
            }
            let condition = |action: &str| {
                self.row("InstallExecuteSequence", action).map(|row| row.get("Condition"))
            };
            let undo = format!("{name}Undo");
            let is_rollback = self
                .row("CustomAction", &undo)
                .is_some_and(|undo| undo.number("Type") & ROLLBACK != 0);
            let before = at.zip(self.sequence(&undo)).is_some_and(|(at, undo)| undo < at);
            let text = format!("{undo}, a rollback on the same condition, is not before it");
            let holds = is_rollback && before && condition(name) == condition(&undo);
            self.expect(holds, &place, Rule::Rollback, text);
        }
        // A program that is run must be there: after it came, or before it goes.
        let files = (self.sequence("RemoveFiles"), self.sequence("InstallFiles"));
        for (action, holds) in [
            ("DriverRemove", self.sequence("DriverRemove") < files.0),
            ("DriverUpgrade", self.sequence("DriverUpgrade") < files.0),
            ("DriverInstall", self.sequence("DriverInstall") > files.1),
            ("DriverRemove", self.sequence("DriverRemove") > self.sequence("StopServices")),
            ("DriverUpgrade", self.sequence("DriverUpgrade") > self.sequence("StopServices")),
            ("DriverInstall", self.sequence("DriverInstall") < self.sequence("StartServices")),
        ] {
            let place = format!("InstallExecuteSequence: {action}");
            self.expect(
                holds,
                &place,
                Rule::Sequence,
                "files or services are not yet or no more there",
            );
        }
    }

    /// A property in brackets may be a path with spaces.
    fn quoted(&mut self, place: &str, line: &str) {
        let quoted = line.split('"').step_by(2).all(|outside| !outside.contains('['));
        self.expect(
            quoted,
            place,
            Rule::Quotes,
            format!("{line}: what is in brackets is in no quotes"),
        );
    }

    fn upgrade(&mut self) {
        let version = self.property("ProductVersion");
        let rows: Vec<_> = self.rows("Upgrade").collect();
        let holds = rows.iter().all(|row| row.name() == UPGRADE_CODE);
        self.expect(holds, "Upgrade", Rule::Upgrade, "it is of another product");
        let (mut older, mut newer) = (false, false);
        for row in rows {
            let (from, to) = (row.get("VersionMin"), row.get("VersionMax"));
            let flags = row.number("Attributes");
            // 1 features are kept, 2 only found, 256 and 512 with the versions themselves.
            older |= (from, to, flags) == ("0.0.0", version, 1 | 256 | 512);
            newer |= (from, to, flags) == (version, "", 2);
        }
        self.expect(older, "Upgrade", Rule::Upgrade, "older products stay");
        self.expect(newer, "Upgrade", Rule::Upgrade, "a newer product is not found");
        let after = self.sequence("RemoveExistingProducts").zip(self.sequence("InstallInitialize"));
        let text = "an old product is not removed first, within the transaction";
        let place = "InstallExecuteSequence: RemoveExistingProducts";
        self.expect(
            after.is_some_and(|(remove, begin)| remove == begin + 1),
            place,
            Rule::Upgrade,
            text,
        );
        let conditions: Vec<_> = self.rows("LaunchCondition").map(Row::name).collect();
        for (wanted, rule) in [
            ("VersionNT64", Rule::Launch),
            ("(WINDOWS_BUILD >= 20348)", Rule::Launch),
            ("(NOT NEWER_FOUND)", Rule::Upgrade),
        ] {
            let there = conditions.contains(&&*format!("Installed OR {wanted}"));
            self.expect(there, "LaunchCondition", rule, format!("{wanted} is not asked for"));
        }
        let build = self.row("RegLocator", "WindowsBuild");
        let found = build.is_some_and(|row| {
            (row.get("Name"), row.get("Type"), row.get("Root")) == ("CurrentBuildNumber", "18", "2")
        });
        self.expect(found, "RegLocator", Rule::Launch, "Windows' build is not read");
    }

    fn service(&mut self) {
        let services: Vec<_> = self.rows("ServiceInstall").collect();
        let holds = matches!(services[..], [row] if [row.get("Name"), row.get("Arguments"), row.get("StartName"),
            row.get("ServiceType"), row.get("StartType"), row.get("ErrorControl")]
            == ["PenstockManager", "service manager", "", "16", "2", "32769"]);
        let text =
            "it is not the manager, a process of its own, started with Windows as the system";
        self.expect(holds, "ServiceInstall", Rule::Service, text);
        for row in services {
            let program = self.row("Component", row.get("Component_"));
            let holds = program.is_some_and(|row| row.get("KeyPath") == "penstock.exe");
            self.expect(
                holds,
                "ServiceInstall",
                Rule::Service,
                "it is not penstock.exe that it runs",
            );
            let events = self.rows("ServiceControl").filter(|of| of.get("Name") == row.get("Name"));
            let event = events.fold(0, |all, row| all | row.number("Event"));
            let text = "it is not started, stopped and deleted with the product";
            self.expect(event == 1 | 2 | 32 | 128, "ServiceControl", Rule::Service, text);
        }
    }

    fn rest(&mut self) {
        const SOURCE: &str = r"SYSTEM\CurrentControlSet\Services\EventLog\Application\Penstock";
        for (name, value) in [("EventMessageFile", "#%[#penstock.exe]"), ("TypesSupported", "#7")] {
            let mut rows = self.rows("Registry");
            let there = rows.any(|row| {
                (row.get("Root"), row.get("Key"), row.get("Name"), row.get("Value"))
                    == ("2", SOURCE, name, value)
            });
            self.expect(there, "Registry", Rule::EventSource, format!("{name} is not {value}"));
        }
        for row in self.rows("Environment") {
            let holds = (row.get("Name"), row.get("Value")) == ("=-*PATH", "[~];[PenstockFolder]");
            self.expect(
                holds,
                "Environment",
                Rule::Path,
                "it replaces what others wrote, or stays",
            );
        }
        for (id, value) in [("7", "x64;1033"), ("14", "500"), ("15", "2"), ("19", "2")] {
            let found = self.row("_SummaryInformation", id).map_or("", |row| row.get("Value"));
            let text = format!("{id} is `{found}`, not {value}");
            self.expect(found == value, "_SummaryInformation", Rule::Summary, text);
        }
        let package = self.row("_SummaryInformation", "9").map_or("", |row| row.get("Value"));
        self.expect(
            is_guid(package),
            "_SummaryInformation",
            Rule::Guid,
            format!("{package} is none"),
        );
        for (name, table) in self.tables {
            for field in table.rows.iter().flatten() {
                let theirs = ["wireguard", "wintun"]
                    .iter()
                    .any(|name| field.to_ascii_lowercase().contains(name));
                self.expect(!theirs, name, Rule::Trademark, field.clone());
            }
        }
    }
}

fn is_guid(text: &str) -> bool {
    let inner = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')).unwrap_or_default();
    let lengths: Vec<_> = inner.split('-').map(str::len).collect();
    let digit = |letter: char| matches!(letter, '0'..='9' | 'A'..='F' | '-');
    lengths == [8, 4, 4, 4, 12] && inner.chars().all(digit)
}
