//! How a packet is judged at a layer: sublayers, filters, callouts, and the right to decide.
//!
//! Sublayers are asked from the heaviest to the lightest, in each the filters from the heaviest on, until one decides. A
//! decision may be replaced by that of a lighter sublayer as long as the right to write it is there: a filter that blocks
//! takes the right away, one that permits leaves it (unless it says otherwise), a callout does as it likes.
//!
//! The driver's classify function gets what it would get in Windows, on a frame that is poisoned afterwards. The verifier
//! then looks at what it did; see [`judge`].
//!
//! Source: LEARN win32/fwp/filter-arbitration, WDD network/types-of-callouts, DDI fwpsk/nc-fwpsk-fwps_callout_classify_fn2.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Fwp;
use super::callouts::Registration;
use super::layers::{COMPARTMENT, Facts, Field, LAYERS, Layer, Value, matches};
use super::objects::{
    BLOCK, CLEAR_ACTION_RIGHT, Filter, INSPECTION, PERMIT, PERMIT_IF_CALLOUT_UNREGISTERED,
};
use super::received::Received;
use crate::loader::probe;
use crate::nt::machine::{Dead, Machine};
use crate::nt::thread::{Call, Level};
use crate::verifier::rules;
use crate::verifier::schedule::lock;

/// The action of others' filters whose callout blocks, and lets lighter sublayers decide otherwise.
pub(crate) const SOFT_BLOCK: u32 = 0xF000_0001;
/// The action of others' filters whose callout blocks in any case.
pub(crate) const VETO: u32 = 0xF000_0002;
/// `FWP_ACTION_CONTINUE`.
const CONTINUE: u32 = 0x2006;
/// `FWP_ACTION_NONE`.
const NONE: u32 = 7;
/// `FWP_ACTION_NONE_NO_MATCH`.
const NO_MATCH: u32 = 8;
/// `FWPS_RIGHT_ACTION_WRITE`.
const RIGHT: u32 = 1;
/// `FWPS_CLASSIFY_OUT_FLAG_ABSORB`.
const ABSORB: u32 = 1;
/// Stack a classify function may use: what is left below a network card, NDIS, tcpip and other callouts.
const STACK: usize = 6 * 1024;

/// `FWPS_METADATA_FIELD_*`.
mod present {
    pub(super) const FLOW_HANDLE: u32 = 0x2;
    pub(super) const IP_HEADER_SIZE: u32 = 0x4;
    pub(super) const TRANSPORT_HEADER_SIZE: u32 = 0x400;
    pub(super) const COMPARTMENT_ID: u32 = 0x800;
    pub(super) const ENDPOINT_HANDLE: u32 = 0x8000;
    pub(super) const ALE_CLASSIFY_REQUIRED: u32 = 0x40_0000;
}

/// A filter with its callout, if that is registered.
struct Active {
    filter: Filter,
    callout: Option<Arc<Registration>>,
}

/// Every layer's sublayers, each with its filters, in the order they are asked.
#[derive(Default)]
pub(crate) struct Compiled {
    layers: [Vec<Vec<Active>>; LAYERS],
}

impl Compiled {
    fn filters(&self) -> impl Iterator<Item = &Filter> {
        self.layers.iter().flatten().flatten().map(|active| &active.filter)
    }

    /// Whether every callout that may see packets of this layer takes coalesced ones.
    pub(crate) fn takes_coalesced(&self, layer: Layer) -> bool {
        let callouts = self.layers[layer as usize]
            .iter()
            .flatten()
            .filter_map(|active| active.callout.as_ref());
        callouts.into_iter().all(|callout| callout.flags & super::callouts::ALLOW_URO != 0)
    }
}

/// What a commit has changed.
pub(crate) struct Changes {
    /// Filters that are no more.
    pub(crate) gone: Vec<Filter>,
    /// Whether filters of ALE's layers came or went.
    pub(crate) at_ale: bool,
}

