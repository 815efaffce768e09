//! Ids, strings and presentations find each other.

use std::collections::{HashMap, HashSet};

use roxmltree::Node;

use super::{File, KEY, Problem, Rule};

pub(super) fn check(admx: &File<'_>, adml: &File<'_>, problems: &mut Vec<Problem>) {
    revisions(admx, adml, problems);
    once(admx, problems);
    once(adml, problems);
    strings(admx, adml, problems);
    names(admx, problems);
    for policy in admx.all("policy") {
        presentation(admx, adml, policy, problems);
        // A list has a key of its own, below that of all others.
        let is_list = policy.descendants().any(|node| node.tag_name().name() == "list");
        let key = policy.attribute("key").unwrap_or_default();
        let below = key.strip_prefix(KEY).unwrap_or("no");
        let is_place = match below.strip_prefix('\\') {
            Some(name) => is_list && !name.is_empty() && !name.contains('\\'),
            None => below.is_empty() && !is_list,
        };
        if policy.attribute("class") != Some("Machine") || !is_place {
            let text = format!("a setting of the machine is written below {KEY}");
            problems.push(admx.problem(policy, Rule::Place, text));
        }
    }
    let used: HashSet<_> = admx
        .all("policy")
        .filter_map(|policy| id_of(policy.attribute("presentation")?, "presentation"))
        .collect();
    for presentation in adml.all("presentation") {
        let id = presentation.attribute("id").unwrap_or_default();
        if !used.contains(id) {
            let text = format!("no setting has the presentation {id}");
            problems.push(adml.problem(presentation, Rule::Unused, text));
        }
    }
    for (file, node) in [admx, adml]
        .into_iter()
        .flat_map(|file| file.document.descendants().map(move |node| (file, node)))
    {
        let mut words = node.attributes().map(|attribute| attribute.value()).chain(node.text());
        if node.is_element() && words.any(|word| word.to_ascii_lowercase().contains("wireguard")) {
            problems.push(file.problem(node, Rule::Trademark, "another's trademark"));
        }
    }
}

/// The ADML is of the revision that the ADMX asks for, or of a later one with the same first number.
fn revisions(admx: &File<'_>, adml: &File<'_>, problems: &mut Vec<Problem>) {
    let read = |text: Option<&str>| {
        let (major, minor) = text?.split_once('.')?;
        let number = |text: &str, most| {
            let fits = text.len() <= most && text.bytes().all(|byte| byte.is_ascii_digit());
            text.parse::<u32>().ok().filter(|_| fits)
        };
        Some((number(major, 4)?, number(minor, 5)?))
    };
    let own = read(admx.document.root_element().attribute("revision"));
    let least =
        admx.all("resources").next().and_then(|node| read(node.attribute("minRequiredRevision")));
    let root = adml.document.root_element();
    let has = read(root.attribute("revision"));
    let fits = matches!((own, least, has), (Some(_), Some(least), Some(has)) if least.0 == has.0 && least.1 <= has.1);
    if !fits {
        let text = format!(
            "revision {has:?} of the texts is not of {least:?}, which the settings ask for"
        );
        problems.push(adml.problem(root, Rule::Revision, text));
    }
}

/// Names that there may be one of, each among its kind.
fn once(file: &File<'_>, problems: &mut Vec<Problem>) {
    let mut seen = HashSet::new();
    for node in file.document.descendants() {
        for attribute in ["name", "id", "valueName"] {
            let Some(name) = node.attribute(attribute) else { continue };
            let kind = if attribute == "valueName" { "" } else { node.tag_name().name() };
            if !seen.insert((kind.to_owned(), attribute, name.to_ascii_lowercase())) {
                problems.push(file.problem(node, Rule::Twice, format!("{attribute} {name}")));
            }
            let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
            if !is_name || name.is_empty() {
                problems.push(file.problem(
                    node,
                    Rule::Schema,
                    format!("{attribute} `{name}` is no name"),
                ));
            }
        }
    }
}

/// `ID` of `$(KIND.ID)`.
fn id_of<'a>(text: &'a str, kind: &str) -> Option<&'a str> {
    text.strip_prefix("$(")?.strip_prefix(kind)?.strip_prefix('.')?.strip_suffix(')')
}

fn strings(admx: &File<'_>, adml: &File<'_>, problems: &mut Vec<Problem>) {
    let there: HashSet<_> = adml.all("string").filter_map(|node| node.attribute("id")).collect();
    let mut used = HashSet::new();
    for node in admx.document.descendants() {
        for attribute in ["displayName", "explainText"] {
            let Some(text) = node.attribute(attribute) else { continue };
            match id_of(text, "string").filter(|id| there.contains(id)) {
                Some(id) => {
                    used.insert(id);
                }
                None => {
                    problems.push(admx.problem(node, Rule::Missing, format!("the string {text}")))
                }
            }
        }
    }
    for node in adml.all("string") {
        let id = node.attribute("id").unwrap_or_default();
        if !used.contains(id) {
            problems.push(adml.problem(node, Rule::Unused, format!("nothing has the string {id}")));
        }
    }
}

/// Categories and versions that settings name.
fn names(admx: &File<'_>, problems: &mut Vec<Problem>) {
    for (reference, of) in [("parentCategory", "category"), ("supportedOn", "definition")] {
        let there: HashSet<_> = admx.all(of).filter_map(|node| node.attribute("name")).collect();
        let mut used = HashSet::new();
        for node in admx.all(reference) {
            // The list of versions has the same name as what refers to it.
            let Some(name) = node.attribute("ref") else { continue };
            used.insert(name);
            if !there.contains(name) {
                problems.push(admx.problem(node, Rule::Missing, format!("the {of} {name}")));
            }
        }
        for node in admx.all(of) {
            let name = node.attribute("name").unwrap_or_default();
            if !used.contains(name) {
                problems.push(admx.problem(
                    node,
                    Rule::Unused,
                    format!("nothing is of the {of} {name}"),
                ));
            }
        }
    }
}

/// The control that an element is filled in with.
fn control_of(element: Node<'_, '_>) -> &'static str {
    match element.tag_name().name() {
        "decimal" => "decimalTextBox",
        "enum" => "dropdownList",
        "list" => "listBox",
        _ => "textBox",
    }
}

fn presentation(
    admx: &File<'_>,
    adml: &File<'_>,
    policy: Node<'_, '_>,
    problems: &mut Vec<Problem>,
) {
    let elements = policy.children().filter(|node| node.tag_name().name() == "elements");
    let mut wanted: HashMap<&str, &str> = elements
        .flat_map(|elements| elements.children())
        .filter_map(|element| Some((element.attribute("id")?, control_of(element))))
        .collect();
    let Some(named) = policy.attribute("presentation") else {
        if !wanted.is_empty() {
            problems.push(admx.problem(policy, Rule::Control, "there is no presentation"));
        }
        return;
    };
    let id = id_of(named, "presentation");
    let Some(presentation) =
        adml.all("presentation").find(|node| node.attribute("id") == id && id.is_some())
    else {
        return problems.push(admx.problem(
            policy,
            Rule::Missing,
            format!("the presentation {named}"),
        ));
    };
    for control in presentation.children().filter(Node::is_element) {
        let id = control.attribute("refId").unwrap_or_default();
        if wanted.remove(id) != Some(control.tag_name().name()) {
            let text = format!("there is no element {id} for a {}", control.tag_name().name());
            problems.push(adml.problem(control, Rule::Control, text));
        }
    }
    for (id, control) in wanted {
        problems.push(admx.problem(
            policy,
            Rule::Control,
            format!("element {id} has no {control}"),
        ));
    }
}
