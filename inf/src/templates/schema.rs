//! Which elements there may be, where, how often, and with which attributes.
//!
//! Written from the published pages of the elements, and of them only what these templates use: an element that is not
//! here is refused. Source: <https://learn.microsoft.com/previous-versions/windows/desktop/policy/admx-schema>.

use roxmltree::Node;

use super::{File, Problem, Rule};

/// The namespace of both files' elements.
pub(super) const NAMESPACE: &str =
    "http://schemas.microsoft.com/GroupPolicy/2006/07/PolicyDefinitions";

/// An element: its attributes, and its children in their order.
struct Element {
    must_have: &'static [&'static str],
    may_have: &'static [&'static str],
    children: &'static [Child],
    /// Children may be in any order.
    in_any_order: bool,
    /// It has a text.
    has_text: bool,
}

pub(super) struct Child {
    name: &'static str,
    element: &'static Element,
    least: usize,
    most: usize,
}

const fn one(name: &'static str, element: &'static Element) -> Child {
    Child { name, element, least: 1, most: 1 }
}
const fn at_most_one(name: &'static str, element: &'static Element) -> Child {
    Child { name, element, least: 0, most: 1 }
}
const fn some(name: &'static str, element: &'static Element) -> Child {
    Child { name, element, least: 1, most: usize::MAX }
}
const fn any(name: &'static str, element: &'static Element) -> Child {
    Child { name, element, least: 0, most: usize::MAX }
}

const PLAIN: Element =
    Element { must_have: &[], may_have: &[], children: &[], in_any_order: false, has_text: false };
const TEXT: Element = Element { has_text: true, ..PLAIN };
const REFERENCE: Element = Element { must_have: &["ref"], ..PLAIN };
const VALUE: Element =
    Element { children: &[one("decimal", &Element { must_have: &["value"], ..PLAIN })], ..PLAIN };
const ITEM: Element =
    Element { must_have: &["displayName"], children: &[one("value", &VALUE)], ..PLAIN };
const POLICY: Element = Element {
    must_have: &["name", "class", "displayName", "explainText", "key"],
    may_have: &["valueName", "presentation"],
    children: &[
        one("parentCategory", &REFERENCE),
        one("supportedOn", &REFERENCE),
        at_most_one("enabledValue", &VALUE),
        at_most_one("disabledValue", &VALUE),
        at_most_one(
            "elements",
            &Element {
                children: &[
                    any(
                        "decimal",
                        &Element {
                            must_have: &["id", "valueName", "minValue", "maxValue"],
                            may_have: &["required"],
                            ..PLAIN
                        },
                    ),
                    any(
                        "enum",
                        &Element {
                            must_have: &["id", "valueName"],
                            may_have: &["required"],
                            children: &[some("item", &ITEM)],
                            ..PLAIN
                        },
                    ),
                    any(
                        "list",
                        &Element {
                            must_have: &["id", "explicitValue"],
                            may_have: &["additive"],
                            ..PLAIN
                        },
                    ),
                    any(
                        "text",
                        &Element {
                            must_have: &["id", "valueName", "maxLength"],
                            may_have: &["required"],
                            ..PLAIN
                        },
                    ),
                ],
                in_any_order: true,
                ..PLAIN
            },
        ),
    ],
    ..PLAIN
};

/// `policyDefinitions`
pub(super) const ADMX: Child = one(
    "policyDefinitions",
    &Element {
        must_have: &["revision", "schemaVersion"],
        children: &[
            one(
                "policyNamespaces",
                &Element {
                    children: &[
                        one("target", &Element { must_have: &["prefix", "namespace"], ..PLAIN }),
                        any("using", &Element { must_have: &["prefix", "namespace"], ..PLAIN }),
                    ],
                    ..PLAIN
                },
            ),
            one(
                "resources",
                &Element {
                    must_have: &["minRequiredRevision"],
                    may_have: &["fallbackCulture"],
                    ..PLAIN
                },
            ),
            at_most_one(
                "supportedOn",
                &Element {
                    children: &[one(
                        "definitions",
                        &Element {
                            children: &[some(
                                "definition",
                                &Element { must_have: &["name", "displayName"], ..PLAIN },
                            )],
                            ..PLAIN
                        },
                    )],
                    ..PLAIN
                },
            ),
            at_most_one(
                "categories",
                &Element {
                    children: &[some(
                        "category",
                        &Element {
                            must_have: &["name", "displayName"],
                            may_have: &["explainText"],
                            children: &[at_most_one("parentCategory", &REFERENCE)],
                            ..PLAIN
                        },
                    )],
                    ..PLAIN
                },
            ),
            at_most_one("policies", &Element { children: &[some("policy", &POLICY)], ..PLAIN }),
        ],
        ..PLAIN
    },
);

