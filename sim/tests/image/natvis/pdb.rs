//! The types of the driver's PDB, by name, and what an expression of a debugger's comes to in them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use pdb_addr2line::pdb::{FallibleIterator, PDB, TypeData, TypeIndex};

/// A type, as far as expressions go through it.
#[derive(Clone, Debug)]
pub(super) enum Type {
    /// A structure or union, of this name.
    Structure(String),
    /// To a type of the table.
    Pointer(TypeIndex),
    /// To a type that was named in a cast.
    PointerTo(String),
    Array(TypeIndex),
    /// A number, truth value or enumeration.
    Number,
}

/// What the PDB says.
pub(super) struct Types {
    all: BTreeMap<TypeIndex, Type>,
    /// Members of structures that are told in full: names, and types. Those of static members are numbers.
    pub(super) structures: BTreeMap<String, BTreeMap<String, Option<TypeIndex>>>,
    numbers: BTreeSet<String>,
}

/// Of C++, as far as casts name them.
const NUMBERS: [&str; 2] = ["int", "unsigned __int64"];

impl Types {
    pub(super) fn read() -> Self {
        let file = File::open(crate::code::built().with_extension("pdb")).unwrap();
        let information = PDB::open(file).unwrap().type_information().unwrap();
        let mut finder = information.finder();
        let mut rows = Vec::new();
        let mut every = information.iter();
        while let Some(row) = every.next().unwrap() {
            finder.update(&every);
            rows.push(row);
        }
        let mut fields: BTreeMap<TypeIndex, Vec<TypeData<'_>>> = BTreeMap::new();
        let mut types = Self {
            all: BTreeMap::new(),
            structures: BTreeMap::new(),
            numbers: NUMBERS.map(str::to_owned).into(),
        };
        for row in &rows {
            let kind = match row.parse() {
                Ok(TypeData::FieldList(list)) => {
                    fields.insert(row.index(), list.fields);
                    continue;
                }
                Ok(TypeData::Class(class)) => Type::Structure(class.name.to_string().into_owned()),
                Ok(TypeData::Union(union)) => Type::Structure(union.name.to_string().into_owned()),
                Ok(TypeData::Pointer(pointer)) => Type::Pointer(pointer.underlying_type),
                Ok(TypeData::Array(array)) => Type::Array(array.element_type),
                Ok(TypeData::Enumeration(it)) => {
                    types.numbers.insert(it.name.to_string().into_owned());
                    Type::Number
                }
                _ => continue,
            };
            types.all.insert(row.index(), kind);
        }
        for row in &rows {
            let (name, list, is_forward) = match row.parse() {
                Ok(TypeData::Class(it)) => (it.name, it.fields, it.properties.forward_reference()),
                Ok(TypeData::Union(it)) => {
                    (it.name, Some(it.fields), it.properties.forward_reference())
                }
                _ => continue,
            };
            if is_forward {
                continue;
            }
            let members = list.and_then(|list| fields.get(&list)).into_iter().flatten();
            let members = members.filter_map(|member| match member {
                TypeData::Member(it) => {
                    Some((it.name.to_string().into_owned(), Some(it.field_type)))
                }
                TypeData::StaticMember(it) => Some((it.name.to_string().into_owned(), None)),
                _ => None,
            });
            types.structures.insert(name.to_string().into_owned(), members.collect());
        }
        types
    }

    pub(super) fn get(&self, index: TypeIndex) -> Type {
        // What is not in the table is a number, or a pointer to one.
        self.all.get(&index).cloned().unwrap_or(Type::Number)
    }

    fn member(&self, of: &Type, name: &str) -> Result<Type, String> {
        let Type::Structure(structure) = of else { return Err(format!(".{name} of {of:?}")) };
        let members = self.structures.get(structure);
        let members = members.ok_or_else(|| format!("the PDB tells nothing of {structure}"))?;
        let member = members.get(name).ok_or_else(|| format!("{structure} has no {name}"))?;
        Ok(member.map_or(Type::Number, |index| self.get(index)))
    }

    /// What a pointer leads to.
    pub(super) fn target(&self, pointer: &Type) -> Result<Type, String> {
        match pointer {
            Type::Pointer(to) => Ok(self.get(*to)),
            Type::PointerTo(name) => Ok(self.named(name).unwrap_or(Type::Number)),
            other => Err(format!("{other:?} is no pointer")),
        }
    }

