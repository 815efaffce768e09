//! The Group Policy templates: `penstock.admx`, what may be set, and `en-US/penstock.adml`, what is said of it.
//!
//! Windows shows a template that is wrong as an error in the editor, or as a setting that writes something else than it
//! says. What is checked here: the order and the attributes of elements ([`schema`]), that ids, strings and presentations
//! find each other ([`references`]), and that settings are those of the policy table ([`table`]).
//!
//! What a setting writes is below [`KEY`], which is Group Policy's own: it goes when the policy does.
//!
//! Source: <https://learn.microsoft.com/previous-versions/windows/desktop/policy/admx-schema>.

use std::fmt;

use roxmltree::{Document, Node};

mod references;
mod schema;
mod table;

#[cfg(test)]
mod tests;

/// What may be set.
pub const ADMX: &str = include_str!("../penstock.admx");
/// What is said of it.
pub const ADML: &str = include_str!("../en-US/penstock.adml");
/// Where all of it is written, below HKEY_LOCAL_MACHINE.
pub const KEY: &str = r"Software\Policies\Penstock";

/// What is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The file is no XML.
    Xml,
    /// Elements are in their order, as often as they may be, with the attributes they have.
    Schema,
    /// The ADML is of a revision that the ADMX asks for.
    Revision,
    /// A name is there once.
    Twice,
    /// What is referred to is there.
    Missing,
    /// What is there is referred to.
    Unused,
    /// An element has a control of its kind, and a control an element.
    Control,
    /// A setting is the machine's, and is written where only Group Policy writes.
    Place,
    /// A setting is a row of the policy table, with its range and default.
    Table,
    /// A row of the policy table has a setting.
    Complete,
    /// The explanation says default, unit and range.
    Explanation,
    /// Nothing that may be set is a secret: everybody may read policies.
    Secret,
    /// No names that are others'.
    Trademark,
}

impl Rule {
    /// Every rule.
    pub const ALL: &[Self] = &[
        Self::Xml,
        Self::Schema,
        Self::Revision,
        Self::Twice,
        Self::Missing,
        Self::Unused,
        Self::Control,
        Self::Place,
        Self::Table,
        Self::Complete,
        Self::Explanation,
        Self::Secret,
        Self::Trademark,
    ];
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// In which of the two files.
    pub file: &'static str,
    /// Where, from 1 on.
    pub line: u32,
    /// What was broken.
    pub rule: Rule,
    /// How.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, line, rule, text } = self;
        write!(f, "{file}: line {line}: {rule:?}: {text}")
    }
}

/// One of the two files, read.
struct File<'a> {
    name: &'static str,
    document: Document<'a>,
}

impl<'a> File<'a> {
    fn read(name: &'static str, text: &'a str, problems: &mut Vec<Problem>) -> Option<Self> {
        match Document::parse(text) {
            Ok(document) => Some(Self { name, document }),
            Err(error) => {
                let line = error.pos().row;
                problems.push(Problem {
                    file: name,
                    line,
                    rule: Rule::Xml,
                    text: error.to_string(),
                });
                None
            }
        }
    }

    fn problem(&self, at: Node<'_, '_>, rule: Rule, text: impl Into<String>) -> Problem {
        let line = self.document.text_pos_at(at.range().start).row;
        Problem { file: self.name, line, rule, text: text.into() }
    }

    /// All elements of this name.
    fn all(&self, name: &str) -> impl Iterator<Item = Node<'_, 'a>> {
        self.document.descendants().filter(move |node| node.has_tag_name((schema::NAMESPACE, name)))
    }
}

/// What is wrong with the two files.
#[must_use]
pub fn check(admx: &str, adml: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    let admx = File::read("penstock.admx", admx, &mut problems);
    let adml = File::read("penstock.adml", adml, &mut problems);
    if let (Some(admx), Some(adml)) = (admx, adml) {
        schema::check(&admx, &schema::ADMX, &mut problems);
        schema::check(&adml, &schema::ADML, &mut problems);
        references::check(&admx, &adml, &mut problems);
        table::check(&admx, &adml, &mut problems);
    }
    problems
}

/// A setting of the template, and what it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The registry value.
    pub value: String,
    /// What that may become.
    pub choices: Choices,
}

/// What a setting may write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choices {
    /// A number if it is enabled, another if it is disabled.
    Switch(u32, u32),
    /// The number of one item.
    Items(Vec<u32>),
    /// A number from the first to the second.
    Number(u32, u32),
    /// A text of at most so many characters.
    Text(u32),
    /// Texts by names that the administrator gives, in a key that is called as the setting; others of the key stay.
    List,
}

impl Setting {
    /// The numbers that Group Policy may be made to write, of a range its ends; none for a text.
    #[must_use]
    pub fn numbers(&self) -> Vec<u32> {
        match &self.choices {
            Choices::Switch(enabled, disabled) => vec![*enabled, *disabled],
            Choices::Items(items) => items.clone(),
            Choices::Number(least, most) => vec![*least, *most],
            Choices::Text(_) | Choices::List => Vec::new(),
        }
    }
}

/// The settings of the template in the repository, in its order.
///
/// # Errors
///
/// That it is no template.
pub fn settings() -> Result<Vec<Setting>, String> {
    let mut problems = Vec::new();
    let file = File::read("penstock.admx", ADMX, &mut problems);
    let file = file.ok_or_else(|| problems.iter().map(Problem::to_string).collect::<String>())?;
    let settings = file.all("policy").map(|policy| {
        let name = policy.attribute("name").unwrap_or_default();
        table::setting(policy)
            .ok_or_else(|| format!("{name}: this writes nothing that is known here"))
    });
    settings.collect()
}
