#!/usr/bin/env bash
# Measures Penstock beside its named peers, on the same work in the same run. Each part prints a table and writes
# target/bench/PART.json: [{what, size, unit, ours, peer, theirs, ratio}], ratio > 1 meaning ours is better.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
usage: scripts/bench.sh PART [OPTION...]

  tunnel   TCP, small UDP packets, ping and memory of a tunnel between two network namespaces: penstock.sys in the
           simulator's fast mode against wireguard-go, boringtun-cli and gotatun, each with itself, and the bare cable.
           Root only; a quarter of an hour
             --seconds N   seconds of each TCP run (default 5)
             --runs N      interleaved runs of each, medians are printed (default 3)
             --policy NAME=VALUE, --only IMPLEMENTATION   may be repeated
  datapath what a packet costs in the driver, in the simulator's fast mode on one CPU with full batches, against boringtun's
           Tunn in the same process; where the time goes; and one flow on 1 and 2 simulated CPUs
             --rounds N    interleaved samples of each, medians are printed (default 150)
             --functions N lines of each profile (default 12)
             --only WORD   only the ways whose names have WORD in them: 'in,', sockets, ...
  flood    what handshake messages and forged data cost a core, beside boringtun; and a tunnel at half of what a core carries,
           without and with a flood of each kind
             --rounds N    interleaved samples of each, medians are printed (default 21)
             --functions N lines of each profile (default none)
  gates    what a call through the simulator's gates costs, and a packet, in fast and in verified mode
             --rounds N    interleaved samples of each, medians are printed (default 41)
  aead     sealing and opening batches of packets, against ring, aws-lc, OpenSSL, chacha20poly1305, and ipsec-mb where
           libipsec-mb-dev is installed; also draws target/bench/aead.svg. OPTIONs are words: only lines that contain them all are measured
  scale    100,000 peers with four allowed IPs each: look-ups, configuring and memory, against ip_network_table
             --rounds N    interleaved samples of each, medians are printed (default 101)
             --peers N     peers (default 100000)
  cost     what a packet and a chunk cost the driver in instructions, atomics and calls of the kernel, counted by single-stepping
           it; and memory of a peer
  all      every part, with its defaults

The last figures of all parts, with plots, are in target/bench/report.html.
Quote ratios: machines are noisy, and only what ran in the same run compares.
TEXT
}
part=${1:-}
[ $# -eq 0 ] || shift
out=$PWD/target/bench
mkdir -p "$out"
case " $part $* " in *" --help "* | *" -h "*) usage; exit 0 ;; esac
case $part in
all)
    for part in datapath flood gates aead scale cost tunnel; do "$0" "$part"; done
    exit
    ;;
tunnel)
    scripts/setup.sh
    scripts/build.sh
    cargo build --quiet --locked --release -p sim
    target=$(realpath "${CARGO_TARGET_DIR:-target}")
    scripts/peers.sh "$target/peers"
    clang-19 -O2 -Wall -o "$out/udp" scripts/bench/udp.c
    python3 scripts/bench/tunnel.py --simulator "$target/release/penstock-sim" \
        --driver "$PWD/target/driver/penstock.sys" --peers "$target/peers/bin" --udp "$out/udp" --out "$out" "$@"
    ;;
datapath | flood | gates)
    scripts/setup.sh
    scripts/build.sh
    cargo run --quiet --locked --release --manifest-path sim/benches/datapath/Cargo.toml --bin "$part" \
        --target-dir "${CARGO_TARGET_DIR:-target}/peers" -- "$@"
    ;;
cost)
    scripts/setup.sh
    scripts/build.sh
    exec cargo test --quiet --locked --release -p sim --features driver --test counted_cost -- --nocapture
    ;;
aead)
    for needed in cc:gcc pkg-config:pkg-config; do
        command -v "${needed%:*}" >/dev/null || { echo "bench.sh: apt-get install ${needed#*:}" >&2; exit 1; }
    done
    pkg-config --exists openssl || { echo "bench.sh: apt-get install libssl-dev" >&2; exit 1; }
    cargo run --quiet --locked --release --manifest-path crypto/benches/peers/Cargo.toml \
        --target-dir "${CARGO_TARGET_DIR:-target}/peers" -- "$@"
    ;;
scale)
    cargo run --quiet --locked --release --manifest-path crypto/benches/scale/Cargo.toml \
        --target-dir "${CARGO_TARGET_DIR:-target}/peers" -- "$@"
    ;;
*) usage >&2; exit 2 ;;
esac
python3 scripts/bench/report.py "$out"
