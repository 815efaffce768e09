//! The recipes of `docs/debugging.md`: each is tried on a machine that has the symptom, and what stands there is what it says.
//!
//! Behind the line `<!-- tried: NAME -->` a block of the document shows commands and some of their lines; numbers may be others.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use abi::policy::Policy;
use sim::host::memory::pair::Station;
use sim::nt::machine::Options;
use sim::verifier::dump::{Dump, Stretch};

use crate::debugger::{IN_A_CHUNK, said, says, stop_of};
use crate::machines;
use crate::small_dumps::of_the_file;

/// A line, with `#` for each number.
fn without_numbers(line: &str) -> String {
    let mut out = String::new();
    let mut digits = false;
    for word in line.split_inclusive([' ', ',', '(', ')', ':']) {
        let bare = word.trim_end_matches([' ', ',', '(', ')', ':']);
        if bare.starts_with("0x") || bare.len() == 44 && bare.ends_with('=') {
            out.push('#');
            out.push_str(&word[bare.len()..]);
            continue;
        }
        for letter in word.chars() {
            if !(letter.is_ascii_digit() && digits) {
                out.push(if letter.is_ascii_digit() { '#' } else { letter });
            }
            digits = letter.is_ascii_digit();
        }
    }
    out
}

/// The block of the recipe `name`, its commands in it.
fn block(name: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/debugging.md");
    let text = std::fs::read_to_string(file).unwrap();
    let after = text.split_once(&format!("<!-- tried: {name} -->\n\n```text\n"));
    let (_, block) = after.unwrap_or_else(|| panic!("docs/debugging.md does not have {name}"));
    block.split_once("```").unwrap().0.to_owned()
}

/// Has the recipe's commands speak about `dump`: each line of the document is one of theirs, in any order.
fn tried(name: &str, dump: &Dump) {
    let block = block(name);
    let commands: Vec<&str> =
        block.lines().filter_map(|line| line.strip_prefix("kd> !pen_")).collect();
    assert!(!commands.is_empty(), "{name}: {block}");
    // An address of this machine's stands for the document's.
    let peer = says(dump, "peers")
        .split(" at ")
        .nth(1)
        .map(|rest| rest.split(':').next().unwrap().to_owned());
    let commands: Vec<String> = commands
        .into_iter()
        .map(|command| match command.split_once(' ') {
            Some(("peer", _)) => format!("peer {}", peer.as_deref().unwrap()),
            // WinDbg's decimal number.
            _ => command.replace("0n", ""),
        })
        .collect();
    let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
    let said: String = said(dump, &commands).into_values().collect();
    let lines: BTreeSet<String> = said.lines().map(without_numbers).collect();
    let shown: Vec<&str> = block.lines().filter(|line| !line.starts_with("kd>")).collect();
    assert!(!shown.is_empty(), "docs/debugging.md shows nothing of {name}, which says:\n{said}");
    for line in shown {
        assert!(lines.contains(&without_numbers(line)), "{name}: no {line:?} in\n{said}");
    }
}

fn dump(station: &Station) -> Dump {
    Dump::of(station.computer().machine())
}

#[test]
fn a_handshake_that_never_completes() {
    machines::with_pair(1, |pair| {
        pair.beta.set_up(false).unwrap();
        pair.alpha.endpoint().send_datagram(pair.beta.inner()[0], vec![0; 100]);
        pair.world.sleep(Duration::from_secs(22));
        tried("no answer", &dump(&pair.alpha));
        pair.beta.set_up(true).unwrap();
        pair.beta.remove_peer(&pair.alpha.public_key().unwrap()).unwrap();
        pair.world.sleep(Duration::from_secs(12));
        tried("unknown peer", &dump(&pair.beta));
    });
}

#[test]
fn packets_that_vanish() {
    machines::with_pair(1, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let nobody = std::net::IpAddr::from([10, 200, 0, 1]);
        for _ in 0..3 {
            pair.alpha.endpoint().send_datagram(nobody, vec![0; 100]);
        }
        pair.world.sleep(Duration::from_secs(1));
        tried("vanished", &dump(&pair.alpha));
        pair.alpha.tunnel().sleep().unwrap();
        pair.world.sleep(Duration::from_secs(600));
        pair.alpha.tunnel().wake().unwrap();
        pair.world.sleep(Duration::from_secs(1));
        tried("resumed", &dump(&pair.alpha));
    });
}

#[test]
fn a_cpu_that_does_not_go_on() {
    let options = Options { cpus: 4, ..machines::with_policy(Policy::FastPath, 0) };
    machines::with_pair_of(1, &options, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let faults = pair.alpha.computer().machine().faults();
        for (name, function) in [("one CPU", IN_A_CHUNK), ("outstanding", "WskSendMessages")] {
            let (stall, before) = (Duration::from_millis(50), faults.stalled());
            faults.stall(function, 3, stall);
            let to = pair.beta.inner()[0];
            let load = machines::Load::start(
                &pair.world,
                &pair.alpha,
                to,
                1000,
                Duration::from_micros(20),
            );
            while faults.stalled() == before {
                pair.world.sleep(Duration::from_micros(10));
            }
            pair.world.sleep(Duration::from_micros(500));
            let dump = dump(&pair.alpha);
            drop(load);
            tried(name, &dump);
            pair.world.sleep(2 * stall);
        }
    });
}

#[test]
fn stops_and_what_there_is() {
    machines::with_pair(1, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let mut running = dump(&pair.alpha);
        tried("help", &running);
        let place = b"src/workers.rs".to_vec();
        running.stretches.push(Stretch { what: "a text", at: 0xFFFF_F803_1234_5678, bytes: place });
        for (name, code, parameters) in [
            ("0x133", 0x133, [0, 0x501, 0x500, 0]),
            ("0xD1", 0xD1, [8, 2, 0, 0xFFFF_F803_1230_1000]),
            ("0xC4", 0xC4, [0x32, 4, 0, 0]),
            ("0x9F", 0x9F, [3, 0xFFFF_C001_2345_6780, 0xFFFF_F803_1111_0000, 0]),
            ("panic", u32::from_be_bytes(*b"Pnst"), [0xFFFF_F803_1234_5678, 14, 77, 9]),
        ] {
            tried(name, &stop_of(&running, code, parameters));
        }
        let stopped = stop_of(&running, 0x133, [0, 0x501, 0x500, 0]);
        tried("small dump", &of_the_file(&stopped, true));
    });
}
