//! `NET_BUFFER_LIST`, `NET_BUFFER` and `MDL` as they lie in memory that both sides touch.
//!
//! Offsets are those of `ndis/nbl.h` and `wdm.h` of WDK 10.0.26100 for x64. What is read here is a copy: nothing keeps a
//! reference to such a structure, because the driver writes them behind Rust's back.

use crate::loader::probe::{self, Fault};

/// `NET_BUFFER_LIST`.
pub(crate) mod list {
    pub(crate) const NEXT: usize = 0;
    pub(crate) const FIRST_BUFFER: usize = 8;
    pub(crate) const CONTEXT: usize = 16;
    pub(crate) const PARENT: usize = 24;
    pub(crate) const POOL: usize = 32;
    pub(crate) const PROTOCOL_RESERVED: usize = 64;
    pub(crate) const SCRATCH: usize = 112;
    pub(crate) const SOURCE: usize = 120;
    pub(crate) const NBL_FLAGS: usize = 128;
    pub(crate) const CHILD_REFERENCES: usize = 132;
    pub(crate) const STATUS: usize = 140;
    pub(crate) const INFO: usize = 144;
    /// Slots of `NetBufferListInfo`.
    pub(crate) const INFO_SLOTS: usize = 27;
    pub(crate) const SIZE: usize = 368;
    const _: () = assert!(INFO + 8 * INFO_SLOTS <= SIZE);
}

/// `NET_BUFFER`.
pub(crate) mod buffer {
    pub(crate) const NEXT: usize = 0;
    pub(crate) const CURRENT_MDL: usize = 8;
    pub(crate) const CURRENT_MDL_OFFSET: usize = 16;
    pub(crate) const DATA_LENGTH: usize = 24;
    pub(crate) const MDL_CHAIN: usize = 32;
    pub(crate) const DATA_OFFSET: usize = 40;
    pub(crate) const POOL: usize = 56;
    pub(crate) const PROTOCOL_RESERVED: usize = 80;
    pub(crate) const MINIPORT_RESERVED: usize = 128;
    pub(crate) const SIZE: usize = 176;
    const _: () =
        assert!(PROTOCOL_RESERVED + 48 == MINIPORT_RESERVED && SIZE == MINIPORT_RESERVED + 48);
}

/// Slots of `NetBufferListInfo`.
pub(crate) mod info {
    /// `TcpIpChecksumNetBufferListInfo`.
    pub(crate) const CHECKSUM: usize = 0;
    /// `TcpLargeSendNetBufferListInfo`.
    pub(crate) const LARGE_SEND: usize = 2;
    /// `NetBufferListFrameType`.
    pub(crate) const FRAME_TYPE: usize = 7;
    /// `UdpRecvSegCoalesceOffloadInfo`.
    pub(crate) const COALESCED: usize = 17;
    /// `UdpSegmentationOffloadInfo`.
    pub(crate) const UDP_SEGMENTATION: usize = 22;
}

/// `NblFlags`: the packets are IPv4.
pub(crate) const NBL_IS_IPV4: u32 = 0x200;
/// `NblFlags`: the packets are IPv6.
pub(crate) const NBL_IS_IPV6: u32 = 0x400;
/// `NblFlags`: the packets are UDP.
pub(crate) const NBL_IS_UDP: u32 = 0x1000;

/// What a `NET_BUFFER` says about its data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Buffer {
    pub(crate) next: usize,
    pub(crate) current_mdl: usize,
    pub(crate) current_offset: u32,
    pub(crate) length: u32,
    pub(crate) chain: usize,
    pub(crate) offset: u32,
}

impl Buffer {
    pub(crate) fn read(at: usize) -> Result<Self, Fault> {
        // In one piece: every packet has several of these.
        let words: [usize; 6] = probe::read(at)?;
        Ok(Self {
            next: words[buffer::NEXT / 8],
            current_mdl: words[buffer::CURRENT_MDL / 8],
            current_offset: words[buffer::CURRENT_MDL_OFFSET / 8] as u32,
            length: words[buffer::DATA_LENGTH / 8] as u32,
            chain: words[buffer::MDL_CHAIN / 8],
            offset: words[buffer::DATA_OFFSET / 8] as u32,
        })
    }

