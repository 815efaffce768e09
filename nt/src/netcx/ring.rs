//! A queue's two rings, as its callbacks see them.
//!
//! Packets and fragments are elements of two rings that NetAdapterCx and the driver share. The
//! driver owns `[BeginIndex, EndIndex)` of each and may write `BeginIndex` and `NextIndex`; on
//! transmit it writes nothing else, on receive it fills the elements it gives back. The records are
//! read and written through raw pointers, field by field, never by reference: NetAdapterCx writes
//! the same memory between callbacks.
//!
//! One queue's callbacks never run at the same time, and [`Rings`] exist only inside them; the one
//! exception is [`RingView`], with which a transmit packet that is still the driver's may be read
//! from elsewhere.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/netcx/introduction-to-net-rings>

use core::{marker::PhantomData, num::NonZeroUsize, ptr::NonNull};

use crate::sys::netcx::{
    NET_EXTENSION, NET_FRAGMENT, NET_PACKET, NET_RING, NetPacketRxChecksumEvaluationInvalid,
    NetPacketRxChecksumEvaluationNotChecked, NetPacketRxChecksumEvaluationValid, fragment, gso,
    layout, packet_flag,
};

/// The addresses of a queue's rings and of the extensions their elements have.
///
/// # Invariants
///
/// The rings are those of one packet queue, which exists, with a power of two of elements each that
/// are at least as large as a packet and a fragment; each column belongs to its ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawRings {
    pub(super) packets: NonNull<NET_RING>,
    pub(super) fragments: NonNull<NET_RING>,
    /// Where each fragment's bytes are.
    pub(super) virtual_address: Column,
    /// On receive: what comes back with a buffer.
    pub(super) return_context: Option<Column>,
    /// On receive, if granted: what is known of a packet's checksums.
    pub(super) checksum: Option<Column>,
    /// On transmit, if granted: into which segments a packet is to be cut.
    pub(super) gso: Option<Column>,
}

// SAFETY: addresses only; who may use them when is said by `Rings` and `RingView`.
unsafe impl Send for RawRings {}
// SAFETY: as above.
unsafe impl Sync for RawRings {}

/// An extension: one value for each element of a ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    base: *mut u8,
    stride: usize,
}

impl Column {
    /// Where an extension lies; `None` if it is not enabled.
    pub(super) fn new(extension: &NET_EXTENSION) -> Option<Self> {
        (extension.Enabled != 0).then(|| Self {
            base: extension.Reserved[0].cast(),
            stride: extension.Reserved[1] as usize,
        })
    }

    /// The value of the element at `index`, which must be inside the ring to be used.
    fn at<T>(self, index: u32) -> *mut T {
        self.base.wrapping_add(self.stride * index as usize).cast()
    }
}

/// How far each side is with a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indices {
    /// The first element that is the driver's.
    pub begin: u32,
    /// The first of those that the driver has not looked at; the framework never reads it.
    pub next: u32,
    /// The first element after the driver's.
    pub end: u32,
    /// Number of elements less one; an index is always taken modulo the number of elements.
    pub mask: u32,
}

impl Indices {
    /// The indices of `ring`.
    ///
    /// # Safety
    ///
    /// `ring` is valid to read, and this is a callback of its queue.
    unsafe fn of(ring: NonNull<NET_RING>) -> Self {
        let ring = ring.as_ptr();
        // SAFETY: the caller's promise.
        let begin = unsafe { (*ring).BeginIndex };
        // SAFETY: the caller's promise.
        let next = unsafe { (*ring).NextIndex };
        // SAFETY: the caller's promise; NetAdapterCx writes it between callbacks.
        let end = unsafe { (*ring).EndIndex };
        // SAFETY: the caller's promise; constant.
        let mask = unsafe { (*ring).ElementIndexMask };
        Self { begin: begin & mask, next: next & mask, end: end & mask, mask }
    }
}

/// The kind of packet, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer3 {
    /// Not known, or neither of the two.
    Unknown,
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// One packet of a transmit ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its first fragment.
    pub fragment_index: u32,
    /// How many it has.
    pub fragment_count: u32,
    /// NetAdapterCx has no bytes for it: it is only to be returned.
    pub ignore: bool,
    /// The kind NetAdapterCx found.
    pub layer3: Layer3,
    /// If the packet is to be cut: the most payload of each segment, in bytes. Otherwise 0.
    pub mss: u32,
}

