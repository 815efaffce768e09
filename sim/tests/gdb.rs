//! gdb with the driver's functions and lines: stops in it, walks out of it, steps through it, forgets it.
#![cfg(all(target_arch = "x86_64", target_os = "linux"))]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::process::Command;

mod built;

/// What gdb calls the gate, whose frames are on another stack than its caller's.
const GATE: &str = "<signal handler called>";

/// Runs the demonstration under gdb, with `commands` in it, and returns what gdb and the program printed. None where tracing is
/// forbidden.
fn gdb(commands: &str) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let file = std::env::temp_dir().join(format!("penstock-gdb-{}", std::process::id()));
    std::fs::write(&file, format!("set pagination off\n{commands}")).unwrap();
    // One stream for both, so that what it says stays in order.
    let output = Command::new("sh")
        .current_dir(root)
        .args([
            "-c",
            "exec gdb -q -nx -batch -x scripts/penstock.gdb -x \"$1\" --args \"$2\" demo --memory \
               --driver target/driver/penstock.sys 2>&1",
            "sh",
        ])
        .arg(&file)
        .arg(built::penstock_sim())
        .output()
        .expect("scripts/setup.sh installs gdb");
    std::fs::remove_file(file).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("ptrace: Operation not permitted") {
        eprintln!("SKIPPED: this process may not trace another");
        return None;
    }
    Some(text)
}

#[test]
fn gdb_stops_in_the_driver_and_knows_functions_lines_and_callers() {
    let Some(text) = gdb("break Worker::consume_handshakes\n\
         run\n\
         echo <stop>\\n\n\
         backtrace\n\
         echo <list>\\n\n\
         list\n\
         echo <next>\\n\n\
         next\n\
         echo <deep>\\n\n\
         delete\n\
         break aead::seal\n\
         continue\n\
         backtrace\n\
         echo <finish>\\n\n\
         finish\n\
         echo <end>\\n\n\
         delete\n\
         break Worker::serve\n\
         continue\n\
         delete\n\
         continue\n\
         info line Worker::serve\n")
    else {
        return;
    };
    let part = |from: &str, to: &str| {
        let begin = text.find(from).unwrap_or_else(|| panic!("no {from} in {text}"));
        text[begin..].split(to).next().unwrap().to_owned()
    };
    let stop = part("<stop>", "<list>");
    assert!(
        stop.contains("Worker::consume_handshakes ()") && stop.contains("src/workers.rs:"),
        "{stop}"
    );
    // A function that the compiler put into its caller, a frame of the driver's, the gate between two stacks, the simulator.
    for name in ["nt/src/thread.rs:", "nt::thread::run<", GATE, "cross () at sim/src/nt/thread.rs:"]
    {
        assert!(stop.contains(name), "no {name} in {stop}");
    }
    let list = part("<list>", "<next>");
    assert!(list.contains("fn consume_handshakes("), "{list}");
    let next = part("<next>", "<deep>");
    assert!(next.lines().any(|line| line.starts_with(|c: char| c.is_ascii_digit())), "{next}");
    let deep = part("<deep>", "<finish>");
    assert!(deep.contains("aead") && deep.contains(GATE), "{deep}");
    // Where a function returns to is found by the frames, too.
    let finish = part("<finish>", "<end>");
    let caller = deep.lines().find_map(|line| line.strip_prefix("#1  ")).unwrap();
    let caller = caller.split(" in ").last().unwrap().split(':').next().unwrap();
    assert!(finish.contains(caller), "{caller} in {finish}");
    assert!(!deep.contains("corrupt stack"), "{deep}");
    let end = part("<end>", "<nothing>");
    assert!(end.contains("unloaded    0 things left behind"), "{end}");
    assert!(end.contains("exited normally"), "{end}");
}
