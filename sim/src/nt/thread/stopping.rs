//! How a thread stops its machine: what rule was broken, and where the driver was.

use super::Thread;
use crate::loader::code;
use crate::loader::gate::{ImportFrame, Registers};
use crate::verifier::report::Stop;
use crate::verifier::rules::{self, Rule};

impl Thread {
    /// Stops the machine for a broken rule.
    pub fn stop(&self, rule: &'static Rule, detail: impl Into<String>) {
        self.bugcheck(rule, [0; 4], detail);
    }

    /// Stops the machine for a broken rule whose bugcheck has parameters.
    pub fn bugcheck(&self, rule: &'static Rule, parameters: [u64; 4], detail: impl Into<String>) {
        self.stopped(rule.code, rule, parameters, detail.into(), self.at_frame());
    }

    /// Stops the machine as the driver asks for it.
    pub(crate) fn bugcheck_of_driver(&self, code: u32, parameters: [u64; 4], detail: String) {
        self.stopped(code, &rules::KE_BUG_CHECK, parameters, detail, self.at_frame());
    }

    fn at_frame(&self) -> Option<(Registers, *const ImportFrame)> {
        self.import_frame().map(|frame| (frame.registers(), frame.outer))
    }

    pub(super) fn stopped(
        &self,
        code: u32,
        rule: &'static Rule,
        parameters: [u64; 4],
        detail: String,
        from: Option<(Registers, *const ImportFrame)>,
    ) {
        let stack = from
            .map(|(registers, outer)| self.machine().walk(self, registers, outer))
            .unwrap_or_default();
        let around = from
            .map(|(registers, _)| code::around(self.machine(), registers.rip as usize))
            .unwrap_or_default();
        let via = self.import_frame().map(|frame| crate::nt::name_of(frame.index).to_owned());
        self.machine().stopped(Stop {
            machine: self.machine().name().to_owned(),
            code,
            rule,
            parameters,
            detail,
            thread: self.name.clone(),
            cpu: self.cpu(),
            irql: self.irql(),
            import: via,
            stack,
            around,
            recorder: Vec::new(),
            schedule: self.machine().world().told(self.machine()),
        });
        self.abandon();
    }
}
