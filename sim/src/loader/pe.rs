//! Maps a driver image: sections, base relocations, imports, page protections.
//!
//! It does what Windows' loader does and refuses what a hardened one would: an image that is writable and executable
//! somewhere, uses thread-local storage, or imports what nobody provides (all missing names are listed at once). The first
//! image goes to its preferred base, so addresses equal a disassembler's; later ones go where there is room.

use std::path::{Path, PathBuf};

use rustc_hash::FxHashMap;

use object::LittleEndian as LE;
use object::pe;
use object::read::pe::{ExportTarget, ImageNtHeaders, ImageOptionalHeader, Import, PeFile64};

use super::sites::{self, Sites};

/// Why a file cannot be loaded as a driver.
#[derive(Debug)]
pub enum LoadError {
    /// It cannot be read.
    Read(PathBuf, std::io::Error),
    /// It is not a PE image at all.
    NotPe(String),
    /// It is an image for another processor; the machine field of its header.
    WrongMachine(u16),
    /// It is an image, but not one a kernel would load.
    NotDriver(&'static str),
    /// Something in it points outside it, or contradicts itself.
    Damaged(String),
    /// Functions it wants that this simulator does not have, as `dll!name`.
    MissingImports(Vec<String>),
    /// The host refused memory.
    Memory(std::io::Error),
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Read(path, error) => write!(f, "{}: {error}", path.display()),
            Self::NotPe(why) => write!(f, "not a Windows image: {why}"),
            Self::WrongMachine(machine) => {
                write!(f, "an image for machine {machine:#06x}, not for x64 (0x8664)")
            }
            Self::NotDriver(why) => write!(f, "not a driver image: {why}"),
            Self::Damaged(why) => write!(f, "damaged image: {why}"),
            Self::MissingImports(names) => {
                write!(f, "imports this simulator does not provide: {}", names.join(", "))
            }
            Self::Memory(error) => write!(f, "no memory for the image: {error}"),
        }
    }
}

impl std::error::Error for LoadError {}

