//! What WinDbg's script shows of a machine: healthy, under load, stopped, and of a dump that lacks parts or is of another build.
//!
//! Node runs `scripts/windbg/penstock.js` over the simulated machine's memory, with a stand-in for WinDbg's `host`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use abi::discard::Discard;
use abi::events::Event;
use abi::policy::Policy;
use abi::statistics::Counter;
use sim::host::memory::pair::{Pair, Station};
use sim::nt::machine::Options;
use sim::verifier::dump::{Dump, Stretch};
use sim::verifier::rules;

use crate::machines;
use crate::machines::accounting::Ledger;

/// Every command with what else it takes, and a part of what it says about a machine that has a session.
const ALL: [(&str, &str); 15] = [
    ("help", "!pen_help - "),
    ("adapters", "adapter 1 at 0x"),
    ("peers", "sessions "),
    ("peer 0", "there is no such peer"),
    ("keypairs", "of ours, 0x"),
    ("queues", "CPU 0: "),
    ("inflight", "under way"),
    ("buffers", "run buffers for one datagram: "),
    ("discards", "  DatagramsOut "),
    ("timers", "looked at "),
    ("log", " ticks before, CPU "),
    ("nbl", "with NetAdapterCx or the stack above"),
    ("verify", "all of it holds together"),
    ("tuning", "policy SendEngine 0"),
    ("bugcheck", "stop"),
];

pub(crate) fn dump(station: &Station) -> Dump {
    Dump::of(station.computer().machine())
}

/// What the commands say, one after the other.
fn windbg(dump: &Dump, commands: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let name = format!("penstock-{}-{:?}.dump", std::process::id(), std::thread::current().id());
    let file: PathBuf = std::env::temp_dir().join(name);
    dump.write(&file).unwrap();
    let output = Command::new("node")
        .arg(root.join("scripts/windbg/simulated.js"))
        .arg(&file)
        .args(commands)
        .output()
        .expect("scripts/setup.sh installs nodejs");
    std::fs::remove_file(file).unwrap();
    let (out, error) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{error}");
    out.into_owned()
}

/// The same machine, as if it had stopped with this code.
pub(crate) fn stop_of(dump: &Dump, code: u32, parameters: [u64; 4]) -> Dump {
    let mut dump = dump.clone();
    let data = dump.stretches.iter_mut().find(|it| it.what == "KiBugCheckData").unwrap();
    let words = [[code.into()].as_slice(), &parameters].concat();
    data.bytes = words.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
    dump.stop = *words.first_chunk().unwrap();
    dump
}

/// What one command says.
pub(crate) fn says(dump: &Dump, command: &str) -> String {
    said(dump, &[command]).remove(command).unwrap()
}

/// What each command says, by the command.
pub(crate) fn said(dump: &Dump, commands: &[&str]) -> BTreeMap<String, String> {
    let all = windbg(dump, commands);
    let each = all.split("> !pen_").skip(1).map(|one| one.split_once('\n').unwrap());
    each.map(|(command, said)| (command.to_owned(), said.to_owned())).collect()
}

pub(crate) fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "no {part:?} in\n{text}");
    }
}

/// Every command has something to say, with nothing missing.
fn all_speak(dump: &Dump) {
    let mut told = said(dump, &ALL.map(|(command, _)| command));
    for (command, part) in ALL {
        let said = told.remove(command).unwrap();
        assert!(!said.contains("not to be had") && !said.contains(&format!("!pen_{command}: ")));
        let is_there = said.contains(part) || command == "inflight" && said.contains("chunk at 0x");
        assert!(is_there, "{command}: no {part:?} in {said}");
    }
    let peer = says(dump, &format!("peer {}", address(&says(dump, "peers"))));
    assert_says(&peer, &["  persistent keepalive ", "  staged ", "  current at 0x", "  timer: "]);
}

/// The address that a line tells behind ` at `.
fn address(line: &str) -> &str {
    line.split(" at ").nth(1).unwrap().split([':', ' ']).next().unwrap()
}

fn base64(bytes: &[u8; 32]) -> String {
    let digit = |value: u32| {
        char::from(
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
                [value as usize & 63],
        )
    };
    let group = |three: &[u8]| {
        let word = three.iter().fold(0, |word, byte| word << 8 | u32::from(*byte))
            << (8 * (3 - three.len()));
        let digits: String = (0..=three.len()).map(|at| digit(word >> (18 - 6 * at))).collect();
        digits + &"=".repeat(3 - three.len())
    };
    bytes.chunks(3).map(group).collect()
}

