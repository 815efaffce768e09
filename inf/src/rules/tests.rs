//! Each rule is broken by a change of the real file, which is whole without it.

use super::*;
use crate::breaches;
use crate::stamp::stamped;
use proptest::prelude::*;

const TODAY: Date = Date { year: 2026, month: 11, day: 30 };

fn real() -> String {
    stamped("1.2.3", Date { year: 2026, month: 11, day: 30 }).replace("\r\n", "\n")
}

/// What is wrong with the real file, changed.
fn changed(from: &str, to: &str) -> Vec<Problem> {
    let text = real();
    assert!(text.contains(from), "the file has no `{from}`");
    check(text.replacen(from, to, 1).as_bytes(), TODAY)
}

#[test]
fn the_real_file_is_right() {
    let problems = check(real().as_bytes(), TODAY);
    assert!(
        problems.is_empty(),
        "{}",
        problems.iter().map(|problem| format!("{problem}\n")).collect::<String>()
    );
}

#[test]
fn it_is_as_right_in_windows_lines_and_in_utf_16() {
    assert_eq!(check(real().replace('\n', "\r\n").as_bytes(), TODAY), []);
    let wide = format!("\u{feff}{}", real());
    let bytes: Vec<u8> = wide.encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(check(&bytes, TODAY), []);
}

