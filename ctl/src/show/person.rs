//! `show NAME`: an interface for a person to read, as `wg show` prints it, and what it counted.

use std::cmp::Reverse;
use std::fmt::{Display, Write as _};

use abi::discard::{Direction, Discard};
use abi::ioctl::Peer;
use abi::statistics::{Counter, Statistics};
use zeroize::Zeroizing;

use super::style::Style;
use super::{Shown, handshake_s, of_part};
use crate::key::{PublicKey, SecretKey};

/// How it is shown.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Colours.
    pub style: Style,
    /// Whether keys are shown that are secret.
    pub shows_secrets: bool,
    /// The time, in seconds of 1970.
    pub now_s: u64,
}

/// Appends an interface.
pub fn write(text: &mut Zeroizing<String>, shown: &Shown<'_>, manner: &Manner) {
    let Manner { style, .. } = *manner;
    let set = &shown.set;
    let mut lines = Lines { text, manner };
    lines.text.push_str(style.reset());
    lines.print(format_args!("{}\n", style.interface(shown.name)));
    if let Some(key) = set.public_key() {
        lines.line("public key", PublicKey(*key));
    }
    lines.secret("private key", set.private_key());
    if let Some(port) = set.listen_port().filter(|port| *port != 0) {
        lines.line("listening port", port);
    }
    if set.peer_count() != 0 {
        lines.text.push('\n');
    }
    let mut peers: Vec<_> = set.peers().collect();
    // Who was there last comes first, and who never was, last.
    peers.sort_by_key(|peer| Reverse(peer.last_handshake_filetime()));
    for (number, peer) in peers.iter().enumerate() {
        if number > 0 {
            lines.text.push('\n');
        }
        lines.peer(peer);
    }
    if let Some(statistics) = &shown.statistics {
        lines.text.push('\n');
        lines.statistics(statistics);
    }
}

struct Lines<'t, 'm> {
    text: &'t mut Zeroizing<String>,
    manner: &'m Manner,
}

impl Lines<'_, '_> {
    fn print(&mut self, what: impl Display) {
        // Writing to a String cannot fail.
        let _ = write!(self.text, "{what}");
    }

    /// `  LABEL: VALUE`.
    fn line(&mut self, label: &str, value: impl Display) {
        let label = self.manner.style.label(label);
        // As above.
        let _ = writeln!(self.text, "  {label}: {value}");
    }

    /// A key, or that there is one.
    fn secret(&mut self, label: &str, key: Option<&[u8; 32]>) {
        let Some(key) = key.map(SecretKey::of).filter(|key| !key.is_none()) else { return };
        if !self.manner.shows_secrets {
            return self.line(label, "(hidden)");
        }
        let label = self.manner.style.label(label);
        // As above.
        let _ = write!(self.text, "  {label}: ");
        key.write(self.text);
        self.text.push('\n');
    }

    fn peer(&mut self, peer: &Peer<'_>) {
        let Manner { style, now_s, .. } = *self.manner;
        self.print(format_args!("{}\n", style.peer(PublicKey(*peer.public_key()))));
        self.secret("preshared key", peer.preshared_key());
        if let Some(endpoint) = peer.endpoint() {
            self.line("endpoint", endpoint);
        }
        self.print(format_args!("  {}: ", style.label("allowed ips")));
        for (number, ip) in peer.allowed_ips().enumerate() {
            let before = if number == 0 { "" } else { ", " };
            self.print(format_args!("{before}{}{}{}", ip.address, style.unit("/"), ip.cidr));
        }
        self.text.push_str(if peer.allowed_ip_count() == 0 { "(none)\n" } else { "\n" });
        match handshake_s(peer) {
            0 => {}
            then_s => self.line("latest handshake", style.ago(then_s, now_s)),
        }
        let (rx, tx) = (peer.rx_bytes(), peer.tx_bytes());
        if (rx, tx) != (0, 0) {
            let (rx, tx) = (style.bytes(rx), style.bytes(tx));
            self.line("transfer", format_args!("{rx} received, {tx} sent"));
        }
        if let Some(seconds) = peer.persistent_keepalive_s().filter(|seconds| *seconds != 0) {
            let every = style.seconds(seconds.into());
            self.line("persistent keepalive", format_args!("every {every}"));
        }
    }

    /// What was counted, if it is not 0: of discards, each reason with what it means.
    fn statistics(&mut self, statistics: &Statistics<'_>) {
        let style = self.manner.style;
        self.print(format_args!("{}\n", style.label("statistics")));
        for counter in Counter::ALL {
            match statistics.counter(*counter) {
                0 => {}
                count => self.print(format_args!("  {:<24}{count:>12}\n", counter.name())),
            }
        }
        for (label, count) in
            [("(waiting)", statistics.waiting()), ("(under way)", statistics.lost())]
        {
            if count != 0 {
                self.print(format_args!("  {label:<24}{count:>12}\n"));
            }
        }
        for part in statistics.parts() {
            let Some((name, values)) = of_part(&part) else { continue };
            let values = values.into_iter().filter(|(_, value)| *value != 0);
            let values: Vec<_> = values.map(|(name, value)| format!("{name} {value}")).collect();
            if !values.is_empty() {
                self.print(format_args!("{}: {}\n", style.label(&name), values.join(", ")));
            }
        }
        for (direction, label) in
            [(Direction::Outbound, "discarded outbound"), (Direction::Inbound, "discarded inbound")]
        {
            let count = statistics.discards(direction);
            self.print(format_args!("{}: {count}\n", style.label(label)));
            for reason in Discard::ALL.iter().filter(|reason| reason.direction() == direction) {
                match statistics.discarded(*reason) {
                    0 => {}
                    count => {
                        let (name, about) = (reason.name(), reason.description());
                        self.print(format_args!("  {name:<24}{count:>12}  {about}\n"));
                    }
                }
            }
        }
    }
}
