//! Cryptokey routing: which peer an inner address belongs to.
//!
//! One hash table of prefixes, of both families and all lengths. A look-up masks the address to each
//! length that any prefix has; the longest that is found is the answer. How many lengths there are is the
//! administrator's choice, and seldom more than three of a family. Eight bits of the hash of each of the slots of a
//! *group* are in one word, so that what is not there is seen there, and memory is asked for one slot, the
//! answer's. Words are a thirtieth of the whole, and stay in caches that the slots do not. Where they are does not
//! depend on what is found, so a look-up asks memory for all of its words at once, and several
//! look-ups wait for their words, and then for their slots, together ([`AllowedIps::lookup_all`]).
//!
//! A prefix lies in the group that its hash says, or in one of those behind if that was full. Each group
//! counts who went past it, and where nobody did a search ends. Nothing ever moves, so that the links of an owner's list stay
//! right: by it his prefixes can be read back, in the order they were added, and removed without a look at the others.
//!
//! Room is made beforehand, by `reserve`, or in steps for which readers need not wait, by [`Growth`];
//! after that adding cannot fail.
//!
//! Owners are numbers; the tunnel's table maps them to peers. Callers hold the table's lock. [WG
//! §2]

use alloc::vec::Vec;
use core::{
    hint::select_unpredictable,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::sync::prefetch;

mod growth;

pub use growth::{Growth, Room};

/// A masked prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    address: IpAddr,
    cidr: u8,
}

impl Prefix {
    /// The prefix of `address` that is `cidr` bits long; `None` if the address is shorter.
    // spec: WG 2-d — host bits are masked off.
    #[must_use]
    pub fn new(address: IpAddr, cidr: u8) -> Option<Self> {
        let (family, key) = key_of(address);
        (cidr <= family.bits())
            .then(|| Self { address: address_of(family, key & mask(cidr)), cidr })
    }

    /// The network's address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The length in bits.
    #[must_use]
    pub fn cidr(&self) -> u8 {
        self.cidr
    }

    fn parts(&self) -> (Kind, u128) {
        let (family, key) = key_of(self.address);
        (Kind::new(family, self.cidr), key)
    }
}

/// Who owns prefixes: a slot of the tunnel's table.
pub type Owner = u32;

/// All prefixes of one tunnel.
#[derive(Default)]
pub struct AllowedIps {
    groups: Vec<Group>,
    /// [`SLOTS`] of each group.
    slots: Vec<Slot>,
    len: usize,
    /// First and last of each owner's list.
    owners: Vec<[Link; 2]>,
    /// The lengths that prefixes of each family have, the longest first.
    lengths: [Vec<Length>; 2],
}

/// A position among the slots, or [`NONE`].
type Link = u32;
const NONE: Link = u32::MAX;

/// What is known of the slots of a group without looking at them: of each a *tag*, a byte of its prefix's hash, or 0
/// if it is empty; and in the lowest byte how many prefixes would be in this group or one before, and are in one behind.
/// What does not fit there stays that many.
#[derive(Clone, Copy)]
struct Group(u64);

/// Slots of a group.
const SLOTS: usize = 7;
/// The share of slots that may be taken, as a fraction. A search ends in its first word but for one in six.
const FULL: [usize; 2] = [3, 4];
/// The share that are when room is made. So an eighth more prefixes come before there is more again.
const FILLED: [usize; 2] = [2, 3];

impl Group {
    const EMPTY: Self = Self(0);
    const PAST: u64 = 0xFF;
    const ONES: u64 = u64::MAX / 0xFF;

    /// The slots that have this tag, as the highest bits of their bytes.
    #[inline]
    fn with(self, tag: u8) -> u64 {
        let differs = self.0 ^ Self::ONES.wrapping_mul(tag.into());
        let low = Self::ONES.wrapping_mul(0x7F);
        !((differs & low).wrapping_add(low) | differs | low) & !Self::PAST
    }

