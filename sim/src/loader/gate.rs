//! The two gates between the simulator (System V calls) and the driver (win64 calls).
//!
//! `gate_call` takes a host thread into driver code on a driver stack; `gate_import` is where every import of the driver ends:
//! it saves all registers that win64 preserves (a complete image for the unwinder), goes back to the host stack, and calls the
//! Rust function of the import. Linux leaves GS to programs, so it points at the thread's [`Gate`], as it points at the KPCR
//! in Windows; what the driver reads from `gs:[0x188]` (the current thread) and `gs:[0x1a4]` (the CPU) is right.
//!
//! *Abandoning.* A stop never unwinds. Whoever wants to stop sets `abandon` and returns; the gate then jumps to the exit of
//! `gate_call`, and the driver's frames, which own nothing of the host's, are forgotten. A fault handler redirects RIP to the
//! same place. Nested calls are abandoned one by one.
//!
//! *Vector state.* In verified mode each callback starts with canaries in every register beyond XMM0-5 and each gate saves and
//! restores the driver's state with XSAVE, so the host may use any register, and what the driver spoils is seen.

use std::arch::global_asm;
use std::cell::Cell;
use std::mem::offset_of;

/// The block behind GS. The assembly knows the offsets from 0xF00 on.
#[repr(C, align(4096))]
pub struct Gate {
    /// What a driver may read of the KPCR.
    pub(crate) kpcr: [Cell<u64>; 0x1E0],
    pub(crate) own: Cell<*const Gate>,
    pub(crate) host_sp: Cell<u64>,
    pub(crate) call_frame: Cell<u64>,
    pub(crate) import: Cell<*const ImportFrame>,
    pub(crate) driver_sp: Cell<u64>,
    pub(crate) flags: Cell<u64>,
    pub(crate) abandon: Cell<u64>,
    pub(crate) functions: Cell<*const usize>,
    pub(crate) canary: Cell<*const XsaveArea>,
    pub(crate) xmask: Cell<u64>,
    pub(crate) result: Cell<u64>,
    pub(crate) status: Cell<u64>,
}

/// Save and restore the extended state at each gate, canaries in each callback.
pub(crate) const VERIFY_XSTATE: u64 = 1;
/// The CPU has AVX, so `vzeroupper` exists.
pub(crate) const HAS_AVX: u64 = 4;
/// The next import that returns has the driver single-stepped from there on.
pub(crate) const SINGLE_STEP: u64 = 8;
/// Arguments that a call can carry either way.
pub const MAX_ARGUMENTS: usize = 10;

const _: () = assert!(offset_of!(Gate, own) == 0xF00);
const _: () = assert!(offset_of!(Gate, status) == 0xF58);

/// An XSAVE image in the standard format.
#[derive(Clone)]
#[repr(C, align(64))]
pub struct XsaveArea(pub(crate) [u8; Self::SIZE]);

impl XsaveArea {
    /// Room for everything up to ZMM16-31.
    pub(crate) const SIZE: usize = 0xB40;

    /// All components in their initial state.
    pub(crate) const fn new() -> Self {
        Self([0; Self::SIZE])
    }
}

/// What `gate_import` leaves on the host stack while an import runs.
#[repr(C)]
pub struct ImportFrame {
    pub(crate) outer: *const ImportFrame,
    rbp: u64,
    pub(crate) index: u64,
    host_sp: u64,
    driver_sp: u64,
    pub(crate) xsave: *mut XsaveArea,
}

const _: () = assert!(XsaveArea::SIZE + size_of::<ImportFrame>() <= 0xC00);

/// The registers that an unwinder starts from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Registers {
    pub(crate) rip: u64,
    pub(crate) rsp: u64,
    pub(crate) rbp: u64,
    pub(crate) rbx: u64,
    pub(crate) rsi: u64,
    pub(crate) rdi: u64,
    pub(crate) r12: u64,
    pub(crate) r13: u64,
    pub(crate) r14: u64,
    pub(crate) r15: u64,
}

