//! `NET_RING`, `NET_PACKET` and `NET_FRAGMENT`: the memory NetAdapterCx and the driver share.
//!
//! The bytes are laid out by hand and read through offsets, because the driver writes them behind
//! Rust's back and the verifier compares them as bytes. [`Ring`] owns one ring; [`Packet`],
//! [`Layout`] and [`Fragment`] are values decoded from an element, never references into it.
//!
//! A ring is touched by one execution context at a time: the driver inside a callback, NetAdapterCx
//! between callbacks. That context's own synchronisation orders the plain accesses made here.
//!
//! Source: `NET_RING`, `NET_PACKET`, `NET_FRAGMENT`, `NET_EXTENSION` of WDK 10.0.26100 (documented);
//! that an extension's slot is found by base and stride in `Reserved[0..2]` is
//! `NetExtensionGetData` in the same headers. How elements are padded is inferred.

use std::alloc;
use std::ptr::NonNull;

/// Where the elements start: `NET_RING.Buffer`.
pub const BUFFER: usize = 64;
/// `sizeof(NET_RING)`.
pub const RING_SIZE: usize = 128;
/// The part of the header that is NetAdapterCx's alone: everything before `BeginIndex`.
pub const FRAMEWORK_HEADER: usize = BEGIN_INDEX;
/// `sizeof(NET_PACKET)`.
pub const PACKET_SIZE: usize = 12;
/// `sizeof(NET_FRAGMENT)`.
pub const FRAGMENT_SIZE: usize = 8;

const ELEMENT_STRIDE: usize = 2;
const NUMBER_OF_ELEMENTS: usize = 4;
const ELEMENT_INDEX_MASK: usize = 8;
const END_INDEX: usize = 12;
const OS_RESERVED_0: usize = 16;
const BEGIN_INDEX: usize = 48;
const NEXT_INDEX: usize = 52;

/// A per-element extension: `ms_packet_checksum` and its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension {
    /// The name a driver asks for.
    pub name: &'static str,
    /// The highest version answered.
    pub version: u32,
    /// Bytes in each element.
    pub size: usize,
    /// Alignment in each element.
    pub align: usize,
}

/// `NET_FRAGMENT_EXTENSION_VIRTUAL_ADDRESS`.
pub const VIRTUAL_ADDRESS: Extension =
    Extension { name: "ms_fragment_virtualaddress", version: 1, size: 8, align: 8 };
/// `NET_FRAGMENT_EXTENSION_RETURN_CONTEXT`.
pub const RETURN_CONTEXT: Extension =
    Extension { name: "ms_fragment_returncontext", version: 1, size: 8, align: 8 };
/// `NET_PACKET_EXTENSION_CHECKSUM`.
pub const CHECKSUM: Extension =
    Extension { name: "ms_packet_checksum", version: 1, size: 1, align: 1 };

/// `NET_PACKET_GSO`: `Mss` in 20 bits.
pub const GSO: Extension = Extension { name: "ms_packet_gso", version: 1, size: 4, align: 4 };

/// `NET_PACKET_LAYOUT`, decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    /// `Layer2HeaderLength`, 7 bits.
    pub layer2_length: u8,
    /// `Layer3HeaderLength`, 9 bits.
    pub layer3_length: u16,
    /// `Layer4HeaderLength`.
    pub layer4_length: u8,
    /// `NET_PACKET_LAYER2_TYPE`.
    pub layer2_type: u8,
    /// `NET_PACKET_LAYER3_TYPE`.
    pub layer3_type: u8,
    /// `NET_PACKET_LAYER4_TYPE`.
    pub layer4_type: u8,
    /// `Reserved0`, 4 bits.
    pub reserved: u8,
}

impl Layout {
    /// Decodes the five bytes of a `NET_PACKET_LAYOUT`.
    #[must_use]
    pub fn decode(bytes: [u8; 5]) -> Self {
        let lengths = u16::from_le_bytes([bytes[0], bytes[1]]);
        Self {
            layer2_length: (lengths & 0x7F) as u8,
            layer3_length: lengths >> 7,
            layer4_length: bytes[2],
            layer2_type: bytes[3] & 0xF,
            layer3_type: bytes[3] >> 4,
            layer4_type: bytes[4] & 0xF,
            reserved: bytes[4] >> 4,
        }
    }

