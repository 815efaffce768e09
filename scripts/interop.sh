#!/usr/bin/env bash
# penstock.sys, in the simulator, beside other implementations of the protocol.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/namespaces.sh

usage() {
    cat <<'TEXT'
usage: scripts/interop.sh [--peer NAME]... [--check WORD]... [--seed N]

Joins penstock.sys to each of four peers by a cable that can lose, delay, double, reorder and cut datagrams and renumber ports as a
NAT does, and makes every check of scripts/interop/checks.py. Needs root and /dev/net/tun, and says SKIPPED without them; run
scripts/build.sh first. Installs boringtun-cli and gotatun-cli below target/ the first time, and unpacks a Debian kernel there.

  --peer NAME    only with this peer: linux (the kernel's own, in an emulated machine), wireguard-go, boringtun-cli,
                 gotatun
  --check WORD   only checks with WORD in their names
  --seed N       of the cable's weather, as a run before printed it
TEXT
}
case " $* " in *" --help "* | *" -h "*) usage; exit 0 ;; esac

skip() { # skip REASON
    [ "${CI:-}" != true ] || { echo "interop: $1, and CI must not skip this" >&2; exit 1; }
    echo "SKIPPED interop: $1"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
}
reason=$(can_make_namespaces) || skip "$reason"
for program in qemu-system-x86_64 busybox cpio depmod; do
    command -v "$program" >/dev/null || skip "no $program, which scripts/setup.sh installs"
done
# As its tests are built, so that neither is built anew for the other.
cargo build --quiet --locked --release -p sim --features driver
target=$(realpath "${CARGO_TARGET_DIR:-target}")
scripts/peers.sh "$target/peers"
exec python3 scripts/interop/main.py --simulator "$target/release/penstock-sim" --driver "$PWD/target/driver/penstock.sys" \
    --peers "$target/peers/bin" --kernels "$target/peers/kernels" "$@"
