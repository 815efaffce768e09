//! A driver's catalog: the list of a package's files by their hashes, which is what is signed of them all.
//!
//! Inf2Cat makes them on Windows; Microsoft makes its own of what is submitted, so ours is for test signing. It is laid out
//! as Inf2Cat lays its out: a certificate trust list in an unsigned PKCS #7 envelope, two members a file (SHA-256, and SHA-1
//! by which older tools look), and attributes that say which Windows and which devices it is for. A signer puts its
//! signature into the envelope.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/install/catalog-files>; the layout was read from
//! published catalogs. No Windows has judged one of ours.

use std::ops::Range;

use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::stamp::Date;

/// `szOID_CTL`, what is in the envelope.
const TRUST_LIST: &[u32] = &[1, 3, 6, 1, 4, 1, 311, 10, 1];
/// `szOID_CATALOG_LIST`
const CATALOG_LIST: &[u32] = &[1, 3, 6, 1, 4, 1, 311, 12, 1, 1];
/// `szOID_CATALOG_LIST_MEMBER2`: members are found by SHA-256.
const CATALOG_MEMBER: &[u32] = &[1, 3, 6, 1, 4, 1, 311, 12, 1, 3];
/// `CAT_NAMEVALUE_OBJID`
const NAME_VALUE: &[u32] = &[1, 3, 6, 1, 4, 1, 311, 12, 2, 1];
/// `CAT_MEMBERINFO2_OBJID`
const MEMBER_INFO: &[u32] = &[1, 3, 6, 1, 4, 1, 311, 12, 2, 3];
/// `SPC_INDIRECT_DATA_OBJID`
const INDIRECT_DATA: &[u32] = &[1, 3, 6, 1, 4, 1, 311, 2, 1, 4];
/// `SPC_PE_IMAGE_DATA_OBJID`
const IMAGE_DATA: &[u32] = &[1, 3, 6, 1, 4, 1, 311, 2, 1, 15];
/// `SPC_CAB_DATA_OBJID`, which stands for any file that is no image.
const FILE_DATA: &[u32] = &[1, 3, 6, 1, 4, 1, 311, 2, 1, 25];
/// PKCS #7's signed data.
const SIGNED_DATA: &[u32] = &[1, 2, 840, 113_549, 1, 7, 2];
/// SHA-256.
const SHA_256: &[u32] = &[2, 16, 840, 1, 101, 3, 4, 2, 1];

/// An attribute that is a text and is authenticated (`CRYPTCAT_ATTR_AUTHENTICATED`, `_NAMEASCII`, `_DATAASCII`).
const ATTRIBUTE: u32 = 0x1001_0001;
/// The same, of the whole catalog and not replaceable.
const PE_TRUSTED: u32 = 0x1_0001;

/// A file of the package.
pub struct Member<'a> {
    /// Its name, without a folder.
    pub name: &'a str,
    /// What is in it.
    pub bytes: &'a [u8],
}

/// The catalog of these files, for devices with these hardware IDs, unsigned; `seconds` since 1970 it was made.
#[must_use]
pub fn catalog(members: &[Member<'_>], hardware_ids: &[String], seconds: u64) -> Vec<u8> {
    let mut identifier = Sha256::new();
    let mut listed: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    for Member { name, bytes } in members {
        let name = name.to_ascii_lowercase();
        let hash = hashed::<Sha256>(bytes);
        identifier.update(&hash);
        listed.push((hash.clone(), member(&name, &hash, Some(image_ranges(bytes).is_some()))));
        let hash = hashed::<Sha1>(bytes);
        listed.push((hash.clone(), member(&name, &hash, None)));
    }
    listed.sort();
    let listed: Vec<Vec<u8>> = listed.into_iter().map(|(_, member)| member).collect();
    let identifier = identifier.finalize();
    let mut attributes =
        vec![attribute("PE", PE_TRUSTED, "TRUSTED"), attribute("OS", ATTRIBUTE, "_v100_X64")];
    for (number, id) in hardware_ids.iter().enumerate().rev() {
        let name = format!("HWID{}", number + 1);
        attributes.push(attribute(&name, ATTRIBUTE, &id.to_ascii_lowercase()));
    }
    let list = sequence(&[
        sequence(&[object(CATALOG_LIST)]),
        tagged(0x04, identifier.get(..16).unwrap_or_default()),
        tagged(0x17, utc_time(seconds).as_bytes()),
        sequence(&[object(CATALOG_MEMBER), tagged(0x05, &[])]),
        sequence(&listed),
        tagged(0xa0, &sequence(&attributes)),
    ]);
    let inner = sequence(&[object(TRUST_LIST), tagged(0xa0, &list)]);
    let signed = sequence(&[tagged(0x02, &[1]), tagged(0x31, &[]), inner, tagged(0x31, &[])]);
    sequence(&[object(SIGNED_DATA), tagged(0xa0, &signed)])
}

/// The SHA-256 that a catalog has of a file, as hexadecimal digits.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    hashed::<Sha256>(bytes).iter().map(|byte| format!("{byte:02X}")).collect()
}

