//! `[Version]`, names and strings.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/install/inf-version-section>.

use super::{Report, Rule};
use crate::{
    stamp::Date,
    text::{Entry, Inf, number},
};

/// Class `Net`.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/install/system-defined-device-setup-classes-available-to-vendors>.
const NET: &str = "{4d36e972-e325-11ce-bfc1-08002be10318}";
/// What `[Version]` may say.
const KNOWN: [&str; 7] =
    ["Signature", "Class", "ClassGuid", "Provider", "CatalogFile", "DriverVer", "PnpLockdown"];

pub(super) fn check(report: &mut Report<'_>, today: Date) {
    let inf = report.inf;
    let (line, entries) = inf.section("Version").map_or((1, &[][..]), |s| (s.line, &s.entries));
    let entry = |key| entries.iter().find(|entry: &&Entry| entry.has_key(key));
    let said = |key| entry(key).map(|entry| (entry.line, inf.resolved(entry.field(0))));
    let of = |key| said(key).unwrap_or((line, String::new()));

    let (at, signature) = of("Signature");
    report.expect(signature.eq_ignore_ascii_case("$Windows NT$"), at, Rule::Signature, || {
        format!("the signature is `{signature}`, not `$Windows NT$`")
    });
    let ((at, class), (_, guid)) = (of("Class"), of("ClassGuid"));
    let is_net = class.eq_ignore_ascii_case("Net") && guid.eq_ignore_ascii_case(NET);
    report.expect(is_net, at, Rule::Class, || format!("class `{class}` {guid} is not Net {NET}"));
    let (at, provider) = of("Provider");
    let is_ours = !provider.is_empty() && !provider.to_ascii_lowercase().contains("microsoft");
    report.expect(is_ours, at, Rule::Provider, || format!("the provider is `{provider}`"));
    let (at, catalog) = of("CatalogFile");
    let is_catalog = catalog.to_ascii_lowercase().ends_with(".cat");
    report.expect(is_catalog, at, Rule::Catalog, || format!("`{catalog}` is no catalog"));
    let (at, lockdown) = of("PnpLockdown");
    report.expect(lockdown == "1", at, Rule::Lockdown, || {
        format!("PnpLockdown is `{lockdown}`, not 1")
    });

    match entry("DriverVer") {
        Some(entry) => {
            let wrong = driver_version(entry.field(0), entry.field(1), today);
            wrong.into_iter().for_each(|wrong| report.tell(entry.line, Rule::DriverVer, wrong));
        }
        None => report.tell(line, Rule::DriverVer, "there is no DriverVer"),
    }
    for entry in entries {
        let is_known = KNOWN.iter().any(|known| entry.has_key(known));
        report.expect(is_known, entry.line, Rule::Unknown, || {
            format!("`{}` in [Version]", entry.key.as_deref().unwrap_or_default())
        });
    }
    twice(report);
    strings(report);
    names(report);
}

/// What is wrong with date and version.
fn driver_version(date: &str, version: &str, today: Date) -> Vec<String> {
    let mut wrong = Vec::new();
    match Date::read(date) {
        None => wrong.push(format!("`{date}` is no date: it is written MM/DD/YYYY")),
        Some(date) if date > today => wrong.push(format!("{date:?} is still to come")),
        Some(_) => {}
    }
    let numbers = version.split('.').filter_map(number).filter(|number| *number <= 65_535);
    if numbers.count() != 4 || version.split('.').count() != 4 {
        wrong.push(format!("`{version}` is not four numbers up to 65535 with dots between"));
    }
    wrong
}

/// Keys that say one thing: a second one of them is not read, or read instead.
fn twice(report: &mut Report<'_>) {
    let is_of_many = |key: &str| {
        ["AddService", "Include", "Needs", "KmdfService", "%"]
            .iter()
            .any(|many| key.get(..many.len()).is_some_and(|start| start.eq_ignore_ascii_case(many)))
    };
    for section in report.inf.sections() {
        for (position, entry) in section.entries.iter().enumerate() {
            let Some(key) = entry.key.as_deref().filter(|key| !is_of_many(key)) else { continue };
            let mut before = section.entries.iter().take(position);
            if before.any(|other| other.has_key(key)) {
                report.tell(entry.line, Rule::Twice, format!("`{key}` in [{}]", section.name));
            }
        }
    }
}

/// Every text with tokens in it, with its line.
fn texts(inf: &Inf) -> impl Iterator<Item = (usize, &str)> {
    let sections =
        inf.sections().iter().filter(|section| !section.name.eq_ignore_ascii_case("Strings"));
    sections.flat_map(|section| &section.entries).flat_map(|entry| {
        let words = entry.key.iter().chain(&entry.fields);
        words.map(|word| (entry.line, word.as_str()))
    })
}

fn strings(report: &mut Report<'_>) {
    let inf = report.inf;
    for (line, text) in texts(inf) {
        if let Err(token) = inf.resolve(text) {
            report.tell(line, Rule::StringMissing, format!("[Strings] has no `{token}`"));
        }
    }
    let all: Vec<String> = texts(inf).map(|(_, text)| text.to_ascii_lowercase()).collect();
    for entry in inf.section("Strings").into_iter().flat_map(|strings| &strings.entries) {
        let Some(key) = &entry.key else {
            report.tell(entry.line, Rule::Syntax, "a string is written NAME = \"TEXT\"");
            continue;
        };
        let token = format!("%{}%", key.to_ascii_lowercase());
        let used = all.iter().any(|text| text.contains(&token));
        report.expect(used, entry.line, Rule::StringUnused, || format!("nothing says %{key}%"));
    }
}

/// Names that a user sees, or that Windows files the driver under.
fn names(report: &mut Report<'_>) {
    let entries = report.inf.sections().iter().flat_map(|section| &section.entries);
    let words = entries.flat_map(|entry| {
        entry.key.iter().chain(&entry.fields).map(|word| (entry.line, word.to_ascii_lowercase()))
    });
    let found: Vec<_> = words.filter(|(_, word)| word.contains("wireguard")).collect();
    for (line, word) in found {
        report.tell(line, Rule::Trademark, format!("`{word}` has another's trademark in it"));
    }
}
