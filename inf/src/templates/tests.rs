//! Each rule is broken by a change of the real files, which are whole without it.

use abi::policy::{TUNNELS, TextPolicy, rows};
use proptest::prelude::*;

use super::*;
use crate::breaches;

#[test]
fn the_real_files_are_right() {
    let problems = check(ADMX, ADML);
    let lines: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
    assert!(problems.is_empty(), "{lines}");
}

/// The rule, what is changed in either file, and into what. Only that rule may be broken.
const BREACHES: &[breaches::Breach<Rule>] = &[
    (Rule::Xml, "<policies>", "<policies"),
    (Rule::Xml, "<stringTable>", "<stringTable>&"),
    (Rule::Schema, "2006/07/PolicyDefinitions\" revision", "2006/08/PolicyDefinitions\" revision"),
    (
        Rule::Schema,
        "schemaVersion=\"1.0\">\n  <policyNamespaces>",
        "schemaVersion=\"2.0\">\n  <policyNamespaces>",
    ),
    (
        Rule::Schema,
        "  <supportedOn>\n    <definitions>\n",
        "  <policies/>\n  <supportedOn>\n    <definitions>\n",
    ),
    (
        Rule::Schema,
        "      <parentCategory ref=\"Network\"/>\n      <supportedOn ref=\"SUPPORTED_Penstock\"/>\n",
        "      <supportedOn ref=\"SUPPORTED_Penstock\"/>\n      <parentCategory ref=\"Network\"/>\n",
    ),
    (Rule::Schema, " minValue=\"576\"", ""),
    (Rule::Schema, "<policy name=\"Mtu\"", "<policy hive=\"HKLM\" name=\"Mtu\""),
    (Rule::Schema, "<policy name=\"Mtu\"", "<policy name=\"M tu\""),
    (Rule::Schema, "  <displayName>Penstock</displayName>\n", ""),
    (Rule::Schema, "<description>Values of Penstock's driver and service.<", "<description><"),
    (Rule::Schema, "<elements>", "<elements><boolean id=\"x\"/>"),
    (Rule::Revision, "minRequiredRevision=\"1.0\"", "minRequiredRevision=\"1.1\""),
    (Rule::Revision, "minRequiredRevision=\"1.0\"", "minRequiredRevision=\"2.0\""),
    (Rule::Revision, "minRequiredRevision=\"1.0\"", "minRequiredRevision=\"1\""),
    (
        Rule::Twice,
        "<category name=\"Datapath\" displayName=\"$(string.Category_Datapath)\">",
        "<category name=\"Datapath\" displayName=\"$(string.Category_Datapath)\"/>\n<category name=\"Datapath\" displayName=\"$(string.Category_Datapath)\">",
    ),
    (Rule::Twice, "<string id=\"Mtu\">", "<string id=\"Mtu\">x</string><string id=\"Mtu\">"),
    (Rule::Missing, "$(string.Mtu)", "$(string.Mut)"),
    (Rule::Missing, "$(presentation.Mtu)", "$(presentation.Mut)"),
    (Rule::Missing, "parentCategory ref=\"Network\"", "parentCategory ref=\"Net\""),
    (
        Rule::Missing,
        "<supportedOn ref=\"SUPPORTED_Penstock\"/>",
        "<supportedOn ref=\"windows:Other\"/>",
    ),
    (Rule::Unused, "<string id=\"Mtu\">", "<string id=\"Other\">x</string><string id=\"Mtu\">"),
    (
        Rule::Unused,
        "<presentation id=\"Mtu\">",
        "<presentation id=\"Other\"/><presentation id=\"Mtu\">",
    ),
    (
        Rule::Unused,
        "<category name=\"Datapath\"",
        "<category name=\"Other\" displayName=\"$(string.Mtu)\"/>\n<category name=\"Datapath\"",
    ),
    (Rule::Control, "refId=\"Mtu\" ", "refId=\"Mut\" "),
    (
        Rule::Control,
        "<decimalTextBox refId=\"Mtu\" defaultValue=\"1420\">MTU of an adapter:</decimalTextBox>",
        "<textBox refId=\"Mtu\"><label>x</label></textBox>",
    ),
    (Rule::Control, " presentation=\"$(presentation.Mtu)\"", ""),
    (
        Rule::Place,
        "key=\"Software\\Policies\\Penstock\" presentation=\"$(presentation.Mtu)\"",
        "key=\"Software\\Penstock\" presentation=\"$(presentation.Mtu)\"",
    ),
    (Rule::Place, "<policy name=\"Mtu\" class=\"Machine\"", "<policy name=\"Mtu\" class=\"Both\""),
    (Rule::Table, "maxValue=\"1968\"", "maxValue=\"9000\""),
    (Rule::Table, "defaultValue=\"1420\"", "defaultValue=\"1400\""),
    (Rule::Table, "defaultItem=\"4\"", "defaultItem=\"3\""),
    (
        Rule::Table,
        "          <item displayName=\"$(string.SendEngine_1)\"><value><decimal value=\"1\"/>",
        "          <item displayName=\"$(string.SendEngine_1)\"><value><decimal value=\"3\"/>",
    ),
    (Rule::Table, ">Sockets<", ">Injection<"),
    (Rule::Table, "<enabledValue><decimal value=\"1\"/>", "<enabledValue><decimal value=\"2\"/>"),
    (Rule::Table, "maxLength=\"256\"", "maxLength=\"1024\""),
    (Rule::Complete, " additive=\"true\"", ""),
    (Rule::Complete, "explicitValue=\"true\"", "explicitValue=\"false\""),
    (
        Rule::Place,
        "key=\"Software\\Policies\\Penstock\\Tunnels\"",
        "key=\"Software\\Penstock\\Tunnels\"",
    ),
    (
        Rule::Place,
        "key=\"Software\\Policies\\Penstock\\Tunnels\"",
        "key=\"Software\\Policies\\Penstock\\Other\\Tunnels\"",
    ),
    (
        Rule::Complete,
        "id=\"RecorderLevel\" valueName=\"RecorderLevel\"",
        "id=\"RecorderLevel\" valueName=\"Other\"",
    ),
    (Rule::Explanation, "Default: 1420\n", "Default: 1400\n"),
    (Rule::Explanation, "Range: 576 to 1968", "Range: 576 to 9000"),
    (Rule::Explanation, "Unit: datagrams\n", ""),
    (Rule::Explanation, "By what datagrams are sent.", "How."),
    (Rule::Secret, "id=\"Mtu\" valueName=\"Mtu\"", "id=\"Mtu\" valueName=\"PrivateKey\""),
    (Rule::Trademark, "<displayName>Penstock<", "<displayName>WireGuard<"),
];

