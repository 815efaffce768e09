//! `WDF_OBJECT_ATTRIBUTES`: reading and the order in which it is refused.
//!
//! Source: `facts/kmdf.md` §1 (`object/fxvalidatefunctions.cpp`, read in Microsoft's source).

use super::driver_memory::Address;
use super::status::{self, NtStatus};

const SIZE: u32 = 56;
const TYPE_INFO_SIZE: u32 = 40;
const INHERIT: u32 = 1;
const SCOPE_NONE: u32 = 4;

/// What an object's kind allows in its attributes.
#[derive(Clone, Copy, Debug)]
pub struct Allowed {
    /// Whether a parent may or must be given.
    pub parent: Parent,
    /// Whether an execution level may be given.
    pub level: bool,
    /// Whether a synchronization scope may be given.
    pub scope: bool,
}

/// The rule for `ParentObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// Refused.
    Forbidden,
    /// Taken, with a default.
    Optional,
    /// Refused when missing.
    Mandatory,
}

/// Driver and device.
pub const DRIVER_OR_DEVICE: Allowed =
    Allowed { parent: Parent::Forbidden, level: true, scope: true };
/// I/O queue.
pub const QUEUE: Allowed = Allowed { parent: Parent::Optional, level: true, scope: true };
/// File objects of a device.
pub const FILE_OBJECT: Allowed = Allowed { parent: Parent::Forbidden, level: true, scope: true };
/// Requests of a device, and contexts added later.
pub const REQUEST: Allowed = Allowed { parent: Parent::Forbidden, level: false, scope: false };
/// Registry key.
pub const KEY: Allowed = Allowed { parent: Parent::Optional, level: false, scope: false };

/// One context: its type, its size and its callbacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContextType {
    /// Address of the `WDF_OBJECT_CONTEXT_TYPE_INFO` that identifies it; 0 for callbacks alone.
    pub unique: u64,
    /// Bytes.
    pub size: usize,
    /// `EvtCleanupCallback`, or 0.
    pub cleanup: u64,
    /// `EvtDestroyCallback`, or 0.
    pub destroy: u64,
}

/// Attributes that passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The context to attach.
    pub context: ContextType,
    /// `ParentObject`, or 0.
    pub parent: u64,
    /// `ExecutionLevel`, or 0 when there were no attributes.
    pub level: u32,
    /// `SynchronizationScope`, or 0 when there were no attributes.
    pub scope: u32,
}

impl Attributes {
    /// Reads and judges attributes; the first failing rule wins.
    ///
    /// # Errors
    ///
    /// The status of that rule.
    pub fn read(from: Address, allowed: Allowed) -> Result<Self, NtStatus> {
        if from.is_null() {
            return match allowed.parent {
                Parent::Mandatory => Err(status::WDF_PARENT_NOT_SPECIFIED),
                _ => Ok(Self::default()),
            };
        }
        if from.read::<u32>(0) != SIZE {
            return Err(status::INFO_LENGTH_MISMATCH);
        }
        let field = |offset| from.read::<u64>(offset);
        let (size_override, info) = (field(40), Address(field(48)));
        let mut context = read_type(info, size_override)?;
        (context.cleanup, context.destroy) = (field(8), field(16));
        let (level, scope) = (field(24) as u32, (field(24) >> 32) as u32);
        let attributes = Self { context, parent: field(32), level, scope };
        attributes.judge(allowed)?;
        Ok(attributes)
    }

    fn judge(self, allowed: Allowed) -> Result<(), NtStatus> {
        match allowed.parent {
            Parent::Forbidden if self.parent != 0 => {
                return Err(status::WDF_PARENT_ASSIGNMENT_NOT_ALLOWED);
            }
            Parent::Mandatory if self.parent == 0 => return Err(status::WDF_PARENT_NOT_SPECIFIED),
            _ => {}
        }
        if !(1..=3).contains(&self.level) || !(1..=4).contains(&self.scope) {
            return Err(status::WDF_OBJECT_ATTRIBUTES_INVALID);
        }
        if !allowed.scope && self.scope != INHERIT && self.scope != SCOPE_NONE {
            return Err(status::WDF_SYNCHRONIZATION_SCOPE_INVALID);
        }
        if !allowed.level && self.level != INHERIT {
            return Err(status::WDF_EXECUTION_LEVEL_INVALID);
        }
        Ok(())
    }
}

