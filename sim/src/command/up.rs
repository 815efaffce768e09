//! `penstock-sim up`: the driver as a userspace WireGuard implementation.
//!
//! The TUN device's state is the adapter's: up brings it up, down brings it down. The main thread
//! waits for signals and looks after the device and the socket's file; everything else runs in
//! threads of its own.

use std::os::fd::{FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use abi::ioctl::AdapterState;
use clap::Args;
use sim::host::Outer;
use sim::host::computer::{Computer, Tunnel};
use sim::host::linux::Linux;
use sim::host::linux::bridge::Bridge;
use sim::host::linux::tun::{Tun, check_name};
use sim::host::uapi::policy::Setting;
use sim::host::uapi::trace::{self, Sessions};
use sim::host::uapi::{self, Configured, Handle, Server, request::SetRequest, translate};
use sim::nt::Mark;
use sim::nt::machine::Options;
use sim::nt::ps::Process;
use sim::nt::se::Token;
use sim::nt::wdf::requestor::FileHandle;
use sim::nt::{netio, wsk};
use sim::verifier::schedule::{Mode, World};

use super::{DriverFile, Policies};
use super::{Failure, Outcome};

/// The MTU a device begins with, as other implementations give it.
const MTU: u32 = 1420;
/// How often the device and the socket are looked at without a reason.
const LOOK_MS: i32 = 50;
/// STATUS_ALREADY_COMPLETE: the adapter is already there.
const ALREADY_COMPLETE: i32 = 0xFF;

/// Arguments of `up`.
#[derive(Args)]
pub(crate) struct Up {
    /// Name of the TUN device, at most 15 bytes.
    name: String,
    #[command(flatten)]
    driver: DriverFile,
    #[command(flatten)]
    policies: Policies,
    /// Have Windows do (1) or not do (0) what nobody knows whether it does; may be repeated. The others are drawn.
    ///
    /// GSO_IS_GRANTED, packets of up to 64 KiB that the driver cuts, and RX_CHECKSUM_IS_GRANTED, that it says what it
    /// found of checksums, are 0 unless they are set here. An unknown NAME is answered with the list of them.
    #[arg(long = "windows", value_name = "NAME=0|1", value_parser = choice)]
    choices: Vec<(String, bool)>,
    /// Simulated CPUs [default: as many as this machine has].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=64))]
    cpus: Option<u32>,
    /// Check the driver: vector state, stacks, pool, and the order and place of every completion. Slow.
    #[arg(long, conflicts_with = "fast")]
    verify: bool,
    /// Check only what costs nothing; the default.
    #[arg(long)]
    fast: bool,
    /// Show what the driver prints.
    #[arg(long)]
    log: bool,
    /// Print what the driver counted, discards by reason, when it ends.
    #[arg(long)]
    statistics: bool,
}

/// Reads `NAME=0` or `NAME=1`.
fn choice(text: &str) -> Result<(String, bool), String> {
    let (name, value) = text.split_once('=').ok_or("it is written NAME=0 or NAME=1")?;
    let unknown = || sim::nt::every_behaviour().filter(|row| row.mark == Mark::Unknown);
    if !unknown().any(|row| row.name == name) {
        let all = unknown().map(|row| format!("\n  {} ({})", row.name, row.source));
        return Err(format!("{name} is not among them; there are{}", all.collect::<String>()));
    }
    match value {
        "0" => Ok((name.to_owned(), false)),
        "1" => Ok((name.to_owned(), true)),
        _ => Err(format!("{name} is 0 or 1")),
    }
}

impl Up {
    /// Runs until it is told to end.
    pub(crate) fn run(self) -> Outcome {
        check_name(&self.name).map_err(Failure::new)?;
        let driver = self.driver.find()?;
        let signals = block_signals().map_err(|error| Failure::new(format!("signals: {error}")))?;
        let world = World::new(Mode::Parallel);
        let _main = world.enter("main");
        let cpus = std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u32);
        let cpus = self.cpus.unwrap_or(cpus.min(64));
        let tun = Tun::create(&self.name, MTU, cpus as usize)
            .map_err(|error| Failure::new(format!("{}: {error}", self.name)))?;
        let tun = Arc::new(tun);
        if let Some(lacks) = tun.lacks() {
            eprintln!("penstock-sim: this kernel does not give {lacks}; it works without");
        }
        let linux =
            Linux::new(&world).map_err(|error| Failure::new(format!("rtnetlink: {error}")))?;
        let options = Options {
            name: self.name.clone(),
            cpus,
            verified: self.verify,
            print: self.log,
            parameters: self.policies.numbers(),
            texts: self.policies.texts(),
            // What can be counted on, unless it is asked for; whoever asks for an outer offload wants to see it.
            choices: ["GSO_IS_GRANTED", "RX_CHECKSUM_IS_GRANTED"]
                .map(|name| (name.to_owned(), false))
                .into_iter()
                .chain(wsk::good_offloads())
                .chain(self.choices)
                .collect(),
            ..Options::default()
        };
        let computer = Computer::boot(&world, options, linux.clone(), &driver)?;
        let tunnel = Arc::new(computer.add_tunnel()?);
        netio::adopt(computer.machine(), tun.index(), tunnel.adapter().luid());
        let bridge = Bridge::join(computer.machine(), &tun, tunnel.adapter());
        let process = Process::start("penstock", Token::administrator());
        let sessions = Sessions::new(tunnel.machine().clone());
        let configured =
            Arc::new(Interface { tunnel: tunnel.clone(), linux: linux.clone(), process, sessions });
        let server = Server::listen(&world, Path::new(uapi::DIRECTORY), &self.name, configured)
            .map_err(|error| {
                Failure::new(format!("{}/{}.sock: {error}", uapi::DIRECTORY, self.name))
            })?;
        serve(&signals, &linux, (&tun, &bridge), &tunnel, &server);
        drop(server);
        drop(bridge);
        if self.statistics {
            super::print_statistics(&tunnel)?;
        }
        take_down(computer, tunnel, &linux)
    }
}

