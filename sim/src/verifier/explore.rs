//! Which of all the orders that several CPUs allow a run takes, chosen by a seed, told, and taken again.
//!
//! In a world that explores ([`World::exploring`]) the actor of the highest rank that can run does, until it waits. Ranks come
//! from the seed. Now and then the running actor is *preempted*: it becomes the last of all, and goes on when everybody else
//! waits; and every other time not before up to a millisecond of virtual time has passed, too, so that those who sleep come
//! before it. That may be at every function it calls, where a callback begins and has returned, at each of the driver's atomics
//! (`loader/sites.rs`), and up to twelve instructions behind one of these, at whichever IRQL. So a run has few switches, each of them long: the orders that a bug needs.
//!
//! A run is its seed and its list of preemptions, which names each by the actor and by how many such places that one has passed.
//! The list can be saved, taken again, and made shorter ([`shrink`]). The plain way to run threads by ranks that fall at a few
//! random places is Burckhardt et al., "A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs" (ASPLOS 2010).
//!
//! [`World::exploring`]: crate::verifier::schedule::World::exploring

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::nt::machine::Machine;
use crate::nt::thread::Thread;
use crate::verifier::schedule::mix;
use crate::verifier::steps::own_code;

/// One preemption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Preemption {
    /// Which actor: the number of those that had begun, itself included.
    pub actor: u64,
    /// At which of its places: the number of those it had reached, this one included.
    pub point: u64,
}

impl fmt::Display for Preemption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.actor, self.point)
    }
}

/// Reads what [`list`] wrote: `ACTOR:POINT` with spaces or new lines between.
///
/// # Errors
///
/// The word that is none.
pub fn read_list(text: &str) -> Result<Vec<Preemption>, String> {
    let word = |word: &str| {
        let (actor, point) = word.split_once(':')?;
        Some(Preemption { actor: actor.parse().ok()?, point: point.parse().ok()? })
    };
    text.split_whitespace().map(|text| word(text).ok_or_else(|| text.to_owned())).collect()
}

/// Writes a list on one line.
#[must_use]
pub fn list(preemptions: &[Preemption]) -> String {
    preemptions.iter().map(Preemption::to_string).collect::<Vec<_>>().join(" ")
}

/// When actors are preempted.
#[derive(Clone, Debug)]
pub enum Plan {
    /// At one place in so many, drawn from the seed; if `late`, from [`World::preempt`] on.
    ///
    /// [`World::preempt`]: crate::verifier::schedule::World::preempt
    Drawn {
        /// One place in so many.
        one_in: u64,
        /// Whether the beginning is left whole.
        late: bool,
    },
    /// At these places and no others.
    Listed(BTreeSet<Preemption>),
}

impl Plan {
    /// The plan of a seed: how often it preempts is drawn, too, from once in 8 to once in 2,048 places. Rare ones leave
    /// long stretches whole, frequent ones cut into each. One in four does so from the first moment on.
    #[must_use]
    pub fn of(seed: u64) -> Self {
        let drawn = mix(seed ^ 0x706C_616E);
        Self::Drawn { one_in: 8 << (drawn % 9), late: !(drawn >> 32).is_multiple_of(4) }
    }
}

/// Where an actor was preempted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Before the instruction at this address: an atomic, or one that comes soon after.
    Code(usize),
    /// In a function that was called from there.
    Import(&'static str, usize),
    /// Before the callback of that name at this address.
    Begins(&'static str, usize),
    /// After it.
    Ended(&'static str, usize),
}

/// A preemption that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Switch {
    /// Which.
    pub preemption: Preemption,
    from: String,
    to: String,
    cpu: u32,
    irql: u8,
    place: Place,
}

impl Switch {
    /// The preemption of `thread` in favour of actor `to`. Addresses are kept as offsets, which outlive the image.
    pub(crate) fn new(preemption: Preemption, thread: &Thread, place: Place, to: String) -> Self {
        let base = thread.machine().driver_code().start;
        let offset = |address: usize| address.wrapping_sub(base);
        let place = match place {
            Place::Code(at) => Place::Code(offset(at)),
            Place::Import(name, at) => Place::Import(name, offset(at)),
            Place::Begins(name, at) => Place::Begins(name, offset(at)),
            Place::Ended(name, at) => Place::Ended(name, offset(at)),
        };
        let from = std::thread::current().name().unwrap_or("host").to_owned();
        let from = format!("{from} of {}", thread.machine().name());
        Self { preemption, from, to, cpu: thread.cpu(), irql: thread.irql(), place }
    }

    /// In words; `machine` has the driver and knows its names.
    #[must_use]
    pub fn describe(&self, machine: &Machine) -> String {
        let base = machine.driver_code().start;
        let address = |offset: usize| in_short(&machine.describe(base.wrapping_add(offset)));
        let place = match self.place {
            Place::Code(at) => format!("at {}", address(at)),
            Place::Import(name, at) => {
                let caller = machine.describe_caller(base.wrapping_add(at));
                format!("in nt!{name}, from {}", in_short(&caller))
            }
            Place::Begins(name, at) => format!("where {name} begins, {}", address(at)),
            Place::Ended(name, at) => format!("where {name} has returned, {}", address(at)),
        };
        format!(
            "{:>9}  switch from {} (CPU {}, IRQL {}) to {} {place}",
            self.preemption.to_string(),
            self.from,
            self.cpu,
            self.irql,
            self.to
        )
    }
}

/// Of what an address is described as, the innermost function of the driver's own and the one that it was inlined into, without
/// arguments.
fn in_short(description: &str) -> String {
    let plain = |frame: &str| {
        let name = frame.split('(').next().unwrap_or_default();
        let line = frame.rsplit_once(" [").map(|(_, line)| format!(" [{line}"));
        name.to_owned() + &line.unwrap_or_default()
    };
    let own = own_code(description);
    match description.rsplit(" <- ").next() {
        Some(outer) if outer != own => format!("{} in {}", plain(&own), plain(outer)),
        _ => plain(&own),
    }
}

/// What a world that explores goes by.
#[derive(Debug)]
pub(crate) struct Explorer {
    seed: u64,
    plan: Plan,
    began: AtomicBool,
}

/// What comes of a place that was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// The actor goes on.
    On,
    /// It does, but is preempted so many instructions later, if it is still in driver code then.
    Later(Preemption, u32),
    /// Others have run.
    Switched,
}