/// Contiguous bytes of a transmit packet.
///
/// They are the sender's, who may still change them, and must be read once, through the pointer.
/// They stay mapped until the packet has been returned.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// The first byte. Never null.
    pub address: NonNull<u8>,
    /// The number of bytes.
    pub len: usize,
}

impl Piece {
    /// What is left behind its first `bytes`; nothing if it has no more.
    #[must_use]
    pub fn after(self, bytes: usize) -> Self {
        let bytes = bytes.min(self.len);
        // SAFETY: not past the end of the piece, which is part of one allocation.
        let address = unsafe { self.address.add(bytes) };
        Self { address, len: self.len - bytes }
    }
}

/// What was found of one checksum of a received packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Finding {
    /// It was not looked at, or there is none.
    #[default]
    NotChecked = NetPacketRxChecksumEvaluationNotChecked as isize,
    /// It is right.
    Valid = NetPacketRxChecksumEvaluationValid as isize,
    /// It is wrong.
    Invalid = NetPacketRxChecksumEvaluationInvalid as isize,
}

/// What was found of a received packet's checksums.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Checksums {
    /// Of the IPv4 header.
    pub layer3: Finding,
    /// Of TCP or UDP.
    pub layer4: Finding,
}

/// A buffer to be indicated as one packet of one fragment.
///
/// # Invariants
///
/// `address` leads to `capacity` bytes of nonpaged memory, of which `len` are filled; they are not
/// touched until `handle` comes back by [`super::AdapterEvents::return_rx_buffer`], or the queue is
/// stopped without having taken the buffer.
#[derive(Debug)]
pub struct RxFragment {
    address: NonNull<u8>,
    capacity: u32,
    len: u32,
    handle: NonZeroUsize,
    checksums: Checksums,
}

impl RxFragment {
    /// Describes a buffer of which no checksum was looked at; `handle` is what comes back with it.
    ///
    /// # Safety
    ///
    /// The type's invariant holds, from here until the buffer comes back. `capacity` is below 2^26,
    /// and `len` not above it.
    #[must_use]
    pub unsafe fn new(address: NonNull<u8>, capacity: u32, len: u32, handle: NonZeroUsize) -> Self {
        debug_assert!(len <= capacity && u64::from(capacity) <= fragment::LENGTH_MASK);
        Self { address, capacity, len, handle, checksums: Checksums::default() }
    }

    /// The same, with what was found of the packet's checksums.
    #[must_use]
    pub fn with_checksums(self, checksums: Checksums) -> Self {
        Self { checksums, ..self }
    }
}

/// Both rings of a queue, inside one of its callbacks.
#[derive(Debug)]
pub struct Rings<'callback> {
    raw: RawRings,
    /// Of one callback, on its thread.
    _callback: PhantomData<(&'callback mut (), *const ())>,
}

