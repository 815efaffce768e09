//! The driver package: `penstock.inf`, and whether it is right.
//!
//! Windows' own judge of INF files, InfVerif, runs on Windows only; the rules it has for a driver that Microsoft signs
//! (`/h`) and for an isolated one (`/w`) are here, as far as they can touch this file, and those that no tool of Windows
//! knows: what the INF says of values is what the policy table says, and what keywords it offers somebody reads.
//!
//! | file | what |
//! |---|---|
//! | `text` | an INF file as sections, entries and fields |
//! | `rules` | the rules, each with what InfVerif calls it; which section refers to which |
//! | `keywords` | the keywords of network adapters that have a meaning here |
//! | `catalog` | the package's files by their hashes, to be signed |
//! | `stamp` | version and date |
//! | `installer` | the tables of the MSI, and their rules |
//! | `powershell` | the rules of the scripts for Windows, only tested |
//! | `templates` | the Group Policy templates, by the same table |
#![forbid(unsafe_code)]

#[cfg(test)]
mod breaches;
pub mod catalog;
pub mod installer;
pub mod keywords;
#[cfg(test)]
mod powershell;
pub mod rules;
pub mod stamp;
pub mod templates;
pub mod text;

/// The INF as it is in the repository: without a version.
pub const TEMPLATE: &str = include_str!("../penstock.inf");
/// The driver's service.
pub const SERVICE: &str = "penstock";
