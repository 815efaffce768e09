//! Reads C declarations, as far as `scripts/wdk/include` and the entry object use C.

use std::{collections::BTreeMap, iter::Peekable, slice::Iter};

use crate::layout::{Record, Shape};

/// A routine, or the type of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// What it returns.
    pub returns: String,
    /// Type and name of each parameter; the name may be empty.
    pub parameters: Vec<(String, String)>,
}

/// Everything declared in the headers read so far.
#[derive(Debug)]
pub struct Headers {
    /// Structures and unions by the name of their `typedef`.
    pub records: BTreeMap<String, Record>,
    /// Members of enumerations by the enumeration's name.
    pub enums: BTreeMap<String, Vec<(String, i64)>>,
    /// Numbers that were `#define`d.
    pub constants: BTreeMap<String, i64>,
    /// Routines.
    pub functions: BTreeMap<String, Signature>,
    /// Types of routines, and pointers to them.
    pub function_types: BTreeMap<String, Signature>,
    shapes: BTreeMap<String, Shape>,
}

type Tokens<'t> = Peekable<Iter<'t, String>>;

impl Default for Headers {
    fn default() -> Self {
        let shapes = [("void", 0), ("char", 1), ("short", 2), ("int", 4), ("long", 4)];
        let shapes = shapes.map(|(name, size)| (name.to_owned(), Shape::scalar(size)));
        Self {
            records: BTreeMap::new(),
            enums: BTreeMap::new(),
            constants: BTreeMap::new(),
            functions: BTreeMap::new(),
            function_types: BTreeMap::new(),
            shapes: shapes.into(),
        }
    }
}

impl Headers {
    /// Reads one header after those it includes.
    ///
    /// # Panics
    ///
    /// At anything it does not know.
    pub fn read(&mut self, text: &str) {
        let text = without_comments(text);
        let mut code = String::new();
        for line in text.lines() {
            match line.trim().strip_prefix("#define ") {
                Some(define) => self.define(define),
                None if line.trim_start().starts_with('#') => {}
                None => {
                    code.push_str(line);
                    code.push('\n');
                }
            }
        }
        for statement in statements(&tokens(&code)) {
            self.statement(&statement);
        }
    }

    /// Keeps the define if it is a number.
    fn define(&mut self, define: &str) {
        if let Some((name, value)) = define.trim().split_once(' ')
            && let Ok(value) = value.trim().parse()
        {
            self.constants.insert(name.to_owned(), value);
        }
    }

    /// Takes one declaration.
    fn statement(&mut self, statement: &[String]) {
        let mut tokens = statement.iter().peekable();
        match tokens.peek().map(|token| token.as_str()) {
            None | Some("extern" | "PENSTOCK_ONE_COPY" | "KMDF_VERSION_MINOR") => {}
            Some("PENSTOCK_WDF_HANDLE") => {
                self.shapes.insert(statement[2].clone(), Shape::POINTER);
            }
            Some("typedef") => {
                tokens.next();
                self.typedef(&mut tokens);
            }
            Some("struct") if statement.contains(&"{".to_owned()) => {
                tokens.next();
                let tag = tokens.next().expect("a tag").trim_start_matches('_').to_owned();
                let record = self.record(&mut tokens, false);
                self.name_record(tag, record);
            }
            Some(_) => self.function(&mut tokens),
        }
        assert!(tokens.next().is_none() || statement[0] != "typedef", "{}", statement.join(" "));
    }

    fn name_record(&mut self, name: String, record: Record) {
        self.shapes.insert(name.clone(), record.shape());
        self.records.insert(name, record);
    }

    fn typedef(&mut self, tokens: &mut Tokens<'_>) {
        let kind = tokens.peek().map_or("", |token| token.as_str());
        let defines = tokens.clone().any(|token| token == "{");
        let mut record = None;
        let base = match kind {
            "enum" if defines => {
                let members = self.members(tokens);
                let name = tokens.peek().expect("a name").to_string();
                self.enums.insert(name, members);
                Shape::scalar(4)
            }
            "struct" | "union" if defines => {
                let union = tokens.next().is_some_and(|kind| kind == "union");
                let made = self.record(tokens, union);
                let shape = made.shape();
                record = Some(made);
                shape
            }
            _ => {
                let (base, words) = self.base(tokens);
                if tokens.peek().is_some_and(|token| *token == "(") {
                    let (name, _, signature) = self.function_declarator(tokens, words);
                    self.shapes.insert(name.clone(), Shape::POINTER);
                    self.function_types.insert(name, signature);
                    return;
                }
                base
            }
        };
        while let Some(token) = tokens.next() {
            let mut name = token;
            let mut pointer = false;
            while name == "*" {
                pointer = true;
                name = tokens.next().expect("a name after *");
            }
            if name == "," {
                continue;
            }
            if let (Some(record), false) = (&record, pointer) {
                self.name_record(name.clone(), record.clone());
            }
            let shape = if pointer { Shape::POINTER } else { base };
            self.shapes.insert(name.clone(), shape);
        }
    }