/// `policyDefinitionResources`
pub(super) const ADML: Child = one(
    "policyDefinitionResources",
    &Element {
        must_have: &["revision", "schemaVersion"],
        children: &[
            one("displayName", &TEXT),
            one("description", &TEXT),
            one(
                "resources",
                &Element {
                    children: &[
                        one(
                            "stringTable",
                            &Element {
                                children: &[some(
                                    "string",
                                    &Element { must_have: &["id"], ..TEXT },
                                )],
                                ..PLAIN
                            },
                        ),
                        at_most_one(
                            "presentationTable",
                            &Element { children: &[some("presentation", &PRESENTATION)], ..PLAIN },
                        ),
                    ],
                    ..PLAIN
                },
            ),
        ],
        ..PLAIN
    },
);
const PRESENTATION: Element = Element {
    must_have: &["id"],
    children: &[
        any("decimalTextBox", &Element { must_have: &["refId", "defaultValue"], ..TEXT }),
        any(
            "dropdownList",
            &Element { must_have: &["refId", "defaultItem"], may_have: &["noSort"], ..TEXT },
        ),
        any("listBox", &Element { must_have: &["refId"], ..TEXT }),
        any(
            "textBox",
            &Element { must_have: &["refId"], children: &[one("label", &TEXT)], ..PLAIN },
        ),
    ],
    in_any_order: true,
    ..PLAIN
};

pub(super) fn check(file: &File<'_>, root: &Child, problems: &mut Vec<Problem>) {
    let node = file.document.root_element();
    if !node.has_tag_name((NAMESPACE, root.name)) {
        let text = format!("the file is no {} of {NAMESPACE}", root.name);
        return problems.push(file.problem(node, Rule::Schema, text));
    }
    if node.attribute("schemaVersion") != Some("1.0") {
        problems.push(file.problem(node, Rule::Schema, "schemaVersion is not 1.0"));
    }
    element(file, node, root.element, problems);
}

fn element(file: &File<'_>, node: Node<'_, '_>, known: &Element, problems: &mut Vec<Problem>) {
    let name = node.tag_name().name();
    let mut tell = |text: String| problems.push(file.problem(node, Rule::Schema, text));
    for attribute in node.attributes() {
        let is = |known: &&str| *known == attribute.name() && attribute.namespace().is_none();
        if !known.must_have.iter().chain(known.may_have).any(is) {
            tell(format!("<{name}> has no attribute {}", attribute.name()));
        }
    }
    for attribute in known.must_have.iter().filter(|attribute| !node.has_attribute(**attribute)) {
        tell(format!("<{name}> has no {attribute}, and must"));
    }
    let said = node.text().is_some_and(|text| !text.trim().is_empty());
    if said != known.has_text {
        tell(format!("<{name}> {} a text", if said { "has" } else { "has not" }));
    }
    for child in known.children {
        let times = node.children().filter(|other| other.tag_name().name() == child.name).count();
        if !(child.least..=child.most).contains(&times) {
            tell(format!("<{name}> has <{}> {times} times", child.name));
        }
    }
    let mut reached = 0;
    for child in node.children().filter(Node::is_element) {
        let place =
            known.children.iter().position(|known| child.has_tag_name((NAMESPACE, known.name)));
        let Some((position, found)) = place.and_then(|at| Some((at, known.children.get(at)?)))
        else {
            let text = format!("<{}> does not belong into <{name}>", child.tag_name().name());
            problems.push(file.problem(child, Rule::Schema, text));
            continue;
        };
        if position < reached && !known.in_any_order {
            let text = format!("<{}> stands too late in <{name}>", child.tag_name().name());
            problems.push(file.problem(child, Rule::Schema, text));
        }
        reached = position;
        element(file, child, found.element, problems);
    }
}
