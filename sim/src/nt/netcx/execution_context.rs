//! The execution context of a queue: who polls it, when, and at which IRQL.
//!
//! [`State`] is NetAdapterCx's state machine as data, without threads: every entry point returns the
//! [`Wake`] its caller must carry out (queue the poll DPC, wake the worker thread). One context runs
//! on at most one CPU at a time, so the callbacks of one queue never overlap; two queues' do.
//!
//! A poll starts in a DPC; once it has continued in the worker thread it stays at `PASSIVE_LEVEL`
//! until it runs out of work. A queued task always moves the context to the thread. After arming the
//! notifications there is one more poll before it sleeps, which closes the window for a lost wake-up.
//!
//! Source: `facts/netcx-os.md` §4 (`ec/lib/executioncontext.cpp`, read in Microsoft's source).
//! The state names are Microsoft's.

/// Where the context stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Asleep until the next notification or task.
    Stopped,
    /// The poll DPC is queued.
    WaitingWorkerDpc,
    /// The worker thread has been woken.
    WaitingWorkerThread,
    /// A DPC or the thread is inside.
    Running,
}

/// What the caller of a transition must do, after leaving its lock.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// Nothing: somebody will look already.
    Nobody,
    /// Queue the poll DPC.
    Dpc,
    /// Wake the worker thread.
    Thread,
}

/// Who entered [`State::enter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Runner {
    /// The poll DPC, at `DISPATCH_LEVEL`.
    Dpc,
    /// The worker thread, at `PASSIVE_LEVEL`.
    Thread,
}

/// What the runner does next.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Run the first task of the queue, then ask again. Only ever told to the thread.
    RunTask,
    /// Poll, then report to [`State::polled`].
    Poll,
    /// Leave, after carrying out the wake-up.
    Leave(Wake),
}

/// How a poll ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PollEnd {
    /// Notifications are armed and one more look found nothing.
    NoMoreWork,
    /// A task was queued meanwhile.
    TaskPending,
    /// The DPC's time is used up.
    OutOfDpcBudget,
}

/// The state machine. Guarded by the context's spin lock.
#[derive(Clone, Copy, Debug)]
pub struct State {
    phase: Phase,
    has_poll_work: bool,
    tasks: usize,
    dpc_first: bool,
}

impl State {
    /// A sleeping context. `dpc_first` is the flag `RunDpcForFirstLoop`, set by default.
    #[must_use]
    pub fn new(dpc_first: bool) -> Self {
        Self { phase: Phase::Stopped, has_poll_work: false, tasks: 0, dpc_first }
    }

    /// Where the context stands.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Whether tasks wait; a poll ends with [`PollEnd::TaskPending`] then.
    #[must_use]
    pub fn task_pending(&self) -> bool {
        self.tasks > 0
    }

    /// `Notify`: there may be work for the poll.
    pub fn notify(&mut self) -> Wake {
        self.has_poll_work = true;
        if self.phase != Phase::Stopped {
            return Wake::Nobody;
        }
        self.start_poll()
    }

    /// `QueueTask`: the caller has appended a task to the queue.
    pub fn queue_task(&mut self) -> Wake {
        self.tasks += 1;
        if self.phase != Phase::Stopped {
            return Wake::Nobody;
        }
        self.go(Phase::WaitingWorkerThread, Wake::Thread)
    }

    /// The woken runner has come; says what to do first.
    ///
    /// A DPC or thread that was not waited for (woken for an earlier reason) is told to leave.
    pub fn enter(&mut self, runner: Runner) -> Step {
        let expected = match runner {
            Runner::Dpc => Phase::WaitingWorkerDpc,
            Runner::Thread => Phase::WaitingWorkerThread,
        };
        if self.phase != expected {
            return Step::Leave(Wake::Nobody);
        }
        self.phase = Phase::Running;
        self.before_poll(runner)
    }

    /// The thread has run one task.
    pub fn task_done(&mut self) -> Step {
        self.tasks -= 1;
        self.before_poll(Runner::Thread)
    }

    /// The poll has ended.
    pub fn polled(&mut self, end: PollEnd) -> Step {
        if end != PollEnd::NoMoreWork {
            self.has_poll_work = true;
            return Step::Leave(self.go(Phase::WaitingWorkerThread, Wake::Thread));
        }
        self.after_poll()
    }

    fn before_poll(&mut self, runner: Runner) -> Step {
        if self.tasks > 0 {
            return match runner {
                Runner::Dpc => Step::Leave(self.go(Phase::WaitingWorkerThread, Wake::Thread)),
                Runner::Thread => Step::RunTask,
            };
        }
        if self.has_poll_work {
            self.has_poll_work = false;
            return Step::Poll;
        }
        self.after_poll()
    }

    fn after_poll(&mut self) -> Step {
        if self.tasks > 0 {
            return Step::Leave(self.go(Phase::WaitingWorkerThread, Wake::Thread));
        }
        if self.has_poll_work {
            return Step::Leave(self.start_poll());
        }
        self.phase = Phase::Stopped;
        Step::Leave(Wake::Nobody)
    }