#[test]
fn a_healthy_machine_is_shown_as_it_is() {
    machines::with_pair(1, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        pair.world.sleep(Duration::from_secs(3));
        let dump = dump(&pair.alpha);
        let more = ["peers 1", "peers 2", "peer", "peer 0x1234", "log 1000", "log 3"];
        all_speak(&dump);
        let told = said(&dump, &[ALL.map(|(command, _)| command).as_slice(), &more].concat());
        let says = |command: &str| told[command].clone();
        let help = says("help");
        for (command, _) in ALL {
            let name = command.split(' ').next().unwrap();
            assert_says(&help, &[&format!("!pen_{name} - ")]);
        }
        assert_eq!(help.lines().count(), ALL.len(), "{help}");

        let adapters = says("adapters");
        let port = pair.alpha.port();
        assert_says(
            &adapters,
            &[
                "adapter 1 at 0x",
                ": up, sockets open, ",
                &format!("port asked for {port}, MTU 1420, "),
                ", 1 peer, 0 sends failed, 0 errands out",
            ],
        );
        assert_eq!(adapters.lines().count(), 1, "{adapters}");

        let key = base64(&pair.beta.public_key().unwrap());
        let [outer, _] = pair.beta.outer();
        let peers = says("peers");
        let endpoint = format!("endpoint {outer}:{}", pair.beta.port());
        assert_says(
            &peers,
            &["adapter 1, peer 0: ", &key, ": enabled, ", &endpoint, ", sessions current"],
        );
        assert_eq!(says("peers 1"), peers);
        assert_eq!(says("peers 2"), "there is no peer\n");

        let peer = self::says(&dump, &format!("peer {}", address(&peers)));
        assert_says(
            &peer,
            &[
                peers.trim(),
                "  persistent keepalive off, longest packet 1440, latest handshake 20",
                "  staged 0 bytes, 0 packets discarded; seal 0 chunks, send 0 chunks, open 0 chunks\n",
                "  current at 0x",
                "  timer: erase in 53",
            ],
        );
        assert_says(&says("peer"), &["!pen_peer ADDRESS"]);
        assert_says(&says("peer 0x1234"), &["there is no such peer"]);

        let keypairs = says("keypairs");
        assert_says(
            &keypairs,
            &[
                "peer 0, current at 0x",
                ": initiator, made 3.",
                " s ago, index 0x",
                "may send and receive",
            ],
        );
        assert_says(
            &says("timers"),
            &["adapter 1, peer 0: keepalive in ", " s, erase in 536.99", ", looked at in "],
        );
        assert_says(
            &says("queues"),
            &[
                "CPU 0: idle",
                "CPU 1: idle",
                "adapter 1: 0 handshake messages of 4096 at most",
                "  0 peers for a worker",
            ],
        );
        assert_eq!(says("inflight"), "nothing is under way\n");
        let buffers = says("buffers");
        assert_says(
            &buffers,
            &[
                "run buffers for one datagram: 512 of 512 free, 0 away",
                "run buffers for 4 datagrams: 128 of 128 free",
                "run buffers for 32 datagrams: 128 of 128 free",
                "receive buffers of 2048 bytes: 128 made, ",
            ],
        );

        let discards = says("discards");
        let ledger = Ledger::of(&pair.alpha);
        for counter in Counter::ALL {
            let told = discards
                .lines()
                .find_map(|line| line.strip_prefix(&format!("  {} ", counter.name())));
            // Asking for the statistics takes no packet.
            assert_eq!(
                told.map_or(0, |told| told.parse().unwrap()),
                ledger.counter(*counter),
                "{}\n{discards}",
                counter.name()
            );
        }
        let log = says("log 1000");
        let recorded = pair.alpha.computer().machine().recorded(usize::MAX);
        assert_eq!(log.lines().count(), recorded.len(), "{log}");
        for ((cpu, noted), line) in recorded.iter().zip(log.lines()) {
            let told = line.split_once(", ").unwrap().1;
            assert_eq!(told, format!("CPU {cpu}, IRQL {}: {noted}", noted.irql));
        }
        assert_eq!(says("log 3").lines().count(), 3);
        assert!(log.lines().last().unwrap().starts_with("0 ticks before, "), "{log}");

        assert_says(
            &says("nbl"),
            &["0 runs of datagrams", "0 chunks on the way out, 0 chunks on the way in"],
        );
        assert_eq!(
            says("verify"),
            "looked at 1 adapter, 1 peer, 1 session, 0 chunks\nall of it holds together\n"
        );
        let tuning = says("tuning");
        for policy in Policy::ALL {
            assert_says(&tuning, &[&format!("policy {} {}\n", policy.name(), policy.default())]);
        }
        assert_says(&tuning, &["CPUs that seal and open: 0, 1\n", "vector code: "]);
        assert_eq!(says("bugcheck"), "no stop: the machine was running\n");

        // Nothing that a key is, however it may be written.
        let private = pair.alpha.private_key().unwrap();
        let told: String = told.into_values().collect();
        let hex: String = private.iter().map(|byte| format!("{byte:02x}")).collect();
        assert!(!told.contains(&base64(&private)) && !told.contains(&hex[..16]), "{told}");
    });
}

