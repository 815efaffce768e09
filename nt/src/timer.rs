//! A timer that calls a routine at `DISPATCH_LEVEL`, once per setting.
//!
//! `EX_TIMER`, because it can be told not to wake a sleeping CPU, and because deleting it waits
//! for the routine. It is only a wake-up, and may come late or up to a clock tick early: whoever
//! is woken looks at the clock.

use alloc::boxed::Box;
use core::{ffi::c_void, fmt, ptr, ptr::NonNull, time::Duration};

use wdk_sys::{
    _EX_TIMER, PEX_TIMER,
    ntddk::{ExAllocateTimer, ExCancelTimer, ExDeleteTimer, ExSetTimer},
};

use crate::{
    irql::Dispatch, pool, status::NtError, sys::ke::EX_TIMER_NO_WAKE, time::relative_100ns,
};

/// What an expiry is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Wakes an idle CPU.
    Cpu,
    /// Waits until a CPU is awake anyway.
    Never,
}

/// A routine that a clock calls, and what it works on. Wraps `EX_TIMER`.
///
/// Dropped at `PASSIVE_LEVEL`: it waits for a routine that has begun.
///
/// # Invariants
///
/// `timer` came from `ExAllocateTimer` with `block` as its context.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/kernel/exxxxtimer-routines-and-ex-timer-objects>
pub struct Timer<C: Sync> {
    timer: NonNull<_EX_TIMER>,
    block: Box<Block<C>>,
}

/// What the callback is given.
struct Block<C> {
    context: C,
    routine: fn(&C, &Dispatch<'_>),
}

// SAFETY: NT serialises all access to the timer; the context goes where `C: Send` may.
unsafe impl<C: Sync + Send> Send for Timer<C> {}
// SAFETY: as above; the routine has a shared borrow of the context.
unsafe impl<C: Sync> Sync for Timer<C> {}

impl<C: Sync + Send + 'static> Timer<C> {
    /// Makes a timer, not set, that runs `routine` on `context`.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`] when NT has no memory for it.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exallocatetimer>
    pub fn try_new(
        context: C,
        wake: Wake,
        routine: fn(&C, &Dispatch<'_>),
    ) -> Result<Self, NtError> {
        let block = pool::try_box(Block { context, routine })?;
        let attributes = match wake {
            Wake::Cpu => 0,
            Wake::Never => EX_TIMER_NO_WAKE,
        };
        let context = ptr::from_ref::<Block<C>>(&block).cast_mut().cast();
        // SAFETY: at most at DISPATCH_LEVEL; the block stays where it is until the timer is
        // deleted, which waits for the callback.
        let timer = unsafe { ExAllocateTimer(Some(run::<C>), context, attributes) };
        let timer = NonNull::new(timer).ok_or(NtError::INSUFFICIENT_RESOURCES)?;
        // INVARIANT: just made so.
        Ok(Self { timer, block })
    }
}

impl<C: Sync> Timer<C> {
    /// Has the routine run once, `delay` from now; takes the place of an earlier setting.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-exsettimer>
    pub fn set(&self, delay: Duration) {
        let due = relative_100ns(delay);
        // SAFETY: a live timer (type invariant); no period, no parameters.
        unsafe { ExSetTimer(self.timer.as_ptr(), due, 0, ptr::null_mut()) };
    }

    /// Takes the setting back; false if there was none or its routine has begun.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: <https://learn.microsoft.com/windows-hardware/drivers/ddi/wdm/nf-wdm-excanceltimer>
    pub fn cancel(&self) -> bool {
        // SAFETY: a live timer (type invariant); the parameters are reserved, null.
        unsafe { ExCancelTimer(self.timer.as_ptr(), ptr::null_mut()) != 0 }
    }

    /// What the routine works on.
    ///
    /// # IRQL
    ///
    /// Any.
    pub const fn context(&self) -> &C {
        &self.block.context
    }
}

impl<C: Sync> Drop for Timer<C> {
    fn drop(&mut self) {
        // SAFETY: a live timer (type invariant), not used again; at PASSIVE_LEVEL, where a Timer
        // is dropped, so that it may wait for the callback (Cancel and Wait = TRUE).
        unsafe { ExDeleteTimer(self.timer.as_ptr(), 1, 1, ptr::null_mut()) };
    }
}

impl<C: Sync> fmt::Debug for Timer<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Timer")
    }
}

/// `EXT_CALLBACK`.
unsafe extern "C" fn run<C>(_timer: PEX_TIMER, context: *mut c_void) {
    // SAFETY: the context is the timer's block (type invariant), which outlives the callback.
    let block = unsafe { &*context.cast::<Block<C>>() };
    // SAFETY: EX_TIMER callbacks run at DISPATCH_LEVEL, to their end.
    let level = unsafe { Dispatch::assume() };
    (block.routine)(&block.context, &level);
}
