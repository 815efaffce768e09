//! What WinDbg's script shows of a small dump: from the memory that the driver adds to it, or from the data behind it alone.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::time::Duration;

use sim::verifier::dump::{Dump, Stretch};

use crate::debugger::{assert_says, dump, said, says, stop_of, word};
use crate::machines;

/// A small dump has what the driver adds to it: adapters, counters and the flight recorder are shown, the rest is said not to be
/// there. Data behind the dump have the same.
#[test]
fn a_small_dump_shows_what_the_driver_adds() {
    machines::with_pair(1, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        pair.world.sleep(Duration::from_secs(3));
        let machine = pair.alpha.computer().machine();
        let (whole, small) = (Dump::whole(machine), Dump::small(machine));
        let total = |dump: &Dump| dump.stretches.iter().map(|it| it.bytes.len()).sum::<usize>();
        assert!(total(&small) < total(&whole) / 4, "{} of {}", total(&small), total(&whole));
        let commands = ["log 1000", "discards"];
        assert_eq!(said(&small, &commands), said(&whole, &commands));
        let peers = says(&small, "peers");
        assert_says(&peers, &["Unable to read memory"]);

        let told = machine.crash_data();
        assert_eq!(told.failed, [""; 0]);
        let [(guid, data)] = told.secondary.as_slice() else {
            panic!("{:?}", told.secondary.len())
        };
        assert_eq!(*guid, abi::dump::GUID);
        let parts: BTreeMap<u64, Vec<u8>> =
            abi::dump::parts(data).unwrap().map(|(at, bytes)| (at, bytes.to_vec())).collect();
        assert_eq!(parts, told.triage.into_iter().collect());
        let descriptor =
            whole.symbols.iter().find(|(name, _)| name.ends_with(abi::descriptor::NAME));
        assert!(parts[&descriptor.unwrap().1].starts_with(&abi::descriptor::MAGIC));
    });
}

/// The image as a debugger has it from its file: its variables are what they were before the driver was loaded, or not there.
pub(crate) fn of_the_file(dump: &Dump, has_variables: bool) -> Dump {
    let mut dump = dump.clone();
    let descriptor = dump.symbols.iter().find(|(name, _)| name.starts_with("penstock!")).unwrap().1;
    let recorder = word(&dump, descriptor + 24);
    dump.stretches.retain(|it| it.what == "the image");
    let [image] = dump.stretches.as_mut_slice() else { panic!("one image") };
    // Core, and where vectors have what; the rings, and how many there are.
    let variables = [(descriptor + 16, 8), (descriptor + 32, 8), (recorder + 16, 12)];
    for (at, bytes) in variables {
        let at = (at - image.at) as usize;
        image.bytes[at..at + bytes].fill(0);
    }
    if !has_variables {
        let mut cuts = [descriptor, recorder].map(|at| (at - image.at) as usize);
        cuts.sort_unstable();
        let (begin, bytes) = (image.at, std::mem::take(&mut image.bytes));
        let ends = [cuts[0], cuts[1], bytes.len()];
        let begins = [0, cuts[0] + 48, cuts[1] + 48];
        let part = |(from, to): (usize, usize)| Stretch {
            what: "the image",
            at: begin + from as u64,
            bytes: bytes[from..to].to_vec(),
        };
        dump.stretches = begins.into_iter().zip(ends).map(part).collect();
    }
    dump
}

#[test]
fn what_is_behind_a_dump_speaks_where_it_holds_no_memory() {
    machines::with_pair(1, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        pair.world.sleep(Duration::from_secs(3));
        let mut whole = stop_of(&dump(&pair.alpha), 0x133, [0, 0x501, 0x500, 0]);
        // Data of others come before and after.
        let tag = |byte, letters: &[u8]| ([byte; 16], letters.to_vec());
        whole.tagged.insert(0, tag(1, b"PENSDUMP of somebody"));
        whole.tagged.push(tag(2, b"01 02 03 04 05 06"));
        let marked = |said: &str| -> String {
            said.lines().map(|line| format!("{line} [secondary data]\n")).collect()
        };
        let commands = ["log 1000", "discards", "adapters", "tuning", "bugcheck", "peers"];
        let expected = said(&whole, &commands);
        // What is not there is not of anywhere.
        let missing = "an adapter: not to be had here (Unable to read memory at Address 0x";
        for has_variables in [true, false] {
            let behind = of_the_file(&whole, has_variables);
            let told = said(&behind, &commands);
            for command in ["log 1000", "discards"] {
                assert_eq!(told[command], marked(&expected[command]), "{command}");
            }
            let adapters =
                marked(&expected["adapters"]).replace("1 peer,", "peers not to be had here,");
            assert_eq!(told["adapters"], adapters);
            let policies: Vec<&str> =
                expected["tuning"].lines().filter(|line| line.starts_with("policy ")).collect();
            assert_says(&told["tuning"], &[&marked(&policies.join("\n")), "vector code: "]);
            assert_says(&told["tuning"], &["CPUs: not to be had here (Unable to read memory"]);
            assert!(told["peers"].starts_with(missing) && told["peers"].ends_with(")\n"));
            let (stop, rest) = expected["bugcheck"].split_once('\n').unwrap();
            let (hint, records) = rest.split_once('\n').unwrap();
            let expected = format!("{stop} [.bugcheck]\n{hint}\n{}", marked(records));
            assert_eq!(told["bugcheck"], expected);

            // What is cut off is not there, and what there is speaks on.
            let mut cut = behind.clone();
            let ours = cut.tagged.iter_mut().find(|(guid, _)| *guid == abi::dump::GUID).unwrap();
            let most = ours.1.len() - 100;
            ours.1.truncate(most);
            let told: String = said(&cut, &commands).into_values().collect();
            assert_says(&told, &["[secondary data]", "Unable to read memory"]);
            let mut nothing = behind;
            nothing.tagged.retain(|(guid, _)| *guid != abi::dump::GUID);
            let told: String = said(&nothing, &commands).into_values().collect();
            assert!(!told.contains("[secondary data]") && told.contains("[.bugcheck]"), "{told}");
        }
    });
}
