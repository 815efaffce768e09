//! `scripts/windbg/penstock.natvis`: it is in the PDB, debuggers can read it, each of its types and members is there, and no view
//! comes to a key.
//!
//! Source: <https://learn.microsoft.com/visualstudio/debugger/create-custom-views-of-native-objects>, and the schema in
//! <https://code.visualstudio.com/docs/cpp/natvis>; of both the part that is used.

mod pdb;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use pdb_addr2line::pdb::PDB;
use roxmltree::{Document, Node};

use pdb::{Type, Types};

/// An element: its name, the attributes it must and may have, and the elements in it, in their order; one with none has text.
type Rule =
    (&'static str, &'static [&'static str], &'static [&'static str], &'static [&'static str]);

const RULES: &[Rule] = &[
    ("AutoVisualizer", &[], &[], &["Type"]),
    ("Type", &["Name"], &["Priority"], &["AlternativeType", "DisplayString", "Expand"]),
    ("AlternativeType", &["Name"], &[], &[]),
    ("DisplayString", &[], &["Condition", "Optional"], &[]),
    ("Expand", &[], &["HideRawView"], &["Item", "ExpandedItem", "ArrayItems", "LinkedListItems"]),
    ("Item", &["Name"], &["Condition", "Optional"], &[]),
    ("ExpandedItem", &[], &["Condition", "Optional"], &[]),
    ("ArrayItems", &[], &["Condition", "Optional"], &["Size", "ValuePointer"]),
    (
        "LinkedListItems",
        &[],
        &["Condition", "Optional"],
        &["Size", "HeadPointer", "NextPointer", "ValueNode"],
    ),
    ("Size", &[], &[], &[]),
    ("ValuePointer", &[], &[], &[]),
    ("HeadPointer", &[], &[], &[]),
    ("NextPointer", &[], &[], &[]),
    ("ValueNode", &[], &[], &[]),
];
/// Of these there may be more than one, and none.
const MANY: [&str; 5] = ["Type", "AlternativeType", "DisplayString", "Item", "ExpandedItem"];
/// What may follow an expression's last comma. Source: WDD debuggercmds/dx--display-visualizer-variables-.
const FORMATS: [&str; 3] = ["d", "x", "en"];
const NAMESPACE: &str = "http://schemas.microsoft.com/vstudio/debugger/natvis/2010";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn file() -> String {
    std::fs::read_to_string(root().join("scripts/windbg/penstock.natvis")).unwrap()
}

/// What of an element is not as the schema has it, and of those in it.
fn malformed(node: Node<'_, '_>, faults: &mut Vec<String>) {
    let name = node.tag_name().name();
    let Some((_, must, may, inner)) = RULES.iter().find(|rule| rule.0 == name) else {
        faults.push(format!("<{name}> is unknown"));
        return;
    };
    let has: Vec<&str> = node.attributes().map(|it| it.name()).collect();
    faults.extend(
        must.iter().filter(|it| !has.contains(it)).map(|it| format!("<{name}> has no {it}")),
    );
    let unknown = has.iter().filter(|it| !must.contains(it) && !may.contains(it));
    faults.extend(unknown.map(|it| format!("<{name}> has {it}")));
    for (attribute, known) in [
        ("Priority", &["Low", "MediumLow", "Medium", "MediumHigh", "High"][..]),
        ("Optional", &["true", "false"]),
        ("HideRawView", &["true", "false"]),
    ] {
        let value = node.attribute(attribute).filter(|value| !known.contains(value));
        faults.extend(value.map(|value| format!("<{name} {attribute}={value:?}>")));
    }
    let mut place = 0;
    let mut seen = BTreeSet::new();
    for child in node.children().filter(Node::is_element) {
        let child_name = child.tag_name().name();
        match inner.iter().position(|it| *it == child_name) {
            // What is shown is in any order; what describes a list, or a type, is not.
            Some(at) if at >= place || name == "Expand" => place = at,
            Some(_) => faults.push(format!("<{child_name}> comes too late in <{name}>")),
            None => faults.push(format!("<{child_name}> in <{name}>")),
        }
        if !seen.insert(child_name) && !MANY.contains(&child_name) {
            faults.push(format!("a second <{child_name}> in <{name}>"));
        }
        malformed(child, faults);
    }
    for needed in ["ValuePointer", "HeadPointer", "NextPointer", "ValueNode"] {
        if inner.contains(&needed) && !seen.contains(needed) {
            faults.push(format!("no <{needed}> in <{name}>"));
        }
    }
    let text = node.children().filter(Node::is_text).filter_map(|it| it.text());
    let text = text.collect::<String>().trim().to_owned();
    if text.is_empty() != (!inner.is_empty() || name == "AlternativeType") {
        faults.push(format!("<{name}> has the text {text:?}"));
    }
}

/// What stands for the stars of `pattern` in `name`, if it is one of its names.
fn captured<'n>(pattern: &str, name: &'n str) -> Option<Vec<&'n str>> {
    let Some((before, after)) = pattern.split_once('*') else {
        return (pattern == name).then(Vec::new);
    };
    let rest = name.strip_prefix(before)?;
    let mut depth = 0_i32;
    for (at, letter) in rest.char_indices() {
        match letter {
            '<' => depth += 1,
            '>' if depth == 0 => {
                let mut found = captured(after, &rest[at..])?;
                found.insert(0, rest[..at].trim_end());
                return Some(found);
            }
            '>' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The first of a template's arguments.
fn first_argument(arguments: &str) -> &str {
    let mut depth = 0_i32;
    let end = arguments.find(|letter| {
        depth += i32::from(letter == '<') - i32::from(letter == '>');
        letter == ',' && depth == 0
    });
    arguments[..end.unwrap_or(arguments.len())].trim_end()
}

/// Types that hold keys, by crate and name: of which `never_printed!` (crypto/src/lib.rs) says so, and what they are made of.
struct Keys(BTreeSet<(String, String)>);

impl Keys {
    fn read() -> Self {
        let mut found = BTreeSet::new();
        let mut folders = vec![root().join("crypto/src")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                if entry.is_dir() {
                    folders.push(entry);
                    continue;
                }
                let source = std::fs::read_to_string(entry).unwrap();
                for list in source.split("crate::never_printed!(").skip(1) {
                    for name in list.split_once(");").unwrap().0.split(',') {
                        let name = name.split('<').next().unwrap().trim();
                        let of = if name.starts_with("abi::") { "abi" } else { "crypto" };
                        let last = name.rsplit("::").next().unwrap();
                        found.insert((of.to_owned(), last.to_owned()));
                    }
                }
            }
        }
        assert!(
            found.contains(&("crypto".into(), "Secret".into())) && found.len() > 15,
            "{found:?}"
        );
        Self(found)
    }

    fn is_one(&self, name: &str) -> bool {
        let path = name.split(['<', '>']).next().unwrap_or(name);
        let (first, last) = (path.split("::").next(), path.rsplit("::").next());
        let pair = (first.unwrap_or("").to_owned(), last.unwrap_or("").to_owned());
        self.0.contains(&pair) || ["x25519_dalek", "zeroize"].contains(&pair.0.as_str())
    }

    /// Whether it is what holds a key, or a counted reference to such a thing.
    fn is_near(&self, name: &str) -> bool {
        let shared = name.strip_prefix("crypto::sync::shared::Shared<");
        self.is_one(name) || shared.is_some_and(|inner| self.is_one(inner))
    }

    /// Whether a key lies in it, or a counted reference to one: a debugger that shows all its members shows these.
    fn are_in(&self, types: &Types, of: &Type) -> bool {
        let name = match of {
            Type::Structure(name) => name,
            Type::Array(element) => return self.are_in(types, &types.get(*element)),
            _ => return false,
        };
        self.is_near(name)
            || types.structures.get(name).is_some_and(|members| {
                members.values().flatten().any(|member| self.are_in(types, &types.get(*member)))
            })
    }
}

/// One view, for one type that it is for.
struct View<'v> {
    types: &'v Types,
    keys: &'v Keys,
    patterns: &'v [String],
    this: Type,
    /// Stands for `$T1`.
    argument: &'v str,
}

impl View<'_> {
    fn evaluate(&self, text: &str, this: &Type) -> Result<Type, String> {
        let text = text.replace("$T1", self.argument);
        let mut steps = Vec::new();
        let found = self.types.evaluate(&text, this, &mut steps)?;
        let near = |it: &&Type| matches!(it, Type::Structure(name) if self.keys.is_near(name));
        if let Some(key) = steps.iter().chain([&found]).find(near) {
            return Err(format!("it comes to a key: {key:?}"));
        }
        Ok(found)
    }

    /// One that is shown, with its format.
    fn shown(&self, text: &str) -> Result<(), String> {
        let (expression, format) = match text.rsplit_once(',') {
            Some((expression, format)) => (expression, Some(format)),
            None => (text, None),
        };
        if let Some(format) = format.filter(|format| !FORMATS.contains(format)) {
            return Err(format!("the format {format:?}"));
        }
        let found = self.evaluate(expression, &self.this)?;
        if let Type::Structure(name) = &found {
            let is_viewed = self.patterns.iter().any(|it| captured(it, name).is_some());
            if !is_viewed && self.keys.are_in(self.types, &found) {
                return Err(format!("all of {name} is shown, in which are keys"));
            }
        }
        Ok(())
    }

    fn list(&self, node: Node<'_, '_>) -> Result<(), String> {
        let text = |name: &str| {
            let child = node.children().find(|child| child.has_tag_name((NAMESPACE, name)));
            child.and_then(|child| child.text()).map(str::trim)
        };
        let number = |text: Option<&str>| match text.map(|text| self.evaluate(text, &self.this)) {
            None | Some(Ok(Type::Number)) => Ok(()),
            other => Err(format!("the size: {other:?}")),
        };
        number(text("Size"))?;
        let first = text("ValuePointer").or(text("HeadPointer")).unwrap_or_default();
        let target = self.types.target(&self.evaluate(first, &self.this)?)?;
        if let Some(next) = text("NextPointer") {
            let after = self.types.target(&self.evaluate(next, &target)?)?;
            if format!("{after:?}") != format!("{target:?}") {
                return Err(format!("{after:?} comes after {target:?}"));
            }
            self.evaluate(text("ValueNode").unwrap_or_default(), &target)?;
        } else if matches!(&target, Type::Structure(name) if self.keys.is_near(name)) {
            return Err(format!("elements are keys: {target:?}"));
        }
        Ok(())
    }

    fn check(&self, node: Node<'_, '_>) -> Result<(), String> {
        if let Some(condition) = node.attribute("Condition") {
            match self.evaluate(condition, &self.this)? {
                Type::Number => {}
                other => return Err(format!("{other:?} is no condition")),
            }
        }
        let text = node.text().unwrap_or_default().trim();
        match node.tag_name().name() {
            "DisplayString" => {
                let parts = text.split('{').skip(1).map(|part| part.split_once('}'));
                parts.into_iter().try_for_each(|part| self.shown(part.ok_or("a brace")?.0))
            }
            "Item" | "ExpandedItem" => self.shown(text),
            "ArrayItems" | "LinkedListItems" => self.list(node),
            "Expand" if node.attribute("HideRawView") != Some("true") => {
                if self.keys.are_in(self.types, &self.this) {
                    return Err("its raw view has keys".into());
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// All that is wrong with a file of views.
fn faults(text: &str, types: &Types, keys: &Keys) -> Vec<String> {
    let mut faults = Vec::new();
    let document = match Document::parse(text) {
        Ok(document) => document,
        Err(error) => return vec![error.to_string()],
    };
    if document.root_element().tag_name().namespace() != Some(NAMESPACE) {
        faults.push("another namespace".into());
    }
    malformed(document.root_element(), &mut faults);
    let views = || document.root_element().children().filter(Node::is_element);
    let names = |view: Node<'_, '_>| -> Vec<String> {
        let alternatives =
            view.children().filter(|it| it.has_tag_name((NAMESPACE, "AlternativeType")));
        let named = [view].into_iter().chain(alternatives);
        named.filter_map(|it| it.attribute("Name")).map(str::to_owned).collect()
    };
    let patterns: Vec<String> = views().flat_map(names).collect();
    for pattern in &patterns {
        if patterns.iter().filter(|it| *it == pattern).count() > 1 {
            faults.push(format!("{pattern} is described twice"));
        }
        if keys.is_near(pattern) {
            faults.push(format!("{pattern} is a key"));
        }
    }
    for view in views() {
        for pattern in names(view) {
            let mut matches = 0;
            for name in types.structures.keys() {
                let Some(stars) = captured(&pattern, name) else { continue };
                matches += 1;
                let argument = first_argument(stars.first().unwrap_or(&""));
                let this = Type::Structure(name.clone());
                let view_of = View { types, keys, patterns: &patterns, this, argument };
                for node in view.descendants().filter(Node::is_element) {
                    if let Err(fault) = view_of.check(node) {
                        faults.push(format!("{name}: {:?}: {fault}", node.text().unwrap_or("")));
                    }
                }
                if keys.are_in(types, &view_of.this)
                    && !view.descendants().any(|it| it.has_tag_name((NAMESPACE, "Expand")))
                {
                    faults.push(format!("{name}: all of it is shown, in which are keys"));
                }
            }
            if matches == 0 {
                faults.push(format!("the PDB has no {pattern}"));
            }
        }
    }
    faults
}

#[test]
fn it_is_in_the_pdb_as_it_is() {
    let mut pdb =
        PDB::open(File::open(crate::code::built().with_extension("pdb")).unwrap()).unwrap();
    let information = pdb.pdb_information().unwrap();
    let names: Vec<String> =
        information.stream_names().unwrap().iter().map(|it| it.name.to_string().into()).collect();
    let ours: Vec<&String> = names.iter().filter(|it| it.ends_with("-penstock.natvis")).collect();
    let [name] = ours.as_slice() else { panic!("{names:?}") };
    assert!(name.starts_with("/src/files/") && names.contains(&"/src/headerblock".into()));
    let stream = pdb.named_stream(name.as_bytes()).unwrap();
    assert!(stream.as_slice() == file().as_bytes(), "scripts/build.sh was run before a change");
}

#[test]
fn each_type_and_member_is_there_and_no_view_comes_to_a_key() {
    let (types, keys) = (Types::read(), Keys::read());
    let text = file();
    assert_eq!(faults(&text, &types, &keys), [""; 0]);

    // And each kind of fault is found.
    let wrong = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        faults(&text.replacen(from, to, 1), &types, &keys).join("\n")
    };
    for (from, to, found) in [
        ("natvis/2010", "natvis/2009", "another namespace"),
        ("</AutoVisualizer>", "", "never closed"),
        ("<Type Name=\"penstock::Core\">", "<Type>", "<Type> has no Name"),
        ("<Expand HideRawView=\"true\">", "<Expand HideRawView=\"yes\">", "HideRawView=\"yes\""),
        ("<Size>len</Size>", "<Count>len</Count>", "<Count> is unknown"),
        ("<ValueNode>value</ValueNode>", "", "no <ValueNode> in <LinkedListItems>"),
        ("penstock::Core\"", "penstock::Kern\"", "the PDB has no penstock::Kern"),
        ("{local_index,x}", "{own_index,x}", "has no own_index"),
        (">local_index,x<", ">local_index,hex<", "the format \"hex\""),
        ("up.v.value.__0 == 0", "up == 0", "is no number"),
        ("value.next.__0", "value.after.__0", "has no after"),
        (">born,d<", ">keys<", "it comes to a key"),
        (">local_index,x<", ">keys.counted.pointer->value.sending.words<", "it comes to a key"),
        (">public_key<", ">mac_keys<", "it comes to a key"),
        (">public_key<", ">secrets<", "it comes to a key"),
        ("Device\">\n", "Devices\">\n", "the PDB has no penstock::device::Devices"),
    ] {
        let said = wrong(from, to);
        assert!(said.contains(found), "{from:?} to {to:?}: no {found:?} in {said:?}");
    }
    let shows_all = text.replace(" HideRawView=\"true\"", "");
    let said = faults(&shows_all, &types, &keys).join("\n");
    let named: BTreeMap<&str, usize> = ["Device", "Tunnel<", "Peer<", "Keypair<"]
        .map(|name| (name, said.matches(name).count()))
        .into();
    assert!(named.values().all(|count| *count > 0), "{said}");
}
