//! Tables whose rows have numbers: an enum that lists itself, and tells name and meaning of each row.

/// Makes an enum of the rows, numbered from 0 in their order; a row's text is its description.
macro_rules! table {
    (
        $(#[doc = $about:literal])+
        $table:ident { $($(#[doc = $doc:literal])+ $name:ident,)* }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum $table {
            $($(#[doc = $doc])+ $name,)*
        }

        impl $table {
            /// Every row, in the order of its number.
            pub const ALL: &[Self] = &[$(Self::$name,)*];
            /// How many rows there are.
            pub const COUNT: usize = Self::ALL.len();
            /// The names, each on a line, in the order of its number.
            pub const NAMES: &str = concat!($(stringify!($name), "\n"),*);

            /// The row's name, as it stands in this file.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// What it means, for a person.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc,)+).trim_ascii(),)* }
            }
        }
    };
}
pub(crate) use table;
