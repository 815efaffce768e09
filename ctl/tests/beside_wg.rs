//! `penstock` beside the stock `wg`, both before `penstock.sys` in the simulator: what one changes the other shows, and both print
//! the same bytes.
//!
//! ```text
//!   penstock ── ioctl=CODE ──┐                        ┌── penstock show, wg show: the same
//!                            ├── penstock-sim up NAME ─┤
//!   wg ───────── set=1 ──────┘      (penstock.sys)     └── the same change made by either: the same
//! ```
//!
//! The text protocol of `ctl::uapi`, which Windows' named pipe carries, is asked by `wg` over a socket, too, before the same driver.
//!
//! Needs root, /dev/net/tun, `wg`, penstock.sys (scripts/build.sh) and penstock-sim (`cargo build --release -p sim`).

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use abi::ioctl::Set;
use ctl::driver::Driver;
use ctl::driver::simulated::{DIRECTORY, Simulated};
use ctl::show::Shown;
use ctl::show::fields::{self, Field};
use ctl::uapi::Rights;

mod simulated;

use simulated::{PENSTOCK, Tunnel, run};

const ALICE: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
const BOB: &str = "IiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI=";
const CAROL: &str = "ERERERERERERERERERERERERERERERERERERERERERE=";
const SECRET: &str = "mAZGQvaDkOZ+DFVBOEMZECvRiOzOR8FZIZ4Bn+Ss3UU=";

impl Tunnel {
    /// Both print the same of it, in every way there is.
    fn is_shown_alike(&self, after: &str) {
        let name = &*self.name;
        let fields = [
            "public-key",
            "private-key",
            "listen-port",
            "fwmark",
            "peers",
            "preshared-keys",
            "endpoints",
            "allowed-ips",
            "latest-handshakes",
            "transfer",
            "persistent-keepalive",
            "dump",
        ];
        for what in fields {
            same(&["show", name, what], after);
        }
        same(&["show", name], after);
        same(&["showconf", name], after);
    }

    fn dump(&self) -> String {
        text(&run("wg", &["show", &self.name, "dump"]))
    }
}

/// A folder for one test.
struct Folder(PathBuf);

impl Folder {
    fn of(tunnel: &Tunnel) -> Self {
        let path = std::env::temp_dir().join(format!("penstock-beside-wg-{}", tunnel.name));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn same(arguments: &[&str], after: &str) {
    let (ours, theirs) = (run(PENSTOCK, arguments), run("wg", arguments));
    assert!(
        theirs.status.success(),
        "wg {arguments:?}: {}",
        String::from_utf8_lossy(&theirs.stderr)
    );
    let (ours, theirs) = (text(&ours), text(&theirs));
    assert!(ours == theirs, "{arguments:?} after {after}:\n{ours}\nwg:\n{theirs}");
}

fn do_it(program: &str, words: &[&str]) {
    let done = run(program, words);
    assert!(
        done.status.success(),
        "{program} {words:?}: {}",
        String::from_utf8_lossy(&done.stderr)
    );
}

/// Changes, one after the other; `@FILE` is a file of that name.
fn changes(folder: &Folder) -> Vec<Vec<String>> {
    let file = |name: &str, text: &str| format!("@{}", folder.file(name, text));
    let key = file("key", &format!("{SECRET}\n"));
    let psk = file("psk", CAROL);
    let nothing = "@/dev/null".to_owned();
    let first = file(
        "first.conf",
        &format!(
            "[Interface]\nPrivateKey = {SECRET}\nListenPort = 51820\n[Peer]\nPublicKey = {ALICE}\n\
             PresharedKey = {CAROL}\nAllowedIPs = 10.0.0.0/8, fd00::/8\nEndpoint = localhost:7\n\
             PersistentKeepalive = 25\n[Peer]\nPublicKey = {BOB}\nAllowedIPs = 192.168.0.0/16\n"
        ),
    );
    let added = file(
        "added.conf",
        &format!(
            "[Peer]\nPublicKey = {BOB}\nAllowedIPs = 10.9.0.0/16\n[Peer]\nPublicKey = {CAROL}\n"
        ),
    );
    let other = file(
        "other.conf",
        &format!(
            "# comment\n[interface]\nlistenport=7\n[PEER]\nPublicKey={ALICE}\nPresharedKey={BOB}\n\
             PersistentKeepalive=off\n[Peer]\nPublicKey={CAROL}\nEndpoint=[2001:db8::1]:9\nAllowedIPs=10.0.0.0/8\nPersistentKeepalive=off\n"
        ),
    );
    let empty = file("empty.conf", "");
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    vec![
        words(&["set", "private-key", &key, "listen-port", "51821"]),
        words(&["set", "peer", ALICE, "endpoint", "192.0.2.1:1", "allowed-ips", "0.0.0.0/0,::/0"]),
        words(&["set", "peer", ALICE, "preshared-key", &psk, "persistent-keepalive", "1"]),
        words(&["set", "peer", BOB, "allowed-ips", "10.1.2.3/8", "peer", CAROL]),
        words(&["set", "peer", ALICE, "allowed-ips", "", "preshared-key", &nothing]),
        words(&["set", "peer", BOB, "remove", "peer", CAROL, "persistent-keepalive", "off"]),
        words(&["setconf", &first]),
        words(&["addconf", &added]),
        words(&["syncconf", &first]),
        words(&["syncconf", &other]),
        words(&["addconf", &first]),
        words(&["setconf", &other]),
        words(&["set", "private-key", &nothing]),
        words(&["syncconf", &empty]),
        words(&["setconf", &first]),
        words(&["setconf", &empty]),
    ]
}

#[test]
fn a_change_is_the_same_by_either() {
    let (by_wg, by_penstock) = (Tunnel::up('a', None), Tunnel::up('b', None));
    let folder = Folder::of(&by_wg);
    by_penstock.is_shown_alike("nothing");
    for change in changes(&folder) {
        for (program, tunnel) in [("wg", &by_wg), (PENSTOCK, &by_penstock)] {
            let (verb, words) = change.split_first().unwrap();
            let words = words.iter().map(|word| word.trim_start_matches('@'));
            let words: Vec<_> = [&**verb, &*tunnel.name].into_iter().chain(words).collect();
            do_it(program, &words);
        }
        assert_eq!(by_penstock.dump(), by_wg.dump(), "{change:?}");
        by_penstock.is_shown_alike(&format!("{change:?}"));
    }
    let interfaces = text(&run(PENSTOCK, &["show", "interfaces"]));
    let interfaces: Vec<_> = interfaces.split_whitespace().collect();
    assert!(interfaces.contains(&&*by_wg.name) && interfaces.contains(&&*by_penstock.name));
}

/// A socket where `wg` looks, behind which `ctl::uapi` serves an interface of the simulated driver.
struct Served {
    name: String,
    socket: PathBuf,
}

impl Served {
    fn of(tunnel: &Tunnel) -> Self {
        let name = format!("{}s", tunnel.name);
        let socket = Path::new(DIRECTORY).join(format!("{name}.sock"));
        let listener = UnixListener::bind(&socket).unwrap();
        let behind = tunnel.name.clone();
        // It ends with the tests.
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let device = Simulated::default().open(&behind).unwrap();
                // Who only looked whether somebody is there has gone.
                let _ = ctl::uapi::serve(client.unwrap(), &*device, || Rights::All);
            }
        });
        Self { name, socket }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.socket);
    }
}

