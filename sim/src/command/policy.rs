//! `penstock-sim policy`: what an administrator does to a driver that runs in `penstock-sim up`.

use std::path::Path;

use clap::Args;
use sim::host::uapi::{self, policy::Setting};

use super::{Failure, Outcome};

/// Arguments of `policy`.
#[derive(Args)]
pub(crate) struct Change {
    /// Name of the TUN device.
    name: String,
    /// Values to set, as NAME=VALUE, or to remove, as NAME=; with none the driver reads what is there.
    ///
    /// An unknown NAME is answered with the list of them.
    #[arg(value_name = "NAME=VALUE", value_parser = setting)]
    settings: Vec<Setting>,
}

/// Reads `NAME=VALUE` or `NAME=`.
fn setting(text: &str) -> Result<Setting, String> {
    match uapi::policy::parse(text) {
        Some(setting) => Ok(setting),
        // Says what is wrong with it.
        None => Err(match super::policy(text) {
            Ok(super::Setting::Text(name, _)) => {
                format!("{name} is read when the driver is loaded: set it with `penstock-sim up`")
            }
            Ok(_) => "it is written NAME=VALUE or NAME=".to_owned(),
            Err(wrong) => wrong,
        }),
    }
}

impl Change {
    /// Changes the values, and returns when every adapter follows them.
    pub(crate) fn run(self) -> Outcome {
        let failure = |error| Failure::new(format!("{}: {error}", self.name));
        match uapi::policy::change(Path::new(uapi::DIRECTORY), &self.name, &self.settings) {
            Ok(0) => Ok(Vec::new()),
            Ok(errno) => Err(failure(std::io::Error::from_raw_os_error(errno))),
            Err(error) => Err(failure(error)),
        }
    }
}
