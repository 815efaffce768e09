//! The companion file: an ELF image without code, whose addresses are those of the mapped driver.

use gimli::write::{DebugFrame, EndianVec, Sections};
use gimli::{LittleEndian, SectionId};
use object::elf::{
    ELFCLASS64, ELFDATA2LSB, ELFMAG, EM_X86_64, ET_EXEC, EV_CURRENT, SHF_ALLOC, SHF_EXECINSTR,
    SHT_NOBITS, SHT_NULL, SHT_PROGBITS, SHT_STRTAB, SHT_SYMTAB, STT_FUNC, SectionType,
};

use super::lines::Function;
use super::{frames, lines};
use crate::loader::pe::Image;

/// Bytes of the headers of the file, of a section and of a symbol.
const FILE_HEADER: usize = 64;
const SECTION_HEADER: usize = 64;
/// The section of the code, which symbols name.
const CODE: u16 = 1;

struct Section {
    name: String,
    kind: SectionType,
    flags: u64,
    address: u64,
    bytes: Vec<u8>,
    /// What it takes where it is, if not as much as in the file.
    size: Option<u64>,
    link: u32,
    info: u32,
    entry: u64,
}

impl Section {
    fn new(name: &str, kind: SectionType, bytes: Vec<u8>) -> Self {
        Self {
            name: name.to_owned(),
            kind,
            flags: 0,
            address: 0,
            bytes,
            size: None,
            link: 0,
            info: 0,
            entry: 0,
        }
    }
}

/// The whole file. None without a PDB.
pub(super) fn elf(image: &Image) -> Option<Vec<u8>> {
    let (mut unit, functions) = lines::unit(image)?;
    let mut sections = vec![Section::new("", SHT_NULL, Vec::new())];
    sections.push(Section {
        flags: (SHF_ALLOC | SHF_EXECINSTR).0,
        address: image.base() as u64,
        size: Some(image.size() as u64),
        ..Section::new(".text", SHT_NOBITS, Vec::new())
    });
    let mut debug = Sections::new(EndianVec::new(LittleEndian));
    unit.write(&mut debug).ok()?;
    let mut add = |id: SectionId, bytes: &EndianVec<LittleEndian>| {
        if !bytes.slice().is_empty() {
            sections.push(Section::new(id.name(), SHT_PROGBITS, bytes.slice().to_vec()));
        }
        Ok::<(), ()>(())
    };
    debug.for_each(&mut add).ok()?;
    let mut frames = DebugFrame::from(EndianVec::new(LittleEndian));
    frames::table(image)?.write_debug_frame(&mut frames).ok()?;
    sections.push(Section::new(".debug_frame", SHT_PROGBITS, frames.slice().to_vec()));
    let (symbols, names) = symbols(image, &functions);
    let strings = sections.len() as u32 + 1;
    sections.push(Section {
        link: strings,
        info: 1,
        entry: 24,
        ..Section::new(".symtab", SHT_SYMTAB, symbols)
    });
    sections.push(Section::new(".strtab", SHT_STRTAB, names));
    Some(write(sections))
}

/// The symbol table and its strings.
fn symbols(image: &Image, functions: &[Function]) -> (Vec<u8>, Vec<u8>) {
    let (mut symbols, mut names) = (vec![0; 24], vec![0]);
    for function in functions {
        symbols.extend_from_slice(&(names.len() as u32).to_le_bytes());
        symbols.extend_from_slice(&[STT_FUNC.0, 0]);
        symbols.extend_from_slice(&CODE.to_le_bytes());
        symbols.extend_from_slice(&((image.base() + function.start as usize) as u64).to_le_bytes());
        symbols.extend_from_slice(&u64::from(function.bytes).to_le_bytes());
        names.extend_from_slice(function.name.as_bytes());
        names.push(0);
    }
    (symbols, names)
}

/// Source: System V ABI, chapter 4, "Object Files".
fn write(mut sections: Vec<Section>) -> Vec<u8> {
    sections.push(Section::new(".shstrtab", SHT_STRTAB, Vec::new()));
    let mut names = Vec::new();
    let at: Vec<u32> = sections
        .iter()
        .map(|section| {
            let at = names.len() as u32;
            names.extend_from_slice(section.name.as_bytes());
            names.push(0);
            at
        })
        .collect();
    if let Some(last) = sections.last_mut() {
        last.bytes = names;
    }
    let mut file = vec![0; FILE_HEADER];
    let mut headers = Vec::new();
    for (section, name) in sections.iter().zip(at) {
        file.resize(file.len().next_multiple_of(16), 0);
        for word in [name, section.kind.0] {
            headers.extend_from_slice(&word.to_le_bytes());
        }
        let size = section.size.unwrap_or(section.bytes.len() as u64);
        for word in [section.flags, section.address, file.len() as u64, size] {
            headers.extend_from_slice(&word.to_le_bytes());
        }
        for word in [section.link, section.info] {
            headers.extend_from_slice(&word.to_le_bytes());
        }
        for word in [1, section.entry] {
            headers.extend_from_slice(&word.to_le_bytes());
        }
        file.extend_from_slice(&section.bytes);
    }
    file.resize(file.len().next_multiple_of(16), 0);
    let table = file.len() as u64;
    file.extend_from_slice(&headers);
    let mut header = Vec::with_capacity(FILE_HEADER);
    header.extend_from_slice(&ELFMAG);
    header.extend_from_slice(&[ELFCLASS64.0, ELFDATA2LSB.0, EV_CURRENT.0, 0]);
    header.resize(16, 0);
    header.extend_from_slice(&ET_EXEC.0.to_le_bytes());
    header.extend_from_slice(&EM_X86_64.0.to_le_bytes());
    header.extend_from_slice(&u32::from(EV_CURRENT.0).to_le_bytes());
    // No entry point, no program headers.
    for word in [0, 0, table] {
        header.extend_from_slice(&word.to_le_bytes());
    }
    header.extend_from_slice(&0_u32.to_le_bytes());
    let count = sections.len() as u16;
    for half in [FILE_HEADER as u16, 0, 0, SECTION_HEADER as u16, count, count - 1] {
        header.extend_from_slice(&half.to_le_bytes());
    }
    file[..FILE_HEADER].copy_from_slice(&header);
    file
}
