//! The driver's service, its framework, its event source, and who may open the device.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/install/inf-addservice-directive>.

use super::{Report, Rule, references::Package, registry::Value};
use crate::{SERVICE, text::Section};

/// `SPSVCINST_ASSOCSERVICE`: the service is that of the device.
const OF_THE_DEVICE: &str = "2";
/// The version of KMDF that the driver binds.
const KMDF: &str = "1.31";
/// `SDDL_DEVOBJ_SYS_ALL_ADM_RWX_WORLD_RW_RES_R`, which NetAdapterCx gives a device that names none: with less, programs
/// cannot ask the adapter what any network adapter is asked.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/netcx/netadaptercx-limitations>, and `wdmsec.h`.
const ACCESS: &str = "D:P(A;;GA;;;SY)(A;;GRGWGX;;;BA)(A;;GRGW;;;WD)(A;;GR;;;RC)";

pub(super) fn check(report: &mut Report<'_>, package: &Package<'_>) {
    for install in &package.installs {
        let name = format!("{}.Services", install.name);
        let has_service = package.services.iter().any(|services| {
            services.name.eq_ignore_ascii_case(&name)
                && services.entries.iter().any(|entry| entry.has_key("AddService"))
        });
        report.expect(has_service, install.line, Rule::ServiceOfDevice, || {
            format!("[{name}] with an AddService is missing")
        });
    }
    for entry in package.services.iter().flat_map(|section| &section.entries) {
        if !entry.has_key("AddService") {
            continue;
        }
        report.expect(entry.field(0) == SERVICE, entry.line, Rule::ServiceName, || {
            format!("service `{}` is not `{SERVICE}`", entry.field(0))
        });
        report.expect(entry.field(1) == OF_THE_DEVICE, entry.line, Rule::ServiceOfDevice, || {
            format!("flags `{}`, and not {OF_THE_DEVICE} alone", entry.field(1))
        });
    }
    for service in &package.service_installs {
        start(report, service);
    }
    framework(report, package);
    access(report, package);
    for source in &package.event_sources {
        event_source(report, source);
    }
}

fn start(report: &mut Report<'_>, service: &Section) {
    for (key, value, what) in [
        ("ServiceType", "1", "a kernel driver"),
        (
            "StartType",
            "3",
            "started on demand: a driver that is wrong must not stop the machine from starting",
        ),
        ("ErrorControl", "1", "told of, if it does not start"),
    ] {
        let entry = service.entry(key);
        let is = entry.is_some_and(|entry| entry.field(0) == value);
        let line = entry.map_or(service.line, |entry| entry.line);
        report.expect(is, line, Rule::ServiceStart, || format!("{key} is not {value}, {what}"));
    }
    let entry = service.entry("ServiceBinary");
    let binary = entry.map_or("", |entry| entry.field(0));
    let files = report.inf.section("SourceDisksFiles");
    let in_store = binary
        .strip_prefix(r"%13%\")
        .is_some_and(|file| files.is_some_and(|files| files.entry(file).is_some()));
    let line = entry.map_or(service.line, |entry| entry.line);
    report.expect(in_store, line, Rule::ServiceBinary, || {
        format!(r"`{binary}` is no file of the package in the driver store (%13%\)")
    });
}

fn framework(report: &mut Report<'_>, package: &Package<'_>) {
    for install in &package.installs {
        let name = format!("{}.Wdf", install.name);
        let has = package.frameworks.iter().any(|section| section.name.eq_ignore_ascii_case(&name));
        report.expect(has, install.line, Rule::Framework, || format!("[{name}] is missing"));
    }
    for entry in package.frameworks.iter().flat_map(|section| &section.entries) {
        report.expect(entry.field(0) == SERVICE, entry.line, Rule::Framework, || {
            format!("`{}` is not the service, `{SERVICE}`", entry.field(0))
        });
    }
    for version in &package.framework_versions {
        let said = version.entry("KmdfLibraryVersion").map_or("", |entry| entry.field(0));
        report.expect(said == KMDF, version.line, Rule::Framework, || {
            format!("KMDF `{said}` is not {KMDF}, which the driver is built for")
        });
    }
}

fn access(report: &mut Report<'_>, package: &Package<'_>) {
    let entries = package.hardware_values.iter().flat_map(|section| &section.entries);
    let values: Vec<_> = entries.map(|entry| Value::read(report, entry)).collect();
    let security = values.iter().find(|value| value.name.eq_ignore_ascii_case("Security"));
    let line = security.map_or(1, |value| value.line);
    let list = security.map_or("", |value| &value.data);
    report.expect(list == ACCESS, line, Rule::Access, || format!("`{list}` is not {ACCESS}"));
}

fn event_source(report: &mut Report<'_>, source: &Section) {
    let values: Vec<_> = source.entries.iter().map(|entry| Value::read(report, entry)).collect();
    let value = |name: &str| values.iter().find(|value| value.name.eq_ignore_ascii_case(name));
    let (windows, package) = (r"%SystemRoot%\System32\", r"%13%\");
    let has_texts = value("EventMessageFile").is_some_and(|value| {
        let file = value.data.strip_prefix(windows).or_else(|| value.data.strip_prefix(package));
        value.flags == 0x2_0000
            && file.is_some_and(|file| !file.is_empty() && !file.contains(['\\', '%']))
    });
    report.expect(has_texts, source.line, Rule::EventSource, || {
        format!("EventMessageFile is no expandable text (0x20000) below {windows} or {package}")
    });
    let has_types = value("TypesSupported").is_some_and(|value| value.data == "7");
    report.expect(has_types, source.line, Rule::EventSource, || {
        "TypesSupported is not 7: errors, warnings, information".into()
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the driver is built against is in the workspace's manifest.
    #[test]
    fn the_framework_is_that_of_the_build() {
        let (_, model) =
            include_str!("../../../Cargo.toml").split_once("driver-type = \"KMDF\"").unwrap();
        let number = |name: &str| {
            let (_, rest) = model.split_once(&format!("{name} = ")).unwrap();
            rest.lines().next().unwrap()
        };
        let built =
            format!("{}.{}", number("kmdf-version-major"), number("target-kmdf-version-minor"));
        assert_eq!(KMDF, built);
    }
}
