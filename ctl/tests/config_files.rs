//! The corpus of configuration files: what each good one says, and what is told of each bad one.
//!
//! `files/good/NAME.conf` is printed as `NAME.printed`, and what is strange in it told as `NAME.warnings`; of `files/bad/NAME.conf`
//! all that is told is `NAME.told`. A bad file whose name begins with `interface-` is read as for `setconf`, one with `script-`
//! where policy allows no commands, all others as a tunnel's.

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use std::fs;

use ctl::config::print::print;
use ctl::config::problem::Problem;
use ctl::config::read::{Purpose, read};

mod expected;

/// The names of a folder's files, below `ctl/tests`.
fn files(folder: &str) -> Vec<String> {
    let entries = fs::read_dir(expected::file(folder)).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names
        .filter(|name| name.ends_with(".conf"))
        .map(|name| format!("{folder}/{name}"))
        .collect();
    names.sort();
    names
}

/// The last part of a path.
fn last(file: &str) -> &str {
    file.rsplit('/').next().unwrap_or_default()
}

fn expect(file: &str, ending: &str, text: &str) {
    expected::expect(&file.replace(".conf", ending), text);
}

fn told(file: &str, problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{}\n", problem.of(last(file)))).collect()
}

#[test]
fn good_files() {
    let files = files("files/good");
    assert!(files.len() >= 10);
    for file in files {
        let bytes = fs::read(expected::file(&file)).unwrap();
        let reading = read(&bytes, Purpose::Tunnel { scripts: true });
        let reading = reading.map_err(|problems| panic!("{}", told(&file, &problems))).unwrap();
        let printed = print(&reading.config);
        expect(&file, ".printed", &printed);
        let warnings = reading.warnings.iter();
        let warnings: String =
            warnings.map(|warning| format!("{}\n", warning.warning_of(last(&file)))).collect();
        expect(&file, ".warnings", &warnings);
        let again = read(printed.as_bytes(), Purpose::Tunnel { scripts: true });
        let again = again.map_err(|problems| panic!("{}", told(&file, &problems))).unwrap();
        assert!(again.config == reading.config, "{}: it reads back the same", last(&file));
    }
}

#[test]
fn bad_files() {
    let files = files("files/bad");
    assert!(files.len() >= 25);
    for file in files {
        let purpose = match last(&file).split_once('-') {
            Some(("interface", _)) => Purpose::Interface,
            Some(("script", _)) => Purpose::Tunnel { scripts: false },
            _ => Purpose::Tunnel { scripts: true },
        };
        let problems = read(&fs::read(expected::file(&file)).unwrap(), purpose).err();
        let problems = problems.unwrap_or_else(|| panic!("{} is taken", last(&file)));
        expect(&file, ".told", &told(&file, &problems));
    }
}
