//! Functions, what was inlined into them, and lines: one DWARF unit for the image, from its PDB.

use std::collections::HashMap;
use std::fs::File;

use gimli::constants as dw;
use gimli::write::{
    Address, AttributeValue, DwarfUnit, FileId, LineProgram, LineString, UnitEntryId,
};
use gimli::{Encoding, Format, LineEncoding};
use iced_x86::{Decoder, DecoderOptions, Instruction};
use pdb_addr2line::pdb::PDB;
use pdb_addr2line::{Context, ContextPdbData, Frame};

use crate::loader::pe::Image;
use crate::loader::probe;

/// A function of the image: where it begins, in the image, its bytes and its name.
pub(super) struct Function {
    pub(super) start: u32,
    pub(super) bytes: u32,
    pub(super) name: String,
}

/// One function at one instruction: its name, and the file and line that it has reached.
type Place = (String, FileId, u64);

/// Code of one function into which another was inlined, or nothing.
struct Inlined {
    place: Place,
    entry: UnitEntryId,
}

struct Writer<'i> {
    image: &'i Image,
    unit: DwarfUnit,
    files: HashMap<String, FileId>,
    /// Functions that were inlined somewhere, by name.
    origins: HashMap<String, UnitEntryId>,
    /// Modules and types, by path.
    namespaces: HashMap<String, UnitEntryId>,
}

const ENCODING: Encoding = Encoding { address_size: 8, format: Format::Dwarf32, version: 4 };

/// The unit, and every function. None without a PDB.
pub(super) fn unit(image: &Image) -> Option<(DwarfUnit, Vec<Function>)> {
    let pdb = PDB::open(File::open(image.path().with_extension("pdb")).ok()?).ok()?;
    let data = ContextPdbData::try_from_pdb(pdb).ok()?;
    let context = data.make_context().ok()?;
    let mut writer = Writer::new(image);
    let functions = context.functions().filter_map(|function| {
        let bytes =
            function.end_rva?.checked_sub(function.start_rva).filter(|bytes| *bytes != 0)?;
        Some(Function { start: function.start_rva, bytes, name: function.name? })
    });
    let mut functions: Vec<Function> = functions.collect();
    functions.sort_by_key(|function| function.start);
    functions.dedup_by_key(|function| function.start);
    for function in &functions {
        writer.function(&context, function)?;
    }
    Some((writer.unit, functions))
}

impl<'i> Writer<'i> {
    fn new(image: &'i Image) -> Self {
        let text = |text: &str| LineString::String(text.into());
        let lines = LineProgram::new(
            ENCODING,
            LineEncoding::default(),
            text("."),
            None,
            text("penstock"),
            None,
        );
        let mut unit = DwarfUnit::new(ENCODING);
        unit.unit.line_program = lines;
        let root = unit.unit.root();
        let root = unit.unit.get_mut(root);
        // A PDB has the names of Rust as C++ would write them.
        root.set(dw::DW_AT_language, AttributeValue::Language(dw::DW_LANG_C_plus_plus));
        root.set(
            dw::DW_AT_name,
            AttributeValue::String(image.path().as_os_str().as_encoded_bytes().into()),
        );
        let start = Address::Constant(image.base() as u64);
        root.set(dw::DW_AT_low_pc, AttributeValue::Address(start));
        root.set(dw::DW_AT_high_pc, AttributeValue::Udata(image.size() as u64));
        Self {
            image,
            unit,
            files: HashMap::new(),
            origins: HashMap::new(),
            namespaces: HashMap::new(),
        }
    }

    fn file(&mut self, path: &str) -> FileId {
        if let Some(file) = self.files.get(path) {
            return *file;
        }
        let lines = &mut self.unit.unit.line_program;
        let directory = lines.default_directory();
        // scripts/build.sh calls the repository's folder so, wherever it is; gdb is started in it.
        let found = match path.rsplit_once("penstock/") {
            Some(("" | "/", rest)) => rest.to_owned(),
            Some((folder, rest)) => format!("{folder}{rest}"),
            None => path.to_owned(),
        };
        let file = lines.add_file(LineString::String(found.into()), directory, None);
        self.files.insert(path.to_owned(), file);
        file
    }

    fn place(&mut self, frame: &Frame<'_>) -> Place {
        let name = frame.function.as_deref().unwrap_or("?").to_owned();
        let file = self.file(frame.file.as_deref().unwrap_or("?"));
        (name, file, frame.line.unwrap_or(0).into())
    }

    /// Writes the function, and its code instruction by instruction.
    fn function(&mut self, context: &Context<'_, '_>, function: &Function) -> Option<()> {
        let base = self.image.base();
        let start = base + function.start as usize;
        let mut code = probe::bytes(start, function.bytes as usize).ok()?;
        self.image.sites().restore(start, &mut code);
        let entry = self.named(&function.name);
        self.set_range(entry, start, function.bytes.into());
        self.unit.unit.line_program.begin_sequence(Some(Address::Constant(start as u64)));
        let mut open: Vec<Inlined> = Vec::new();
        let mut last: Option<(FileId, u64)> = None;
        let mut decoder = Decoder::with_ip(64, &code, start as u64, DecoderOptions::NONE);
        let mut instruction = Instruction::default();
        while decoder.can_decode() {
            decoder.decode_out(&mut instruction);
            let at = instruction.ip();
            let Ok(Some(found)) = context.find_frames((at as usize - base) as u32) else {
                continue;
            };
            // Outermost first.
            let places: Vec<Place> =
                found.frames.iter().rev().map(|frame| self.place(frame)).collect();
            let Some((_, file, line)) = places.last().cloned() else { continue };
            if last != Some((file, line)) {
                let row = self.unit.unit.line_program.row();
                (row.address_offset, row.file, row.line) = (at - start as u64, file, line);
                self.unit.unit.line_program.generate_row();
                last = Some((file, line));
            }
            self.nest(entry, &mut open, &places, at);
        }
        let end = (start + function.bytes as usize) as u64;
        self.close(&mut open, 0, end);
        self.unit.unit.line_program.end_sequence(function.bytes.into());
        Some(())
    }

