//! The image's load configuration: what its imports name is looked for in System32 alone.
//!
//! What is loaded before the first instruction of `main` runs has to be said in the file; what is loaded later is
//! `ctl::windows::process`'s.
//!
//! Source: `IMAGE_LOAD_CONFIG_DIRECTORY64`, <https://learn.microsoft.com/windows/win32/debug/pe-format#the-load-configuration-structure-image-only>.
#![allow(unsafe_code)]

/// LOAD_LIBRARY_SEARCH_SYSTEM32.
const SEARCH_SYSTEM32: u16 = 0x800;
/// Bytes of the structure up to Windows 8.1's, which DependentLoadFlags is the last but one field of.
const LEN: usize = 0x70;
/// Where DependentLoadFlags is.
const DEPENDENT_LOAD_FLAGS: usize = 0x4E;

/// The structure, by the name that linkers look for.
#[repr(C, align(8))]
struct LoadConfig([u8; LEN]);

// SAFETY: no other symbol has this name, which linkers keep for this structure.
#[used]
#[unsafe(no_mangle)]
static _load_config_used: LoadConfig = {
    let mut bytes = [0; LEN];
    bytes[0] = LEN as u8;
    [bytes[DEPENDENT_LOAD_FLAGS], bytes[DEPENDENT_LOAD_FLAGS + 1]] = SEARCH_SYSTEM32.to_le_bytes();
    LoadConfig(bytes)
};