/// The most instructions between an atomic and a preemption that was drawn there.
const MOST_STEPS: u64 = 12;
/// Virtual time that a preempted actor is away at most, in nanoseconds.
const LONGEST_AWAY: u64 = 1_000_000;

impl Explorer {
    pub(crate) fn new(seed: u64, plan: Plan) -> Self {
        let began = matches!(plan, Plan::Drawn { late: false, .. });
        Self { seed: mix(seed ^ 0x7363_6865_6475_6C65), plan, began: AtomicBool::new(began) }
    }

    /// A late plan begins.
    pub(crate) fn begin(&self) {
        self.began.store(true, Ordering::Relaxed);
    }

    /// Whether the actor loses the baton there.
    pub(crate) fn takes(&self, at: Preemption) -> bool {
        match &self.plan {
            Plan::Drawn { one_in, .. } => {
                self.began.load(Ordering::Relaxed)
                    && self.hash(at.actor, at.point, 1).is_multiple_of(*one_in)
            }
            Plan::Listed(list) => list.contains(&at),
        }
    }

    /// How long it is away at least.
    pub(crate) fn away(&self, at: Preemption) -> Option<Duration> {
        let drawn = self.hash(at.actor, at.point, 4);
        (drawn & 1 != 0).then(|| Duration::from_nanos((drawn >> 1) % LONGEST_AWAY))
    }

    /// After how many instructions more it is preempted, at an atomic or an import: what is read and written without one lies between.
    pub(crate) fn steps(&self, at: Preemption) -> u32 {
        let drawn = self.hash(at.actor, at.point, 5);
        if drawn & 3 != 0 { 0 } else { 1 + ((drawn >> 2) % MOST_STEPS) as u32 }
    }

    /// The rank an actor begins with: above all that were put last, never 0.
    pub(crate) fn rank(&self, actor: u64) -> u64 {
        1 << 63 | self.hash(actor, 0, 2)
    }

    /// The `count`th number that an actor draws: what others draw meanwhile does not change it.
    pub(crate) fn number(&self, actor: u64, count: u64) -> u64 {
        self.hash(actor, count, 3)
    }

    fn hash(&self, actor: u64, count: u64, purpose: u64) -> u64 {
        mix(mix(mix(self.seed ^ purpose).wrapping_add(actor)).wrapping_add(count))
    }
}

/// The shortest list that still fails and can be reached by leaving out parts of `list`, by what `fails` says of each, which is
/// asked at most `most` times.
///
/// This is `ddmin` of Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input" (IEEE TSE 2002).
pub fn shrink(
    list: Vec<Preemption>,
    most: usize,
    mut fails: impl FnMut(&[Preemption]) -> bool,
) -> Vec<Preemption> {
    let (mut list, mut parts, mut asked) = (list, 2, 0);
    if !list.is_empty() && fails(&[]) {
        return Vec::new();
    }
    while list.len() > 1 {
        let size = list.len().div_ceil(parts);
        let mut shorter = None;
        for start in (0..list.len()).step_by(size) {
            let end = (start + size).min(list.len());
            let rest = [&list[..start], &list[end..]].concat();
            asked += 1;
            if asked > most {
                return list;
            }
            if fails(&rest) {
                shorter = Some(rest);
                break;
            }
        }
        match shorter {
            Some(rest) => (list, parts) = (rest, parts.saturating_sub(1).max(2)),
            None if size == 1 => break,
            None => parts = (parts * 2).min(list.len()),
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    fn preemptions(points: impl IntoIterator<Item = u64>) -> Vec<Preemption> {
        points.into_iter().map(|point| Preemption { actor: 3, point }).collect()
    }

    #[test]
    fn a_list_is_read_as_it_was_written() {
        let ours = preemptions([1, 70, 70_000]);
        assert_eq!(list(&ours), "3:1 3:70 3:70000");
        assert_eq!(read_list(&list(&ours)), Ok(ours));
        assert_eq!(read_list("3:1 4"), Err("4".to_owned()));
    }

    #[test]
    fn shrinking_keeps_what_is_needed() {
        let needed = preemptions([17, 80]);
        let fails = |list: &[Preemption]| needed.iter().all(|one| list.contains(one));
        assert_eq!(shrink(preemptions(0..100), 1000, fails), needed);
        assert_eq!(shrink(preemptions(0..100), 1000, |_| true), []);
        let asked_too_often = shrink(preemptions(0..100), 3, fails);
        assert!(fails(&asked_too_often));
    }
}
