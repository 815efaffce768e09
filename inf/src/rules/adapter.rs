//! What Windows is told of the adapter, and which of its keywords an administrator may set.

use std::collections::HashMap;

use super::{Report, Rule, references::Package, registry::Value};
use crate::{
    SERVICE,
    keywords::{ADAPTER, KEYWORDS, Keyword, Values},
    text::number,
};

/// The key of all keywords.
const PARAMS: &str = r"Ndi\Params\";
/// Values beside the keywords: what protocols are bound to it, and that it has no DHCP.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/network/specifying-binding-interfaces>.
const BESIDE: [(&str, &str, &str); 4] = [
    ("Ndi", "Service", SERVICE),
    (r"Ndi\Interfaces", "UpperRange", "ndis5"),
    (r"Ndi\Interfaces", "LowerRange", "nolower"),
    ("", "EnableDhcp", "0"),
];

/// The values of keywords, by key and name in small letters.
type Found = HashMap<(String, String), String>;

pub(super) fn check(report: &mut Report<'_>, package: &Package<'_>) {
    for install in &package.installs {
        for (name, value) in ADAPTER {
            let entry = install.entry(name);
            let line = entry.map_or(install.line, |entry| entry.line);
            let is = entry.is_some_and(|entry| number(entry.field(0)) == Some(*value));
            report.expect(is, line, Rule::Adapter, || format!("{name} is not {value}"));
        }
    }
    let mut found = Found::new();
    let mut keywords: Vec<(usize, String)> = Vec::new();
    for entry in package.device_values.iter().flat_map(|section| &section.entries) {
        let Value { line, key, name, data, .. } = Value::read(report, entry);
        let start = key.get(..PARAMS.len()).filter(|start| start.eq_ignore_ascii_case(PARAMS));
        match start.and_then(|_| key.get(PARAMS.len()..)) {
            Some(keyword) => {
                let keyword = keyword.split('\\').next().unwrap_or_default().to_owned();
                if !keywords.iter().any(|(_, known)| *known == keyword) {
                    keywords.push((line, keyword));
                }
            }
            None => {
                let known = BESIDE.iter().any(|(of, named, value)| {
                    key.eq_ignore_ascii_case(of)
                        && name.eq_ignore_ascii_case(named)
                        && data == *value
                });
                report.expect(known, line, Rule::Adapter, || {
                    format!("`{name}` of key `{key}` is not to be `{data}`")
                });
            }
        }
        found.insert((key.to_ascii_lowercase(), name.to_ascii_lowercase()), data);
    }
    for (key, name, _) in BESIDE {
        let name_of = (key.to_ascii_lowercase(), name.to_ascii_lowercase());
        report.expect(found.contains_key(&name_of), 1, Rule::Adapter, || {
            format!("`{name}` of key `{key}` is missing")
        });
    }
    for (line, name) in &keywords {
        match KEYWORDS.iter().find(|keyword| keyword.name.eq_ignore_ascii_case(name)) {
            None => report.tell(*line, Rule::Keyword, format!("nobody reads `{name}`")),
            Some(keyword) => {
                let wrong = wrong_keyword(keyword, &mut found);
                wrong.into_iter().for_each(|wrong| report.tell(*line, Rule::Keyword, wrong));
            }
        }
    }
    for keyword in KEYWORDS {
        let has = keywords.iter().any(|(_, name)| name.eq_ignore_ascii_case(keyword.name));
        report.expect(has, 1, Rule::Keyword, || format!("`{}` is missing", keyword.name));
    }
}

/// What a keyword's values are and are not to be; takes what it has looked at.
fn wrong_keyword(keyword: &Keyword, found: &mut Found) -> Vec<String> {
    let mut wrong = Vec::new();
    let key = format!("{PARAMS}{}", keyword.name).to_ascii_lowercase();
    let list = format!(r"{key}\enum");
    let mut take =
        |key: &str, name: &str| found.remove(&(key.to_owned(), name.to_ascii_lowercase()));
    let mut is = |name: &str, value: &str| {
        let said = take(&key, name);
        if said.as_deref() != Some(value) {
            wrong.push(format!("{}: {name} is {said:?}, and not {value}", keyword.name));
        }
    };
    let (least, most) = (keyword.least, keyword.most);
    is("Default", &keyword.default.to_string());
    match keyword.values {
        Values::Int => {
            is("Type", "int");
            is("Min", &least.to_string());
            is("Max", &most.to_string());
            is("Step", "1");
            is("Base", "10");
        }
        Values::Enum => is("Type", "enum"),
    }
    if take(&key, "ParamDesc").is_none_or(|text| text.is_empty()) {
        wrong.push(format!("{}: there is no ParamDesc", keyword.name));
    }
    if keyword.values == Values::Enum {
        for value in least..=most {
            if take(&list, &value.to_string()).is_none_or(|text| text.is_empty()) {
                wrong.push(format!("{}: value {value} is not in its list", keyword.name));
            }
        }
    }
    let left = found.keys().filter(|(of, _)| *of == key || of.starts_with(&format!(r"{key}\")));
    wrong.extend(left.map(|(_, name)| format!("{}: `{name}` is not to be there", keyword.name)));
    wrong
}
