#!/usr/bin/env bash
# Miri over parts of crypto: undefined behaviour, data races, memory that is lost.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
usage: scripts/miri.sh [TEST...]

Runs tests of crypto's library under Miri, those whose name contains one of TEST; by default what the protocol is made of and
what locks. Each property is tried once. Needs `rustup toolchain install nightly --component miri --component rust-src`.
Takes many minutes; CI does not run it. Miri runs no CPUID, so nothing that asks which registers there are (aead, checksums,
mac1), and no fork (what counts instructions).
TEXT
}
case "${1:-}" in
-h | --help) usage; exit 0 ;;
esac
[ $# -gt 0 ] || set -- protocol::cookie protocol::hash_table protocol::index protocol::messages protocol::noise \
    protocol::keypair protocol::receive protocol::sessions protocol::staged protocol::tai64n sync::
MIRIFLAGS="-Zmiri-disable-isolation ${MIRIFLAGS:-}" PROPTEST_CASES=1 \
    cargo +nightly miri test --locked --target-dir target/miri -p crypto --lib -- --skip constant_time --test-threads 1 "$@"