/// A member; `image` says what it is a hash of, where that is said.
fn member(name: &str, hash: &[u8], image: Option<bool>) -> Vec<u8> {
    let named =
        |key, value| sequence(&[object(NAME_VALUE), set(vec![name_value(key, ATTRIBUTE, value)])]);
    let mut attributes = vec![
        sequence(&[object(MEMBER_INFO), set(vec![tagged(0x82, &[])])]),
        named("File", name),
        named("OSAttr", "2:10.0"),
    ];
    if let Some(is_image) = image {
        // Where the data would be, and is not.
        let link = tagged(0xa2, &tagged(0x80, &[]));
        let of = if is_image {
            let no_flags = tagged(0x03, &[5, 0xa0]);
            sequence(&[object(IMAGE_DATA), sequence(&[no_flags, tagged(0xa0, &link)])])
        } else {
            sequence(&[object(FILE_DATA), link])
        };
        let digest =
            sequence(&[sequence(&[object(SHA_256), tagged(0x05, &[])]), tagged(0x04, hash)]);
        let indirect = set(vec![sequence(&[of, digest])]);
        attributes.push(sequence(&[object(INDIRECT_DATA), indirect]));
    }
    sequence(&[tagged(0x04, hash), set(attributes)])
}

fn attribute(name: &str, flags: u32, value: &str) -> Vec<u8> {
    sequence(&[object(NAME_VALUE), tagged(0x04, &name_value(name, flags, value))])
}

/// `CatNameValue`: a name, flags, and a text in UTF-16 with a zero at its end.
fn name_value(name: &str, flags: u32, value: &str) -> Vec<u8> {
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_be_bytes).collect();
    let value: Vec<u8> = value.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect();
    sequence(&[tagged(0x1e, &name), integer(flags), tagged(0x04, &value)])
}

/// The hash of a file: of an image what Authenticode counts, of others all.
fn hashed<D: Digest>(bytes: &[u8]) -> Vec<u8> {
    let Some(ranges) = image_ranges(bytes) else { return D::digest(bytes).to_vec() };
    let mut hash = D::new();
    ranges.into_iter().filter_map(|range| bytes.get(range)).for_each(|piece| hash.update(piece));
    // Signing pads an image to eight bytes.
    let beyond = bytes.len() % 8;
    if beyond != 0 {
        hash.update([0_u8; 8].get(beyond..).unwrap_or_default());
    }
    hash.finalize().to_vec()
}

/// What of an image is hashed: all but its checksum, the place of its signature, and the signature. None, if it is none.
///
/// Source: <https://learn.microsoft.com/windows/win32/debug/pe-format>, "Process for Generating the Authenticode PE Image Hash".
fn image_ranges(bytes: &[u8]) -> Option<[Range<usize>; 4]> {
    let short = |at: usize| {
        let two = bytes.get(at..at.checked_add(2)?)?;
        Some(usize::from(u16::from_le_bytes(two.try_into().ok()?)))
    };
    let long = |at: usize| Some(short(at)? | short(at.checked_add(2)?)? << 16);
    let header = bytes.starts_with(b"MZ").then(|| long(0x3c))??;
    if bytes.get(header..header.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    let optional = header + 24;
    let directories = optional + if short(optional)? == 0x20b { 112 } else { 96 };
    let (checksum, security) = (optional + 64, directories + 32);
    let (signature, length) = (long(security)?, long(security + 4)?);
    let end = if signature == 0 { bytes.len() } else { signature };
    let rest = if signature == 0 { end } else { signature.checked_add(length)? };
    (security + 8 <= end && rest <= bytes.len()).then_some([
        0..checksum,
        checksum + 4..security,
        security + 8..end,
        rest..bytes.len(),
    ])
}

/// `YYMMDDhhmmssZ`
fn utc_time(seconds: u64) -> String {
    let (Date { year, month, day }, second) = (Date::of(seconds), seconds % 86_400);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    format!("{:02}{month:02}{day:02}{hour:02}{minute:02}{:02}Z", year % 100, second % 60)
}

// DER: a tag, a length, and what is in it.

fn tagged(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut coded = vec![tag];
    match u8::try_from(body.len()) {
        Ok(short @ ..0x80) => coded.push(short),
        _ => {
            let length = without_zeros(&body.len().to_be_bytes());
            coded.push(0x80 | length.len() as u8);
            coded.extend(length);
        }
    }
    coded.extend(body);
    coded
}

fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tagged(0x30, &parts.concat())
}