impl Rings<'_> {
    /// The rings of the queue whose callback is running.
    ///
    /// # Safety
    ///
    /// This is a callback of that queue in which rings may be used (advance, cancel), there is no
    /// other value for the queue, and this one does not leave the callback.
    pub(super) unsafe fn new(raw: RawRings) -> Self {
        Self { raw, _callback: PhantomData }
    }

    /// How far the packet ring is.
    #[must_use]
    pub fn packets(&self) -> Indices {
        // SAFETY: the queue exists, and this is its callback, by the type.
        unsafe { Indices::of(self.raw.packets) }
    }

    /// How far the fragment ring is.
    #[must_use]
    pub fn fragments(&self) -> Indices {
        // SAFETY: the queue exists, and this is its callback, by the type.
        unsafe { Indices::of(self.raw.fragments) }
    }

    /// Returns the packets before `begin` to NetAdapterCx, and notes how far the driver has looked.
    pub fn set_packets(&mut self, begin: u32, next: u32) {
        // SAFETY: the two indices are the driver's to write in a callback of the queue.
        unsafe { set_indices(self.raw.packets, begin, next) };
    }

    /// Returns the fragments before `begin`.
    pub fn set_fragments(&mut self, begin: u32) {
        // SAFETY: the two indices are the driver's to write in a callback of the queue.
        unsafe { set_indices(self.raw.fragments, begin, begin) };
    }

    /// The transmit packet at `index`.
    #[must_use]
    pub fn packet(&self, index: u32) -> Packet {
        // SAFETY: within a callback NetAdapterCx does not write elements.
        unsafe { self.raw.packet(index) }
    }

    /// Fills the receive packet at `packet` and the fragment at `fragment` with `buffer`.
    ///
    /// Both must be the driver's, and be returned in this callback. Everything the driver has to
    /// write is written; reserved bits stay. If NetAdapterCx has granted it, what was found of the
    /// packet's checksums is, too.
    pub fn link(&mut self, packet: u32, fragment: u32, buffer: RxFragment, layer3: Layer3) {
        let raw = self.raw;
        let element = raw.element::<NET_FRAGMENT>(raw.fragments, fragment);
        // SAFETY: inside the ring, aligned as NetAdapterCx laid it out; written by nobody meanwhile.
        let old = unsafe { element.read() };
        let new = (old & fragment::RESERVED)
            | u64::from(buffer.len) << fragment::VALID_LENGTH_SHIFT
            | u64::from(buffer.capacity) << fragment::CAPACITY_SHIFT;
        // SAFETY: as above, and the fragment is the driver's.
        unsafe { element.write(new) };
        let index = fragment & raw.mask(raw.fragments);
        // SAFETY: the column has a pointer for each fragment; this one is the driver's.
        unsafe { raw.virtual_address.at::<*mut u8>(index).write(buffer.address.as_ptr()) };
        if let Some(column) = raw.return_context {
            // SAFETY: as above.
            unsafe { column.at::<usize>(index).write(buffer.handle.get()) };
        }
        self.link_packet(packet, index, layer3, buffer.checksums);
    }

    /// Fills the receive packet at `packet`, whose one fragment is at `fragment`.
    fn link_packet(&mut self, packet: u32, fragment: u32, layer3: Layer3, checksums: Checksums) {
        let raw = self.raw;
        let element = raw.element::<NET_PACKET>(raw.packets, packet);
        // SAFETY: inside the ring, aligned as NetAdapterCx laid it out; written by nobody meanwhile.
        let mut new = unsafe { element.read() };
        new.FragmentIndex = fragment;
        new.FragmentCount = 1;
        // Header lengths of 0 say "unknown": NetAdapterCx reads the headers itself anyway when there
        // is no layer 2.
        new.Layout[layout::HEADER_LENGTHS] = 0;
        new.Layout[layout::HEADER_LENGTHS + 1] = 0;
        new.Layout[layout::LAYER4_LENGTH] = 0;
        let layer3 = match layer3 {
            Layer3::Unknown => layout::LAYER3_UNSPECIFIED,
            Layer3::Ipv4 => layout::LAYER3_IPV4_UNSPECIFIED_OPTIONS,
            Layer3::Ipv6 => layout::LAYER3_IPV6_UNSPECIFIED_EXTENSIONS,
        };
        new.Layout[layout::LAYER2_AND_LAYER3_TYPE] = layout::LAYER2_NULL | layer3 << 4;
        let reserved = new.Layout[layout::LAYER4_TYPE] & 0xF0;
        new.Layout[layout::LAYER4_TYPE] = reserved | layout::LAYER4_UNSPECIFIED;
        new.Flags &= !packet_flag::IGNORE;
        // SAFETY: as above, and the packet is the driver's.
        unsafe { element.write(new) };
        if let Some(column) = raw.checksum {
            let found = (checksums.layer3 as u8) << 2 | (checksums.layer4 as u8) << 4;
            let index = packet & raw.mask(raw.packets);
            // SAFETY: the column has a byte for each packet; this one is the driver's.
            unsafe { column.at::<u8>(index).write(found) };
        }
    }

    /// Marks the receive packet at `packet` as one without bytes, leaving everything else in it.
    pub fn ignore(&mut self, packet: u32) {
        let element = self.raw.element::<NET_PACKET>(self.raw.packets, packet);
        // SAFETY: inside the ring, aligned as NetAdapterCx laid it out; written by nobody meanwhile.
        let flags = unsafe { (*element).Flags };
        // SAFETY: as above, and the packet is the driver's.
        unsafe { (*element).Flags = flags | packet_flag::IGNORE };
    }
}

/// A queue's rings, to read transmit packets that are the driver's, in any thread.
#[derive(Clone, Copy, Debug)]
pub struct RingView(RawRings);

impl RingView {
    /// A view of `rings`.
    pub(super) fn new(rings: RawRings) -> Self {
        Self(rings)
    }