impl ImportFrame {
    /// The driver's registers as they will be when the import returns.
    pub(crate) fn registers(&self) -> Registers {
        let at = |offset: i64| {
            let address = self.rbp.wrapping_add_signed(offset) as *const u64;
            // SAFETY: `gate_import` pushed eight registers downwards from `rbp` on the driver stack, which stays mapped while
            // the import runs, and the return address is above them.
            unsafe { address.read() }
        };
        Registers {
            rip: at(8),
            rsp: self.rbp + 16,
            rbp: at(0),
            rbx: at(-8),
            rsi: at(-16),
            rdi: at(-24),
            r12: at(-32),
            r13: at(-40),
            r14: at(-48),
            r15: at(-56),
        }
    }
}

unsafe extern "C" {
    fn gate_import();
    fn gate_abandon();
    fn gate_call_return();
    /// Calls `function` with `arguments` on the driver stack of `gate`, which GS must point at. `after` receives the vector
    /// state at return if the gate verifies it.
    pub(crate) fn gate_call(
        gate: *const Gate,
        function: usize,
        arguments: *const [u64; MAX_ARGUMENTS],
        after: *mut XsaveArea,
    );
}

/// Where a fault handler sends RIP to give a driver call up.
pub(crate) fn abandon_address() -> usize {
    gate_abandon as *const () as usize
}

/// The return address of every call into the driver.
pub(crate) fn call_return_address() -> u64 {
    gate_call_return as *const () as u64
}

