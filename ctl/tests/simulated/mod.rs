//! The simulated driver as a process, which the tests of `penstock` start.
//!
//! Needs root, /dev/net/tun, penstock.sys (scripts/build.sh) and penstock-sim (`cargo build --release -p sim`).

use std::path::Path;
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant};

pub(crate) const PENSTOCK: &str = env!("CARGO_BIN_EXE_penstock");

/// A simulated driver with one interface.
pub(crate) struct Tunnel {
    pub(crate) name: String,
    process: Child,
}

impl Tunnel {
    /// In this network namespace, or in the test's own.
    pub(crate) fn up(letter: char, namespace: Option<&str>) -> Self {
        let name = format!("pen{letter}{}", std::process::id());
        let tests = std::env::current_exe().unwrap();
        // target/PROFILE/deps/beside_wg; the simulator is fast enough in one profile only.
        let target = tests.ancestors().nth(3).unwrap();
        let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/driver/penstock.sys");
        let program = target.join("release/penstock-sim");
        let mut simulator =
            Command::new(if namespace.is_some() { "ip".as_ref() } else { &*program });
        if let Some(namespace) = namespace {
            simulator.args(["netns", "exec", namespace]).arg(&program);
        }
        let process = simulator.args(["up", &name, "--driver"]).arg(driver).spawn().unwrap();
        let mut tunnel = Self { name, process };
        let deadline = Instant::now() + Duration::from_secs(60);
        while !run(PENSTOCK, &["show", &tunnel.name]).status.success() {
            assert_eq!(tunnel.process.try_wait().unwrap(), None, "the simulator ended");
            assert!(Instant::now() < deadline, "{} does not answer", tunnel.name);
            std::thread::sleep(Duration::from_millis(20));
        }
        tunnel
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        // It unloads the driver and says what that left behind.
        let _ = Command::new("kill").arg(self.process.id().to_string()).status();
        let ended = self.process.wait().unwrap();
        assert!(ended.success() || std::thread::panicking(), "{}: {ended}", self.name);
    }
}

pub(crate) fn run(program: &str, arguments: &[&str]) -> Output {
    let shown = [("WG_COLOR_MODE", "always"), ("WG_HIDE_KEYS", "never")];
    Command::new(program).args(arguments).envs(shown).output().unwrap()
}