    /// The packet at `index`.
    ///
    /// # Safety
    ///
    /// The queue exists, and the packet is the driver's: at or after `BeginIndex`, and it will not be
    /// returned before this call does.
    #[must_use]
    pub unsafe fn packet(&self, index: u32) -> Packet {
        // SAFETY: nobody writes a packet that is the driver's.
        unsafe { self.0.packet(index) }
    }

    /// The bytes of the fragment at `index`; `None` if the memory could not be mapped.
    ///
    /// # Safety
    ///
    /// As for [`RingView::packet`], of the packet the fragment belongs to.
    #[must_use]
    pub unsafe fn piece(&self, index: u32) -> Option<Piece> {
        let element = self.0.element::<NET_FRAGMENT>(self.0.fragments, index);
        // SAFETY: inside the ring; nobody writes a fragment that is the driver's.
        let bits = unsafe { element.read() };
        let len = (bits >> fragment::VALID_LENGTH_SHIFT & fragment::LENGTH_MASK) as usize;
        let offset = (bits >> fragment::OFFSET_SHIFT & fragment::OFFSET_MASK) as usize;
        let column = self.0.virtual_address.at::<*mut u8>(index & self.0.mask(self.0.fragments));
        // SAFETY: the column has a pointer for each fragment.
        let base = unsafe { column.read() };
        // NetAdapterCx adds the MDL's offset without looking whether the MDL could be mapped, so
        // that what it could not map is an address below a page.
        if base.addr() < 0x1_0000 {
            return None;
        }
        NonNull::new(base.wrapping_add(offset)).map(|address| Piece { address, len })
    }
}

impl RawRings {
    /// `ElementIndexMask` of one of the two rings.
    fn mask(&self, ring: NonNull<NET_RING>) -> u32 {
        // SAFETY: the queue exists, by the type invariant; the mask is constant.
        unsafe { (*ring.as_ptr()).ElementIndexMask }
    }

    /// The element at `index` of one of the two rings, modulo its size.
    fn element<T>(&self, ring: NonNull<NET_RING>, index: u32) -> *mut T {
        let index = (index & self.mask(ring)) as usize;
        let header = ring.as_ptr();
        // SAFETY: the queue exists, by the type invariant; the stride is constant.
        let stride = unsafe { (*header).ElementStride };
        header
            .cast::<u8>()
            .wrapping_add(core::mem::offset_of!(NET_RING, Buffer) + usize::from(stride) * index)
            .cast()
    }

    /// The transmit packet at `index`.
    ///
    /// # Safety
    ///
    /// Nobody writes the packet meanwhile.
    unsafe fn packet(&self, index: u32) -> Packet {
        let element = self.element::<NET_PACKET>(self.packets, index);
        // SAFETY: inside the ring; not written meanwhile by the caller's word.
        let packet = unsafe { element.read() };
        let mss = self.gso.map_or(0, |column| {
            // SAFETY: the column has a word for each packet; not written meanwhile, as above.
            let bits = unsafe { column.at::<u32>(index & self.mask(self.packets)).read() };
            bits & gso::MSS_MASK
        });
        Packet {
            mss,
            fragment_index: packet.FragmentIndex & self.mask(self.fragments),
            fragment_count: u32::from(packet.FragmentCount),
            ignore: packet.Flags & packet_flag::IGNORE != 0,
            layer3: match packet.Layout[layout::LAYER2_AND_LAYER3_TYPE] >> 4 {
                layout::LAYER3_IPV4_UNSPECIFIED_OPTIONS..=layout::LAYER3_IPV4_NO_OPTIONS => {
                    Layer3::Ipv4
                }
                layout::LAYER3_IPV6_UNSPECIFIED_EXTENSIONS..=layout::LAYER3_IPV6_NO_EXTENSIONS => {
                    Layer3::Ipv6
                }
                _ => Layer3::Unknown,
            },
        }
    }
}

/// Writes the two indices of `ring` that are the driver's.
///
/// # Safety
///
/// `ring` exists, and this is an advance or cancel callback of its queue.
unsafe fn set_indices(ring: NonNull<NET_RING>, begin: u32, next: u32) {
    let ring = ring.as_ptr();
    // SAFETY: the caller's promise; the mask is constant.
    let mask = unsafe { (*ring).ElementIndexMask };
    // SAFETY: the caller's promise.
    unsafe { (*ring).BeginIndex = begin & mask };
    // SAFETY: the caller's promise.
    unsafe { (*ring).NextIndex = next & mask };
}