/// Builds what packets meet from the engine's last commit and the registered callouts.
pub(crate) fn compile(machine: &Machine, fwp: &Fwp) -> Changes {
    let mut compiled = Compiled::default();
    // Among equals somebody has to be first.
    let later_first = machine.either(&super::OF_EQUAL_WEIGHT_THE_LATER_IS_ASKED_FIRST);
    let turned = |id: u64| if later_first { u64::MAX - id } else { id };
    {
        let engine = lock(&fwp.engine);
        let store = engine.committed();
        let mut all: Vec<&Filter> = store.filters.values().collect();
        let order = |filter: &&Filter| {
            let weight = store.weight_of(&filter.sublayer);
            (
                filter.layer,
                std::cmp::Reverse(weight),
                filter.sublayer.map(|byte| if later_first { !byte } else { byte }),
                std::cmp::Reverse(filter.weight),
                turned(filter.id),
            )
        };
        all.sort_by_key(order);
        for filter in all {
            let sublayers = &mut compiled.layers[filter.layer as usize];
            let same = |last: &Vec<Active>| {
                last.last().is_some_and(|other| other.filter.sublayer == filter.sublayer)
            };
            if !sublayers.last().is_some_and(same) {
                sublayers.push(Vec::new());
            }
            let callout = fwp.callouts.find(&filter.callout);
            if let Some(last) = sublayers.last_mut() {
                last.push(Active { filter: filter.clone(), callout });
            }
        }
    }
    for (layer, busy) in compiled.layers.iter().zip(&fwp.busy) {
        busy.store(!layer.is_empty(), Ordering::Release);
    }
    let compiled = Arc::new(compiled);
    let before = std::mem::replace(&mut *lock(&fwp.compiled), compiled.clone());
    let missing = |from: &Compiled, id| !from.filters().any(|filter| filter.id == id);
    let gone: Vec<Filter> =
        before.filters().filter(|filter| missing(&compiled, filter.id)).cloned().collect();
    let new = compiled.filters().filter(|filter| missing(&before, filter.id));
    let at_ale = new.chain(&gone).any(|filter| filter.layer.is_ale());
    Changes { gone, at_ale }
}

/// What is known beside the fixed values; zero is absent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Metadata {
    pub(crate) ip_header: u32,
    pub(crate) transport_header: u32,
    pub(crate) endpoint: u64,
    pub(crate) flow: u64,
    pub(crate) ale_required: bool,
}

/// A packet at a layer.
pub(crate) struct Indication<'p> {
    pub(crate) layer: Layer,
    pub(crate) facts: Facts,
    pub(crate) metadata: Metadata,
    /// `layerData`: the list, or 0.
    pub(crate) list: usize,
    /// What keeps the list, unless it is the driver's own.
    pub(crate) received: Option<&'p Received>,
}

/// What was decided so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    /// `FWP_ACTION_*`.
    pub(crate) action: u32,
    /// Whether a lighter sublayer may still decide otherwise.
    pub(crate) right: bool,
    pub(crate) absorbed: bool,
}

impl Decision {
    /// Nothing yet.
    pub(crate) const OPEN: Self = Self { action: NO_MATCH, right: true, absorbed: false };

    /// A decision that nobody can change any more.
    pub(crate) fn hard(action: u32, absorbed: bool) -> Self {
        Self { action, right: false, absorbed }
    }

    /// Whether the packet goes on.
    pub(crate) fn permits(self) -> bool {
        self.action != BLOCK
    }
}

/// Asks every sublayer of a layer about a packet of which `so_far` is known.
///
/// # Errors
///
/// [`Dead`].
pub(crate) fn run(
    machine: &Machine,
    fwp: &Fwp,
    indication: &Indication<'_>,
    so_far: Decision,
    level: Level,
) -> Result<Decision, Dead> {
    let compiled = lock(&fwp.compiled).clone();
    let mut decided = so_far;
    for sublayer in &compiled.layers[indication.layer as usize] {
        for active in
            sublayer.iter().filter(|active| matches(&active.filter.conditions, &indication.facts))
        {
            let Some(answer) = ask(machine, active, indication, decided, level)? else { continue };
            let vetoed = active.filter.action == VETO && decided.action != BLOCK;
            if decided.right || vetoed {
                decided = answer;
            }
            break;
        }
    }
    Ok(decided)
}

