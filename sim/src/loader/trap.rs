//! Faults in driver code become stops; faults in a probing copy become errors; every other fault kills the process as usual.
//!
//! The handler runs on its own stack, allocates nothing and takes no lock: it records registers in the thread's block, sends
//! RIP to the gate's exit, and returns. Unwinding and symbols come later, in normal context (`nt/thread.rs`).
//!
//! A breakpoint at one of the driver's atomics, which there is in a world that explores schedules, is a place where others may
//! run: that handler waits. So is the end of some single steps that begin there.
//!
//! It also plays two things Windows drivers do without an import: `mov cr8` (inlined IRQL functions) and reads of the shared
//! user data page (inlined `KeQueryInterruptTime`).

use std::sync::Once;

use iced_x86::{Code, Decoder, DecoderOptions, Instruction, OpKind, Register};

use crate::loader::gate::{self, Gate, Registers};
use crate::loader::raw;
use crate::loader::sites::Next;
use crate::nt::level::DISPATCH;
use crate::nt::machine::Machine;
use crate::nt::thread::{Thread, block_of_this_thread};
use crate::nt::xstate;
use crate::verifier::explore::Reach;
use crate::verifier::rules::{self, Rule};

/// A fault in driver code, as the handler recorded it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trap {
    pub(crate) registers: Registers,
    signal: i32,
    number: i64,
    error: i64,
    address: usize,
}

/// No trap's number: a `pause` that was executed too often.
const ENDLESS: i64 = -1;
const TRAP_FLAG: i64 = 0x100;
const DIRECTION_FLAG: i64 = 0x400;
/// `#PF`.
const PAGE_FAULT: i64 = 14;
/// `KUSER_SHARED_DATA` in kernel space.
const SHARED_USER_DATA: u64 = 0xFFFF_F780_0000_0000;
/// Alternate signal stack.
const SIGNAL_STACK: usize = 64 << 10;
const ARCH_SET_GS: i32 = 0x1001;
/// Sent to threads in driver code when their machine has stopped, so that endless loops end.
const INTERRUPT: i32 = libc::SIGUSR2;

impl Trap {
    /// The rule it breaks.
    pub(crate) fn rule(&self) -> &'static Rule {
        match self.signal {
            libc::SIGSEGV | libc::SIGBUS if self.number == PAGE_FAULT => {
                &rules::PAGE_FAULT_IN_NONPAGED_AREA
            }
            INTERRUPT => &rules::SIMULATOR,
            _ if self.number == ENDLESS => &rules::ENDLESS_SPIN,
            _ => &rules::KMODE_EXCEPTION_NOT_HANDLED,
        }
    }

    /// The bugcheck's parameters.
    pub(crate) fn parameters(&self) -> [u64; 4] {
        [self.address as u64, (self.error as u64 >> 1) & 1, self.registers.rip, 0]
    }

    /// What happened, in words.
    pub(crate) fn describe(&self, thread: &Thread) -> String {
        let machine = thread.machine();
        let what = match self.signal {
            libc::SIGILL => return "undefined instruction".into(),
            libc::SIGFPE => return "division error".into(),
            INTERRUPT => return "interrupted because its machine has stopped".into(),
            _ if self.number == ENDLESS => return "spins for ever: nobody else can end it".into(),
            libc::SIGTRAP => return "breakpoint or single step".into(),
            _ if self.number != PAGE_FAULT => {
                return "privileged instruction or non-canonical address".into();
            }
            _ if self.error & 16 != 0 => "execution of",
            _ if self.error & 2 != 0 => "write to",
            _ => "read of",
        };
        let (low, _) = thread.bounds();
        let note = if (low - 4096..low).contains(&self.address) {
            ": the guard page below the kernel stack (stack overflow)".into()
        } else {
            machine
                .pool()
                .note(machine, self.address)
                .map(|note| format!(": {note}"))
                .unwrap_or_default()
        };
        format!("{what} {:#x}{note}", self.address)
    }
}

