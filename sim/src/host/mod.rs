//! What is outside a simulated Windows: the network its sockets reach, and the programs that use its adapter.
//!
//! [`Outer`] is the network under WSK: it opens UDP sockets, says which interfaces and routes there
//! are, and hands received datagrams to a [`Landing`] whose memory belongs to WSK, so that a
//! datagram is written once, where the driver will read it. Two networks exist: [`memory`], several
//! machines of one process on a clock of their own, and [`linux`], the network namespace the
//! process runs in. Any thread may call any method; no method may be called with a lock held that
//! the landing takes.

use std::fmt;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::ptr::NonNull;
use std::sync::Arc;

use crate::nt::wsk::control_messages::PacketInfo;

pub mod computer;
pub mod linux;
pub mod memory;
pub mod null;
pub mod polled;
pub mod routes;
pub mod uapi;

use routes::Tables;

/// The network that a machine's sockets reach.
pub trait Outer: Send + Sync {
    /// The interfaces and routes as they are now.
    fn tables(&self) -> Arc<Tables>;

    /// Asks to be told after [`Outer::tables`] changed: with the tables before and after.
    fn watch(&self, watcher: Watcher);

    /// Opens a UDP socket at `local`; what it receives goes to `landing`.
    ///
    /// # Errors
    ///
    /// [`OpenError`].
    fn open(
        &self,
        local: SocketAddr,
        landing: Arc<dyn Landing>,
    ) -> Result<Arc<dyn Socket>, OpenError>;
}

/// Told of the tables before and after a change.
pub type Watcher = Box<dyn Fn(&Tables, &Tables) + Send + Sync>;

/// One open UDP socket.
pub trait Socket: Send + Sync {
    /// Sends the datagrams of `batch` to one place.
    ///
    /// # Errors
    ///
    /// [`SendError`], after which some of them may have left.
    fn send(&self, to: SocketAddr, how: &Sending, batch: &Batch<'_>) -> Result<(), SendError>;

    /// Stops receiving: once it returns no landing is touched any more.
    fn close(&self);
}

/// How a batch shall leave.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sending {
    /// Source address and interface, where asked for.
    pub packet_info: Option<PacketInfo>,
    /// TOS or traffic class, where asked for.
    pub traffic_class: Option<u8>,
}

/// Where received datagrams are put: memory of the stack above.
pub trait Landing: Send + Sync {
    /// Adds up to `count` free places to `places`; fewer if so many are held above.
    fn places(&self, places: &mut Vec<Place>, count: usize);

    /// Whether a place may be filled with several datagrams ([`Place::segment`]).
    fn takes_coalesced(&self) -> bool {
        false
    }

    /// Takes the filled places, in the order of arrival, leaving `filled` empty.
    fn landed(&self, filled: &mut Vec<Place>);

    /// Takes back places that were not filled.
    fn unused(&self, places: &mut Vec<Place>);
}

/// Room for one datagram, and what is known of it once it is filled.
#[derive(Debug)]
pub struct Place {
    /// Where the payload goes.
    pub payload: NonNull<u8>,
    /// Bytes of room there.
    pub capacity: usize,
    /// What the landing knows the place by.
    pub name: usize,
    /// Payload bytes there are.
    pub len: usize,
    /// Bytes of each datagram there, but for the last; 0 if it is one.
    pub segment: usize,
    /// Who sent it.
    pub remote: SocketAddr,
    /// Where it arrived, if known.
    pub local: Option<PacketInfo>,
    /// Its TOS or traffic class, if known.
    pub traffic_class: Option<u8>,
}

// SAFETY: a place is the only handle to its memory until the landing takes it back.
unsafe impl Send for Place {}

impl Place {
    /// Copies `datagram` in, cut to the room there is.
    pub fn fill(&mut self, datagram: &[u8]) {
        self.len = datagram.len().min(self.capacity);
        // SAFETY: `capacity` bytes from `payload` are this place's alone; the source is a slice
        // that cannot overlap memory nobody else refers to.
        unsafe { self.payload.as_ptr().copy_from_nonoverlapping(datagram.as_ptr(), self.len) };
    }
}

/// Pieces of datagrams that fit one batch.
pub const BATCH_PIECES: usize = 128;
/// Datagrams that fit one batch.
pub const BATCH_DATAGRAMS: usize = 64;

/// Datagrams to send, as pieces of memory; no allocation.
pub struct Batch<'a> {
    pieces: [IoSlice<'a>; BATCH_PIECES],
    ends: [usize; BATCH_DATAGRAMS],
    datagrams: usize,
    used: usize,
}

impl fmt::Debug for Batch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} datagrams in {} pieces", self.datagrams, self.used)
    }
}

impl Default for Batch<'_> {
    fn default() -> Self {
        let pieces = std::array::from_fn(|_| IoSlice::new(&[]));
        Self { pieces, ends: [0; BATCH_DATAGRAMS], datagrams: 0, used: 0 }
    }
}

impl<'a> Batch<'a> {
    /// Adds a datagram made of `pieces`; false, and nothing added, if it does not fit any more.
    #[must_use]
    pub fn push(&mut self, pieces: impl Iterator<Item = &'a [u8]>) -> bool {
        let mut used = self.used;
        for piece in pieces {
            let Some(slot) = self.pieces.get_mut(used) else { return false };
            *slot = IoSlice::new(piece);
            used += 1;
        }
        let Some(end) = self.ends.get_mut(self.datagrams) else { return false };
        *end = used;
        self.used = used;
        self.datagrams += 1;
        true
    }

    /// The datagrams, each as its pieces.
    pub fn datagrams(&self) -> impl ExactSizeIterator<Item = &[IoSlice<'a>]> {
        let mut start = 0;
        self.ends[..self.datagrams]
            .iter()
            .map(move |&end| &self.pieces[std::mem::replace(&mut start, end)..end])
    }

    /// The pieces of `count` datagrams from number `first` on, one behind the other.
    ///
    /// # Panics
    ///
    /// If there are not so many.
    #[must_use]
    pub fn run(&self, first: usize, count: usize) -> &[IoSlice<'a>] {
        let ends = &self.ends[..self.datagrams];
        let start = first.checked_sub(1).map_or(0, |before| ends[before]);
        let end = (first + count).checked_sub(1).map_or(0, |last| ends[last]);
        &self.pieces[start..end]
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.datagrams == 0
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        (self.datagrams, self.used) = (0, 0);
    }
}

/// Why no socket was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// Somebody else has the address.
    InUse,
    /// Not allowed.
    Denied,
    /// No interface has the address.
    NotLocal,
    /// The family is not there.
    NoFamily,
    /// No memory, descriptors or anything else.
    Resources,
}

/// Why datagrams did not leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendError {
    /// No route.
    Unreachable,
    /// The source address or interface asked for is not ours.
    BadSource,
    /// Larger than the path allows.
    TooBig,
    /// Not allowed.
    Denied,
    /// No room in the stack, or anything else.
    Resources,
}