impl From<object::Error> for LoadError {
    fn from(error: object::Error) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// A section as mapped.
#[derive(Clone, Debug)]
pub(crate) struct Section {
    pub(crate) name: String,
    pub(crate) address: usize,
    pub(crate) size: usize,
    flags: u32,
}

/// A mapped image; unmapped when dropped.
#[derive(Debug)]
pub struct Image {
    path: PathBuf,
    base: usize,
    size: usize,
    entry: usize,
    preferred: u64,
    sections: Vec<Section>,
    exports: FxHashMap<String, usize>,
    imports: Vec<(String, String)>,
    sites: Sites,
}

const PAGE: usize = 4096;
/// Larger images are refused: no driver is.
const MAX_IMAGE: usize = 1 << 30;

/// Maps zeroed, private, writable memory, at `at` if given and free.
pub(crate) fn map_anonymous(at: Option<usize>, length: usize) -> std::io::Result<usize> {
    map(at, length, libc::PROT_READ | libc::PROT_WRITE, 0)
}

/// Maps private memory that is not accessible, and is none until [`protect`] makes it so: zeroes then.
pub(crate) fn reserve(length: usize) -> std::io::Result<usize> {
    map(None, length, libc::PROT_NONE, libc::MAP_NORESERVE)
}

fn map(at: Option<usize>, length: usize, protection: i32, flags: i32) -> std::io::Result<usize> {
    let fixed = if at.is_some() { libc::MAP_FIXED_NOREPLACE } else { 0 };
    let flags = flags | libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | fixed;
    let hint = std::ptr::without_provenance_mut(at.unwrap_or(0));
    // SAFETY: a fresh mapping that replaces none.
    let base = unsafe { libc::mmap(hint, length, protection, flags, -1, 0) };
    if base == libc::MAP_FAILED {
        Err(std::io::Error::last_os_error())
    } else {
        Ok(base.expose_provenance())
    }
}

/// Changes the protection of pages that belong to the simulator.
pub(crate) fn protect(base: usize, length: usize, protection: i32) -> std::io::Result<()> {
    // SAFETY: callers pass ranges they mapped and of which they hold no Rust reference.
    let result =
        unsafe { libc::mprotect(std::ptr::with_exposed_provenance_mut(base), length, protection) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Gives the memory of pages back, and not the pages: they are zeroes when they are accessed next.
pub(crate) fn discard(base: usize, length: usize) -> std::io::Result<()> {
    let start = std::ptr::with_exposed_provenance_mut(base);
    // SAFETY: callers pass ranges they mapped and of which they hold no Rust reference.
    let result = unsafe { libc::madvise(start, length, libc::MADV_DONTNEED) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// Gives pages back that [`map_anonymous`] or [`reserve`] mapped.
pub(crate) fn unmap(base: usize, length: usize) {
    // SAFETY: callers pass ranges they mapped and of which nobody holds a reference.
    let result = unsafe { libc::munmap(std::ptr::with_exposed_provenance_mut(base), length) };
    debug_assert_eq!(result, 0);
}

impl Drop for Image {
    fn drop(&mut self) {
        unmap(self.base, self.size + sites::ROOM);
    }
}

impl Image {
    /// Loads the image at `path`; `resolve` gives the address of a function by dll (lower case) and name.
    ///
    /// # Errors
    ///
    /// [`LoadError`].
    pub fn load(
        path: &Path,
        resolve: impl Fn(&str, &str) -> Option<usize>,
    ) -> Result<Self, LoadError> {
        let data = std::fs::read(path).map_err(|error| LoadError::Read(path.to_owned(), error))?;
        Self::from_bytes(path, &data, resolve)
    }

    /// As [`Image::load`], of a file already read.
    ///
    /// # Errors
    ///
    /// [`LoadError`].
    pub fn from_bytes(
        path: &Path,
        data: &[u8],
        resolve: impl Fn(&str, &str) -> Option<usize>,
    ) -> Result<Self, LoadError> {
        let file = parse(data)?;
        let header = file.nt_headers().optional_header();
        let size = (header.size_of_image() as usize).next_multiple_of(PAGE);
        let preferred = header.image_base();
        let length = size + sites::ROOM;
        let base = map_anonymous(Some(preferred as usize), length)
            .or_else(|_| map_anonymous(None, length))
            .map_err(LoadError::Memory)?;
        let mut image = Self {
            path: path.to_owned(),
            base,
            size,
            entry: base + header.address_of_entry_point() as usize,
            preferred,
            sections: Vec::new(),
            exports: FxHashMap::default(),
            imports: Vec::new(),
            sites: Sites::default(),
        };
        protect(base + size, sites::ROOM, libc::PROT_NONE).map_err(LoadError::Memory)?;
        image.copy_sections(&file, data)?;
        image.relocate(&file, data)?;
        image.bind(&file, resolve)?;
        image.find_exports(&file)?;
        image.protect_sections()?;
        if !image
            .sections
            .iter()
            .any(|section| section.executable() && section.contains(image.entry))
        {
            return Err(LoadError::NotDriver("its entry point is not in executable code"));
        }
        Ok(image)
    }

    /// Has each of its atomics stop at a breakpoint before it is executed.
    ///
    /// # Errors
    ///
    /// [`LoadError::Memory`].
    pub(crate) fn trap_atomics(&mut self) -> Result<(), LoadError> {
        let copies = self.base + self.size;
        let (change, execute) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::PROT_READ | libc::PROT_EXEC);
        protect(copies, sites::ROOM, change).map_err(LoadError::Memory)?;
        for section in self.sections.iter().filter(|section| section.executable()) {
            let length = section.size.max(1).next_multiple_of(PAGE);
            protect(section.address, length, change).map_err(LoadError::Memory)?;
            // SAFETY: mapped by this value in one piece, and its code was not called yet.
            unsafe { self.sites.set(section.address, section.size, copies) };
            protect(section.address, length, execute).map_err(LoadError::Memory)?;
        }
        protect(copies, sites::ROOM, execute).map_err(LoadError::Memory)
    }

    /// Where its atomics are, if they are trapped.
    pub(crate) fn sites(&self) -> &Sites {
        &self.sites
    }

    /// Where it is mapped.
    pub fn base(&self) -> usize {
        self.base
    }

    /// Bytes it takes.
    pub fn size(&self) -> usize {
        self.size
    }

    /// Its entry point.
    pub fn entry(&self) -> usize {
        self.entry
    }

    /// The file it came from.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Address of an exported symbol.
    pub fn export(&self, name: &str) -> Option<usize> {
        self.exports.get(name).copied()
    }

    /// What it imports, as (dll, name).
    pub fn imports(&self) -> &[(String, String)] {
        &self.imports
    }

    /// Whether `address` is in it.
    pub fn contains(&self, address: usize) -> bool {
        (self.base..self.base + self.size).contains(&address)
    }

    pub(crate) fn preferred(&self) -> u64 {
        self.preferred
    }

    pub(crate) fn section(&self, name: &[u8]) -> Option<&Section> {
        self.sections.iter().find(|section| section.name.as_bytes() == name)
    }

    /// Copies the bytes of a section that the driver does not write to.
    pub(crate) fn section_bytes(&self, name: &[u8]) -> Option<Vec<u8>> {
        let section = self.section(name)?;
        super::probe::bytes(section.address, section.size).ok()
    }

    /// A pointer to `length` bytes at offset `rva`, if they are inside.
    fn inside(&self, rva: usize, length: usize) -> Result<*mut u8, LoadError> {
        let end = rva.checked_add(length).filter(|end| *end <= self.size);
        end.ok_or_else(|| {
            LoadError::Damaged(format!("something at {rva:#x} points outside the image"))
        })?;
        Ok(std::ptr::with_exposed_provenance_mut(self.base + rva))
    }

    fn put(&self, rva: usize, bytes: &[u8]) -> Result<(), LoadError> {
        let to = self.inside(rva, bytes.len())?;
        // SAFETY: `inside` checked the range; the mapping is ours, writable until `protect_sections`, and nobody else's yet.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    fn copy_sections(&mut self, file: &PeFile64<'_>, data: &[u8]) -> Result<(), LoadError> {
        let headers = file.nt_headers().optional_header().size_of_headers() as usize;
        self.put(0, data.get(..headers.min(self.size)).unwrap_or(data))?;
        for header in file.section_table().iter() {
            let rva = header.virtual_address.get(LE) as usize;
            let size = header.virtual_size.get(LE) as usize;
            let raw = header.pointer_to_raw_data.get(LE) as usize;
            let stored =
                (header.size_of_raw_data.get(LE) as usize).min(size.max(1).next_multiple_of(512));
            let name = String::from_utf8_lossy(header.raw_name()).into_owned();
            let end = raw.checked_add(stored).and_then(|end| data.get(raw..end));
            let bytes = end.ok_or_else(|| {
                LoadError::Damaged(format!("section {name} lies outside the file"))
            })?;
            self.put(rva, bytes)?;
            self.inside(rva, size)?;
            let flags = header.characteristics.get(LE).0;
            self.sections.push(Section { name, address: self.base + rva, size, flags });
        }
        Ok(())
    }

    fn relocate(&self, file: &PeFile64<'_>, data: &[u8]) -> Result<(), LoadError> {
        let delta = (self.base as u64).wrapping_sub(self.preferred);
        let directories = file.data_directories();
        let Some(mut blocks) = directories.relocation_blocks(data, &file.section_table())? else {
            return if delta == 0 {
                Ok(())
            } else {
                Err(LoadError::NotDriver("it has no relocations"))
            };
        };
        while let Some(block) = blocks.next()? {
            for relocation in block {
                match relocation.typ {
                    pe::IMAGE_REL_BASED_ABSOLUTE => {}
                    pe::IMAGE_REL_BASED_DIR64 => {
                        let at = self.inside(relocation.virtual_address as usize, 8)?.cast::<u64>();
                        // SAFETY: inside our writable mapping.
                        let value = unsafe { at.read_unaligned() };
                        // SAFETY: as above.
                        unsafe { at.write_unaligned(value.wrapping_add(delta)) };
                    }
                    other => {
                        return Err(LoadError::Damaged(format!("relocation of type {other:?}")));
                    }
                }
            }
        }
        Ok(())
    }

    fn bind(
        &mut self,
        file: &PeFile64<'_>,
        resolve: impl Fn(&str, &str) -> Option<usize>,
    ) -> Result<(), LoadError> {
        let Some(table) = file.import_table()? else { return Ok(()) };
        let mut missing = Vec::new();
        let mut descriptors = table.descriptors()?;
        while let Some(descriptor) = descriptors.next()? {
            let dll = String::from_utf8_lossy(table.name(descriptor.name.get(LE))?).to_lowercase();
            let mut thunks = table.thunks(descriptor.original_first_thunk.get(LE))?;
            let mut slot = descriptor.first_thunk.get(LE) as usize;
            while let Some(thunk) = thunks.next::<pe::ImageNtHeaders64>()? {
                let name = match table.import::<pe::ImageNtHeaders64>(thunk)? {
                    Import::Name(_, name) => String::from_utf8_lossy(name).into_owned(),
                    Import::Ordinal(ordinal) => format!("#{ordinal}"),
                };
                match resolve(&dll, &name) {
                    Some(address) => self.put(slot, &(address as u64).to_le_bytes())?,
                    None => missing.push(format!("{dll}!{name}")),
                }
                slot += 8;
                self.imports.push((dll.clone(), name));
            }
        }
        if missing.is_empty() { Ok(()) } else { Err(LoadError::MissingImports(missing)) }
    }

    fn find_exports(&mut self, file: &PeFile64<'_>) -> Result<(), LoadError> {
        let Some(table) = file.export_table()? else { return Ok(()) };
        for export in table.exports()? {
            if let (Some(name), ExportTarget::Address(rva)) = (export.name, export.target) {
                self.exports
                    .insert(String::from_utf8_lossy(name).into_owned(), self.base + rva as usize);
            }
        }
        Ok(())
    }

    fn protect_sections(&self) -> Result<(), LoadError> {
        protect(self.base, PAGE, libc::PROT_READ).map_err(LoadError::Memory)?;
        for section in &self.sections {
            if section.executable() && section.flags & pe::IMAGE_SCN_MEM_WRITE.0 != 0 {
                return Err(LoadError::NotDriver("a section is both writable and executable"));
            }
            if !section.address.is_multiple_of(PAGE) {
                return Err(LoadError::NotDriver("its sections are not aligned to pages"));
            }
            let rights = [
                (pe::IMAGE_SCN_MEM_READ, libc::PROT_READ),
                (pe::IMAGE_SCN_MEM_WRITE, libc::PROT_WRITE),
                (pe::IMAGE_SCN_MEM_EXECUTE, libc::PROT_EXEC),
            ];
            let granted = rights.iter().filter(|(flag, _)| section.flags & flag.0 != 0);
            let protection = granted.fold(libc::PROT_NONE, |all, (_, right)| all | right);
            let length = section.size.max(1).next_multiple_of(PAGE);
            protect(section.address, length, protection).map_err(LoadError::Memory)?;
        }
        Ok(())
    }
}

impl Section {
    fn executable(&self) -> bool {
        self.flags & pe::IMAGE_SCN_MEM_EXECUTE.0 != 0
    }

    fn contains(&self, address: usize) -> bool {
        (self.address..self.address + self.size).contains(&address)
    }
}

/// The checks that need no mapping.
fn parse(data: &[u8]) -> Result<PeFile64<'_>, LoadError> {
    let dos =
        pe::ImageDosHeader::parse(data).map_err(|error| LoadError::NotPe(error.to_string()))?;
    let start = dos.nt_headers_offset() as usize;
    let word = |at: usize| data.get(at..at + 2).map(|two| u16::from_le_bytes([two[0], two[1]]));
    if data.get(start..start + 4) != Some(b"PE\0\0") {
        return Err(LoadError::NotPe("no PE signature".into()));
    }
    match word(start + 4) {
        Some(machine) if machine == pe::IMAGE_FILE_MACHINE_AMD64.0 => {}
        Some(machine) => return Err(LoadError::WrongMachine(machine)),
        None => return Err(LoadError::NotPe("the header is cut off".into())),
    }
    let file = PeFile64::parse(data)?;
    let header = file.nt_headers().optional_header();
    if header.subsystem() != pe::IMAGE_SUBSYSTEM_NATIVE {
        return Err(LoadError::NotDriver("its subsystem is not native"));
    }
    if header.address_of_entry_point() == 0 {
        return Err(LoadError::NotDriver("it has no entry point"));
    }
    if header.size_of_image() as usize > MAX_IMAGE {
        return Err(LoadError::Damaged("it says it is larger than 1 GiB".into()));
    }
    let tls = file.data_directory(pe::IMAGE_DIRECTORY_ENTRY_TLS);
    if tls.is_some_and(|directory| directory.size.get(LE) != 0) {
        return Err(LoadError::NotDriver("it uses thread-local storage"));
    }
    Ok(file)
}
