//! NET_BUFFER_LISTs that the network gives to callouts: how they look, and who keeps them.
//!
//! In verified mode each is awkward and compared afterwards (`ndis/lent.rs`): nobody may have written it. In fast mode it lies
//! in the receive block itself, around the payload, and nothing is copied.
//!
//! What a driver references is a buffer the network card does without. There are only so many.
//!
//! Source: WDD network/packet-indication-format, network/data-offset-positions; DDI fwpsk/nf-fwpsk-fwpsreferencenetbufferlist0.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use rustc_hash::FxHashMap;

use super::clones::{self, Parent};
use super::{Fwp, fwp};
use crate::loader::probe::{self, Fault};
use crate::nt::imports;
use crate::nt::level::DISPATCH;
use crate::nt::machine::Machine;
use crate::nt::ndis::layout::{Buffer, NBL_IS_IPV4, NBL_IS_IPV6, NBL_IS_UDP, info, list};
use crate::nt::ndis::lent::{Lent, Packet};
use crate::nt::thread::Thread;
use crate::nt::wsk;
use crate::verifier::rules;
use crate::verifier::schedule::lock;

/// Pool tag of lists of the network card.
const TAG: u32 = u32::from_le_bytes(*b"NicB");
/// Network card buffers unless a test says otherwise.
const BUFFERS: usize = 4096;

/// What a list's flags and slots say.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct About {
    pub(crate) ipv6: bool,
    pub(crate) inbound: bool,
    pub(crate) loopback: bool,
    /// Datagrams and their length, if several came as one; 0 if that is not said.
    pub(crate) coalesced: (u16, u16),
    /// Whether it is several datagrams, said or not.
    pub(crate) merged: bool,
    /// The injection handle of whoever has put it into the stack.
    pub(crate) injected_by: usize,
    /// By which handle the list was injected that this one is a clone of, and with which context.
    pub(crate) before: (usize, u64),
}

/// One list that callouts see.
pub(crate) struct Received {
    pub(crate) at: usize,
    pub(crate) about: About,
    list: Lent,
    references: AtomicUsize,
    indicated: AtomicBool,
    /// The name of the receive block that it lies in, if it does.
    place: Option<usize>,
    /// What it is a clone of.
    parent: Option<Parent>,
}

/// The lists of one machine that are out.
pub(crate) struct Nic {
    all: Mutex<FxHashMap<usize, Arc<Received>>>,
    held: AtomicUsize,
    limit: AtomicUsize,
    /// Which CPU has all that is received; none in particular if that is none.
    cpu: AtomicUsize,
}

impl Default for Nic {
    fn default() -> Self {
        let [held, limit, cpu] = [0, BUFFERS, usize::MAX].map(AtomicUsize::new);
        Self { all: Mutex::default(), held, limit, cpu }
    }
}

/// Has the network card give what it receives to one CPU from now on, as with receive-side scaling it does one flow's
/// (WDD network "Introduction to Receive Side Scaling").
pub fn receive_on(machine: &Machine, cpu: u32) {
    fwp(machine).nic.cpu.store(cpu as usize, Ordering::Release);
}

/// Sets how many receive buffers the network card has: what callouts hold is missing from them, and with none left it
/// receives nothing.
pub fn limit_nic_buffers(machine: &Machine, count: usize) {
    fwp(machine).nic.limit.store(count, Ordering::Release);
}

/// Lists of the network card that callouts hold.
#[must_use]
pub fn held_nic_buffers(machine: &Machine) -> usize {
    fwp(machine).nic.held()
}

