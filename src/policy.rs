//! The policy values, as they were when the driver was loaded.

use core::fmt;

use abi::policy::Policy;
use nt::{
    irql::Passive,
    status::NtError,
    wdf::{Driver, ParametersKey},
};

/// A value for each [`Policy`].
pub(crate) struct Policies([Setting; Policy::COUNT]);

#[derive(Clone, Copy)]
struct Setting {
    value: u32,
    refused: Option<Refused>,
}

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
    /// Reads all of them; what cannot be applied is its default.
    pub(crate) fn read(driver: &Driver, passive: &Passive) -> Self {
        // Without the key there is nothing in it.
        let key = driver.parameters(passive).ok();
        let mut settings = [Setting { value: 0, refused: None }; Policy::COUNT];
        for (setting, policy) in settings.iter_mut().zip(Policy::ALL) {
            *setting = Setting::read(*policy, key.as_ref(), passive);
        }
        Self(settings)
    }

    /// The value that applies.
    pub(crate) fn get(&self, policy: Policy) -> u32 {
        self.0.get(policy as usize).map_or(policy.default(), |setting| setting.value)
    }

    /// What was set and is not applied.
    pub(crate) fn refused(&self) -> impl Iterator<Item = Refused> {
        self.0.iter().filter_map(|setting| setting.refused)
    }
}

impl Setting {
    fn read(policy: Policy, key: Option<&ParametersKey>, passive: &Passive) -> Self {
        let refuse = |why| Self { value: policy.default(), refused: Some(Refused { policy, why }) };
        match key.map(|key| key.query_u32(passive, policy.name())) {
            None | Some(Err(NtError::OBJECT_NAME_NOT_FOUND)) => {
                Self { value: policy.default(), refused: None }
            }
            Some(Err(error)) => refuse(Why::Unreadable(error)),
            Some(Ok(value)) if policy.range().contains(&value) => Self { value, refused: None },
            Some(Ok(value)) => refuse(Why::OutOfRange(value)),
        }
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
