//! A Windows that Wine plays, of its own for each run of the tests: `penstock.exe` in it, and what Wine 8 lacks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// What `scripts/build.sh --ctl --tests` makes.
const BUILT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/ctl");
/// Built into the prefix: Rust's standard library needs it, and Wine 8 has none.
const PRNG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wine/bcryptprimitives.c");

/// What the services of the prefix tell in the event log, which Wine writes where whoever starts it writes.
const EVENTS: &str = "events.log";

/// Where it is; and a process that ends with this one, without which Wine would end its services between two of the tests.
fn directory() -> &'static Path {
    static PREFIX: OnceLock<(PathBuf, Child)> = OnceLock::new();
    let (prefix, _) = PREFIX.get_or_init(|| {
        let prefix = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wine");
        let _ = fs::remove_dir_all(&prefix);
        fs::create_dir_all(&prefix).unwrap();
        // To the end of what it writes: its services, which it starts anew, end with it.
        let ended = wine_in(&prefix).args(["wineboot", "--init"]).output();
        let ended = ended.expect("no wine: scripts/setup.sh");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        let ended = Command::new("wineserver").arg("-w").env("WINEPREFIX", &prefix).status();
        assert!(ended.expect("no wine: scripts/setup.sh").success());
        let log = File::create(prefix.join(EVENTS)).unwrap();
        let mut keeper = wine_in(&prefix);
        keeper.arg("cmd").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(log);
        let keeper = keeper.spawn().unwrap();
        let dll = prefix.join("drive_c/windows/system32/bcryptprimitives.dll");
        // Wine's own, where a newer one has it, stays.
        if !dll.exists() {
            let ended = Command::new("x86_64-w64-mingw32-gcc")
                .args(["-O1", "-shared", "-nostdlib", "-e", "DllMain", "-o"])
                .args([&dll, Path::new(PRNG)])
                .arg("-ladvapi32")
                .status();
            assert!(ended.expect("no mingw-w64: scripts/setup.sh").success());
        }
        (prefix, keeper)
    });
    prefix
}

/// Drive C.
pub(crate) fn drive() -> PathBuf {
    directory().join("drive_c")
}

/// What was told in the event log so far: a line for each word.
pub(crate) fn events() -> String {
    String::from_utf8_lossy(&fs::read(directory().join(EVENTS)).unwrap()).into_owned()
}

fn wine_in(prefix: &Path) -> Command {
    let mut wine = Command::new("wine");
    wine.env("WINEPREFIX", prefix)
        .env("WINEDEBUG", "-all,+eventlog")
        .env("WINEDLLOVERRIDES", "mscoree,mshtml=;winemenubuilder.exe,winedbg.exe,explorer.exe=d")
        .stdin(Stdio::null());
    wine
}

/// `wine`, with nothing behind it yet.
pub(crate) fn wine() -> Command {
    wine_in(directory())
}

/// `penstock.exe`.
pub(crate) fn penstock() -> Command {
    let mut command = wine();
    command.arg(built("penstock.exe"));
    command
}

/// A program that was built for Windows.
pub(crate) fn built(name: &str) -> String {
    let path = format!("{BUILT}/{name}");
    assert!(Path::new(&path).exists(), "no {name}: scripts/build.sh --ctl --tests");
    path
}

/// A path as the programs in it have it.
pub(crate) fn path(path: &Path) -> String {
    format!("Z:{}", path.display()).replace('/', "\\")
}

/// Sets a value below HKEY_LOCAL_MACHINE.
pub(crate) fn set_value(key: &str, name: &str, kind: &str, data: &str) {
    let key = format!(r"HKLM\{key}");
    let mut command = wine();
    command.args(["reg", "add", &key, "/v", name, "/t", kind, "/d", data, "/f"]);
    let ended = command.output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stdout));
}

/// Removes a value below HKEY_LOCAL_MACHINE.
pub(crate) fn remove_value(key: &str, name: &str) {
    let ended = wine().args(["reg", "delete", &format!(r"HKLM\{key}"), "/v", name, "/f"]).output();
    assert!(ended.unwrap().status.success());
}

/// Keeps the policy of this Windows, and with it the manager, to one test.
pub(crate) fn policy() -> MutexGuard<'static, ()> {
    static POLICY: Mutex<()> = Mutex::new(());
    POLICY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The values of a key below HKEY_LOCAL_MACHINE, as `reg query` prints them.
pub(crate) fn values(key: &str) -> String {
    let output = wine().args(["reg", "query", &format!(r"HKLM\{key}")]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).replace('\r', "")
}
