//! FWPM objects: providers, sublayers, callouts and filters, read from the structures a driver passes and checked against
//! each other.
//!
//! Offsets are those of `fwpmtypes.h` of WDK 10.0.26100. An object made in a dynamic session goes with it.
//!
//! Source: LEARN win32/fwp/object-management, fwpmtypes; statuses: DDI fwpmk/nf-fwpmk-fwpmfilteradd0.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::answer;
use super::layers::{Condition, Guid, Layer, Test, Value, condition_field};
use crate::loader::probe::{self, Fault};

/// The dynamic session an object goes with; `None`: it stays until the service stops.
pub(crate) type Owner = Option<usize>;

/// Whose objects are not the driver's ([`super::foreign`]).
pub(crate) const FOREIGN: Owner = Some(usize::MAX);

/// `FWP_ACTION_BLOCK`.
pub(crate) const BLOCK: u32 = 0x1001;
/// `FWP_ACTION_PERMIT`.
pub(crate) const PERMIT: u32 = 0x1002;
/// `FWP_ACTION_CALLOUT_TERMINATING`.
pub(crate) const TERMINATING: u32 = 0x5003;
/// `FWP_ACTION_CALLOUT_INSPECTION`.
pub(crate) const INSPECTION: u32 = 0x6004;
/// `FWP_ACTION_CALLOUT_UNKNOWN`.
pub(crate) const UNKNOWN: u32 = 0x4005;

/// `FWPM_FILTER_FLAG_PERSISTENT` and, for other objects, their flags of the same value.
const PERSISTENT: u32 = 1;
/// `FWPM_FILTER_FLAG_CLEAR_ACTION_RIGHT`.
pub(crate) const CLEAR_ACTION_RIGHT: u32 = 8;
/// `FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED`.
pub(crate) const PERMIT_IF_CALLOUT_UNREGISTERED: u32 = 16;
/// Flags of filters that mean something here.
const FILTER_FLAGS: u32 = PERSISTENT | CLEAR_ACTION_RIGHT | PERMIT_IF_CALLOUT_UNREGISTERED;
/// Conditions of one filter at most.
const CONDITIONS_MAX: u32 = 256;

/// Why an object is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// With this status.
    Status(i32),
    /// The structure cannot be read.
    Fault(usize),
}

impl From<Fault> for Refused {
    fn from(Fault(at): Fault) -> Self {
        Self::Fault(at)
    }
}

fn refuse<T>(status: i32) -> Result<T, Refused> {
    Err(Refused::Status(status))
}

/// A filter as it stands in the engine.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    pub(crate) id: u64,
    pub(crate) key: Guid,
    pub(crate) owner: Owner,
    pub(crate) layer: Layer,
    pub(crate) sublayer: Guid,
    pub(crate) weight: u64,
    pub(crate) flags: u32,
    pub(crate) conditions: Vec<Condition>,
    pub(crate) action: u32,
    pub(crate) callout: Guid,
    pub(crate) context: u64,
    /// The `FWPS_FILTER` that callouts see.
    pub(crate) seen: Arc<Seen>,
}

/// Memory of an `FWPS_FILTER2` or `FWPS_FILTER3`, which are the same.
#[derive(Debug, Default)]
pub(crate) struct Seen(Box<[u64; 8]>);

impl Seen {
    /// Writes one.
    pub(crate) fn new(filter: &Filter, sublayer_weight: u16, callout_id: u32) -> Self {
        let mut flags = 0_u64;
        flags |= u64::from(filter.flags & CLEAR_ACTION_RIGHT != 0);
        flags |= u64::from(filter.flags & PERMIT_IF_CALLOUT_UNREGISTERED != 0) << 1;
        let weights = u64::from(sublayer_weight) | flags << 16;
        let action = u64::from(filter.action) | u64::from(callout_id) << 32;
        Self(Box::new([filter.id, 0, 0, weights, 0, action, filter.context, 0]))
    }

    pub(crate) fn address(&self) -> usize {
        self.0.as_ptr().expose_provenance()
    }
}

/// A sublayer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sublayer {
    pub(crate) owner: Owner,
    pub(crate) weight: u16,
}

/// A callout as the engine knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Callout {
    pub(crate) owner: Owner,
    pub(crate) layer: Layer,
}

/// All objects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Store {
    pub(crate) providers: BTreeMap<Guid, Owner>,
    pub(crate) sublayers: BTreeMap<Guid, Sublayer>,
    pub(crate) callouts: BTreeMap<Guid, Callout>,
    pub(crate) filters: BTreeMap<u64, Filter>,
}

/// Reads a GUID.
fn key(at: usize) -> Result<Guid, Fault> {
    let bytes = probe::bytes(at, 16)?;
    Ok(bytes.try_into().unwrap_or_default())
}

