//! Memory descriptor lists (`IoAllocateMdl`, `Mm*`).
//!
//! Addresses are flat here: an MDL's system address is its virtual address, and its page array holds page numbers nobody may
//! use. What is checked: an MDL is built over nonpaged memory, and freed once, by `IoFreeMdl`.

use crate::loader::probe::{self, Fault};
use crate::nt::io;
use crate::nt::machine::Machine;
use crate::nt::ndis::lists::ndis;
use crate::nt::thread::Thread;
use crate::verifier::rules;

const NEXT: usize = 0;
const SIZE: usize = 8;
const FLAGS: usize = 10;
const MAPPED_SYSTEM_VA: usize = 24;
const START_VA: usize = 32;
const BYTE_COUNT: usize = 40;
const BYTE_OFFSET: usize = 44;
/// Bytes of an `MDL` before its page array.
const HEADER: usize = 48;
const PAGE: usize = 4096;
/// Pool tag of MDLs.
const TAG: u32 = u32::from_le_bytes(*b"Mdl ");

/// `MDL_MAPPED_TO_SYSTEM_VA`.
const MAPPED: u16 = 0x1;
/// `MDL_PAGES_LOCKED`.
const LOCKED: u16 = 0x2;
/// `MDL_SOURCE_IS_NONPAGED_POOL`.
pub(crate) const NONPAGED: u16 = 0x4;

/// The bytes one MDL of a chain describes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where they are.
    pub address: usize,
    /// How many.
    pub length: usize,
}

/// The pieces of a chain of MDLs.
///
/// # Errors
///
/// [`Fault`] if the chain leaves mapped memory.
pub fn pieces(mut mdl: usize) -> Result<Vec<Piece>, Fault> {
    let mut all = Vec::new();
    while mdl != 0 {
        let start =
            probe::read::<usize>(mdl + START_VA)? + probe::read::<u32>(mdl + BYTE_OFFSET)? as usize;
        all.push(Piece { address: start, length: probe::read::<u32>(mdl + BYTE_COUNT)? as usize });
        mdl = probe::read(mdl + NEXT)?;
    }
    Ok(all)
}

/// Writes an MDL with its page numbers.
pub(crate) fn fill(mdl: usize, address: usize, length: u32, flags: u16) -> Result<(), Fault> {
    let pages = (address % PAGE + length as usize).div_ceil(PAGE);
    probe::fill(mdl, 0, HEADER)?;
    probe::write(mdl + SIZE, (HEADER + 8 * pages) as u16)?;
    probe::write(mdl + FLAGS, flags)?;
    probe::write(mdl + START_VA, address & !(PAGE - 1))?;
    probe::write(mdl + BYTE_COUNT, length)?;
    probe::write(mdl + BYTE_OFFSET, (address % PAGE) as u32)?;
    if flags & (MAPPED | NONPAGED) != 0 {
        probe::write(mdl + MAPPED_SYSTEM_VA, address)?;
    }
    for page in 0..pages {
        probe::write(mdl + HEADER + 8 * page, (address / PAGE + page) as u64)?;
    }
    Ok(())
}

/// Bytes of an MDL for a buffer.
pub(crate) fn size_for(address: usize, length: u32) -> usize {
    HEADER + 8 * (address % PAGE + length as usize).div_ceil(PAGE)
}

/// An MDL in the simulator's memory over memory of the simulator, with locked pages: what a framework hands to a driver. The
/// caller releases it with [`Machine::release`].
pub fn describe(machine: &Machine, address: usize, length: u32, mapped: bool) -> usize {
    let mdl = machine.allocate(size_for(address, length));
    let filled = fill(mdl, address, length, if mapped { LOCKED | MAPPED } else { LOCKED });
    debug_assert!(filled.is_ok(), "memory of our own");
    mdl
}

/// Links `next` behind `mdl`.
pub fn link(machine: &Machine, mdl: usize, next: usize) {
    machine.poke(mdl + NEXT, next);
}

fn allocate(
    thread: &Thread,
    address: usize,
    length: u32,
    secondary: bool,
    irp: usize,
) -> Result<usize, Fault> {
    let size = size_for(address, length);
    let Some(mdl) = thread.machine().pool().allocate(size, TAG, 0, thread.caller()) else {
        return Ok(0);
    };
    fill(mdl, address, length, 0)?;
    if irp != 0 {
        io::attach_mdl(irp, mdl, secondary)?;
    }
    Ok(mdl)
}

