//! `penstock trace decode` of a file that is kept: what docs/debugging.md shows of it.

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use std::process::Command;

/// A recording of a simulated machine, in buffers of 2 KiB: two of them.
const FILE: &str = "tests/files/penstock.etl";
const PAGE: &str = include_str!("../../docs/debugging.md");

#[test]
fn the_page_shows_lines_of_the_file() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_penstock"));
    let output = command.args(["trace", "decode", FILE]).output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let all = String::from_utf8(output.stdout).unwrap();
    let shown = PAGE.split(&format!("<!-- tried: ctl/{FILE} -->\n\n```text\n")).nth(1).unwrap();
    let shown: Vec<&str> = shown.lines().take_while(|line| *line != "```").collect();
    assert_eq!(shown.len(), 4);
    let mut rest = all.lines();
    for line in shown {
        assert!(
            rest.any(|other| other == line),
            "{line}: not in {all}, or not behind the one before"
        );
    }
}