    /// `enum _TAG { A = 1, … }`.
    fn members(&self, tokens: &mut Tokens<'_>) -> Vec<(String, i64)> {
        let inside: Vec<_> = tokens
            .by_ref()
            .skip_while(|token| *token != "{")
            .skip(1)
            .take_while(|token| *token != "}")
            .cloned()
            .collect();
        let mut next = 0;
        inside
            .split(|token| token == ",")
            .filter(|member| !member.is_empty())
            .map(|member| {
                if let Some(value) = member.get(2..).filter(|value| !value.is_empty()) {
                    next = self.number(value);
                }
                let member = (member[0].clone(), next);
                next += 1;
                member
            })
            .collect()
    }

    /// A sum of numbers and names of numbers.
    fn number(&self, tokens: &[String]) -> i64 {
        let (mut sum, mut sign) = (0, 1);
        for token in tokens {
            match token.as_str() {
                "+" => sign = 1,
                "-" => sign = -1,
                word => {
                    let value = word.parse().ok().or_else(|| self.constants.get(word).copied());
                    sum += sign * value.unwrap_or_else(|| panic!("not a number: {word}"));
                }
            }
        }
        sum
    }

    /// `_TAG { members }`, the tag and an alignment before it being optional.
    fn record(&self, tokens: &mut Tokens<'_>, union: bool) -> Record {
        let mut record = Record::new(union);
        while let Some(token) = tokens.next_if(|token| *token != "{") {
            if token == "PENSTOCK_ALIGN" {
                record.align_to(alignment(tokens));
            }
        }
        tokens.next();
        while tokens.next_if(|token| *token == "}").is_none() {
            self.member(tokens, &mut record);
        }
        record
    }

    /// One member, or several of one type, with the semicolon.
    fn member(&self, tokens: &mut Tokens<'_>, record: &mut Record) {
        let mut align = 1;
        while tokens.next_if(|token| *token == "PENSTOCK_ALIGN").is_some() {
            align = alignment(tokens);
        }
        let kind = tokens.peek().expect("a member").to_string();
        let inline = tokens.clone().take_while(|token| *token != ";").any(|token| token == "{");
        if inline && (kind == "struct" || kind == "union") {
            tokens.next();
            let inner = self.record(tokens, kind == "union");
            let name = tokens.next_if(|token| *token != ";");
            record.push_record(name.map(String::as_str), &inner);
            assert_eq!(tokens.next().map(String::as_str), Some(";"));
            return;
        }
        let (base, words) = self.base(tokens);
        if tokens.peek().is_some_and(|token| *token == "(") {
            let (name, ..) = self.function_declarator(tokens, words);
            record.push(&name, Shape::POINTER);
            assert_eq!(tokens.next().map(String::as_str), Some(";"));
            return;
        }
        loop {
            let mut shape = base;
            while tokens.next_if(|token| *token == "*").is_some() {
                shape = Shape::POINTER;
            }
            let name = tokens.next().expect("a name").clone();
            if tokens.next_if(|token| *token == "[").is_some() {
                let count: Vec<_> =
                    tokens.by_ref().take_while(|token| *token != "]").cloned().collect();
                shape = shape.times(usize::try_from(self.number(&count)).expect("a length"));
            }
            shape.align = shape.align.max(align);
            match self.records.get(words.trim()) {
                Some(inner) if shape.size == inner.shape().size => {
                    record.push_record(Some(&name), inner)
                }
                _ => record.push(&name, shape),
            }
            if tokens.next().is_some_and(|token| token == ";") {
                return;
            }
        }
    }

