//! Services in Wine's control manager: installed, started, stopped and removed, with no driver to bring a tunnel up by.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::{expected, prefix, printed, run};

/// How long something may take that a service does.
const PATIENCE: Duration = Duration::from_secs(120);
const GROUP: &str = r"SOFTWARE\Policies\Penstock";
const SERVICES: &str = r"SYSTEM\CurrentControlSet\Services";
/// A tunnel that does not come up.
const FAILING: &str =
    "[Interface]\nPrivateKey = dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\nPreUp = exit 1\n";
const PROGRAM: &str = r"C:\Program Files\Penstock\penstock.exe";

/// Waits until something is so.
fn until(what: &str, is_it: impl Fn() -> bool) {
    let since = Instant::now();
    while !is_it() {
        assert!(
            since.elapsed() < PATIENCE,
            "not within {PATIENCE:?}: {what}\n{}",
            prefix::events()
        );
        sleep(Duration::from_millis(100));
    }
}

/// What the registry has of a service, if it is there.
fn service(name: &str) -> Option<String> {
    Some(prefix::values(&format!(r"{SERVICES}\{name}")))
        .filter(|values| values.contains("ImagePath"))
}

/// What the program prints that is where programs are.
fn installed(arguments: &[&str]) -> String {
    let folder = prefix::drive().join("Program Files/Penstock");
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join("penstock.exe");
    if !program.exists() {
        // Renamed into place: another test may look for it meanwhile.
        let fresh = folder.join(format!("penstock.{:?}", std::thread::current().id()));
        fs::copy(prefix::built("penstock.exe"), &fresh).unwrap();
        fs::rename(fresh, program).unwrap();
    }
    let mut there = prefix::wine();
    there.arg(PROGRAM).args(arguments);
    printed(&run(there, b""))
}

/// A file of the tests, at a place below drive C.
fn put(file: &str, at: &str) -> PathBuf {
    let to = prefix::drive().join(at);
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::copy(expected::file(&format!("files/{file}.conf")), &to).unwrap();
    to
}

/// Its file is none that the system encrypted, which the service alone can tell. What is further on, Wine lacks.
#[test]
fn a_tunnel_that_cannot_come_up_says_why_and_leaves_no_service() {
    put("good/client", "tunnels/office.conf.dpapi");
    let told = installed(&["install-tunnel", r"C:\tunnels\office.conf.dpapi"]);
    for said in [
        "this Windows does not give it a SID of its own or fewer privileges\n",
        "it stopped: event 4 of Penstock in the event log says why; it was removed\n",
        "exit Some(1)\n",
    ] {
        assert!(told.contains(said), "{said} is not in:\n{told}");
    }
    assert_eq!(service("PenstockTunnel$office"), None);
    let events = prefix::events();
    let why = "office.conf.dpapi: only the account that encrypted this reads it";
    assert!(
        events.contains(r#"err:eventlog:ReportEventW L"office""#) && events.contains(why),
        "{events}"
    );
    let source = prefix::values(&format!(r"{SERVICES}\EventLog\Application\Penstock"));
    assert!(source.contains(PROGRAM) && source.contains("0x7"), "{source}");
}

#[test]
fn what_others_could_change_is_no_service() {
    let open = put("good/client", "tunnels/open.conf");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o666)).unwrap();
    put("good/client", "tunnels/real.conf");
    for (at, mode) in [("shared/of/all.conf", 0o777), ("above/of/all.conf", 0o755)] {
        let folder = put("good/client", at).parent().unwrap().to_owned();
        fs::set_permissions(&folder, fs::Permissions::from_mode(mode)).unwrap();
    }
    let above = prefix::drive().join("above");
    fs::set_permissions(above, fs::Permissions::from_mode(0o777)).unwrap();
    let link = prefix::drive().join("linked");
    let _ = fs::remove_file(&link);
    symlink(prefix::drive().join("tunnels"), link).unwrap();
    put("bad/misspelt-key", "tunnels/misspelt.conf");
    put("good/client", "tunnels/a b.conf");
    for (file, said) in [
        (r"C:\tunnels\open.conf", "S-1-1-0 may change this file"),
        (r"C:\shared\of\all.conf", r"the folder C:\shared\of can be emptied or renamed by S-1-1-0"),
        (r"C:\above\of\all.conf", r"the folder C:\above can be emptied or renamed by S-1-1-0"),
        (r"C:\linked\real.conf", r"name it by its own path, C:\tunnels\real.conf"),
        (r"\\server\share\x.conf", "is on a drive of this machine"),
        (r"C:\tunnels\none.conf", "File not found"),
        (r"C:\tunnels\misspelt.conf", "misspelt.conf:"),
        (r"C:\tunnels\a b.conf", "a tunnel's name"),
    ] {
        let told = installed(&["install-tunnel", file]);
        assert!(told.contains(said) && told.ends_with("exit Some(1)\n"), "{file}: {told}");
    }
    let told = installed(&["uninstall-tunnel", "none"]);
    assert!(
        told.starts_with("PenstockTunnel$none: ") && told.ends_with("exit Some(1)\n"),
        "{told}"
    );
}

