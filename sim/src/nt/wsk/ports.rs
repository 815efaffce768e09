//! Who may share a local UDP address with whom, and which ephemeral ports are free.
//!
//! A second bind to a port is judged against each earlier one by what both asked for (default,
//! SO_REUSEADDR or SO_EXCLUSIVEADDRUSE) and by whether each is bound to the wildcard or to one
//! address. The table is Windows', taken from the driver documentation; "check" entries compare
//! the owners' security, which within one driver always passes.
//!
//! Source: windows-driver-docs, network/sharing-transport-addresses.md. Called with the WSK lock
//! held.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

/// What a socket asked for about sharing before it was bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sharing {
    /// Neither option.
    #[default]
    Default,
    /// SO_REUSEADDR.
    Reuse,
    /// SO_EXCLUSIVEADDRUSE.
    Exclusive,
}

/// Why a bind is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// STATUS_ADDRESS_ALREADY_EXISTS.
    InUse,
    /// STATUS_ACCESS_DENIED.
    Denied,
    /// No ephemeral port is left.
    Exhausted,
}

/// First port of the dynamic range.
pub const EPHEMERAL_FIRST: u16 = 49152;

/// The UDP addresses in use on one machine.
#[derive(Debug, Default)]
pub struct Ports {
    bound: Vec<Bound>,
}

#[derive(Clone, Copy, Debug)]
struct Bound {
    key: u64,
    local: SocketAddr,
    sharing: Sharing,
}

impl Ports {
    /// Claims `local` for the socket `key`.
    ///
    /// # Errors
    ///
    /// [`Refused`] by the table, against the first earlier socket that objects.
    pub fn claim(&mut self, key: u64, local: SocketAddr, sharing: Sharing) -> Result<(), Refused> {
        let rivals = self.bound.iter().filter(|other| {
            other.local.port() == local.port() && other.local.is_ipv4() == local.is_ipv4()
        });
        for first in rivals {
            judge((sharing, local.ip()), (first.sharing, first.local.ip()))?;
        }
        self.bound.push(Bound { key, local, sharing });
        Ok(())
    }

    /// Claims an ephemeral port on `address`, looking from `start` (any number) upwards.
    ///
    /// # Errors
    ///
    /// [`Refused::Exhausted`] if every port of the dynamic range objects.
    pub fn claim_ephemeral(
        &mut self,
        key: u64,
        address: IpAddr,
        sharing: Sharing,
        start: u64,
    ) -> Result<SocketAddr, Refused> {
        let count = u64::from(u16::MAX - EPHEMERAL_FIRST) + 1;
        let same_family = |other: &&Bound| other.local.is_ipv4() == address.is_ipv4();
        let taken: HashSet<u16> =
            self.bound.iter().filter(same_family).map(|other| other.local.port()).collect();
        let free = (0..count)
            .map(|step| EPHEMERAL_FIRST + (start.wrapping_add(step) % count) as u16)
            .find(|port| !taken.contains(port));
        if let Some(port) = free {
            let local = SocketAddr::new(address, port);
            self.claim(key, local, sharing)?;
            return Ok(local);
        }
        Err(Refused::Exhausted)
    }

    /// Gives back what `key` claimed.
    pub fn release(&mut self, key: u64) {
        self.bound.retain(|bound| bound.key != key);
    }
}

