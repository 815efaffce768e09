#!/usr/bin/env python3
"""WireGuard implementations, each with itself, between two network namespaces: throughput, small packets, latency, memory.

Run by scripts/bench.sh tunnel. Every implementation is a program that stays in the foreground, makes the TUN interface
it is given and answers the WireGuard UAPI. Runs are interleaved, so that a machine's moods are shared, and medians are
printed; the bare cable is measured in the same run. CPU is user and system time of both ends' processes, from
/proc/PID/stat: what the kernel does for a sender or receiver is in it, the programs that use the tunnel are not.
"""
import argparse
import json
import os
import statistics
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from implementations import COMMANDS, command
from sides import BARE, Link, percentile

# What is measured: name, bytes of a packet, unit, whether more is better.
MEASURES = [
    ("TCP, 1 stream", 1420, "Gb/s", True),
    ("TCP, 1 stream: CPU", 1420, "s/GB", False),
    ("TCP, 4 streams", 1420, "Gb/s", True),
    ("TCP, 4 streams: CPU", 1420, "s/GB", False),
    ("UDP, < 1 % lost", 64, "kpps", True),
    ("UDP, < 1 % lost: CPU", 64, "us/packet", False),
    ("ping idle, p50", 84, "us", False),
    ("ping idle, p99", 84, "us", False),
    ("ping at 300 Mb/s, p99", 84, "us", False),
    ("ping at saturation, p99", 84, "us", False),
    ("memory at rest, one end", 0, "MB", False),
]
OURS = "penstock"
# The same where Windows would give the driver packets of up to 64 KiB to cut.
GRANTED = "penstock+GSO"


def measure(link, seconds):
    """All of MEASURES, in order."""
    memory = link.a.resident_mb()
    idle = link.ping(300, 0.005)
    one, four = link.tcp(seconds), link.tcp(seconds, "-P", "4")
    small = link.most_datagrams(64, 1)
    paced = link.ping_under(seconds, "-b", "300M")
    full = link.ping_under(seconds)
    return [*one, *four, *small, percentile(idle, 0.5), percentile(idle, 0.99),
            percentile(paced, 0.99), percentile(full, 0.99), memory]


def implementations(options):
    """Name: command and environment; none for the bare cable."""
    ours = [options.simulator, "up", "{if}", "--driver", options.driver,
            *(word for policy in options.policy for word in ("--policy", policy))]
    found = {
        BARE: (None, {}),
        OURS: (ours, {}),
        GRANTED: ([*ours, "--windows", "GSO_IS_GRANTED=1"], {}),
    }
    for name in COMMANDS:
        if there := command(name, options.peers):
            found[name] = there
    return {name: what for name, what in found.items() if not options.only or name in options.only}


def table(medians):
    """One line per measure, one column per implementation."""
    names = list(medians)
    print(f"{'':28}" + "".join(f"{name:>15}" for name in names))
    for number, (what, _, unit, _) in enumerate(MEASURES):
        values = "".join(f"{medians[name][number]:15.2f}" for name in names)
        print(f"{what + ', ' + unit:28}" + values)


def rows(medians):
    """The medians as bench.sh's rows: ours, sure and granted, against each other one."""
    for number, (what, size, unit, more) in enumerate(MEASURES):
        for mine, suffix in ((OURS, ""), (GRANTED, " (granted)")):
            for name, theirs in medians.items():
                if mine not in medians or name in (OURS, GRANTED) or (name == BARE and not theirs[number]):
                    continue
                ours = medians[mine][number]
                ratio = (ours / theirs[number]) if more else (theirs[number] / ours)
                yield {"what": what + suffix, "size": size, "unit": unit, "ours": round(ours, 3), "peer": name,
                       "theirs": round(theirs[number], 3), "ratio": round(ratio, 2)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("simulator", "driver", "udp", "peers", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--policy", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--only", action="append", default=[], metavar="IMPLEMENTATION")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    if options.seconds < 2 or options.runs < 1:
        sys.exit("bench.sh tunnel: --seconds must be 2 or more, and --runs 1 or more")
    if os.geteuid() != 0:
        sys.exit("bench.sh tunnel: network namespaces need root")
    all_of_them = implementations(options)
    seen = {name: [] for name in all_of_them}
    prefix = f"pb{os.getpid() % 100000}"
    for number in range(options.runs):
        for name, (command, environment) in all_of_them.items():
            with Link(prefix, command, environment, options.udp) as link:
                values = measure(link, options.seconds)
            seen[name].append(values)
            shown = ", ".join(f"{value:.4g} {unit}" for value, (_, _, unit, _) in zip(values, MEASURES))
            print(f"run {number + 1}/{options.runs}  {name:14}  {shown}", flush=True)
    medians = {name: [statistics.median(column) for column in zip(*values)] for name, values in seen.items()}
    policy = ", ".join(options.policy) or "defaults (FastPath 1, SendEngine 0)"
    print(f"\nmedians of {options.runs}; tunnel MTU 1420; penstock with {policy}\n")
    table(medians)
    if OURS in medians:
        os.makedirs(options.out, exist_ok=True)
        with open(os.path.join(options.out, "tunnel.json"), "w") as file:
            json.dump(list(rows(medians)), file, indent=1)
    print(f"\n{OURS}: without segmentation into the adapter; {GRANTED}: if Windows grants that. Offloads outside are used where\n"
          "--policy OuterSegmentation=1, OuterCoalescing=1 ask for them")


if __name__ == "__main__":
    main()
