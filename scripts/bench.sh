#!/usr/bin/env bash
# Measures Penstock beside its named peers, on the same work in the same run. Each part prints a table and writes
# target/bench/PART.json: [{what, size, unit, ours, peer, theirs, ratio}], ratio > 1 meaning ours is better.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
usage: scripts/bench.sh PART [OPTION...]

  tunnel   TCP through a tunnel between two network namespaces: penstock.sys in the simulator's fast mode against
           wireguard-go and boringtun-cli, each with itself; throughput and CPU seconds per GB. Root only.
             --seconds N   seconds of TCP per run (default 5)
             --runs N      interleaved runs of each, medians are printed (default 3)
  aead     sealing and opening batches of packets, against ring, aws-lc, OpenSSL and chacha20poly1305; also draws
           target/bench/aead.svg. OPTIONs are words: only lines that contain them all are measured

Quote ratios: machines are noisy, and only what ran in the same run compares.
TEXT
}
part=${1:-}
[ $# -eq 0 ] || shift
case $part in
-h | --help) usage; exit 0 ;;
tunnel)
    scripts/setup.sh
    scripts/build.sh
    cargo build --quiet --locked --release -p sim
    peers=$PWD/target/bench/peers
    if [ ! -x "$peers/bin/boringtun-cli" ]; then
        echo "installing boringtun-cli, to measure against"
        cargo install --quiet --locked --root "$peers" boringtun-cli
    fi
    target=$(realpath "${CARGO_TARGET_DIR:-target}")
    exec python3 scripts/bench/tunnel.py --simulator "$target/release/penstock-sim" \
        --driver "$PWD/target/driver/penstock.sys" --boringtun "$peers/bin/boringtun-cli" "$@"
    ;;
aead)
    for needed in cc:gcc pkg-config:pkg-config; do
        command -v "${needed%:*}" >/dev/null || { echo "bench.sh: apt-get install ${needed#*:}" >&2; exit 1; }
    done
    pkg-config --exists openssl || { echo "bench.sh: apt-get install libssl-dev" >&2; exit 1; }
    exec cargo run --quiet --locked --release --manifest-path crypto/benches/peers/Cargo.toml \
        --target-dir "${CARGO_TARGET_DIR:-target}/peers" -- "$@"
    ;;
*) usage >&2; exit 2 ;;
esac
