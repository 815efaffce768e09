#!/usr/bin/env bash
# penstock.sys in one network namespace, wireguard-go in another: each checks the other.
# Usage: scripts/interop.sh   (after scripts/build.sh; needs root and /dev/net/tun, and says SKIPPED without them)
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/namespaces.sh

if ! reason=$(can_make_namespaces); then
    [ "${CI:-}" != true ] || { echo "interop: $reason, and CI must not skip this" >&2; exit 1; }
    echo "SKIPPED interop with wireguard-go: $reason"
    echo "0 passed, 0 failed, 1 skipped"
    exit 0
fi
cargo build --quiet --locked --release -p sim
target=${CARGO_TARGET_DIR:-target}
simulator=$(realpath "$target/release/penstock-sim")
driver=$(realpath target/driver/penstock.sys)
pen=pi$$ go=gi$$
passed=0 failed=0

check() { # check WHAT COMMAND...
    local what=$1
    shift
    if "$@" >"$work/check" 2>&1; then
        passed=$((passed + 1))
        echo "ok      $what"
    else
        failed=$((failed + 1))
        echo "FAILED  $what"
        cat "$work/check"
    fi
}
ping_from() { inside "$1" ping -n -q -c "${3:-3}" -i 0.05 -W 3 ${4:-} "$2"; }
send_file() { # send_file FROM TO ADDRESS: 8 MiB over TCP, compared
    inside "$2" timeout 30 nc -l -N "$3" 7000 >"$work/received" </dev/null &
    local receiver=$!
    for _ in $(seq 100); do
        [ -n "$(inside "$2" ss -Hltn sport = :7000)" ] && break
        sleep 0.05
    done
    inside "$1" timeout 30 nc -N "$3" 7000 <"$work/sent" && wait "$receiver" && cmp "$work/sent" "$work/received"
}
peer_key() { cat "$work/$1.pub"; }
handshakes_after() { # handshakes_after SIDE NAME COMMAND...: a new handshake shows up after COMMAND
    local side=$1 name=$2 before
    before=$(inside "$side" wg show "$name" latest-handshakes | cut -f2)
    shift 2
    sleep 1.1
    "$@"
    [ "$(inside "$side" wg show "$name" latest-handshakes | cut -f2)" -gt "$before" ]
}

namespaces_up "pi$$"
head -c 8388608 /dev/urandom >"$work/sent"
start a "$simulator" up "$pen" --driver "$driver"
penstock=$started
wait_for a "$pen"
start b env WG_PROCESS_FOREGROUND=1 LOG_LEVEL=error wireguard-go "$go"
wireguard=$started
wait_for b "$go"
configure a "$pen"
configure b "$go"

check "handshake as initiator, IPv4" ping_from a 10.78.0.2
check "IPv6 inside" ping_from a fd78::2
check "packets of every size up to the MTU" bash -c "
    for size in 0 1 7 8 15 16 17 100 1371 1372 1391 1392; do
        ip netns exec pi$$-a ping -n -q -c 1 -W 3 -s \$size 10.78.0.2 || exit 1
    done"
check "fragments inside" ping_from a 10.78.0.2 3 '-s 4000'
check "a file to wireguard-go" send_file a b 10.78.0.2
check "a file from wireguard-go" send_file b a 10.78.0.1
check "a file over IPv6 inside" send_file a b fd78::2

inside b wg set "$go" peer "$(peer_key a)" remove
inside b wg set "$go" peer "$(peer_key a)" allowed-ips 10.78.0.1/32,fd78::1/128 endpoint 10.77.0.1:51821
check "handshake as responder" ping_from b 10.78.0.1
check "IPv6 outside" bash -c "
    ip netns exec pi$$-a wg set $pen peer '$(peer_key b)' endpoint '[fd77::2]:51822' &&
    ip netns exec pi$$-a ping -n -q -c 3 -i 0.05 -W 3 10.78.0.2"
check "the peer roams to what it hears from" bash -c "
    ip netns exec pi$$-b wg show $go endpoints | grep -q 'fd77::1'"
wg genpsk >"$work/psk"
inside a wg set "$pen" peer "$(peer_key b)" preshared-key "$work/psk"
inside b wg set "$go" peer "$(peer_key a)" preshared-key "$work/psk"
inside b wg set "$go" peer "$(peer_key a)" endpoint 10.77.0.1:51821
psk_handshake() {
    inside a wg set "$pen" peer "$(peer_key b)" remove
    inside a wg set "$pen" peer "$(peer_key b)" preshared-key "$work/psk" allowed-ips 10.78.0.2/32,fd78::2/128 endpoint 10.77.0.2:51822
    sleep 5.5
    ping_from a 10.78.0.2
}
check "a preshared key" psk_handshake
check "the listen port changes while up" bash -c "
    ip netns exec pi$$-a wg set $pen listen-port 51999 &&
    ip netns exec pi$$-a ping -n -q -c 3 -i 0.05 -W 3 10.78.0.2 &&
    ip netns exec pi$$-b wg show $go endpoints | grep -q ':51999'"
down_up() {
    ip -n "$prefix-a" link set "$pen" down
    ip -n "$prefix-a" link set "$pen" up
    ping_from a 10.78.0.2
}
check "the adapter goes down and up" down_up
full_tunnel() { # 0.0.0.0/0 through the tunnel, over the very default route that it replaces
    ip -n "$prefix-a" route add default via 10.77.0.2 &&
        inside a wg set "$pen" peer "$(peer_key b)" allowed-ips 0.0.0.0/0,::/0 &&
        ip -n "$prefix-a" route add 0.0.0.0/1 dev "$pen" && ip -n "$prefix-a" route add 128.0.0.0/1 dev "$pen" &&
        ip -n "$prefix-b" addr add 192.0.2.1/32 dev lo &&
        ip -n "$prefix-a" route del 10.77.0.0/24 && ping_from a 192.0.2.1
}
check "everything through the tunnel, which is routed around itself" full_tunnel
check "bad configuration is refused and changes nothing" bash -c "
    before=\$(ip netns exec pi$$-a wg showconf $pen)
    ip netns exec pi$$-a wg set $pen peer '$(peer_key b)' allowed-ips 10.0.0.0/33 && exit 1
    printf 'set=1\nlisten_port=70000\n\n' | ip netns exec pi$$-a nc -N -U /var/run/wireguard/$pen.sock | grep -q '^errno=-' || exit 1
    printf 'set=1\nlisten_port=1234\nno_such_key=1\n\n' | ip netns exec pi$$-a nc -N -U /var/run/wireguard/$pen.sock | grep -q '^errno=-' || exit 1
    [ \"\$before\" = \"\$(ip netns exec pi$$-a wg showconf $pen)\" ]"
garbage() { # nothing that arrives from outside does anything
    for length in 0 1 3 4 31 32 63 64 91 92 147 148 149 1400; do
        for type in 1 2 3 4 5; do
            { printf "\\x0$type\\x00\\x00\\x00"; head -c 2000 /dev/urandom; } | head -c "$length" |
                inside b nc -u -w 0 10.77.0.1 51999 || true
        done
    done
    ping_from b 10.78.0.1
}
ip -n "$prefix-a" route add 10.77.0.0/24 dev "$prefix-a"
check "garbage on the port" garbage
stop_cleanly() { stop "$penstock" && ! grep -Eiq 'leak|panic|\*\*\*' "$work/a.log"; }
check "penstock.sys unloads and leaks nothing" stop_cleanly
[ $failed = 0 ] || { echo "the simulator said:"; cat "$work/a.log"; }
echo "$passed passed, $failed failed, 0 skipped"
[ $failed = 0 ]
