//! Fans: tables at nodes of the trie, by which a look-up takes many bits in one step.
//!
//! A fan of width `w` at a node of length `s` has an entry for each value of bits `s` to `s + w`.
//! It says where a walk along these bits ends: the first node at or below its *end*, `s + w`, and
//! the owner of the longest prefix passed on the way. A fan says nothing that the trie below does
//! not say, so it may be missing where memory is short; whoever changes the trie refreshes the
//! entries whose walks pass the change, up to half a fan's, so that no fan is ever wrong.
//!
//! Which nodes have fans is decided by tidying, a walk over the trie in short steps that the
//! control path makes when enough has changed. A fan is as wide as it can be with a node within its
//! reach for each four entries: fans take at most 64 bytes for each node, or what they took when
//! there were more. A fan never lies within the reach of another when it is made.

use alloc::vec::Vec;

use super::{AllowedIps, Family, Link, NONE, Node, Owner, bit};

/// One step of a look-up: what the bits of one value lead to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(align(16))]
struct Entry {
    /// The first node at or below the fan's end, or [`NONE`].
    ///
    /// If that node is at the end and has a fan, the fan's number and [`FAN`]. If it is a leaf with
    /// a `tail`, whose it is.
    at: Link,
    /// Whose is the longest prefix from below the fan's node down to its end, or [`NONE`].
    owner: Owner,
    /// Of a leaf not far below, the bits behind the end, the first the most significant, and in the
    /// low [`TAIL_LEN_BITS`] how many; 0 is no such leaf. So most leaves need not be looked at.
    tail: u64,
}

impl Entry {
    const EMPTY: Self = Self { at: NONE, owner: NONE, tail: 0 };

    /// Whether `key` goes on as the tail does behind bit `end`.
    fn tail_covers(&self, key: u128, end: u8) -> bool {
        let len = self.tail & ((1 << TAIL_LEN_BITS) - 1);
        u64::from((self.tail ^ behind(key, end)).leading_zeros()) >= len
    }
}

/// Marks the number of a fan among links to nodes.
pub(super) const FAN: Link = 1 << 31;
const TAIL_LEN_BITS: u32 = 6;
/// Bits there is room for in a tail.
const TAIL_MOST: u8 = 64 - TAIL_LEN_BITS as u8;

/// The entries for all values of `width` bits.
#[derive(Default)]
pub(super) struct Fan {
    width: u8,
    entries: Vec<Entry>,
}

/// A node without a fan.
pub(super) const NO_FAN: u16 = u16::MAX;

/// A change of up to half of these is one refreshing, in which readers wait.
const WIDEST: u8 = 12;
/// Narrower ones do not repay the memory they must be looked up in.
const NARROWEST: u8 = 4;
/// Entries for each node within a fan's reach, at most.
const ENTRIES_PER_NODE: usize = 4;
/// Nodes that one step of tidying looks at, more or less.
const STEP: usize = 2048;
/// Fewer changes are not tidied up after.
const WORTH_TIDYING: usize = 32;

/// Where tidying is.
pub struct Tidying {
    next: Link,
    families: &'static [Family],
}

/// What a step of tidying found.
pub enum Step {
    /// Nothing so far.
    More,
    /// Something for [`AllowedIps::change_fan`].
    Change(Change),
    /// All is tidy.
    Done,
}

/// A fan to be given to a node, or, if it is empty, to be taken from it.
pub struct Change {
    node: Link,
    fan: Fan,
}

impl AllowedIps {
    /// Begins tidying, if enough has changed: an eighth of what there is.
    pub fn begin_tidying(&mut self) -> Option<Tidying> {
        let used = self.nodes.len().saturating_sub(self.free_count);
        if self.changed < (used / 8).max(WORTH_TIDYING) {
            return None;
        }
        self.changed = 0;
        Some(Tidying { next: NONE, families: &[Family::V4, Family::V6] })
    }

    /// Tidies to the end, if enough has changed, and says whether it had: for a table that nobody else reads.
    pub fn tidy(&mut self) -> bool {
        let Some(mut tidying) = self.begin_tidying() else { return false };
        loop {
            match self.tidy_some(&mut tidying) {
                Step::More => {}
                Step::Change(change) => drop(self.change_fan(change)),
                Step::Done => return true,
            }
        }
    }

    /// Looks for the next node whose fan should be another. Between this and
    /// [`AllowedIps::change_fan`] nothing else may change.
    pub fn tidy_some(&self, tidying: &mut Tidying) -> Step {
        let mut seen = 0_usize;
        while seen < STEP {
            let at = tidying.next;
            let Some(node) = self.node(at) else {
                let Some((family, rest)) = tidying.families.split_first() else {
                    return Step::Done;
                };
                (tidying.next, tidying.families) = (self.root(*family), rest);
                continue;
            };
            tidying.next = self.after(at, NONE, true);
            let width = if self.is_within_reach(at) { 0 } else { self.best_width(at, &mut seen) };
            seen = seen.saturating_add(1);
            if width != self.fan_of(node).map_or(0, |fan| fan.width)
                && let Some(fan) = self.make_fan(node, width)
            {
                return Step::Change(Change { node: at, fan });
            }
        }
        Step::More
    }

