//! `penstock.exe` under Wine: what it prints is what the program prints on this host, byte for byte, and what only Windows has.
//!
//! Needs penstock.exe (scripts/build.sh --ctl), Wine and mingw-w64 (scripts/setup.sh).

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use std::fs;
use std::io::Write;
use std::process::{Command, Output, Stdio};

mod expected;
mod helps;
mod prefix;
mod services;

use ctl::service::events::message_table;

const HERE: &str = env!("CARGO_BIN_EXE_penstock");

fn run(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    // Who does not read it may have gone.
    let _ = process.stdin.take().unwrap().write_all(input);
    process.wait_with_output().unwrap()
}

/// What a command printed, and how it ended.
fn printed(output: &Output) -> String {
    format!(
        "{}{}exit {:?}\n",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
        output.status.code()
    )
}

/// The commands that only Windows has.
const ONLY_HERE: [&str; 6] = [
    "serve",
    "driver",
    "install-tunnel",
    "uninstall-tunnel",
    "install-manager",
    "uninstall-manager",
];

/// The lines of a help without the commands that only Windows has; the longest of these says how wide the column is.
fn common(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.filter(|words| words.first().is_none_or(|first| !ONLY_HERE.contains(first))).collect()
}

/// Runs the same here and there, and gives back what both printed.
fn both(arguments: &[&str], input: &[u8]) -> String {
    let mut here = Command::new(HERE);
    here.args(arguments);
    let mut there = prefix::penstock();
    there.args(arguments);
    let (here, there) = (printed(&run(here, input)), printed(&run(there, input)));
    if arguments == ["--help"] {
        assert!(common(&there) == common(&here), "{there}\n{here}");
        return here;
    }
    assert_eq!(there, here, "{arguments:?}");
    here
}

/// What the crate tests of itself on every system, where it calls Windows.
#[test]
fn what_calls_windows_passes_its_own_tests() {
    let mut tests = prefix::wine();
    tests.args([&*prefix::built("tests.exe"), "windows::", "driver::"]);
    let told = printed(&run(tests, b""));
    let passed = told.split("test result: ok. ").nth(1).and_then(|rest| rest.split(' ').next());
    let passed: usize = passed.and_then(|passed| passed.parse().ok()).unwrap_or_default();
    assert!(passed >= 18 && told.ends_with("exit Some(0)\n"), "{told}");
}

#[test]
fn keys_are_the_same() {
    let private = b"mAZGQvaDkOZ+DFVBOEMZECvRiOzOR8FZIZ4Bn+Ss3UU=\n";
    let public = both(&["pubkey"], private);
    assert!(public.ends_with("=\nexit Some(0)\n"), "{public}");
    both(&["pubkey"], b"mAZGQvaDkOZ+DFVBOEMZECvRiOzOR8FZIZ4Bn+Ss3UU=\r\n");
    assert!(both(&["pubkey"], b"nonsense").contains("this is no key"));
    for command in ["genkey", "genpsk"] {
        let key = || {
            let mut there = prefix::penstock();
            there.arg(command);
            let output = run(there, b"");
            assert!(output.status.success() && output.stdout.len() == 45, "{}", printed(&output));
            output.stdout
        };
        assert_ne!(key(), key());
    }
}

#[test]
fn what_is_told_of_arguments_is_the_same() {
    for arguments in [
        &["--version"][..],
        &["--help"],
        &["show", "--help"],
        &["set", "--help"],
        &["nonsense"],
        &["strip"],
        &["policy", "check", "Mtu=1420", "ScalingExclude=0-1, 1:3"],
        &["policy", "check", "Mtu=9", "Mtuu=1", "SimdCap", "ScalingExclude=x"],
        &["policy", "show", "Mtuu"],
        &[
            "policy",
            "check",
            r"Tunnels\office=Address=10.0.0.2/32",
            r"Tunnels\a/b=",
            r"Tunnels\a=PrivateKey=x",
        ],
        &["set", "t0", "listen-prot", "1"],
    ] {
        both(arguments, b"");
    }
}

/// What `--help` of the commands that only Windows has says; that of the others is helped.rs's.
#[test]
fn every_command_of_windows_has_its_help() {
    let print = |arguments: &[&str]| {
        let mut there = prefix::penstock();
        there.args(arguments);
        printed(&run(there, b"")).replace("exit Some(0)\n", "")
    };
    let helps = helps::of_commands(&[], &|name| ONLY_HERE.contains(&name), &print);
    expected::expect("wine/helped.txt", &helps);
}

