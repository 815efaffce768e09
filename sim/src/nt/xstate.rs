//! The extended processor state: saving it for the driver, and seeing whether the driver spoiled it.
//!
//! In verified mode the gate's XSAVE image *is* the driver's live state, so save and restore copy to and from it. In fast mode
//! they run XSAVE and XRSTOR on the CPU, on exactly the mask the driver named.
//!
//! A thread or DPC that is preempted (`verifier/explore.rs`) and has saved nothing finds other values in all but the XMM
//! registers afterwards, as Windows leaves them when it ran other code there.
//!
//! Canaries: before each callback every watched register holds a known pattern (YMM upper halves, ZMM, opmasks, and the XMM
//! registers that win64 preserves); afterwards it must hold it again, or what a preemption left.

use std::arch::x86_64::{__cpuid_count, _xgetbv};
use std::sync::OnceLock;

use crate::loader::gate::{ImportFrame, VERIFY_XSTATE, XsaveArea};
use crate::loader::probe;
use crate::nt::memory::Memory;
use crate::nt::status::{STATUS_INSUFFICIENT_RESOURCES, STATUS_INVALID_PARAMETER, STATUS_SUCCESS};
use crate::nt::thread::Thread;
use crate::verifier::rules;

const SSE: u32 = 1;
const AVX: u32 = 2;
const OPMASK: u32 = 5;
const ZMM_HIGH: u32 = 6;
const HIGH_ZMM: u32 = 7;
/// What Windows saves for a thread only when asked.
const BEYOND_SSE: [u32; 4] = [AVX, OPMASK, ZMM_HIGH, HIGH_ZMM];
/// SSE, AVX and the three parts of AVX-512.
const WATCHED: u64 = 0xE6;
/// `XSTATE_MASK_LEGACY`: x87 and SSE.
const LEGACY: u64 = 3;
/// Offset of XMM0 in an XSAVE image, and of its header.
const XMM: usize = 160;
const HEADER: usize = 512;

crate::nt::behaviours! {
    pub(crate) static BEHAVIOURS;

    /// A driver that uses AVX must save the AVX-512 parts too, because VEX instructions zero the upper halves of ZMM.
    [mark: Inferred, source: "facts/simulator.md pitfall 1"] AVX_SPOILS_AVX512_STATE;
    /// A mask with features that are not enabled is refused with STATUS_INVALID_PARAMETER.
    [mark: Inferred, source: "DDI wdm/nf-wdm-kesaveextendedprocessorstate"] FOREIGN_MASK_IS_REFUSED;
}

/// What this host has and the gate saves.
struct Host {
    enabled: u64,
    mask: u64,
    /// Offset and size of each component.
    parts: [(usize, usize); 8],
    canary: XsaveArea,
    poison: XsaveArea,
}

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    // Once: CPUID and XGETBV may trap to a hypervisor.
    HOST.get_or_init(|| {
        let osxsave = __cpuid_count(1, 0).ecx >> 27 & 1 != 0;
        // SAFETY: OSXSAVE says that XGETBV exists.
        let enabled = if osxsave { unsafe { xcr0() } } else { LEGACY };
        let mut parts = [(0, 0); 8];
        let mut mask = if osxsave { enabled & WATCHED & LEGACY } else { 0 };
        for part in BEYOND_SSE {
            let answer = __cpuid_count(0xD, part);
            let (offset, size) = (answer.ebx as usize, answer.eax as usize);
            if enabled >> part & 1 != 0 && size > 0 && offset + size <= XsaveArea::SIZE {
                parts[part as usize] = (offset, size);
                mask |= 1 << part;
            }
        }
        let canary = pattern(mask, &parts);
        Host { enabled, mask, parts, poison: other_than(&canary, &parts), canary }
    })
}

/// XCR0.
///
/// # Safety
///
/// The CPU has OSXSAVE.
#[target_feature(enable = "xsave")]
unsafe fn xcr0() -> u64 {
    // SAFETY: the caller's promise.
    unsafe { _xgetbv(0) }
}

fn pattern(mask: u64, parts: &[(usize, usize); 8]) -> XsaveArea {
    let mut area = XsaveArea::new();
    area.0[0..2].copy_from_slice(&0x37F_u16.to_le_bytes());
    area.0[24..28].copy_from_slice(&0x1F80_u32.to_le_bytes());
    for (number, byte) in area.0[XMM..XMM + 256].iter_mut().enumerate() {
        *byte = 0x10 ^ number as u8;
    }
    for part in BEYOND_SSE {
        let (offset, size) = parts[part as usize];
        for (number, byte) in area.0[offset..offset + size].iter_mut().enumerate() {
            *byte = (part as u8 * 0x20) ^ (number as u8).wrapping_mul(7) | 1;
        }
    }
    area.0[HEADER..HEADER + 8].copy_from_slice(&mask.to_le_bytes());
    area
}