/// What every object begins with, with its flags and provider where it has them.
fn head(at: usize, owner: Owner) -> Result<Guid, Refused> {
    let name: usize = probe::read(at + 16)?;
    if name == 0 {
        return refuse(answer::NULL_DISPLAY_NAME);
    }
    probe::read::<u16>(name)?;
    if probe::read::<u32>(at + 32)? & PERSISTENT != 0 && owner.is_some() {
        return refuse(answer::LIFETIME_MISMATCH);
    }
    Ok(key(at)?)
}

impl Store {
    /// Forgets everything that goes with `session`; true if there was anything.
    pub(crate) fn forget(&mut self, session: usize) -> bool {
        let before = self.len();
        let stays = |owner: Owner| owner != Some(session);
        self.filters.retain(|_, filter| stays(filter.owner));
        self.callouts.retain(|_, callout| stays(callout.owner));
        self.sublayers.retain(|_, sublayer| stays(sublayer.owner));
        self.providers.retain(|_, owner| stays(*owner));
        self.len() != before
    }

    /// How many objects of the driver's there are.
    pub(crate) fn len(&self) -> usize {
        let filters = self.filters.values().map(|filter| filter.owner);
        let callouts = self.callouts.values().map(|callout| callout.owner);
        let sublayers = self.sublayers.values().map(|sublayer| sublayer.owner);
        let all = filters.chain(callouts).chain(sublayers).chain(self.providers.values().copied());
        all.filter(|owner| *owner != FOREIGN).count()
    }

    /// Forgets what goes with the service: others' objects are persistent.
    pub(crate) fn service_stops(&mut self) {
        self.filters.retain(|_, filter| filter.owner == FOREIGN);
        self.callouts.retain(|_, callout| callout.owner == FOREIGN);
        self.sublayers.retain(|_, sublayer| sublayer.owner == FOREIGN);
        self.providers.retain(|_, owner| *owner == FOREIGN);
    }

    /// Objects of one session may stand on those of the same session, or on such as stay.
    fn provider(&self, at: usize, owner: Owner) -> Result<(), Refused> {
        let place: usize = probe::read(at)?;
        if place == 0 {
            return Ok(());
        }
        match self.providers.get(&key(place)?) {
            None => refuse(answer::PROVIDER_NOT_FOUND),
            Some(theirs) => may_stand_on(owner, *theirs),
        }
    }

    /// `FwpmProviderAdd0`.
    pub(crate) fn add_provider(&mut self, at: usize, owner: Owner) -> Result<(), Refused> {
        let key = head(at, owner)?;
        if self.providers.contains_key(&key) {
            return refuse(answer::ALREADY_EXISTS);
        }
        self.providers.insert(key, owner);
        Ok(())
    }

    /// `FwpmSubLayerAdd0`.
    pub(crate) fn add_sublayer(&mut self, at: usize, owner: Owner) -> Result<(), Refused> {
        let key = head(at, owner)?;
        self.provider(at + 40, owner)?;
        if self.sublayers.contains_key(&key) {
            return refuse(answer::ALREADY_EXISTS);
        }
        let weight = probe::read(at + 64)?;
        self.sublayers.insert(key, Sublayer { owner, weight });
        Ok(())
    }

    /// `FwpmCalloutAdd0`; returns the callout's key.
    pub(crate) fn add_callout(&mut self, at: usize, owner: Owner) -> Result<Guid, Refused> {
        let own = head(at, owner)?;
        self.provider(at + 40, owner)?;
        let Some(layer) = Layer::find(&key(at + 64)?) else {
            return refuse(answer::LAYER_NOT_FOUND);
        };
        if self.callouts.contains_key(&own) {
            return refuse(answer::ALREADY_EXISTS);
        }
        self.callouts.insert(own, Callout { owner, layer });
        Ok(own)
    }

    /// Reads and checks what `FwpmFilterAdd0` is given; the filter is not yet in the store.
    pub(crate) fn read_filter(&self, at: usize, id: u64, owner: Owner) -> Result<Filter, Refused> {
        let mut own = head(at, owner)?;
        if own == [0; 16] {
            own[..8].copy_from_slice(&id.to_le_bytes());
        }
        let flags: u32 = probe::read(at + 32)?;
        if flags & !FILTER_FLAGS != 0 {
            return refuse(answer::INVALID_FLAGS);
        }
        self.provider(at + 40, owner)?;
        let Some(layer) = Layer::find(&key(at + 64)?) else {
            return refuse(answer::LAYER_NOT_FOUND);
        };
        let sublayer = match key(at + 80)? {
            none if none == [0; 16] => super::layers::UNIVERSAL_SUBLAYER,
            named => named,
        };
        match self.sublayers.get(&sublayer) {
            Some(below) => may_stand_on(owner, below.owner)?,
            None if sublayer == super::layers::UNIVERSAL_SUBLAYER => {}
            None => return refuse(answer::SUBLAYER_NOT_FOUND),
        }
        if self.filters.values().any(|filter| filter.key == own) {
            return refuse(answer::ALREADY_EXISTS);
        }
        let conditions = conditions(at, layer)?;
        let weight = weight(at + 96, conditions.len())?;
        let (action, callout) = self.action(at + 128, layer, owner)?;
        let mut filter = Filter {
            id,
            key: own,
            owner,
            layer,
            sublayer,
            weight,
            flags,
            conditions,
            action,
            callout,
            context: probe::read(at + 152)?,
            seen: Arc::default(),
        };
        filter.seen = Arc::new(Seen::new(&filter, self.weight_of(&sublayer), 0));
        Ok(filter)
    }

