//! `penstock trace packets` before `penstock.sys`: what tshark reads of it.
//!
//! ```text
//!   ping ── inside ── penstock-sim up NAME ── outside ──cable── penstock-sim up NAME
//!             └──────────────┬────────────────────┘
//!            penstock trace packets ── pcapng ── tshark
//! ```
//!
//! Needs, with what [`sides`] does: `ping` and `tshark`.

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use ctl::driver::simulated::DIRECTORY;

mod sides;
mod simulated;

use sides::{Side, Sides, errors};
use simulated::{PENSTOCK, run};

/// Begins to trace into `file`; packets are taken when this returns.
fn tracing(side: &Side<'_>, file: &Path, arguments: &[&str]) -> Child {
    let _ = fs::remove_file(file);
    let mut command = Command::new(PENSTOCK);
    command.args(["trace", "packets", &side.tunnel.name]).arg("-o").arg(file).args(arguments);
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while fs::metadata(file).map_or(0, |file| file.len()) == 0 {
        assert_eq!(child.try_wait().unwrap(), None, "it ended");
        assert!(Instant::now() < deadline, "it writes nothing");
        std::thread::sleep(Duration::from_millis(5));
    }
    child
}

/// What it said when it ended.
fn said(child: Child) -> String {
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{}", errors(&ended));
    errors(&ended)
}

fn refused(side: &Side<'_>, arguments: &[&str]) -> String {
    let all = [&["trace", "packets", &*side.tunnel.name, "--count", "1"], arguments].concat();
    let ended = run(PENSTOCK, &all);
    assert!(!ended.status.success() && ended.stdout.is_empty());
    errors(&ended)
}

/// Fields of the packets that `filter` lets pass, a list for each.
fn tshark(file: &Path, filter: &str, fields: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(file).args(["-n", "-T", "fields", "-Y", filter]);
    command.args(["-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE"]);
    for field in fields {
        command.args(["-e", field]);
    }
    let read: Output = command.output().unwrap();
    assert!(read.status.success(), "{}", errors(&read));
    let text = String::from_utf8(read.stdout).unwrap();
    text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect()
}

fn set_policy(side: &Side<'_>, line: &str) {
    let path = Path::new(DIRECTORY).join(format!("{}.sock", side.tunnel.name));
    let mut socket = UnixStream::connect(path).unwrap();
    socket.write_all(format!("policy=1\n{line}\n\n").as_bytes()).unwrap();
    let mut answer = [0; 9];
    socket.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"errno=0\n\n");
}

#[test]
fn packets_are_what_tshark_reads() {
    let sides = Sides::new();
    let (a, b) = (sides.tunnel(0), sides.tunnel(1));
    let outside = sides.folder.join("outside.pcapng");
    let both = sides.folder.join("both.pcapng");
    let few = sides.folder.join("few.pcapng");
    let tracer = tracing(&a, &outside, &["--count", "12"]);
    for (side, number) in [(&a, 1), (&b, 2)] {
        let interface = format!("Address = 10.78.0.{number}/24\n");
        side.penstock(&["up", &side.file(number, &interface, "10.78.0.0/24")]);
    }
    a.says("ping -c 10 -i 0.1 -W 5 10.78.0.2");
    assert!(said(tracer).ends_with("12 packets written, 0 missed\n"));
    assert_eq!(fs::metadata(&outside).unwrap().permissions().mode() & 0o777, 0o600);
    let of_handshake = tshark(
        &outside,
        "wg.type < 4",
        &["wg.type", "frame.interface_name", "ip.src", "udp.srcport", "udp.dstport", "frame.len"],
    );
    let name = format!("{} outside", a.tunnel.name);
    let rows = [
        ["1", &name, "", "51821", "51822", "176"],
        ["2", &name, "10.77.0.2", "51822", "51821", "120"],
    ];
    for (row, expected) in of_handshake.iter().zip(rows) {
        let sender = &row[2];
        // An initiation may leave before it is known from which address.
        assert!(matches!(&**sender, "10.77.0.1" | "10.77.0.2" | "0.0.0.0"), "{row:?}");
        for (at, field) in expected.iter().enumerate().filter(|(_, field)| !field.is_empty()) {
            assert_eq!(row[at], *field, "{row:?}");
        }
    }
    assert_eq!(of_handshake.len(), 2, "{of_handshake:?}");
    assert_eq!(tshark(&outside, "wg.type == 4", &["wg.type"]).len(), 10);
    let wrong = "ip.checksum.status == 0 || udp.checksum.status == 0 || _ws.malformed";
    assert_eq!(tshark(&outside, wrong, &["frame.number"]), [[""; 0]; 0], "checksums");

    // The inside is for who may see it.
    assert!(refused(&a, &["--inner"]).contains("TraceInner"));
    set_policy(&a, "TraceInner=1");
    let tracer = tracing(&a, &both, &["--inner", "--count", "16"]);
    assert!(refused(&a, &[]).contains("one at a time"));
    a.says("ping -c 10 -i 0.1 -W 5 -s 200 10.78.0.2");
    assert!(said(tracer).contains("16 packets written"));
    let echoes =
        tshark(&both, "icmp.type == 8", &["frame.interface_name", "ip.src", "ip.dst", "ip.len"]);
    let name = format!("{} inside", a.tunnel.name);
    assert!(echoes.len() >= 3, "{echoes:?}");
    assert!(
        echoes.iter().all(|row| *row == [&*name, "10.78.0.1", "10.78.0.2", "228"]),
        "{echoes:?}"
    );
    assert!(!tshark(&both, "icmp.type == 0", &["ip.src"]).is_empty());
    assert!(!tshark(&both, "wg.type == 4", &["wg.type"]).is_empty());

    // Who dies in the middle of it keeps nobody else from it; what is too much is counted, and the file says so.
    let mut tracer = tracing(&a, &few, &[]);
    a.says("ping -c 2 -i 0.1 -W 5 10.78.0.2");
    tracer.kill().unwrap();
    tracer.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while refused_for_another(&a) {
        assert!(Instant::now() < deadline, "the capture outlives its program");
    }
    let tracer = tracing(&a, &few, &["--rate", "1", "--snaplen", "32", "--duration", "2"]);
    a.says("ping -c 8 -i 0.1 -W 5 10.78.0.2");
    let said = said(tracer);
    let numbers: Vec<u64> = said.split(' ').filter_map(|word| word.parse().ok()).collect();
    let rows = tshark(&few, "udp", &["frame.cap_len", "frame.len"]);
    assert!(numbers[1] >= 8 && rows.len() as u64 == numbers[0], "{said}");
    assert!(rows.iter().all(|row| row[0] == "60" && row[1] != "60"), "{rows:?}");
    // The outside's last statistics: a block of 52 bytes before another such one, its last number before 8 other bytes.
    let file = fs::read(&few).unwrap();
    let missed = file[file.len() - 52 - 16..].first_chunk().unwrap();
    assert_eq!(u64::from_le_bytes(*missed), numbers[1], "{said}");
}

fn refused_for_another(side: &Side<'_>) -> bool {
    let arguments = ["trace", "packets", &side.tunnel.name, "--duration", "0"];
    let ended = run(PENSTOCK, &arguments);
    assert!(ended.status.success() || errors(&ended).contains("one at a time"));
    !ended.status.success()
}
