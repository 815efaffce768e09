//! `penstock-sim check`: load, start, unload, and say what was seen.

use std::path::PathBuf;

use clap::Args;
use sim::host::computer::Computer;
use sim::host::memory::Network;
use sim::nt::machine::Options;
use sim::verifier::schedule::{Mode, World};

use super::DriverFile;
use super::{Failure, Outcome};

/// Arguments of `check`.
#[derive(Args)]
pub(crate) struct Check {
    /// The driver file.
    #[arg(value_name = "PATH")]
    path: Option<PathBuf>,
    /// Make a device on it as well, bring its adapter up and down, and remove it.
    #[arg(long)]
    device: bool,
    /// Start of the random choices.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Show what the driver prints.
    #[arg(long)]
    log: bool,
}

impl Check {
    /// Runs the command.
    pub(crate) fn run(self) -> Outcome {
        let path = DriverFile { path: self.path }.find()?;
        let world = World::new(Mode::Virtual { seed: self.seed });
        let _main = world.enter("main");
        let network = Network::new(&world);
        let host =
            network.plug_in(&[[192, 0, 2, 1].into(), [0x2001, 0xDB8, 0, 0, 0, 0, 0, 1].into()]);
        let options = Options {
            name: "check".to_owned(),
            cpus: 2,
            verified: true,
            print: self.log,
            ..Options::default()
        };
        let computer = Computer::boot(&world, options, host, &path)?;
        println!("{}: loaded and started", path.display());
        if self.device {
            let tunnel = computer.add_tunnel()?;
            println!(
                "device: adapter with LUID {:#x}, MTU {}",
                tunnel.adapter().luid(),
                tunnel.adapter().mtu()
            );
            for (word, state) in
                [("up", abi::ioctl::AdapterState::Up), ("down", abi::ioctl::AdapterState::Down)]
            {
                tunnel
                    .set_state(state)
                    .map_err(|status| Failure::new(format!("{word}: {status:#010x}")))?;
                println!("device: {word}");
            }
            tunnel.remove()?;
        }
        let stacks = computer.machine().stack_use();
        let leaks = computer.unload()?;
        println!("unloaded, {} things left behind", leaks.len());
        for (callback, bytes) in stacks {
            println!("stack: {bytes:6} bytes in {callback}");
        }
        println!("{}", sim::nt::guesses());
        Ok(leaks)
    }
}