fn build(thread: &Thread, mdl: usize) -> Result<(), Fault> {
    let Some(piece) = pieces_of_one(mdl)? else { return Ok(()) };
    match thread.machine().pool().nonpaged(piece.address, piece.length) {
        Some(true) => {}
        Some(false) => {
            thread.stop(
                &rules::MDL,
                format!("MmBuildMdlForNonPagedPool over paged pool at {:#x}", piece.address),
            );
        }
        // The image's own data is nonpaged too; anything else is not the driver's to describe.
        None if thread.machine().is_driver_code(piece.address) => {}
        None => {
            let what = format!(
                "{} bytes at {:#x}, which are not in one pool block",
                piece.length, piece.address
            );
            thread.stop(&rules::MDL, format!("MmBuildMdlForNonPagedPool over {what}"));
        }
    }
    let flags = probe::read::<u16>(mdl + FLAGS)?;
    probe::write(mdl + FLAGS, flags | NONPAGED)?;
    probe::write(mdl + MAPPED_SYSTEM_VA, piece.address)
}

fn pieces_of_one(mdl: usize) -> Result<Option<Piece>, Fault> {
    let start =
        probe::read::<usize>(mdl + START_VA)? + probe::read::<u32>(mdl + BYTE_OFFSET)? as usize;
    let length = probe::read::<u32>(mdl + BYTE_COUNT)? as usize;
    Ok((length > 0).then_some(Piece { address: start, length }))
}

fn map(thread: &Thread, mdl: usize) -> Result<usize, Fault> {
    let flags = probe::read::<u16>(mdl + FLAGS)?;
    if flags & (LOCKED | NONPAGED) == 0 {
        thread.stop(&rules::MDL, format!("{mdl:#x} is mapped, its pages are not locked"));
        return Ok(0);
    }
    if flags & MAPPED != 0 {
        thread.stop(&rules::MDL, format!("{mdl:#x} is mapped twice"));
        return Ok(0);
    }
    let address =
        probe::read::<usize>(mdl + START_VA)? + probe::read::<u32>(mdl + BYTE_OFFSET)? as usize;
    probe::write(mdl + FLAGS, flags | MAPPED)?;
    probe::write(mdl + MAPPED_SYSTEM_VA, address)?;
    Ok(address)
}

crate::nt::imports! {
    pub(crate) static IMPORTS: "ntoskrnl.exe";

    /// Allocates an MDL for a buffer; it describes no pages yet.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-ioallocatemdl", fail: 0]
    fn IoAllocateMdl(thread, address: usize, length: u32, secondary: u8, quota: u8, irp: usize) -> usize {
        match allocate(thread, address, length, secondary != 0, irp) {
            Ok(mdl) => mdl,
            Err(Fault(at)) => thread.bad_pointer("Irp", at) as usize,
        }
    }

    /// Frees an MDL of `IoAllocateMdl`.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-iofreemdl"]
    fn IoFreeMdl(thread, mdl: usize) {
        if let Some(list) = ndis(thread.machine()).user_of(mdl) {
            return thread.stop(&rules::NBL_M5, format!("IoFreeMdl of {mdl:#x}, which is in list {list:#x} under way"));
        }
        if let Err(wrong) = thread.machine().pool().free(mdl, TAG, thread.caller()) {
            thread.bugcheck(&rules::BAD_POOL_CALLER, [0x7, 0, TAG.into(), mdl as u64], format!("IoFreeMdl: {wrong}"));
        }
    }

    /// Makes an MDL describe nonpaged pool.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-mmbuildmdlfornonpagedpool"]
    fn MmBuildMdlForNonPagedPool(thread, mdl: usize) {
        if build(thread, mdl).is_err() {
            thread.bad_pointer("MemoryDescriptorList", mdl);
        }
    }

    /// Whether Driver Verifier looks at the driver: in verified mode.
    [max: PASSIVE, mark: Documented, source: "DDI wdm/nf-wdm-mmisdriververifying"]
    fn MmIsDriverVerifying(thread, driver: usize) -> u32 {
        thread.machine().options().verified.into()
    }

    /// The system address of an MDL's locked pages.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-mmmaplockedpagesspecifycache", fail: 0]
    fn MmMapLockedPagesSpecifyCache(thread, mdl: usize, mode: u8, cache: u32, base: usize, bugcheck: u32, priority: u32) -> usize {
        if mode != 0 {
            thread.stop(&rules::MDL, "MmMapLockedPagesSpecifyCache to user mode is not modelled");
            return 0;
        }
        match map(thread, mdl) {
            Ok(address) => address,
            Err(_) => thread.bad_pointer("MemoryDescriptorList", mdl) as usize,
        }
    }
}