    /// Has the inlined functions that are open be those of `places`, from `at` on.
    fn nest(&mut self, function: UnitEntryId, open: &mut Vec<Inlined>, places: &[Place], at: u64) {
        // Who calls is told by the caller's place: the same function called from another line is another piece.
        let is_same = |(number, inlined): (usize, &Inlined)| {
            places.get(number + 1).is_some_and(|(name, ..)| *name == inlined.place.0)
                && (places[number].1, places[number].2) == (inlined.place.1, inlined.place.2)
        };
        let same = open.iter().enumerate().take_while(|one| is_same(*one)).count();
        self.close(open, same, at);
        for number in same..places.len().saturating_sub(1) {
            let ((_, file, line), (name, ..)) = (&places[number], &places[number + 1]);
            let parent = open.last().map_or(function, |inlined| inlined.entry);
            let origin = self.origin(name);
            let entry = self.unit.unit.add(parent, dw::DW_TAG_inlined_subroutine);
            let added = self.unit.unit.get_mut(entry);
            added.set(dw::DW_AT_abstract_origin, AttributeValue::UnitRef(origin));
            added.set(dw::DW_AT_low_pc, AttributeValue::Address(Address::Constant(at)));
            added.set(dw::DW_AT_call_file, AttributeValue::FileIndex(Some(*file)));
            added.set(dw::DW_AT_call_line, AttributeValue::Udata(*line));
            open.push(Inlined { place: (name.clone(), *file, *line), entry });
        }
    }

    /// Ends the inlined functions behind the first `keep`.
    fn close(&mut self, open: &mut Vec<Inlined>, keep: usize, at: u64) {
        for Inlined { entry, .. } in open.drain(keep..) {
            let entry = self.unit.unit.get_mut(entry);
            if let Some(AttributeValue::Address(Address::Constant(start))) =
                entry.get(dw::DW_AT_low_pc)
            {
                let bytes = at - start;
                entry.set(dw::DW_AT_high_pc, AttributeValue::Udata(bytes));
            }
        }
    }

    fn origin(&mut self, name: &str) -> UnitEntryId {
        if let Some(origin) = self.origins.get(name) {
            return *origin;
        }
        let origin = self.named(name);
        self.unit
            .unit
            .get_mut(origin)
            .set(dw::DW_AT_inline, AttributeValue::Inline(dw::DW_INL_inlined));
        self.origins.insert(name.to_owned(), origin);
        origin
    }

    /// A new function, in its namespace: so gdb finds it by the end of its path.
    fn named(&mut self, name: &str) -> UnitEntryId {
        let path = path(name);
        let (parent, last) = match path.split_last() {
            Some((last, parents)) => (self.namespace(parents), *last),
            None => (self.unit.unit.root(), name),
        };
        self.called(parent, dw::DW_TAG_subprogram, last)
    }

    fn namespace(&mut self, path: &[&str]) -> UnitEntryId {
        let Some((last, parents)) = path.split_last() else { return self.unit.unit.root() };
        let whole = path.join("::");
        if let Some(known) = self.namespaces.get(&whole) {
            return *known;
        }
        let parent = self.namespace(parents);
        let entry = self.called(parent, dw::DW_TAG_namespace, last);
        self.namespaces.insert(whole, entry);
        entry
    }

    fn called(&mut self, parent: UnitEntryId, tag: gimli::DwTag, name: &str) -> UnitEntryId {
        let name = self.unit.strings.add(name);
        let entry = self.unit.unit.add(parent, tag);
        self.unit.unit.get_mut(entry).set(dw::DW_AT_name, AttributeValue::StringRef(name));
        entry
    }

    fn set_range(&mut self, entry: UnitEntryId, start: usize, bytes: u64) {
        let entry = self.unit.unit.get_mut(entry);
        entry.set(dw::DW_AT_low_pc, AttributeValue::Address(Address::Constant(start as u64)));
        entry.set(dw::DW_AT_high_pc, AttributeValue::Udata(bytes));
    }
}

/// The parts of a function's path, without its parameters. Angle brackets keep together what is in them.
fn path(name: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut begin) = (Vec::new(), 0, 0);
    let mut end = name.len();
    for (at, byte) in name.bytes().enumerate() {
        match byte {
            b'<' => depth += 1,
            b'>' => depth -= 1,
            b'(' if depth == 0 => {
                end = at;
                break;
            }
            b':' if depth == 0 && name[..at].ends_with(':') => {
                parts.push(&name[begin..at - 1]);
                begin = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&name[begin..end]);
    parts
}

#[cfg(test)]
mod tests {
    use super::path;

    #[test]
    fn paths_are_cut_outside_of_angle_brackets() {
        let name = "crypto::impl$1::serve<alloc::Vec<u8>,a::B>(core::Shared<nt::Device>*, u8)";
        assert_eq!(path(name), ["crypto", "impl$1", "serve<alloc::Vec<u8>,a::B>"]);
        assert_eq!(path("main"), ["main"]);
        assert_eq!(path("a::b<c::d>::e"), ["a", "b<c::d>", "e"]);
    }
}
