//! What a dump of the machine would hold of the driver's: pool, stacks, sections, vector registers.
//!
//! With [`Options::remembers`](super::machine::Options::remembers) what is given up is kept as it was at that moment: freed pool,
//! the stacks of threads that have ended, the sections of an image that was unloaded, vector state that was saved; and stacks
//! are not painted between calls, so that they hold what the last calls left there, as in Windows. A program's own memory and
//! what it put into a control request's buffer are not the driver's, and not here.

use std::collections::BTreeMap;
use std::sync::Mutex;

use super::machine::Machine;
use crate::loader::gate::{ImportFrame, XsaveArea};
use crate::loader::probe;
use crate::verifier::schedule::lock;

const PAGE: usize = 4096;

/// A stretch of memory.
#[derive(Clone, Debug)]
pub struct Region {
    /// What it is or was.
    pub what: String,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// Where a thread's memory is.
#[derive(Clone, Debug)]
struct Place {
    name: String,
    bounds: (usize, usize),
    /// Address of the pointer to its innermost [`ImportFrame`].
    import: usize,
    /// Its vector registers when the last call into the driver returned.
    registers: Vec<u8>,
}

/// The memory that machines without [`Options::remembers`](super::machine::Options::remembers) forget.
#[derive(Default)]
pub(crate) struct Memory {
    threads: Mutex<BTreeMap<u64, Place>>,
    kept: Mutex<Vec<Region>>,
}

impl Memory {
    /// A thread has begun.
    pub(crate) fn begin(&self, id: u64, name: &str, bounds: (usize, usize), import: usize) {
        let place = Place { name: name.to_owned(), bounds, import, registers: Vec::new() };
        lock(&self.threads).insert(id, place);
    }

    /// A thread ends: its stack is kept.
    pub(crate) fn end(&self, id: u64) {
        let Some(place) = lock(&self.threads).remove(&id) else { return };
        let (low, high) = place.bounds;
        self.keep(format!("stack of the ended thread {}", place.name), bytes(low, high - low));
        self.keep(format!("registers of the ended thread {}", place.name), place.registers);
    }

    /// Driver code has returned to a thread with these registers.
    pub(crate) fn returned(&self, id: u64, registers: &XsaveArea) {
        if let Some(place) = lock(&self.threads).get_mut(&id) {
            place.registers = registers.0.to_vec();
        }
    }

    /// Keeps bytes that are about to be given up.
    pub(crate) fn keep(&self, what: String, bytes: Vec<u8>) {
        lock(&self.kept).push(Region { what, bytes });
    }
}

/// The bytes of memory of which some pages may be out of reach: those are left out.
pub(crate) fn bytes(address: usize, count: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(count);
    let (mut at, end) = (address, address + count);
    while at < end {
        let next = ((at / PAGE + 1) * PAGE).min(end);
        let mut page = vec![0; next - at];
        if probe::copy(page.as_mut_ptr().expose_provenance(), at, page.len()).is_ok() {
            bytes.append(&mut page);
        }
        at = next;
    }
    bytes
}

impl Machine {
    /// All memory that is or was the driver's. Nothing of the machine may run meanwhile (Virtual mode).
    pub fn memory(&self) -> Vec<Region> {
        let memory = self.extension::<Memory>();
        let mut all = lock(&memory.kept).clone();
        for place in lock(&memory.threads).values() {
            let ((low, high), name) = (place.bounds, &place.name);
            all.push(Region { what: format!("stack of {name}"), bytes: bytes(low, high - low) });
            let registers = place.registers.clone();
            all.push(Region {
                what: format!("registers of {name} after a call"),
                bytes: registers,
            });
            // Calls of imports that have not returned, the innermost first.
            let mut frame = probe::read::<usize>(place.import).unwrap_or(0);
            while frame != 0 {
                let at = frame + std::mem::offset_of!(ImportFrame, xsave);
                let image = probe::read::<usize>(at).unwrap_or(0);
                let what = format!("registers of {name} in an import");
                all.push(Region { what, bytes: bytes(image, XsaveArea::SIZE) });
                frame = probe::read(frame + std::mem::offset_of!(ImportFrame, outer)).unwrap_or(0);
            }
        }
        for (number, (low, high)) in self.dpc_stacks().into_iter().enumerate() {
            let what = format!("stack for DPCs of CPU {number}");
            all.push(Region { what, bytes: bytes(low, high - low) });
        }
        if let Some(image) = self.image() {
            let bytes = bytes(image.base(), image.size());
            all.push(Region { what: "the image".to_owned(), bytes });
        }
        all.extend(self.pool().memory(self));
        all.extend(self.owned_memory());
        all
    }
}
