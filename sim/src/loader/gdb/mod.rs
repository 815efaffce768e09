//! Functions, lines and frames of the driver for gdb, which reads neither PE images nor PDBs.
//!
//! A companion ELF file is made of the image's unwind data and its PDB, at the addresses where the image is mapped, and
//! registered through gdb's interface for code that is made at run time: gdb stops at `__jit_debug_register_code`, reads the
//! descriptor and the file from this process's memory, and knows the driver like any other module. It is made where a debugger
//! is there already when the driver is loaded, or if `PENSTOCK_GDB` is set (for one that comes later): it takes seconds.
//!
//! Source: the gdb manual, chapter 30, "JIT Compilation Interface".

mod companion;
mod frames;
mod lines;

use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use crate::loader::pe::Image;
use crate::verifier::schedule::lock;

/// `jit_code_entry`.
#[repr(C)]
struct Entry {
    next: AtomicPtr<Entry>,
    previous: AtomicPtr<Entry>,
    file: AtomicPtr<u8>,
    bytes: u64,
}

/// `jit_descriptor`.
#[repr(C)]
struct Descriptor {
    version: u32,
    action: AtomicU32,
    relevant: AtomicPtr<Entry>,
    first: AtomicPtr<Entry>,
}

/// `JIT_REGISTER_FN` and `JIT_UNREGISTER_FN`.
const REGISTER: u32 = 1;
const UNREGISTER: u32 = 2;

/// Where gdb looks.
#[unsafe(no_mangle)]
#[used]
#[allow(non_upper_case_globals, reason = "the name is gdb's")]
static __jit_debug_descriptor: Descriptor = Descriptor {
    version: 1,
    action: AtomicU32::new(0),
    relevant: AtomicPtr::new(null_mut()),
    first: AtomicPtr::new(null_mut()),
};

/// Where gdb has its breakpoint.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn __jit_debug_register_code() {
    std::hint::black_box(());
}

/// What is in gdb's list, in its order.
static ENTRIES: Mutex<Vec<Arc<Entry>>> = Mutex::new(Vec::new());

/// What gdb knows of one image, until it is dropped.
pub(crate) struct Companion {
    entry: Arc<Entry>,
    _file: Vec<u8>,
}

impl Companion {
    /// Tells gdb of `image`, if it is there or expected. None without a PDB.
    pub(crate) fn introduce(image: &Image) -> Option<Self> {
        (is_traced() || std::env::var_os("PENSTOCK_GDB").is_some()).then_some(())?;
        let mut file = companion::elf(image)?;
        let entry = Arc::new(Entry {
            next: AtomicPtr::default(),
            previous: AtomicPtr::default(),
            file: AtomicPtr::new(file.as_mut_ptr()),
            bytes: file.len() as u64,
        });
        let mut entries = lock(&ENTRIES);
        entries.push(entry.clone());
        tell(REGISTER, &entry, &entries);
        Some(Self { entry, _file: file })
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        let mut entries = lock(&ENTRIES);
        entries.retain(|other| !Arc::ptr_eq(other, &self.entry));
        tell(UNREGISTER, &self.entry, &entries);
    }
}

fn tell(action: u32, entry: &Arc<Entry>, entries: &[Arc<Entry>]) {
    let at = |index: Option<usize>| {
        let entry = index.and_then(|index| entries.get(index));
        entry.map_or(null_mut(), |entry| Arc::as_ptr(entry).cast_mut())
    };
    for (index, entry) in entries.iter().enumerate() {
        entry.next.store(at(Some(index + 1)), Ordering::Relaxed);
        entry.previous.store(at(index.checked_sub(1)), Ordering::Relaxed);
    }
    let descriptor = &__jit_debug_descriptor;
    descriptor.first.store(at(Some(0)), Ordering::Relaxed);
    descriptor.action.store(action, Ordering::Relaxed);
    descriptor.relevant.store(Arc::as_ptr(entry).cast_mut(), Ordering::Relaxed);
    __jit_debug_register_code();
}

/// Whether a debugger is attached to this process.
///
/// Source: proc(5), `TracerPid`.
fn is_traced() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|pid| pid.trim() != "0")
}