    pub(crate) fn write(&self, at: usize) -> Result<(), Fault> {
        probe::write(at + buffer::NEXT, self.next)?;
        probe::write(at + buffer::CURRENT_MDL, self.current_mdl)?;
        probe::write(at + buffer::CURRENT_MDL_OFFSET, self.current_offset)?;
        probe::write(at + buffer::DATA_LENGTH, u64::from(self.length))?;
        probe::write(at + buffer::MDL_CHAIN, self.chain)?;
        probe::write(at + buffer::DATA_OFFSET, self.offset)
    }

    /// Sets the current MDL and the offset in it from the chain and the data offset: `NdisAdjustNetBufferCurrentMdl`.
    pub(crate) fn adjust(&mut self) -> Result<(), Fault> {
        let (mut mdl, mut left) = (self.chain, self.offset);
        while mdl != 0 {
            let head = Mdl::read(mdl)?;
            if left < head.count || (head.next == 0 && self.length == 0) {
                break;
            }
            (mdl, left) = (head.next, left - head.count);
        }
        (self.current_mdl, self.current_offset) = (mdl, if mdl == 0 { 0 } else { left });
        Ok(())
    }
}

/// The head of an `MDL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mdl {
    pub(crate) at: usize,
    pub(crate) next: usize,
    pub(crate) size: u16,
    pub(crate) flags: u16,
    pub(crate) mapped: usize,
    pub(crate) start: usize,
    pub(crate) count: u32,
    pub(crate) byte_offset: u32,
}

impl Mdl {
    pub(crate) fn read(at: usize) -> Result<Self, Fault> {
        let [next, size_and_flags, _, mapped, start, counts] = probe::read::<[usize; 6]>(at)?;
        Ok(Self {
            at,
            next,
            size: size_and_flags as u16,
            flags: (size_and_flags >> 16) as u16,
            mapped,
            start,
            count: counts as u32,
            byte_offset: (counts >> 32) as u32,
        })
    }

    /// Where its bytes are.
    pub(crate) fn address(&self) -> usize {
        self.start.wrapping_add(self.byte_offset as usize)
    }
}

/// A stretch of memory: address and length.
pub(crate) type Stretch = (usize, usize);

/// The stretches of a buffer's data, in order; fewer bytes than it claims if its chain is too short.
pub(crate) fn data(buffer: &Buffer) -> Result<Vec<Stretch>, Fault> {
    let (mut mdl, mut skip, mut left) =
        (buffer.chain, buffer.offset as usize, buffer.length as usize);
    let mut all = Vec::new();
    while left > 0 && mdl != 0 {
        let head = Mdl::read(mdl)?;
        let count = head.count as usize;
        if skip < count {
            let length = (count - skip).min(left);
            all.push((head.address() + skip, length));
            left -= length;
        }
        skip = skip.saturating_sub(count);
        mdl = head.next;
    }
    Ok(all)
}

/// The bytes of a buffer's data.
pub(crate) fn bytes(buffer: &Buffer) -> Result<Vec<u8>, Fault> {
    let mut all = Vec::with_capacity(buffer.length as usize);
    for (address, length) in data(buffer)? {
        all.extend(probe::bytes(address, length)?);
    }
    Ok(all)
}

/// The addresses of a list's buffers.
pub(crate) fn buffers(list: usize) -> Result<Vec<usize>, Fault> {
    let mut all = Vec::new();
    let mut at: usize = probe::read(list + self::list::FIRST_BUFFER)?;
    while at != 0 && all.len() < super::invariants::LONGEST {
        all.push(at);
        at = probe::read(at + buffer::NEXT)?;
    }
    Ok(all)
}
