//! How a machine stops, and what is told of it.

use std::sync::atomic::Ordering;

use crate::nt::machine::Machine;
use crate::nt::thread::Thread;
use crate::verifier::recorder;
use crate::verifier::report::Stop;
use crate::verifier::rules::Rule;
use crate::verifier::schedule::lock;

impl Machine {
    /// The newest `most` records of the driver's flight recorder, oldest first, each with its CPU.
    pub fn recorded(&self, most: usize) -> Vec<(u32, abi::events::Noted)> {
        recorder::newest(self, most)
    }

    /// The same as lines, with times before the newest.
    pub fn recorded_lines(&self, most: usize) -> Vec<String> {
        recorder::lines(self, most)
    }

    /// Why it stopped; the first reason.
    pub fn stop_report(&self) -> Option<Stop> {
        lock(&self.report).clone()
    }

    /// Stops it for a reason that is not in driver code.
    pub fn die(&self, rule: &'static Rule, detail: impl Into<String>) {
        if let Some(thread) =
            Thread::current().filter(|thread| std::ptr::eq(thread.machine(), self))
        {
            return thread.stop(rule, detail);
        }
        self.stopped(Stop {
            machine: self.options.name.clone(),
            code: rule.code,
            rule,
            parameters: [0; 4],
            detail: detail.into(),
            thread: std::thread::current().name().unwrap_or("host").to_owned(),
            cpu: 0,
            irql: 0,
            import: None,
            stack: Vec::new(),
            around: Vec::new(),
            recorder: Vec::new(),
            schedule: self.world.told(self),
        });
    }

    pub(crate) fn stopped(&self, mut stop: Stop) {
        {
            let mut report = lock(&self.report);
            if report.is_none() {
                stop.recorder = recorder::lines(self, recorder::TAIL);
                *report = Some(stop);
            }
        }
        self.dead.store(true, Ordering::SeqCst);
        self.world.wake_all();
        crate::loader::trap::interrupt_driver_threads(self);
    }
}
