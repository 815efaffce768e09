//! Sessions of ETW that listen are told what the flight recorder notes: each event, with what it says of itself, and the losses.
//!
//! What they were given is read by what it says of itself, and then compared with the table.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeMap;
use std::time::Duration;

use abi::discard::Discard;
use abi::events::{Event, Keyword, RECORDS};
use abi::policy::Policy;
use abi::trace::{self, decode, decode::Value};
use sim::host::memory::pair::{Pair, Station};
use sim::nt::etw::{AT_BOOT, Kept, Traced, Wanted};
use sim::nt::machine::{Machine, Options};
use sim::nt::wsk;

use crate::machines;
use crate::machines::accounting::Ledger;

fn wanted(level: u8, any: u64) -> Wanted {
    Wanted { provider: trace::PROVIDER_BYTES, level, any, all: 0 }
}

/// Ends a session, after the driver told it all there was.
fn end(machine: &Machine, session: u64) -> Kept {
    machine.flush_trace(session);
    machine.end_trace(session)
}

/// An event that was read.
#[derive(Clone, Debug)]
struct Said {
    name: String,
    /// Of fields that all have, and of others.
    common: Vec<(String, u64)>,
    fields: Vec<(String, u64)>,
}

impl Said {
    fn of(event: &Traced) -> Self {
        let read = decode(&event.metadata, &event.values).unwrap();
        let field = |field: Option<(&str, Value<'_>)>| {
            let (name, value) = field.unwrap_or_else(|| panic!("{event:?}"));
            let Value::Unsigned(value) = value else { panic!("{name}: {value}") };
            (name.to_owned(), value)
        };
        let mut common: Vec<(String, u64)> = read.fields.map(field).collect();
        let fields = common.split_off(3);
        Self { name: read.name.to_owned(), common, fields }
    }

    fn value(&self, name: &str) -> u64 {
        self.fields.iter().find(|(other, _)| other == name).unwrap().1
    }

    fn is(&self, event: Event) -> bool {
        self.name == event.name()
    }
}

fn all_said(kept: &Kept) -> Vec<Said> {
    assert_eq!(kept.lost, 0);
    kept.events.iter().map(Said::of).collect()
}

/// Sends a driver that listens to all discards of an adapter that is down, faster than sessions are told of them.
fn overrun(station: &Station) -> u64 {
    let faults = station.computer().machine().faults();
    faults.slow("EtwWriteTransfer", Duration::from_millis(1));
    let sent = 4 * RECORDS as u64;
    for _ in 0..sent {
        station.endpoint().send_datagram(station.inner()[0], vec![0; 100]);
        station.computer().machine().world().sleep(Duration::from_micros(20));
    }
    sent
}

