//! Where a debugger begins: one exported [`Descriptor`], from which everything the driver keeps can be found.
//!
//! It tells where the roots are and how the driver's own structures are laid out in this very build, by name: the compiler lays
//! them out, and says here where it put what ([`Places`]). Nothing is kept twice for a debugger's sake. The names of events, of
//! reasons for discards, of counters and of policy values are told as well, so a reader needs neither the driver's symbols nor
//! lists of its own: what it needs are the names of this file.
//!
//! No key, nor where one lies, is told.

use core::{
    mem::offset_of,
    sync::atomic::{AtomicU32, AtomicU64},
};

use crate::{discard::Discard, events, policy::Policy, statistics::Counter};

/// The name of the exported [`Descriptor`].
pub const NAME: &str = "PenstockDescriptor";
/// What it begins with.
pub const MAGIC: [u8; 8] = *b"PENSTOCK";
/// Of the layout of this file's structures.
pub const VERSION: u32 = 1;

/// A text in the driver's image.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Text {
    first: &'static u8,
    bytes: u64,
}

impl Text {
    /// A text that is not empty.
    ///
    /// # Panics
    ///
    /// If it is; what is constant then does not compile.
    #[must_use]
    pub const fn new(text: &'static str) -> Self {
        match text.as_bytes() {
            all @ [first, ..] => Self { first, bytes: all.len() as u64 },
            [] => panic!("a text has a first byte"),
        }
    }
}

/// Where a structure has its fields.
///
/// The text is the structure's name and those of its fields, with blanks between; there is a number for each: the structure's
/// size, and where in it the field is, in bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Places {
    names: Text,
    values: &'static u32,
    count: u64,
}

impl Places {
    /// Of [`places`](crate::places).
    ///
    /// # Panics
    ///
    /// As [`Text::new`].
    #[must_use]
    pub const fn new(names: &'static str, values: &'static [u32]) -> Self {
        match values {
            [first, ..] => {
                Self { names: Text::new(names), values: first, count: values.len() as u64 }
            }
            [] => panic!("a structure has a size"),
        }
    }
}

/// The [`Places`] of a structure, in an `impl` of its own: `places!("Name", field, other = expression)`.
///
/// A field is where the compiler put it; what lies deeper, an expression says.
#[macro_export]
macro_rules! places {
    (@ $field:ident) => { ::core::mem::offset_of!(Self, $field) };
    (@ $field:ident $value:expr) => { $value };
    ($name:literal $(, $field:ident $(= $value:expr)?)* $(,)?) => {
        $crate::descriptor::Places::new(
            concat!($name $(, " ", stringify!($field))*),
            const { &[size_of::<Self>() as u32 $(, $crate::places!(@ $field $($value)?) as u32)*] },
        )
    };
}

/// Structures that belong together.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Group {
    /// What their names begin with besides; a blank is nothing.
    prefix: Text,
    first: &'static Places,
    count: u64,
}

impl Group {
    /// A group of what is not empty.
    ///
    /// # Panics
    ///
    /// As [`Text::new`].
    #[must_use]
    pub const fn new(prefix: &'static str, places: &'static [Places]) -> Self {
        match places {
            [first, ..] => Self { prefix: Text::new(prefix), first, count: places.len() as u64 },
            [] => panic!("a group has a first structure"),
        }
    }
}

/// Where everything is. `GROUPS` is how many groups of structures there are.
#[derive(Debug)]
#[repr(C)]
pub struct Descriptor<const GROUPS: usize> {
    magic: [u8; 8],
    version: u32,
    /// Bytes of this descriptor.
    size: u32,
    /// Address of what all adapters share, a `Core`; 0 while there is none.
    pub core: AtomicU64,
    /// The flight recorder.
    recorder: &'static events::Descriptor,
    /// In which of a vector's three words the address of its elements is, and in which how many there are: found out when the
    /// driver is loaded, as the standard library does not tell.
    pub vector: [AtomicU32; 2],
    /// A line for each event: its name, and what its words are, with semicolons between.
    events: Text,
    /// A line for each reason.
    discards: Text,
    /// A line for each counter.
    counters: Text,
    /// A line for each policy value.
    policies: Text,
    group_count: u64,
    groups: [Group; GROUPS],
}

