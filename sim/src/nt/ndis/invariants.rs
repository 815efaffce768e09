//! What must hold of every `NET_BUFFER_LIST` that changes hands, by the numbers of `facts/ndis.md` 2.
//!
//! | rule | says |
//! |---|---|
//! | N1 | the MDL chain ends, and every MDL of it is there |
//! | N2 | `CurrentMdl` is in the chain, or there is no data at all |
//! | N3 | the bytes before `CurrentMdl` plus `CurrentMdlOffset` are `DataOffset` |
//! | N4 | `CurrentMdlOffset` lies inside `CurrentMdl`, if there is data |
//! | N5 | the data lies inside the chain |
//! | N6 | every byte of the data is memory |
//! | N7 | two lists that are under way share no MDL (`lists.rs`) |
//! | L1 | the list of buffers ends |
//! | L3 | a list counts its clones, and has none when it is freed |
//! | L4 | pools are alive, and freed when nothing of theirs is out (`lists.rs`) |
//! | L5 | a list comes back with the buffers, chains, offsets and lengths it went with (`lists.rs`) |
//! | L7 | the info slots agree with each other |
//! | L8 | nobody touches a list that is another's (`lists.rs`) |
//! | M1 | an MDL has room for its page numbers |
//! | M2 | `ByteOffset` lies in a page |
//! | M3 | a mapped MDL says where |
//! | M5 | an MDL is not freed while it is under way (`lists.rs`) |
//!
//! Source: DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure; strictness beyond that is ours.

use super::layout::{self, Buffer, Mdl, info, list};
use crate::loader::probe::{self, Fault};
use crate::verifier::rules::{self, Rule};

/// Buffers of a list, and MDLs of a chain, at most: what is longer has no end.
pub(crate) const LONGEST: usize = 4096;
const PAGE: usize = 4096;
const MDL_HEAD: usize = 48;
/// `MDL_MAPPED_TO_SYSTEM_VA` and `MDL_SOURCE_IS_NONPAGED_POOL`.
const MAPPED: u16 = 0x5;

/// A rule, and how it is broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Broken {
    /// Which.
    pub(crate) rule: &'static Rule,
    /// In words.
    pub(crate) detail: String,
}

fn broken<T>(rule: &'static Rule, detail: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { rule, detail: detail.into() })
}

fn gone(rule: &'static Rule) -> impl Fn(Fault) -> Broken {
    move |Fault(at)| Broken { rule, detail: format!("{at:#x} is not memory") }
}

/// Checks one MDL.
fn mdl(head: &Mdl) -> Result<(), Broken> {
    if head.byte_offset as usize >= PAGE || !head.start.is_multiple_of(PAGE) {
        return broken(
            &rules::NBL_M2,
            format!(
                "MDL {:#x}: StartVa {:#x}, ByteOffset {}",
                head.at, head.start, head.byte_offset
            ),
        );
    }
    let pages = (head.byte_offset as usize + head.count as usize).div_ceil(PAGE);
    if usize::from(head.size) < MDL_HEAD + 8 * pages {
        return broken(
            &rules::NBL_M1,
            format!("MDL {:#x} of {} bytes describes {pages} pages", head.at, head.size),
        );
    }
    if head.flags & MAPPED != 0 && head.mapped == 0 && head.count > 0 {
        return broken(&rules::NBL_M3, format!("MDL {:#x} is mapped nowhere", head.at));
    }
    Ok(())
}

/// Checks the chain that begins at `first` and returns its MDLs.
fn chain(first: usize) -> Result<Vec<Mdl>, Broken> {
    let mut all = Vec::new();
    let mut at = first;
    while at != 0 {
        if all.len() == LONGEST {
            return broken(&rules::NBL_N1, format!("the MDL chain {first:#x} does not end"));
        }
        let head = Mdl::read(at).map_err(gone(&rules::NBL_N1))?;
        mdl(&head)?;
        at = head.next;
        all.push(head);
    }
    Ok(all)
}

