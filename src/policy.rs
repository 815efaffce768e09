//! The policy values that apply now: as the registry had them when they were last read.
//!
//! They are read when the driver is loaded, when an adapter comes up, and when somebody asks for it
//! ([`crate::Core::follow_policy`]); whoever uses one asks for it each time. What was set and cannot be
//! applied is told to whoever had them read.

use core::{
    fmt,
    sync::atomic::{AtomicU32, Ordering},
};

use abi::{descriptor::Places, events::Event, places, policy::Policy};
use nt::{irql::Passive, mutex::Mutex, recorder, status::NtError, wdf::ParametersKey};

/// A value for each [`Policy`].
pub(crate) struct Policies {
    values: [AtomicU32; Policy::COUNT],
    /// Held while they are read: an older reading does not replace a newer one.
    reading: Mutex<()>,
}

/// What was set and is not applied.
pub(crate) struct Reading([Option<Refused>; Policy::COUNT]);

/// A value that is not applied.
#[derive(Clone, Copy)]
pub(crate) struct Refused {
    policy: Policy,
    why: Why,
}

#[derive(Clone, Copy)]
enum Why {
    OutOfRange(u32),
    Unreadable(NtError),
}

impl Policies {
    /// For a debugger.
    pub(crate) const PLACES: Places = places!("Policies", values);

    /// Their first values.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`].
    pub(crate) fn try_new(passive: &Passive) -> Result<Self, NtError> {
        let values = [const { AtomicU32::new(0) }; Policy::COUNT];
        let policies = Self { values, reading: Mutex::try_new(())? };
        policies.read(passive);
        Ok(policies)
    }

    /// Reads all of them anew; what cannot be applied is its default.
    pub(crate) fn read(&self, passive: &Passive) -> Reading {
        let _one_at_a_time = self.reading.lock(passive);
        // Without the key there is nothing in it.
        let key = ParametersKey::open(passive).ok();
        let mut reading = Reading([None; Policy::COUNT]);
        for ((policy, value), refused) in Policy::ALL.iter().zip(&self.values).zip(&mut reading.0) {
            let read = read(*policy, key.as_ref(), passive);
            // Relaxed: each value stands for itself.
            value.store(*read.as_ref().unwrap_or(&policy.default()), Ordering::Relaxed);
            *refused = read.err().map(|why| Refused { policy: *policy, why });
        }
        let refused = reading.refused().count() as u64;
        recorder::choose(self.get(Policy::RecorderLevel), self.get(Policy::RecorderKeywords));
        recorder::note(Event::PolicyRead, [refused, 0, 0, 0]);
        reading
    }

    /// The value that applies now. Any IRQL.
    pub(crate) fn get(&self, policy: Policy) -> u32 {
        let value = self.values.get(policy as usize);
        value.map_or(policy.default(), |value| value.load(Ordering::Relaxed))
    }
}

impl Reading {
    /// What is not applied, and why.
    pub(crate) fn refused(&self) -> impl Iterator<Item = &Refused> {
        self.0.iter().flatten()
    }
}

/// The value of one; a value that is not there is the default.
fn read(policy: Policy, key: Option<&ParametersKey>, passive: &Passive) -> Result<u32, Why> {
    match key.map(|key| key.query_u32(passive, policy.name())) {
        None | Some(Err(NtError::OBJECT_NAME_NOT_FOUND)) => Ok(policy.default()),
        Some(Err(error)) => Err(Why::Unreadable(error)),
        Some(Ok(value)) if policy.range().contains(&value) => Ok(value),
        Some(Ok(value)) => Err(Why::OutOfRange(value)),
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, why } = self;
        let (name, range, default) = (policy.name(), policy.range(), policy.default());
        match why {
            Why::OutOfRange(value) => write!(
                f,
                "policy {name} is {value}, and may be {} to {}: {default} applies",
                range.start(),
                range.end()
            ),
            Why::Unreadable(error) => {
                write!(f, "policy {name} cannot be read as a number ({error}): {default} applies")
            }
        }
    }
}
