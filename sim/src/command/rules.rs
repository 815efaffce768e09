//! `penstock-sim rules`: what stops a simulated machine.

use std::fmt::Write;
use std::io;

use clap::Args;
use sim::verifier::rules::{self, Rule};

use super::{Failure, Outcome};

/// See [`super::Command::Rules`].
#[derive(Args, Debug)]
pub(crate) struct Rules {
    /// Only rules whose name, or whose name in Windows, contains this.
    name: Option<String>,
}

impl Rules {
    /// Prints them.
    pub(crate) fn run(self) -> Outcome {
        let wanted = self.name.unwrap_or_default().to_lowercase();
        let text = |rule: &Rule| format!("{} {}", rule.name, rule.microsoft).to_lowercase();
        let found = rules::ALL.iter().filter(|rule| text(rule).contains(&wanted));
        let mut table = String::new();
        let mut count = 0;
        for rule in found {
            count += 1;
            let (file, test) = rule.proof;
            let written = writeln!(
                table,
                "{:#x} {}\n    {}\n    {}\n    proof: {file} {test}",
                rule.code,
                rule.name,
                rule.forbids,
                rule.origin(),
            );
            written.map_err(Failure::new)?;
        }
        let ours = rules::ALL.iter().filter(|rule| rule.microsoft.is_empty()).count();
        let all = rules::ALL.len();
        let summary =
            format!("{count} of {all} rules; {ours} of all are in no verifier of Windows");
        // Whoever reads only the beginning has closed the pipe.
        let _ = io::Write::write_all(&mut io::stdout(), format!("{table}{summary}\n").as_bytes());
        Ok(Vec::new())
    }
}