/// Everything that the table has happens to a machine whose session was there before the driver.
#[test]
fn every_event_of_the_table_says_of_itself_what_the_table_says() {
    let options = Options { traced: Some(wanted(5, 0)), ..machines::verified("machine") };
    machines::on_virtual_time(1, |world, driver| {
        let pair = Pair::boot(world, &options, driver).unwrap();
        let machine = pair.alpha.computer().machine().clone();
        machines::ping(&pair.alpha, &pair.beta);
        machine.faults().stall("KeSaveExtendedProcessorState", 0, Duration::from_millis(5));
        pair.alpha.endpoint().ping(pair.beta.inner()[0], 1200, machines::PATIENCE).unwrap();
        wsk::lose_transport(&machine);
        pair.world.sleep(Duration::from_secs(2));
        // A message of a peer that is not known, a configuration that cannot be, and discards.
        let beta = pair.beta.as_peer().unwrap();
        pair.alpha.remove_peer(&pair.beta.public_key().unwrap()).unwrap();
        pair.beta.set_up(false).unwrap();
        pair.beta.set_up(true).unwrap();
        pair.beta.endpoint().send_datagram(pair.alpha.inner()[0], vec![0; 10]);
        pair.world.sleep(Duration::from_secs(1));
        pair.alpha.set_peers(&[beta]).unwrap();
        pair.alpha.tunnel().set(&[0; 3]).unwrap_err();
        pair.alpha.tunnel().sleep().unwrap();
        pair.alpha.tunnel().wake().unwrap();
        pair.alpha.set_up(false).unwrap();
        overrun(&pair.alpha);
        let Pair { alpha, beta, network, .. } = pair;
        machines::finish(vec![alpha, beta], &network);

        let kept = machine.end_trace(AT_BOOT);
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        for (event, said) in kept.events.iter().zip(all_said(&kept)) {
            let known = Event::ALL.iter().find(|known| said.is(**known));
            let known = known.unwrap_or_else(|| panic!("{said:?} is not in the table"));
            *seen.entry(known.name()).or_default() += 1;
            let names: Vec<&str> = said.fields.iter().map(|(name, _)| &**name).collect();
            assert_eq!(names, known.words(), "{said:?}");
            let common: Vec<&str> = said.common.iter().map(|(name, _)| &**name).collect();
            assert_eq!(common, ["Tsc", "Cpu", "Irql"], "{said:?}");
            // INFO and VERBOSE of winmeta.h.
            let level = if *known == Event::Discarded { 5 } else { 4 };
            assert_eq!((event.level, event.keyword), (level, known.keyword() as u64), "{said:?}");
            // No number and no version; the channel of TraceLogging.
            assert_eq!(event.descriptor[..4], [0, 0, 0, 11], "{said:?}");
            assert_eq!(event.about_provider, b"\x0B\0Penstock\0", "{said:?}");
            let of_tunnel = names.contains(&"tunnel");
            assert_eq!(event.activity.is_some(), of_tunnel, "{said:?}");
        }
        let missing: Vec<&str> = Event::ALL
            .iter()
            .map(|event| event.name())
            .filter(|name| !seen.contains_key(name))
            .collect();
        assert_eq!(missing, [""; 0], "{seen:?}");
    });
}

#[test]
fn a_session_is_told_all_that_the_recorder_keeps_in_order() {
    machines::with_pair(1, |pair| {
        let machine = pair.alpha.computer().machine();
        let recorded = || machine.recorded(usize::MAX);
        let before = recorded().len();
        let session = machine.begin_trace(wanted(5, 0));
        machines::ping(&pair.alpha, &pair.beta);
        pair.alpha.set_up(false).unwrap();
        pair.alpha.set_up(true).unwrap();
        machines::ping(&pair.alpha, &pair.beta);
        let told = all_said(&end(machine, session));
        let kept = recorded().split_off(before);
        assert_eq!(told.len(), kept.len());
        for (said, (cpu, noted)) in told.iter().zip(&kept) {
            assert!(said.is(noted.event), "{said:?}, {noted}");
            let common: Vec<u64> = said.common.iter().map(|(_, value)| *value).collect();
            assert_eq!(common, [noted.time, (*cpu).into(), noted.irql.into()]);
            let words: Vec<u64> = said.fields.iter().map(|(_, value)| *value).collect();
            assert_eq!(words, noted.words[..words.len()]);
        }
        // And nothing when it has ended: the recorder goes on alone.
        pair.alpha.set_up(false).unwrap();
        assert!(recorded().len() > before + kept.len());
        assert!(end(machine, session).events.is_empty());
    });
}

#[test]
fn a_session_chooses_by_level_and_keyword_whatever_the_recorder_keeps() {
    machines::with_pair(1, |pair| {
        let machine = pair.alpha.computer().machine();
        pair.alpha.tunnel().set_policy(&[(Policy::RecorderLevel, Some(0))]).unwrap();
        let before = machine.recorded(usize::MAX).len();
        let handshakes = machine.begin_trace(wanted(4, Keyword::Handshake as u64));
        machines::ping(&pair.alpha, &pair.beta);
        let discards = machine.begin_trace(wanted(5, Keyword::Discard as u64));
        pair.alpha.set_up(false).unwrap();
        let sent = RECORDS as u64 / 2;
        for _ in 0..sent {
            pair.alpha.endpoint().send_datagram(pair.beta.inner()[0], vec![0; 100]);
        }
        pair.world.sleep(Duration::from_secs(1));
        let handshakes = all_said(&end(machine, handshakes));
        let names: Vec<&str> = handshakes.iter().map(|said| &*said.name).collect();
        assert_eq!(names, [Event::MessageMade.name(), Event::MessageTaken.name()]);
        let discards = all_said(&end(machine, discards));
        let told: u64 = (discards.iter())
            .inspect(|said| assert!(said.is(Event::Discarded), "{said:?}"))
            .filter(|said| said.value("reason") == Discard::AdapterDown as u64)
            .map(|said| said.value("packets"))
            .sum();
        assert_eq!((told, Ledger::of(&pair.alpha).discarded(Discard::AdapterDown)), (sent, sent));
        let kept = machine.recorded(usize::MAX).len();
        assert!(kept > before, "what sessions want passes through the rings");
        pair.alpha.set_up(true).unwrap();
        assert_eq!(machine.recorded(usize::MAX).len(), kept, "and nothing else does");
    });
}

