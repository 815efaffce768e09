//! `penstock trace start`, `stop` and `decode` before `penstock.sys`: what is read of a session's log file, also by others.
//!
//! ```text
//!   ping ── inside ── penstock-sim up NAME ── outside ──cable── penstock-sim up NAME
//!                              │
//!          penstock trace start, stop ── .etl ── penstock trace decode, etl-parser, dissect.etl
//! ```
//!
//! Needs, with what [`sides`] does: `ping`, and of scripts/peers.sh the two that are written in Python.

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

mod sides;
mod simulated;

use sides::{Sides, errors};
use simulated::{PENSTOCK, run};

/// Runs `penstock trace`; what it printed, and said besides.
fn trace(arguments: &[&str]) -> (String, String) {
    let ended = run(PENSTOCK, &[&["trace"], arguments].concat());
    assert!(ended.status.success(), "{arguments:?}: {}", errors(&ended));
    let said = errors(&ended);
    (String::from_utf8(ended.stdout).unwrap(), said)
}

/// What it says if it does not do it.
fn does_not(arguments: &[&str]) -> String {
    let ended = run(PENSTOCK, &[&["trace"], arguments].concat());
    assert!(!ended.status.success() && ended.stdout.is_empty(), "{arguments:?}");
    errors(&ended)
}

/// The driver tells a session of ETW what it does; the session's log file says so to `penstock`, to whoever reads JSON, and, where
/// it is installed, to another reader of such files.
#[test]
fn a_session_records_what_the_driver_does() {
    let sides = Sides::new();
    let (a, b) = (sides.tunnel(0), sides.tunnel(1));
    let file = sides.folder.join("penstock.etl");
    let (path, of) = (file.to_str().unwrap(), ["--interface", &*a.tunnel.name]);
    let start = [&["start", "-o", path, "--level", "verbose"][..], &of].concat();
    let stop = [&["stop"][..], &of].concat();
    let several = does_not(&["stop"]);
    assert!(
        several.starts_with("Unable to stop `Penstock': say whose machine is meant"),
        "{several}"
    );
    assert_eq!(does_not(&stop), "Unable to stop `Penstock': no session of that name runs\n");
    trace(&start);
    let again = does_not(&start);
    assert!(again.contains("a session of that name runs: stop it"), "{again}");
    let other = sides.folder.join("other.etl");
    let other = other.to_str().unwrap();
    let handshakes = ["--name", "other", "--keywords", "handshakes,driver"];
    trace(&[&["start", "-o", other][..], &handshakes, &of].concat());
    for (side, number) in [(&a, 1), (&b, 2)] {
        let interface = format!("Address = 10.79.0.{number}/24\n");
        side.penstock(&["up", &side.file(number, &interface, "10.79.0.0/24")]);
    }
    a.says("ping -c 3 -i 0.1 -W 5 10.79.0.2");
    // To nobody: a discard.
    a.says(&format!("ip route add 10.80.0.0/24 dev {}", a.tunnel.name));
    let unanswered = a.inside("ping", &["-c", "1", "-W", "1", "10.80.0.1"]);
    assert!(!unanswered.status.success());
    assert_eq!(trace(&stop).1, format!("{path} is written\n"));
    trace(&[&["stop", "--name", "other"][..], &of].concat());
    assert!(
        trace(&["decode", other])
            .0
            .lines()
            .all(|line| line.contains("Message") || line.contains("PolicyRead"))
    );

    let (lines, nothing) = trace(&["decode", path]);
    assert_eq!(nothing, "", "nothing is missing");
    let names = ["Configured", "AdapterUp", "MessageMade (start)", "MessageTaken (stop)"];
    let at = names
        .map(|name| lines.find(&format!(" {name} ")).unwrap_or_else(|| panic!("{name}: {lines}")));
    assert!(at.is_sorted(), "{lines}");
    assert!(lines.contains(" verbose Discarded Cpu="), "{lines}");
    assert!(lines.contains(" reason=NoPeer packets=1"), "{lines}");
    let first = lines.split('Z').next().unwrap();
    let today = Command::new("date").args(["-u", "+%Y-%m-%dT%H:"]).output().unwrap().stdout;
    // An hour may have begun meanwhile.
    assert_eq!(first.as_bytes()[..11], today[..11], "{first}");

    let json: Vec<Value> = trace(&["decode", path, "--json"])
        .0
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(json.len(), lines.lines().count());
    beside_others(&file, &json);

    damaged(&file, &lines, &sides.folder.join("damaged.etl"));

    // One that nobody stops ends with its machine.
    trace(&[&["start", "-o", path, "--level", "verbose"][..], &of].concat());
    let _ = a.inside("ping", &["-c", "1", "-W", "1", "10.80.0.1"]);
    drop(a);
    let (lines, nothing) = trace(&["decode", path]);
    assert!(lines.contains(" reason=NoPeer ") && nothing.is_empty(), "{lines}{nothing}");
}

