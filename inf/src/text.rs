//! The text of an INF file: sections, entries, fields, and the tokens that stand for strings.
//!
//! Nothing is refused here but what cannot be read at all; what an entry may say is [`crate::rules`]' business.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/install/general-syntax-rules-for-inf-files>.

use std::collections::HashMap;

use crate::rules::{Problem, Rule};

/// An INF file.
pub struct Inf {
    sections: Vec<Section>,
    strings: HashMap<String, String>,
}

/// A section: all that stands under one name, which may be in several places.
pub struct Section {
    /// As it is first written.
    pub name: String,
    /// Where it begins, from 1 on.
    pub line: usize,
    /// In their order.
    pub entries: Vec<Entry>,
}

/// An entry: `KEY = FIELD, FIELD` or `FIELD, FIELD`.
pub struct Entry {
    /// Where it begins, from 1 on.
    pub line: usize,
    /// What is left of the first `=`.
    pub key: Option<String>,
    /// What is between commas; quotes are gone, tokens are not yet.
    pub fields: Vec<String>,
}

impl Inf {
    /// Reads the bytes of a file. Problems are what could not be read; the rest is there.
    #[must_use]
    pub fn read(bytes: &[u8]) -> (Self, Vec<Problem>) {
        let mut problems = Vec::new();
        let text = decoded(bytes, &mut problems);
        let mut sections: Vec<Section> = Vec::new();
        let mut current = None;
        for (line, words) in joined_lines(&text) {
            let words = words.trim();
            if words.is_empty() {
                continue;
            }
            if let Some(rest) = words.strip_prefix('[') {
                let Some(name) = rest.strip_suffix(']').filter(|name| is_section_name(name)) else {
                    let text = format!("`{words}` is no section's name: it is written [NAME]");
                    problems.push(Problem::new(line, Rule::Syntax, text));
                    continue;
                };
                let known =
                    sections.iter().position(|section| section.name.eq_ignore_ascii_case(name));
                current = Some(known.unwrap_or_else(|| {
                    sections.push(Section { name: name.into(), line, entries: Vec::new() });
                    sections.len() - 1
                }));
                continue;
            }
            match (current.and_then(|current| sections.get_mut(current)), Entry::read(line, words))
            {
                (None, _) => {
                    let text = "an entry before the first section".into();
                    problems.push(Problem::new(line, Rule::Syntax, text));
                }
                (_, None) => {
                    let text = "a quotation that does not end".into();
                    problems.push(Problem::new(line, Rule::Syntax, text));
                }
                (Some(section), Some(entry)) => section.entries.push(entry),
            }
        }
        let mut inf = Self { sections, strings: HashMap::new() };
        inf.strings = inf.read_strings();
        (inf, problems)
    }

    fn read_strings(&self) -> HashMap<String, String> {
        let entries = self.section("Strings").into_iter().flat_map(|strings| &strings.entries);
        let named = entries.filter_map(|entry| Some((entry.key.as_ref()?, entry.fields.first()?)));
        named.map(|(key, value)| (key.to_ascii_lowercase(), value.clone())).collect()
    }

    /// All sections, in their order.
    #[must_use]
    pub fn sections(&self) -> &[Section] {
        &self.sections
    }

    /// The section of this name; case does not matter.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name.eq_ignore_ascii_case(name))
    }

    /// The text with its tokens replaced. `%13%` and other directories stay, `%%` is one percent sign.
    ///
    /// # Errors
    ///
    /// The name of a token that `[Strings]` does not have.
    pub fn resolve(&self, text: &str) -> Result<String, String> {
        let mut resolved = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            resolved += before;
            if let Some(after) = after.strip_prefix('%') {
                resolved.push('%');
                rest = after;
                continue;
            }
            let Some((token, after)) = after.split_once('%') else {
                return Err(format!("{after} (its second `%` is missing)"));
            };
            match self.strings.get(&token.to_ascii_lowercase()) {
                Some(value) => resolved += value,
                None if is_number(token) => resolved += &format!("%{token}%"),
                None => return Err(token.into()),
            }
            rest = after;
        }
        Ok(resolved + rest)
    }

    /// The text with its tokens replaced, or as it stands: [`Rule::StringMissing`] tells of it elsewhere.
    #[must_use]
    pub fn resolved(&self, text: &str) -> String {
        self.resolve(text).unwrap_or_else(|_| text.into())
    }
}

impl Section {
    /// The first entry with this key; case does not matter.
    #[must_use]
    pub fn entry(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.has_key(key))
    }
}

impl Entry {
    /// Reads an entry; none, if a quotation does not end.
    fn read(line: usize, words: &str) -> Option<Self> {
        let (mut key, mut fields) = (None, Vec::new());
        let (mut field, mut quoted, mut was_quoted) = (String::new(), false, false);
        let mut rest = words.chars().peekable();
        while let Some(character) = rest.next() {
            match character {
                '"' if quoted && rest.next_if_eq(&'"').is_some() => field.push('"'),
                '"' => (quoted, was_quoted) = (!quoted, true),
                '=' if !quoted && key.is_none() && fields.is_empty() => {
                    key = Some(ended(&mut field, &mut was_quoted));
                }
                ',' if !quoted => fields.push(ended(&mut field, &mut was_quoted)),
                // Around a field space does not count; between its words it does.
                space if space.is_whitespace() && !quoted && (field.is_empty() || was_quoted) => {}
                character => field.push(character),
            }
        }
        fields.push(ended(&mut field, &mut was_quoted));
        (!quoted).then_some(Self { line, key, fields })
    }