    /// Whether a search ends here.
    #[inline]
    fn is_last(self) -> bool {
        self.0 & Self::PAST == 0
    }

    /// Sets the tag of a slot.
    fn set(&mut self, slot: usize, tag: u8) {
        let shift = shift(slot);
        self.0 = self.0 & !(0xFF << shift) | u64::from(tag) << shift;
    }

    /// Counts one that went past.
    fn add_past(&mut self) {
        self.0 = self.0.saturating_add((self.0 & Self::PAST != Self::PAST).into());
    }

    /// Counts one less.
    fn take_past(&mut self) {
        let counts = self.0 & Self::PAST != Self::PAST && !self.is_last();
        self.0 = self.0.saturating_sub(counts.into());
    }
}

/// Where a slot's byte is in its group's word, in bits.
fn shift(slot: usize) -> u32 {
    (slot as u32).wrapping_add(1).wrapping_mul(8) & 63
}

/// The slot of the first of some bytes.
fn first_slot(bytes: u64) -> usize {
    (bytes.trailing_zeros() / 8).wrapping_sub(1) as usize
}

/// A prefix and its place in its owner's list; or nothing, if it has no owner.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Slot {
    /// The address, its first bit the most significant.
    key: u128,
    owner: Owner,
    before: Link,
    behind: Link,
    kind: Kind,
}

// In one cache line.
const _: () = assert!(size_of::<Slot>() == 32);

impl Slot {
    const EMPTY: Self = Self { key: 0, owner: NONE, before: NONE, behind: NONE, kind: Kind::NONE };

    fn is(&self, kind: Kind, key: u128) -> bool {
        self.key == key && self.kind == kind
    }

    fn prefix(&self) -> Prefix {
        Prefix { address: address_of(self.kind.family(), self.key), cidr: self.kind.cidr() }
    }
}

/// Where a prefix is, if there is room, and its tag.
#[derive(Clone, Copy)]
struct Home {
    group: u32,
    tag: u8,
}

/// What prefixes of a length have in common: their family and that length.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kind(u16);

impl Kind {
    /// No prefix's.
    const NONE: Self = Self(u16::MAX);

    fn new(family: Family, cidr: u8) -> Self {
        Self((family as u16) << 8 | u16::from(cidr))
    }

    fn family(self) -> Family {
        if self.0 >> 8 == Family::V4 as u16 { Family::V4 } else { Family::V6 }
    }

