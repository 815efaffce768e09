//! What `--help` of each command says: whoever changes it sees it here. The commands that only Windows has are under_wine.rs's.

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use std::process::Command;

mod expected;
mod helps;

#[test]
fn every_command_has_its_help() {
    let print = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_penstock")).args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let top = format!("$ penstock --help\n{}\n", print(&["--help"]));
    expected::expect("helped.txt", &(top + &helps::of_commands(&[], &|_| true, &print)));
}
