//! Which section names which, from `[Manufacturer]` on.

use std::collections::HashMap;

use super::{Report, Rule};
use crate::text::{Entry, Inf, Section, number};

/// The first build of Windows that the driver is for: Server 2022.
const FIRST_BUILD: u32 = 20_348;

/// What the package has, by what names it.
#[derive(Default)]
pub(super) struct Package<'a> {
    /// Sections that say what is done to a device: `[Install.NT]`.
    pub(super) installs: Vec<&'a Section>,
    /// `[Install.NT.HW]`
    pub(super) hardware: Vec<&'a Section>,
    /// `[Install.NT.Services]`
    pub(super) services: Vec<&'a Section>,
    /// `[Install.NT.Wdf]`
    pub(super) frameworks: Vec<&'a Section>,
    /// What `CopyFiles` names.
    pub(super) copied: Vec<&'a Section>,
    /// What `AddReg` of a device names.
    pub(super) device_values: Vec<&'a Section>,
    /// What `AddReg` of `.HW` names.
    pub(super) hardware_values: Vec<&'a Section>,
    /// What `AddService` names second.
    pub(super) service_installs: Vec<&'a Section>,
    /// What `AddReg` of a service names.
    pub(super) service_values: Vec<&'a Section>,
    /// What `AddService` names third.
    pub(super) event_sources: Vec<&'a Section>,
    /// What `KmdfService` names.
    pub(super) framework_versions: Vec<&'a Section>,
    /// Every section that was named, in small letters, with the directive that did.
    named: HashMap<String, &'static str>,
}

/// Sections that Windows looks for itself.
const ROOTS: [&str; 6] = [
    "Version",
    "Manufacturer",
    "SourceDisksNames",
    "SourceDisksFiles",
    "DestinationDirs",
    "Strings",
];

/// Follows the references; tells of those that lead nowhere, and of sections that none leads to.
pub(super) fn walk<'a>(report: &mut Report<'a>) -> Package<'a> {
    let mut package = Package::default();
    let inf = report.inf;
    for install in installs(report, &mut package) {
        package.install(report, install);
    }
    for section in inf.sections() {
        let name = section.name.to_ascii_lowercase();
        let is_root = ROOTS.iter().any(|root| root.eq_ignore_ascii_case(&name));
        if super::install::told_of_section(report, section) {
            continue;
        }
        report.expect(
            is_root || package.named.contains_key(&name),
            section.line,
            Rule::SectionUnused,
            || format!("nothing leads to [{}]", section.name),
        );
    }
    package
}

/// Every device that `[Manufacturer]` leads to.
pub(super) fn models(inf: &Inf) -> impl Iterator<Item = &Entry> {
    let manufacturers =
        inf.section("Manufacturer").into_iter().flat_map(|section| &section.entries);
    let sections = manufacturers.flat_map(|entry| {
        let decorations = entry.fields.iter().skip(1);
        decorations.map(|decoration| format!("{}.{decoration}", entry.field(0)))
    });
    sections.filter_map(|name| inf.section(&name)).flat_map(|section| &section.entries)
}

/// The install sections that the models name.
fn installs<'a>(report: &mut Report<'a>, package: &mut Package<'a>) -> Vec<&'a Section> {
    let inf = report.inf;
    let mut found: Vec<&Section> = Vec::new();
    let manufacturers = inf.section("Manufacturer");
    let mut devices = 0;
    for manufacturer in manufacturers.into_iter().flat_map(|section| &section.entries) {
        let (line, models) = (manufacturer.line, manufacturer.field(0));
        let decorations = manufacturer.fields.get(1..).unwrap_or_default();
        report.expect(!decorations.is_empty(), line, Rule::Decoration, || {
            format!("[{models}] is undecorated: for every Windows there ever was")
        });
        for decoration in decorations {
            if !is_ours(decoration) {
                let what = format!("NTamd64.10.0...BUILD with a build from {FIRST_BUILD} on");
                report.tell(line, Rule::Decoration, format!("`{decoration}` is not {what}"));
                continue;
            }
            let name = format!("{models}.{decoration}");
            let Some(section) = package.section(report, line, "Manufacturer", &name) else {
                continue;
            };
            devices += section.entries.len();
            for model in &section.entries {
                install_of(report, package, model, &mut found);
            }
        }
    }
    let line = manufacturers.map_or(1, |section| section.line);
    report.expect(devices > 0, line, Rule::Devices, || "there is no device for the driver".into());
    found
}