/// Asks one filter; `None`: it has no opinion.
fn ask(
    machine: &Machine,
    active: &Active,
    indication: &Indication<'_>,
    so_far: Decision,
    level: Level,
) -> Result<Option<Decision>, Dead> {
    let flags = active.filter.flags;
    let plain = |action| Decision {
        action,
        right: action == PERMIT && flags & CLEAR_ACTION_RIGHT == 0,
        absorbed: false,
    };
    match active.filter.action {
        BLOCK | PERMIT => return Ok(Some(plain(active.filter.action))),
        SOFT_BLOCK => return Ok(Some(Decision { action: BLOCK, right: true, absorbed: false })),
        VETO => return Ok(Some(plain(BLOCK))),
        _ => {}
    }
    if let Some(callout) = active.callout.as_ref().filter(|callout| callout.begin()) {
        let answered = call(machine, callout, active, indication, so_far, level);
        callout.end(machine);
        return answered;
    }
    Ok(match active.filter.action {
        INSPECTION => None,
        _ if flags & PERMIT_IF_CALLOUT_UNREGISTERED != 0 => Some(plain(PERMIT)),
        _ => Some(plain(BLOCK)),
    })
}

/// The memory of one call of a classify function.
#[repr(C, align(16))]
struct Frame {
    values: [[u64; 2]; 40],
    head: [u64; 2],
    long: u64,
    realm: u64,
    addresses: [[u8; 16]; 2],
    metadata: [u8; 280],
    out: [u64; 5],
}

/// Address of a place in a frame.
fn place<T>(part: &T) -> u64 {
    std::ptr::from_ref(part).expose_provenance() as u64
}

impl Frame {
    fn new() -> Self {
        Self {
            values: [[0; 2]; 40],
            head: [0; 2],
            long: 0,
            realm: 0,
            addresses: [[0; 16]; 2],
            metadata: [0; 280],
            out: [0; 5],
        }
    }

    /// Writes values and metadata; each bit of `missing` takes one of them away that Windows does not promise.
    fn fill(&mut self, indication: &Indication<'_>, so_far: Decision, missing: u64) {
        let fields = indication.layer.fields();
        for (number, field) in fields.iter().enumerate() {
            let value = indication.facts.value(*field);
            let optional = !matches!(
                field,
                Field::Protocol
                    | Field::LocalAddress
                    | Field::RemoteAddress
                    | Field::LocalPort
                    | Field::RemotePort
                    | Field::Flags
            );
            if optional && missing >> (32 + number % 32) & 1 != 0 {
                continue;
            }
            let content = match value {
                Value::Empty => 0,
                Value::U8(value) => value.into(),
                Value::U16(value) => value.into(),
                Value::U32(value) => value.into(),
                Value::U64(value) if *field == Field::SecurityRealm => {
                    self.realm = value;
                    place(&self.realm)
                }
                Value::U64(value) => {
                    self.long = value;
                    place(&self.long)
                }
                Value::Bytes16(bytes) => {
                    let at = &mut self.addresses[usize::from(*field == Field::RemoteAddress)];
                    *at = bytes;
                    place(at)
                }
            };
            self.values[number] = [value.kind().into(), content];
        }
        self.head =
            [u64::from(indication.layer.id()) | (fields.len() as u64) << 32, place(&self.values)];
        self.fill_metadata(&indication.metadata, missing);
        self.out[0] = so_far.action.into();
        self.out[3] = u64::from(if so_far.right { RIGHT } else { 0 });
    }

    fn fill_metadata(&mut self, metadata: &Metadata, missing: u64) {
        let all: [(u32, usize, usize, u64); 5] = [
            (present::FLOW_HANDLE, 32, 8, metadata.flow),
            (present::IP_HEADER_SIZE, 40, 4, metadata.ip_header.into()),
            (present::TRANSPORT_HEADER_SIZE, 44, 4, metadata.transport_header.into()),
            (present::COMPARTMENT_ID, 80, 4, COMPARTMENT.into()),
            (present::ENDPOINT_HANDLE, 112, 8, metadata.endpoint),
        ];
        let mut there = if metadata.ale_required { present::ALE_CLASSIFY_REQUIRED } else { 0 };
        for (number, (bit, at, size, value)) in all.into_iter().enumerate() {
            if value != 0 && missing >> number & 1 == 0 {
                there |= bit;
                self.metadata[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
            }
        }
        self.metadata[..4].copy_from_slice(&there.to_le_bytes());
    }
}

/// What a classify function left in its `FWPS_CLASSIFY_OUT0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Out {
    action: u32,
    rights: u32,
    flags: u32,
}

