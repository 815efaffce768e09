#!/usr/bin/env bash
# Runs each test of a test program in a process of its own, as many at once as there are CPUs. What a test prints is shown if
# it fails.
#
# usage: CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$PWD/scripts/spread.sh cargo test ...
#        scripts/spread.sh PROGRAM [ARG...]     arguments are the program's own, and say which tests
#
# Simulated machines guard each block of memory by pages of its own. While two machines of one process do so, each waits for
# the other: side by side, tests took 1.7 times as long as in two processes.
set -euo pipefail

case "${1:---help}" in
-h | --help) sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//p}' "$0"; exit ;;
esac
export results
results=$(mktemp)
trap 'rm -f "$results"' EXIT
# A program that ends without a result has failed.
# shellcheck disable=SC2016 # these are of the inner shell
one='
    status=0
    told=$("$0" --exact --test-threads 1 "$1" 2>&1) || status=$?
    [ "$status" = 0 ] || grep -v "^test result:" <<<"$told"
    grep "^test result:" <<<"$told" >>"$results" || echo "test result: FAILED. 0 passed; 1 failed; 0 ignored" >>"$results"
    exit "$status"'
status=0
"$@" --list --format terse | sed -n 's/: test$//p' |
    xargs --no-run-if-empty -d '\n' -P "$(nproc)" -n 1 bash -c "$one" "$1" || status=$?
awk -v status="$status" '
    { passed += $4; failed += $6; ignored += $8 }
    END { printf "test result: %s. %d passed; %d failed; %d ignored\n", status ? "FAILED" : "ok", passed, failed, ignored }
' "$results"
[ "$status" = 0 ]