fn read_type(info: Address, size_override: u64) -> Result<ContextType, NtStatus> {
    if info.is_null() {
        return match size_override {
            0 => Ok(ContextType::default()),
            _ => Err(status::WDF_OBJECT_ATTRIBUTES_INVALID),
        };
    }
    if info.read::<u32>(0) != TYPE_INFO_SIZE {
        return Err(status::INFO_LENGTH_MISMATCH);
    }
    let field = |offset| info.read::<u64>(offset);
    let (name, size) = (field(8), field(16));
    if (size > 0 && name == 0) || (size_override != 0 && size_override < size) {
        return Err(status::WDF_OBJECT_ATTRIBUTES_INVALID);
    }
    let unique = if field(24) == 0 { info.0 } else { field(24) };
    let size = size.max(size_override).next_multiple_of(8) as usize;
    Ok(ContextType { unique, size, ..ContextType::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Attributes as `WDF_OBJECT_ATTRIBUTES_INIT` leaves them.
    fn initialised() -> [u64; 7] {
        [SIZE.into(), 0, 0, u64::from(INHERIT) << 32 | u64::from(INHERIT), 0, 0, 0]
    }

    fn verdict(attributes: &[u64; 7], allowed: Allowed) -> Result<Attributes, NtStatus> {
        Attributes::read(Address(attributes.as_ptr() as u64), allowed)
    }

    const TIMER: Allowed = Allowed { parent: Parent::Mandatory, level: true, scope: false };

    #[test]
    fn the_first_failing_rule_wins() {
        let mut info = [u64::from(TYPE_INFO_SIZE), 1, 24, 0, 0];
        type Change = fn(&mut [u64; 7], &mut [u64; 5]);
        let rows: [(Allowed, Change, NtStatus); 12] = [
            (DRIVER_OR_DEVICE, |_, _| (), status::SUCCESS),
            (DRIVER_OR_DEVICE, |a, _| a[0] = 55, status::INFO_LENGTH_MISMATCH),
            (DRIVER_OR_DEVICE, |_, info| info[0] = 39, status::INFO_LENGTH_MISMATCH),
            (DRIVER_OR_DEVICE, |_, info| info[1] = 0, status::WDF_OBJECT_ATTRIBUTES_INVALID),
            (DRIVER_OR_DEVICE, |a, _| a[5] = 23, status::WDF_OBJECT_ATTRIBUTES_INVALID),
            (DRIVER_OR_DEVICE, |a, _| (a[6], a[5]) = (0, 8), status::WDF_OBJECT_ATTRIBUTES_INVALID),
            (DRIVER_OR_DEVICE, |a, _| a[4] = 1, status::WDF_PARENT_ASSIGNMENT_NOT_ALLOWED),
            (TIMER, |_, _| (), status::WDF_PARENT_NOT_SPECIFIED),
            (DRIVER_OR_DEVICE, |a, _| a[3] = 0, status::WDF_OBJECT_ATTRIBUTES_INVALID),
            (DRIVER_OR_DEVICE, |a, _| a[3] = 5 << 32 | 1, status::WDF_OBJECT_ATTRIBUTES_INVALID),
            (
                TIMER,
                |a, _| (a[3], a[4]) = (3 << 32 | 1, 1),
                status::WDF_SYNCHRONIZATION_SCOPE_INVALID,
            ),
            (REQUEST, |a, _| a[3] = 1 << 32 | 2, status::WDF_EXECUTION_LEVEL_INVALID),
        ];
        for (number, (allowed, change, expected)) in rows.into_iter().enumerate() {
            let (mut attributes, mut info) = (initialised(), info);
            attributes[6] = 1;
            change(&mut attributes, &mut info);
            if attributes[6] != 0 {
                attributes[6] = info.as_ptr() as u64;
            }
            let got =
                verdict(&attributes, allowed).map_or_else(|status| status, |_| status::SUCCESS);
            assert_eq!(got, expected, "row {number}: {got:#x}");
        }
        info[2] = 21;
        let mut attributes = initialised();
        attributes[6] = info.as_ptr() as u64;
        let context = verdict(&attributes, DRIVER_OR_DEVICE).unwrap().context;
        assert_eq!(
            (context.size, context.unique),
            (24, info.as_ptr() as u64),
            "rounded up, by address"
        );
    }

    #[test]
    fn no_attributes_are_fine_unless_a_parent_is_needed() {
        let read = |allowed| Attributes::read(Address(0), allowed);
        assert!(read(QUEUE).is_ok());
        assert_eq!(read(TIMER), Err(status::WDF_PARENT_NOT_SPECIFIED));
    }
}
