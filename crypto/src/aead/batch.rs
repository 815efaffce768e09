//! A batch from its jobs to its verdicts: lengths checked, sorted, dealt in groups to a tier.
//!
//! Lanes wait for the longest packet of their group, so jobs are sorted by length first. The sort
//! counts instead of comparing: a pass over the lengths, sixty-four sums, a pass to place them. It
//! is stable, takes the same time for any order, and cannot fail.

use super::group::{GROUP, Group, Packet, Tag};
use super::wipe::Depth;
use super::{Job, MAX_LEN, Source, TAG_LEN, Verdict};

/// Most jobs that are sorted together.
pub(super) const BATCH: usize = 64;

/// What a tier does with a group.
pub(super) trait Engine {
    /// Adds the key stream to the text, and computes the tags of what that gives, for the group to keep.
    fn seal(&self, group: &mut Group<'_, '_>);
    /// Adds the key stream to the text of authentic packets and zeroes the output of the others.
    ///
    /// Returns which packets are authentic, as bits.
    fn open(&self, group: &mut Group<'_, '_>) -> u16;
    /// The most packets of a group that are faster one by one. Measured.
    const FEW_TO_SEAL: usize;
    /// The same for opening, where a group computes its first blocks apart.
    const FEW_TO_OPEN: usize;
    /// Derives the one-time key and adds the key stream to the text; returns the tag.
    fn seal_one(&self, key: &[u32; 8], counter: u64, packet: &mut Packet) -> Tag;
    /// If the packet's tag is `tag`, adds the key stream to the text; else zeroes the output.
    ///
    /// Returns whether it was.
    fn open_one(&self, key: &[u32; 8], counter: u64, packet: &Packet, tag: Tag) -> bool;
    /// Wipes the registers, and the stack below the caller.
    fn clear(&self, depth: Depth);
}

