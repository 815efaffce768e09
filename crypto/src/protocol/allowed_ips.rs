//! Cryptokey routing: which peer an inner address belongs to.
//!
//! A path-compressed binary trie per address family, both in one arena of nodes with a free list.
//! Addresses of either family are 128-bit keys aligned to the left, so one piece of code serves
//! both. Where the trie is dense a node has a *fan*, a table over the bits that follow, by which a
//! look-up takes up to twelve of them in one step (`fans`). The nodes that carry a prefix of one owner form a list, in the order they were added, so
//! that an owner's prefixes can be read back and removed without a walk of the whole trie. Room is
//! made beforehand by `reserve`; after that adding cannot fail. A prefix needs at most two nodes:
//! its own, and one where its path leaves another's.
//!
//! Owners are numbers; the tunnel's table maps them to peers. Callers hold the table's lock. [WG
//! §2]

use alloc::vec::Vec;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::sync::OutOfMemory;
use fans::{FAN, Fan, NO_FAN};
pub use fans::{Step, Tidying};

mod fans;

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
            .then(|| Self { address: address_of(family, masked(key, cidr)), cidr })
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
}

/// Who owns prefixes: a slot of the tunnel's table.
pub type Owner = u32;

/// All prefixes of one tunnel.
pub struct AllowedIps {
    nodes: Vec<Node>,
    /// What look-ups do not read of each node.
    sides: Vec<Side>,
    /// First free node; its `children[0]` is the next.
    free: Link,
    free_count: usize,
    roots: [Link; 2],
    /// First and last node of each owner's list.
    owners: Vec<[Link; 2]>,
    fans: Vec<Fan>,
    free_fans: Vec<u16>,
    /// Prefixes put in or taken out since the fans were last tidied.
    changed: usize,
}

/// A node's position in the arena, below [`FAN`], or [`NONE`].
type Link = u32;
const NONE: Link = u32::MAX;

/// # Invariants
///
/// A node without an owner has two children. A child's key begins with its parent's, and it is
/// longer.
///
/// A look-up reads one cache line of it.
#[derive(Clone, Copy)]
#[repr(align(32))]
struct Node {
    key: u128,
    children: [Link; 2],
    owner: Owner,
    fan: u16,
    cidr: u8,
    family: Family,
}

const _: () = assert!(size_of::<Node>() == 32);

/// The rest of a node.
#[derive(Clone, Copy)]
struct Side {
    parent: Link,
    /// Neighbours in the owner's list.
    before: Link,
    behind: Link,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn bits(self) -> u8 {
        match self {
            Self::V4 => 32,
            Self::V6 => 128,
        }
    }
}