impl Nic {
    /// The CPU that has all that is received, if it is one.
    pub(super) fn cpu(&self) -> Option<u32> {
        u32::try_from(self.cpu.load(Ordering::Acquire)).ok()
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// Whether the card has a buffer left.
    pub(crate) fn has_room(&self) -> bool {
        self.held() < self.limit.load(Ordering::Acquire)
    }

    pub(crate) fn find(&self, at: usize) -> Option<Arc<Received>> {
        lock(&self.all).get(&at).cloned()
    }

    /// Puts a list before callouts; [`Nic::retract`] ends that.
    pub(crate) fn show(&self, received: Received) -> Arc<Received> {
        let received = Arc::new(received);
        lock(&self.all).insert(received.at, received.clone());
        received
    }

    /// The classify is over: the list stays only if it was referenced. True if it did; else its receive block is free, with
    /// `give`, or the socket's next.
    pub(crate) fn retract(&self, machine: &Machine, received: &Received, give: bool) -> bool {
        received.indicated.store(false, Ordering::SeqCst);
        if received.references() > 0 {
            return true;
        }
        self.release(machine, received, give);
        false
    }

    /// Somebody keeps the list.
    pub(crate) fn reference(&self, list: &Received) {
        if list.references.fetch_add(1, Ordering::SeqCst) == 0 && list.parent.is_none() {
            self.held.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// And does not any more.
    pub(crate) fn dereference(&self, machine: &Machine, list: &Received) {
        if list.references.fetch_sub(1, Ordering::SeqCst) == 1 {
            // The card's buffer is the parent's, which is counted.
            self.held.fetch_sub(usize::from(list.parent.is_none()), Ordering::SeqCst);
            if !list.indicated.load(Ordering::SeqCst) {
                self.release(machine, list, true);
            }
        }
    }

    /// Nobody has the list any more; with `give`, its receive block is free.
    fn release(&self, machine: &Machine, received: &Received, give: bool) {
        if lock(&self.all).remove(&received.at).is_none() {
            return;
        }
        let children = clones::children(received.at);
        if children != 0 {
            let detail = format!("{:#x} is given back and has {children} clones", received.at);
            machine.die(&rules::NBL_L2, detail);
        }
        if let Some(wrong) = received.changed() {
            machine.die(&rules::WFP_LIST_CHANGED, wrong);
        }
        received.list.free(machine);
        if let Some(parent) = &received.parent {
            parent.let_go(machine, self);
        }
        if let Some(name) = received.place.filter(|_| give) {
            wsk::wsk(machine).give_block(name);
        }
    }
}

impl Received {
    /// How often it is referenced.
    pub(crate) fn references(&self) -> usize {
        self.references.load(Ordering::SeqCst)
    }

    /// What somebody has changed of it, in words.
    pub(crate) fn changed(&self) -> Option<String> {
        self.list.changed()
    }

    /// The bytes of its first packet from the data on, as long as it is out.
    pub(crate) fn payload(&self) -> Vec<u8> {
        self.list.first_payload()
    }

    /// Its buffers, and what they say.
    pub(crate) fn buffers(&self) -> &[(usize, Buffer)] {
        self.list.buffers()
    }

    /// A list in the receive block `name`, around a payload that has `lead` bytes of headers in front of it.
    pub(crate) fn in_place(
        name: usize,
        payload: (usize, usize),
        lead: usize,
        about: About,
    ) -> Result<Self, Fault> {
        let list = Lent::in_place(wsk::descriptors(name), payload, lead)?;
        Self::finish(list, about, Some(name), None)
    }

    /// An awkward list; `None` if there is no memory.
    pub(crate) fn scattered(machine: &Machine, packets: &[Packet], about: About) -> Option<Self> {
        Self::finish(Lent::scattered(machine, TAG, packets)?, about, None, None).ok()
    }

    /// A clone of a list whose buffers are `buffers`, from `lead` bytes before their data on; `None` if there is no memory.
    pub(super) fn clone_of(
        machine: &Machine,
        (parent, buffers): (Parent, &[(usize, Buffer)]),
        lead: u32,
        about: About,
    ) -> Option<Self> {
        let list = Lent::clone_of(machine, clones::TAG, buffers, lead)?;
        probe::write(list.at + list::PARENT, parent.at()).ok()?;
        Self::finish(list, about, None, Some(parent)).ok()
    }

    fn finish(
        list: Lent,
        about: About,
        place: Option<usize>,
        parent: Option<Parent>,
    ) -> Result<Self, Fault> {
        let at = list.at;
        let (family, frame) =
            if about.ipv6 { (NBL_IS_IPV6, 0x86DD_u16) } else { (NBL_IS_IPV4, 0x0800) };
        probe::write(at + list::NBL_FLAGS, family | NBL_IS_UDP)?;
        let slot = |number: usize| at + list::INFO + 8 * number;
        probe::write(slot(info::FRAME_TYPE), u64::from(frame.to_be()))?;
        if about.inbound {
            // Checksums of UDP and IP were found right; b6 says that it never left this machine.
            probe::write(slot(info::CHECKSUM), 0b11_0000_u64 | u64::from(about.loopback) << 6)?;
            let (count, length) = about.coalesced;
            probe::write(slot(info::COALESCED), u64::from(count) | u64::from(length) << 16)?;
        }
        let (references, indicated) = (AtomicUsize::new(0), AtomicBool::new(true));
        Ok(Self { at, about, list, references, indicated, place, parent })
    }
}

impl Fwp {
    /// The list at `at`, if callouts may touch it now; a stop otherwise.
    fn usable(&self, thread: &Thread, at: usize, function: &str) -> Option<Arc<Received>> {
        let found = self.nic.find(at);
        let usable =
            found.filter(|list| list.indicated.load(Ordering::SeqCst) || list.references() > 0);
        if usable.is_none() {
            let detail = format!(
                "{function}: {at:#x} is no list that is being classified or was referenced"
            );
            thread.stop(&rules::WFP_LIST_REFERENCE, detail);
        }
        usable
    }
}

imports! {
    pub(crate) static IMPORTS: "fwpkclnt.sys";

    /// Keeps a list beyond the classify that shows it.
    [max: DISPATCH, mark: Documented, source: "DDI fwpsk/nf-fwpsk-fwpsreferencenetbufferlist0"]
    fn FwpsReferenceNetBufferList0(thread, at: usize, intend_to_modify: u8) {
        let fwp = fwp(thread.machine());
        let Some(list) = fwp.usable(thread, at, "FwpsReferenceNetBufferList0") else { return };
        fwp.nic.reference(&list);
    }

    /// Ends that.
    [max: DISPATCH, mark: Documented, source: "DDI fwpsk/nf-fwpsk-fwpsdereferencenetbufferlist0"]
    fn FwpsDereferenceNetBufferList0(thread, at: usize, dispatch_level: u8) {
        let (machine, fwp) = (thread.machine(), fwp(thread.machine()));
        if dispatch_level != 0 && thread.irql() < DISPATCH {
            return thread.stop(&rules::WFP_LIST_REFERENCE, "dispatchLevel below DISPATCH_LEVEL");
        }
        let Some(list) = fwp.usable(thread, at, "FwpsDereferenceNetBufferList0") else { return };
        if list.references() == 0 {
            return thread.stop(&rules::WFP_LIST_REFERENCE, format!("{at:#x} is not referenced"));
        }
        fwp.nic.dereference(machine, &list);
    }
}