    /// Encodes as the five bytes of a `NET_PACKET_LAYOUT`.
    #[must_use]
    pub fn encode(self) -> [u8; 5] {
        let lengths = u16::from(self.layer2_length & 0x7F) | (self.layer3_length << 7);
        let [low, high] = lengths.to_le_bytes();
        [
            low,
            high,
            self.layer4_length,
            (self.layer2_type & 0xF) | (self.layer3_type << 4),
            (self.layer4_type & 0xF) | (self.reserved << 4),
        ]
    }
}

/// `NET_PACKET`, decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Packet {
    /// `FragmentIndex`.
    pub fragment_index: u32,
    /// `FragmentCount`.
    pub fragment_count: u16,
    /// `Layout`.
    pub layout: Layout,
    /// `Ignore`.
    pub ignore: bool,
    /// `Scratch`, the driver's own bit.
    pub scratch: bool,
    /// `Reserved1`, 6 bits.
    pub reserved: u8,
}

impl Packet {
    /// Decodes the first [`PACKET_SIZE`] bytes of `element`.
    ///
    /// # Panics
    ///
    /// If `element` is shorter.
    #[must_use]
    pub fn decode(element: &[u8]) -> Self {
        let bytes: &[u8; PACKET_SIZE] = element.first_chunk().expect("an element holds a packet");
        let &[i0, i1, i2, i3, c0, c1, l0, l1, l2, l3, l4, flags] = bytes;
        Self {
            fragment_index: u32::from_le_bytes([i0, i1, i2, i3]),
            fragment_count: u16::from_le_bytes([c0, c1]),
            layout: Layout::decode([l0, l1, l2, l3, l4]),
            ignore: flags & 1 != 0,
            scratch: flags & 2 != 0,
            reserved: flags >> 2,
        }
    }

    /// Encodes as [`PACKET_SIZE`] bytes.
    #[must_use]
    pub fn encode(self) -> [u8; PACKET_SIZE] {
        let mut bytes = [0; PACKET_SIZE];
        bytes[..4].copy_from_slice(&self.fragment_index.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.fragment_count.to_le_bytes());
        bytes[6..11].copy_from_slice(&self.layout.encode());
        bytes[11] = u8::from(self.ignore) | (u8::from(self.scratch) << 1) | (self.reserved << 2);
        bytes
    }
}

/// `NET_FRAGMENT`, decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    /// `ValidLength`, 26 bits.
    pub valid_length: u32,
    /// `Capacity`, 26 bits.
    pub capacity: u32,
    /// `Offset`, 10 bits.
    pub offset: u16,
    /// `Scratch`, the driver's own bit.
    pub scratch: bool,
    /// `OsReserved_Bounced`.
    pub bounced: bool,
}

/// All ones in a 26-bit field.
pub const MAX_LENGTH: u32 = (1 << 26) - 1;
/// All ones in the 10-bit `Offset`.
pub const MAX_OFFSET: u16 = (1 << 10) - 1;

impl Fragment {
    /// Decodes the 64-bit field.
    #[must_use]
    pub fn from_bits(bits: u64) -> Self {
        Self {
            valid_length: bits as u32 & MAX_LENGTH,
            capacity: (bits >> 26) as u32 & MAX_LENGTH,
            offset: (bits >> 52) as u16 & MAX_OFFSET,
            scratch: bits >> 62 & 1 != 0,
            bounced: bits >> 63 & 1 != 0,
        }
    }

    /// Encodes as the 64-bit field.
    #[must_use]
    pub fn to_bits(self) -> u64 {
        u64::from(self.valid_length & MAX_LENGTH)
            | (u64::from(self.capacity & MAX_LENGTH) << 26)
            | (u64::from(self.offset & MAX_OFFSET) << 52)
            | (u64::from(self.scratch) << 62)
            | (u64::from(self.bounced) << 63)
    }

    /// Decodes the first [`FRAGMENT_SIZE`] bytes of `element`.
    ///
    /// # Panics
    ///
    /// If `element` is shorter.
    #[must_use]
    pub fn decode(element: &[u8]) -> Self {
        let bytes: &[u8; FRAGMENT_SIZE] =
            element.first_chunk().expect("an element holds a fragment");
        Self::from_bits(u64::from_le_bytes(*bytes))
    }
}

/// One ring and its elements.
///
/// # Invariants
///
/// `base` is an allocation of `layout`, made zeroed, of `BUFFER + count * stride` bytes at least;
/// `count` is a power of two. Index reads mask nothing: a driver may have written anything there.
pub struct Ring {
    base: NonNull<u8>,
    layout: alloc::Layout,
    stride: usize,
    count: u32,
    extensions: Vec<(Extension, usize)>,
}