impl AllowedIps {
    /// No prefix, no memory.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            nodes: Vec::new(),
            sides: Vec::new(),
            free: NONE,
            free_count: 0,
            roots: [NONE; 2],
            owners: Vec::new(),
            fans: Vec::new(),
            free_fans: Vec::new(),
            changed: 0,
        }
    }

    /// Makes room for `prefixes` more prefixes and for owners below `owners`.
    ///
    /// # Errors
    ///
    /// [`OutOfMemory`]; no prefix has changed.
    pub fn reserve(&mut self, prefixes: usize, owners: usize) -> Result<(), OutOfMemory> {
        let wanted = prefixes.checked_mul(2).ok_or(OutOfMemory)?;
        if wanted.saturating_add(self.nodes.len()) > FAN as usize {
            return Err(OutOfMemory);
        }
        self.nodes.try_reserve(wanted.saturating_sub(self.free_count))?;
        self.sides.try_reserve(wanted.saturating_sub(self.free_count))?;
        let more = owners.saturating_sub(self.owners.len());
        self.owners.try_reserve(more)?;
        self.owners.resize(self.owners.len().max(owners), [NONE; 2]);
        Ok(())
    }

    /// The owner of the longest prefix that covers `address`.
    // spec: WG 2-a, WG 2-f
    #[must_use]
    pub fn lookup(&self, address: IpAddr) -> Option<Owner> {
        let (family, key) = key_of(address);
        let mut best = NONE;
        let mut at = self.root(family);
        while let Some(node) = self.node(at) {
            if !node.covers(key) {
                break;
            }
            best = if node.owner == NONE { best } else { node.owner };
            at = match self.fan_of(node) {
                Some(fan) => self.follow(fan, key, node.cidr, &mut best),
                None => node.child(bit(key, node.cidr)),
            };
        }
        (best != NONE).then_some(best)
    }

    /// Gives `prefix` to `owner`, taking it from whoever has it.
    ///
    /// Returns false, with nothing changed, if no room was reserved for it.
    // spec: WG 2-d — the same prefix belongs to one owner.
    pub fn insert(&mut self, prefix: Prefix, owner: Owner) -> bool {
        let (family, key) = key_of(prefix.address);
        let room = self.nodes.capacity().min(self.sides.capacity());
        let unused = room.saturating_sub(self.nodes.len());
        let has_room = self.free_count.saturating_add(unused) >= 2;
        if !has_room || owner as usize >= self.owners.len() {
            return false;
        }
        let (parent, at) = self.descend(family, key, prefix.cidr);
        let fresh = Node { key, cidr: prefix.cidr, family, owner: NONE, ..Node::EMPTY };
        let holder = match self.node(at).copied() {
            // The prefix is there: as somebody's, or as a branching.
            Some(node) if node.key == key && node.cidr == prefix.cidr => at,
            // Nothing there: a new leaf.
            None => {
                let leaf = self.allocate(fresh);
                self.hang(parent, family, key, leaf);
                leaf
            }
            // The node there is inside the prefix: the prefix goes between.
            Some(node) if node.cidr > prefix.cidr && masked(node.key, prefix.cidr) == key => {
                let between = self.allocate(fresh);
                self.hang(parent, family, key, between);
                self.hang(between, family, node.key, at);
                between
            }
            // Paths part before either ends: a branching above both.
            Some(node) => {
                let common = (node.key ^ key).leading_zeros() as u8;
                let fork = Node { key: masked(key, common), cidr: common, ..fresh };
                let fork = self.allocate(fork);
                let leaf = self.allocate(fresh);
                self.hang(parent, family, key, fork);
                self.hang(fork, family, node.key, at);
                self.hang(fork, family, key, leaf);
                leaf
            }
        };
        self.unlist(holder);
        self.list(holder, owner);
        self.refresh(family, key, prefix.cidr);
        true
    }

    /// Takes `prefix` from `owner`. Nothing happens if it is not his.
    // spec: WG 2-e
    pub fn remove(&mut self, prefix: Prefix, owner: Owner) {
        let (family, key) = key_of(prefix.address);
        let (_, at) = self.descend(family, key, prefix.cidr);
        let is_his =
            |node: &Node| node.key == key && node.cidr == prefix.cidr && node.owner == owner;
        if owner != NONE && self.node(at).is_some_and(is_his) {
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
            Some(last) => {
                self.node(last).filter(|node| node.owner == owner)?;
                self.side(last).behind
            }
        };
        let node = self.node(at)?;
        cursor.0 = Some(at);
        Some(Prefix { address: address_of(node.family, node.key), cidr: node.cidr })
    }

    /// Makes a prefix nobody's.
    fn take_away(&mut self, at: Link) {
        let Some(Node { family, key, cidr, .. }) = self.node(at).copied() else { return };
        self.unlist(at);
        self.prune(at);
        self.refresh(family, key, cidr);
    }

    /// Walks to where the prefix is or would be: the parent, and the node there or [`NONE`].
    fn descend(&self, family: Family, key: u128, cidr: u8) -> (Link, Link) {
        let (mut parent, mut at) = (NONE, self.root(family));
        while let Some(node) = self.node(at) {
            if node.cidr >= cidr || !node.covers(key) {
                break;
            }
            parent = at;
            at = node.child(bit(key, node.cidr));
        }
        (parent, at)
    }

    /// Makes `at` the child of `parent` on the side of `key`, or the root.
    fn hang(&mut self, parent: Link, family: Family, key: u128, at: Link) {
        let slot = match self.nodes.get_mut(parent as usize) {
            Some(node) => node.children.get_mut(bit(key, node.cidr)),
            None => self.roots.get_mut(family as usize),
        };
        if let Some(slot) = slot {
            *slot = at;
        }
        if let Some(side) = self.sides.get_mut(at as usize) {
            side.parent = parent;
        }
    }

    /// Removes a node without owner if it is no branching, and then its parent for the same reason.
    fn prune(&mut self, at: Link) {
        let mut at = at;
        while let Some(node) = self.node(at).copied() {
            let child = match node.children {
                _ if node.owner != NONE => return,
                [NONE, NONE] => NONE,
                [only, NONE] | [NONE, only] => only,
                _ => return,
            };
            let parent = self.side(at).parent;
            self.hang(parent, node.family, node.key, child);
            self.release(at);
            if child != NONE {
                return;
            }
            at = parent;
        }
    }

    /// Appends a node to its new owner's list.
    fn list(&mut self, at: Link, owner: Owner) {
        let Some(ends) = self.owners.get_mut(owner as usize) else { return };
        let [first, last] = *ends;
        *ends = [if first == NONE { at } else { first }, at];
        if let Some(before) = self.sides.get_mut(last as usize) {
            before.behind = at;
        }
        if let Some(side) = self.sides.get_mut(at as usize) {
            (side.before, side.behind) = (last, NONE);
        }
        if let Some(node) = self.nodes.get_mut(at as usize) {
            node.owner = owner;
        }
    }

    /// Takes a node out of its owner's list, if it has one.
    fn unlist(&mut self, at: Link) {
        let Some(node) = self.nodes.get_mut(at as usize) else { return };
        let owner = core::mem::replace(&mut node.owner, NONE);
        let Some(side) = self.sides.get_mut(at as usize) else { return };
        let Side { before, behind, .. } = *side;
        (side.before, side.behind) = (NONE, NONE);
        if let Some(side) = self.sides.get_mut(before as usize) {
            side.behind = behind;
        }
        if let Some(side) = self.sides.get_mut(behind as usize) {
            side.before = before;
        }
        if let Some([first, last]) = self.owners.get_mut(owner as usize) {
            *first = if *first == at { behind } else { *first };
            *last = if *last == at { before } else { *last };
        }
    }

    /// Takes a node from the free list or the reserved end of the arena.
    fn allocate(&mut self, node: Node) -> Link {
        if let Some(slot) = self.nodes.get_mut(self.free as usize) {
            let at = self.free;
            let [next, _] = slot.children;
            *slot = node;
            self.free = next;
            self.free_count = self.free_count.saturating_sub(1);
            return at;
        }
        let at = self.nodes.len() as Link;
        // Within the capacity that `insert` has checked: this does not allocate.
        self.nodes.push(node);
        self.sides.push(Side::EMPTY);
        at
    }

    fn release(&mut self, at: Link) {
        self.take_fan(at);
        if let Some(side) = self.sides.get_mut(at as usize) {
            *side = Side::EMPTY;
        }
        if let Some(node) = self.nodes.get_mut(at as usize) {
            *node = Node { children: [self.free, NONE], ..Node::EMPTY };
            self.free = at;
            self.free_count = self.free_count.saturating_add(1);
        }
    }

    fn first(&self, owner: Owner) -> Link {
        self.owners.get(owner as usize).map_or(NONE, |[first, _]| *first)
    }

    fn root(&self, family: Family) -> Link {
        self.roots.get(family as usize).copied().unwrap_or(NONE)
    }

    fn node(&self, at: Link) -> Option<&Node> {
        self.nodes.get(at as usize)
    }

    fn side(&self, at: Link) -> Side {
        self.sides.get(at as usize).copied().unwrap_or(Side::EMPTY)
    }
}