/// The rule, what is changed, and into what. Only that rule may be broken.
const BREACHES: &[breaches::Breach<Rule>] = &[
    (Rule::Encoding, "; The driver package", "; Das Päckchen"),
    (Rule::Encoding, "; The driver package", "\0"),
    (Rule::Syntax, "[Files]\n", "[Files]\n[Fi\n"),
    (Rule::Syntax, "[Version]\n", "Signature = \"$Windows NT$\"\n[Version]\n"),
    (Rule::Syntax, "ndis5\"", "ndis5"),
    (Rule::Syntax, "[Strings]\n", "[Strings]\n\"a text\"\n"),
    (Rule::Signature, "$Windows NT$", "$Chicago$"),
    (Rule::Signature, "Signature   = \"$Windows NT$\"\n", ""),
    (Rule::Class, "{4d36e972", "{4d36e971"),
    (Rule::Class, "= Net\n", "= System\n"),
    (Rule::Provider, "Provider        = \"Penstock\"", "Provider        = \"Microsoft\""),
    (Rule::Catalog, "CatalogFile = penstock.cat\n", ""),
    (Rule::Catalog, "penstock.cat", "penstock.txt"),
    (Rule::DriverVer, "11/30/2026", "12/01/2026"),
    (Rule::DriverVer, "11/30/2026", "30/11/2026"),
    (Rule::DriverVer, "1.2.3.0", "1.2.65536.0"),
    (Rule::DriverVer, "1.2.3.0", "1.2.3"),
    (Rule::DriverVer, "1.2.3.0", "1.2.3.x"),
    (Rule::Lockdown, "PnpLockdown = 1\n", ""),
    (Rule::Lockdown, "PnpLockdown = 1", "PnpLockdown = 0"),
    (
        Rule::Decoration,
        "Models, NTamd64.10.0...20348 ",
        "Models, NTamd64.10.0...20348, NTamd64.10.0...19041 ",
    ),
    (
        Rule::Decoration,
        "Models, NTamd64.10.0...20348 ",
        "Models, NTamd64.10.0...20348, NTx86.10.0...20348 ",
    ),
    (Rule::Decoration, "[Manufacturer]\n", "[Manufacturer]\n%Provider% = Models\n"),
    (
        Rule::Devices,
        "%Device% = Install, SWD\\Penstock               ; as a service makes adapters (SwDeviceCreate)\n",
        "%Device% = Install\n",
    ),
    (Rule::DefaultInstall, "[Files]\n", "[DefaultInstall.NT]\nCopyFiles = Files\n[Files]\n"),
    (Rule::SourceFile, "[Files]\n", "[Files]\nother.sys\n"),
    (Rule::SourceFile, "penstock.sys = 1\n", "penstock.sys = 1\nother.sys = 1\n"),
    (Rule::SourceFile, "penstock.sys = 1", "penstock.sys = 2"),
    (Rule::Destination, "DefaultDestDir = 13", "DefaultDestDir = 12"),
    (Rule::Destination, "DefaultDestDir = 13", "Files = 13"),
    (Rule::Renamed, "DefaultDestDir = 13 ", "DefaultDestDir = 13, drivers "),
    (Rule::Renamed, "penstock.sys = 1", "penstock.sys = 1, x64"),
    (Rule::Renamed, "[Files]\npenstock.sys", "[Files]\npenstock.sys, penstock.sys"),
    (Rule::Renamed, "= Files\n", "= Files, @penstock.sys\n"),
    (Rule::SectionMissing, "= Files\n", "= Files, penstock.sys\n"),
    (Rule::SectionMissing, "Install, ROOT\\Penstock", "Other, ROOT\\Penstock"),
    (Rule::SectionUnused, "[Files]\n", "[Other]\nx\n[Files]\n"),
    (Rule::SectionShared, "AddReg = Access", "AddReg = Access, Adapter"),
    (Rule::Incomplete, "= Files\n", "= Files,\n"),
    (Rule::Incomplete, "AddReg = Access\n", "AddReg = Access,\n"),
    (Rule::Unknown, "PnpLockdown = 1", "PnpLockdown = 1\nDriverPackageType = PlugAndPlay"),
    (Rule::Unknown, "= Files\n", "= Files\nFeatureScore = 1\n"),
    (Rule::Twice, "PnpLockdown = 1", "PnpLockdown = 1\nPnpLockdown = 0"),
    (Rule::Twice, "HKR, Ndi, ", "HKR, Ndi, Service, 0, \"penstock\"\nHKR, Ndi, "),
    (Rule::StringMissing, "1 = %Disk%", "1 = %Disk%, %Missing%"),
    (Rule::StringMissing, "%%SystemRoot%%", "%SystemRoot%"),
    (Rule::StringUnused, "[Strings]\n", "[Strings]\nOther = \"x\"\n"),
    (Rule::Legacy, "= Files\n", "= Files\nDelReg = Files\n"),
    (Rule::Legacy, "= Files\n", "= Files\nBitReg = Files\n"),
    (Rule::Legacy, "= Files\n", "= Files\nLogConfig = Files\n"),
    (Rule::Legacy, "= Files\n", "= Files\nRegisterDlls = Files\n"),
    (Rule::Legacy, "= Files\n", "= Files\nUnregisterDlls = Files\n"),
    (Rule::Legacy, "AddService =", "DelService = other\nAddService ="),
    (Rule::Legacy, "[Files]\n", "[Install.NT.LogConfigOverride]\nLogConfig = x\n[Files]\n"),
    (Rule::CoInstaller, "[Files]\n", "[Install.NT.CoInstallers]\nAddReg = x\n[Files]\n"),
    (Rule::CoInstaller, "[Access]\n", "[Access]\nHKR,, CoInstallers32, 0x10000, \"x.dll\"\n"),
    (Rule::ClassInstall, "[Files]\n", "[ClassInstall32]\nAddReg = x\n[Files]\n"),
    (Rule::Included, "= Files\n", "= Files\nInclude = other.inf\n"),
    (Rule::Included, "= Files\n", "= Files\nNeeds = Other.NT\n"),
    (Rule::Root, "HKR, Ndi,            Service", "HKLM, Ndi,            Service"),
    (Rule::Root, "HKR,, TypesSupported", "HKCR,, TypesSupported"),
    (Rule::Appended, "UpperRange, 0,", "UpperRange, 0x10008,"),
    (Rule::ValueType, "0x10001, 7", "0x10002, 7"),
    (Rule::ValueType, "UpperRange, 0,", "UpperRange, REG_SZ,"),
    (Rule::ValueType, "Parameters,, 0x10", "Parameters, X, 0x10"),
    (Rule::ServiceOfDevice, "penstock, 2,", "penstock, 0,"),
    (Rule::ServiceOfDevice, "penstock, 2,", "penstock, 0x802,"),
    (Rule::ServiceName, "AddService = penstock", "AddService = pens"),
    (Rule::ServiceStart, "StartType     = 3", "StartType     = 0"),
    (Rule::ServiceStart, "ServiceType   = 1", "ServiceType   = 2"),
    (Rule::ServiceStart, "ErrorControl  = 1", "ErrorControl  = 3"),
    (Rule::ServiceBinary, r"%13%\penstock.sys", r"%12%\penstock.sys"),
    (Rule::ServiceBinary, r"%13%\penstock.sys", r"%13%\other.sys"),
    (Rule::Framework, "= 1.31", "= 1.33"),
    (Rule::Framework, "KmdfService = penstock", "KmdfService = other"),
    (Rule::Access, "(A;;GRGW;;;WD)", "(A;;GA;;;WD)"),
    (Rule::Access, "HKR,, Security", "HKR,, Safety"),
    (Rule::EventSource, "0x20000, \"%%", "0, \"%%"),
    (Rule::EventSource, r"%%SystemRoot%%\System32\netevent.dll", r"C:\netevent.dll"),
    (Rule::EventSource, "0x10001, 7", "0x10001, 6"),
    (Rule::Adapter, "*IfType             = 53", "*IfType             = 6"),
    (Rule::Adapter, "*HardwareLoopback   = 0                        ; no\n", ""),
    (Rule::Adapter, "\"nolower\"", "\"ethernet\""),
    (Rule::Adapter, "HKR, Ndi\\Interfaces, UpperRange, 0, \"ndis5\"\n", ""),
    (Rule::Keyword, "*NumRssQueues, Max,       0, \"16\"", "*NumRssQueues, Max,       0, \"64\""),
    (Rule::Keyword, "*NumaNodeId, Default,   0, \"65535\"", "*NumaNodeId, Default,   0, \"0\""),
    (Rule::Keyword, "HKR, Ndi\\Params\\*RSS\\Enum, \"1\",  0, %Enabled%\n", ""),
    (Rule::Keyword, "[Adapter]\n", "[Adapter]\nHKR, Ndi\\Params\\*RscIPv4, Type, 0, \"enum\"\n"),
    (Rule::Keyword, "[Adapter]\n", "[Adapter]\nHKR, Ndi\\Params\\*RSS\\Enum, \"2\", 0, \"x\"\n"),
    (Rule::Policy, "[Policy]\n", "[Policy]\nHKR, Parameters, Batch, 0x10003, 1\n"),
    (Rule::Policy, "[Policy]\n", "[Policy]\nHKR, Parameters, FastPath, 0x10003, 2\n"),
    (Rule::Policy, "[Policy]\n", "[Policy]\nHKR, Parameters, FastPath, 0x10001, 1\n"),
    (Rule::Policy, "[Policy]\n", "[Policy]\nHKR, Parameters, FastPath, 2, \"1\"\n"),
    (Rule::Policy, "[Policy]\n", "[Policy]\nHKR, Parameters, ScalingExclude, 2, \"x\"\n"),
    (Rule::Policy, "HKR, Parameters,,", "HKR, Settings,,"),
    (Rule::Trademark, "\"Penstock VPN adapter\"", "\"WireGuard adapter\""),
];

