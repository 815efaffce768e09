//! Each rule is broken by a change of the real tables, which are whole without it.

use super::rules::{Problem, Rule, check};
use super::*;
use crate::breaches;

/// What the files are of is nothing to the tables but their sizes and versions.
fn files() -> Vec<File> {
    let image = |version: u8| {
        let mut bytes = vec![0x4d; 100];
        bytes.extend([0xbd, 0x04, 0xef, 0xfe, 0, 0, 1, 0, 2, 0, version, 0, 4, 0, 3, 0]);
        bytes
    };
    let names = ["penstock.exe", "penstockw.exe", "penstock.sys", "penstock.inf", "penstock.cat"];
    let file = |name: &str| File { name: name.into(), bytes: image(1) };
    names.map(file).to_vec()
}

fn changed(from: &str, to: &str) -> Vec<Problem> {
    assert!(TEMPLATE.contains(from), "there is no `{from}`");
    check(&fill(&TEMPLATE.replacen(from, to, 1), "1.2.3", 0, &files()).unwrap())
}

#[test]
fn the_real_tables_are_right() {
    let problems = changed("", "");
    let lines: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
    assert!(problems.is_empty(), "{lines}");
}

/// The rule, what is changed, and into what. Only that rule may be broken.
const BREACHES: &[breaches::Breach<Rule>] = &[
    (Rule::Tables, "[ActionText]", "[Icon]"),
    (Rule::Tables, "Wait:I2", "Wait:i2"),
    (Rule::Twice, "EventTypes | 2", "EventMessageFile | 2"),
    (Rule::Missing, "PenstockFolder | 256 | | penstock.exe", "OtherFolder | 256 | | penstock.exe"),
    (
        Rule::Missing,
        "ValidateProductID | | 700",
        "ValidateProducts | | 700\nValidateProductID | | 701",
    ),
    (Rule::Missing, "WINDOWS_BUILD | WindowsBuild", "WINDOWS_BUILD | Windows"),
    (Rule::Guid, "9 | @PACKAGE@", "9 | {}"),
    (Rule::Guid, "ProductCode | @PRODUCT@", "ProductCode | {576ec863-694B-4CD9-8098-2C104DE573F9}"),
    (Rule::ComponentId, "Program | {AA461EAD", "Program | {AA461EAE"),
    (Rule::Component, "| 256 | | penstock.sys", "| 0 | | penstock.sys"),
    (Rule::Component, "| 256 | | penstock.sys", "| 256 | | penstock.exe"),
    (Rule::Component, "Driver | Driver\n", ""),
    (Rule::PerMachine, "ALLUSERS | 1", "ALLUSERS | 2"),
    (Rule::Maintenance, "ARPNOREPAIR | 1", "ARPNOREPAIR | 0"),
    (Rule::Maintenance, "ARPNOMODIFY | 1\n", ""),
    (Rule::Restart, "ReallySuppress", "Force"),
    (Rule::Sequence, "InstallFiles | | 4000", "InstallFiles | | 3450"),
    (Rule::Sequence, "FileCost | | 900", "FileCost | | 1000"),
    (Rule::Sequence, "StartServices | PENSTOCK_START = 1 | 5900\n", ""),
    (
        Rule::Sequence,
        "DriverInstallUndo | &Driver=3 | 4100\nDriverInstall | &Driver=3 | 4101",
        "DriverInstallUndo | &Driver=3 | 3900\nDriverInstall | &Driver=3 | 3901",
    ),
    (Rule::Sequence, "| 1951", "| 3501"),
    (Rule::Deferred, "DriverInstall | 3090", "DriverInstall | 2066"),
    (Rule::Deferred, "DriverInstall | &Driver=3 | 4101", "DriverInstall | &Driver=3 | 6601"),
    (Rule::Rollback, "DriverInstallUndo | 3410", "DriverInstallUndo | 3346"),
    (Rule::Rollback, "DriverInstallUndo | 3410", "DriverInstallUndo | 3154"),
    (
        Rule::Rollback,
        "DriverInstallUndo | &Driver=3 | 4100",
        "DriverInstallUndo | &Driver=3 | 4102",
    ),
    (Rule::Rollback, "DriverInstallUndo | &Driver=3", "DriverInstallUndo | &Driver=2"),
    (Rule::Impersonate, "DriverInstall | 3090", "DriverInstall | 1042"),
    (Rule::Window, "3090 | penstockw.exe", "3090 | penstock.exe"),
    (Rule::Quotes, "| driver install |", "| driver install [PenstockFolder] |"),
    (Rule::Upgrade, "| 769 |", "| 257 |"),
    (Rule::Upgrade, "@VERSION@ | | | 2 |", "@VERSION@ | | | 0 |"),
    (Rule::Upgrade, "RemoveExistingProducts | | 1501", "RemoveExistingProducts | | 1550"),
    (Rule::Upgrade, "UpgradeCode | {576EC863", "UpgradeCode | {576EC864"),
    (Rule::Upgrade, "Installed OR (NOT NEWER_FOUND)", "NOT NEWER_FOUND"),
    (Rule::Launch, ">= 20348", ">= 19041"),
    (Rule::Launch, "CurrentBuildNumber | 18", "CurrentBuildNumber | 2"),
    (Rule::Public, "NEWER_FOUND;OLDER_FOUND;PENSTOCK_START", "NEWER_FOUND;OLDER_FOUND"),
    (Rule::Public, "OLDER_FOUND;PENSTOCK_START", "OLDER_FOUND;PENSTOCK_START;OTHER"),
    (Rule::Folder, "PenstockFolder | ProgramFiles64Folder", "PenstockFolder | TARGETDIR"),
    (Rule::Version, "ProductVersion | @VERSION@", "ProductVersion | @VERSION@.0"),
    (Rule::Version, "@SIZE@ | | | 512 | 4", "@SIZE@ | @FILEVERSION@ | | 512 | 4"),
    (Rule::Cabinet, "1 | 5 | | #penstock.cab", "1 | 5 | | penstock.cab"),
    (Rule::Cabinet, "1 | 5 |", "1 | 4 |"),
    (Rule::Cabinet, "512 | 2\n", "512 | 3\n"),
    (Rule::Cabinet, "PENSTO~1.EXE|penstockw.exe", "PENSTO~1.EXE|penstock2.exe"),
    (Rule::Service, "| service manager |", "| manager |"),
    (Rule::Service, "| 163 |", "| 35 |"),
    (Rule::EventSource, "#%[#penstock.exe]", "[#penstock.exe]"),
    (Rule::EventSource, "TypesSupported | #7", "TypesSupported | 7"),
    (Rule::Path, "[~];[PenstockFolder]", "[PenstockFolder]"),
    (Rule::Path, "=-*PATH", "=*PATH"),
    (Rule::Summary, "x64;1033", "Intel;1033"),
    (Rule::Trademark, "Penstock manager", "WireGuard manager"),
];