global_asm!(
    r#"
.set G_OWN, 0xF00
.set G_HOST_SP, 0xF08
.set G_CALL_FRAME, 0xF10
.set G_IMPORT, 0xF18
.set G_DRIVER_SP, 0xF20
.set G_MODE, 0xF28
.set G_ABANDON, 0xF30
.set G_FUNCTIONS, 0xF38
.set G_CANARY, 0xF40
.set G_XMASK, 0xF48
.set G_RESULT, 0xF50
.set G_STATUS, 0xF58
.globl gate_import
.type gate_import,@function
gate_import:                     # driver -> host; r11 = number of the import
  .cfi_startproc
  .cfi_signal_frame              # for debuggers: the stack is another one from here on
  push rbp
  .cfi_def_cfa_offset 16
  .cfi_offset rbp, -16
  mov rbp, rsp
  .cfi_def_cfa_register rbp
  .cfi_offset rbx, -24
  .cfi_offset rsi, -32
  .cfi_offset rdi, -40
  .cfi_offset r12, -48
  .cfi_offset r13, -56
  .cfi_offset r14, -64
  .cfi_offset r15, -72
  push rbx
  push rsi
  push rdi
  push r12
  push r13
  push r14
  push r15
  mov rbx, gs:[G_OWN]
  mov r12, rsp
  mov rsp, [rbx+G_HOST_SP]       # to the host stack
  and rsp, -64
  sub rsp, 0xC00                 # 0..0xB40: XSAVE area, then the ImportFrame
  mov r13, rsp
  mov rax, [rbx+G_IMPORT]
  mov [r13+0xB40], rax
  mov [r13+0xB48], rbp
  mov [r13+0xB50], r11
  mov rax, [rbx+G_HOST_SP]
  mov [r13+0xB58], rax
  mov rax, [rbx+G_DRIVER_SP]
  mov [r13+0xB60], rax
  mov [r13+0xB68], r13
  lea rax, [r13+0xB40]
  mov [rbx+G_IMPORT], rax
  mov [rbx+G_DRIVER_SP], r12
  mov [rbx+G_HOST_SP], rsp
  test dword ptr [rbx+G_MODE], 1
  jz 2f
  mov r14, rdx
  xor eax, eax                   # XSAVE wants a zeroed header
  mov [r13+512], rax
  mov [r13+520], rax
  mov [r13+528], rax
  mov [r13+536], rax
  mov [r13+544], rax
  mov [r13+552], rax
  mov [r13+560], rax
  mov [r13+568], rax
  mov eax, [rbx+G_XMASK]
  xor edx, edx
  xsave64 [r13]
  mov rdx, r14
2:
  test dword ptr [rbx+G_MODE], 4
  jz 4f
  vzeroupper
4:
  sub rsp, 0x60
  mov rax, [rbp+0x30]
  mov [rsp+0x20], rax
  mov rax, [rbp+0x38]
  mov [rsp+0x28], rax
  mov rax, [rbp+0x40]
  mov [rsp+0x30], rax
  mov rax, [rbp+0x48]
  mov [rsp+0x38], rax
  mov rax, [rbp+0x50]
  mov [rsp+0x40], rax
  mov rax, [rbp+0x58]
  mov [rsp+0x48], rax
  mov rax, [rbp+0x60]              # an eleventh argument: WskSocket's IRP
  mov [rsp+0x50], rax
  mov rax, [rbx+G_FUNCTIONS]
  call [rax+r11*8]
  mov r15, rax
  test dword ptr [rbx+G_MODE], 1
  jz 3f
  mov eax, [rbx+G_XMASK]
  xor edx, edx
  xrstor64 [r13]
3:
  mov rax, [r13+0xB40]
  mov [rbx+G_IMPORT], rax
  mov rax, [r13+0xB58]
  mov [rbx+G_HOST_SP], rax
  mov rax, [r13+0xB60]
  mov [rbx+G_DRIVER_SP], rax
  cmp qword ptr [rbx+G_ABANDON], 0
  jne gate_abandon
  mov rax, r15
  test dword ptr [rbx+G_MODE], 8
  mov rsp, r12
  pop r15
  pop r14
  pop r13
  pop r12
  pop rdi
  pop rsi
  pop rbx
  pop rbp
  .cfi_def_cfa rsp, 8
  jnz 5f
  ret
5:
  pushfq
  or dword ptr [rsp], 0x100      # the trap flag: effective behind the next instruction
  popfq
  ret
  .cfi_endproc

.globl gate_call
.type gate_call,@function
gate_call:                       # host -> driver: rdi = gate, rsi = function, rdx = arguments, rcx = state at return
  .cfi_startproc
  .cfi_signal_frame
  push rbp
  .cfi_def_cfa_offset 16
  .cfi_offset rbp, -16
  mov rbp, rsp
  .cfi_def_cfa_register rbp
  .cfi_offset rbx, -24
  .cfi_offset r12, -32
  .cfi_offset r13, -40
  .cfi_offset r14, -48
  .cfi_offset r15, -56
  push rbx
  push r12
  push r13
  push r14
  push r15
  sub rsp, 8
  stmxcsr [rsp]
  push qword ptr [rdi+G_HOST_SP]
  push qword ptr [rdi+G_CALL_FRAME]
  push qword ptr [rdi+G_IMPORT]
  push qword ptr [rdi+G_DRIVER_SP]
  push rcx
  mov [rdi+G_CALL_FRAME], rsp
  mov [rdi+G_HOST_SP], rsp
  mov rbx, rdi
  mov r12, rsi
  mov r13, rdx
  mov r14, [rdi+G_DRIVER_SP]
  and r14, -16
  sub r14, 0x80
  test dword ptr [rbx+G_MODE], 1
  jz 2f
  mov eax, [rbx+G_XMASK]
  xor edx, edx
  mov rcx, [rbx+G_CANARY]
  xrstor64 [rcx]
2:
  mov rsp, r14
  mov rax, [r13+32]
  mov [rsp+0x20], rax
  mov rax, [r13+40]
  mov [rsp+0x28], rax
  mov rax, [r13+48]
  mov [rsp+0x30], rax
  mov rax, [r13+56]
  mov [rsp+0x38], rax
  mov rax, [r13+64]
  mov [rsp+0x40], rax
  mov rax, [r13+72]
  mov [rsp+0x48], rax
  mov rcx, [r13]
  mov rdx, [r13+8]
  mov r8, [r13+16]
  mov r9, [r13+24]
  call r12
.globl gate_call_return
gate_call_return:
  mov r10, gs:[G_OWN]
  mov r11, rax
  test dword ptr [r10+G_MODE], 1
  jz 3f
  mov eax, [r10+G_XMASK]
  xor edx, edx
  mov rcx, [r10+G_CALL_FRAME]
  mov rcx, [rcx]
  xsave64 [rcx]
3:
  mov [r10+G_RESULT], r11
  mov qword ptr [r10+G_STATUS], 0
5:
  test dword ptr [r10+G_MODE], 4
  jz 6f
  vzeroupper
6:
  mov rsp, [r10+G_CALL_FRAME]
  add rsp, 8
  pop qword ptr [r10+G_DRIVER_SP]
  pop qword ptr [r10+G_IMPORT]
  pop qword ptr [r10+G_CALL_FRAME]
  pop qword ptr [r10+G_HOST_SP]
  ldmxcsr [rsp]
  add rsp, 8
  pop r15
  pop r14
  pop r13
  pop r12
  pop rbx
  pop rbp
  .cfi_def_cfa rsp, 8
  ret
  .cfi_endproc
.globl gate_abandon
.type gate_abandon,@function
gate_abandon:                    # the driver's frames are forgotten; they own nothing of the host's
  mov r10, gs:[G_OWN]
  cld
  mov qword ptr [r10+G_ABANDON], 0
  mov qword ptr [r10+G_STATUS], 1
  jmp 5b
"#
);