/// The install section of a device.
fn install_of<'a>(
    report: &mut Report<'a>,
    package: &mut Package<'a>,
    model: &Entry,
    found: &mut Vec<&'a Section>,
) {
    report.expect(!model.field(1).is_empty(), model.line, Rule::Devices, || {
        "a device without a hardware ID".into()
    });
    let inf = report.inf;
    let name = model.field(0);
    let decorated = [".NTamd64", ".NT"].map(|end| format!("{name}{end}"));
    let install = decorated.iter().find_map(|name| inf.section(name));
    let Some(install) = install else {
        let text = format!("there is no [{name}.NT]");
        return report.tell(model.line, Rule::SectionMissing, text);
    };
    package.named.insert(install.name.to_ascii_lowercase(), "Models");
    if !found.iter().any(|known| known.line == install.line) {
        found.push(install);
    }
}

/// Whether a decoration is of x64 and of no Windows before [`FIRST_BUILD`].
fn is_ours(decoration: &str) -> bool {
    let start = "NTamd64.10.0...";
    let build = decoration.get(..start.len()).filter(|own| own.eq_ignore_ascii_case(start));
    let build = build.and_then(|_| decoration.get(start.len()..)).and_then(number);
    build.is_some_and(|build| build >= FIRST_BUILD)
}

impl<'a> Package<'a> {
    /// The section that `directive` names.
    fn section(
        &mut self,
        report: &mut Report<'a>,
        line: usize,
        directive: &'static str,
        name: &str,
    ) -> Option<&'a Section> {
        if name.is_empty() {
            report.tell(line, Rule::Incomplete, format!("{directive} names no section"));
            return None;
        }
        let found = report.inf.section(name);
        match (found, self.named.insert(name.to_ascii_lowercase(), directive)) {
            (None, _) => report.tell(line, Rule::SectionMissing, format!("there is no [{name}]")),
            (_, Some(before)) => {
                let text = format!("[{name}] is named by {before} and by {directive}");
                report.tell(line, Rule::SectionShared, text);
            }
            _ => {}
        }
        found
    }

    /// The sections that the entries with this key name in their fields.
    fn all(
        &mut self,
        report: &mut Report<'a>,
        of: &Section,
        directive: &'static str,
    ) -> Vec<&'a Section> {
        let entries = of.entries.iter().filter(|entry| entry.has_key(directive));
        let named = entries.flat_map(|entry| entry.fields.iter().map(|name| (entry.line, name)));
        let is_section = |name: &(usize, &String)| !name.1.starts_with('@');
        let named: Vec<_> = named.filter(is_section).collect();
        named
            .into_iter()
            .filter_map(|(line, name)| self.section(report, line, directive, name))
            .collect()
    }

    fn install(&mut self, report: &mut Report<'a>, install: &'a Section) {
        self.installs.push(install);
        let copied = self.all(report, install, "CopyFiles");
        self.copied.extend(copied);
        let values = self.all(report, install, "AddReg");
        self.device_values.extend(values);
        let inf: &'a Inf = report.inf;
        let beside = |end| inf.section(&format!("{}.{end}", install.name));
        if let Some(hardware) = beside("HW") {
            self.named.insert(hardware.name.to_ascii_lowercase(), "Models");
            let values = self.all(report, hardware, "AddReg");
            self.hardware.push(hardware);
            self.hardware_values.extend(values);
        }
        if let Some(framework) = beside("Wdf") {
            self.named.insert(framework.name.to_ascii_lowercase(), "Models");
            self.frameworks.push(framework);
            for entry in framework.entries.iter().filter(|entry| entry.has_key("KmdfService")) {
                let version = self.section(report, entry.line, "KmdfService", entry.field(1));
                self.framework_versions.extend(version);
            }
        }
        if let Some(services) = beside("Services") {
            self.named.insert(services.name.to_ascii_lowercase(), "Models");
            self.services.push(services);
            self.services_of(report, services);
        }
    }

    fn services_of(&mut self, report: &mut Report<'a>, services: &'a Section) {
        for entry in services.entries.iter().filter(|entry| entry.has_key("AddService")) {
            let service = self.section(report, entry.line, "AddService", entry.field(2));
            if let Some(service) = service {
                let values = self.all(report, service, "AddReg");
                self.service_values.extend(values);
                self.service_installs.push(service);
            }
            let events =
                self.section(report, entry.line, "AddService's event source", entry.field(3));
            self.event_sources.extend(events);
        }
    }
}