#[test]
fn each_rule_is_broken_by_its_examples_alone() {
    // An action beyond the script is behind all else, too; and of the version is which others are older.
    let follows = |rule| matches!(rule, Rule::Deferred | Rule::Version);
    breaches::each_is_told_of_alone(BREACHES, changed, |problem| problem.rule, follows);
    breaches::each_rule_has_one(Rule::ALL, BREACHES);
}

#[test]
fn what_is_exported_is_read_back() {
    let tables = fill(TEMPLATE, "1.2.3", 86_399, &files()).unwrap();
    let date = &tables["_SummaryInformation"].rows[8];
    assert_eq!(date[..], ["12", "1970/01/01 23:59:59"]);
    for (name, table) in &tables {
        assert_eq!(exported(&table.exported(name)).unwrap(), (name.clone(), table.clone()));
    }
    let file = &tables["File"].rows[0];
    assert_eq!(file[3..5], ["116", "1.2.3.4"]);
}

#[test]
fn the_codes_are_of_what_is_in_it() {
    let codes = |files: &[File], version| {
        let tables = fill(TEMPLATE, version, 0, files).unwrap();
        (tables["Property"].rows[0][1].clone(), tables["_SummaryInformation"].rows[7][1].clone())
    };
    let first = codes(&files(), "1.2.3");
    assert_eq!(codes(&files(), "1.2.3"), first);
    assert_ne!(first.0, first.1);
    let mut other = files();
    other[4].bytes[0] ^= 1;
    for changed in [codes(&other, "1.2.3"), codes(&files(), "1.2.4")] {
        assert!(changed.0 != first.0 && changed.1 != first.1);
    }
}

#[test]
fn files_are_those_of_the_tables() {
    let mut files = files();
    let last = files.pop().unwrap();
    assert_eq!(
        fill(TEMPLATE, "1.2.3", 0, &files),
        Err("penstock.cat: there is no such file".into())
    );
    let other = File { name: "other".into(), bytes: vec![] };
    files.extend([last, other]);
    assert_eq!(
        fill(TEMPLATE, "1.2.3", 0, &files),
        Err("other: the tables have no such file".into())
    );
    files.pop();
    files[0].bytes.clear();
    assert_eq!(fill(TEMPLATE, "1.2.3", 0, &files), Err("penstock.exe: it has no version".into()));
}

#[test]
fn a_program_without_a_console_differs_in_that_alone() {
    let mut image = vec![0_u8; 512];
    image[0x3c] = 0x80;
    image[0x80..0x84].copy_from_slice(b"PE\0\0");
    image[0x80 + 92] = 3;
    let made = without_console(image.clone()).unwrap();
    let differ: Vec<_> = (0..512).filter(|at| made[*at] != image[*at]).collect();
    assert_eq!((differ, made[0x80 + 92]), (vec![0x80 + 92], 2));
    assert!(without_console(made).is_err());
    image[0x80 + 168] = 1;
    assert!(without_console(image).unwrap_err().contains("signed"));
    for bytes in [vec![], vec![0; 64], vec![0xff; 64]] {
        assert!(without_console(bytes).is_err());
    }
}