/// Entries of the table that the gate calls through: imports of the simulator and names of missing framework functions.
pub(crate) const CAPACITY: usize = 4096;
const STUB_SIZE: usize = 32;

/// One stub of machine code per number, which is what the driver's import table points at.
pub(crate) struct Stubs {
    base: usize,
    functions: Box<[std::sync::atomic::AtomicUsize]>,
}

impl Stubs {
    /// Makes all of them: `mov r11d, number; mov r10, gate_import; jmp r10`.
    ///
    /// # Errors
    ///
    /// The error of `mmap`.
    pub(crate) fn new() -> std::io::Result<Self> {
        let length = CAPACITY * STUB_SIZE;
        let base = super::pe::map_anonymous(None, length)?;
        let mut code = Vec::with_capacity(length);
        for number in 0..CAPACITY as u32 {
            code.extend([0x41, 0xBB]);
            code.extend(number.to_le_bytes());
            code.extend([0x49, 0xBA]);
            code.extend((gate_import as *const () as u64).to_le_bytes());
            code.extend([0x41, 0xFF, 0xE2]);
            code.resize((number as usize + 1) * STUB_SIZE, 0xCC);
        }
        // SAFETY: `base` was just mapped, `length` bytes, writable, and nobody else knows it.
        unsafe { std::ptr::copy_nonoverlapping(code.as_ptr(), base as *mut u8, length) };
        super::pe::protect(base, length, libc::PROT_READ | libc::PROT_EXEC)?;
        let functions = (0..CAPACITY).map(|_| std::sync::atomic::AtomicUsize::new(0)).collect();
        Ok(Self { base, functions })
    }

    /// Lets stub `number` end at `function` and returns the stub's address.
    pub(crate) fn bind(&self, number: usize, function: usize) -> usize {
        self.functions[number].store(function, std::sync::atomic::Ordering::Release);
        self.base + number * STUB_SIZE
    }

    /// The number of the stub at an address.
    pub(crate) fn number_at(&self, address: usize) -> Option<usize> {
        let offset = address.checked_sub(self.base)?;
        (offset < CAPACITY * STUB_SIZE).then_some(offset / STUB_SIZE)
    }

    /// What the gate's `functions` points at. `AtomicUsize` is laid out as `usize`.
    pub(crate) fn table(&self) -> *const usize {
        self.functions.as_ptr().cast()
    }
}
