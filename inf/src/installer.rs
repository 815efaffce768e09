//! `penstock.msi`: its tables, filled in, and whether they are right.
//!
//! An MSI is a database. `installer.tables` has its tables as text; here they are filled in ([`fill`]) and written as the
//! text files that `msibuild` imports ([`Table::exported`]). What is read back from a made MSI is of the same form, so
//! the rules ([`rules`]) judge both. Tools that make the tables from a description of their own were tried and left:
//! wixl turns an action for a rollback into one that runs at once, removes an old product at the wrong place and knows
//! no environment variables, so that half of what it writes had to be written again.
//!
//! Source: <https://learn.microsoft.com/windows/win32/msi/installer-database>, and there "Text Archive Files".

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sha2::{Digest as _, Sha256};

use crate::stamp::Date;

pub mod rules;

#[cfg(test)]
mod tests;

/// The tables as they are in the repository: nothing filled in.
pub const TEMPLATE: &str = include_str!("../installer.tables");
/// The cabinet of the files, as a stream of the MSI.
pub const CABINET: &str = "penstock.cab";

/// A column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// `s` text, `l` text that may be translated, `i` number, upper case where it may be empty, and how long it is.
    pub kind: String,
    /// Whether it is of the key.
    pub is_key: bool,
}

/// A table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// In their order.
    pub columns: Vec<Column>,
    /// Each has as many fields as there are columns.
    pub rows: Vec<Vec<String>>,
}

/// The tables by their names.
pub type Tables = BTreeMap<String, Table>;

/// A row of a table.
#[derive(Clone, Copy)]
pub struct Row<'a> {
    table: &'a Table,
    fields: &'a [String],
}

impl<'a> Row<'a> {
    /// The field of a column; empty, if there is none.
    #[must_use]
    pub fn get(self, column: &str) -> &'a str {
        let at = self.table.columns.iter().position(|found| found.name == column);
        at.and_then(|at| self.fields.get(at)).map_or("", String::as_str)
    }

    /// The same as a number; 0, if it is none.
    #[must_use]
    pub fn number(self, column: &str) -> u32 {
        self.get(column).parse().unwrap_or_default()
    }

    /// The first field, by which rows are named.
    #[must_use]
    pub fn name(self) -> &'a str {
        self.fields.first().map_or("", String::as_str)
    }
}

impl Table {
    /// The rows.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        self.rows.iter().map(|fields| Row { table: self, fields })
    }

    /// The text of which `msibuild` makes the table.
    #[must_use]
    pub fn exported(&self, name: &str) -> String {
        let line = |fields: Vec<&str>| fields.join("\t") + "\r\n";
        let mut text = line(self.columns.iter().map(|column| &*column.name).collect());
        text += &line(self.columns.iter().map(|column| &*column.kind).collect());
        let keys = self.columns.iter().filter(|column| column.is_key).map(|column| &*column.name);
        text += &line([name].into_iter().chain(keys).collect());
        for row in &self.rows {
            text += &line(row.iter().map(String::as_str).collect());
        }
        text
    }
}

/// Reads what [`Table::exported`] or `msiinfo export` wrote: the table's name, and the table.
///
/// # Errors
///
/// That it is none.
pub fn exported(text: &str) -> Result<(String, Table), String> {
    let mut lines = text.lines().map(|line| line.trim_end_matches('\r').split('\t'));
    let mut next = || lines.next().ok_or("it has no three lines of names, types and keys");
    let (names, kinds, mut keys) = (next()?, next()?, next()?);
    let name = keys.next().unwrap_or_default().to_owned();
    let keys: Vec<_> = keys.collect();
    let columns: Vec<_> = names
        .zip(kinds)
        .map(|(name, kind)| Column {
            name: name.to_owned(),
            kind: kind.to_owned(),
            is_key: keys.contains(&name),
        })
        .collect();
    let rows: Vec<Vec<_>> =
        lines.map(|fields| fields.map(str::to_owned).collect::<Vec<_>>()).collect();
    let table = Table { columns, rows };
    whole(&name, &table)?;
    Ok((name, table))
}

/// Reads the form that `installer.tables` has.
///
/// # Errors
///
/// What cannot be read, with its line.
pub fn read(text: &str) -> Result<Tables, String> {
    let mut tables = Tables::new();
    let mut current = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split("  ;").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with(';') {
            continue;
        }
        if let Some((name, columns)) = line.strip_prefix('[').and_then(|line| line.split_once(']'))
        {
            let columns: Option<_> = columns.split_whitespace().map(column).collect();
            let columns = columns.ok_or_else(|| format!("line {number}: a column has a type"))?;
            let table = Table { columns, rows: Vec::new() };
            if tables.insert(name.to_owned(), table).is_some() {
                return Err(format!("line {number}: {name} is there twice"));
            }
            current = Some(name);
            continue;
        }
        let table = current.and_then(|name| tables.get_mut(name));
        let table = table.ok_or_else(|| format!("line {number}: this is a row of no table"))?;
        table.rows.push(line.split(" |").map(|field| field.trim().to_owned()).collect());
    }
    tables.iter().try_for_each(|(name, table)| whole(name, table))?;
    Ok(tables)
}

fn column(text: &str) -> Option<Column> {
    let (name, kind) = text.split_once(':')?;
    let (kind, is_key) = kind.strip_suffix('*').map_or((kind, false), |kind| (kind, true));
    Some(Column { name: name.to_owned(), kind: kind.to_owned(), is_key })
}

