//! Reads Rust declarations, as far as `nt/src/sys` uses Rust.

use std::collections::BTreeMap;

use crate::layout::{Record, Shape};

/// What the files read so far declare.
#[derive(Debug, Default)]
pub struct Raw {
    /// `repr(C)` structures.
    pub records: BTreeMap<String, Record>,
    /// Constants at the top of a file, by name, as written.
    pub constants: Vec<(String, String)>,
    /// Statics that are GUIDs, by name, as the kit writes them: `{5926DFC8-...}`.
    pub guids: Vec<(String, String)>,
    /// Routines in `extern` blocks, and how many parameters they have.
    pub functions: BTreeMap<String, usize>,
    /// Entries of tables of functions: index, name.
    pub entries: Vec<(u64, String)>,
    aliases: BTreeMap<String, String>,
}

impl Raw {
    /// Reads one file; first those whose types it uses.
    ///
    /// # Panics
    ///
    /// At a type whose size it does not know.
    pub fn read(&mut self, text: &str) {
        let lines: Vec<&str> =
            text.lines().map(|line| line.split("//").next().unwrap_or_default()).collect();
        let text = lines.join("\n");
        for line in &lines {
            self.entry(line);
        }
        for item in
            text.split("\n\n").flat_map(|part| part.split("\npub(crate) ").collect::<Vec<_>>())
        {
            let item =
                item.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
            if let Some((name, what)) =
                item.strip_prefix("type ").and_then(|rest| rest.split_once('='))
            {
                self.aliases.insert(name.trim().to_owned(), up_to_semicolon(what));
            }
        }
        self.scan_constants(&text);
        self.scan_guids(&text);
        self.scan_records(&text);
        self.scan_functions(&text);
    }

    fn entry(&mut self, line: &str) {
        if let Some((index, rest)) = line.trim().split_once(' ')
            && let Ok(index) = index.parse()
            && let Some((name, _)) = rest.split_once('(')
        {
            self.entries.push((index, name.to_owned()));
        }
    }

    fn scan_constants(&mut self, text: &str) {
        for line in text.lines() {
            let line = line.trim_start_matches("pub(crate) ").trim_start_matches("pub ");
            if let Some((name, rest)) =
                line.strip_prefix("const ").and_then(|rest| rest.split_once(':'))
                && name != "_"
                && let Some((_, value)) = rest.split_once('=')
            {
                self.constants.push((name.to_owned(), up_to_semicolon(value)));
            }
        }
    }

    fn scan_guids(&mut self, text: &str) {
        for item in text.split("static ").skip(1) {
            let Some((name, rest)) = item.split_once(": GUID = GUID {") else { continue };
            let digits: String = rest[..rest.find('}').expect("the GUID's end")]
                .split(['[', ',', ':', ']'])
                .filter_map(|part| part.trim().strip_prefix("0x"))
                .map(|part| part.replace('_', ""))
                .collect();
            let [a, b, c, d] = [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20]];
            self.guids.push((name.to_owned(), format!("{{{a}-{b}-{c}-{d}-{}}}", &digits[20..])));
        }
    }

    fn scan_records(&mut self, text: &str) {
        let mut rest = text;
        while let Some(at) = rest.find("#[repr(C") {
            rest = &rest[at..];
            let keyword = rest.find("struct ").expect("a struct after repr(C)");
            let attributes = &rest[..keyword];
            rest = &rest[keyword + "struct ".len()..];
            let end = rest.find(['{', '(', '<']).expect("a body");
            let name = rest[..end].trim().to_owned();
            let close = if rest[end..].starts_with('{') { "\n}" } else { ");" };
            let body = &rest[end + 1..rest.find(close).expect("the body's end")];
            let mut record = Record::new(false);
            if let Some((_, align)) = attributes.split_once("align(") {
                let digits = align.split(')').next().unwrap_or_default();
                record.align_to(digits.parse().expect("an alignment"));
            }
            for field in split_at_commas(body) {
                let field =
                    field.trim().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
                let (name, kind) = field.split_once(':').unwrap_or(("opaque", field));
                let shape = self.shape(kind.trim());
                match self.records.get(kind.trim()) {
                    Some(inner) => record.push_record(Some(name), &inner.clone()),
                    None => record.push(name, shape),
                }
            }
            self.records.insert(name, record);
        }
    }

    fn scan_functions(&mut self, text: &str) {
        let mut rest = text;
        while let Some(at) = rest.find("unsafe extern \"") {
            rest = &rest[at + 1..];
            let Some(open) = rest.find('{').filter(|open| !rest[..*open].contains("fn")) else {
                continue;
            };
            let body = &rest[open..rest.find("\n}").expect("the block's end")];
            for function in
                body.split(';').filter_map(|item| item.split_once("fn ").map(|(_, f)| f))
            {
                let (name, rest) = function.split_once('(').expect("parameters");
                let parameters = &rest[..rest.rfind(')').expect("their end")];
                let count = split_at_commas(parameters).len();
                self.functions.insert(name.to_owned(), count);
            }
        }
    }

    /// Size and alignment of a type.
    fn shape(&self, kind: &str) -> Shape {
        let kind = kind.trim();
        if let Some(array) = kind.strip_prefix('[').and_then(|array| array.strip_suffix(']')) {
            let (element, count) = array.rsplit_once(';').expect("an array's length");
            return self.shape(element).times(count.trim().parse().expect("a number of elements"));
        }
        if let Some(record) = self.records.get(kind) {
            return record.shape();
        }
        if let Some(alias) = self.aliases.get(kind) {
            return self.shape(alias);
        }
        match kind {
            "u8" | "i8" | "BOOLEAN" => Shape::scalar(1),
            "u16" | "i16" => Shape::scalar(2),
            "u32" | "i32" | "ULONG" | "NTSTATUS" => Shape::scalar(4),
            "u64" | "i64" | "usize" | "PMDL" | "PIRP" => Shape::scalar(8),
            _ if ["*mut ", "*const ", "Option<", "unsafe extern"]
                .iter()
                .any(|p| kind.starts_with(p)) =>
            {
                Shape::POINTER
            }
            _ => panic!("how large is a {kind}?"),
        }
    }
}

fn up_to_semicolon(text: &str) -> String {
    text.split(';').next().unwrap_or_default().trim().to_owned()
}

/// The parts between commas that are in no brackets; empty ones left out.
fn split_at_commas(text: &str) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut depth = 0;
    let mut previous = ' ';
    for character in text.chars() {
        match character {
            '(' | '[' | '<' => depth += 1,
            ')' | ']' => depth -= 1,
            '>' if previous != '-' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(String::new());
                previous = character;
                continue;
            }
            _ => {}
        }
        previous = character;
        parts.last_mut().expect("never empty").push(character);
    }
    parts.retain(|part| !part.trim().is_empty());
    parts
}
