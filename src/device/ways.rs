//! Which ways an adapter's datagrams take: as policy says, and another way when policy changes.
//!
//! The sockets stay; what changes is what stands before them. `PASSIVE_LEVEL`.

use abi::policy::Policy;
use callout::{Layout, Outside, Shape, Ways};
use crypto::sync::Shared;
use nt::{irql::Passive, status::NtError};

use super::Device;
use crate::{ends::Outer, ground::AtPassive, log::Level, policy::Reading};

impl Device {
    /// Has datagrams take the ways that policy says now. None is lost, and the sockets stay.
    ///
    /// What the old ways have is sent and received by them before they go; datagrams of the new ones may
    /// overtake it.
    pub(crate) fn follow_policy(this: &Shared<Self>, passive: &Passive) {
        let control = this.control.lock(passive);
        let current = this.sockets.read(&AtPassive(passive), |sockets| sockets.clone());
        if let Some(sockets) = &current {
            this.coalesce(sockets, passive);
        }
        let Some(current) = current.filter(|current| current.ways() != this.wanted_ways()) else {
            return;
        };
        // Before anything changes: from the filters on nothing may fail.
        let Ok(mut fresh) = Shared::try_new(current.bare()) else {
            let error = NtError::INSUFFICIENT_RESOURCES;
            return this.say(passive, Level::Warning, format_args!("policy not followed: {error}"));
        };
        drop(current);
        this.intercept(&mut fresh, passive);
        let ways = fresh.ways();
        this.replace_sockets(Some(fresh), &control.pause, passive);
        this.say(passive, Level::Info, format_args!("from now on {ways}"));
    }

    /// Says what an administrator has set that is not applied.
    pub(crate) fn say_refused(&self, reading: &Reading, passive: &Passive) {
        for refused in reading.refused() {
            self.say(passive, Level::Warning, format_args!("{refused}"));
        }
        self.core.processors.choice.tell_refused(|what| self.say(passive, Level::Warning, what));
    }

    /// The ways that policy wants datagrams to take.
    fn wanted_ways(&self) -> Ways {
        let policies = &self.core.policies;
        let inject = match policies.get(Policy::SendEngine) {
            0 => None,
            1 => Some(Shape::OneList),
            _ => Some(Shape::ListEach),
        };
        Ways { absorb: policies.get(Policy::FastPath) != 0, inject }
    }

    /// How the datagrams of a run are to lie, by policy: each with room for headers, or as sockets may
    /// have them cut apart. A run that lies otherwise than its way out has it takes another.
    pub(crate) fn layout(&self) -> Layout {
        let policies = &self.core.policies;
        let joined = policies.get(Policy::OuterSegmentation) != 0;
        if joined && policies.get(Policy::SendEngine) == 0 { Layout::Joined } else { Layout::Apart }
    }

    /// Puts the callouts before sockets that nobody else has yet, as policy wants; what cannot be had
    /// the sockets do.
    pub(super) fn intercept(&self, sockets: &mut Shared<Outside<Outer>>, passive: &Passive) {
        let Some(sockets) = Shared::get_mut(sockets) else { return };
        let wanted = self.wanted_ways();
        // The old filters stand until the new ones do.
        let old = self.sockets.read(&AtPassive(passive), |old| old.clone());
        let less = Ways { inject: None, ..wanted };
        for ways in [wanted, less].into_iter().take(1 + usize::from(wanted != less)) {
            if ways == Ways::NONE {
                return;
            }
            let done = self.core.interceptions.with(passive, |callouts| {
                sockets.intercept(passive, callouts?, ways, old.as_deref())
            });
            let Err(error) = done else {
                return self.say_trouble(passive);
            };
            let what = if ways.inject.is_some() { "injection" } else { "callouts" };
            self.say(passive, Level::Warning, format_args!("no {what}: {error}"));
        }
    }

    /// Says that the filter engine refuses the callouts, if it does.
    fn say_trouble(&self, passive: &Passive) {
        let trouble = self
            .core
            .interceptions
            .with(passive, |callouts| callouts.ok().and_then(|callouts| callouts.trouble(passive)));
        if let Some(error) = trouble {
            let why = format_args!("no callouts until the filter engine takes them: {error}");
            self.say(passive, Level::Warning, why);
        }
    }
}