/// Points GS at `gate` and makes sure this host thread has a signal stack.
pub(crate) fn set_gs(gate: &Gate) {
    thread_local! {
        static OWN_SIGNAL_STACK: SignalStack = SignalStack::set();
    }
    // SAFETY: nothing on Linux x86-64 uses GS in user mode; the block outlives the calls it is set for.
    let result =
        unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_SET_GS, std::ptr::from_ref(gate)) };
    assert_eq!(result, 0, "the host does not let GS be set");
    OWN_SIGNAL_STACK.with(|_| ());
}

/// The memory that this host thread's signal handlers run on, for as long as the thread lives.
struct SignalStack(usize);

impl SignalStack {
    fn set() -> Self {
        let base = super::pe::map_anonymous(None, SIGNAL_STACK)
            .unwrap_or_else(|error| panic!("no signal stack: {error}"));
        let stack = libc::stack_t {
            ss_sp: std::ptr::with_exposed_provenance_mut(base),
            ss_flags: 0,
            ss_size: SIGNAL_STACK,
        };
        // SAFETY: the stack was just mapped, and is unmapped when the thread has none any more.
        let result = unsafe { libc::sigaltstack(&stack, std::ptr::null_mut()) };
        assert_eq!(result, 0, "sigaltstack");
        Self(base)
    }
}

impl Drop for SignalStack {
    fn drop(&mut self) {
        let none =
            libc::stack_t { ss_sp: std::ptr::null_mut(), ss_flags: libc::SS_DISABLE, ss_size: 0 };
        // SAFETY: taking the stack away is allowed: no handler runs on it, or this would not.
        if unsafe { libc::sigaltstack(&none, std::ptr::null_mut()) } == 0 {
            super::pe::unmap(self.0, SIGNAL_STACK);
        }
    }
}

/// Installs the handlers, once per process.
pub(crate) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        for signal in
            [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGFPE, libc::SIGTRAP, INTERRUPT]
        {
            // SAFETY: all-zero is a valid `sigaction`: no flags, an empty mask.
            let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = on_signal as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
            // SAFETY: the handler keeps to what is allowed in one (see the module).
            let result = unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) };
            assert_eq!(result, 0, "sigaction");
        }
    });
}

/// Makes threads that run driver code of a stopped machine give it up, even in an endless loop.
pub(crate) fn interrupt_driver_threads(machine: &Machine) {
    machine.objects().each_host_thread(|host| {
        // SAFETY: the thread exists: `each_host_thread` keeps it from ending meanwhile.
        unsafe { libc::pthread_kill(host, INTERRUPT) };
    });
}

extern "C" fn on_signal(signal: i32, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid context to a SA_SIGINFO handler, for this handler alone.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let image_of_state = context.uc_mcontext.fpregs.cast::<u8>();
    let registers = &mut context.uc_mcontext.gregs;
    let rip = registers[libc::REG_RIP as usize] as usize;
    if signal != INTERRUPT
        && let Some(recovery) = super::probe::recovery(rip)
    {
        registers[libc::REG_RIP as usize] = recovery as i64;
        return;
    }
    let Some(thread) = block_of_this_thread() else { return unhandled(signal) };
    let sp = registers[libc::REG_RSP as usize] as usize;
    let machine = thread.machine();
    // SAFETY: the kernel passes valid information to a SA_SIGINFO handler.
    let info = unsafe { &*info };
    if signal == libc::SIGTRAP && info.si_code == libc::TRAP_TRACE {
        return stepped(thread, rip, registers, image_of_state);
    }
    let rip = match copied_from(machine, rip) {
        Some(site) => {
            registers[libc::REG_RIP as usize] = site as i64;
            site
        }
        None => rip,
    };
    if signal == libc::SIGTRAP && machine.is_driver_code(rip) {
        match at_site(thread, rip - 1, registers, image_of_state) {
            Site::Passed => return,
            Site::SpunTooLong => return note(thread, signal, ENDLESS, rip, registers),
            Site::No => {}
        }
    }
    let (low, high) = thread.bounds();
    let on_driver_stack = (low - 4096..=high).contains(&sp);
    let in_driver = machine.is_driver_code(rip) || raw::range().contains(&rip);
    if signal == INTERRUPT {
        if in_driver && machine.is_dead() {
            redirect(registers);
        }
        return;
    }
    if !(in_driver || on_driver_stack) {
        return unhandled(signal);
    }
    if in_driver && signal == libc::SIGSEGV && emulate(thread, rip, registers) {
        return;
    }
    // SAFETY: the signals handled here are faults, whose information has an address.
    let address = unsafe { info.si_addr() }.addr();
    note(thread, signal, registers[libc::REG_TRAPNO as usize], address, registers);
}

