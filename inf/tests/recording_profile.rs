//! `scripts/penstock.wprp`, by which Windows Performance Recorder records what the driver does: provider, levels and keywords are those of the
//! table of events, and elements find each other.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/test/wpt/recording-profile-xml-reference>.

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use std::collections::HashMap;

use abi::events::{Keyword, Level};
use abi::trace::{PROVIDER, PROVIDER_NAME};
use roxmltree::{Document, Node};

const PROFILE: &str = include_str!("../../scripts/penstock.wprp");
/// In this order, and nothing else.
const ORDER: [&str; 3] = ["EventCollector", "EventProvider", "Profile"];

fn of<'a, 'input>(node: Node<'a, 'input>, name: &'static str) -> Vec<Node<'a, 'input>> {
    node.children().filter(|child| child.has_tag_name(name)).collect()
}

fn attribute<'a>(node: Node<'a, '_>, name: &str) -> &'a str {
    node.attribute(name).unwrap_or_default()
}

/// The keywords below an element of this name.
fn keywords(provider: Node<'_, '_>, below: &'static str) -> Option<u32> {
    let all = of(*of(provider, below).first()?, "Keyword");
    let words = all.iter().map(|word| {
        u32::from_str_radix(attribute(*word, "Value").trim_start_matches("0x"), 16).ok()
    });
    words.sum()
}

/// What is wrong with a profile.
fn check(text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let Ok(document) = Document::parse(text) else { return vec!["no XML".to_owned()] };
    let profiles = of(document.root_element(), "Profiles");
    let Some(profiles) = profiles.first() else { return vec!["no profiles".to_owned()] };
    let children = profiles.children().filter(Node::is_element);
    let places: Vec<_> = children
        .clone()
        .map(|child| ORDER.iter().position(|name| *name == child.tag_name().name()))
        .collect();
    if !places.is_sorted() || places.contains(&None) {
        wrong.push("collectors, providers and profiles are not in this order".to_owned());
    }
    let by_id: HashMap<_, _> = children.map(|child| (attribute(child, "Id"), child)).collect();
    let (one, two, three, [four, five, rest @ ..]) = PROVIDER;
    let rest: String = rest.iter().map(|byte| format!("{byte:02x}")).collect();
    let guid = format!("{one:08x}-{two:04x}-{three:04x}-{four:02x}{five:02x}-{rest}");
    for provider in of(*profiles, "EventProvider") {
        let id = attribute(provider, "Id");
        if attribute(provider, "Name") != guid {
            wrong.push(format!("{id} is not {PROVIDER_NAME}"));
        }
        // The driver tells some of it where nothing may be paged in.
        if attribute(provider, "NonPagedMemory") != "true" {
            wrong.push(format!("{id} has memory that is paged"));
        }
        for below in ["Keywords", "CaptureStateOnSave"] {
            if keywords(provider, below) != Some(Keyword::ALL) {
                wrong.push(format!("{id} has other keywords in {below}"));
            }
        }
    }
    let mut modes = Vec::new();
    for profile in of(*profiles, "Profile") {
        let (detail, mode) = (attribute(profile, "DetailLevel"), attribute(profile, "LoggingMode"));
        let id = attribute(profile, "Id");
        if id != format!("{}.{detail}.{mode}", attribute(profile, "Name")) {
            wrong.push(format!("{id} is not NAME.DETAIL.MODE"));
        }
        let level = if detail == "Light" { Level::Info } else { Level::Verbose };
        // Whoever has a base is as that is, but for where it is recorded.
        let whole = match profile.attribute("Base") {
            None => Some(&profile),
            Some(base) => by_id.get(base).filter(|base| attribute(**base, "DetailLevel") == detail),
        };
        let named = |name: &'static str| {
            let found = whole?.descendants().find(|node| node.has_tag_name(name))?;
            by_id.get(attribute(found, "Value"))
        };
        if named("EventCollectorId").is_none() {
            wrong.push(format!("{id} has no collector"));
        }
        let of_level =
            |provider: &&Node<'_, '_>| attribute(**provider, "Level") == level.of_etw().to_string();
        if named("EventProviderId").filter(of_level).is_none() {
            wrong.push(format!("{id} has no provider of its level"));
        }
        modes.push(format!("{detail} {mode}"));
    }
    if modes != ["Light File", "Light Memory", "Verbose File", "Verbose Memory"] {
        wrong.push("not each level is recorded to a file and in memory".to_owned());
    }
    wrong
}

#[test]
fn the_profile_records_the_drivers_events() {
    assert_eq!(check(PROFILE), Vec::<String>::new());
}

#[test]
fn each_breach_is_told_of() {
    for (from, to, said) in [
        ("<Profiles>", "<Profiles", "no XML"),
        ("8c898724", "8c898725", "Light_Penstock is not Penstock"),
        ("NonPagedMemory=\"true\"", "NonPagedMemory=\"false\"", "paged"),
        ("Value=\"0x1f\"", "Value=\"0x0f\"", "other keywords in Keywords"),
        ("<CaptureStateOnSave>", "<CaptureStateOnStart>", "no XML"),
        ("Level=\"4\"", "Level=\"5\"", "Penstock.Light.File has no provider of its level"),
        ("Value=\"Collector_Penstock\"", "Value=\"Other\"", "Penstock.Light.File has no collector"),
        (
            "Base=\"Penstock.Light.File\"",
            "Base=\"Penstock.Verbose.File\"",
            "Penstock.Light.Memory has no",
        ),
        (
            "Id=\"Penstock.Verbose.Memory\"",
            "Id=\"Penstock.Verbose.File2\"",
            "is not NAME.DETAIL.MODE",
        ),
        ("LoggingMode=\"Memory\"/>", "LoggingMode=\"File\"/>", "not each level"),
        ("<EventCollector Id", "<Profile/><EventCollector Id", "in this order"),
    ] {
        assert!(PROFILE.contains(from), "{from}");
        let wrong = check(&PROFILE.replacen(from, to, 1));
        assert!(wrong.iter().any(|wrong| wrong.contains(said)), "{from}: {wrong:?}");
    }
}
