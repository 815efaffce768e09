//! The WireGuard protocol: sessions, handshakes, timers, cryptokey routing; no I/O, no clock, no
//! randomness.
//!
//! Time and random bytes come in as arguments; datagrams to send and the next time to be woken come
//! out ([`Output`], [`Tunnel::poll`]). The driver owns sockets, rings and threads and calls in from
//! two sides:
//!
//! * the **data path**, on any CPU at `<= DISPATCH_LEVEL`: [`Tunnel::peer_for`], [`Tunnel::peers_for`], [`Peer::reserve`],
//!   [`Peer::sent`], [`IndexTable::session`], [`Keypair::accept`], [`Peer::received`],
//!   [`Peer::stage`], [`Tunnel::screen`], [`Tunnel::goes_first`]. It takes short spin locks, does no curve multiplication, and only stores
//!   times; when a handshake or a timer needs somebody it returns [`Wants::SERVICE`].
//! * **workers**, at `PASSIVE_LEVEL` on several threads at once: [`Tunnel::consume`] for messages 1
//!   to 3, [`Tunnel::service`] for a peer the data path handed over, [`Tunnel::poll`] when the
//!   timer fires. They work on local copies of a handshake's state and commit only if nothing has
//!   changed meanwhile, so no lock is held over a curve multiplication.
//!
//! The control path ([`Tunnel::prepare`], [`Prepared::commit`], [`Tunnel::get`], [`Tunnel::up`],
//! [`Tunnel::down`], [`Tunnel::close`]) is called by one thread at a time per tunnel, at
//! `PASSIVE_LEVEL`, together with both others.
//!
//! Lock order: handshake → sessions → index shard. All other locks are leaves. None is held over a
//! call of [`Output`] or [`Random`].
//!
//! Who owns whom: the tunnel's table owns peers; a peer owns up to three keypairs; a keypair refers
//! back to its peer, and the index table refers to both. These cycles are broken by hand whenever a
//! session or a handshake is wiped, so a removed peer goes with the last chunk that refers to it.

pub mod allowed_ips;
pub mod checksum;
pub mod configuration;
pub mod cookie;
mod curve25519;
mod handshake;
pub mod hash_table;
pub mod index;
mod ip;
pub mod keypair;
pub mod limits;
pub mod messages;
pub mod mss;
pub mod noise;
pub mod peer;
pub mod ratelimiter;
pub mod receive;
pub mod replay;
mod room;
mod schedule;
pub mod screen;
pub mod segment;
pub mod send;
mod sessions;
mod staged;
mod tai64n;
pub mod timers;
pub mod too_big;
pub mod tunnel;
pub mod verify;

use core::{
    alloc::Layout,
    net::{IpAddr, SocketAddr},
    ops::{BitOr, BitOrAssign},
    time::Duration,
};

pub use configuration::{Committed, ConfigError, Prepared, TryNow};
pub use cookie::HandshakeLoad;
pub use index::IndexTable;
pub use keypair::Keypair;
pub use peer::{NoSession, Peer, PeerStatus, Received, Reserved, Sent};
pub use tunnel::{InterfaceStatus, Tunnel, Visitor};

use crate::sync::Shared;

/// The blocks that keys, cookies and their secret lie in for longer than a call: of a session, of a peer, of a tunnel. Nothing
/// else is in them, so that an allocator may keep them apart from what a dump is to show. Their alignment is theirs alone.
pub const SECRETS: [Layout; 3] = [keypair::SECRETS, peer::SECRETS, tunnel::SECRETS];

const _: () = {
    let [session, peer, tunnel] = SECRETS;
    assert!(session.align() == 32 && peer.align() == 32 && tunnel.align() == 32);
};

/// Monotonic time since some fixed moment, as the caller read it. It counts the time the machine
/// sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instant(pub Duration);

impl Instant {
    /// Nanoseconds, as the peers' atomics hold them. Wraps after 584 years.
    pub(crate) fn nanoseconds(self) -> u64 {
        self.0.as_nanos() as u64
    }

    /// The time since `earlier`; none if that is later. Unlike what `Duration` subtracts it cannot end in a panic, which the
    /// compiler does not see there.
    pub(crate) fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.nanoseconds().saturating_sub(earlier.nanoseconds()))
    }

    pub(crate) fn from_nanoseconds(nanoseconds: u64) -> Self {
        Self(Duration::from_nanos(nanoseconds))
    }
}

/// Both clocks, read together.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// What every age is measured with.
    pub monotonic: Instant,
    /// Wall time since the Unix epoch: for TAI64N and "latest handshake" only.
    pub wall: Duration,
}

impl Now {
    pub(crate) fn nanoseconds(self) -> u64 {
        self.monotonic.nanoseconds()
    }
}

/// Where a peer is, and which of our addresses it knows us by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The peer's outer address.
    pub remote: SocketAddr,
    /// Our outer address towards it, if it was learned from a datagram.
    pub local: Option<Local>,
}

impl Endpoint {
    /// For a debugger.
    const PLACES: abi::descriptor::Places = abi::places!("Endpoint", remote);
}

/// Our side of an endpoint: the address and the interface a datagram arrived on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Local {
    /// Our address.
    pub address: IpAddr,
    /// Index of the interface.
    pub interface: u32,
}

/// A source of random bytes fit for keys.
pub trait Random {
    /// Fills `bytes`. A source that cannot must not return.
    fn fill(&mut self, bytes: &mut [u8]);
}

/// What the protocol asks of its surroundings. Called without any lock held.
pub trait Output<E> {
    /// Sends a handshake message or cookie reply.
    ///
    /// `peer` is the peer it is for, absent for a cookie reply. `tos` is the type-of-service or
    /// traffic class byte.
    fn send(&mut self, peer: Option<&Shared<Peer<E>>>, to: &Endpoint, datagram: &[u8], tos: u8);

    /// Sends the peer's staged packets, or one keepalive if there are none and
    /// `keepalive_if_empty`.
    ///
    /// The driver reserves counters for them; on [`NoSession`] it leaves the packets staged and has
    /// the peer serviced.
    fn flush(&mut self, peer: &Shared<Peer<E>>, keepalive_if_empty: bool);
}

/// What the data path wants done soon, a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Wants(u8);

impl Wants {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// A handshake or a timer needs a worker: call [`Tunnel::service`] with the peer at
    /// `PASSIVE_LEVEL`.
    pub const SERVICE: Self = Self(1);
    /// Send the peer's staged packets now; no keepalive if there are none.
    pub const FLUSH: Self = Self(2);
    /// The session was confirmed by this chunk: it is the current one from now on. Comes with
    /// [`Wants::FLUSH`].
    pub const PROMOTED: Self = Self(4);

    /// Whether all of `other` is in the set.
    #[must_use]
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing is wanted.
    #[must_use]
    pub fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Wants {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Wants {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}
