//! What a tunnel's service is and does, apart from Windows: whom its files are to belong to, what it is installed with, what it notes.
//!
//! Nothing here calls Windows, so that every decision is shown on any host; `crate::windows` does what is decided.

pub mod definition;
pub mod descriptor;
pub mod driver_package;
pub mod events;
pub mod file_rules;
pub mod folder;
