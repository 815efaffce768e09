#!/usr/bin/env bash
# What takes too long for every change: many orders of events, many rounds of the life cycle, a soak.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
usage: scripts/nightly.sh [--schedules N] [--seed S] [--rounds N] [--hours N]

Builds penstock.sys and runs it, verified, one after the other

  under N orders of events (default 100,000: more than three hours on two CPUs), from seed S on (default: by the
  day, so that no night has those of another);
  through N rounds of each thing that PnP and power do to an adapter under load (default 200: ten minutes);
  in a soak of N hours (default 1).

It ends at the first that fails, which says what to run again.
TEXT
}
schedules=100000 rounds=200 hours=1 seed=''
while [ $# -gt 0 ]; do
    case $1 in
    --schedules | --seed | --rounds | --hours)
        case ${2:-} in '' | *[!0-9]* | 0) echo "nightly.sh: $1 takes a whole number from 1" >&2; exit 2 ;; esac
        declare "${1#--}=$2"
        shift
        ;;
    -h | --help) usage; exit 0 ;;
    *) echo "nightly.sh: what is '$1'? scripts/nightly.sh --help tells" >&2; exit 2 ;;
    esac
    shift
done
# Day 1 has the first.
: "${seed:=$(((($(date +%s) / 86400) - 20000) * 100000 + 1))}"

scripts/setup.sh
scripts/build.sh --quiet
scripts/schedules.sh "$schedules" --seed "$seed"
PENSTOCK_ROUNDS=$rounds cargo test --quiet --locked --release -p sim --features driver --test scenarios life_cycle::
scripts/soak.sh --hours "$hours"