#[test]
fn what_was_discarded_and_what_never_came_are_told() {
    machines::with_pair(1, |pair| {
        pair.alpha.tunnel().set_policy(&[(Policy::RecorderLevel, Some(2))]).unwrap();
        // Nobody is there: the handshake is not answered, and what waits for it goes.
        pair.beta.set_up(false).unwrap();
        pair.alpha.endpoint().send_datagram(pair.beta.inner()[0], vec![0; 100]);
        pair.world.sleep(Duration::from_secs(12));
        let waiting = dump(&pair.alpha);
        let peers = says(&waiting, "peers");
        assert_says(&peers, &[", received 0 bytes, sessions none"]);
        assert_says(
            &says(&waiting, &format!("peer {}", address(&peers))),
            &[
                "latest handshake never",
                "  staged 128 bytes",
                "timer: retransmit in ",
                "timer: 2 initiations sent again",
            ],
        );
        assert_eq!(says(&waiting, "keypairs"), "there is no session\n");
        pair.world.sleep(Duration::from_secs(100));
        let gone = dump(&pair.alpha);
        let discards = says(&gone, "discards");
        let dropped = Ledger::of(&pair.alpha).discarded(Discard::StagedDropped);
        assert!(dropped > 0);
        assert_says(&discards, &[&format!("  discarded StagedDropped {dropped}\n")]);
        let log = says(&gone, "log 1000");
        assert!(!log.contains(Event::MessageTaken.name()), "{log}");
        assert_says(&log, &["MessageMade, tunnel 1, type 1, handshake "]);
    });
}

/// Where a CPU is in the middle of sealing or opening a chunk.
pub(crate) const IN_A_CHUNK: &str = "KeSaveExtendedProcessorState";

#[test]
fn what_is_under_way_is_shown_under_load() {
    let options = Options { cpus: 4, ..machines::with_policy(Policy::FastPath, 0) };
    machines::with_pair_of(1, &options, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        for end in [&pair.alpha, &pair.beta] {
            let stall = Duration::from_millis(50);
            let faults = end.computer().machine().faults();
            let before = faults.stalled();
            faults.stall(IN_A_CHUNK, 3, stall);
            let load = machines::Load::start(
                &pair.world,
                &pair.alpha,
                pair.beta.inner()[0],
                1000,
                Duration::from_micros(20),
            );
            while faults.stalled() == before {
                pair.world.sleep(Duration::from_micros(10));
            }
            pair.world.sleep(Duration::from_micros(500));
            let dump = dump(end);
            drop(load);
            all_speak(&dump);
            let way = if std::ptr::eq(end, &raw const pair.alpha) { "seal" } else { "open" };
            let inflight = says(&dump, "inflight");
            assert_says(
                &inflight,
                &[&format!("adapter 1, peer 0, {way}: chunk at 0x"), " is running, "],
            );
            let chunks = inflight.lines().count();
            let session = says(&dump, "keypairs")
                .lines()
                .map(|line| address(line).to_owned())
                .collect::<Vec<_>>();
            let reference = inflight.lines().next().unwrap().rsplit(' ').next().unwrap();
            let reference = u64::from_str_radix(&reference[2..], 16).unwrap();
            let near = |at: &String| {
                u64::from_str_radix(&at[2..], 16).unwrap().wrapping_sub(reference) < 64
            };
            assert!(session.iter().any(near), "{session:?} {inflight}");
            assert_says(&says(&dump, "queues"), &[&format!("{way} ")]);
            let verified = says(&dump, "verify");
            assert_says(&verified, &[&format!("{chunks} chunk"), "all of it holds together"]);
            assert_says(&says(&dump, "nbl"), &[&format!("{chunks} chunk")]);
            pair.world.sleep(2 * stall);
        }
    });
}

