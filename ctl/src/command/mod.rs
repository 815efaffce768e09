//! The arguments, the commands, and how a failure is told.

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ctl::words::said;

mod doctor;
mod down;
#[cfg(windows)]
mod driver;
mod dump;
#[cfg(windows)]
mod folder;
#[cfg(windows)]
mod follow_policy;
#[cfg(windows)]
mod install;
mod interface;
mod keys;
mod policy;
#[cfg(windows)]
mod policy_tunnels;
mod reach;
#[cfg(windows)]
mod serve;
#[cfg(windows)]
mod service;
mod show;
mod strip;
mod trace;
mod up;

/// Configures WireGuard tunnels of Penstock, and looks at them.
///
/// Commands and output are those of `wg`. Without a command all interfaces are shown.
#[derive(Parser)]
#[command(name = "penstock", bin_name = "penstock", version)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    #[command(flatten)]
    Interface(interface::Command),
    /// Print a new private key.
    Genkey,
    /// Print a new preshared key.
    Genpsk,
    /// Read a private key from the standard input and print its public key.
    Pubkey,
    /// Check a tunnel's file, and print what `setconf` takes of it.
    Strip(strip::Strip),
    /// Bring the tunnel of a file up, or say step by step what that would do.
    Up(up::Up),
    /// Take a tunnel down.
    Down(down::Down),
    /// Let the stock `wg` see an interface while this runs, as the system (LocalSystem).
    #[cfg(windows)]
    Serve {
        /// The interface.
        name: String,
    },
    #[cfg(windows)]
    #[command(flatten)]
    Install(install::Command),
    /// What a service runs. The service control manager starts it, and nobody else.
    #[cfg(windows)]
    #[command(subcommand, hide = true)]
    Service(service::Command),
    /// The driver's package: which version is there, and how it comes and goes.
    #[cfg(windows)]
    #[command(subcommand)]
    Driver(driver::Command),
    /// Look for what keeps tunnels from working, and say what to do.
    Doctor,
    /// Write what a report of a fault needs: versions, what doctor finds, interfaces with what was counted, and policy.
    Dump(dump::Dump),
    /// What the driver does, as it does it: its events, its packets.
    #[command(subcommand)]
    Trace(trace::Command),
    /// The driver's policy: the values that an administrator may set.
    #[command(subcommand)]
    Policy(policy::Command),
}

/// What is said of a file whose name is no tunnel's.
const NAME_IS: &str = "a tunnel's name, which its file has, is up to 32 of A-Z a-z 0-9 _ = + . -";

/// Runs the command that the arguments name.
pub(crate) fn run() -> ExitCode {
    let outcome = match CommandLine::parse().command {
        Some(Command::Interface(command)) => command.run(),
        None => show::Show::everything().run(),
        Some(Command::Genkey) => keys::genkey(),
        Some(Command::Genpsk) => keys::genpsk(),
        Some(Command::Pubkey) => keys::pubkey(),
        Some(Command::Strip(strip)) => strip.run(),
        #[cfg(windows)]
        Some(Command::Serve { name }) => serve::serve(&name),
        #[cfg(windows)]
        Some(Command::Install(command)) => command.run(),
        #[cfg(windows)]
        Some(Command::Driver(command)) => command.run(),
        #[cfg(windows)]
        Some(Command::Service(command)) => command.run(),
        Some(Command::Doctor) => doctor::doctor(),
        Some(Command::Dump(dump)) => dump.run(),
        Some(Command::Up(up)) => up.run(),
        Some(Command::Down(down)) => down.run(),
        Some(Command::Policy(command)) => command.run(),
        Some(Command::Trace(command)) => command.run(),
    };
    match outcome {
        Ok(()) | Err(Failure::Unread) => ExitCode::SUCCESS,
        Err(Failure::Told(message)) => {
            // Nobody may be there to read it.
            let _ = writeln!(io::stderr(), "{message}");
            ExitCode::FAILURE
        }
    }
}

/// What a command comes to.
pub(crate) type Outcome = Result<(), Failure>;

/// Why a command did not run to its end.
pub(crate) enum Failure {
    /// For a person.
    Told(String),
    /// Whoever read the output has gone.
    Unread,
}

impl Failure {
    /// `WHAT: WHY`.
    pub(crate) fn new(what: impl Display, why: impl Display) -> Self {
        Self::Told(format!("{what}: {why}"))
    }
}

/// Prints `text`.
pub(crate) fn print(text: &str) -> Outcome {
    let mut output = io::stdout().lock();
    let printed = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    printed.map_err(|error| match error.kind() {
        io::ErrorKind::BrokenPipe => Failure::Unread,
        _ => Failure::new("standard output", said(&error)),
    })
}

/// Prints a line that is no output.
pub(crate) fn note(line: impl Display) {
    // As above.
    let _ = writeln!(io::stderr(), "{line}");
}
