//! WSK's structures as they lie in the driver's memory, and how this side reads and writes them.
//!
//! Every function here takes an address that the driver gave and reads exactly the bytes its
//! structure has. In verified mode a bad address faults and is reported as the driver's; nothing
//! here keeps a reference to driver memory.
//!
//! Source: offsets of `wsk.h`, `ws2def.h`, `wdm.h` (x64), asserted below.

use std::mem::{offset_of, size_of};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// `AF_INET`.
pub(crate) const AF_INET: u16 = 2;
/// `AF_INET6` on Windows.
pub(crate) const AF_INET6: u16 = 23;
/// Bytes of a `SOCKADDR_INET`, room for either family.
pub(crate) const SOCKADDR_LEN: usize = 28;

/// `MDL_MAPPED_TO_SYSTEM_VA`.
const MDL_MAPPED: i16 = 1;
/// `MDL_PAGES_LOCKED`.
pub(crate) const MDL_PAGES_LOCKED: i16 = 2;
/// `MDL_SOURCE_IS_NONPAGED_POOL`.
pub(crate) const MDL_NONPAGED: i16 = 4;

/// `WSK_BUF`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Buf {
    pub(crate) mdl: *mut Mdl,
    pub(crate) offset: u32,
    pub(crate) length: usize,
}

/// `WSK_BUF_LIST`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct BufList {
    pub(crate) next: *mut BufList,
    pub(crate) buffer: Buf,
}

/// `WSK_DATAGRAM_INDICATION`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Indication {
    pub(crate) next: *mut Indication,
    pub(crate) buffer: Buf,
    pub(crate) control: *mut u8,
    pub(crate) control_length: u32,
    pub(crate) remote: *mut u8,
}

/// `MDL`, without the page numbers that may follow.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mdl {
    pub(crate) next: *mut Mdl,
    pub(crate) size: i16,
    pub(crate) flags: i16,
    pub(crate) reserved: u32,
    pub(crate) process: u64,
    pub(crate) mapped: *mut u8,
    pub(crate) start: *mut u8,
    pub(crate) byte_count: u32,
    pub(crate) byte_offset: u32,
}

const _: () = {
    assert!(size_of::<Buf>() == 24 && offset_of!(Buf, length) == 16);
    assert!(size_of::<BufList>() == 32);
    assert!(size_of::<Indication>() == 56 && offset_of!(Indication, remote) == 48);
    assert!(size_of::<Mdl>() == 48 && offset_of!(Mdl, mapped) == 24);
    assert!(offset_of!(Mdl, byte_count) == 40);
};

impl Mdl {
    /// An MDL over `length` bytes at `start`, mapped, as over non-paged pool.
    pub(crate) fn over(start: *mut u8, length: usize, mapped: bool) -> Self {
        let byte_offset = start.addr() & 0xFFF;
        let pages = (byte_offset + length).div_ceil(0x1000);
        Self {
            next: std::ptr::null_mut(),
            size: (size_of::<Self>() + 8 * pages.min(17)) as i16,
            flags: if mapped { MDL_NONPAGED } else { MDL_PAGES_LOCKED },
            reserved: 0,
            process: 0,
            mapped: if mapped { start } else { std::ptr::null_mut() },
            start: start.wrapping_sub(byte_offset),
            byte_count: length as u32,
            byte_offset: byte_offset as u32,
        }
    }

    /// Where its bytes are, mapped or not.
    pub(crate) fn address(&self) -> *const u8 {
        if self.flags & (MDL_MAPPED | MDL_NONPAGED) != 0 && !self.mapped.is_null() {
            self.mapped
        } else {
            self.start.wrapping_add(self.byte_offset as usize)
        }
    }
}

/// Reads a value that the driver gave the address of.
///
/// # Safety
///
/// `address` is not null, and either valid for reads of a `T` or a fault there is the driver's.
pub(crate) unsafe fn read<T: Copy>(address: *const T) -> T {
    // SAFETY: the caller's promise; the driver need not align what it packs.
    unsafe { address.read_unaligned() }
}

/// The pieces of a `WSK_BUF`, in order.
pub(crate) struct Pieces<'a> {
    mdl: *mut Mdl,
    skip: usize,
    left: usize,
    lives: std::marker::PhantomData<&'a [u8]>,
}

/// The MDL chain is shorter than the buffer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ShortChain;

impl<'a> Pieces<'a> {
    /// Begins at the first byte of `buffer`, after checking that the chain holds all of it.
    ///
    /// # Safety
    ///
    /// `buffer`'s MDL chain is that of a driver's request that is not completed before `'a` ends.
    pub(crate) unsafe fn of(buffer: &Buf) -> Result<Self, ShortChain> {
        let (mut mdl, mut left) = (buffer.mdl, buffer.offset as usize + buffer.length);
        while left > 0 {
            if mdl.is_null() {
                return Err(ShortChain);
            }
            // SAFETY: not null and, by the caller's promise, of a live chain.
            let header = unsafe { read(mdl) };
            left = left.saturating_sub(header.byte_count as usize);
            mdl = header.next;
        }
        let (skip, left) = (buffer.offset as usize, buffer.length);
        Ok(Self { mdl: buffer.mdl, skip, left, lives: std::marker::PhantomData })
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while self.left > 0 && !self.mdl.is_null() {
            // SAFETY: not null and of the chain that `of` walked.
            let header = unsafe { read(self.mdl) };
            self.mdl = header.next;
            let have = header.byte_count as usize;
            if self.skip >= have {
                self.skip -= have;
                continue;
            }
            let start = header.address().wrapping_add(std::mem::take(&mut self.skip));
            let offset = start.addr() - header.address().addr();
            let length = (have - offset).min(self.left);
            self.left -= length;
            if length == 0 {
                continue;
            }
            // SAFETY: the MDL describes these bytes, and they stay until the request is completed.
            return Some(unsafe { std::slice::from_raw_parts(start, length) });
        }
        None
    }
}