    /// Whether its key is this; case does not matter.
    #[must_use]
    pub fn has_key(&self, key: &str) -> bool {
        self.key.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(key))
    }

    /// The field of this number, from 0 on; empty if it is not there.
    #[must_use]
    pub fn field(&self, number: usize) -> &str {
        self.fields.get(number).map_or("", String::as_str)
    }
}

/// The field that ends here; the next begins empty.
fn ended(field: &mut String, was_quoted: &mut bool) -> String {
    let mut text = std::mem::take(field);
    if !std::mem::take(was_quoted) {
        text.truncate(text.trim_end().len());
    }
    text
}

/// A number as it is written in an INF: decimal, or hexadecimal after `0x`.
#[must_use]
pub fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u32::from_str_radix(digits, 16).ok().filter(|_| !digits.starts_with('+')),
        None => text.parse().ok().filter(|_| is_number(text)),
    }
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_section_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 255 && !name.contains(['[', ']', ';', '"', '%'])
}

/// The text of a file in ASCII, or in UTF-16 with its mark.
fn decoded(bytes: &[u8], problems: &mut Vec<Problem>) -> String {
    if let Some(wide) = bytes.strip_prefix(&[0xff, 0xfe]) {
        let units = wide.chunks(2).map(|pair| match *pair {
            [low, high] => u16::from_le_bytes([low, high]),
            _ => 0xffff,
        });
        let text: Result<String, _> = char::decode_utf16(units).collect();
        if let (Ok(text), true) = (text, wide.len().is_multiple_of(2)) {
            return text;
        }
        let text = "it begins as UTF-16 and is none".into();
        problems.push(Problem::new(1, Rule::Encoding, text));
        return String::new();
    }
    if let Some(position) = bytes.iter().position(|byte| !byte.is_ascii() || *byte == 0) {
        let line = bytes.iter().take(position).filter(|byte| **byte == b'\n').count() + 1;
        let text =
            "a byte that is not ASCII: write it in ASCII, or the file in UTF-16 with its mark";
        problems.push(Problem::new(line, Rule::Encoding, text.into()));
    }
    String::from_utf8_lossy(bytes).into_owned()
}

/// Lines without comments, those joined that end with a backslash, each with the number of its first.
fn joined_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines: Vec<(usize, String)> = Vec::new();
    let mut goes_on = false;
    for (position, line) in text.lines().enumerate() {
        let words = without_comment(line).trim_end();
        let (words, more) = words.strip_suffix('\\').map_or((words, false), |words| (words, true));
        match lines.last_mut().filter(|_| goes_on) {
            Some((_, before)) => *before += words,
            None => lines.push((position + 1, words.into())),
        }
        goes_on = more;
    }
    lines
}

fn without_comment(line: &str) -> &str {
    let mut quoted = false;
    let comment = line.char_indices().find(|(_, character)| {
        quoted ^= *character == '"';
        *character == ';' && !quoted
    });
    comment.map_or(line, |(position, _)| line.get(..position).unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Inf {
        let (inf, problems) = Inf::read(text.as_bytes());
        assert!(problems.is_empty(), "{problems:?}");
        inf
    }

    #[test]
    fn entries_have_keys_and_fields() {
        let inf = read("[A]\nkey = one, \"two, 2\" , ,four ; five\nHKR,,x,,\"say \"\"so\"\"\"\n");
        let [keyed, plain] = &inf.section("a").unwrap().entries[..] else { panic!() };
        assert_eq!(keyed.key.as_deref(), Some("key"));
        assert_eq!(keyed.fields, ["one", "two, 2", "", "four"]);
        assert_eq!((plain.line, plain.key.as_deref()), (3, None));
        assert_eq!(plain.fields, ["HKR", "", "x", "", "say \"so\""]);
    }

    #[test]
    fn lines_go_on_and_sections_are_one_by_name() {
        let inf = read("[A]\nx = 1, \\\n  2\n[B]\n[a]\ny = \"a;b\" ; c\n");
        let section = inf.section("A").unwrap();
        assert_eq!(section.entry("X").unwrap().fields, ["1", "2"]);
        assert_eq!(section.entry("y").unwrap().fields, ["a;b"]);
        assert_eq!(inf.sections().len(), 2);
    }

    #[test]
    fn tokens_are_replaced() {
        let inf = read("[Strings]\nName = \"Pen\"\n");
        assert_eq!(inf.resolve("%name%stock %13%\\x %%Root%%").unwrap(), "Penstock %13%\\x %Root%");
        assert_eq!(inf.resolve("%other%").unwrap_err(), "other");
        assert!(inf.resolve("50%").is_err());
    }

    #[test]
    fn utf_16_is_read_as_well() {
        let bytes: Vec<u8> =
            "\u{feff}[A]\nx = 1\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let (inf, problems) = Inf::read(&bytes);
        assert!(problems.is_empty(), "{problems:?}");
        assert_eq!(inf.section("A").unwrap().entry("x").unwrap().field(0), "1");
        assert_eq!(Inf::read(&bytes[..9]).1.len(), 1, "half a unit");
    }

    #[test]
    fn numbers() {
        for (text, expected) in
            [("0x10001", Some(0x10001)), ("7", Some(7)), ("+7", None), ("0x+7", None)]
        {
            assert_eq!(number(text), expected, "{text}");
        }
        assert_eq!((number(""), number("0x"), number("4294967296")), (None, None, None));
    }
}