fn changed(from: &str, to: &str) -> Vec<Problem> {
    if ADMX.contains(from) {
        return check(&ADMX.replacen(from, to, 1), ADML);
    }
    assert!(ADML.contains(from), "neither file has `{from}`");
    check(ADMX, &ADML.replacen(from, to, 1))
}

#[test]
fn each_breach_is_told_of_and_nothing_else_is() {
    // What is cut off, or not one of the table's, is missing elsewhere.
    let follows = |rule| {
        matches!(rule, Rule::Complete | Rule::Schema | Rule::Missing | Rule::Control | Rule::Secret)
    };
    breaches::each_is_told_of_alone(BREACHES, changed, |problem| problem.rule, follows);
}

#[test]
fn each_rule_has_a_breach() {
    breaches::each_rule_has_one(Rule::ALL, BREACHES);
}

#[test]
fn what_is_written_are_values_of_the_table() {
    let settings = settings().unwrap();
    assert_eq!(settings.len(), rows().count() + TextPolicy::COUNT + 1);
    for setting in settings {
        match rows().find(|row| row.name == setting.value) {
            Some(policy) => {
                let numbers = setting.numbers();
                assert!(numbers.iter().all(|number| policy.range.contains(number)), "{setting:?}");
                assert!(
                    numbers.contains(policy.range.start()) && numbers.contains(policy.range.end())
                );
            }
            None => {
                let is_text = |text: &TextPolicy| text.name() == setting.value;
                assert!(setting.value == TUNNELS || TextPolicy::ALL.iter().any(is_text));
            }
        }
    }
}

proptest! {
    #[test]
    fn any_texts_are_judged(admx in ".{0,200}", adml in ".{0,200}") {
        let _ = check(&admx, &adml);
    }

    /// The real files with a piece cut out or doubled are judged as well.
    #[test]
    fn any_change_is_judged(start in 0_usize..9_000, length in 0_usize..300, twice: bool) {
        let cut = |text: &str| {
            let start = start.min(text.len());
            let end = (start + length).min(text.len());
            let piece = if twice { &text[start..end] } else { "" };
            format!("{}{piece}{}", &text[..start], &text[if twice { start } else { end }..])
        };
        let _ = check(&cut(ADMX), &cut(ADML));
    }
}