#[test]
fn a_stop_says_what_it_was_and_everything_else_still_speaks() {
    machines::on_virtual_time(1, |world, driver| {
        let pair = Pair::boot(world, &machines::verified("machine"), driver).unwrap();
        machines::ping(&pair.alpha, &pair.beta);
        pair.alpha.computer().machine().die(&rules::SIMULATOR, "on purpose");
        let stopped = dump(&pair.alpha);
        let code = pair.alpha.computer().machine().stop_report().unwrap().code;
        let text = says(&stopped, "bugcheck");
        assert_says(
            &text,
            &[
                &format!("stop {code:#x} (0x0, 0x0, 0x0, 0x0)"),
                "Driver Verifier: parameter 1 says which rule",
                "MessageTaken, tunnel 1, type 2, handshake ",
            ],
        );
        all_speak(&stopped);

        let stop = |code, parameters| {
            let mut dump = stop_of(&stopped, code, parameters);
            let place = b"src/workers.rs".to_vec();
            dump.stretches.push(Stretch { what: "a text", at: 0x7000, bytes: place });
            says(&dump, "bugcheck")
        };
        let panicked = stop(u32::from_be_bytes(*b"Pnst"), [0x7000, 14, 77, 9]);
        assert_says(&panicked, &["Penstock panicked at src/workers.rs:77:9\n"]);
        let lost = stop(u32::from_be_bytes(*b"Pnst"), [0x9000, 14, 77, 9]);
        assert_says(&lost, &["Penstock panicked: not to be had here", "ticks before"]);
        assert_says(
            &stop(u32::from_be_bytes(*b"PnsI"), [1, 0, 0, 0]),
            &["a receive buffer whose number its pool does not have"],
        );
        assert_says(
            &stop(0x133, [0, 0x501, 0x500, 0]),
            &["stop 0x133 (0x0, 0x501, 0x500, 0x0)", "a DPC took too long"],
        );
        assert_says(&stop(0x7E, [0; 4]), &["not a stop code of Penstock\'s"]);
        assert_says(&stop(0xD1, [8, 2, 0, 0]), &["invalid memory at raised IRQL"]);
        assert_says(&stop(0x9F, [3, 0, 0, 0]), &["a power transition does not end"]);
    });
}

#[test]
fn a_dump_that_lacks_parts_is_shown_as_far_as_it_goes() {
    machines::with_pair(1, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let whole = dump(&pair.alpha);
        let peer = says(&whole, "peers");
        let at = u64::from_str_radix(&address(&peer)[2..], 16).unwrap();
        let mut no_peer = whole.clone();
        no_peer.stretches.retain(|it| !(it.at..it.at + it.bytes.len() as u64).contains(&at));
        assert_says(&says(&no_peer, "adapters"), &["adapter 1 at "]);
        assert_says(
            &says(&no_peer, "peers"),
            &[&format!("  peer at {at:#x}: not to be had here (Unable to read memory")],
        );
        assert_says(&says(&no_peer, "verify"), &["WRONG: "]);
        assert_says(&says(&no_peer, "log"), &["MessageTaken, tunnel 1, type 2, handshake "]);

        let mut no_time = whole.clone();
        no_time.stretches.retain(|it| it.what != "KUSER_SHARED_DATA");
        assert_says(&says(&no_time, "keypairs"), &[" s after boot, "]);

        // As a dump of the kernel's that is too small: each command answers, and says what is missing.
        let mut image_only = whole.clone();
        image_only.stretches.retain(|it| it.what == "the image");
        image_only.tagged.clear();
        image_only.stop[0] = 0x133;
        for (command, said) in said(&image_only, &ALL.map(|(command, _)| command)[1..]) {
            assert!(
                said.contains("Unable to read memory") || said.starts_with("!pen_peer ADDRESS"),
                "{command}: {said}"
            );
        }
    });
}

/// Reads eight bytes of a dump.
pub(crate) fn word(dump: &Dump, at: u64) -> u64 {
    let inside = |it: &&Stretch| (it.at..it.at + it.bytes.len() as u64).contains(&at);
    let stretch = dump.stretches.iter().find(inside).unwrap();
    u64::from_le_bytes(*stretch.bytes[(at - stretch.at) as usize..].first_chunk().unwrap())
}