fn whole(name: &str, table: &Table) -> Result<(), String> {
    let wanted = table.columns.len();
    match table.rows.iter().find(|row| row.len() != wanted) {
        None => Ok(()),
        Some(row) => {
            let (first, got) = (row.first().map_or("", String::as_str), row.len());
            Err(format!("{name}: {first}: {got} fields, and {wanted} columns"))
        }
    }
}

/// A file that is installed.
#[derive(Clone, Debug)]
pub struct File {
    /// Its key, which is its name.
    pub name: String,
    /// What is in it.
    pub bytes: Vec<u8>,
}

/// The tables of a version, dated, for these files. The product's code and the package's are made of all of it: what is the
/// same has the same codes, and what is not has others.
///
/// # Errors
///
/// A file that the tables do not have, or one of theirs that is not there.
pub fn fill(template: &str, version: &str, seconds: u64, files: &[File]) -> Result<Tables, String> {
    let mut tables =
        read(&template.replace("@VERSION@", version).replace("@DATE@", &time(seconds)))?;
    let mut known: Vec<&str> = Vec::new();
    if let Some(Table { columns, rows }) = tables.get_mut("File") {
        let at = |name: &str| columns.iter().position(|column| column.name == name);
        let (size, of) = (at("FileSize"), at("Version"));
        for row in rows {
            let key = row.first().cloned().unwrap_or_default();
            let file = files.iter().find(|file| file.name == key);
            let file = file.ok_or_else(|| format!("{key}: there is no such file"))?;
            known.push(&file.name);
            if let Some(field) = size.and_then(|at| row.get_mut(at)) {
                *field = file.bytes.len().to_string();
            }
            if let Some(field) = of.and_then(|at| row.get_mut(at)).filter(|field| !field.is_empty())
            {
                *field =
                    file_version(&file.bytes).ok_or_else(|| format!("{key}: it has no version"))?;
            }
        }
    }
    if let Some(file) = files.iter().find(|file| !known.contains(&&*file.name)) {
        return Err(format!("{}: the tables have no such file", file.name));
    }
    let mut hash = Sha256::new();
    for (name, table) in &tables {
        hash.update(table.exported(name));
    }
    files.iter().for_each(|file| hash.update(Sha256::digest(&file.bytes)));
    let hash = hash.finalize();
    let (product, package) = hash.split_at(16);
    let codes = [("@PRODUCT@", guid(product)), ("@PACKAGE@", guid(package))];
    let fields = tables.values_mut().flat_map(|table| table.rows.iter_mut().flatten());
    for field in fields {
        for (mark, code) in &codes {
            if field == mark {
                field.clone_from(code);
            }
        }
    }
    Ok(tables)
}

/// A GUID of 16 bytes that are as good as random, as RFC 9562 has those of one's own making (version 8).
fn guid(bytes: &[u8]) -> String {
    let mut text = String::from("{");
    for (at, byte) in bytes.iter().enumerate() {
        let byte = match at {
            6 => byte & 0x0f | 0x80,
            8 => byte & 0x3f | 0x80,
            _ => *byte,
        };
        let dash = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
        let _ = write!(text, "{dash}{byte:02X}");
    }
    text + "}"
}

/// `YYYY/MM/DD hh:mm:ss`
fn time(seconds: u64) -> String {
    let (Date { year, month, day }, second) = (Date::of(seconds), seconds % 86_400);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}/{month:02}/{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// The version that an image says it has: the numbers behind the mark that such a resource begins with.
///
/// Source: <https://learn.microsoft.com/windows/win32/api/verrsrc/ns-verrsrc-vs_fixedfileinfo>.
fn file_version(bytes: &[u8]) -> Option<String> {
    // The mark, and the version of the structure.
    const MARK: [u8; 8] = [0xbd, 0x04, 0xef, 0xfe, 0, 0, 1, 0];
    let at = bytes.windows(MARK.len()).position(|window| window == MARK)?;
    let numbers = bytes.get(at + 8..at + 16)?;
    let short = |at: usize| {
        let two = numbers.get(at..at + 2)?;
        Some(u16::from_le_bytes(two.try_into().ok()?))
    };
    Some(format!("{}.{}.{}.{}", short(2)?, short(0)?, short(6)?, short(4)?))
}

/// A console program's image as that of a program without one, which is all that differs: Windows opens no window for it.
///
/// Source: <https://learn.microsoft.com/windows/win32/debug/pe-format>, "Windows Subsystem".
///
/// # Errors
///
/// That it is no console program's image, or is signed: of what is changed no signature holds.
pub fn without_console(mut image: Vec<u8>) -> Result<Vec<u8>, String> {
    const WINDOW: u16 = 2;
    const CONSOLE: u16 = 3;
    let four = |at: usize| {
        let bytes = image.get(at..at.checked_add(4)?)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    };
    let header = four(0x3c).filter(|header| four(*header) == Some(0x4550));
    let header = header.ok_or("it is no image")?;
    let (subsystem, signature) = (header + 24 + 68, header + 24 + 112 + 32);
    if four(signature) != Some(0) {
        return Err("it is signed: what is changed is signed afterwards".into());
    }
    match image.get_mut(subsystem..subsystem + 2) {
        Some(field) if *field == CONSOLE.to_le_bytes() => {
            field.copy_from_slice(&WINDOW.to_le_bytes());
            Ok(image)
        }
        _ => Err("it is no console program's".into()),
    }
}
