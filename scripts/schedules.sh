#!/usr/bin/env bash
# Runs penstock.sys under many orders of events, one for each seed, and shows the first that breaks it, shortened.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
usage: scripts/schedules.sh N [--seed S] [OPTION...]

Runs N schedules from seed S on (default 1), on all CPUs, with progress and a summary; 100,000 take more than three hours on two.
It runs the driver that is built; scripts/build.sh builds it.

  --seed S      the first seed
  --failures K  go on until K have failed (default 1)
  --jobs J      processes (default: CPUs)
  --driver PATH another driver file

What a failure prints runs it again: penstock-sim schedules --seed S --list '...'
TEXT
}
case "${1:-}" in
-h | --help) usage; exit 0 ;;
'' | *[!0-9]*) usage >&2; exit 2 ;;
esac
count=$1
shift
exec cargo run --quiet --locked --release -p sim -- schedules --count "$count" "$@"
