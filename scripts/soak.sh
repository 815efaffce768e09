#!/usr/bin/env bash
# Two simulated Windows machines under everything at once, for hours.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
usage: scripts/soak.sh [--hours N | --minutes N] [OPTION...]

Builds penstock.sys and has two simulated machines talk through it, with real threads and everything verified, while one
thing changes every 200 ms: peers, port, policy, the cable's weather, roaming, NAT ports, down and up, sleep, a minute that
passes at once (so that sessions are renewed all the time), a call of the kernel that fails, a CPU that stands still. Prints a line a minute: what was sent and taken, handshakes, discards, the drivers'
pool at rest and this process's memory; at the end every counter and every discard by reason.

  --hours N     for so many hours (default 1)
  --minutes N   for so many minutes instead
  OPTION...     as penstock-sim soak takes them (--seed N, --log)

It fails if a machine stops, a ping does not get through once things are calm, a packet is not accounted for, the pool of a driver
at rest grows by more than receive buffers may, or something is left behind when it unloads.
TEXT
}
minutes=60 options=()
while [ $# -gt 0 ]; do
    case $1 in
    --hours | --minutes)
        case ${2:-} in '' | *[!0-9]* | 0) echo "soak.sh: $1 takes a whole number from 1" >&2; exit 2 ;; esac
        minutes=$2
        [ "$1" = --minutes ] || minutes=$((minutes * 60))
        shift
        ;;
    -h | --help) usage; exit 0 ;;
    *) options+=("$1") ;;
    esac
    shift
done

scripts/setup.sh
scripts/build.sh --quiet
cargo build --quiet --locked --release -p sim
target=$(realpath "${CARGO_TARGET_DIR:-target}")
exec "$target/release/penstock-sim" soak --driver target/driver/penstock.sys --minutes "$minutes" "${options[@]}"