/// What others read of the file is what we do.
fn beside_others(file: &Path, ours: &[Value]) {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/peers/python");
    if !python.exists() {
        assert!(std::env::var("CI").is_err(), "CI has what scripts/peers.sh installs");
        println!(
            "SKIPPED: etl-parser and dissect.etl are not there: scripts/peers.sh target/peers installs them"
        );
        return;
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/interop/log_file.py");
    let read =
        Command::new("python3").arg(script).arg(file).env("PYTHONPATH", python).output().unwrap();
    assert!(read.status.success(), "{}", errors(&read));
    let text = String::from_utf8(read.stdout).unwrap();
    let mut theirs: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(theirs.len(), ours.len());
    for one in ours {
        // Theirs are in the order of the file: buffers of one CPU after those of another.
        let is_it =
            |other: &Value| other["fields"] == one["fields"] && other["name"] == one["name"];
        let at = theirs
            .iter()
            .position(is_it)
            .unwrap_or_else(|| panic!("{one} is not among {theirs:#?}"));
        let other = theirs.swap_remove(at);
        let level = if one["level"] == "info" { 4 } else { 5 };
        assert_eq!(
            (&other["level"], &other["keywords"]),
            (&level.into(), &one["keywords"]),
            "{one}"
        );
        assert_eq!(other["provider"], serde_json::json!(["Penstock"]));
        let none = "{00000000-0000-0000-0000-000000000000}";
        let activity = one["activity"].as_str().unwrap_or(none);
        assert_eq!(Some(activity.trim_matches(['{', '}'])), other["activity"].as_str(), "{one}");
    }
}

/// Of a file that is cut off or changed, what can be read is, and what cannot is told.
fn damaged(file: &Path, lines: &str, other: &Path) {
    let (whole, path) = (fs::read(file).unwrap(), other.to_str().unwrap());
    let written = |bytes: &[u8]| fs::write(other, bytes).unwrap();
    written(&whole[..whole.len() - 1]);
    assert_eq!(
        trace(&["decode", path]),
        (lines.to_owned(), String::new()),
        "what fills it is missing"
    );
    written(&whole[..(64 << 10) + 100]);
    let (nothing, said) = trace(&["decode", path]);
    assert_eq!(nothing, "");
    let none = "the file has no event of Penstock, and 0 of others";
    assert_eq!(said, format!("{none}\n1 buffer of the file is damaged\n"));
    written(b"[Interface]\nPrivateKey = x\n");
    assert_eq!(
        does_not(&["decode", path]),
        format!("{path}: it is no log file of event tracing (.etl)\n")
    );
    let mut compressed = whole.clone();
    compressed[(64 << 10) + 52] |= 0x40;
    written(&compressed);
    assert!(does_not(&["decode", path]).contains("its events are compressed"), "and that is told");
    fs::remove_file(other).unwrap();
    assert_eq!(does_not(&["decode", path]), format!("{path}: No such file or directory\n"));
}