/// Records a fault, and has the driver's frames given up.
fn note(thread: &Thread, signal: i32, number: i64, address: usize, registers: &mut [i64; 23]) {
    let error = registers[libc::REG_ERR as usize];
    thread.trap.set(Some(Trap { registers: image(registers), signal, number, error, address }));
    redirect(registers);
}

/// The site whose copy of an instruction is at `rip`.
fn copied_from(machine: &Machine, rip: usize) -> Option<usize> {
    if !machine.world().explores() || machine.is_driver_code(rip) {
        return None;
    }
    machine.image()?.sites().original(rip)
}

/// What a breakpoint was.
enum Site {
    Passed,
    SpunTooLong,
    No,
}

/// A breakpoint at one of the driver's atomics: others may run, and then the thread goes on. The thread was in driver code, so
/// nothing of this program is half done, and this may do what an import may.
fn at_site(thread: &Thread, site: usize, registers: &mut [i64; 23], state: *mut u8) -> Site {
    let machine = thread.machine();
    let Some(next) = machine.image().and_then(|image| image.sites().next(site)) else {
        return Site::No;
    };
    match next {
        Next::Copy(copy) => {
            registers[libc::REG_RIP as usize] = copy as i64;
            match thread.reach_code(site) {
                // The copy, and the jump behind it, are two.
                Reach::Later(preemption, steps) => {
                    thread.steps.set(Some((preemption, steps + 2)));
                    registers[libc::REG_EFL as usize] |= TRAP_FLAG;
                }
                reach => resume(thread, reach, registers, state),
            }
        }
        Next::Spins(behind) => {
            if !machine.world().spin() {
                return Site::SpunTooLong;
            }
            registers[libc::REG_RIP as usize] = behind as i64;
            resume(thread, Reach::On, registers, state);
        }
    }
    Site::Passed
}

/// The driver's code has executed one instruction, on the way to a preemption.
fn stepped(thread: &Thread, rip: usize, registers: &mut [i64; 23], state: *mut u8) {
    let machine = thread.machine();
    let own = copied_from(machine, rip).or_else(|| machine.is_driver_code(rip).then_some(rip));
    match (own, thread.step()) {
        (Some(_), Some((preemption, steps))) if steps > 1 => {
            thread.steps.set(Some((preemption, steps - 1)));
        }
        (Some(at), Some((preemption, _))) => {
            registers[libc::REG_EFL as usize] &= !TRAP_FLAG;
            let reach = thread.reach_late(at, preemption);
            resume(thread, reach, registers, state);
        }
        // It has called, or returned to, this program, where it is not preempted.
        _ => registers[libc::REG_EFL as usize] &= !TRAP_FLAG,
    }
}

/// The thread goes on in driver code, unless its machine has stopped.
fn resume(thread: &Thread, reach: Reach, registers: &mut [i64; 23], state: *mut u8) {
    if reach == Reach::Switched && thread.resumes_without_vectors() {
        // SAFETY: the state of the frame that the handler was given.
        unsafe { xstate::poison_signal_frame(state) };
    }
    if thread.machine().is_dead() {
        redirect(registers);
    }
}

