//! `penstock`: configures tunnels, and looks at them, with the commands and the output of `wg`.
#![deny(unsafe_code)]

mod command;
#[cfg(windows)]
mod load_config;

fn main() -> std::process::ExitCode {
    #[cfg(windows)]
    if let Err(error) = ctl::windows::process::load_from_system_only() {
        eprintln!("penstock: where libraries are looked for cannot be set: {error}");
        return std::process::ExitCode::FAILURE;
    }
    command::run()
}
