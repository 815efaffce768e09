//! `show --prometheus`: what interfaces and their peers counted, as Prometheus' text format has it, for the textfile collector of
//! node_exporter and others like it. No key is in it but the peers' public ones.

use std::fmt::Write;

use abi::discard::{Direction, Discard};
use abi::statistics::{Counter, Kind, OF_CPU, QueueCounter};

use super::{Shown, handshake_s};
use crate::key::PublicKey;

/// All interfaces; each number has one heading, whoever has it.
#[must_use]
pub fn write(all: &[Shown<'_>]) -> String {
    let mut page = Page(String::new());
    for counter in Counter::ALL {
        let (name, per_unit) = metric(*counter);
        let kind = if per_unit.is_some() { "gauge" } else { "counter" };
        page.heading(&name, kind, counter.description());
        for (interface, statistics) in counted(all) {
            let value = statistics.counter(*counter);
            match per_unit {
                Some(per_second) => {
                    page.sample(&name, &[("interface", interface)], value as f64 / per_second);
                }
                None => page.sample(&name, &[("interface", interface)], value),
            }
        }
    }
    let name = "penstock_discarded_packets_total";
    page.heading(name, "counter", "Packets discarded, by reason.");
    for (interface, statistics) in counted(all) {
        for reason in Discard::ALL {
            let direction = match reason.direction() {
                Direction::Outbound => "outbound",
                Direction::Inbound => "inbound",
            };
            let labels =
                [("interface", interface), ("direction", direction), ("reason", reason.name())];
            page.sample(name, &labels, statistics.discarded(*reason));
        }
    }
    of_cpus(&mut page, all);
    of_queues(&mut page, all);
    type Read = fn(&abi::ioctl::Peer<'_>) -> u64;
    let of_peers: [(&str, &str, &str, Read); 3] = [
        ("penstock_peer_received_bytes_total", "counter", "Bytes received of a peer.", |peer| {
            peer.rx_bytes()
        }),
        ("penstock_peer_sent_bytes_total", "counter", "Bytes sent to a peer.", |peer| {
            peer.tx_bytes()
        }),
        (
            "penstock_peer_latest_handshake_seconds",
            "gauge",
            "When the latest handshake with a peer was complete, since 1970; 0 is never.",
            handshake_s,
        ),
    ];
    for (name, kind, help, read) in of_peers {
        page.heading(name, kind, help);
        for shown in all {
            for peer in shown.set.peers() {
                let key = PublicKey(*peer.public_key()).to_string();
                let labels = [("interface", shown.name), ("public_key", &*key)];
                page.sample(name, &labels, read(&peer));
            }
        }
    }
    page.0
}

/// What each CPU counted.
fn of_cpus(page: &mut Page, all: &[Shown<'_>]) {
    for counter in OF_CPU {
        let (name, per_unit) = metric(counter);
        let name = name.replacen("penstock_", "penstock_cpu_", 1);
        let kind = if per_unit.is_some() { "gauge" } else { "counter" };
        page.heading(&name, kind, counter.description());
        for (interface, statistics) in counted(all) {
            for part in statistics.parts().filter(|part| part.is(Kind::Cpu)) {
                let number = part.number.to_string();
                let labels = [("interface", interface), ("cpu", &*number)];
                let value = part.of_cpu(counter);
                match per_unit {
                    Some(per_second) => page.sample(&name, &labels, value as f64 / per_second),
                    None => page.sample(&name, &labels, value),
                }
            }
        }
    }
}

/// What each queue counted.
fn of_queues(page: &mut Page, all: &[Shown<'_>]) {
    for (name, kind, counter) in [
        ("penstock_queue_packets_total", "counter", QueueCounter::Packets),
        ("penstock_queue_bytes_total", "counter", QueueCounter::Bytes),
        ("penstock_queue_waiting", "gauge", QueueCounter::Waiting),
        ("penstock_queue_most_waiting", "gauge", QueueCounter::MostWaiting),
    ] {
        page.heading(name, kind, counter.description());
        for (interface, statistics) in counted(all) {
            for part in statistics.parts() {
                let direction = if part.is(Kind::ReceiveQueue) {
                    "receive"
                } else if part.is(Kind::TransmitQueue) {
                    "transmit"
                } else {
                    continue;
                };
                let number = part.number.to_string();
                let labels =
                    [("interface", interface), ("direction", direction), ("queue", &*number)];
                page.sample(name, &labels, part.of_queue(counter));
            }
        }
    }
}

/// The interfaces whose statistics were read.
fn counted<'a>(
    all: &'a [Shown<'_>],
) -> impl Iterator<Item = (&'a str, &'a abi::statistics::Statistics<'a>)> {
    all.iter().filter_map(|shown| Some((shown.name, shown.statistics.as_ref()?)))
}

/// The name of a counter's metric; of a time, also how many of the driver's units are a second.
fn metric(counter: Counter) -> (String, Option<f64>) {
    let (name, per_second) = match counter.name().strip_suffix("100ns") {
        Some(name) => (name, Some(1e7)),
        None => (counter.name(), None),
    };
    let mut metric = "penstock".to_owned();
    for letter in name.chars() {
        if letter.is_ascii_uppercase() {
            metric.push('_');
        }
        metric.push(letter.to_ascii_lowercase());
    }
    (metric + if per_second.is_some() { "_seconds" } else { "_total" }, per_second)
}

struct Page(String);

impl Page {
    fn heading(&mut self, name: &str, kind: &str, help: &str) {
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        // A string takes whatever is written.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels = labels.iter().map(|(label, value)| {
            let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            format!("{label}=\"{value}\"")
        });
        let labels = labels.collect::<Vec<_>>().join(",");
        let _ = writeln!(self.0, "{name}{{{labels}}} {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_has_a_name_in_prometheus_style() {
        assert_eq!(metric(Counter::PacketsOut), ("penstock_packets_out_total".to_owned(), None));
        let longest = metric(Counter::LongestAtDispatch100ns);
        assert_eq!(longest, ("penstock_longest_at_dispatch_seconds".to_owned(), Some(1e7)));
        let names: Vec<String> = Counter::ALL.iter().map(|counter| metric(*counter).0).collect();
        for (at, name) in names.iter().enumerate() {
            assert!(!names[at + 1..].contains(name), "{name}");
        }
    }

    #[test]
    fn labels_and_help_are_quoted() {
        let mut page = Page(String::new());
        page.heading("a", "counter", "b\\c\nd");
        page.sample("a", &[("interface", "x\"y\\z\n")], 7);
        assert_eq!(
            page.0,
            "# HELP a b\\\\c\\nd\n# TYPE a counter\na{interface=\"x\\\"y\\\\z\\n\"} 7\n"
        );
    }
}
