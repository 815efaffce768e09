//! The policy engine: what policy comes to is written where the driver reads it, and the driver is told.
//!
//! The driver reads its service's key and nothing else ([`PARAMETERS`]). That key belongs to the engine: what policy says is there, and
//! what nobody says is not, whoever wrote it. Tunnels stay up: the driver takes over what it can at once.

use std::{fmt, io};

use abi::ioctl::RELOAD_POLICY;
use abi::policy::{Policy, SCALING_EXCLUDE, TextPolicy};

use super::{Effective, From, Registry, Value, number, text};
use crate::driver::{Driver, Failure};

/// The driver's own key, below HKEY_LOCAL_MACHINE.
pub const PARAMETERS: &str = r"SYSTEM\CurrentControlSet\Services\penstock\Parameters";

/// Where values are written, too.
pub trait Writable: Registry {
    /// Makes the value `name` of `key`, or changes it.
    ///
    /// # Errors
    ///
    /// Whatever writing says.
    fn set(&self, key: &str, name: &str, value: &Value) -> io::Result<()>;

    /// Removes the value `name` of `key`, if it is there.
    ///
    /// # Errors
    ///
    /// Whatever removing says.
    fn remove(&self, key: &str, name: &str) -> io::Result<()>;
}

/// A value that was not listened to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Its name.
    pub name: &'static str,
    /// Who said it.
    pub from: From,
    /// What is wrong, with range and default.
    pub why: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} (from {})", self.name, self.why, self.from)
    }
}

/// What the engine did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// The values that are others now.
    pub changed: Vec<&'static str>,
    /// What is refused and was not when the engine last looked.
    pub refused: Vec<Refusal>,
}

/// What was told already, so that it is told once.
#[derive(Default)]
pub struct Engine {
    told: Vec<Refusal>,
}

impl Engine {
    /// Writes what policy comes to where the driver reads it. The driver does not know of it yet ([`tell`]).
    ///
    /// # Errors
    ///
    /// The driver's key could not be read or written. What was written before that stays, and is a part of what policy says.
    pub fn apply(&mut self, registry: &impl Writable) -> io::Result<Applied> {
        let (mut applied, mut refused) = (Applied::default(), Vec::new());
        let mut wanted = Vec::new();
        for policy in Policy::ALL {
            let read = number(&policy.row(), registry);
            wanted.push(want(policy.name(), read, Value::Dword, &mut refused));
        }
        let read = text(TextPolicy::ScalingExclude, registry);
        wanted.push(want(SCALING_EXCLUDE, read, Value::Text, &mut refused));
        for (name, wanted) in wanted {
            let is = registry.value(PARAMETERS, name)?;
            if is == wanted {
                continue;
            }
            match &wanted {
                Some(value) => registry.set(PARAMETERS, name, value)?,
                None => registry.remove(PARAMETERS, name)?,
            }
            applied.changed.push(name);
        }
        applied.refused =
            refused.iter().filter(|refusal| !self.told.contains(refusal)).cloned().collect();
        self.told = refused;
        Ok(applied)
    }
}

/// What is to stand in the driver's key of a value that comes to `read`: nothing if nobody says anything.
fn want<V>(
    name: &'static str,
    read: Effective<V>,
    value: impl FnOnce(V) -> Value,
    refused: &mut Vec<Refusal>,
) -> (&'static str, Option<Value>) {
    refused.extend(read.refused.into_iter().map(|(from, why)| Refusal { name, from, why }));
    (name, (read.from != From::Default).then(|| value(read.value)))
}

/// Has the driver read its key again, by each of its adapters, and says which of them could not be asked.
///
/// Without an adapter nobody has to be told: the driver reads its key when it is loaded, and when an adapter comes up.
///
/// # Errors
///
/// The adapters could not be looked for.
pub fn tell(driver: &impl Driver) -> io::Result<Vec<(String, Failure)>> {
    let mut failed = Vec::new();
    for name in driver.names()? {
        let told = driver
            .open(&name)
            .and_then(|device| device.control(RELOAD_POLICY, &[], &mut [])?.status.check());
        if let Err(failure) = told {
            failed.push((name, failure));
        }
    }
    Ok(failed)
}