/// The device's state becomes the adapter's, until a reason to end.
fn serve(
    signals: &OwnedFd,
    linux: &Linux,
    (tun, bridge): (&Tun, &Bridge),
    tunnel: &Tunnel,
    server: &Server,
) {
    let mut was_up = false;
    while !tunnel.machine().is_dead() && !bridge.is_gone() && server.is_there() {
        let tables = linux.tables();
        let seen = tables.interface(tun.index()).filter(|interface| interface.name == tun.name());
        let Some(up) = seen.map_or_else(|| tun.probe_up(), |interface| Some(interface.up)) else {
            return;
        };
        if up != was_up {
            let state = if up { AdapterState::Up } else { AdapterState::Down };
            match tunnel.set_state(state) {
                Ok(()) | Err(ALREADY_COMPLETE) => {}
                Err(status) => {
                    let error = std::io::Error::from_raw_os_error(translate::errno_of(status));
                    eprintln!(
                        "penstock-sim: {} {}: {status:#010x} ({error})",
                        tun.name(),
                        if up { "up" } else { "down" }
                    );
                }
            }
            was_up = up;
        }
        match linux.wait_for_change(signals, LOOK_MS) {
            Ok(false) => {}
            Ok(true) | Err(_) => return,
        }
    }
}

/// Adapter down, device removed, driver unloaded.
fn take_down(computer: Computer, tunnel: Arc<Tunnel>, linux: &Linux) -> Outcome {
    // Down already is as good as down now.
    let _ = tunnel.set_state(AdapterState::Down);
    let deadline = computer.machine().world().now() + std::time::Duration::from_secs(5);
    let mut tunnel = Some(tunnel);
    // Connections that are ending have the tunnel for a moment longer.
    let alone = loop {
        match tunnel.take().map(Arc::try_unwrap) {
            Some(Ok(alone)) => break Some(alone),
            Some(Err(shared)) if computer.machine().world().now() < deadline => {
                tunnel = Some(shared);
                computer.machine().world().sleep(std::time::Duration::from_millis(5));
            }
            _ => break None,
        }
    };
    match alone {
        Some(alone) => alone.remove()?,
        None => return Err(Failure::new("a configuration request does not end")),
    }
    let leaks = computer.unload()?;
    linux.stop();
    Ok(leaks)
}

/// The tunnel as the text protocol configures it.
struct Interface {
    tunnel: Arc<Tunnel>,
    linux: Arc<Linux>,
    /// Whoever makes control requests.
    process: Arc<Process>,
    sessions: Sessions,
}

impl Configured for Interface {
    fn set(&self, request: &SetRequest) -> Result<(), i32> {
        if let Some(buffer) = translate::set_buffer(request) {
            self.tunnel.set(&buffer).map_err(translate::errno_of)?;
        }
        if let Some(mark) = request.fwmark {
            self.linux.set_mark(mark);
        }
        Ok(())
    }

    fn get(&self) -> Result<String, i32> {
        let answer = self.tunnel.get().map_err(translate::errno_of)?;
        translate::configuration_text(&answer, self.linux.mark()).ok_or(libc::EIO)
    }

    fn set_policy(&self, settings: &[Setting]) -> Result<(), i32> {
        self.tunnel.set_policy(settings).map_err(translate::errno_of)
    }

    fn start_trace(&self, request: &trace::Request) -> Result<(), i32> {
        self.sessions.start(request)
    }

    fn stop_trace(&self, name: &str) -> Result<(u64, String), i32> {
        self.sessions.stop(name)
    }

    fn open(&self) -> Result<Box<dyn Handle>, i32> {
        let opened =
            self.tunnel.machine().open_device(self.tunnel.handle().device(), &self.process);
        Ok(Box::new(Open(opened?)))
    }
}

/// A connection's handle.
struct Open(FileHandle);

impl Handle for Open {
    fn control(&self, code: u32, input: &[u8], output: &mut [u8]) -> (i32, u64) {
        self.0.device_io_control(code, input, output)
    }
}

/// Blocks SIGINT and SIGTERM in every thread to come and gives a descriptor that reads them.
fn block_signals() -> std::io::Result<OwnedFd> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: initialises the set.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the set was initialised above.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
    }
    // SAFETY: initialised above; changes the calling thread's mask, which its children inherit.
    let blocked =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
    if blocked != 0 {
        return Err(std::io::Error::from_raw_os_error(blocked));
    }
    // SAFETY: an initialised set.
    let fd = unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error());
    }
    // SAFETY: just made, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
