//! Settings are the rows of the policy table.

use std::collections::HashSet;

use abi::policy::{Row, TUNNELS, TextPolicy, rows};
use roxmltree::Node;

use super::{Choices, File, Problem, Rule, Setting};

/// Words that a value's name has if the value is a secret.
const SECRETS: [&str; 6] =
    ["privatekey", "presharedkey", "secret", "password", "passphrase", "token"];

fn number(node: Node<'_, '_>, attribute: &str) -> Option<u32> {
    node.attribute(attribute)?.parse().ok()
}

fn child<'a, 'input>(of: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    of.children().find(|node| node.tag_name().name() == name)
}

/// What a `policy` writes; none, if that is nothing that is known here.
pub(super) fn setting(policy: Node<'_, '_>) -> Option<Setting> {
    let constant = |of: Node<'_, '_>, name| number(child(child(of, name)?, "decimal")?, "value");
    let Some(elements) = child(policy, "elements") else {
        let choices =
            Choices::Switch(constant(policy, "enabledValue")?, constant(policy, "disabledValue")?);
        return Some(Setting { value: policy.attribute("valueName")?.into(), choices });
    };
    let mut elements = elements.children().filter(Node::is_element);
    let element = elements.next().filter(|_| elements.next().is_none())?;
    if element.tag_name().name() == "list" {
        let is_named = element.attribute("explicitValue") == Some("true");
        let adds = element.attribute("additive") == Some("true");
        let (_, key) = policy.attribute("key")?.rsplit_once('\\')?;
        return (is_named && adds).then(|| Setting { value: key.into(), choices: Choices::List });
    }
    let choices = match element.tag_name().name() {
        "decimal" => Choices::Number(number(element, "minValue")?, number(element, "maxValue")?),
        "enum" => {
            let items = element.children().filter(Node::is_element);
            Choices::Items(items.map(|item| constant(item, "value")).collect::<Option<_>>()?)
        }
        "text" => Choices::Text(number(element, "maxLength")?),
        _ => return None,
    };
    Some(Setting { value: element.attribute("valueName")?.into(), choices })
}

pub(super) fn check(admx: &File<'_>, adml: &File<'_>, problems: &mut Vec<Problem>) {
    let mut found = HashSet::new();
    for policy in admx.all("policy") {
        let Some(setting) = setting(policy) else {
            let text = "it writes nothing, or not one value";
            problems.push(admx.problem(policy, Rule::Table, text));
            continue;
        };
        let name = setting.value.to_ascii_lowercase();
        if SECRETS.iter().any(|secret| name.contains(secret)) {
            let text = format!("{}: everybody may read policies", setting.value);
            problems.push(admx.problem(policy, Rule::Secret, text));
            continue;
        }
        let row = rows().find(|row| row.name == setting.value);
        let (wanted, told) = match &row {
            Some(row) => (choices(row), told(row)),
            None if setting.value == TUNNELS => (Choices::List, vec!["Default: none\n".into()]),
            None => {
                let text = TextPolicy::ALL.iter().find(|text| text.name() == setting.value);
                let Some(text) = text else {
                    let text = format!("the policy table has no {}", setting.value);
                    problems.push(admx.problem(policy, Rule::Table, text));
                    continue;
                };
                let told = vec![
                    text.description().into(),
                    format!("Default: {}\n", text.default()),
                    format!("Unit: {}\n", text.form()),
                    format!("Range: up to {} characters", text.longest()),
                ];
                (Choices::Text(text.longest() as u32), told)
            }
        };
        if setting.choices != wanted {
            let text =
                format!("{}: {:?}, and the table has {wanted:?}", setting.value, setting.choices);
            problems.push(admx.problem(policy, Rule::Table, text));
        }
        let explained = string(adml, policy.attribute("explainText").unwrap_or_default());
        for told in told {
            if !explained.is_some_and(|text| text.contains(&told)) {
                let text = format!("{}: the explanation does not say `{told}`", setting.value);
                problems.push(admx.problem(policy, Rule::Explanation, text));
            }
        }
        if let Some(row) = row {
            shown(adml, policy, &row, problems);
        }
        found.insert(setting.value);
    }
    let texts = TextPolicy::ALL.iter().map(|text| text.name());
    let names = rows().map(|row| row.name).chain(texts).chain([TUNNELS]);
    for name in names.filter(|name| !found.contains(*name)) {
        let text = format!("there is no setting for {name}");
        problems.push(admx.problem(admx.document.root_element(), Rule::Complete, text));
    }
}

/// What the setting of a row is to write: a switch where the table has no and yes, items where it names each number.
fn choices(row: &Row) -> Choices {
    let (least, most) = (*row.range.start(), *row.range.end());
    match items(row) {
        Some(_) if (least, most) == (0, 1) => Choices::Switch(1, 0),
        Some(_) => Choices::Items((least..=most).collect()),
        None => Choices::Number(least, most),
    }
}

/// What each number of a row stands for, if it is numbers that stand for something.
fn items(row: &Row) -> Option<Vec<&'static str>> {
    let texts: Option<Vec<_>> = row
        .range
        .clone()
        .map_while(|number| {
            let (_, text) = row.unit.split_once(&format!("{number} "))?;
            Some(text.split_once(&format!(", {} ", number + 1)).map_or(text, |(text, _)| text))
        })
        .map(Some)
        .collect();
    let first = format!("{} ", row.range.start());
    texts.filter(|_| row.unit.starts_with(&first))
}

/// What the explanation of a row says.
fn told(row: &Row) -> Vec<String> {
    let (range, default) = (&row.range, row.default);
    vec![
        row.description.into(),
        format!("Default: {default}\n"),
        format!("Unit: {}\n", row.unit),
        format!("Range: {} to {}", range.start(), range.end()),
    ]
}

fn string<'a>(adml: &'a File<'_>, named: &str) -> Option<&'a str> {
    let id = named.strip_prefix("$(string.")?.strip_suffix(')')?;
    adml.all("string").find(|node| node.attribute("id") == Some(id))?.text()
}

/// What the editor shows before anything is changed is the default, and items are called what they are.
fn shown(adml: &File<'_>, policy: Node<'_, '_>, row: &Row, problems: &mut Vec<Problem>) {
    let controls = adml.all("presentation").flat_map(|node| node.children());
    for control in controls.filter(|node| node.attribute("refId") == Some(row.name)) {
        let shown = control.attribute("defaultItem").or(control.attribute("defaultValue"));
        let default = row.default.to_string();
        if shown != Some(&default) {
            let text = format!("{}: {shown:?} is shown, and the default is {default}", row.name);
            problems.push(adml.problem(control, Rule::Table, text));
        }
    }
    let named = policy.descendants().filter(|node| node.tag_name().name() == "item");
    let named = named.map(|item| string(adml, item.attribute("displayName").unwrap_or_default()));
    for (called, is) in named.zip(items(row).unwrap_or_default()) {
        if !called.is_some_and(|called| called.eq_ignore_ascii_case(is)) {
            let text = format!("{}: `{is}` is called {called:?}", row.name);
            problems.push(adml.problem(adml.document.root_element(), Rule::Table, text));
        }
    }
}
