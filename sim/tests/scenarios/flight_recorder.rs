//! The flight recorder tells what happened to the driver, in order, of every CPU, and is in the report of a stop.

use std::time::Duration;

use abi::discard::Discard;
use abi::events::{Event, Keyword, RECORDS};
use abi::policy::Policy;
use sim::host::memory::pair::{Pair, Station};
use sim::verifier::rules;

use crate::machines;
use crate::machines::accounting::Ledger;

fn noted(station: &Station) -> Vec<(Event, [u64; 4])> {
    let all = station.computer().machine().recorded(usize::MAX);
    all.into_iter().map(|(_, noted)| (noted.event, noted.words)).collect()
}

/// Whether `events` are among what was noted, in this order.
fn in_order(noted: &[(Event, [u64; 4])], events: &[Event]) -> bool {
    let mut rest = noted.iter();
    events.iter().all(|event| rest.any(|(other, _)| other == event))
}

#[test]
fn what_happens_to_an_adapter_is_noted_in_order() {
    machines::with_pair(1, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        pair.alpha.set_up(false).unwrap();
        pair.alpha.tunnel().sleep().unwrap();
        pair.alpha.tunnel().wake().unwrap();
        let noted = noted(&pair.alpha);
        let life = [
            Event::PolicyRead,
            Event::Loaded,
            Event::DeviceAdded,
            Event::PoweredUp,
            Event::Configured,
            Event::AdapterUp,
            Event::MessageMade,
            Event::MessageTaken,
            Event::AdapterDown,
            Event::PoweredDown,
            Event::PoweredUp,
        ];
        assert!(in_order(&noted, &life), "{noted:?}");
        let of = |event| noted.iter().find(|(other, _)| *other == event).unwrap().1;
        // An initiation, and the response to it.
        let handshake = of(Event::MessageMade)[2];
        assert_eq!(of(Event::MessageMade)[1], 1);
        assert_eq!(of(Event::MessageTaken)[1..3], [2, handshake]);
        // At the level it happened at, whatever writing it takes.
        let all = pair.alpha.computer().machine().recorded(usize::MAX);
        let up = all.iter().find(|(_, noted)| noted.event == Event::AdapterUp).unwrap();
        assert_eq!(up.1.irql, 0);
        // Without being asked for it keeps none of what there is of each packet.
        assert!(noted.iter().all(|(event, _)| *event != Event::Discarded), "{noted:?}");
    });
}

#[test]
fn discards_are_noted_one_by_one_when_they_are_asked_for() {
    machines::with_pair(1, |pair| {
        machines::ping(&pair.alpha, &pair.beta);
        let set = |value| pair.alpha.tunnel().set_policy(&[(Policy::RecorderLevel, Some(value))]);
        set(2).unwrap();
        pair.alpha.set_up(false).unwrap();
        let sent = RECORDS as u64 / 2;
        for _ in 0..sent {
            pair.alpha.endpoint().send_datagram(pair.beta.inner()[0], vec![0; 100]);
        }
        pair.world.sleep(Duration::from_secs(1));
        let told = noted(&pair.alpha).into_iter().filter(|(event, _)| *event == Event::Discarded);
        let told: u64 = told
            .inspect(|(_, words)| assert_eq!(words[0], Discard::AdapterDown as u64))
            .map(|(_, words)| words[1])
            .sum();
        let counted = Ledger::of(&pair.alpha).discarded(Discard::AdapterDown);
        assert_eq!((told, counted), (sent, sent));
        set(0).unwrap();
        let before = noted(&pair.alpha).len();
        pair.alpha.set_up(true).unwrap();
        assert_eq!(noted(&pair.alpha).len(), before, "noted while nothing is to be");
    });
}

#[test]
fn what_the_recorder_keeps_is_chosen_by_keyword() {
    machines::with_pair(1, |pair| {
        let (only, all) = (Keyword::Handshake as u32, Keyword::ALL);
        let set = |keywords| {
            pair.alpha.tunnel().set_policy(&[(Policy::RecorderKeywords, Some(keywords))])
        };
        set(only).unwrap();
        let before = noted(&pair.alpha).len();
        machines::ping(&pair.alpha, &pair.beta);
        pair.alpha.set_up(false).unwrap();
        let kept = noted(&pair.alpha).split_off(before);
        assert!(kept.iter().any(|(event, _)| *event == Event::MessageMade), "{kept:?}");
        assert!(kept.iter().all(|(event, _)| event.keyword() == Keyword::Handshake), "{kept:?}");
        set(all).unwrap();
        assert_eq!(noted(&pair.alpha).last().unwrap().0, Event::PolicyRead);
    });
}

#[test]
fn a_stop_shows_what_was_noted_last() {
    machines::on_virtual_time(1, |world, driver| {
        let pair = Pair::boot(world, &machines::verified("machine"), driver).unwrap();
        machines::ping(&pair.alpha, &pair.beta);
        pair.alpha.set_up(false).unwrap();
        pair.alpha.computer().machine().die(&rules::SIMULATOR, "on purpose");
        let report = pair.alpha.computer().machine().stop_report().unwrap().to_string();
        let begin = report.find("flight recorder:").unwrap_or_else(|| panic!("{report}"));
        let last = report[begin..].lines().find(|line| line.contains(" 0 ticks before")).unwrap();
        assert!(last.contains("AdapterDown, tunnel "), "{report}");
        assert!(report.contains("MessageTaken, tunnel 1, type 2, handshake "), "{report}");
    });
}