// SAFETY: the memory is owned, and every access is a copy through a raw pointer; who may touch it
// when is the execution context's rule (see the module's documentation).
unsafe impl Send for Ring {}
// SAFETY: as above.
unsafe impl Sync for Ring {}

impl Ring {
    /// Makes a zeroed ring of `count` elements of `element_size` bytes and `extensions` behind them.
    ///
    /// # Panics
    ///
    /// If `count` is not a power of two of at least 2, or if the host is out of memory.
    #[must_use]
    pub fn new(count: u32, element_size: usize, extensions: &[Extension]) -> Self {
        assert!(count.is_power_of_two() && count >= 2, "a ring of {count} elements");
        let mut end = element_size;
        let mut align = 4;
        let mut placed = Vec::with_capacity(extensions.len());
        for extension in extensions {
            let offset = end.next_multiple_of(extension.align);
            placed.push((*extension, offset));
            end = offset + extension.size;
            align = align.max(extension.align);
        }
        let stride = end.next_multiple_of(align.max(8));
        let size = (BUFFER + stride * count as usize).max(RING_SIZE);
        let layout = alloc::Layout::from_size_align(size, 64).expect("a ring is small");
        // SAFETY: `layout` is not of size zero.
        let base = unsafe { alloc::alloc_zeroed(layout) };
        let Some(base) = NonNull::new(base) else { alloc::handle_alloc_error(layout) };
        let ring = Self { base, layout, stride, count, extensions: placed };
        ring.write(ELEMENT_STRIDE, &u16::try_from(stride).expect("small").to_le_bytes());
        ring.write(NUMBER_OF_ELEMENTS, &count.to_le_bytes());
        ring.write(ELEMENT_INDEX_MASK, &(count - 1).to_le_bytes());
        ring
    }

    /// The address the driver gets in `NET_RING_COLLECTION`.
    #[must_use]
    pub fn address(&self) -> usize {
        self.base.as_ptr() as usize
    }

    /// Number of elements.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes from one element to the next.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Base address and stride of an extension's slots, as `NET_EXTENSION.Reserved[0..2]` holds them.
    #[must_use]
    pub fn extension(&self, name: &str, version: u32) -> Option<(usize, usize)> {
        self.extensions
            .iter()
            .find(|(extension, _)| extension.name == name && extension.version >= version)
            .map(|(_, offset)| (self.address() + BUFFER + offset, self.stride))
    }

    fn extension_offset(&self, index: u32, extension: &Extension) -> Option<usize> {
        let (_, offset) = self.extensions.iter().find(|(known, _)| known.name == extension.name)?;
        Some(self.element_offset(index) + offset)
    }

    /// Reads the 8-byte slot of `extension`, or `None` if the ring has no such extension.
    #[must_use]
    pub fn read_extension(&self, index: u32, extension: &Extension) -> Option<u64> {
        let mut bytes = [0; 8];
        let at = self.extension_offset(index, extension)?;
        self.read(at, &mut bytes[..extension.size]);
        Some(u64::from_le_bytes(bytes))
    }

    /// Writes the slot of `extension`; nothing if the ring has no such extension.
    pub fn write_extension(&self, index: u32, extension: &Extension, value: u64) {
        if let Some(at) = self.extension_offset(index, extension) {
            self.write(at, &value.to_le_bytes()[..extension.size]);
        }
    }

    /// `index + 1`, wrapped.
    #[must_use]
    pub fn increment(&self, index: u32) -> u32 {
        index.wrapping_add(1) & (self.count - 1)
    }

    /// Elements from `from` up to, not including, `to`.
    #[must_use]
    pub fn distance(&self, from: u32, to: u32) -> u32 {
        to.wrapping_sub(from) & (self.count - 1)
    }

    /// `BeginIndex`: the first element the driver owns.
    #[must_use]
    pub fn begin(&self) -> u32 {
        self.read_u32(BEGIN_INDEX)
    }

    /// `EndIndex`: one past the last element the driver owns.
    #[must_use]
    pub fn end(&self) -> u32 {
        self.read_u32(END_INDEX)
    }

    /// Sets `EndIndex`.
    pub fn set_end(&self, index: u32) {
        self.write(END_INDEX, &index.to_le_bytes());
    }

    /// `NextIndex`, the driver's own.
    #[must_use]
    pub fn next(&self) -> u32 {
        self.read_u32(NEXT_INDEX)
    }

    /// `OSReserved0`: the first returned element not yet taken back.
    #[must_use]
    pub fn drained(&self) -> u32 {
        self.read_u32(OS_RESERVED_0)
    }

