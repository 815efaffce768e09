//! What the driver adds to the machine's dump: some of its memory, each part with its address.
//!
//! It is the dump's secondary data under [`GUID`] (WinDbg: `.enumtag`), so it is in dumps of every size:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | [`MAGIC`] |
//! | 4 | [`VERSION`] |
//! | 4 | how many parts there are |
//! | 16 each | a part's address, and its bytes |
//! | the rest | the parts, one after the other |
//!
//! A part is what a debugger would read at that address: the [descriptor](crate::descriptor), what it leads to and the
//! [flight recorder](crate::events). No key is among them.

/// Under what the data are: `{8E0F3F70-2D3B-4B57-9C7A-5C1B8E0A6D41}`, as memory has it.
pub const GUID: [u8; 16] = [
    0x70, 0x3F, 0x0F, 0x8E, 0x3B, 0x2D, 0x57, 0x4B, 0x9C, 0x7A, 0x5C, 0x1B, 0x8E, 0x0A, 0x6D, 0x41,
];
/// What they begin with.
pub const MAGIC: [u8; 8] = *b"PENSDUMP";
/// Of this layout.
pub const VERSION: u32 = 1;
/// Bytes before the first part's address.
pub const HEAD: usize = 16;
/// Bytes of a part's address and length.
pub const ENTRY: usize = 16;

/// The parts: where each was, and its bytes. `None` if the data are none of ours, or cut off.
#[must_use]
pub fn parts(data: &[u8]) -> Option<impl Iterator<Item = (u64, &[u8])>> {
    let (magic, rest) = data.split_first_chunk::<8>()?;
    let (version, rest) = rest.split_first_chunk::<4>()?;
    let (count, rest) = rest.split_first_chunk::<4>()?;
    if (*magic, u32::from_le_bytes(*version)) != (MAGIC, VERSION) {
        return None;
    }
    let entries = (u32::from_le_bytes(*count) as usize).checked_mul(ENTRY)?;
    let (entries, mut bytes) = rest.split_at_checked(entries)?;
    let all = entries.as_chunks::<8>().0.as_chunks::<2>().0;
    let mut total = 0_u64;
    for [_, length] in all {
        total = total.checked_add(u64::from_le_bytes(*length))?;
    }
    if total > bytes.len() as u64 {
        return None;
    }
    Some(all.iter().map(move |[at, length]| {
        let (part, rest) =
            bytes.split_at_checked(u64::from_le_bytes(*length) as usize).unwrap_or((&[], bytes));
        bytes = rest;
        (u64::from_le_bytes(*at), part)
    }))
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn parts_are_read_and_what_is_cut_off_is_not() {
        let mut data = Vec::from(MAGIC);
        data.extend([VERSION, 2].map(u32::to_le_bytes).concat());
        data.extend([0x1000, 3, 0x2000, 1_u64].map(u64::to_le_bytes).concat());
        data.extend(b"abcd");
        let read: Vec<(u64, Vec<u8>)> =
            parts(&data).unwrap().map(|(at, bytes)| (at, bytes.to_vec())).collect();
        assert_eq!(read, [(0x1000, b"abc".to_vec()), (0x2000, b"d".to_vec())]);
        for cut in 0..data.len() {
            assert!(parts(&data[..cut]).is_none(), "{cut} bytes");
        }
        data[40] = 0xFF;
        assert!(parts(&data).is_none(), "a length that is not there");
    }
}