/// The table: may `second` bind while `first` is bound to the same port?
fn judge(second: (Sharing, IpAddr), first: (Sharing, IpAddr)) -> Result<(), Refused> {
    use Refused::{Denied, InUse};
    use Sharing::{Default, Exclusive, Reuse};

    let wild = (second.1.is_unspecified(), first.1.is_unspecified());
    if wild == (false, false) && second.1 != first.1 {
        return Ok(());
    }
    match (second.0, wild.0, first.0, wild.1) {
        // A wildcard beside an earlier specific address, unless exclusive, is no conflict.
        (Default | Reuse, true, _, false) => Ok(()),
        (Default, true, _, true) => Err(InUse),
        (Default, false, Default | Reuse, true) => Ok(()), // the access check passes
        (Default, false, Exclusive, true) => Err(Denied),
        (Default, false, Reuse, false) => Err(Denied),
        (Default, false, _, false) => Err(InUse),
        (Reuse, true, Reuse, true) => Ok(()),
        (Reuse, true, _, true) => Err(Denied),
        (Reuse, false, Default | Reuse, true) => Ok(()), // the access check passes
        (Reuse, false, Reuse, false) => Ok(()),
        (Reuse, false, ..) => Err(Denied),
        (Exclusive, true, ..) => Err(InUse),
        (Exclusive, false, Default | Reuse, true) => Ok(()), // the access check passes
        (Exclusive, false, Exclusive, true) => Err(Denied),
        (Exclusive, false, _, false) => Err(InUse),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rows and columns as in the documentation: second against first; W wildcard, S specific.
    const TABLE: [[&str; 6]; 6] = [
        // first:   def W  def S  reuse W reuse S excl W excl S
        ["inuse", "ok", "inuse", "ok", "inuse", "ok"], // default W
        ["ok", "inuse", "ok", "denied", "denied", "inuse"], // default S
        ["denied", "ok", "ok", "ok", "denied", "ok"],  // reuse W
        ["ok", "denied", "ok", "ok", "denied", "denied"], // reuse S
        ["inuse", "inuse", "inuse", "inuse", "inuse", "inuse"], // exclusive W
        ["ok", "inuse", "ok", "inuse", "denied", "inuse"], // exclusive S
    ];

    #[test]
    fn the_table_is_the_documentation() {
        let kinds = [
            (Sharing::Default, "0.0.0.0:7"),
            (Sharing::Default, "192.0.2.1:7"),
            (Sharing::Reuse, "0.0.0.0:7"),
            (Sharing::Reuse, "192.0.2.1:7"),
            (Sharing::Exclusive, "0.0.0.0:7"),
            (Sharing::Exclusive, "192.0.2.1:7"),
        ];
        for (second, row) in kinds.iter().zip(TABLE) {
            for (first, expected) in kinds.iter().zip(row) {
                let mut ports = Ports::default();
                ports.claim(1, first.1.parse().unwrap(), first.0).unwrap();
                let verdict = match ports.claim(2, second.1.parse().unwrap(), second.0) {
                    Ok(()) => "ok",
                    Err(Refused::InUse) => "inuse",
                    Err(Refused::Denied) => "denied",
                    Err(Refused::Exhausted) => "exhausted",
                };
                assert_eq!(verdict, expected, "second {second:?}, first {first:?}");
            }
        }
    }

    #[test]
    fn other_ports_families_and_addresses_do_not_meet() {
        let mut ports = Ports::default();
        ports.claim(1, "0.0.0.0:7".parse().unwrap(), Sharing::Exclusive).unwrap();
        ports.claim(2, "0.0.0.0:8".parse().unwrap(), Sharing::Exclusive).unwrap();
        ports.claim(3, "[::]:7".parse().unwrap(), Sharing::Exclusive).unwrap();
        ports.release(1);
        ports.claim(4, "192.0.2.1:7".parse().unwrap(), Sharing::Exclusive).unwrap();
        ports.claim(5, "192.0.2.2:7".parse().unwrap(), Sharing::Exclusive).unwrap();
    }

    #[test]
    fn ephemeral_ports_run_out() {
        let mut ports = Ports::default();
        let any = "0.0.0.0".parse().unwrap();
        let first = ports.claim_ephemeral(1, any, Sharing::Default, u64::MAX).unwrap();
        assert!(first.port() >= EPHEMERAL_FIRST);
        for port in EPHEMERAL_FIRST..=u16::MAX {
            let _ = ports.claim(u64::from(port), SocketAddr::new(any, port), Sharing::Default);
        }
        let refused = ports.claim_ephemeral(0, any, Sharing::Default, 0);
        assert_eq!(refused, Err(Refused::Exhausted));
        ports.release(60_000);
        assert!(ports.claim_ephemeral(0, any, Sharing::Default, 0).is_ok());
    }
}