    /// Sets `OSReserved0`.
    pub fn set_drained(&self, index: u32) {
        self.write(OS_RESERVED_0, &index.to_le_bytes());
    }

    /// Elements that can still be given to the driver: `[EndIndex, OSReserved0 - 1)`.
    #[must_use]
    pub fn free(&self) -> u32 {
        self.distance(self.end(), self.drained().wrapping_sub(1))
    }

    /// Puts all four indices at 0, as before `EvtPacketQueueStart`.
    pub fn reset(&self) {
        for index in [BEGIN_INDEX, END_INDEX, NEXT_INDEX, OS_RESERVED_0] {
            self.write(index, &[0; 4]);
        }
    }

    /// The packet at `index`.
    #[must_use]
    pub fn packet(&self, index: u32) -> Packet {
        let mut bytes = [0; PACKET_SIZE];
        self.read(self.element_offset(index), &mut bytes);
        Packet::decode(&bytes)
    }

    /// Writes the packet at `index`.
    pub fn set_packet(&self, index: u32, packet: Packet) {
        self.write(self.element_offset(index), &packet.encode());
    }

    /// The fragment at `index`.
    #[must_use]
    pub fn fragment(&self, index: u32) -> Fragment {
        let mut bytes = [0; FRAGMENT_SIZE];
        self.read(self.element_offset(index), &mut bytes);
        Fragment::from_bits(u64::from_le_bytes(bytes))
    }

    /// Writes the fragment at `index`, without its extensions.
    pub fn set_fragment(&self, index: u32, fragment: Fragment) {
        self.write(self.element_offset(index), &fragment.to_bits().to_le_bytes());
    }

    /// Zeroes the element at `index` with its extensions.
    pub fn clear(&self, index: u32) {
        // SAFETY: by the type invariant the element is inside the allocation.
        let at = unsafe { self.base.as_ptr().add(self.element_offset(index)) };
        // SAFETY: as above, and `stride` bytes belong to it.
        unsafe { at.write_bytes(0, self.stride) }
    }

    /// Copies the whole ring, header and elements, into `copy`.
    pub fn snapshot(&self, copy: &mut Vec<u8>) {
        copy.resize(self.layout.size(), 0);
        self.read(0, copy);
    }

    fn element_offset(&self, index: u32) -> usize {
        BUFFER + (index & (self.count - 1)) as usize * self.stride
    }

    fn read_u32(&self, offset: usize) -> u32 {
        let mut bytes = [0; 4];
        self.read(offset, &mut bytes);
        u32::from_le_bytes(bytes)
    }

    fn read(&self, offset: usize, into: &mut [u8]) {
        assert!(offset + into.len() <= self.layout.size(), "inside the ring");
        // SAFETY: just checked against the size of the allocation.
        let from = unsafe { self.base.as_ptr().add(offset) };
        // SAFETY: as above; `into` is ours and cannot overlap the ring.
        unsafe { from.copy_to_nonoverlapping(into.as_mut_ptr(), into.len()) }
    }

    fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.layout.size(), "inside the ring");
        // SAFETY: just checked against the size of the allocation.
        let to = unsafe { self.base.as_ptr().add(offset) };
        // SAFETY: as above; `bytes` is ours and cannot overlap the ring.
        unsafe { to.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: by the type invariant `base` came from `alloc_zeroed` with this layout.
        unsafe { alloc::dealloc(self.base.as_ptr(), self.layout) }
    }
}

/// Indices of a snapshot made by [`Ring::snapshot`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indices {
    /// `BeginIndex`.
    pub begin: u32,
    /// `EndIndex`.
    pub end: u32,
    /// Number of elements.
    pub count: u32,
    /// `ElementStride`.
    pub stride: usize,
}

impl Indices {
    /// Reads the indices out of a snapshot of `ring`; shape comes from `ring`, which a driver cannot change.
    ///
    /// # Panics
    ///
    /// If `snapshot` is not one of a ring.
    #[must_use]
    pub fn of(ring: &Ring, snapshot: &[u8]) -> Self {
        let index = |at: usize| {
            let bytes = snapshot[at..].first_chunk().expect("a snapshot holds the header");
            u32::from_le_bytes(*bytes)
        };
        Self {
            begin: index(BEGIN_INDEX),
            end: index(END_INDEX),
            count: ring.count,
            stride: ring.stride,
        }
    }

    /// Elements from `from` up to, not including, `to`.
    #[must_use]
    pub fn distance(&self, from: u32, to: u32) -> u32 {
        to.wrapping_sub(from) & (self.count - 1)
    }

