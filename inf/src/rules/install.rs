//! What an install section may say, and what no INF of this kind may.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/install/using-a-universal-inf-file>, and driver isolation.

use super::{Report, Rule, references::Package};
use crate::{keywords, text::Section};

/// Directives that reach beyond the package, or that Windows no longer follows.
const LEGACY: [&str; 15] = [
    "BitReg",
    "DelFiles",
    "DelProperty",
    "DelReg",
    "DelService",
    "Ini2Reg",
    "LogConfig",
    "ProfileItems",
    "Reboot",
    "RegisterDlls",
    "RenFiles",
    "Restart",
    "UnregisterDlls",
    "UpdateIniFields",
    "UpdateInis",
];

/// Tells of sections that no such INF has; whether this is one.
pub(super) fn told_of_section(report: &mut Report<'_>, section: &Section) -> bool {
    let name = section.name.to_ascii_lowercase();
    let (rule, text) = if name.starts_with("classinstall32") {
        (Rule::ClassInstall, "the class is Microsoft's")
    } else if name.starts_with("defaultinstall") {
        (Rule::DefaultInstall, "the INF has a [Manufacturer]")
    } else if name.ends_with(".coinstallers") {
        (Rule::CoInstaller, "there are no co-installers any more")
    } else if name.contains(".logconfigoverride") {
        (Rule::Legacy, "it is not followed any more")
    } else {
        return false;
    };
    report.tell(section.line, rule, format!("[{}]: {text}", section.name));
    true
}

pub(super) fn check(report: &mut Report<'_>, package: &Package<'_>) {
    let adapter: Vec<&str> = keywords::ADAPTER.iter().map(|(name, _)| *name).collect();
    let of_install = [&["CopyFiles", "AddReg"][..], &adapter].concat();
    known(report, &package.installs, &of_install);
    known(report, &package.hardware, &["AddReg"]);
    known(report, &package.services, &["AddService"]);
    known(report, &package.frameworks, &["KmdfService"]);
    known(report, &package.framework_versions, &["KmdfLibraryVersion"]);
    let of_service =
        ["DisplayName", "ServiceType", "StartType", "ErrorControl", "ServiceBinary", "AddReg"];
    known(report, &package.service_installs, &of_service);
}

/// Tells of directives that are not among the known ones of this kind of section.
fn known(report: &mut Report<'_>, sections: &[&Section], known: &[&str]) {
    for entry in sections.iter().flat_map(|section| &section.entries) {
        if known.iter().any(|known| entry.has_key(known)) {
            continue;
        }
        let key = entry.key.as_deref().unwrap_or_default();
        let is = |names: &[&str]| names.iter().any(|name| key.eq_ignore_ascii_case(name));
        let rule = if is(&LEGACY) {
            Rule::Legacy
        } else if is(&["Include", "Needs"]) {
            Rule::Included
        } else {
            Rule::Unknown
        };
        report.tell(entry.line, rule, format!("`{key}` does not belong here"));
    }
}
