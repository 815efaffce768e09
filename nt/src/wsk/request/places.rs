//! Where a debugger finds how many requests of a pool are there; the rest are away.

use abi::{descriptor::Places, places};

use super::{Home, SendPool};

impl Home {
    const PLACES: Places = places!("SendHome", count);
}

impl SendPool {
    /// A pool and its home.
    pub const PLACES: [Places; 2] = [places!("SendPool", home), Home::PLACES];
}