/// What is in no register of a canary, with the SSE part as it is.
fn other_than(canary: &XsaveArea, parts: &[(usize, usize); 8]) -> XsaveArea {
    let mut area = canary.clone();
    for part in BEYOND_SSE {
        let (offset, size) = parts[part as usize];
        area.0[offset..offset + size].iter_mut().for_each(|byte| *byte ^= 0x5A);
    }
    area
}

/// What a preemption leaves in the driver's registers while it is in an import.
pub(crate) fn poison_import(frame: &ImportFrame) {
    // SAFETY: the gate's image of the driver's state, on this thread's host stack while the import runs.
    let live = unsafe { &mut *frame.xsave };
    transfer(live, &host().poison, !(1 << SSE));
}

/// What a preemption leaves in the registers of a signal frame, whose XSAVE image is at `image`.
///
/// # Safety
///
/// `image` is what the kernel gave a signal handler of this thread as `fpregs`, or null.
pub(crate) unsafe fn poison_signal_frame(image: *mut u8) {
    let (host, beyond) = (host(), host().mask & !(1 << SSE));
    if image.is_null() || beyond == 0 {
        return;
    }
    let word = |at: usize| {
        // SAFETY: the legacy part of an image is 512 bytes, and its last 48 are the kernel's words.
        unsafe { image.wrapping_add(at).cast::<u32>().read_unaligned() }
    };
    // FP_XSTATE_MAGIC1, and the size of the image (arch/x86/include/uapi/asm/sigcontext.h).
    if word(464) != 0x4650_5853 {
        return;
    }
    let size = word(480) as usize;
    for part in BEYOND_SSE {
        let (offset, length) = host.parts[part as usize];
        if beyond >> part & 1 != 0 && offset + length <= size {
            let from = host.poison.0[offset..offset + length].as_ptr();
            // SAFETY: inside the image, as it says itself.
            unsafe { std::ptr::copy_nonoverlapping(from, image.wrapping_add(offset), length) };
        }
    }
    let header = image.wrapping_add(HEADER).cast::<u64>();
    // SAFETY: the header follows the legacy part.
    let used = unsafe { header.read_unaligned() };
    // SAFETY: as above.
    unsafe { header.write_unaligned(used | beyond) };
}

/// The gate's flags for what the caller wants: vector state is verified only where XSAVE exists.
pub(crate) fn gate_flags(wanted: u64) -> u64 {
    if host().mask == 0 { wanted & !VERIFY_XSTATE } else { wanted }
}

/// Whether `vzeroupper` exists.
pub(crate) fn has_avx() -> bool {
    host().enabled >> AVX & 1 != 0
}

/// Components the gate saves.
pub(crate) fn mask() -> u64 {
    host().mask
}

/// The image that callbacks start with.
pub(crate) fn canary() -> *const XsaveArea {
    &host().canary
}

fn in_use(area: &XsaveArea) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&area.0[HEADER..HEADER + 8]);
    u64::from_le_bytes(bytes)
}

/// Names registers whose canary did not survive; with `poisoned`, what a preemption left there is as good.
pub(crate) fn spoiled(after: &XsaveArea, poisoned: bool) -> Option<String> {
    let host = host();
    let live = in_use(after);
    let groups: [(u32, usize, usize, usize, usize, &str); 5] = [
        (SSE, XMM, 16, 16, 6, "XMM"),
        (AVX, host.parts[AVX as usize].0, 16, 16, 0, "YMM upper "),
        (OPMASK, host.parts[OPMASK as usize].0, 8, 8, 0, "k"),
        (ZMM_HIGH, host.parts[ZMM_HIGH as usize].0, 16, 32, 0, "ZMM upper "),
        (HIGH_ZMM, host.parts[HIGH_ZMM as usize].0, 16, 64, 0, "ZMM16+"),
    ];
    let mut found = Vec::new();
    for (part, base, count, width, first, name) in groups {
        if host.mask >> part & 1 == 0 {
            continue;
        }
        let differs = |number: &usize| {
            let range = base + number * width..base + (number + 1) * width;
            let now = &after.0[range.clone()];
            let was = &host.canary.0[range.clone()];
            if poisoned && part != SSE && live >> part & 1 != 0 && *now == host.poison.0[range] {
                return false;
            }
            if live >> part & 1 != 0 { now != was } else { was.iter().any(|byte| *byte != 0) }
        };
        let spoiled: Vec<usize> = (first..count).filter(differs).collect();
        if let Some(one) = spoiled.first() {
            found.push(format!("{name}{one} ({} of {})", spoiled.len(), count - first));
        }
    }
    (!found.is_empty()).then(|| found.join(", "))
}

/// A state that a driver saved and has not restored.
pub(crate) struct Save {
    /// The driver's `XSTATE_SAVE`.
    place: usize,
    mask: u64,
    irql: u8,
    area: Box<XsaveArea>,
}

