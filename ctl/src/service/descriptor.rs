//! Security descriptors as Windows gives them, self-relative: who owns an object, and who may do what with it.
//!
//! Source: [MS-DTYP] 2.4.2 SID, 2.4.4 ACE, 2.4.5 ACL, 2.4.6 SECURITY_DESCRIPTOR.

use std::fmt;

use sha1::{Digest, Sha1};

/// SE_DACL_PRESENT, of a descriptor's control.
const DACL_PRESENT: u16 = 4;
/// INHERIT_ONLY_ACE: it is not for the object itself.
const INHERIT_ONLY: u8 = 8;
/// The most parts that a SID has behind its authority.
const PARTS_MAX: usize = 15;

/// Whom rights are given: an account or a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sid {
    authority: u64,
    parts: Vec<u32>,
}

impl Sid {
    /// One of NT's own (`S-1-5-...`).
    #[must_use]
    pub fn nt(parts: &[u32]) -> Self {
        Self { authority: 5, parts: parts.to_vec() }
    }

    /// The one that Windows makes of a service's name, which is of ASCII here: `NT SERVICE\NAME`.
    ///
    /// Source: [MS-DTYP] 2.4.2.4, S-1-5-80; `sc showsid`.
    #[must_use]
    pub fn of_service(name: &str) -> Self {
        let units = name.encode_utf16().map(|unit| match unit {
            0x61..=0x7A => unit - 0x20,
            _ => unit,
        });
        let bytes: Vec<u8> = units.flat_map(u16::to_le_bytes).collect();
        let digest = Sha1::digest(bytes);
        let words = digest.as_slice().as_chunks::<4>().0.iter();
        let parts = [80].into_iter().chain(words.map(|word| u32::from_le_bytes(*word)));
        Self { authority: 5, parts: parts.collect() }
    }

    /// Its bytes, as Windows has them.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let [_, _, authority @ ..] = self.authority.to_be_bytes();
        let mut bytes = vec![1, u8::try_from(self.parts.len()).unwrap_or_default()];
        bytes.extend(authority);
        bytes.extend(self.parts.iter().flat_map(|part| part.to_le_bytes()));
        bytes
    }

    /// Reads one at the front of `bytes`.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[1, count, a, b, c, d, e, f], rest) = bytes.split_first_chunk()? else {
            return None;
        };
        let count = usize::from(count);
        let parts = rest.get(..4 * count).filter(|_| count <= PARTS_MAX)?.as_chunks::<4>().0;
        Some(Self {
            authority: u64::from_be_bytes([0, 0, a, b, c, d, e, f]),
            parts: parts.iter().map(|part| u32::from_le_bytes(*part)).collect(),
        })
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S-1-{}", self.authority)?;
        self.parts.iter().try_for_each(|part| write!(f, "-{part}"))
    }
}

/// Rights that an entry gives on the object itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// To whom.
    pub to: Sid,
    /// Which: an access mask.
    pub rights: u32,
}

/// What is looked at of a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Who owns the object.
    pub owner: Sid,
    /// What is given; none where there is no list, and everybody may do everything. What entries deny is left out: it only takes away.
    pub grants: Option<Vec<Grant>>,
}

impl Descriptor {
    /// Reads a self-relative descriptor; none if it has no owner or an entry of a kind that is not known.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let control = u16::from_le_bytes(field(bytes, 2)?);
        let at = |offset| Some(u32::from_le_bytes(field(bytes, offset)?) as usize);
        let (owner, dacl) = (at(4)?, at(16)?);
        if owner == 0 {
            return None;
        }
        let grants = if control & DACL_PRESENT == 0 || dacl == 0 {
            None
        } else {
            Some(grants(bytes.get(dacl..)?)?)
        };
        Some(Self { owner: Sid::parse(bytes.get(owner..)?)?, grants })
    }
}