    fn cidr(self) -> u8 {
        self.0 as u8
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

/// A length that prefixes have.
#[derive(Clone, Copy)]
struct Length {
    mask: u128,
    kind: Kind,
    /// How many have it.
    count: u32,
}

/// Lengths that are looked for at once; others after them, one by one.
const AT_ONCE: usize = 4;

/// Where an address is looked for.
#[derive(Clone, Copy)]
struct Asked {
    family: Family,
    key: u128,
    /// Of the first of the lengths.
    homes: [Home; AT_ONCE],
    /// Those of them that their groups say may be there, or behind, from the lowest bit.
    candidates: u32,
}

impl Asked {
    const NOTHING: Self = Self {
        family: Family::V4,
        key: 0,
        homes: [Home { group: 0, tag: 0 }; AT_ONCE],
        candidates: 0,
    };
}

/// Random numbers. They need not be secret, as prefixes are the administrator's, and an address of somebody
/// else's that hashes as one of them costs a look-up no more than another.
const HASH_WORDS: [u64; 3] = [0x9E37_79B9_7F4A_7C15, 0xD1B5_4A32_D192_ED03, 0xAEF1_7502_108E_F2D9];

impl AllowedIps {
    /// No prefix, no memory.
    #[must_use]
    pub const fn new() -> Self {
        let lengths = [Vec::new(), Vec::new()];
        Self { groups: Vec::new(), slots: Vec::new(), len: 0, owners: Vec::new(), lengths }
    }

    /// The owner of the longest prefix that covers `address`.
    // spec: WG 2-a, WG 2-f
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<Owner> {
        let [owner] = self.lookup_all(&[address]);
        owner
    }

    /// The same for the first `N` of some addresses, which take hardly longer together than one does alone.
    // spec: WG 2-a, WG 2-f
    #[must_use]
    pub fn lookup_all<const N: usize>(&self, addresses: &[IpAddr]) -> [Option<Owner>; N] {
        let mut asked = [Asked::NOTHING; N];
        for (asked, address) in asked.iter_mut().zip(addresses) {
            self.ask(asked, *address);
        }
        let asked = asked.get_mut(..addresses.len().min(N)).unwrap_or_default();
        for asked in &mut *asked {
            self.choose(asked);
        }
        let mut owners = [None; N];
        for (owner, asked) in owners.iter_mut().zip(&*asked) {
            let found = self.find_asked(asked);
            *owner = found.and_then(|at| self.slot(at)).map(|slot| slot.owner);
        }
        owners
    }

    /// Has memory fetch the words of an address's groups.
    #[inline]
    fn ask(&self, asked: &mut Asked, address: IpAddr) {
        (asked.family, asked.key) = key_of(address);
        for (home, length) in asked.homes.iter_mut().zip(self.lengths_of(asked.family)) {
            *home = self.home(length.kind, asked.key & length.mask);
            prefetch(&self.groups, home.group as usize);
        }
    }

    /// Reads these words, and has memory fetch the slots that may be the answer.
    #[inline]
    fn choose(&self, asked: &mut Asked) {
        let lengths = self.lengths_of(asked.family).len();
        for (at, home) in asked.homes.iter().take(lengths).enumerate() {
            let group = self.group(home.group as usize);
            let found = group.with(home.tag);
            // The first of all, which is soon in the cache, if there is none: no branch.
            let slot = link(home.group as usize, first_slot(found));
            prefetch(&self.slots, select_unpredictable(found != 0, slot, 0) as usize);
            asked.candidates |= u32::from(found != 0 || !group.is_last()) << at;
        }
    }

    /// Looks at what was asked for, the longest first.
    #[inline]
    fn find_asked(&self, asked: &Asked) -> Option<Link> {
        let lengths = self.lengths_of(asked.family);
        let mut candidates = asked.candidates;
        while candidates != 0 {
            let at = candidates.trailing_zeros() as usize;
            let (length, home) = (lengths.get(at)?, asked.homes.get(at)?);
            let found = self.find_from(*home, length.kind, asked.key & length.mask);
            if found.is_some() {
                return found;
            }
            candidates &= candidates.wrapping_sub(1);
        }
        let rest = lengths.get(AT_ONCE..)?;
        rest.iter().find_map(|length| self.find(length.kind, asked.key & length.mask))
    }

    /// Gives `prefix` to `owner`, taking it from whoever has it.
    ///
    /// Returns false, with nothing changed, if no room was reserved for it.
    // spec: WG 2-d — the same prefix belongs to one owner.
    pub fn insert(&mut self, prefix: Prefix, owner: Owner) -> bool {
        if self.len >= self.room() || owner as usize >= self.owners.len() {
            return false;
        }
        let (kind, key) = prefix.parts();
        match self.find(kind, key) {
            Some(at) => {
                self.unlist(at);
                self.list(at, owner);
            }
            None => {
                let at = self.place(kind, key);
                self.len = self.len.saturating_add(1);
                self.count(kind);
                self.list(at, owner);
            }
        }
        true
    }

    /// Takes `prefix` from `owner`. Nothing happens if it is not his.
    // spec: WG 2-e
    pub fn remove(&mut self, prefix: Prefix, owner: Owner) {
        let (kind, key) = prefix.parts();
        if let Some(at) = self.find(kind, key)
            && self.slot(at).is_some_and(|slot| slot.owner == owner)
        {
            self.take_away(at);
        }
    }

    /// Takes up to `limit` prefixes from `owner`; returns whether he has more.
    // spec: WG 2-e — shorter prefixes of others are uncovered.
    pub fn remove_some(&mut self, owner: Owner, limit: usize) -> bool {
        for _ in 0..limit {
            let first = self.first(owner);
            if first == NONE {
                return false;
            }
            self.take_away(first);
        }
        self.first(owner) != NONE
    }

    /// Reads the owner's next prefix, in the order they were added. `cursor` starts as
    /// [`Cursor::default`].
    ///
    /// A cursor is good until the next change.
    #[must_use]
    pub fn next_of(&self, owner: Owner, cursor: &mut Cursor) -> Option<Prefix> {
        let at = match cursor.0 {
            None => self.first(owner),
            Some(last) => self.slot(last).filter(|slot| slot.owner == owner)?.behind,
        };
        let slot = self.slot(at)?;
        cursor.0 = Some(at);
        Some(slot.prefix())
    }

    /// How many prefixes there may be.
    fn room(&self) -> usize {
        let [share, of] = FULL;
        self.slots.len().saturating_mul(share) / of
    }

    fn lengths_of(&self, family: Family) -> &[Length] {
        self.lengths.get(family as usize).map_or(&[], Vec::as_slice)
    }

    fn first(&self, owner: Owner) -> Link {
        self.owners.get(owner as usize).map_or(NONE, |[first, _]| *first)
    }

    fn group(&self, at: usize) -> Group {
        self.groups.get(at).copied().unwrap_or(Group::EMPTY)
    }

    fn slot(&self, at: Link) -> Option<&Slot> {
        self.slots.get(at as usize)
    }

    fn slot_mut(&mut self, at: Link) -> Option<&mut Slot> {
        self.slots.get_mut(at as usize)
    }

    #[inline]
    fn home(&self, kind: Kind, key: u128) -> Home {
        let wide = |a: u64, b: u64| u128::from(a).wrapping_mul(b.into());
        let fold = |a: u64, b: u64| (wide(a, b) >> 64) as u64 ^ wide(a, b) as u64;
        let [a, b, c] = HASH_WORDS;
        let halves = fold((key >> 64) as u64 ^ a, key as u64 ^ b ^ u64::from(kind.0) << 48);
        let hash = fold(halves, c);
        // The highest bits say the share of the groups.
        let group = (wide(hash, self.groups.len() as u64) >> 64) as u32;
        Home { group, tag: (hash as u8).max(1) }
    }

    /// The groups that are looked through for a prefix, in this order.
    fn groups_from(&self, home: Home) -> impl Iterator<Item = usize> + use<> {
        let home = home.group as usize;
        (home..self.groups.len()).chain(0..home)
    }

    /// Where a prefix is.
    fn find(&self, kind: Kind, key: u128) -> Option<Link> {
        self.find_from(self.home(kind, key), kind, key)
    }

    #[inline]
    fn find_from(&self, home: Home, kind: Kind, key: u128) -> Option<Link> {
        for at in self.groups_from(home) {
            let group = self.group(at);
            let mut with_tag = group.with(home.tag);
            while with_tag != 0 {
                let found = link(at, first_slot(with_tag));
                if self.slot(found)?.is(kind, key) {
                    return Some(found);
                }
                with_tag &= with_tag.wrapping_sub(1);
            }
            if group.is_last() {
                break;
            }
        }
        None
    }

    /// Puts in a prefix that is not there, of nobody yet.
    fn place(&mut self, kind: Kind, key: u128) -> Link {
        let home = self.home(kind, key);
        for at in self.groups_from(home) {
            let Some(group) = self.groups.get_mut(at) else { break };
            let free = group.with(0);
            if free == 0 {
                group.add_past();
                continue;
            }
            group.set(first_slot(free), home.tag);
            let to = link(at, first_slot(free));
            if let Some(slot) = self.slot_mut(to) {
                (slot.kind, slot.key) = (kind, key);
            }
            return to;
        }
        // There are more slots than room.
        NONE
    }

    /// Makes a prefix nobody's.
    fn take_away(&mut self, at: Link) {
        self.unlist(at);
        let Some(slot) = self.slot_mut(at) else { return };
        let Slot { kind, key, .. } = core::mem::replace(slot, Slot::EMPTY);
        self.len = self.len.saturating_sub(1);
        self.discount(kind);
        let own = at as usize / SLOTS;
        for at in self.groups_from(self.home(kind, key)).take_while(|group| *group != own) {
            if let Some(group) = self.groups.get_mut(at) {
                group.take_past();
            }
        }
        if let Some(group) = self.groups.get_mut(own) {
            group.set(at as usize % SLOTS, 0);
        }
    }

    /// Makes two of an owner's list neighbours; [`NONE`] is its end.
    fn join(&mut self, owner: Owner, before: Link, behind: Link) {
        let mut ends = self.owners.get(owner as usize).copied().unwrap_or([NONE; 2]);
        let [first, last] = &mut ends;
        match self.slot_mut(before) {
            Some(slot) => slot.behind = behind,
            None => *first = behind,
        }
        match self.slot_mut(behind) {
            Some(slot) => slot.before = before,
            None => *last = before,
        }
        if let Some(place) = self.owners.get_mut(owner as usize) {
            *place = ends;
        }
    }

    /// Appends a prefix to its new owner's list.
    fn list(&mut self, at: Link, owner: Owner) {
        let last = self.owners.get(owner as usize).map_or(NONE, |[_, last]| *last);
        self.join(owner, last, at);
        self.join(owner, at, NONE);
        if let Some(slot) = self.slot_mut(at) {
            slot.owner = owner;
        }
    }

    /// Takes a prefix out of its owner's list.
    fn unlist(&mut self, at: Link) {
        let Some(slot) = self.slot_mut(at) else { return };
        let Slot { owner, before, behind, .. } = *slot;
        slot.owner = NONE;
        self.join(owner, before, behind);
    }

    /// Counts a prefix that has come.
    fn count(&mut self, kind: Kind) {
        let Some(lengths) = self.lengths.get_mut(kind.family() as usize) else { return };
        match lengths.binary_search_by(|length| kind.cidr().cmp(&length.kind.cidr())) {
            Ok(at) => {
                if let Some(length) = lengths.get_mut(at) {
                    length.count = length.count.saturating_add(1);
                }
            }
            // There is room for all that there can be.
            Err(at) => lengths.insert(at, Length { mask: mask(kind.cidr()), kind, count: 1 }),
        }
    }

    /// Counts a prefix that has gone.
    fn discount(&mut self, kind: Kind) {
        let Some(lengths) = self.lengths.get_mut(kind.family() as usize) else { return };
        lengths.retain_mut(|length| {
            length.count = length.count.saturating_sub((length.kind == kind).into());
            length.count != 0
        });
    }
}

/// A slot of a group.
fn link(group: usize, slot: usize) -> Link {
    group.wrapping_mul(SLOTS).wrapping_add(slot) as Link
}

/// Where a reading of an owner's prefixes is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor(Option<Link>);

/// An address as a key, its first bit the most significant.
fn key_of(address: IpAddr) -> (Family, u128) {
    match address {
        IpAddr::V4(address) => (Family::V4, u128::from(u32::from(address)) << 96),
        IpAddr::V6(address) => (Family::V6, u128::from(address)),
    }
}

fn address_of(family: Family, key: u128) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::from((key >> 96) as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(key)),
    }
}

/// A key's first `cidr` bits.
fn mask(cidr: u8) -> u128 {
    !u128::MAX.checked_shr(cidr.into()).unwrap_or(0)
}

#[cfg(test)]
mod tests;
