//! The CPU of the host that the threads of a virtual world share.
//!
//! One of them runs at a time: with more CPUs they would only wait for each other to wake up. Worlds of one process are spread over its CPUs.

use std::mem;
use std::sync::Mutex;

use super::lock;

/// CPUs of this process, and how many worlds are on each. Empty before the first, and where the host does not say.
static WORLDS: Mutex<Vec<(usize, usize)>> = Mutex::new(Vec::new());

/// A world's CPU of the host.
pub(super) struct HostCpu(usize);

impl HostCpu {
    /// Takes the one with the fewest worlds, the caller's if it is one of these; nothing where the host does not say.
    pub(super) fn take() -> Option<Self> {
        let mut worlds = lock(&WORLDS);
        if worlds.is_empty() {
            worlds.extend(members(&allowed()?).map(|cpu| (cpu, 0)));
        }
        // SAFETY: it asks for a number.
        let here = usize::try_from(unsafe { libc::sched_getcpu() }).ok();
        let fewest = worlds.iter_mut().min_by_key(|(cpu, count)| (*count, Some(*cpu) != here))?;
        fewest.1 += 1;
        Some(Self(fewest.0))
    }

    /// Keeps the calling thread there until what this gives is dropped.
    pub(super) fn stay(&self) -> Stay {
        let before = allowed();
        let mut only = none();
        // SAFETY: the number came out of such a set.
        unsafe { libc::CPU_SET(self.0, &mut only) };
        allow(&only);
        Stay(before)
    }
}

impl Drop for HostCpu {
    fn drop(&mut self) {
        let mut worlds = lock(&WORLDS);
        if let Some((_, count)) = worlds.iter_mut().find(|(cpu, _)| *cpu == self.0) {
            *count -= 1;
        }
    }
}

/// While it lives the thread stays on one CPU.
pub(super) struct Stay(Option<libc::cpu_set_t>);

impl Drop for Stay {
    fn drop(&mut self) {
        self.0.iter().for_each(allow);
    }
}

fn none() -> libc::cpu_set_t {
    // SAFETY: numbers; a set of none.
    unsafe { mem::zeroed() }
}

fn members(set: &libc::cpu_set_t) -> impl Iterator<Item = usize> {
    // SAFETY: the numbers are those that a set has room for.
    (0..8 * size_of_val(set)).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, set) })
}

/// Where the calling thread may run.
fn allowed() -> Option<libc::cpu_set_t> {
    let mut set = none();
    // SAFETY: the set is ours, and as long as is said.
    let result = unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) };
    (result == 0).then_some(set)
}

/// Has the calling thread run there. If the host refuses, it runs where it did, which is only slower.
fn allow(set: &libc::cpu_set_t) {
    // SAFETY: the set is as long as is said.
    let _ = unsafe { libc::sched_setaffinity(0, size_of_val(set), set) };
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::verifier::schedule::{Mode, World};

    fn here() -> Vec<usize> {
        members(&allowed().unwrap()).collect()
    }

    #[test]
    fn a_virtual_world_is_on_one_cpu_and_leaves_threads_where_they_were() {
        let before = here();
        let world = World::new(Mode::Virtual { seed: 1 });
        let presence = world.enter("test");
        let (tell, told) = mpsc::channel();
        let other = world.spawn("other", move || tell.send(here()).unwrap());
        assert!(other.join(None));
        let cpus = here();
        assert_eq!(cpus.len(), 1);
        assert_eq!(told.recv().unwrap(), cpus);
        drop(presence);
        assert_eq!(here(), before);
    }

    #[test]
    fn a_parallel_one_is_wherever_it_may_be() {
        let before = here();
        let _presence = World::new(Mode::Parallel).enter("test");
        assert_eq!(here(), before);
    }

    #[test]
    fn worlds_are_on_all_cpus() {
        let cpus = here();
        let taken: Vec<_> = (0..50 * cpus.len()).map(|_| HostCpu::take().unwrap()).collect();
        assert!(cpus.iter().all(|cpu| taken.iter().any(|taken| taken.0 == *cpu)));
    }
}