impl Default for AllowedIps {
    fn default() -> Self {
        Self::new()
    }
}

/// Where a reading of an owner's prefixes is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor(Option<Link>);

impl Node {
    const EMPTY: Self =
        Self { key: 0, children: [NONE; 2], owner: NONE, fan: NO_FAN, cidr: 0, family: Family::V4 };

    /// Whether `key` begins as the node's does.
    fn covers(&self, key: u128) -> bool {
        (self.key ^ key).leading_zeros() >= u32::from(self.cidr)
    }

    fn child(&self, side: usize) -> Link {
        self.children.get(side).copied().unwrap_or(NONE)
    }
}

impl Side {
    const EMPTY: Self = Self { parent: NONE, before: NONE, behind: NONE };
}

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

/// The first `cidr` bits of `key`, zeros behind.
fn masked(key: u128, cidr: u8) -> u128 {
    match u128::BITS.checked_sub(u32::from(cidr)) {
        Some(shift) => key & u128::MAX.checked_shl(shift).unwrap_or(0),
        None => key,
    }
}

/// Bit `index` of `key`, counted from the first; 0 past the end.
fn bit(key: u128, index: u8) -> usize {
    (key.checked_shl(u32::from(index)).unwrap_or(0) >> 127) as usize
}

#[cfg(test)]
mod tests;