/// Checks one buffer and returns what it says.
pub(crate) fn buffer(at: usize) -> Result<Buffer, Broken> {
    let buffer = Buffer::read(at).map_err(gone(&rules::NBL_L1))?;
    let chain = chain(buffer.chain)?;
    let who = || format!("buffer {at:#x} (offset {}, length {})", buffer.offset, buffer.length);
    if chain.is_empty() {
        let empty = buffer.current_mdl == 0
            && buffer.current_offset == 0
            && buffer.offset == 0
            && buffer.length == 0;
        return if empty {
            Ok(buffer)
        } else {
            broken(&rules::NBL_N2, format!("{} has no MDL", who()))
        };
    }
    let total: u64 = chain.iter().map(|mdl| u64::from(mdl.count)).sum();
    if u64::from(buffer.offset) + u64::from(buffer.length) > total {
        return broken(
            &rules::NBL_N5,
            format!("{} is longer than its chain of {total} bytes", who()),
        );
    }
    // With no data left, where the current MDL is means nothing.
    if buffer.length == 0 {
        return Ok(buffer);
    }
    let Some(at) = chain.iter().position(|mdl| mdl.at == buffer.current_mdl) else {
        return broken(
            &rules::NBL_N2,
            format!("{}: CurrentMdl {:#x} is not in the chain", who(), buffer.current_mdl),
        );
    };
    let before: u64 = chain[..at].iter().map(|mdl| u64::from(mdl.count)).sum();
    if before + u64::from(buffer.current_offset) != u64::from(buffer.offset) {
        return broken(
            &rules::NBL_N3,
            format!(
                "{}: {before} bytes before CurrentMdl and {} in it",
                who(),
                buffer.current_offset
            ),
        );
    }
    if buffer.current_offset >= chain[at].count {
        return broken(
            &rules::NBL_N4,
            format!("{}: CurrentMdlOffset {} of {}", who(), buffer.current_offset, chain[at].count),
        );
    }
    for (address, length) in layout::data(&buffer).map_err(gone(&rules::NBL_N6))? {
        let ends = probe::read::<u8>(address).and_then(|_| probe::read::<u8>(address + length - 1));
        ends.map_err(gone(&rules::NBL_N6))?;
    }
    Ok(buffer)
}

/// Checks a list with all its buffers, and returns their addresses and what they say.
pub(crate) fn check(at: usize) -> Result<Vec<(usize, Buffer)>, Broken> {
    let mut all = Vec::new();
    let mut next: usize = probe::read(at + list::FIRST_BUFFER).map_err(gone(&rules::NBL_L1))?;
    while next != 0 {
        if all.len() == LONGEST {
            return broken(&rules::NBL_L1, format!("the buffers of list {at:#x} do not end"));
        }
        let said = buffer(next)?;
        all.push((next, said));
        next = said.next;
    }
    let children: i32 = probe::read(at + list::CHILD_REFERENCES).map_err(gone(&rules::NBL_L3))?;
    if children < 0 {
        return broken(&rules::NBL_L3, format!("list {at:#x}: ChildRefCount is {children}"));
    }
    Ok(all)
}

/// Checks the info slots of a list that is to be sent.
pub(crate) fn send_info(at: usize) -> Result<(), Broken> {
    let slot = |number: usize| {
        probe::read::<u64>(at + list::INFO + 8 * number).map_err(gone(&rules::NBL_L7))
    };
    let checksum = slot(info::CHECKSUM)?;
    let bit = |number: u32| checksum >> number & 1 != 0;
    let (ipv4, ipv6, tcp, udp, header) = (bit(0), bit(1), bit(2), bit(3), bit(4));
    let wrong =
        (ipv4 && ipv6) || (tcp && udp) || ((tcp || udp) && !(ipv4 || ipv6)) || (header && !ipv4);
    if wrong {
        return broken(&rules::NBL_L7, format!("list {at:#x}: checksum slot {checksum:#x}"));
    }
    if slot(info::LARGE_SEND)? != 0 && slot(info::UDP_SEGMENTATION)? != 0 {
        return broken(
            &rules::NBL_L7,
            format!("list {at:#x}: large send and UDP segmentation at once"),
        );
    }
    Ok(())
}
