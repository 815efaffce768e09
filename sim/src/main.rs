//! `penstock-sim`: the simulator's command line.
//!
//! It reads arguments, runs one command, and turns its outcome into an exit code: 0 done, 1 failed, 2 wrong usage (by
//! clap), 3 done but something was left behind.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

mod command;

/// Runs penstock.sys, a Windows kernel driver, on Linux: as a WireGuard tunnel, as a demonstration, or to look at it.
///
/// The driver file is the one that scripts/build.sh makes for Windows, loaded unchanged.
#[derive(Parser)]
#[command(name = "penstock-sim", disable_version_flag = true, arg_required_else_help = true)]
struct CommandLine {
    /// Print the version, and how much of the simulated Windows is guessed.
    #[arg(short = 'V', long)]
    version: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Be a WireGuard tunnel: make the TUN device NAME and answer `wg` for it.
    ///
    /// Stays in the foreground, as `wireguard-go -f NAME` does. Configure it with `wg set NAME ...`, give it addresses
    /// and bring it up with `ip`. Ends on SIGINT, SIGTERM, when the device is deleted, or when
    /// /var/run/wireguard/NAME.sock is removed; the adapter is then brought down and the driver unloaded.
    ///
    /// Exit code 3: the driver left something behind, or stopped the machine.
    Up(command::up::Up),
    /// Show two simulated Windows machines talking through a tunnel, in this process alone.
    ///
    /// Needs neither root nor a network. Time is virtual, so the same seed gives the same run.
    Demo(command::demo::Demo),
    /// Load and unload a driver and say what it imports and what it left behind.
    Check(command::check::Check),
}

/// Which driver.
#[derive(Args, Clone, Debug)]
struct DriverFile {
    /// The driver file [default: target/driver/penstock.sys, here or beside this program].
    #[arg(long = "driver", value_name = "PATH")]
    path: Option<PathBuf>,
}

fn main() -> ExitCode {
    let line = CommandLine::parse();
    if line.version {
        println!("penstock-sim {}", env!("CARGO_PKG_VERSION"));
        println!("{}", sim::nt::guesses());
        return ExitCode::SUCCESS;
    }
    let outcome = match line.command {
        Some(Command::Up(up)) => up.run(),
        Some(Command::Demo(demo)) => demo.run(),
        Some(Command::Check(check)) => check.run(),
        None => return ExitCode::from(2),
    };
    match outcome {
        Ok(leaks) if leaks.is_empty() => ExitCode::SUCCESS,
        Ok(leaks) => {
            for leak in &leaks {
                eprintln!("left behind: {}: {}", leak.kind, leak.detail);
            }
            ExitCode::from(3)
        }
        Err(command::Failure { message, code }) => {
            eprintln!("penstock-sim: {message}");
            ExitCode::from(code)
        }
    }
}
