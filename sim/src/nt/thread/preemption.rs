//! What being preempted is to a thread: it finds a CPU again, and not always its vector registers.

use super::{Dead, Thread};
use crate::loader::gate::{SINGLE_STEP, VERIFY_XSTATE};
use crate::nt::level::DISPATCH;
use crate::nt::xstate;
use crate::verifier::explore::{Place, Preemption, Reach};

impl Thread {
    /// A place between the driver and this program where a world that explores may have others run.
    pub(crate) fn reach(&self, place: impl FnOnce() -> Place) {
        if !self.may_be_preempted() {
            return;
        }
        match self.machine().world().reach(self, place()) {
            Reach::On => {}
            Reach::Later(preemption, steps) => {
                self.steps.set(Some((preemption, steps)));
                self.gate.flags.set(self.gate.flags.get() | SINGLE_STEP);
            }
            Reach::Switched => {
                if self.resumes_without_vectors()
                    && let Some(frame) = self.import_frame()
                {
                    xstate::poison_import(frame);
                }
            }
        }
    }

    /// A single step: the preemption that is to come, and in how many, this one included.
    pub(crate) fn step(&self) -> Option<(Preemption, u32)> {
        self.gate.flags.set(self.gate.flags.get() & !SINGLE_STEP);
        self.steps.take()
    }

    /// The same in driver code; if others have run, the caller goes on to [`Thread::resumes_without_vectors`].
    pub(crate) fn reach_code(&self, at: usize) -> Reach {
        if !self.may_be_preempted() {
            return Reach::On;
        }
        self.machine().world().reach(self, Place::Code(at))
    }

    /// The same where a preemption is that was drawn some instructions before.
    pub(crate) fn reach_late(&self, at: usize, preemption: Preemption) -> Reach {
        if !self.may_be_preempted() {
            return Reach::On;
        }
        self.machine().world().preempted(self, Place::Code(at), Some(preemption))
    }

    /// Whether the world explores, and there is a CPU for this thread; a machine that has stopped is noticed by the caller.
    fn may_be_preempted(&self) -> bool {
        // A CPU that somebody keeps at DISPATCH_LEVEL runs nothing below it: the thread goes to another, or waits.
        self.machine().world().explores()
            && (self.irql() >= DISPATCH || self.find_processor().is_ok())
    }

    /// Others have run: the thread finds a CPU again. True if the vector state of the driver code that runs here is not its
    /// own any more, which the caller is to make true.
    pub(crate) fn resumes_without_vectors(&self) -> bool {
        if self.irql() < DISPATCH {
            // As above.
            let _ = self.find_processor();
        }
        let verified = self.gate.flags.get() & VERIFY_XSTATE != 0;
        let own = !verified || !self.saves.borrow().is_empty();
        if !own {
            self.poisoned.set(true);
        }
        !own
    }

    /// Gives the thread, below `DISPATCH_LEVEL`, a CPU that nobody keeps, of those it may run on, when there is one.
    fn find_processor(&self) -> Result<(), Dead> {
        let machine = self.machine();
        let find = || {
            let free = |cpu: &u32| {
                self.affinity() >> cpu & 1 != 0 && machine.processor(*cpu).is_free_for(self)
            };
            let own = Some(self.cpu()).filter(|cpu| machine.processor(*cpu).is_free_for(self));
            own.or_else(|| (0..machine.options().cpus).find(free))
        };
        let cpu = match find() {
            Some(cpu) => cpu,
            None => {
                let key = machine.processor(self.cpu()).key();
                machine.wait(key, None, "a CPU", find).map_err(|_| Dead)?
            }
        };
        if cpu != self.cpu() {
            self.set_processor(cpu);
        }
        Ok(())
    }
}