#[test]
fn a_handshake_is_one_activity_from_initiation_to_response_on_both_sides() {
    machines::with_pair(1, |pair| {
        let sides = [&pair.alpha, &pair.beta].map(|station| station.computer().machine());
        let begun = sides.map(|machine| machine.begin_trace(wanted(4, Keyword::Handshake as u64)));
        machines::ping(&pair.alpha, &pair.beta);
        let all = [0, 1].map(|side| end(sides[side], begun[side]));
        // `win:Start` and `win:Stop`, where it was begun.
        let opcodes = all
            .each_ref()
            .map(|kept| kept.events.iter().map(|event| event.descriptor[5]).collect::<Vec<_>>());
        assert_eq!(opcodes, [[1, 2], [0, 0]]);
        let handshakes = all.each_ref().map(|kept| {
            let [one, other] = &kept.events[..] else { panic!("{kept:?}") };
            assert!(one.activity.is_some() && one.activity == other.activity);
            Said::of(one).value("handshake")
        });
        let [start, stop] = &all[0].events[..] else { unreachable!("looked at above") };
        assert!(start.related.is_some() && start.related != start.activity);
        assert_eq!(stop.related, None);
        assert_eq!(handshakes[0], handshakes[1], "the initiation's index, on either side");
        let more = sides[0].begin_trace(wanted(4, 0));
        pair.alpha.set_up(false).unwrap();
        pair.alpha.set_up(true).unwrap();
        machines::ping(&pair.alpha, &pair.beta);
        let more = end(sides[0], more);
        let of =
            |event: Event| more.events.iter().find(|traced| Said::of(traced).is(event)).unwrap();
        let again = of(Event::MessageMade);
        assert_ne!(again.activity, all[0].events[0].activity, "another one");
        assert_eq!(of(Event::AdapterUp).activity, again.related, "it began in its tunnel");
    });
}

#[test]
fn what_is_overwritten_before_its_turn_is_counted() {
    machines::with_pair(1, |pair| {
        let machine = pair.alpha.computer().machine();
        pair.alpha.set_up(false).unwrap();
        let session = machine.begin_trace(wanted(5, 0));
        let sent = overrun(&pair.alpha);
        let said = all_said(&end(machine, session));
        let sum = |event, field| -> u64 {
            said.iter().filter(|said| said.is(event)).map(|said| said.value(field)).sum()
        };
        let lost = sum(Event::RecordsLost, "records");
        assert!(lost > 0 && lost < sent, "{lost}");
        let told = said.iter().filter(|said| !said.is(Event::RecordsLost)).count() as u64;
        let noted = said.len() as u64 + lost;
        assert!(told + lost >= sent, "{told} and {lost} of {noted}");
        assert_eq!(sum(Event::Discarded, "packets") + lost, sent);
    });
}

/// Nothing that a session is given is a key or a part of one.
#[test]
fn no_event_has_a_key_in_it() {
    machines::with_pair(1, |pair| {
        let machine = pair.alpha.computer().machine();
        let session = machine.begin_trace(wanted(5, 0));
        machines::ping(&pair.alpha, &pair.beta);
        let kept = end(machine, session);
        let keys = [&pair.alpha, &pair.beta]
            .map(|station| [station.private_key().unwrap(), station.public_key().unwrap()]);
        for event in &kept.events {
            let bytes = [&event.values[..], &event.metadata].concat();
            for part in keys.as_flattened().iter().flat_map(|key| key.chunks(8)) {
                assert!(!bytes.windows(8).any(|window| window == part), "{:?}", Said::of(event));
            }
        }
    });
}
