//! Filters and objects of somebody else: what firewalls put beside the driver's, and what a product that crashed left behind.
//!
//! They stand in sublayers of their own, at any weight, and decide by themselves or by a callout ([`Verdict`]). A foreign
//! object may also have the key of one of the driver's; then the driver's cannot be added.
//!
//! Source: LEARN win32/fwp/filter-arbitration, object-management.

use std::sync::Arc;

use super::layers::{Condition, Field, Guid, Layer, Test, UDP, Value};
use super::objects::{self, BLOCK, CLEAR_ACTION_RIGHT, Callout, FOREIGN, Filter, Seen, Sublayer};
use super::{classify, engine, fwp};
use crate::nt::machine::Machine;
use crate::verifier::schedule::lock;

/// What a foreign filter says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The packet may pass, unless a lighter sublayer blocks it.
    Permit,
    /// The packet passes, unless a callout vetoes it.
    HardPermit,
    /// The packet does not pass.
    Block,
    /// A callout blocks the packet, unless a lighter sublayer permits it.
    SoftBlock,
    /// A callout blocks the packet even where it was not to decide any more.
    Veto,
}

/// A filter of somebody else's, for UDP and one local port, in a sublayer that holds nothing else.
#[derive(Clone, Copy, Debug)]
pub struct Foreign {
    /// Where it stands.
    pub layer: Layer,
    /// The weight of its sublayer.
    pub sublayer: u16,
    /// Its weight there.
    pub weight: u64,
    /// The local port.
    pub port: u16,
    /// What it says.
    pub verdict: Verdict,
}

/// Adds a filter of somebody else's, and its sublayer; the number to [`remove_foreign`] it by.
pub fn add_foreign(machine: &Machine, foreign: &Foreign) -> u64 {
    let fwp = fwp(machine);
    engine::intrude(machine, &fwp, |store, id| {
        let mut sublayer = *b"somebody else's ";
        sublayer[..8].copy_from_slice(&id.to_le_bytes());
        store.sublayers.insert(sublayer, Sublayer { owner: FOREIGN, weight: foreign.sublayer });
        let condition =
            |field, value| Condition { field, test: Test::Equal, values: [value, value] };
        let (action, flags) = match foreign.verdict {
            Verdict::Permit => (objects::PERMIT, 0),
            Verdict::HardPermit => (objects::PERMIT, CLEAR_ACTION_RIGHT),
            Verdict::Block => (BLOCK, 0),
            Verdict::SoftBlock => (classify::SOFT_BLOCK, 0),
            Verdict::Veto => (classify::VETO, 0),
        };
        let mut filter = Filter {
            id,
            key: sublayer,
            owner: FOREIGN,
            layer: foreign.layer,
            sublayer,
            weight: foreign.weight,
            flags,
            conditions: vec![
                condition(Field::Protocol, Value::U8(UDP)),
                condition(Field::LocalPort, Value::U16(foreign.port)),
            ],
            action,
            callout: [0; 16],
            context: 0,
            seen: Arc::default(),
        };
        filter.seen = Arc::new(Seen::new(&filter, foreign.sublayer, 0));
        store.filters.insert(id, filter);
        id
    })
}

/// Takes a filter of somebody else's away.
pub fn remove_foreign(machine: &Machine, id: u64) {
    engine::intrude(machine, &fwp(machine), |store, _| {
        if let Some(gone) = store.filters.remove(&id) {
            store.sublayers.remove(&gone.sublayer);
        }
    });
}

/// An object in the engine, by its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Object {
    /// A provider.
    Provider(Guid),
    /// A sublayer.
    Sublayer(Guid),
    /// A callout, and its layer.
    Callout(Guid, Layer),
}

/// The driver's providers, sublayers and callouts.
#[must_use]
pub fn objects_by_key(machine: &Machine) -> Vec<Object> {
    let fwp = fwp(machine);
    let engine = lock(&fwp.engine);
    let store = engine.committed();
    let providers = store.providers.iter().filter(|(_, owner)| **owner != FOREIGN);
    let sublayers = store.sublayers.iter().filter(|(_, it)| it.owner != FOREIGN);
    let callouts = store.callouts.iter().filter(|(_, it)| it.owner != FOREIGN);
    providers
        .map(|(key, _)| Object::Provider(*key))
        .chain(sublayers.map(|(key, _)| Object::Sublayer(*key)))
        .chain(callouts.map(|(key, it)| Object::Callout(*key, it.layer)))
        .collect()
}

/// Somebody has left an object with this key behind; it is there with the service's next start, too.
pub fn leave_behind(machine: &Machine, object: Object) {
    engine::intrude(machine, &fwp(machine), |store, _| match object {
        Object::Provider(key) => drop(store.providers.insert(key, FOREIGN)),
        Object::Sublayer(key) => {
            store.sublayers.insert(key, Sublayer { owner: FOREIGN, weight: 7 });
        }
        Object::Callout(key, layer) => {
            store.callouts.insert(key, Callout { owner: FOREIGN, layer });
        }
    });
}

/// And somebody has cleaned up.
pub fn clean_up(machine: &Machine, object: Object) {
    engine::intrude(machine, &fwp(machine), |store, _| match object {
        Object::Provider(key) => drop(store.providers.remove(&key)),
        Object::Sublayer(key) => drop(store.sublayers.remove(&key)),
        Object::Callout(key, _) => drop(store.callouts.remove(&key)),
    });
}
