# Two network namespaces with a tunnel between them, made and removed by whoever sources this file.
#
#   namespaces_up PREFIX        makes PREFIX-a (10.77.0.1, fd77::1) and PREFIX-b (10.77.0.2, fd77::2), joined by a cable;
#                               removes them, and what runs in them, when the script ends
#   start SIDE COMMAND...       runs COMMAND in namespace SIDE (a or b) in the background; its output goes to $work/SIDE.log
#   configure SIDE NAME         keys, port, peer, addresses (10.78.0.N, fd78::N) and link of interface NAME
#   inside SIDE COMMAND...      runs COMMAND in namespace SIDE
#
# Processes are ended by their own pid. Nothing outside the two namespaces is touched.
# Needs root, iproute2 and wireguard-tools.

# can_make_namespaces: whether this machine lets us; says why not.
can_make_namespaces() {
    [ "$(id -u)" = 0 ] || { echo "not root"; return 1; }
    [ -c /dev/net/tun ] || { echo "no /dev/net/tun"; return 1; }
    local probe=pen-probe-$$
    ip netns add "$probe" 2>/dev/null || { echo "this machine does not allow network namespaces"; return 1; }
    ip netns del "$probe"
}

namespaces_up() {
    prefix=$1
    work=$(mktemp -d)
    pids=()
    trap namespaces_down EXIT
    trap 'exit 130' INT TERM
    local side number
    ip netns add "$prefix-a"
    ip netns add "$prefix-b"
    ip link add "$prefix-a" netns "$prefix-a" type veth peer name "$prefix-b" netns "$prefix-b"
    for side in a b; do
        [ $side = a ] && number=1 || number=2
        ip -n "$prefix-$side" link set lo up
        ip -n "$prefix-$side" addr add 10.77.0.$number/24 dev "$prefix-$side"
        ip -n "$prefix-$side" addr add fd77::$number/64 dev "$prefix-$side" nodad
        ip -n "$prefix-$side" link set "$prefix-$side" up
        (umask 077; wg genkey >"$work/$side.key")
        wg pubkey <"$work/$side.key" >"$work/$side.pub"
    done
}

namespaces_down() {
    local pid
    for pid in "${pids[@]}"; do stop "$pid" || true; done
    ip netns del "$prefix-a" 2>/dev/null || true
    ip netns del "$prefix-b" 2>/dev/null || true
    rm -rf "$work"
}

# stop PID: asks it to end, waits up to 5 s, then insists. Returns the process's exit status.
stop() {
    local pid=$1 tries
    kill "$pid" 2>/dev/null || true
    for tries in $(seq 50); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null
}

inside() {
    local side=$1
    shift
    ip netns exec "$prefix-$side" "$@"
}

start() {
    local side=$1
    shift
    ip netns exec "$prefix-$side" "$@" >>"$work/$side.log" 2>&1 </dev/null &
    pids+=($!)
    started=$!
}

# wait_for SIDE NAME: until the interface and its control socket are there.
wait_for() {
    local tries
    for tries in $(seq 200); do
        [ -S "/var/run/wireguard/$2.sock" ] && ip -n "$prefix-$1" link show "$2" >/dev/null 2>&1 && return
        kill -0 "$started" 2>/dev/null || break
        sleep 0.05
    done
    echo "the interface $2 did not appear in namespace $prefix-$1; its program said:" >&2
    cat "$work/$1.log" >&2
    return 1
}

configure() {
    local side=$1 name=$2 number other other_number
    if [ "$side" = a ]; then number=1 other=b other_number=2; else number=2 other=a other_number=1; fi
    inside "$side" wg set "$name" private-key "$work/$side.key" listen-port 5182$number \
        peer "$(cat "$work/$other.pub")" allowed-ips 10.78.0.$other_number/32,fd78::$other_number/128 \
        endpoint "10.77.0.$other_number:5182$other_number"
    ip -n "$prefix-$side" addr add 10.78.0.$number/24 dev "$name"
    ip -n "$prefix-$side" addr add fd78::$number/64 dev "$name" nodad
    ip -n "$prefix-$side" link set "$name" mtu 1420 up
}