const _: () = {
    assert!(size_of::<Text>() == 16 && size_of::<Places>() == 32 && size_of::<Group>() == 32);
    assert!(offset_of!(Descriptor<1>, core) == 16);
    assert!(offset_of!(Descriptor<1>, recorder) == 24);
    assert!(offset_of!(Descriptor<1>, vector) == 32);
    assert!(offset_of!(Descriptor<1>, events) == 40);
    assert!(offset_of!(Descriptor<1>, group_count) == 104);
    assert!(offset_of!(Descriptor<1>, groups) == 112);
};

impl<const GROUPS: usize> Descriptor<GROUPS> {
    /// One of a driver that is not loaded yet.
    #[must_use]
    pub const fn new(recorder: &'static events::Descriptor, groups: [Group; GROUPS]) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            size: size_of::<Self>() as u32,
            core: AtomicU64::new(0),
            recorder,
            vector: [const { AtomicU32::new(0) }; 2],
            events: Text::new(events::Event::TABLE),
            discards: Text::new(Discard::NAMES),
            counters: Text::new(Counter::NAMES),
            policies: Text::new(Policy::NAMES),
            group_count: GROUPS as u64,
            groups,
        }
    }
}

/// The address of the flight recorder's descriptor, in one that was copied from somewhere; `None` if it is none, or of another
/// layout.
#[must_use]
pub fn recorder_of(bytes: &[u8]) -> Option<u64> {
    let (magic, rest) = bytes.split_first_chunk()?;
    let version = u32::from_le_bytes(*rest.first_chunk()?);
    let known = (*magic, version) == (MAGIC, VERSION);
    known.then_some(u64::from_le_bytes(
        *bytes.get(offset_of!(Descriptor<1>, recorder)..)?.first_chunk()?,
    ))
}

/// How much of a descriptor [`recorder_of`] wants.
pub const HEAD_BYTES: usize = offset_of!(Descriptor<1>, groups);

#[cfg(test)]
mod tests {
    use super::*;

    /// A structure whose order is the compiler's to choose.
    struct Sample {
        _small: u8,
        large: u64,
        nested: (u16, u32),
    }

    impl Sample {
        const PLACES: Places = crate::places!(
            "Sample",
            large,
            deep = offset_of!(Self, nested) + offset_of!((u16, u32), 1)
        );
    }

    #[test]
    fn places_are_those_of_the_structure() {
        let sample = Sample { _small: 1, large: 2, nested: (3, 4) };
        let from = |part: *const u32| part as usize - core::ptr::from_ref(&sample) as usize;
        let Places { names, values, count } = Sample::PLACES;
        assert_eq!((names.bytes, *values, count), (17, size_of::<Sample>() as u32, 3));
        let expected = [
            size_of::<Sample>(),
            from(core::ptr::from_ref(&sample.large).cast()),
            from(core::ptr::from_ref(&sample.nested.1)),
        ];
        const VALUES: &[u32] = const {
            &[
                size_of::<Sample>() as u32,
                offset_of!(Sample, large) as u32,
                (offset_of!(Sample, nested) + offset_of!((u16, u32), 1)) as u32,
            ]
        };
        assert_eq!(expected.map(|value| value as u32), VALUES);
    }

    #[test]
    fn a_descriptor_of_another_layout_tells_nothing() {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[24..32].copy_from_slice(&0x1234_u64.to_le_bytes());
        assert_eq!(recorder_of(&bytes), Some(0x1234));
        for at in [0, 8] {
            let mut wrong = bytes;
            wrong[at] ^= 1;
            assert_eq!(recorder_of(&wrong), None, "byte {at}");
        }
        assert_eq!(recorder_of(&bytes[..31]), None);
    }
}
