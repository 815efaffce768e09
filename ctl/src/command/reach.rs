//! Reaches an interface's driver, and says why it could not.

use ctl::driver::{self, Driver};
use zeroize::Zeroizing;

use super::Failure;

/// Where interfaces are.
pub(super) fn driver() -> impl Driver {
    #[cfg(unix)]
    {
        ctl::driver::simulated::Simulated::default()
    }
    #[cfg(windows)]
    {
        ctl::windows::device::Adapters
    }
}

/// The configuration of an interface, and what its peers did.
pub(super) fn get(name: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    driver().open(name).and_then(|device| driver::get(&*device)).map_err(no_access)
}

/// The names of all interfaces.
pub(super) fn names(driver: &impl Driver) -> Result<Vec<String>, Failure> {
    driver.names().map_err(|error| Failure::new("Unable to list interfaces", error))
}

/// How an interface does, without its secrets, as its service tells whoever may not ask the driver. None where there is no such service.
pub(super) fn told_by_service(name: &str) -> Option<Vec<u8>> {
    #[cfg(unix)]
    {
        // The socket is the simulated driver's, and nobody else's.
        let _ = name;
        None
    }
    #[cfg(windows)]
    {
        ctl::windows::pipe_client::ask(name).ok()
    }
}

/// What is told of an interface that cannot be read.
pub(super) fn no_access(failure: driver::Failure) -> Failure {
    Failure::new("Unable to access interface", failure)
}