    fn named(&self, name: &str) -> Option<Type> {
        if self.structures.contains_key(name) {
            return Some(Type::Structure(name.to_owned()));
        }
        self.numbers.contains(name).then_some(Type::Number)
    }

    /// What an expression comes to, in a member of `this`. `steps` gets each type that it goes through.
    pub(super) fn evaluate(
        &self,
        expression: &str,
        this: &Type,
        steps: &mut Vec<Type>,
    ) -> Result<Type, String> {
        let mut reader = Reader { types: self, this, rest: expression, steps };
        let found = reader.expression()?;
        match reader.rest.trim() {
            "" => Ok(found),
            rest => Err(format!("{rest:?} is not understood")),
        }
    }
}

/// Reads the part of C++ that the views use.
struct Reader<'r> {
    types: &'r Types,
    this: &'r Type,
    rest: &'r str,
    steps: &'r mut Vec<Type>,
}

const OPERATORS: [&str; 8] = ["==", "!=", ">>", "&", "*", "+", "-", "|"];

impl<'r> Reader<'r> {
    fn takes(&mut self, text: &str) -> bool {
        let rest = self.rest.trim_start().strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn wants(&mut self, text: &str) -> Result<(), String> {
        if self.takes(text) { Ok(()) } else { Err(format!("no {text:?} before {:?}", self.rest)) }
    }

    fn word(&mut self) -> &'r str {
        self.rest = self.rest.trim_start();
        let end = self.rest.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        let (word, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        self.rest = rest;
        word
    }

    fn expression(&mut self) -> Result<Type, String> {
        let first = self.unary()?;
        if !OPERATORS.iter().any(|operator| self.rest.trim_start().starts_with(operator)) {
            return Ok(first);
        }
        let is_number = |operand: Type| match operand {
            Type::Number => Ok(()),
            other => Err(format!("{other:?} is no number")),
        };
        is_number(first)?;
        while OPERATORS.iter().any(|operator| self.takes(operator)) {
            is_number(self.unary()?)?;
        }
        Ok(Type::Number)
    }

    fn unary(&mut self) -> Result<Type, String> {
        if self.takes("*") {
            let pointer = self.unary()?;
            return self.types.target(&pointer);
        }
        if let Some((to, is_pointer)) = self.cast() {
            let found = self.unary()?;
            if matches!(found, Type::Structure(_) | Type::Array(_)) {
                // A view of a structure is no number: debuggers do not cast it.
                return Err(format!("a cast of {found:?}"));
            }
            return Ok(if is_pointer {
                Type::PointerTo(to.to_owned())
            } else {
                self.types.named(to).unwrap_or(Type::Number)
            });
        }
        let mut found = if self.takes("(") {
            let inner = self.expression()?;
            self.wants(")")?;
            inner
        } else {
            match self.word() {
                "" => return Err(format!("nothing before {:?}", self.rest)),
                number if number.starts_with(|letter: char| letter.is_ascii_digit()) => {
                    Type::Number
                }
                name => self.types.member(self.this, name)?,
            }
        };
        loop {
            self.steps.push(found.clone());
            if self.takes("->") {
                let target = self.types.target(&found)?;
                found = self.types.member(&target, self.word())?;
            } else if self.takes(".") {
                found = self.types.member(&found, self.word())?;
            } else if self.takes("[") {
                self.expression()?;
                self.wants("]")?;
                let Type::Array(element) = found else { return Err(format!("{found:?}[]")) };
                found = self.types.get(element);
            } else {
                return Ok(found);
            }
        }
    }

    /// The type in `(Type*)` or `(Type)`, if such a thing comes next.
    fn cast(&mut self) -> Option<(&'r str, bool)> {
        let inside = self.rest.trim_start().strip_prefix('(')?;
        let end = inside.find(')')?;
        let (name, is_pointer) = match inside[..end].strip_suffix('*') {
            Some(name) => (name, true),
            None => (&inside[..end], false),
        };
        // A pointer to elements may be one to what the PDB has no structure of.
        let is_type = is_pointer || self.types.named(name).is_some();
        is_type.then(|| {
            self.rest = &inside[end + 1..];
            (name, is_pointer)
        })
    }
}