    /// The weight of a sublayer; the universal one is the heaviest but for those that say 0xFFFF themselves.
    pub(crate) fn weight_of(&self, sublayer: &Guid) -> u16 {
        self.sublayers.get(sublayer).map_or(UNIVERSAL_WEIGHT, |sublayer| sublayer.weight)
    }

    fn action(&self, at: usize, layer: Layer, owner: Owner) -> Result<(u32, Guid), Refused> {
        let kind: u32 = probe::read(at)?;
        match kind {
            BLOCK | PERMIT => Ok((kind, [0; 16])),
            TERMINATING | INSPECTION | UNKNOWN => {
                let named = key(at + 4)?;
                match self.callouts.get(&named) {
                    None => refuse(answer::CALLOUT_NOT_FOUND),
                    Some(callout) if callout.layer != layer => refuse(answer::INCOMPATIBLE_LAYER),
                    Some(callout) => may_stand_on(owner, callout.owner).map(|()| (kind, named)),
                }
            }
            _ => refuse(answer::INVALID_ACTION_TYPE),
        }
    }
}

/// The weight of `FWPM_SUBLAYER_UNIVERSAL`.
const UNIVERSAL_WEIGHT: u16 = 0x8000;

/// What stays longer may not stand on what goes earlier; and nobody uses another's dynamic objects for good.
fn may_stand_on(upper: Owner, lower: Owner) -> Result<(), Refused> {
    match (upper, lower) {
        (None, Some(_)) => refuse(answer::LIFETIME_MISMATCH),
        (Some(mine), Some(theirs)) if mine != theirs => refuse(answer::WRONG_SESSION),
        _ => Ok(()),
    }
}

fn weight(at: usize, conditions: usize) -> Result<u64, Refused> {
    match probe::read::<u32>(at)? {
        0 => Ok(conditions as u64),
        1 => match probe::read::<u8>(at + 8)? {
            range @ 0..=15 => Ok(u64::from(range) << 60 | conditions as u64),
            _ => refuse(answer::INVALID_WEIGHT),
        },
        4 => Ok(probe::read(probe::read(at + 8)?)?),
        _ => refuse(answer::INVALID_WEIGHT),
    }
}

fn value(at: usize) -> Result<Value, Refused> {
    Ok(match probe::read::<u32>(at)? {
        0 => Value::Empty,
        1 => Value::U8(probe::read(at + 8)?),
        2 => Value::U16(probe::read(at + 8)?),
        3 => Value::U32(probe::read(at + 8)?),
        4 => Value::U64(probe::read(probe::read(at + 8)?)?),
        11 => Value::Bytes16(key(probe::read(at + 8)?)?),
        _ => return refuse(answer::TYPE_MISMATCH),
    })
}

fn conditions(filter: usize, layer: Layer) -> Result<Vec<Condition>, Refused> {
    let count: u32 = probe::read(filter + 112)?;
    let first: usize = probe::read(filter + 120)?;
    if count > CONDITIONS_MAX || (count > 0 && first == 0) {
        return refuse(answer::INVALID_PARAMETER);
    }
    (0..count as usize)
        .map(|number| {
            let at = first + 40 * number;
            let Some(field) = condition_field(layer, &key(at)?) else {
                return refuse(answer::CONDITION_NOT_FOUND);
            };
            let Some(test) = Test::find(probe::read(at + 16)?) else {
                return refuse(answer::MATCH_TYPE_MISMATCH);
            };
            let values = match (test, probe::read::<u32>(at + 24)?) {
                // FWP_RANGE_TYPE: two values side by side.
                (Test::Range, 258) => {
                    let range: usize = probe::read(at + 32)?;
                    [value(range)?, value(range + 16)?]
                }
                (Test::Range, _) | (_, 258) => return refuse(answer::MATCH_TYPE_MISMATCH),
                _ => [value(at + 24)?; 2],
            };
            let condition = Condition { field, test, values };
            if condition.fits(layer) { Ok(condition) } else { refuse(answer::TYPE_MISMATCH) }
        })
        .collect()
}
