//! `trace`: what the driver does, as it does it.

use clap::Subcommand;

use super::{Failure, Outcome};

mod decode;
mod packets;
mod session;

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Begin to record what the driver does, in a session of event tracing (ETW).
    ///
    /// It goes on until it is stopped (`penstock trace stop`), or Windows is; this command ends at once. A file that is there is replaced.
    /// No event has a key, an address or a byte of a packet in it.
    Start(session::Start),
    /// End the session, and say where its file is.
    Stop(session::Stop),
    /// Print the driver's events of a file that a session wrote (.etl).
    ///
    /// Each is a line, in the order of their time, whatever else is in the file and whoever recorded it: `penstock trace start`, Windows
    /// Performance Recorder, logman. It needs no driver, and works on Linux, too.
    Decode(decode::Decode),
    /// Write the packets of an interface to a file that Wireshark, tshark and tcpdump read (pcapng).
    ///
    /// Outside there are datagrams, which only their ends can read; their IP and UDP headers are made by this program. Inside are packets as
    /// the network stack has them, if policy allows it (TraceInner). No key is ever among them.
    Packets(packets::Packets),
}

impl Command {
    pub(crate) fn run(self) -> Outcome {
        match self {
            Self::Start(start) => start.run(),
            Self::Stop(stop) => stop.run(),
            Self::Decode(decode) => decode.run(),
            Self::Packets(packets) => packets.run(),
        }
    }
}
