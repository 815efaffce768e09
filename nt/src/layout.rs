//! How the standard library lays out what a debugger wants to read, where it does not tell.
//!
//! Of a socket address it is known when this is compiled, or this is not compiled; of a vector when the driver is loaded.

use alloc::vec::Vec;
use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use abi::descriptor::Places;

use crate::status::NtError;

/// The byte at `at` of a value, when it is compiled.
///
/// # Safety
///
/// The byte is inside the value, and initialised. (The compiler, which evaluates it, refuses anything else.)
#[must_use]
pub const unsafe fn byte_of<T>(value: &T, at: usize) -> u8 {
    // SAFETY: inside the value, as the caller says.
    let byte = unsafe { core::ptr::from_ref(value).cast::<u8>().add(at) };
    // SAFETY: initialised, as the caller says.
    unsafe { byte.read() }
}

/// What a socket address is, and where its parts are.
struct Address;

impl Address {
    /// 0 is IPv4, 1 is IPv6, and none is any other. The ports are in the byte order of this machine.
    const KIND: usize = 0;
    const V4_ADDRESS: usize = 2;
    const V4_PORT: usize = 6;
    const V6_ADDRESS: usize = 4;
    const V6_PORT: usize = 28;
    const PLACES: Places = abi::places!(
        "SocketAddr",
        kind = Self::KIND,
        v4_address = Self::V4_ADDRESS,
        v4_port = Self::V4_PORT,
        v6_address = Self::V6_ADDRESS,
        v6_port = Self::V6_PORT,
    );
}

/// For a debugger: where a socket address keeps what.
pub const SOCKET_ADDRESS: Places = Address::PLACES;
/// The same, for who asserts what a type with one inside makes of the first byte.
pub const SOCKET_ADDRESS_KIND: usize = Address::KIND;

const _: () = {
    let v4 = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(1, 2, 3, 4), 0x0506));
    let segments = Ipv6Addr::new(0x0102, 0x0304, 0x0506, 0x0708, 0x090A, 0x0B0C, 0x0D0E, 0x0F10);
    let v6 = SocketAddr::V6(SocketAddrV6::new(segments, 0x1112, 0, 0));
    let expected = [
        (&v4, Address::KIND, 0),
        (&v6, Address::KIND, 1),
        (&v4, Address::V4_ADDRESS, 1),
        (&v4, Address::V4_ADDRESS + 3, 4),
        (&v4, Address::V4_PORT, 6),
        (&v4, Address::V4_PORT + 1, 5),
        (&v6, Address::V6_ADDRESS, 1),
        (&v6, Address::V6_ADDRESS + 15, 16),
        (&v6, Address::V6_PORT, 0x12),
        (&v6, Address::V6_PORT + 1, 0x11),
    ];
    let mut at = 0;
    while at < expected.len() {
        let (address, place, byte) = expected[at];
        // SAFETY: the compiler refuses to read what is not initialised.
        assert!(unsafe { byte_of(address, place) } == byte);
        at += 1;
    }
};

/// In which of a vector's three words its elements' address is, and in which their number.
///
/// # Errors
///
/// [`NtError::INSUFFICIENT_RESOURCES`]; [`NtError::NOT_SUPPORTED`] if it cannot be told.
///
/// # IRQL
///
/// `<= DISPATCH_LEVEL`.
pub fn vector_words() -> Result<[u32; 2], NtError> {
    const WORDS: usize = size_of::<Vec<u64>>() / size_of::<usize>();
    const { assert!(size_of::<Vec<u64>>() == 3 * size_of::<usize>()) };
    let mut sample: Vec<u64> = Vec::new();
    sample.try_reserve_exact(3).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
    sample.push(0);
    let words = core::ptr::from_ref(&sample).cast::<[usize; WORDS]>();
    // SAFETY: a vector is as large and as aligned as these words, of which none is padding: pointer, capacity and length.
    let words = unsafe { words.read() };
    let find = |value: usize| words.iter().position(|word| *word == value);
    let (Some(address), Some(length)) = (find(sample.as_ptr().addr()), find(sample.len())) else {
        return Err(NtError::NOT_SUPPORTED);
    };
    Ok([address as u32, length as u32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_found_out() {
        let [address, length] = vector_words().unwrap();
        assert!(address < 3 && length < 3 && address != length);
    }
}