fn field<const LEN: usize>(bytes: &[u8], at: usize) -> Option<[u8; LEN]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// What the entries of an access control list give.
fn grants(list: &[u8]) -> Option<Vec<Grant>> {
    let len = usize::from(u16::from_le_bytes(field(list, 2)?));
    let count = u16::from_le_bytes(field(list, 4)?);
    let mut rest = list.get(8..len)?;
    let mut grants = Vec::new();
    for _ in 0..count {
        let [kind, flags] = field(rest, 0)?;
        let len = usize::from(u16::from_le_bytes(field(rest, 2)?));
        let (entry, behind) = rest.split_at_checked(len)?;
        rest = behind;
        let sid = match kind {
            // ACCESS_ALLOWED, and the same under a condition.
            0x00 | 0x09 => entry.get(8..)?,
            // The same of an object: flags, and up to two GUIDs before the SID.
            0x05 | 0x0B => {
                let guids = (u32::from_le_bytes(field(entry, 8)?) & 3).count_ones() as usize;
                entry.get(12 + 16 * guids..)?
            }
            // ACCESS_DENIED, of an object, and each under a condition.
            0x01 | 0x06 | 0x0A | 0x0C => continue,
            _ => return None,
        };
        let grant = Grant { to: Sid::parse(sid)?, rights: u32::from_le_bytes(field(entry, 4)?) };
        if flags & INHERIT_ONLY == 0 {
            grants.push(grant);
        }
    }
    Some(grants)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An entry: its kind, its flags, and what it gives to whom.
    pub(crate) type Entry<'a> = (u8, u8, u32, &'a [u32]);

    /// The descriptor of an object that `owner` owns.
    pub(crate) fn descriptor(owner: &[u32], entries: Option<&[Entry<'_>]>) -> Vec<u8> {
        let control: u16 = if entries.is_some() { 0x8004 } else { 0x8000 };
        let owner = Sid::nt(owner).bytes();
        let mut bytes = vec![1, 0];
        bytes.extend(control.to_le_bytes());
        let dacl = if entries.is_some() { 20 + owner.len() as u32 } else { 0 };
        for offset in [20, 0, 0, dacl] {
            bytes.extend(offset.to_le_bytes());
        }
        bytes.extend(owner);
        if let Some(entries) = entries {
            let mut list = Vec::new();
            for (kind, flags, rights, to) in entries {
                let mut body = rights.to_le_bytes().to_vec();
                if *kind == 5 {
                    body.extend([1, 0, 0, 0]);
                    body.extend([7; 16]);
                }
                body.extend(Sid::nt(to).bytes());
                list.extend([*kind, *flags]);
                list.extend((4 + body.len() as u16).to_le_bytes());
                list.extend(body);
            }
            bytes.extend([2, 0]);
            bytes.extend((8 + list.len() as u16).to_le_bytes());
            bytes.extend((entries.len() as u16).to_le_bytes());
            bytes.extend([0, 0]);
            bytes.extend(list);
        }
        bytes
    }

    const SYSTEM: &[u32] = &[18];
    const USERS: &[u32] = &[32, 545];

    /// Names and SIDs that every Windows has, as `sc showsid` tells them.
    #[test]
    fn a_service_has_the_sid_of_its_name() {
        for (name, sid) in [
            ("TrustedInstaller", "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"),
            ("trustedinstaller", "S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464"),
            ("WdiServiceHost", "S-1-5-80-3139157870-2983391045-3678747466-658725712-1809340420"),
        ] {
            let of_name = Sid::of_service(name);
            assert_eq!(of_name.to_string(), sid, "{name}");
            assert_eq!(Sid::parse(&of_name.bytes()), Some(of_name));
        }
        assert_ne!(Sid::of_service("PenstockTunnel$a"), Sid::of_service("PenstockTunnel$b"));
    }

    #[test]
    fn what_is_given_is_read_and_what_is_denied_or_inherited_is_not() {
        let entries: &[Entry<'_>] = &[
            (1, 0, 2, USERS),
            (0, 0, 0x1F_01FF, SYSTEM),
            (0, INHERIT_ONLY, 2, USERS),
            (5, 0, 1, USERS),
            (9, 0, 4, USERS),
        ];
        let read = Descriptor::parse(&descriptor(SYSTEM, Some(entries))).unwrap();
        assert_eq!(read.owner.to_string(), "S-1-5-18");
        let grants: Vec<_> =
            read.grants.unwrap().iter().map(|grant| (grant.to.to_string(), grant.rights)).collect();
        let users = "S-1-5-32-545".to_owned();
        assert_eq!(grants, [("S-1-5-18".to_owned(), 0x1F_01FF), (users.clone(), 1), (users, 4)]);
        assert_eq!(Descriptor::parse(&descriptor(SYSTEM, None)).unwrap().grants, None);
        let nobody = Descriptor::parse(&descriptor(SYSTEM, Some(&[]))).unwrap();
        assert_eq!(nobody.grants, Some(vec![]));
    }

    /// However it is cut or changed, it is read or not, and no more.
    #[test]
    fn what_is_no_descriptor_is_none() {
        let whole = descriptor(SYSTEM, Some(&[(0, 0, 3, USERS), (5, 0, 1, USERS)]));
        for len in 0..whole.len() {
            assert_eq!(Descriptor::parse(&whole[..len]), None, "{len}");
        }
        assert_eq!(Descriptor::parse(&descriptor(SYSTEM, Some(&[(0x13, 0, 3, USERS)]))), None);
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut changed = whole.clone();
                changed[at] ^= 1 << bit;
                let _ = Descriptor::parse(&changed);
            }
        }
    }
}
