#!/usr/bin/env bash
# Builds penstock.sys for Windows, runs that file on this machine, and sends real packets through it to wireguard-go.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
usage: scripts/demo.sh [--memory] [--seconds N]

Builds penstock.sys, loads that very file in the simulator inside one network namespace, starts wireguard-go (Debian's,
configured with the stock wg tool) in another, and sends through the tunnel between them: a handshake, pings, a file
compared by checksum, and iperf3 in both directions.

  --memory       two simulated Windows machines in one process instead, on virtual time; needs neither root nor TUN
                 (this is also what happens without them)
  --seconds N    seconds of iperf3 in each direction (default 3)
TEXT
}
memory=no seconds=3
while [ $# -gt 0 ]; do
    case $1 in
    --memory) memory=yes ;;
    --seconds)
        shift
        seconds=${1:-}
        case $seconds in '' | *[!0-9]* | 0) echo "demo.sh: --seconds takes a whole number from 1" >&2; exit 2 ;; esac
        ;;
    -h | --help) usage; exit 0 ;;
    *) echo "demo.sh: unknown argument '$1'; scripts/demo.sh --help lists them" >&2; exit 2 ;;
    esac
    shift
done

scripts/setup.sh
scripts/build.sh
echo "building the simulator"
cargo build --quiet --locked --release -p sim
simulator=$PWD/${CARGO_TARGET_DIR:-target}/release/penstock-sim
case ${CARGO_TARGET_DIR:-} in /*) simulator=$CARGO_TARGET_DIR/release/penstock-sim ;; esac
driver=$PWD/target/driver/penstock.sys

. scripts/namespaces.sh
if [ $memory = no ] && ! reason=$(can_make_namespaces); then
    echo "no network namespaces here ($reason): two simulated machines in one process instead"
    memory=yes
fi
if [ $memory = yes ]; then
    exec "$simulator" demo --memory --driver "$driver"
fi

step() { printf '\n== %s\n' "$*"; }

"$simulator" --version
namespaces_up "pen$$"
step "penstock.sys in namespace $prefix-a, wireguard-go in $prefix-b"
start a "$simulator" up "pen$$" --driver "$driver" --statistics
penstock=$started
wait_for a "pen$$"
start b env WG_PROCESS_FOREGROUND=1 LOG_LEVEL=error wireguard-go "go$$"
wait_for b "go$$"
configure a "pen$$"
configure b "go$$"
sha256sum "$driver" | cut -c1-64 | sed 's/^/sha256 of the driver  /'

step "handshake and ping"
first=$({ inside a ping -n -c 1 -W 5 10.78.0.2 || true; } | sed -n 's/.*time=\([0-9.]*\).*/\1/p')
[ -n "$first" ] || { echo "no answer through the tunnel" >&2; cat "$work/a.log" "$work/b.log" >&2; exit 1; }
echo "first packet, handshake included   $first ms"
for destination in 10.78.0.2 fd78::2; do
    inside a ping -n -q -c 200 -i 0.005 "$destination" |
        sed -n "s|^rtt [^=]*= \([^/]*\)/\([^/]*\)/\([^/]*\)/.*|200 pings to $destination, ms   min \1  mean \2  max \3|p; s|.*transmitted, \(.*\)|\1|p"
done
inside b ping -n -q -c 20 -i 0.01 10.78.0.1 >/dev/null
echo "and the other way: answered"

step "a file over TCP"
head -c 67108864 /dev/urandom >"$work/sent"
inside b nc -l -N 10.78.0.2 7000 >"$work/received" </dev/null &
receiver=$!
pids+=("$receiver")
for _ in $(seq 100); do
    [ -n "$(inside b ss -Hltn sport = :7000)" ] && break
    sleep 0.05
done
began=$(date +%s%N)
inside a nc -N 10.78.0.2 7000 <"$work/sent"
wait "$receiver"
took=$((($(date +%s%N) - began) / 1000000))
sent=$(sha256sum <"$work/sent") received=$(sha256sum <"$work/received")
[ "$sent" = "$received" ] || { echo "the file arrived changed" >&2; exit 1; }
echo "64 MiB in $took ms, same checksum: ${sent:0:16}..."

step "iperf3, $seconds s each way"
inside b iperf3 -s -D -I "$work/iperf.pid"
for _ in $(seq 100); do
    [ -n "$(inside b ss -Hltn sport = :5201)" ] && break
    sleep 0.05
done
pids+=("$(tr -d '\0' <"$work/iperf.pid")")
for way in "" -R; do
    inside a iperf3 -c 10.78.0.2 -t "$seconds" $way |
        awk -v way="${way:+in, }" '/receiver/ { for (i = 1; i < NF; i++) if ($(i + 1) ~ /bits\/sec/) print (way ? "from wireguard-go  " : "to wireguard-go    ") $i, $(i + 1) }'
done

step "what both ends say"
inside a wg show "pen$$" transfer | awk '{ print "penstock.sys  received " $2 " bytes, sent " $3 }'
inside b wg show "go$$" transfer | awk '{ print "wireguard-go  received " $2 " bytes, sent " $3 }'

step "what penstock.sys counted, and that it unloads"
status=0
stop "$penstock" || status=$?
cat "$work/a.log"
[ $status = 0 ] || { echo "the simulator ended with status $status" >&2; exit 1; }
echo
echo "done"