/// Files that end lines as Windows does, or begin with a mark, or are UTF-16, among them.
#[test]
fn files_are_read_the_same() {
    for file in [
        "good/everything",
        "good/windows-notepad",
        "bad/utf16",
        "bad/latin1",
        "bad/many",
        "bad/save-config",
    ] {
        both(&["strip", "-"], &fs::read(expected::file(&format!("files/{file}.conf"))).unwrap());
    }
    both(&["up", "--dry-run", "bad name"], b"");
    let file = expected::file("files/good/windows-notepad.conf");
    let mut there = prefix::penstock();
    there.args(["strip", &prefix::path(&file)]);
    let told = printed(&run(there, b"")).replace(&prefix::path(&file), "FILE");
    let mut here = Command::new(HERE);
    here.arg("strip").arg(&file);
    assert_eq!(told, printed(&run(here, b"")).replace(&file.display().to_string(), "FILE"));
}

/// The values that are there are the registry's, policy over local over default, and one that is none is refused alone.
#[test]
fn policies_say_where_they_came_from() {
    let _policy = prefix::policy();
    let (group, local) = (r"SOFTWARE\Policies\Penstock", r"SOFTWARE\Penstock");
    prefix::set_value(group, "Mtu", "REG_DWORD", "1300");
    prefix::set_value(local, "Mtu", "REG_DWORD", "1280");
    prefix::set_value(local, "MssClamp", "REG_DWORD", "0");
    prefix::set_value(group, "SimdCap", "REG_DWORD", "77");
    prefix::set_value(group, "FastPath", "REG_SZ", "1");
    prefix::set_value(local, "ScalingExclude", "REG_SZ", "0-1, 1:3");
    let mut there = prefix::penstock();
    const PEER: &str = "PublicKey = mAZGQvaDkOZ+DFVBOEMZECvRiOzOR8FZIZ4Bn+Ss3UU=";
    let tunnels = r"SOFTWARE\Policies\Penstock\Tunnels";
    let office = format!("Address = 10.0.0.2/32; {PEER}; AllowedIPs = 10.0.0.0/8");
    prefix::set_value(tunnels, "office", "REG_SZ", &office);
    prefix::set_value(tunnels, "told", "REG_SZ", &PEER.replace("Public", "Private"));
    there.args(["policy", "show"]);
    expected::expect("wine/policy.txt", &printed(&run(there, b"")));
    // A manager would bring it up, and Wine lacks what for.
    prefix::remove_value(tunnels, "office");
    prefix::remove_value(tunnels, "told");

    // The driver's key has what they say, and not what nobody says.
    let parameters = r"SYSTEM\CurrentControlSet\Services\penstock\Parameters";
    prefix::set_value(parameters, "FastPath", "REG_DWORD", "0");
    let mut there = prefix::penstock();
    there.args(["policy", "apply"]);
    expected::expect("wine/applied.txt", &printed(&run(there, b"")));
    expected::expect("wine/parameters.txt", &prefix::values(parameters));
    commands_are_run_where_policy_says_so();
}

/// The first step runs the file's command; the second is the adapter, for which Wine has no function and ends the program.
fn commands_are_run_where_policy_says_so() {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (file, ran) = (folder.join("scripted.conf"), folder.join("ran.txt"));
    let _ = fs::remove_file(&ran);
    let text = format!("[Interface]\nPreUp = echo %i>\"{}\"\n", prefix::path(&ran));
    fs::write(&file, text).unwrap();
    let up = || {
        let mut there = prefix::penstock();
        there.args(["up", &prefix::path(&file)]);
        printed(&run(there, b""))
    };
    let told = up();
    assert!(told.contains("PreUp is a command, and policy allows none") && !ran.exists(), "{told}");
    prefix::set_value(r"SOFTWARE\Penstock", "DangerousScriptExecution", "REG_DWORD", "1");
    let told = up();
    assert!(!told.contains("policy allows none"), "{told}");
    assert_eq!(fs::read_to_string(ran).unwrap().trim_end(), "scripted");
}

/// Wine's configuration manager knows no interfaces: what comes of that is said, and nothing stops.
#[test]
fn without_the_driver_there_is_no_interface() {
    for (arguments, told) in [
        (&["show"][..], "Unable to list interfaces"),
        (&["show", "t0"], "Unable to access interface"),
        (&["set", "t0", "listen-port", "1"], "Unable to modify interface"),
    ] {
        let mut there = prefix::penstock();
        there.args(arguments);
        let told = format!("{told}: the configuration manager answered ");
        let printed = printed(&run(there, b""));
        assert!(printed.starts_with(&told) && printed.ends_with("exit Some(1)\n"), "{printed}");
    }
}