/// Returns to the gate's exit, with direction and trap flags clear.
fn redirect(registers: &mut [i64; 23]) {
    registers[libc::REG_EFL as usize] &= !(DIRECTION_FLAG | TRAP_FLAG);
    registers[libc::REG_RIP as usize] = gate::abandon_address() as i64;
}

/// Not ours: the default action when the instruction faults again.
fn unhandled(signal: i32) {
    if signal != INTERRUPT {
        // SAFETY: restoring the default action is always allowed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

fn image(registers: &[i64; 23]) -> Registers {
    let get = |register: i32| registers[register as usize] as u64;
    Registers {
        rip: get(libc::REG_RIP),
        rsp: get(libc::REG_RSP),
        rbp: get(libc::REG_RBP),
        rbx: get(libc::REG_RBX),
        rsi: get(libc::REG_RSI),
        rdi: get(libc::REG_RDI),
        r12: get(libc::REG_R12),
        r13: get(libc::REG_R13),
        r14: get(libc::REG_R14),
        r15: get(libc::REG_R15),
    }
}

/// Where the signal context keeps a general register.
fn index_of(register: Register) -> usize {
    let index = match register.full_register().number() {
        0 => libc::REG_RAX,
        1 => libc::REG_RCX,
        2 => libc::REG_RDX,
        3 => libc::REG_RBX,
        4 => libc::REG_RSP,
        5 => libc::REG_RBP,
        6 => libc::REG_RSI,
        7 => libc::REG_RDI,
        number => libc::REG_R8 + number as i32 - 8,
    };
    index as usize
}

/// Does what the kernel's CPU would do for an instruction that user mode may not run. True if it did.
fn emulate(thread: &Thread, rip: usize, registers: &mut [i64; 23]) -> bool {
    // SAFETY: `rip` is in the driver's code, which is mapped with room after it (the image's last page is never code).
    let code = unsafe { std::slice::from_raw_parts(rip as *const u8, 15) };
    let instruction = Decoder::with_ip(64, code, rip as u64, DecoderOptions::NONE).decode();
    let done = match instruction.code() {
        Code::Mov_r64_cr if instruction.op1_register() == Register::CR8 => {
            registers[index_of(instruction.op0_register())] = thread.irql().into();
            true
        }
        // Only among levels that do not take or give the CPU; the others are imports on x64.
        Code::Mov_cr_r64 if instruction.op0_register() == Register::CR8 => {
            let to = registers[index_of(instruction.op1_register())] as u8;
            let same_side = (to >= DISPATCH) == (thread.irql() >= DISPATCH);
            if same_side {
                thread.set_irql(to);
            }
            same_side
        }
        Code::Mov_r64_rm64 | Code::Mov_r32_rm32 if instruction.op1_kind() == OpKind::Memory => {
            shared_user_data(thread, &instruction, registers)
        }
        _ => false,
    };
    if done {
        registers[libc::REG_RIP as usize] += instruction.len() as i64;
    }
    done
}

/// A read of the shared user data page: `InterruptTime` at 8 and `SystemTime` at 0x14 (low, high 1, high 2).
fn shared_user_data(thread: &Thread, instruction: &Instruction, registers: &mut [i64; 23]) -> bool {
    let value = |register: Register, _, _| {
        if register == Register::None {
            Some(0)
        } else {
            Some(registers[index_of(register)] as u64)
        }
    };
    let Some(address) = instruction.virtual_address(1, 0, value) else { return false };
    let Some(offset) = address.checked_sub(SHARED_USER_DATA).filter(|offset| *offset < 4096) else {
        return false;
    };
    let clock = thread.machine().coarse_time();
    let (base, time) = if offset < 0x14 { (0x8, clock.interrupt) } else { (0x14, clock.system) };
    let wide = instruction.code() == Code::Mov_r64_rm64;
    let answer = match offset.checked_sub(base) {
        Some(0) if wide => time,
        Some(0) => time & 0xFFFF_FFFF,
        Some(4 | 8) if !wide => time >> 32,
        _ => return false,
    };
    registers[index_of(instruction.op0_register())] = answer as i64;
    true
}