fn call(
    machine: &Machine,
    callout: &Registration,
    active: &Active,
    indication: &Indication<'_>,
    so_far: Decision,
    level: Level,
) -> Result<Option<Decision>, Dead> {
    let verified = machine.options().verified;
    let mut frame = Frame::new();
    // One field in 32 is missing; in fast mode none.
    let missing =
        if verified { (0..5).fold(u64::MAX, |bits, _| bits & machine.world().random()) } else { 0 };
    frame.fill(indication, so_far, missing);
    let list = if verified && missing >> 8 & 1 != 0 { 0 } else { indication.list };
    let seen = active.filter.seen.address() as u64;
    let out = place(&frame.out);
    let arguments = [place(&frame.head), place(&frame.metadata), list as u64, 0, seen, 0, out];
    let kept = indication.received.map_or(0, Received::references);
    machine.call(Call::new("classifyFn", callout.classify, level).stack(STACK), &arguments)?;
    let out = out as usize;
    let read = |at| probe::read::<u32>(out + at).unwrap_or(0);
    let out = Out { action: read(0), rights: read(24), flags: read(28) };
    if verified {
        if let Some(wrong) = judge(active, indication, so_far, kept, out) {
            machine.die(&rules::WFP_CLASSIFY, wrong);
            return Err(Dead);
        }
        // A pointer into the frame that was kept leads to this now.
        let _ = probe::fill(
            std::ptr::from_mut(&mut frame).expose_provenance(),
            0xDD,
            size_of::<Frame>(),
        );
    }
    Ok(match out.action {
        BLOCK | PERMIT => Some(Decision {
            action: out.action,
            right: so_far.right && out.rights & RIGHT != 0,
            absorbed: out.flags & ABSORB != 0,
        }),
        _ => None,
    })
}

/// What is wrong with how a classify function has answered; the rules of `facts/deploy-debug.md` 6.
fn judge(
    active: &Active,
    indication: &Indication<'_>,
    so_far: Decision,
    kept: usize,
    out: Out,
) -> Option<String> {
    let Out { action, rights, flags } = out;
    if !matches!(action, BLOCK | PERMIT | CONTINUE | NONE | NO_MATCH) {
        return Some(format!("actionType {action:#x} is no answer of a callout"));
    }
    let absorbed = flags & ABSORB != 0;
    let now_kept = indication.received.map_or(0, Received::references);
    if !so_far.right && (action != so_far.action || absorbed || now_kept > kept) {
        return Some(format!(
            "action {action:#x}, flags {flags:#x}, {now_kept} references, without the right to decide"
        ));
    }
    if absorbed && action != BLOCK {
        return Some(format!("absorbed with action {action:#x}: only what is blocked is absorbed"));
    }
    if absorbed && rights & RIGHT != 0 {
        return Some("absorbed, and the right to decide left to others".into());
    }
    if absorbed && indication.metadata.ale_required {
        return Some("absorbed a packet that ALE has still to classify".into());
    }
    if action != BLOCK && now_kept > kept {
        return Some("permitted and kept: the socket gets what the driver works on".into());
    }
    if action == BLOCK && !absorbed && now_kept > kept {
        return Some("kept, but not absorbed: the block is reported as a discard".into());
    }
    let must_clear = active.filter.flags & CLEAR_ACTION_RIGHT != 0;
    if so_far.right && must_clear && matches!(action, PERMIT | BLOCK) && rights & RIGHT != 0 {
        return Some("the filter says CLEAR_ACTION_RIGHT, and the right is still there".into());
    }
    if active.filter.action == INSPECTION
        && matches!(action, PERMIT | BLOCK)
        && action != so_far.action
    {
        return Some("an inspecting callout decided".into());
    }
    indication.received.and_then(Received::changed)
}