    /// Makes a change that tidying found. Returns memory to be freed where nobody waits.
    pub fn change_fan(&mut self, change: Change) -> impl Sized + use<> {
        let Change { node: at, fan } = change;
        let changed = self.changed;
        let old = self.take_fan(at);
        if fan.width != 0
            && let Some(number) = self.fan_number()
            && let Some(place) = self.fans.get_mut(usize::from(number))
            && let Some(node) = self.nodes.get_mut(at as usize)
        {
            *place = fan;
            node.fan = number;
        }
        // A fan above leads to this one.
        if let Some(Node { family, key, cidr, .. }) = self.node(at).copied() {
            self.refresh(family, key, cidr);
            self.changed = changed;
        }
        old
    }

    /// Takes a node's fan from it.
    pub(super) fn take_fan(&mut self, at: Link) -> Fan {
        let Some(node) = self.nodes.get_mut(at as usize) else { return Fan::default() };
        let number = core::mem::replace(&mut node.fan, NO_FAN);
        let Some(place) = self.fans.get_mut(usize::from(number)) else { return Fan::default() };
        // Within the capacity `fan_number` made.
        self.free_fans.push(number);
        core::mem::take(place)
    }

    /// A number without a fan; `None` if there is none to be had, which is no harm.
    fn fan_number(&mut self) -> Option<u16> {
        if let Some(number) = self.free_fans.pop() {
            return Some(number);
        }
        let number = u16::try_from(self.fans.len()).ok().filter(|number| *number != NO_FAN)?;
        self.fans.try_reserve(1).ok()?;
        self.free_fans.try_reserve(self.fans.len().saturating_add(1)).ok()?;
        self.fans.push(Fan::default());
        Some(number)
    }

    #[inline]
    pub(super) fn fan_of(&self, node: &Node) -> Option<&Fan> {
        self.fans.get(usize::from(node.fan))
    }

    /// Goes where the bits of `key` from `from` on lead, from fan to fan; `best` is the owner so
    /// far. Returns the node where fans end.
    #[inline]
    pub(super) fn follow(&self, fan: &Fan, key: u128, from: u8, best: &mut Owner) -> Link {
        let (mut fan, mut from) = (fan, from);
        loop {
            let Some(entry) = fan.entries.get(index(key, from, fan.width)) else { return NONE };
            from = from.saturating_add(fan.width);
            *best = if entry.owner == NONE { *best } else { entry.owner };
            if entry.tail != 0 {
                *best = if entry.tail_covers(key, from) { entry.at } else { *best };
                return NONE;
            }
            if entry.at & FAN == 0 {
                return entry.at;
            }
            let Some(next) = self.fans.get((entry.at & !FAN) as usize) else { return NONE };
            fan = next;
        }
    }

    /// How long prefixes are that a node's fan knows only the way to.
    fn end(&self, node: &Node) -> u8 {
        node.cidr.saturating_add(self.fan_of(node).map_or(0, |fan| fan.width))
    }

    /// Makes fans right again after a change at the prefix `key/cidr`.
    pub(super) fn refresh(&mut self, family: Family, key: u128, cidr: u8) {
        self.changed = self.changed.saturating_add(1);
        let mut at = self.root(family);
        while let Some(node) = self.node(at).copied() {
            if node.cidr >= cidr || !node.covers(key) {
                return;
            }
            at = node.child(bit(key, node.cidr));
            let Some(fan) = self.fans.get_mut(usize::from(node.fan)) else { continue };
            let (width, mut entries) = (fan.width, core::mem::take(&mut fan.entries));
            let end = node.cidr.saturating_add(width);
            let first = index(key, node.cidr, width);
            let many = 1_usize << end.saturating_sub(cidr);
            self.fill(&node, width, &mut entries, first..first.saturating_add(many));
            if let Some(fan) = self.fans.get_mut(usize::from(node.fan)) {
                fan.entries = entries;
            }
        }
    }

    /// A fan for a node; `None` if there is no memory for it.
    fn make_fan(&self, node: &Node, width: u8) -> Option<Fan> {
        if width == 0 {
            return Some(Fan::default());
        }
        let len = 1_usize << width;
        let mut entries = Vec::new();
        entries.try_reserve_exact(len).ok()?;
        entries.resize(len, Entry::EMPTY);
        self.fill(node, width, &mut entries, 0..len);
        Some(Fan { width, entries })
    }

    /// Writes some entries of a node's fan.
    fn fill(&self, node: &Node, width: u8, entries: &mut [Entry], range: core::ops::Range<usize>) {
        let end = node.cidr.saturating_add(width);
        let mut from = range.start;
        while from < range.end {
            let shift = 128_u32.saturating_sub(end.into());
            let key = node.key | (from as u128).checked_shl(shift).unwrap_or(0);
            let (entry, decided) = self.walk(node, end, key);
            // All entries that share the bits that decided it are the same.
            let last = from | (1_usize << end.saturating_sub(decided)).saturating_sub(1);
            let to = last.saturating_add(1).min(range.end);
            if let Some(some) = entries.get_mut(from..to) {
                some.fill(entry);
            }
            from = to;
        }
    }