#[test]
fn the_text_protocol_says_what_the_requests_do() {
    let (direct, behind) = (Tunnel::up('f', None), Tunnel::up('g', None));
    let served = Served::of(&behind);
    let folder = Folder::of(&direct);
    for change in changes(&folder) {
        for (program, name) in [(PENSTOCK, &direct.name), ("wg", &served.name)] {
            let (verb, words) = change.split_first().unwrap();
            let words = words.iter().map(|word| word.trim_start_matches('@'));
            let words: Vec<_> = [&**verb, &**name].into_iter().chain(words).collect();
            do_it(program, &words);
        }
        assert_eq!(text(&run("wg", &["show", &served.name, "dump"])), direct.dump(), "{change:?}");
        assert_eq!(behind.dump(), direct.dump(), "{change:?}");
        // So do whoever asks without rights, and the simulator's own words.
        for name in [&served.name, &behind.name] {
            assert_eq!(asked(name), without_secrets(&direct.dump()), "{change:?}");
        }
    }
}

/// What `penstock show NAME dump` would print of what the socket of an interface answers.
fn asked(name: &str) -> Vec<Vec<String>> {
    let socket = UnixStream::connect(Path::new(DIRECTORY).join(format!("{name}.sock"))).unwrap();
    let answer = ctl::uapi::ask(socket).unwrap();
    let shown = Shown { name, set: Set::parse(&answer).unwrap(), statistics: None };
    let mut text = shown.room();
    fields::write(&mut text, &shown, Field::Dump, false);
    assert!(text.starts_with("(none)\t(none)\t"), "{}", *text);
    without_secrets(&text)
}

/// The columns of a dump, but for the interface's keys and preshared keys.
fn without_secrets(dump: &str) -> Vec<Vec<String>> {
    let line = |(number, line): (usize, &str)| {
        let mut columns: Vec<_> = line.split('\t').map(str::to_owned).collect();
        columns.drain(if number == 0 { 0..2 } else { 1..2 });
        columns
    };
    dump.lines().enumerate().map(line).collect()
}