#[test]
fn each_breach_is_told_of_and_nothing_else_is() {
    // What cannot be read is missing where it is looked for.
    let follows = |rule| matches!(rule, Rule::Syntax | Rule::Encoding);
    breaches::each_is_told_of_alone(BREACHES, changed, |problem| problem.rule, follows);
}

#[test]
fn each_rule_has_a_breach() {
    breaches::each_rule_has_one(Rule::ALL, BREACHES);
}

#[test]
fn a_policy_value_that_keeps_what_was_set_is_one() {
    let value = "[Policy]\nHKR, Parameters, FastPath, 0x10003, 1\n";
    assert_eq!(changed("[Policy]\n", value), []);
    let list = "[Policy]\nHKR, Parameters, ScalingExclude, 2, \"0-1, 1:0\"\n";
    assert_eq!(changed("[Policy]\n", list), []);
}

#[test]
fn an_empty_file_is_told_of() {
    let rules: Vec<Rule> = check(b"", TODAY).into_iter().map(|problem| problem.rule).collect();
    for rule in [Rule::Signature, Rule::Devices, Rule::Keyword, Rule::Access] {
        assert!(rules.contains(&rule), "{rule:?}");
    }
}

proptest! {
    #[test]
    fn any_bytes_are_judged(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = check(&bytes, TODAY);
    }

    /// The real file with a piece cut out, put elsewhere, or replaced by any text, is judged as well.
    #[test]
    fn any_change_is_judged(
        start in 0_usize..9_000, length in 0_usize..300, at in 0_usize..9_000, put in "\\PC{0,12}|[%\",=;\\[\\]\\\\\n]{0,6}",
    ) {
        let mut text: Vec<char> = real().chars().collect();
        let start = start.min(text.len());
        let cut: Vec<char> = text.drain(start..(start + length).min(text.len())).collect();
        let at = at.min(text.len());
        text.splice(at..at, cut.into_iter().chain(put.chars()));
        let _ = check(text.into_iter().collect::<String>().as_bytes(), TODAY);
    }
}