/// A log file is read without a driver. Wine takes a session's calls, and does nothing: what it refuses is refused before.
#[test]
fn log_files_are_read_the_same() {
    let file = "tests/files/penstock.etl";
    let lines = both(&["trace", "decode", file], b"");
    assert!(lines.contains(" MessageMade (start) Cpu=1 Irql=0 tunnel=1 type=1 "), "{lines}");
    assert!(
        lines.contains("Z verbose Discarded Cpu=0 Irql=2 reason=NoPeer packets=1\n"),
        "{lines}"
    );
    let json = both(&["trace", "decode", "--json", file], b"");
    assert_eq!(json.lines().count(), lines.lines().count());
    both(&["trace", "decode", "tests/under_wine.rs"], b"");
    let session = |arguments: &[&str]| {
        let mut there = prefix::penstock();
        there.arg("trace").args(arguments);
        printed(&run(there, b""))
    };
    let refused = session(&["start", "-o", r"\\server\share\x.etl"]);
    let on_a_drive = "its file is to be on a drive of this machine";
    assert_eq!(refused, format!("Unable to start `Penstock': {on_a_drive}\nexit Some(1)\n"));
    // What Wine says of the calls: the session's name, the provider, that it is enabled, level and keywords.
    let started = session(&["start", "-o", r"C:\x.etl", "--keywords", "handshakes,discards"]);
    assert!(started.contains("StartTraceW") && started.contains("L\"Penstock\""), "{started}");
    let enabled = "{8c898724-58a0-59cd-07a6-ce95c5ff66f7}, 1, 4, c, 0, 0, ";
    assert!(started.contains(enabled) && started.ends_with("exit Some(0)\n"), "{started}");
    let stopped = session(&["stop"]);
    assert!(stopped.contains("ControlTraceW") && stopped.ends_with("exit Some(0)\n"), "{stopped}");
}

/// Wine has services, and neither the driver nor the Base Filtering Engine among them.
#[test]
fn doctor_says_what_is_missing() {
    prefix::set_value(
        r"SYSTEM\CurrentControlSet\Control",
        "SystemStartOptions",
        "REG_SZ",
        "TESTSIGNING",
    );
    let mut there = prefix::penstock();
    there.arg("doctor");
    let told = printed(&run(there, b""));
    for said in [
        "BAD driver: not installed\n",
        "BAD Base Filtering Engine: ",
        "BAD signatures: ",
        "exit Some(1)",
    ] {
        assert!(told.contains(said), "{said} is not in:\n{told}");
    }
    // A driver's service whose file nobody signed.
    let _policy = prefix::policy();
    let file =
        format!("binPath={}", prefix::path(std::path::Path::new(&prefix::built("penstock.exe"))));
    let sc = |arguments: &[&str]| {
        let mut there = prefix::wine();
        there.arg("sc").args(arguments);
        printed(&run(there, b""))
    };
    let made = sc(&["create", "penstock", &file]);
    assert!(made.ends_with("exit Some(0)\n"), "{made}");
    let mut there = prefix::penstock();
    there.arg("doctor");
    let told = printed(&run(there, b""));
    let mut there = prefix::penstock();
    there.arg("dump");
    let dump = printed(&run(there, b""));
    sc(&["delete", "penstock"]);
    for part in [
        "\n# doctor\n\n",
        "\n# driver\n\ninstalled: ",
        "\n# interfaces\n\ncannot be read: ",
        "\n# policy\n\n",
    ] {
        assert!(dump.contains(part), "{part} is not in:\n{dump}");
    }
    assert!(told.contains("BAD driver: installed, and not loaded\n"), "{told}");
    assert!(told.contains("BAD the driver's signature: "), "{told}");
}

/// What Windows reads before the first instruction: imports come from System32, and addresses are not known beforehand.
#[test]
fn the_image_is_hardened() {
    let llvm = std::env::var("PENSTOCK_LLVM").unwrap_or_else(|_| "/usr/lib/llvm-19".to_owned());
    let mut reader = Command::new(format!("{llvm}/bin/llvm-readobj"));
    reader.args(["--coff-load-config", "--file-headers", "--coff-resources"]);
    reader.arg(prefix::built("penstock.exe"));
    let text = String::from_utf8(reader.output().unwrap().stdout).unwrap();
    for said in [
        "DependentLoadFlags: 0x800",
        "IMAGE_DLL_CHARACTERISTICS_DYNAMIC_BASE",
        "IMAGE_DLL_CHARACTERISTICS_HIGH_ENTROPY_VA",
        "IMAGE_DLL_CHARACTERISTICS_NX_COMPAT",
        "Type: MANIFEST",
        "Type: VERSIONINFO",
        "Type: MESSAGETABLE",
    ] {
        assert!(text.contains(said), "{said} is not in:\n{text}");
    }
    let (image, table) = (fs::read(prefix::built("penstock.exe")).unwrap(), message_table());
    assert!(image.windows(table.len()).any(|part| part == table), "other messages");
}
