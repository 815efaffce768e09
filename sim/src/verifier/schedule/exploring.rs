//! What the baton does in a world that explores schedules (`verifier/explore.rs`).

use std::cell::Cell;
use std::sync::Arc;

use super::{ACTOR, Baton, Key, Mode, State, World, lock};
use crate::nt::machine::Machine;
use crate::nt::thread::Thread;
use crate::verifier::explore::{Explorer, Place, Plan, Preemption, Reach, Switch};

/// Points that an actor of a world that explores may pass in one turn: one that never waits does not keep the others from
/// running.
const LONGEST_TURN: u64 = 50_000;
/// Turns of spinning after which nobody can mean it.
const MOST_SPINS: u64 = 200_000;
/// Preemptions that the report of a stop has.
const TOLD: usize = 4;

/// What an actor counts for itself in a world that explores.
#[derive(Clone, Copy)]
pub(super) struct Passed {
    pub(super) serial: u64,
    pub(super) points: u64,
    pub(super) turn: u64,
    pub(super) drawn: u64,
}

thread_local! {
    /// Its serial number, the points it has passed, how many of them since it got the baton, and the numbers it has drawn.
    pub(super) static PASSED: Cell<Passed> = const { Cell::new(Passed { serial: 0, points: 0, turn: 0, drawn: 0 }) };
}

impl World {
    /// Makes a world on virtual time that explores the schedules of a seed. See [`crate::verifier::explore`].
    pub fn exploring(seed: u64, plan: Plan) -> Arc<Self> {
        Self::made(Mode::Virtual { seed }, Some(Explorer::new(seed, plan)))
    }

    /// The calling actor's own next number, in a world that explores.
    pub(super) fn drawn(&self) -> Option<u64> {
        let explorer = self.explorer.as_ref()?;
        ACTOR.get().filter(|(world, _)| *world == self.identity)?;
        let mut passed = PASSED.get();
        passed.drawn += 1;
        PASSED.set(passed);
        Some(explorer.number(passed.serial, passed.drawn))
    }

    /// Whether it explores schedules.
    pub(crate) fn explores(&self) -> bool {
        self.explorer.is_some()
    }

    /// The beginning is over: what is to be tried in many orders begins. See [`Plan::Drawn`].
    pub fn preempt(&self) {
        if let Some(explorer) = &self.explorer {
            explorer.begin();
        }
    }

    /// The preemptions so far, of a world that explores.
    pub fn switches(&self) -> Vec<Switch> {
        lock(&self.baton).taken.clone()
    }

    /// The seed and the last preemptions, for the report of a stop; `machine` names places in its driver.
    pub(crate) fn told(&self, machine: &Machine) -> Vec<String> {
        let Mode::Virtual { seed } = self.mode else { return Vec::new() };
        let taken = self.switches();
        let mut lines = vec![format!("virtual time, seed {seed}")];
        if self.explores() {
            lines[0] += &format!(", {} preemptions, the last of them:", taken.len());
        }
        let last = taken.len().saturating_sub(TOLD);
        lines.extend(taken[last..].iter().map(|switch| switch.describe(machine)));
        lines
    }

    /// A place where a world that explores may have somebody else run, at any IRQL. The caller is in driver code, or holds as
    /// little as the driver does.
    pub(crate) fn reach(&self, thread: &Thread, place: Place) -> Reach {
        let Some(explorer) = &self.explorer else { return Reach::On };
        if ACTOR.get().is_none_or(|(world, _)| world != self.identity) {
            return Reach::On;
        }
        let mut passed = PASSED.get();
        passed.points += 1;
        passed.turn += 1;
        PASSED.set(passed);
        let preemption = Preemption { actor: passed.serial, point: passed.points };
        if passed.turn.is_multiple_of(LONGEST_TURN) {
            return self.preempted(thread, place, None);
        }
        if !explorer.takes(preemption) {
            return Reach::On;
        }
        match explorer.steps(preemption) {
            steps if steps > 0 && matches!(place, Place::Code(_) | Place::Import(..)) => {
                Reach::Later(preemption, steps)
            }
            _ => self.preempted(thread, place, Some(preemption)),
        }
    }

    /// The calling actor is the last of all from now on: by a preemption, or because its turn was long enough.
    pub(crate) fn preempted(
        &self,
        thread: &Thread,
        place: Place,
        preemption: Option<Preemption>,
    ) -> Reach {
        let Some(explorer) = &self.explorer else { return Reach::On };
        let Some((_, number)) = ACTOR.get() else { return Reach::On };
        let away = preemption.and_then(|preemption| explorer.away(preemption));
        let mut baton = lock(&self.baton);
        if away.is_none() && baton.numbers(|actor| actor.state == State::Runnable).len() < 2 {
            return Reach::On;
        }
        baton.put_last(number);
        baton.actors[number].spins = false;
        if let Some(away) = away {
            let deadline = Some(baton.now + away);
            baton.actors[number].state = State::Waiting { key: Key::of(&away), deadline };
            baton.actors[number].what = "its turn: it was preempted";
        }
        baton.hand_over();
        if let Some(preemption) = preemption
            && let Some(next) = baton.running
        {
            let to = baton.actors[next].name.clone();
            baton.taken.push(Switch::new(preemption, thread, place, to));
        }
        drop(self.take_turn(baton, number));
        Reach::Switched
    }

    /// The calling actor waits for others without saying for what: everybody else who can run does so first, and if there
    /// is nobody, time passes. False if that has been so often that nobody can mean it.
    pub(crate) fn spin(&self) -> bool {
        let Some((_, number)) = ACTOR.get().filter(|(world, _)| *world == self.identity) else {
            return true;
        };
        let points = PASSED.get().points;
        let mut baton = lock(&self.baton);
        baton.spins += 1;
        if baton.spins > MOST_SPINS {
            return false;
        }
        baton.put_last(number);
        let actor = &mut baton.actors[number];
        actor.spins = actor.spun_at.replace(points) == Some(points);
        // Two that spin for a third, who is away, do not keep each other busy for ever.
        if baton.numbers(|actor| actor.state == State::Runnable && !actor.spins).is_empty() {
            baton.pass_time();
        }
        baton.hand_over();
        drop(self.take_turn(baton, number));
        true
    }
}

impl Baton {
    /// Everybody else who can run goes first from now on.
    fn put_last(&mut self, number: usize) {
        self.lowest -= 1;
        self.actors[number].rank = self.lowest;
    }
}