    /// What the entry for `key` says in a fan of `node`, and how many bits of the key say so.
    fn walk(&self, node: &Node, end: u8, key: u128) -> (Entry, u8) {
        let mut entry = Entry::EMPTY;
        let mut decided = node.cidr.saturating_add(1);
        let mut next = node.child(bit(key, node.cidr));
        while let Some(child) = self.node(next) {
            let common = (child.key ^ key).leading_zeros() as u8;
            if common < child.cidr.min(end) {
                return (entry, common.saturating_add(1));
            }
            if child.cidr <= end && child.owner != NONE {
                entry.owner = child.owner;
            }
            if child.cidr >= end {
                return (self.ending(entry, next, child, end), end);
            }
            decided = child.cidr.saturating_add(1);
            next = child.child(bit(key, child.cidr));
        }
        (entry, decided)
    }

    /// An entry for a node at or below the end.
    fn ending(&self, entry: Entry, at: Link, node: &Node, end: u8) -> Entry {
        let len = node.cidr.saturating_sub(end);
        match node.children {
            [NONE, NONE] if len == 0 => entry,
            [NONE, NONE] if len <= TAIL_MOST => {
                Entry { at: node.owner, tail: behind(node.key, end) | u64::from(len), ..entry }
            }
            _ if len == 0 && node.fan != NO_FAN => {
                Entry { at: FAN | Link::from(node.fan), ..entry }
            }
            _ => Entry { at, ..entry },
        }
    }

    /// Whether look-ups pass the node by, because a fan above takes them further.
    fn is_within_reach(&self, at: Link) -> bool {
        let Some(cidr) = self.node(at).map(|node| node.cidr) else { return false };
        let mut above = self.side(at).parent;
        while let Some(node) = self.node(above).filter(|node| cidr - node.cidr < WIDEST) {
            if self.end(node) > cidr {
                return true;
            }
            above = self.side(above).parent;
        }
        false
    }

    /// The width of the widest fan for which there are enough nodes within its reach; 0 is none.
    fn best_width(&self, at: Link, seen: &mut usize) -> u8 {
        let Some(Node { cidr, family, .. }) = self.node(at) else { return 0 };
        let most = WIDEST.min(family.bits().saturating_sub(*cidr));
        // Nodes by how far they are below.
        let mut depths = [0_usize; WIDEST as usize];
        let mut below = self.after(at, at, true);
        while let Some(node) = self.node(below) {
            let depth = depths.get_mut(usize::from(node.cidr.saturating_sub(*cidr)));
            below = self.after(below, at, depth.is_some());
            if let Some(depth) = depth {
                *depth = depth.saturating_add(1);
                *seen = seen.saturating_add(1);
            }
        }
        let reached = |width: u8| depths.iter().take(width.into()).sum::<usize>();
        let is_worth = |width: &u8| (1 << width) / ENTRIES_PER_NODE <= reached(*width);
        (NARROWEST..=most).rev().find(is_worth).unwrap_or(0)
    }

    /// The node that comes after another in the order of keys, within the subtree at `top`; of what
    /// is below it only if `descends`.
    fn after(&self, at: Link, top: Link, descends: bool) -> Link {
        let [left, right] = self.node(at).map_or([NONE; 2], |node| node.children);
        match (left, right) {
            (NONE, NONE) => {}
            (NONE, only) | (only, _) if descends => return only,
            _ => {}
        }
        let mut at = at;
        while at != top {
            let parent = self.side(at).parent;
            let Some(node) = self.node(parent) else { return NONE };
            let [left, right] = node.children;
            if at == left && right != NONE {
                return right;
            }
            at = parent;
        }
        NONE
    }
}

/// The bits of `key` from bit `end` on, the first the most significant.
fn behind(key: u128, end: u8) -> u64 {
    (key.checked_shl(end.into()).unwrap_or(0) >> 64) as u64
}

/// The `width` bits of `key` from bit `from`, as a number.
fn index(key: u128, from: u8, width: u8) -> usize {
    let shift = 128_u32.saturating_sub(width.into());
    (key.checked_shl(from.into()).unwrap_or(0).checked_shr(shift)).unwrap_or(0) as usize
}

#[cfg(test)]
impl AllowedIps {
    /// Fans are as if made anew, and nobody's are none.
    pub(super) fn assert_fans(&self) {
        let mut held = 0;
        for node in self.nodes.iter().filter(|node| node.fan != NO_FAN) {
            let fan = self.fan_of(node).unwrap();
            assert_eq!(fan.entries, self.make_fan(node, fan.width).unwrap().entries);
            held += 1;
        }
        assert_eq!(held, self.fan_sizes().0);
        assert_eq!(held, self.fans.len() - self.free_fans.len());
    }

    /// How many fans there are, and their entries.
    pub(super) fn fan_sizes(&self) -> (usize, usize) {
        let lens = self.fans.iter().map(|fan| fan.entries.len()).filter(|len| *len != 0);
        (lens.clone().count(), lens.sum())
    }
}
