//! `trace`: what the driver does, as it does it.

use clap::Subcommand;

use super::{Failure, Outcome};

mod packets;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Write the packets of an interface to a file that Wireshark, tshark and tcpdump read (pcapng).
    Packets(packets::Packets),
}

impl Command {
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::Packets(packets) => packets.run(),
        }
    }
}
