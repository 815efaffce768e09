//! `penstock-sim`: the simulator's command line.
//!
//! It reads arguments, runs one command, and turns its outcome into an exit code: 0 done, 1 failed, 2 wrong usage (by
//! clap), 3 done but something was left behind.

use std::process::ExitCode;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
mod command;

#[cfg(all(target_arch = "x86_64", target_os = "linux"))]
fn main() -> ExitCode {
    command::run()
}

#[cfg(not(all(target_arch = "x86_64", target_os = "linux")))]
fn main() -> ExitCode {
    eprintln!("penstock-sim: runs x64 driver code in place: it needs Linux on x86-64");
    ExitCode::FAILURE
}
