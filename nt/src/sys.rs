//! Raw declarations that `wdk-sys` does not generate.
//!
//! One file per component, each naming its header and kit version; every layout is asserted in
//! place, and every number in here is compared with `nt/tests/abi.json` by a test. The routines are
//! resolved by the import libraries of the driver kit, or by those made from `scripts/wdk/lib`.

pub mod cng;
pub mod etw;
pub mod fwp;
pub mod ke;
pub mod ndis;
pub mod netcx;
pub mod netio;
pub mod wsk;
