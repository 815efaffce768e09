//! `penstock`: configures tunnels, and looks at them, with the commands and the output of `wg`.
#![deny(unsafe_code)]

mod command;

fn main() -> std::process::ExitCode {
    command::run()
}