    /// The type before the declarator: its shape and its words.
    fn base(&self, tokens: &mut Tokens<'_>) -> (Shape, String) {
        let mut words = Vec::new();
        let mut shape = None;
        let mut longs = 0;
        while let Some(token) = tokens.peek().map(|token| token.as_str()) {
            match token {
                "const" | "volatile" | "unsigned" | "signed" => {}
                "struct" | "union" | "enum" => {
                    // Named only: what is pointed to.
                    words.push(tokens.next().expect("seen").clone());
                    words.push(tokens.next().expect("a tag").clone());
                    shape = Some(Shape::scalar(0));
                    continue;
                }
                "long" => {
                    longs += 1;
                    shape = Some(Shape::scalar(4 * longs));
                }
                word if shape.is_none() && self.shapes.contains_key(word) => {
                    shape = Some(self.shapes[word]);
                }
                _ => break,
            }
            words.push(tokens.next().expect("seen").clone());
        }
        let shape = shape.unwrap_or_else(|| panic!("unknown type before {:?}", tokens.peek()));
        (shape, words.join(" "))
    }

    /// `(NTAPI *NAME)(parameters)` after what it returns.
    fn function_declarator(
        &self,
        tokens: &mut Tokens<'_>,
        returns: String,
    ) -> (String, bool, Signature) {
        let declarator: Vec<_> =
            tokens.by_ref().skip(1).take_while(|token| *token != ")").collect();
        let pointer = declarator.contains(&&"*".to_owned());
        let name = declarator.last().expect("a name").to_string();
        (name, pointer, Signature { returns, parameters: parameters(tokens) })
    }

    /// `RETURNS NTAPI NAME(parameters)`.
    fn function(&mut self, tokens: &mut Tokens<'_>) {
        let (_, returns) = self.base(tokens);
        tokens.next_if(|token| *token == "NTAPI");
        let name = tokens.next().expect("a routine's name").clone();
        let parameters = parameters(tokens);
        self.functions.insert(name, Signature { returns, parameters });
    }
}

/// `(bytes)`.
fn alignment(tokens: &mut Tokens<'_>) -> usize {
    let bytes = tokens.by_ref().skip(1).take_while(|token| *token != ")").last();
    bytes.and_then(|bytes| bytes.parse().ok()).expect("an alignment")
}

/// `(TYPE name, …)`: types as one word each, a variable rest left out.
fn parameters(tokens: &mut Tokens<'_>) -> Vec<(String, String)> {
    assert_eq!(tokens.next().map(String::as_str), Some("("));
    let mut depth = 1;
    let mut inside: Vec<Vec<String>> = vec![Vec::new()];
    for token in tokens.by_ref() {
        match token.as_str() {
            "(" => depth += 1,
            ")" => depth -= 1,
            "," if depth == 1 => {
                inside.push(Vec::new());
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            break;
        }
        inside.last_mut().expect("never empty").push(token.clone());
    }
    let named =
        inside.into_iter().filter(|words| !matches!(words.join("").as_str(), "" | "VOID" | "..."));
    named
        .map(|mut words| {
            let name = if words.len() > 1 && words.last().is_some_and(|word| word != "*") {
                words.pop().unwrap_or_default()
            } else {
                String::new()
            };
            (words.join(" "), name)
        })
        .collect()
}

fn without_comments(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("/*") {
        out.push_str(before);
        rest = after.split_once("*/").expect("a comment's end").1;
    }
    out.push_str(rest);
    out
}

fn tokens(code: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut word = String::new();
    for character in code.chars() {
        if character.is_alphanumeric() || character == '_' {
            word.push(character);
            continue;
        }
        if !word.is_empty() {
            tokens.push(std::mem::take(&mut word));
        }
        if character == '.' && tokens.last().is_some_and(|last| last.ends_with('.')) {
            tokens.last_mut().expect("just seen").push('.');
        } else if !character.is_whitespace() {
            tokens.push(character.to_string());
        }
    }
    tokens
}

/// Splits at semicolons that are in no braces.
fn statements(tokens: &[String]) -> Vec<Vec<String>> {
    let mut statements = vec![Vec::new()];
    let mut depth = 0;
    for token in tokens {
        match token.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            ";" if depth == 0 => {
                statements.push(Vec::new());
                continue;
            }
            _ => {}
        }
        statements.last_mut().expect("never empty").push(token.clone());
    }
    statements
}