    /// Whether `index` lies in `[begin, end)`.
    #[must_use]
    pub fn owns(&self, index: u32) -> bool {
        index < self.count && self.distance(self.begin, index) < self.distance(self.begin, self.end)
    }

    /// The bytes of element `index` in `snapshot`.
    #[must_use]
    pub fn element<'s>(&self, snapshot: &'s [u8], index: u32) -> &'s [u8] {
        let at = BUFFER + (index & (self.count - 1)) as usize * self.stride;
        &snapshot[at..at + self.stride]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bit positions of `NET_PACKET_LAYOUT`, each field alone.
    #[test]
    fn a_layout_has_windows_bits() {
        for (layout, bytes) in [
            (Layout { layer2_length: 0x7F, ..Layout::default() }, [0x7F, 0, 0, 0, 0]),
            (Layout { layer3_length: 0x1FF, ..Layout::default() }, [0x80, 0xFF, 0, 0, 0]),
            (Layout { layer4_length: 0xFF, ..Layout::default() }, [0, 0, 0xFF, 0, 0]),
            (Layout { layer2_type: 0xF, ..Layout::default() }, [0, 0, 0, 0x0F, 0]),
            (Layout { layer3_type: 0xF, ..Layout::default() }, [0, 0, 0, 0xF0, 0]),
            (Layout { layer4_type: 0xF, ..Layout::default() }, [0, 0, 0, 0, 0x0F]),
            (Layout { reserved: 0xF, ..Layout::default() }, [0, 0, 0, 0, 0xF0]),
        ] {
            assert_eq!(layout.encode(), bytes, "{layout:?}");
            assert_eq!(Layout::decode(bytes), layout);
        }
    }

    /// The bit positions of `NET_FRAGMENT`: 26, 26, 10, 1, 1.
    #[test]
    fn a_fragment_has_windows_bits() {
        for (fragment, bits) in [
            (
                Fragment { valid_length: MAX_LENGTH, ..Fragment::default() },
                0x0000_0000_03FF_FFFF_u64,
            ),
            (Fragment { capacity: MAX_LENGTH, ..Fragment::default() }, 0x000F_FFFF_FC00_0000),
            (Fragment { offset: MAX_OFFSET, ..Fragment::default() }, 0x3FF0_0000_0000_0000),
            (Fragment { scratch: true, ..Fragment::default() }, 1 << 62),
            (Fragment { bounced: true, ..Fragment::default() }, 1 << 63),
        ] {
            assert_eq!(fragment.to_bits(), bits, "{fragment:?}");
            assert_eq!(Fragment::from_bits(bits), fragment);
        }
    }

    #[test]
    fn a_packet_survives_its_ring() {
        let ring = Ring::new(4, PACKET_SIZE, &[CHECKSUM]);
        let packet = Packet {
            fragment_index: 7,
            fragment_count: 2,
            layout: Layout {
                layer2_type: 1,
                layer3_type: 3,
                layer3_length: 20,
                ..Layout::default()
            },
            ignore: true,
            scratch: false,
            reserved: 5,
        };
        ring.set_packet(6, packet); // wraps to 2
        ring.write_extension(2, &CHECKSUM, 0x14);
        assert_eq!(ring.packet(2), packet);
        assert_eq!(ring.read_extension(2, &CHECKSUM), Some(0x14));
        assert_eq!(ring.read_extension(2, &VIRTUAL_ADDRESS), None);
        assert_eq!(ring.packet(1), Packet::default(), "the neighbour is untouched");
        assert_eq!(ring.packet(3), Packet::default(), "the neighbour is untouched");
        ring.clear(2);
        assert_eq!(
            (ring.packet(2), ring.read_extension(2, &CHECKSUM)),
            (Packet::default(), Some(0))
        );
    }

    #[test]
    fn a_ring_holds_one_less_than_its_elements() {
        let ring = Ring::new(2, FRAGMENT_SIZE, &[VIRTUAL_ADDRESS, RETURN_CONTEXT]);
        assert_eq!((ring.free(), ring.stride()), (1, 24));
        ring.set_end(1);
        assert_eq!(ring.free(), 0);
        ring.set_drained(1);
        assert_eq!(ring.free(), 1, "across the wrap");
        assert_eq!(ring.extension("ms_fragment_returncontext", 1).unwrap().1, 24);
        assert!(ring.extension("ms_fragment_returncontext", 2).is_none(), "a newer version");
        assert_eq!(ring.address() % 64, 0);
    }
}