/// Reads a socket address; `None` if its family is neither.
///
/// # Safety
///
/// `address` is not null; a fault there is the driver's.
pub(crate) unsafe fn read_address(address: *const u8) -> Option<SocketAddr> {
    // SAFETY: the caller's promise.
    let family = unsafe { read(address.cast::<u16>()) };
    match family {
        AF_INET => {
            // SAFETY: a SOCKADDR_IN has 16 bytes.
            let bytes: [u8; 8] = unsafe { read(address.cast()) };
            let [_, _, p0, p1, a, b, c, d] = bytes;
            let port = u16::from_be_bytes([p0, p1]);
            Some(SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), port).into())
        }
        AF_INET6 => {
            // SAFETY: a SOCKADDR_IN6 has 28 bytes.
            let bytes: [u8; SOCKADDR_LEN] = unsafe { read(address.cast()) };
            let (head, rest) = bytes.split_first_chunk::<8>()?;
            let (ip, scope) = rest.split_first_chunk::<16>()?;
            let port = u16::from_be_bytes([head[2], head[3]]);
            let flow = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
            let scope = u32::from_le_bytes(scope.try_into().ok()?);
            Some(SocketAddrV6::new(Ipv6Addr::from(*ip), port, flow, scope).into())
        }
        _ => None,
    }
}

/// A socket address as bytes of a `SOCKADDR_INET`.
pub(crate) fn address_bytes(address: SocketAddr) -> [u8; SOCKADDR_LEN] {
    let mut bytes = [0; SOCKADDR_LEN];
    let (family, ip) = bytes.split_at_mut(4);
    let (family, port) = family.split_at_mut(2);
    port.copy_from_slice(&address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            family.copy_from_slice(&AF_INET.to_le_bytes());
            ip[..4].copy_from_slice(&v4.ip().octets());
        }
        SocketAddr::V6(v6) => {
            family.copy_from_slice(&AF_INET6.to_le_bytes());
            ip[..4].copy_from_slice(&v6.flowinfo().to_be_bytes());
            ip[4..20].copy_from_slice(&v6.ip().octets());
            ip[20..].copy_from_slice(&v6.scope_id().to_le_bytes());
        }
    }
    bytes
}

/// An IP address as bytes of a `SOCKADDR_INET` without a port.
pub(crate) fn ip_bytes(address: Option<IpAddr>, ipv6: bool) -> [u8; SOCKADDR_LEN] {
    let unspecified =
        if ipv6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    address_bytes(SocketAddr::new(address.unwrap_or(unspecified), 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back() {
        for text in ["192.0.2.1:51820", "[2001:db8::1%7]:51820", "0.0.0.0:0"] {
            let address: SocketAddr = text.parse().unwrap();
            let bytes = address_bytes(address);
            // SAFETY: 28 bytes, either family.
            assert_eq!(unsafe { read_address(bytes.as_ptr()) }, Some(address));
        }
        // SAFETY: 28 bytes.
        assert_eq!(unsafe { read_address([0; SOCKADDR_LEN].as_ptr()) }, None);
    }

    #[test]
    fn pieces_follow_offset_and_chain() {
        let mut bytes: Vec<u8> = (0..40).collect();
        let base = bytes.as_mut_ptr();
        let mut third = Mdl::over(base.wrapping_add(20), 20, true);
        let mut second =
            Mdl { next: &raw mut third, ..Mdl::over(base.wrapping_add(10), 10, false) };
        let mut first = Mdl { next: &raw mut second, ..Mdl::over(base, 10, true) };
        for (offset, length, expected) in [
            (0_u32, 40_usize, Some(vec![10, 10, 20])),
            (3, 10, Some(vec![7, 3])),
            (15, 6, Some(vec![5, 1])),
            (39, 1, Some(vec![1])),
            (0, 0, Some(vec![])),
            (0, 41, None),
            (40, 1, None),
        ] {
            let buffer = Buf { mdl: &raw mut first, offset, length };
            // SAFETY: the chain lives to the end of the test.
            let pieces = unsafe { Pieces::of(&buffer) };
            let pieces: Option<Vec<&[u8]>> = pieces.ok().map(Iterator::collect);
            let lengths = pieces.as_ref().map(|p| p.iter().map(|piece| piece.len()).collect());
            assert_eq!(lengths, expected, "{offset}+{length}");
            if let Some([head, ..]) = pieces.as_deref() {
                assert_eq!(u32::from(head[0]), offset);
            }
        }
    }
}