/// The stock `wg` of 2021 leaves a preshared key and keepalives that the file does not name any more.
#[test]
fn syncconf_comes_to_what_setconf_does() {
    let tunnel = Tunnel::up('e', None);
    let folder = Folder::of(&tunnel);
    let full = folder.file(
        "full.conf",
        &format!(
            "[Peer]\nPublicKey={ALICE}\nPresharedKey={CAROL}\nPersistentKeepalive=9\nAllowedIPs=::/0\n[Peer]\n\
             PublicKey={BOB}\n"
        ),
    );
    let bare = folder.file("bare.conf", &format!("[Peer]\nPublicKey={ALICE}\n"));
    let after = |verb: &str| {
        do_it(PENSTOCK, &["setconf", &tunnel.name, &full]);
        assert!(tunnel.dump().contains(CAROL) && tunnel.dump().contains("\t9\n"));
        do_it(PENSTOCK, &[verb, &tunnel.name, &bare]);
        tunnel.dump()
    };
    assert_eq!(after("syncconf"), after("setconf"));
}

#[test]
fn doctor_looks_at_the_driver() {
    let tunnel = Tunnel::up('h', None);
    let name = &*tunnel.name;
    let told = || text(&run(PENSTOCK, &["doctor"]));
    assert!(told().contains(&format!("BAD {name}: keys: there is no private key")), "{}", told());
    let folder = Folder::of(&tunnel);
    let key = folder.file("key", SECRET);
    do_it(PENSTOCK, &["set", name, "private-key", &key, "peer", ALICE]);
    let up = Command::new("ip").args(["link", "set", name, "up"]).status().unwrap();
    assert!(up.success());
    let deadline = Instant::now() + Duration::from_secs(20);
    while !told().contains(&format!("ok  {name}: state: up, on UDP port ")) {
        assert!(Instant::now() < deadline, "{}", told());
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(!told().contains(&format!("BAD {name}")), "{}", told());
}

#[test]
fn what_is_refused_changes_nothing() {
    let tunnel = Tunnel::up('c', None);
    let folder = Folder::of(&tunnel);
    do_it(
        PENSTOCK,
        &["set", &tunnel.name, "listen-port", "7", "peer", ALICE, "allowed-ips", "::/0"],
    );
    let before = tunnel.dump();
    let bad =
        folder.file("bad.conf", &format!("[Peer]\nPublicKey = {BOB}\nAllowedIPs = 10.0.0.0/33\n"));
    let nowhere =
        folder.file("no.conf", &format!("[Peer]\nPublicKey = {BOB}\nEndpoint = no.invalid:1\n"));
    let name = &*tunnel.name;
    for (words, said) in [
        (vec!["setconf", name, &bad], "bad.conf:3:23: the length"),
        (vec!["syncconf", name, &nowhere], "`no.invalid:1'"),
        (vec!["set", name, "listen-port", "8", "peer", "x"], "peer: this is no key"),
        (
            vec!["set", name, "listen-port", "8", "peer", BOB, "endpoint", "1.2.3.4"],
            "the port is missing",
        ),
        (vec!["set", "nobody", "listen-port", "8"], "Unable to modify interface: No such device"),
        (vec!["show", "nobody"], "Unable to access interface: No such device"),
        (vec!["showconf", "nobody"], "Unable to access interface: No such device"),
    ] {
        let refused = run(PENSTOCK, &words);
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(refused.status.code() == Some(1) && error.contains(said), "{words:?}: {error}");
        assert_eq!(tunnel.dump(), before, "{words:?}");
    }
}

#[test]
fn a_hundred_thousand_peers_in_one_call() {
    let tunnel = Tunnel::up('d', None);
    let folder = Folder::of(&tunnel);
    let mut file = format!("[Interface]\nPrivateKey = {SECRET}\n");
    for number in 0..100_000_u32 {
        let mut key = [0x42; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        let address = std::net::Ipv4Addr::from(0x0A00_0000 + number);
        file +=
            &format!("[Peer]\nPublicKey = {}\nAllowedIPs = {address}\n", ctl::key::PublicKey(key));
    }
    let file = folder.file("many.conf", &file);
    let took = |words: &[&str]| {
        let began = Instant::now();
        do_it(PENSTOCK, words);
        began.elapsed()
    };
    let set = took(&["setconf", &tunnel.name, &file]);
    let synced = took(&["syncconf", &tunnel.name, &file]);
    let shown = took(&["show", &tunnel.name, "dump"]);
    println!("100,000 peers: setconf {set:.1?}, syncconf {synced:.1?}, show dump {shown:.1?}");
    let peers = text(&run(PENSTOCK, &["show", &tunnel.name, "allowed-ips"]));
    assert_eq!(peers.lines().count(), 100_000);
    assert!(peers.lines().any(|line| line.ends_with("\t10.1.134.159/32")), "the last one");
    assert!(peers == text(&run("wg", &["show", &tunnel.name, "allowed-ips"])));
}