/// Seals all jobs whose lengths agree, and leaves nothing of their keys behind.
///
/// Returns how many bytes of destinations were written.
pub(super) fn seal<E: Engine>(engine: &E, jobs: &mut [Job<'_>]) -> usize {
    let (depth, written) = seal_all(engine, jobs);
    engine.clear(depth);
    written
}

/// Opens all jobs whose lengths agree, and leaves nothing of their keys behind.
///
/// Returns how many bytes of destinations were written.
pub(super) fn open<E: Engine>(engine: &E, jobs: &mut [Job<'_>]) -> usize {
    let (depth, written) = open_all(engine, jobs);
    engine.clear(depth);
    written
}

/// Seals all jobs; returns how much stack that took, and how many bytes of destinations were written.
#[inline(never)] // Its stack is wiped by the caller, so it must be a frame of its own.
fn seal_all<E: Engine>(engine: &E, jobs: &mut [Job<'_>]) -> (Depth, usize) {
    let (mut depth, mut written) = (Depth::Shallow, 0);
    for jobs in jobs.chunks_mut(BATCH) {
        if jobs.len() <= E::FEW_TO_SEAL {
            for job in jobs {
                if to_seal(job).is_some() {
                    written += seal_alone(engine, job);
                }
            }
            continue;
        }
        let sorted = Sorted::of(jobs, to_seal);
        for members in sorted.indices().chunks(GROUP) {
            if members.len() > E::FEW_TO_SEAL {
                written += seal_group(engine, jobs, members);
                depth = Depth::Deep;
                continue;
            }
            for &index in members {
                let Some(job) = jobs.get_mut(usize::from(index)) else { break };
                written += seal_alone(engine, job);
            }
        }
    }
    (depth, written)
}

/// Seals a job whose lengths agree; returns how many bytes were written.
#[inline(never)] // Its frame would add to that of a group.
fn seal_alone<E: Engine>(engine: &E, job: &mut Job<'_>) -> usize {
    let mut packet = Packet::to_seal(job, 0);
    let tag = engine.seal_one(job.key.words(), job.counter, &mut packet);
    packet.write_tag(tag);
    job.verdict = Verdict::Done;
    packet.written() + TAG_LEN
}

/// Seals the packets of one group side by side; returns how many bytes were written.
#[inline(never)]
fn seal_group<E: Engine>(engine: &E, jobs: &mut [Job<'_>], members: &[u8]) -> usize {
    let written = {
        let mut group = Group::new(jobs);
        let written = group.take_to_seal(members);
        engine.seal(&mut group);
        written + group.write_tags()
    };
    for &index in members {
        let Some(job) = jobs.get_mut(usize::from(index)) else { break };
        job.verdict = Verdict::Done;
    }
    written
}

/// Opens all jobs; returns how much stack that took, and how many bytes of destinations were written.
#[inline(never)] // Its stack is wiped by the caller, so it must be a frame of its own.
fn open_all<E: Engine>(engine: &E, jobs: &mut [Job<'_>]) -> (Depth, usize) {
    let (mut depth, mut written) = (Depth::Shallow, 0);
    for jobs in jobs.chunks_mut(BATCH) {
        if jobs.len() <= E::FEW_TO_OPEN {
            for job in jobs {
                if to_open(job).is_some() {
                    written += open_alone(engine, job);
                }
            }
            continue;
        }
        let sorted = Sorted::of(jobs, to_open);
        for members in sorted.indices().chunks(GROUP) {
            if members.len() > E::FEW_TO_OPEN {
                written += open_group(engine, jobs, members);
                depth = Depth::Deep;
                continue;
            }
            for &index in members {
                let Some(job) = jobs.get_mut(usize::from(index)) else { break };
                written += open_alone(engine, job);
            }
        }
    }
    (depth, written)
}

/// Opens a job whose lengths agree; returns how many bytes were written.
#[inline(never)] // As above.
fn open_alone<E: Engine>(engine: &E, job: &mut Job<'_>) -> usize {
    let (packet, tag) = Packet::to_open(job, 0);
    let done = engine.open_one(job.key.words(), job.counter, &packet, tag);
    job.verdict = if done { Verdict::Done } else { Verdict::Forged };
    packet.written()
}

/// Opens the packets of one group side by side; returns how many bytes were written.
#[inline(never)]
fn open_group<E: Engine>(engine: &E, jobs: &mut [Job<'_>], members: &[u8]) -> usize {
    let (authentic, written) = {
        let mut group = Group::new(jobs);
        let written = group.take_to_open(members);
        (engine.open(&mut group), written)
    };
    for (at, &index) in members.iter().enumerate() {
        let Some(job) = jobs.get_mut(usize::from(index)) else { break };
        let done = authentic >> at & 1 == 1;
        job.verdict = if done { Verdict::Done } else { Verdict::Forged };
    }
    written
}

/// Whether a job can be sealed, else [`Verdict::Pending`]. `None` if its lengths do not agree.
pub(super) fn to_seal(job: &mut Job<'_>) -> Option<usize> {
    job.verdict = Verdict::Pending;
    let len = job.source.len();
    (len <= MAX_LEN && job.destination.len() == len + TAG_LEN).then_some(len)
}

/// The plaintext's length of a job that can be opened; else its verdict is set.
pub(super) fn to_open(job: &mut Job<'_>) -> Option<usize> {
    job.verdict = Verdict::Pending;
    let source_len = job.source.len();
    let Some(len) = source_len.checked_sub(TAG_LEN) else {
        job.verdict = Verdict::Forged;
        return None;
    };
    let needed = if matches!(job.source, Source::InPlace { .. }) { source_len } else { len };
    (len <= MAX_LEN && job.destination.len() >= needed).then_some(len)
}

/// The indices of a batch's jobs, shortest first.
struct Sorted {
    indices: [u8; BATCH],
    count: usize,
}

/// Classes of length: 32 bytes wide up to 1 KiB and a bit, then ever wider.
const CLASSES: usize = 64;

impl Sorted {
    /// Takes the jobs for which `len` gives a length.
    #[inline(never)]
    fn of<'j>(jobs: &mut [Job<'j>], len: impl Fn(&mut Job<'j>) -> Option<usize>) -> Self {
        // The classes that count, in the order of the jobs, and the jobs they are of.
        let mut classes = [0_u8; BATCH];
        let mut sorted = Self { indices: [0; BATCH], count: 0 };
        let mut differing = 0;
        for (index, job) in jobs.iter_mut().enumerate().take(BATCH) {
            if let Some(len) = len(job) {
                let class = class_of(len);
                classes[sorted.count % BATCH] = class;
                sorted.indices[sorted.count % BATCH] = index as u8;
                sorted.count += 1;
                differing |= class ^ classes[0];
            }
        }
        // Most batches are of one length, and then in order.
        if differing != 0 {
            sorted.place(&classes);
        }
        sorted
    }

    /// Sorts the indices by the classes of their jobs.
    fn place(&mut self, classes: &[u8; BATCH]) {
        let classes = classes.get(..self.count).unwrap_or(&[]);
        let mut starts = [0_u8; CLASSES + 1];
        for class in classes {
            starts[usize::from(*class) % CLASSES + 1] += 1;
        }
        for class in 1..=CLASSES {
            starts[class] += starts[class - 1];
        }
        let unsorted = self.indices;
        for (index, class) in unsorted.iter().zip(classes) {
            let start = &mut starts[usize::from(*class) % CLASSES];
            self.indices[usize::from(*start) % BATCH] = *index;
            *start += 1;
        }
    }

    fn indices(&self) -> &[u8] {
        self.indices.get(..self.count).unwrap_or(&[])
    }
}

/// The class of a length; never falls as the length grows.
fn class_of(len: usize) -> u8 {
    let class = if len < 1536 { len.div_ceil(32) } else { 48 + (len - 1536) / 1024 };
    class.min(CLASSES - 1) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_grow_with_lengths_and_fit() {
        let mut last = 0;
        for len in (0..70_000).chain([MAX_LEN - 1, MAX_LEN]) {
            let class = class_of(len);
            assert!(class >= last && usize::from(class) < CLASSES, "{len}");
            last = class;
        }
    }

    #[test]
    fn jobs_come_shortest_first_and_each_once() {
        extern crate std;
        let key = crate::aead::Key::new([0; 32]);
        let lens = [1420, 64, 0, 576, 64, 9000, 1, 1420, 33];
        let mut buffers = lens.map(|len| std::vec![0; len + TAG_LEN]);
        let mut jobs: std::vec::Vec<Job<'_>> = buffers
            .iter_mut()
            .zip(lens)
            .map(|(buffer, len)| Job {
                key: &key,
                counter: 0,
                // One whose lengths do not agree is left out.
                source: Source::InPlace { len: if len == 576 { 575 } else { len } },
                destination: buffer,
                verdict: Verdict::Done,
            })
            .collect();
        let sorted = Sorted::of(&mut jobs, to_seal);
        assert_eq!(sorted.indices(), [2, 6, 1, 4, 8, 0, 7, 5]);
        assert_eq!(jobs[3].verdict, Verdict::Pending);
    }
}