/// A service that runs: files come and go in its folder.
#[test]
fn the_manager_encrypts_what_is_put_into_its_folder_and_keeps_a_service_for_it() {
    let folder = "Program Files/Penstock/Data/Configurations";
    let there = |name: &str| prefix::drive().join(folder).join(name).exists();
    let service_of = || service("PenstockTunnel$home");
    let _policy = prefix::policy();
    let told = installed(&["install-manager"]);
    assert!(told.ends_with("exit Some(0)\n"), "{told}");
    let again = installed(&["install-manager"]);
    assert!(again.ends_with("exit Some(1)\n"), "{again}");
    // Its first command is refused or fails, as policy has it: what would be next, Wine lacks.
    let fresh = prefix::drive().join(folder).join("home.new");
    fs::write(&fresh, FAILING).unwrap();
    fs::rename(fresh, prefix::drive().join(folder).join("home.conf")).unwrap();
    until("encrypted", || {
        service_of().is_some() && there("home.conf.dpapi") && !there("home.conf")
    });
    let said = service_of().unwrap();
    let image = format!(
        "\"{PROGRAM}\" service tunnel \"C:\\{}\\home.conf.dpapi\"",
        folder.replace('/', "\\")
    );
    for part in [
        &*image,
        "Start    REG_DWORD    0x2",
        "Type    REG_DWORD    0x10",
        r"Nsi\0TcpIp\0BFE",
        "LocalSystem",
    ] {
        assert!(said.contains(part), "{part} is not in:\n{said}");
    }
    let plain = FAILING.as_bytes();
    let sealed = fs::read(prefix::drive().join(folder).join("home.conf.dpapi")).unwrap();
    assert!(!sealed.windows(16).any(|part| plain.windows(16).any(|other| part == other)));
    // What policy says is handed to the driver, whoever wrote something else there, and what is wrong is told.
    let parameters = || prefix::values(&format!(r"{SERVICES}\penstock\Parameters"));
    prefix::set_value(GROUP, "HeldPerCpu", "REG_DWORD", "100");
    prefix::set_value(GROUP, "HeldPerPeer", "REG_DWORD", "70000");
    until("handed over", || parameters().contains("HeldPerCpu    REG_DWORD    0x64"));
    until("refused", || {
        prefix::events().contains("HeldPerPeer: 70000 is not from 0 to 65536, default 256")
    });
    assert!(!parameters().contains("HeldPerPeer"));
    prefix::set_value(GROUP, "HeldPerCpu", "REG_DWORD", "200");
    until("handed over again", || parameters().contains("HeldPerCpu    REG_DWORD    0xc8"));
    prefix::remove_value(GROUP, "HeldPerPeer");
    prefix::remove_value(GROUP, "HeldPerCpu");
    until("taken back", || !parameters().contains("HeldPerCpu"));
    // Nothing of what is no tunnel's is touched, and what is none is told once.
    put("bad/misspelt-key", &format!("{folder}/wrong.conf"));
    until("told", || prefix::events().contains(r#"L"wrong""#));
    assert!(there("wrong.conf") && !there("wrong.conf.dpapi"));
    // Policy names another folder: it is told that it is not there, and watched when it is.
    prefix::set_value(GROUP, "ConfigurationFolder", "REG_SZ", r"C:\elsewhere");
    until("told", || prefix::events().contains(r#"L"C:\\elsewhere: "#));
    put("bad/misspelt-key", "elsewhere/strange.conf");
    until("told", || prefix::events().contains(r#"L"strange""#));
    prefix::remove_value(GROUP, "ConfigurationFolder");
    fs::remove_file(prefix::drive().join(folder).join("home.conf.dpapi")).unwrap();
    until("removed", || service_of().is_none());
    assert_eq!(installed(&["uninstall-manager"]), "exit Some(0)\n");
    assert_eq!(service("PenstockManager"), None);
    let events = prefix::events();
    assert_eq!(events.matches(r#"L"wrong""#).count(), 1, "{events}");
}

/// What policy sets, the manager keeps: a file with a key of its own, and a service, until policy takes it back.
#[test]
fn a_tunnel_of_policy_gets_a_key_here_and_a_service() {
    const PEER: &str = "PublicKey = mAZGQvaDkOZ+DFVBOEMZECvRiOzOR8FZIZ4Bn+Ss3UU=";
    let tunnels = format!(r"{GROUP}\Tunnels");
    let set = |name: &str, text: &str| prefix::set_value(&tunnels, name, "REG_SZ", text);
    let file = || {
        let path = "Program Files/Penstock/Data/Policy/branch.conf.dpapi";
        fs::read(prefix::drive().join(path)).ok()
    };
    // The words of the event are each in a line of their own.
    let keys = || {
        let is_key = |line: &str| {
            let word = line.split('"').nth(1).unwrap_or_default();
            line.contains("ReportEventW L\"") && word.len() == 44 && word.ends_with('=')
        };
        let events = prefix::events();
        events.lines().filter(|line| is_key(line)).map(str::to_owned).collect::<Vec<_>>()
    };
    let _policy = prefix::policy();
    // So the service stops where it is refused: what comes next, Wine lacks, and ends the program.
    let text = |address: &str| {
        format!("Address = {address}; {PEER}; Endpoint = 192.0.2.1:7; AllowedIPs = 10.0.0.0/8")
    };
    prefix::set_value(GROUP, "AllowedEndpoints", "REG_SZ", "vpn.example.org, 203.0.113.0/24");
    set("branch", &text("10.0.0.2/32"));
    set("told", &format!("{PEER}; PresharedKey = {}", &PEER[12..]));
    let told = installed(&["install-manager"]);
    assert!(told.ends_with("exit Some(0)\n"), "{told}");
    let service_of = |name: &str| service(&format!("PenstockTunnel${name}"));
    until("kept", || file().is_some() && service_of("branch").is_some());
    let image = service_of("branch").unwrap();
    assert!(image.contains(r"Data\Policy\branch.conf.dpapi"), "{image}");
    until("its key told", || keys().len() == 1);
    until("refused", || prefix::events().contains("PresharedKey: everybody may read policies"));
    assert_eq!(service_of("told"), None);
    let first = file().unwrap();
    // Another text has another file, and the same key; the same text, written otherwise, changes nothing.
    let said = "AllowedEndpoints does not allow the endpoint 192.0.2.1:7 (from Group Policy";
    until("not allowed", || prefix::events().contains(said));
    set("branch", &text("10.0.0.3/32"));
    until("changed", || file().is_some_and(|file| file != first) && keys().len() == 2);
    assert_eq!(keys()[0], keys()[1]);
    let second = file().unwrap();
    set("Branch", &(text("10.0.0.3/32").replace(" = ", "=") + ";"));
    // What is wrong changes nothing, either: the tunnel stays as it was.
    set("branch", "Address = 10.0.0.3/32");
    until("refused", || prefix::events().contains("it has no peer"));
    assert!(file().as_ref() == Some(&second) && service_of("branch").is_some());
    prefix::remove_value(&tunnels, "branch");
    prefix::remove_value(&tunnels, "told");
    prefix::remove_value(GROUP, "AllowedEndpoints");
    until("taken back", || file().is_none() && service_of("branch").is_none());
    assert_eq!(installed(&["uninstall-manager"]), "exit Some(0)\n");
    assert_eq!(keys().len(), 2, "{}", prefix::events());
}

/// Wine has no driver store to speak of: what it has says that there is no such package.
#[test]
fn the_drivers_package_is_looked_for() {
    let told = installed(&["driver", "status"]);
    assert!(
        told.starts_with("installed: no\nsignatures that Windows takes: Microsoft's"),
        "{told}"
    );
    assert!(
        told.ends_with("with the penstock.inf of the driver's package\nexit Some(0)\n"),
        "{told}"
    );
    for command in ["install", "update", "remove"] {
        let told = installed(&["driver", command]);
        assert!(told.starts_with("penstock.inf: it is not beside this program"), "{told}");
        let told = installed(&["driver", command, r"C:\none\penstock.inf"]);
        assert!(told.ends_with("not found.\nexit Some(1)\n"), "{told}");
    }
}

/// Wine's driver store takes every package and gives none back.
#[test]
fn an_upgrade_starts_what_it_stopped_and_a_removal_removes_the_tunnels() {
    let _policy = prefix::policy();
    let inf = prefix::drive().join("package/penstock.inf");
    fs::create_dir_all(inf.parent().unwrap()).unwrap();
    fs::write(&inf, "").unwrap();
    let (local, name) = (r"SOFTWARE\Penstock", "StoppedForUpgrade");
    let held = || prefix::values(local).contains(name);
    let driver = |arguments: &[&str]| {
        let inf = [r"C:\package\penstock.inf"];
        installed(&[&["driver"], arguments, &inf].concat())
    };
    // One that was stopped and is there no more: it is told, and asked for once.
    prefix::set_value(local, name, "REG_SZ", "PenstockTunnel$gone");
    let told = driver(&["install"]);
    assert!(
        told.starts_with("PenstockTunnel$gone: ") && told.ends_with("exit Some(0)\n"),
        "{told}"
    );
    assert!(!held());
    assert_eq!(driver(&["install"]), "exit Some(0)\n");
    // Nothing runs: nothing is held.
    let told = driver(&["remove", "--for-upgrade"]);
    assert!(told.starts_with("the driver's package: ") && !held(), "{told}");
    // What an upgrade stopped that did not come to its end is not forgotten by the next.
    prefix::set_value(local, name, "REG_SZ", "PenstockTunnel$gone");
    driver(&["remove", "--for-upgrade"]);
    assert!(held());
    prefix::remove_value(local, name);
    let told = driver(&["remove", "--for-upgrade", "--with-tunnels"]);
    assert!(told.contains("cannot be used with"), "{told}");
    let line = format!("\"{PROGRAM}\" service tunnel \"C:\\tunnels\\left.conf\"");
    let mut create = prefix::wine();
    create.args(["sc", "create", "PenstockTunnel$left", "binPath=", &line]);
    run(create, b"");
    assert!(service("PenstockTunnel$left").is_some());
    let told = driver(&["remove", "--with-tunnels"]);
    assert!(told.starts_with("PenstockTunnel$left: removed\nthe driver's package: "), "{told}");
    assert_eq!(service("PenstockTunnel$left"), None);
}