/// Copies the components of `mask`.
fn transfer(to: &mut XsaveArea, from: &XsaveArea, mask: u64) {
    let host = host();
    let live = in_use(from);
    if mask >> SSE & 1 != 0 {
        to.0[24..32].copy_from_slice(&from.0[24..32]);
        to.0[XMM..XMM + 256].copy_from_slice(&from.0[XMM..XMM + 256]);
    }
    for part in BEYOND_SSE {
        if mask & host.mask & 1 << part != 0 {
            let (offset, size) = host.parts[part as usize];
            if live >> part & 1 != 0 {
                to.0[offset..offset + size].copy_from_slice(&from.0[offset..offset + size]);
            } else {
                to.0[offset..offset + size].fill(0);
            }
        }
    }
    let used = in_use(to) | mask & host.mask;
    to.0[HEADER..HEADER + 8].copy_from_slice(&used.to_le_bytes());
}

fn save(thread: &Thread, mask: u64, place: usize) {
    let mut area = Box::new(XsaveArea::new());
    if thread.gate.flags.get() & VERIFY_XSTATE != 0 {
        if let Some(frame) = thread.import_frame() {
            // SAFETY: the gate's image of the driver's state, on this thread's host stack while the import runs.
            let live = unsafe { &*frame.xsave };
            transfer(&mut area, live, mask);
        }
    } else if host().mask != 0 {
        let (low, high) = ((mask & host().mask) as u32, 0_u32);
        // SAFETY: `area` is 64-byte aligned, zeroed, and large enough for every component of the host's mask.
        unsafe {
            std::arch::asm!("xsave64 [{}]", in(reg) area.0.as_mut_ptr(), in("eax") low, in("edx") high, options(nostack));
        }
    }
    if thread.machine().options().remembers {
        let memory = thread.machine().extension::<Memory>();
        memory.keep("saved vector state".to_owned(), area.0.to_vec());
    }
    thread.saves.borrow_mut().push(Save { place, mask, irql: thread.irql(), area });
}

fn restore(thread: &Thread, saved: &Save) {
    if thread.gate.flags.get() & VERIFY_XSTATE != 0 {
        if let Some(frame) = thread.import_frame() {
            // SAFETY: as in `save`; the gate reads it after this import has returned.
            let live = unsafe { &mut *frame.xsave };
            transfer(live, &saved.area, saved.mask);
        }
    } else if host().mask != 0 {
        let (low, high) = ((saved.mask & host().mask) as u32, 0_u32);
        // SAFETY: an image that `save` made. The registers that change belong to the driver: Rust code around this asm treats
        // them as clobbered by the call to this function under the System V rules.
        unsafe {
            std::arch::asm!(
                "xrstor64 [{}]", in(reg) saved.area.0.as_ptr(), in("eax") low, in("edx") high,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _, out("xmm6") _,
                out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _, out("xmm12") _, out("xmm13") _,
                out("xmm14") _, out("xmm15") _, options(nostack)
            );
        }
    }
}

crate::nt::imports! {
    pub(crate) static IMPORTS: "ntoskrnl.exe";

    /// Saves the components of `mask` of the calling thread's state.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-kesaveextendedprocessorstate", fail: STATUS_INSUFFICIENT_RESOURCES]
    fn KeSaveExtendedProcessorState(thread, mask: u64, place: usize) -> i32 {
        if mask & !host().enabled != 0 {
            return STATUS_INVALID_PARAMETER;
        }
        if probe::write(place + 24, mask).is_err() {
            return thread.bad_pointer("XStateSave", place);
        }
        let kept = if thread.machine().options().keeps_extended_state { mask } else { 0 };
        save(thread, kept, place);
        STATUS_SUCCESS
    }

    /// Restores what the matching save kept: the last one, at its IRQL.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-kerestoreextendedprocessorstate"]
    fn KeRestoreExtendedProcessorState(thread, place: usize) {
        let Some(saved) = thread.saves.borrow_mut().pop() else {
            return thread.stop(&rules::EXTENDED_STATE, "restored without a save in this thread");
        };
        if saved.place != place {
            return thread.stop(&rules::EXTENDED_STATE, format!("restored from {place:#x}, the last save was to {:#x}", saved.place));
        }
        if saved.irql != thread.irql() {
            let detail = format!("saved at IRQL {}, restored at IRQL {}", saved.irql, thread.irql());
            return thread.stop(&rules::EXTENDED_STATE, detail);
        }
        restore(thread, &saved);
    }

    /// The enabled features among `mask`.
    [max: PASSIVE, mark: Documented, source: "DDI ntddk/nf-ntddk-rtlgetenabledextendedfeatures"]
    fn RtlGetEnabledExtendedFeatures(thread, mask: u64) -> u64 {
        // Only what the gates keep for the driver counts as enabled.
        mask & (host().mask | LEGACY)
    }
}
