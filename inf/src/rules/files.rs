//! Files: where they come from, where they stay.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/develop/driver-isolation>, "Run From Driver Store".

use super::{Report, Rule, references::Package};
use crate::text::{Entry, Section};

/// The driver store.
const DRIVER_STORE: &str = "13";

pub(super) fn check(report: &mut Report<'_>, package: &Package<'_>) {
    let inf = report.inf;
    let entries = |name| inf.section(name).map_or(&[][..], |section: &Section| &section.entries);
    for entry in entries("DestinationDirs") {
        report.expect(entry.field(0) == DRIVER_STORE, entry.line, Rule::Destination, || {
            format!("DIRID {} is not the driver store, {DRIVER_STORE}", entry.field(0))
        });
        // The folder there must be the folder here: ours has none.
        report.expect(entry.field(1).is_empty(), entry.line, Rule::Renamed, || {
            format!("files are put into `{}`, and come from no folder", entry.field(1))
        });
    }
    let has_default =
        entries("DestinationDirs").iter().any(|entry| entry.has_key("DefaultDestDir"));
    report.expect(has_default, 1, Rule::Destination, || "there is no DefaultDestDir".into());

    for entry in entries("SourceDisksFiles") {
        report.expect(entry.field(1).is_empty(), entry.line, Rule::Renamed, || {
            format!("the file is in the folder `{}`, and is put into none", entry.field(1))
        });
        let disk = entries("SourceDisksNames").iter().any(|disk| disk.has_key(entry.field(0)));
        report.expect(disk, entry.line, Rule::SourceFile, || {
            format!("[SourceDisksNames] has no disk {}", entry.field(0))
        });
    }

    let listed = |file: &str| entries("SourceDisksFiles").iter().any(|entry| entry.has_key(file));
    let mut copied: Vec<String> = Vec::new();
    let mut copy = |report: &mut Report<'_>, entry: &Entry, file: &str| {
        report.expect(listed(file), entry.line, Rule::SourceFile, || {
            format!("[SourceDisksFiles] has no `{file}`")
        });
        let file = file.to_ascii_lowercase();
        report.expect(!copied.contains(&file), entry.line, Rule::Renamed, || {
            format!("`{file}` is copied twice")
        });
        copied.push(file);
    };
    for entry in package.copied.iter().flat_map(|section| &section.entries) {
        report.expect(entry.field(1).is_empty(), entry.line, Rule::Renamed, || {
            format!("`{}` is given another name, `{}`", entry.field(1), entry.field(0))
        });
        copy(report, entry, entry.field(0));
    }
    for install in &package.installs {
        for entry in install.entries.iter().filter(|entry| entry.has_key("CopyFiles")) {
            for file in entry.fields.iter().filter_map(|name| name.strip_prefix('@')) {
                copy(report, entry, file);
            }
        }
    }
    for entry in entries("SourceDisksFiles") {
        let file = entry.key.as_deref().unwrap_or_default().to_ascii_lowercase();
        report.expect(copied.contains(&file), entry.line, Rule::SourceFile, || {
            format!("`{file}` is listed, and nothing copies it")
        });
    }
}