/// What is in a set is in the order of its bytes.
fn set(mut parts: Vec<Vec<u8>>) -> Vec<u8> {
    parts.sort();
    tagged(0x31, &parts.concat())
}

/// A number that is not negative: its first bit is none of its own.
fn integer(value: u32) -> Vec<u8> {
    let mut bytes = without_zeros(&value.to_be_bytes());
    if bytes.first().is_none_or(|first| first & 0x80 != 0) {
        bytes.insert(0, 0);
    }
    tagged(0x02, &bytes)
}

fn without_zeros(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().copied().skip_while(|byte| *byte == 0).collect()
}

/// An object identifier: its first two numbers in one byte, the others in groups of seven bits.
fn object(numbers: &[u32]) -> Vec<u8> {
    let [first, second, rest @ ..] = numbers else { return tagged(0x06, &[]) };
    let mut body = vec![(first * 40 + second) as u8];
    for number in rest {
        let groups =
            (1..5).rev().map(|group| (number >> (7 * group)) as u8).map(|bits| bits & 0x7f);
        body.extend(groups.skip_while(|bits| *bits == 0).map(|bits| bits | 0x80));
        body.push((number & 0x7f) as u8);
    }
    tagged(0x06, &body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// An image of 64 bytes of headers' room and some text; signed, if there is a signature.
    fn image(text: &[u8], signature: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0_u8; 512];
        bytes[..2].copy_from_slice(b"MZ");
        bytes[0x3c] = 0x80;
        bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
        bytes[0x98..0x9a].copy_from_slice(&0x20b_u16.to_le_bytes());
        bytes.extend(text);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        if !signature.is_empty() {
            let security = 0x98 + 112 + 32;
            let (at, length) = (bytes.len() as u32, signature.len() as u32);
            bytes[security..security + 4].copy_from_slice(&at.to_le_bytes());
            bytes[security + 4..security + 8].copy_from_slice(&length.to_le_bytes());
            bytes.extend(signature);
            // And its checksum, which is then another.
            bytes[0x98 + 64] = 7;
        }
        bytes
    }

    #[test]
    fn the_hash_of_an_image_is_the_same_signed_and_unsigned() {
        let plain = digest(&image(b"text", b""));
        assert_eq!(digest(&image(b"text", b"signature of 24 bytes..x")), plain);
        assert_ne!(digest(&image(b"test", b"")), plain);
        // Before it is signed, an image need not be a multiple of eight bytes long.
        let mut short = image(b"text", b"");
        short.truncate(516);
        assert_eq!(digest(&short), plain);
    }

    #[test]
    fn the_hash_of_another_file_is_of_all_of_it() {
        assert!(digest(b"abc").starts_with("BA7816BF8F01CFEA"));
    }

    #[test]
    fn der_is_coded_in_the_one_way() {
        assert_eq!(object(SIGNED_DATA), [6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 2]);
        assert_eq!(integer(0x1001_0001), [2, 4, 0x10, 1, 0, 1]);
        assert_eq!((integer(0), integer(0x80)), (vec![2, 1, 0], vec![2, 2, 0, 0x80]));
        assert_eq!(tagged(4, &[0; 0x80])[..3], [4, 0x81, 0x80]);
        assert_eq!(tagged(4, &[0; 0x1234])[..4], [4, 0x82, 0x12, 0x34]);
        assert_eq!(utc_time(951_868_799), "000229235959Z");
    }

    proptest! {
        /// Any bytes behind the first two of an image have a hash.
        #[test]
        fn any_file_has_a_hash(bytes in proptest::collection::vec(any::<u8>(), 0..600), header in 0_u8..255) {
            let mut bytes = bytes;
            for (at, byte) in [(0, b'M'), (1, b'Z'), (0x3c, header), (usize::from(header), b'P')] {
                if let Some(place) = bytes.get_mut(at) { *place = byte; }
            }
            let _ = digest(&bytes);
        }
    }
}
