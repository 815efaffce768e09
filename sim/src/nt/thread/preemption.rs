//! What being preempted is to a thread: it finds a CPU again, and not always its vector registers.

use super::{Dead, Thread};
use crate::loader::gate::VERIFY_XSTATE;
use crate::nt::level::DISPATCH;
use crate::nt::xstate;
use crate::verifier::explore::Place;

impl Thread {
    /// A place where a world that explores may have others run. True if the vector state of the driver code that runs here
    /// is not its own any more.
    pub(crate) fn reach(&self, place: impl FnOnce() -> Place) -> bool {
        let machine = self.machine();
        let world = machine.world();
        if !world.explores() {
            return false;
        }
        // A CPU that somebody keeps at DISPATCH_LEVEL runs nothing below it: the thread goes to another, or waits.
        if self.irql() < DISPATCH && self.find_processor().is_err() {
            return false;
        }
        let place = place();
        if !world.reach(self, place) {
            return false;
        }
        if self.irql() < DISPATCH {
            // A machine that has stopped is noticed by the caller.
            let _ = self.find_processor();
        }
        let verified = self.gate.flags.get() & VERIFY_XSTATE != 0;
        let own = !verified || !self.saves.borrow().is_empty();
        if !own {
            self.poisoned.set(true);
            // At an atomic the driver's registers are in the handler's frame, and an import's is another callback's.
            if !matches!(place, Place::Atomic(_))
                && let Some(frame) = self.import_frame()
            {
                xstate::poison_import(frame);
            }
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