    fn start_poll(&mut self) -> Wake {
        if self.dpc_first {
            return self.go(Phase::WaitingWorkerDpc, Wake::Dpc);
        }
        self.go(Phase::WaitingWorkerThread, Wake::Thread)
    }

    fn go(&mut self, phase: Phase, wake: Wake) -> Wake {
        self.phase = phase;
        wake
    }
}

/// What one round of the poll loop asks for.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Poll again.
    Again,
    /// Enable the notifications, then poll again.
    Arm,
    /// Disable the notifications, then poll again.
    Disarm,
    /// Leave the loop.
    End(PollEnd),
}

/// The loop inside one poll: when notifications are armed, and when it ends.
#[derive(Clone, Copy, Debug, Default)]
pub struct PollLoop {
    armed: bool,
}

impl PollLoop {
    /// Takes the work counter of a round; `task_pending` and `out_of_budget` as they are now.
    pub fn round(&mut self, work: usize, task_pending: bool, out_of_budget: bool) -> Round {
        match (work, self.armed) {
            (0, true) => return Round::End(PollEnd::NoMoreWork),
            (0, false) => {
                self.armed = true;
                return Round::Arm;
            }
            _ if task_pending => return Round::End(PollEnd::TaskPending),
            _ if out_of_budget => return Round::End(PollEnd::OutOfDpcBudget),
            (_, true) => {
                self.armed = false;
                return Round::Disarm;
            }
            (_, false) => {}
        }
        Round::Again
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notification_is_polled_in_a_dpc_and_sleeps_again() {
        let mut state = State::new(true);
        assert_eq!(state.notify(), Wake::Dpc);
        assert_eq!(state.notify(), Wake::Nobody, "already waiting");
        assert_eq!(state.enter(Runner::Thread), Step::Leave(Wake::Nobody), "not its turn");
        assert_eq!(state.enter(Runner::Dpc), Step::Poll);
        assert_eq!(state.notify(), Wake::Nobody, "it runs");
        assert_eq!(
            state.polled(PollEnd::NoMoreWork),
            Step::Leave(Wake::Dpc),
            "but it was notified"
        );
        assert_eq!(state.enter(Runner::Dpc), Step::Poll);
        assert_eq!(state.polled(PollEnd::NoMoreWork), Step::Leave(Wake::Nobody));
        assert_eq!(state.phase(), Phase::Stopped);
    }

    #[test]
    fn a_poll_that_ran_out_of_time_goes_on_in_the_thread() {
        let mut state = State::new(true);
        assert_eq!(state.notify(), Wake::Dpc);
        assert_eq!(state.enter(Runner::Dpc), Step::Poll);
        assert_eq!(state.polled(PollEnd::OutOfDpcBudget), Step::Leave(Wake::Thread));
        assert_eq!(state.enter(Runner::Thread), Step::Poll);
        assert_eq!(state.polled(PollEnd::NoMoreWork), Step::Leave(Wake::Nobody));
        assert_eq!(state.notify(), Wake::Dpc, "the next notification starts in a DPC again");
    }

    #[test]
    fn a_task_moves_the_context_to_the_thread() {
        let mut state = State::new(true);
        assert_eq!(state.notify(), Wake::Dpc);
        assert_eq!(state.queue_task(), Wake::Nobody);
        assert_eq!(state.enter(Runner::Dpc), Step::Leave(Wake::Thread), "a DPC runs no task");
        assert_eq!(state.enter(Runner::Thread), Step::RunTask);
        assert_eq!(state.task_done(), Step::Poll, "the notification was not lost");
        assert_eq!(state.queue_task(), Wake::Nobody);
        assert_eq!(state.polled(PollEnd::NoMoreWork), Step::Leave(Wake::Thread));
        assert_eq!(state.enter(Runner::Thread), Step::RunTask);
        assert_eq!(state.task_done(), Step::Leave(Wake::Nobody));
        assert_eq!(state.queue_task(), Wake::Thread, "asleep: the thread is woken");
    }

    #[test]
    fn without_dpc_first_the_thread_polls() {
        let mut state = State::new(false);
        assert_eq!(state.notify(), Wake::Thread);
        assert_eq!(state.enter(Runner::Thread), Step::Poll);
    }

    #[test]
    fn after_arming_there_is_one_more_round() {
        let mut rounds = PollLoop::default();
        assert_eq!(rounds.round(5, false, false), Round::Again);
        assert_eq!(rounds.round(0, false, false), Round::Arm);
        assert_eq!(rounds.round(1, false, false), Round::Disarm, "work came in the window");
        assert_eq!(rounds.round(0, true, true), Round::Arm, "nothing done is nothing to hand over");
        assert_eq!(rounds.round(0, false, false), Round::End(PollEnd::NoMoreWork));
    }

    #[test]
    fn a_busy_poll_gives_way() {
        let mut rounds = PollLoop::default();
        assert_eq!(rounds.round(1, true, true), Round::End(PollEnd::TaskPending));
        assert_eq!(rounds.round(1, false, true), Round::End(PollEnd::OutOfDpcBudget));
    }
}
