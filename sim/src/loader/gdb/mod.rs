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

use std::ptr::{null, null_mut};
use std::sync::Mutex;

use crate::loader::pe::Image;
use crate::verifier::schedule::lock;

/// `jit_code_entry`.
#[repr(C)]
struct Entry {
    next: *mut Entry,
    previous: *mut Entry,
    file: *const u8,
    bytes: u64,
}

/// `jit_descriptor`.
#[repr(C)]
struct Descriptor {
    version: u32,
    action: u32,
    relevant: *mut Entry,
    first: *mut Entry,
}

/// `JIT_REGISTER_FN` and `JIT_UNREGISTER_FN`.
const REGISTER: u32 = 1;
const UNREGISTER: u32 = 2;

/// Where gdb looks. Written under [`TURN`] only.
#[unsafe(no_mangle)]
#[used]
static mut __jit_debug_descriptor: Descriptor =
    Descriptor { version: 1, action: 0, relevant: null_mut(), first: null_mut() };

/// Where gdb has its breakpoint.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn __jit_debug_register_code() {
    std::hint::black_box(());
}

static TURN: Mutex<()> = Mutex::new(());

/// What gdb knows of one image, until it is dropped.
pub(crate) struct Companion {
    entry: *mut Entry,
    _file: Vec<u8>,
}

// SAFETY: the entry is reached under `TURN` only.
unsafe impl Send for Companion {}
// SAFETY: as above.
unsafe impl Sync for Companion {}

impl Companion {
    /// Tells gdb of `image`, if it is there or expected. None without a PDB.
    pub(crate) fn introduce(image: &Image) -> Option<Self> {
        (is_traced() || std::env::var_os("PENSTOCK_GDB").is_some()).then_some(())?;
        let file = companion::elf(image)?;
        let _turn = lock(&TURN);
        // SAFETY: nobody else has the descriptor or its entries, which are all alive.
        let entry = unsafe {
            let next = __jit_debug_descriptor.first;
            let entry = Box::into_raw(Box::new(Entry {
                next,
                previous: null_mut(),
                file: file.as_ptr(),
                bytes: file.len() as u64,
            }));
            if let Some(next) = next.as_mut() {
                next.previous = entry;
            }
            __jit_debug_descriptor.first = entry;
            tell(REGISTER, entry);
            entry
        };
        Some(Self { entry, _file: file })
    }
}

/// # Safety
///
/// Under [`TURN`], of an entry that is alive.
unsafe fn tell(action: u32, entry: *mut Entry) {
    // SAFETY: the caller's.
    unsafe {
        __jit_debug_descriptor.action = action;
        __jit_debug_descriptor.relevant = entry;
    }
    __jit_debug_register_code();
}

impl Drop for Companion {
    fn drop(&mut self) {
        let _turn = lock(&TURN);
        // SAFETY: the entry was made by `introduce`, and its neighbours are alive while they are in the list.
        unsafe {
            let Entry { next, previous, .. } = *self.entry;
            if let Some(next) = next.as_mut() {
                next.previous = previous;
            }
            match previous.as_mut() {
                Some(previous) => previous.next = next,
                None => __jit_debug_descriptor.first = next,
            }
            tell(UNREGISTER, self.entry);
            (*self.entry).file = null();
            drop(Box::from_raw(self.entry));
        }
    }
}

/// Whether a debugger is attached to this process.
///
/// Source: proc(5), `TracerPid`.
fn is_traced() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    tracer.is_some_and(|pid| pid.trim() != "0")
}