/// The dump with another byte at `at`.
fn changed(dump: &Dump, at: u64, byte: u8) -> Dump {
    let mut dump = dump.clone();
    let inside = |it: &&mut Stretch| (it.at..it.at + it.bytes.len() as u64).contains(&at);
    let stretch = dump.stretches.iter_mut().find(inside).unwrap();
    stretch.bytes[(at - stretch.at) as usize] = byte;
    dump
}

/// Where a structure has a field, as the descriptor tells it.
fn place(dump: &Dump, structure: &str, field: &str) -> u64 {
    let descriptor = dump.symbols.iter().find(|(name, _)| name.starts_with("penstock!")).unwrap().1;
    let text = |at: u64| -> String {
        let (first, len) = (word(dump, at), word(dump, at + 8));
        (first..first + len).map(|at| char::from(word(dump, at) as u8)).collect()
    };
    for group in (0..word(dump, descriptor + 104)).map(|number| descriptor + 112 + 32 * number) {
        for places in (0..word(dump, group + 24)).map(|at| word(dump, group + 16) + 32 * at) {
            let names = text(group).trim().to_owned() + &text(places);
            let mut names = names.split(' ');
            if names.next() == Some(structure) {
                let at = 1 + names.position(|name| name == field).unwrap() as u64;
                return u64::from(word(dump, word(dump, places + 16) + 4 * at) as u32);
            }
        }
    }
    panic!("{structure} is not told")
}

#[test]
fn what_does_not_hold_together_is_found() {
    machines::with_pair(1, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let whole = dump(&pair.alpha);
        let at = |line: &str| u64::from_str_radix(&address(line)[2..], 16).unwrap();
        let peer = at(&says(&whole, "peers"));
        let session = at(&says(&whole, "keypairs"));
        let lane = place(&whole, "Peer", "attached") + place(&whole, "Paths", "send");
        let length = peer + lane + place(&whole, "SendLane", "len");
        for (at, wrong) in [
            (length, "send says it has 1 chunks, and has 0"),
            (peer + place(&whole, "Peer", "slot"), "peer 0 says it is in slot 1"),
            (peer + place(&whole, "Peer", "tunnel") + 1, "peer 0 says it is of another adapter"),
            (session + place(&whole, "Keypair", "peer"), "the current session is another peer's"),
            (
                session - place(&whole, "Keypair", "shared") + 7,
                "current session has 720575940379279",
            ),
        ] {
            let said = says(&changed(&whole, at, 1), "verify");
            assert_says(&said, &["WRONG: ", wrong]);
        }

        // A record that was being written.
        let recorder = word(&whole, whole.symbols[1].1 + 24);
        let ring = word(&whole, recorder + 16);
        let records_at = u64::from(word(&whole, recorder + 32) as u32);
        let torn = says(&changed(&whole, ring + records_at + 12, 9), "log 1000");
        assert_eq!(torn.lines().count() + 1, says(&whole, "log 1000").lines().count(), "{torn}");
    });
}

#[test]
fn another_build_is_refused_in_words() {
    machines::with_pair(1, |pair| {
        let whole = dump(&pair.alpha);
        let descriptor =
            whole.symbols.iter().find(|(name, _)| name.starts_with("penstock!")).unwrap().1;
        let changed = |at: u64, byte| says(&changed(&whole, descriptor + at, byte), "adapters");
        assert_says(
            &changed(0, b'X'),
            &["!pen_adapters: what is at penstock!PenstockDescriptor is no descriptor"],
        );
        assert_says(&changed(8, 2), &["the driver's descriptor is version 2, this script knows 1"]);
        let mut unknown = whole.clone();
        unknown.symbols.clear();
        assert_says(&says(&unknown, "adapters"), &["no penstock!PenstockDescriptor"]);
        assert_says(
            &says(&stop_of(&unknown, 0xD1, [0; 4]), "bugcheck"),
            &["stop 0xd1", "the last records: not to be had here (no penstock!PenstockDescriptor"],
        );
        let mut unloaded = whole.clone();
        let image = unloaded.stretches.iter_mut().find(|it| it.what == "the image").unwrap();
        let core = (descriptor + 16 - image.at) as usize;
        image.bytes[core..core + 8].fill(0);
        unloaded.tagged.clear();
        assert_says(&says(&unloaded, "adapters"), &["the driver is not at work"]);
    });
}
