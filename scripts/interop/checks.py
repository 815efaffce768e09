"""What must hold between penstock.sys and a peer. A check is a function of a Pair with a docstring that says it; it raises
Failed, or returns. Each begins with a pair that was just configured, and leaves the ends' programs running.

In the spirit of the Linux kernel's own test in network namespaces, which checks one implementation with itself.
"""
import base64
import hashlib
import os
import time

from cable import Weather
from ends import (ANSWERS_FROM_ONE, ASKS_FOR_NO_COOKIE, KEEPS_ITS_KEY, KEEPS_ITS_PORT, KERNEL, STAYS_UP, Failed,
                  new_key, pings_answered, public, stop)

# 3 of 100 lost, 3 doubled, some overtaking others.
BAD = Weather(loss=0.03, double=0.03, overtake=0.1, delay=0.008, jitter=0.004)
INITIATION, RESPONSE, COOKIE, TRANSPORT = 1, 2, 3, 4
CHECKS = []


def check(function):
    """Puts a function on the list."""
    CHECKS.append(function)
    return function


def want(holds, otherwise):
    if not holds:
        raise Failed(otherwise)


def until(holds, seconds, otherwise):
    end = time.monotonic() + seconds
    while not holds():
        want(time.monotonic() < end, otherwise)
        time.sleep(0.1)


def send_file(pair, sender, receiver, address, size):
    """A file of `size` random bytes over TCP, compared by its hash."""
    sent, received, over = (f"/tmp/{pair.prefix}-{name}" for name in ("sent", "received", "over"))
    receiver.sh(f"rm -f {over}; (timeout 60 nc -l -N {address} 7000 >{received} </dev/null; touch {over}) >/dev/null 2>&1 & exit 0")
    # A port in hexadecimal, and the state that is listening.
    until(lambda: not receiver.run("grep -q ':1B58 0*:0000 0A' /proc/net/tcp /proc/net/tcp6")[0], 5, "nobody listens")
    sender.sh(f"head -c {size} /dev/urandom >{sent}; timeout 60 nc -N {address} 7000 <{sent}")
    until(lambda: not receiver.run(f"test -f {over}")[0], 60, "the receiver has not ended")
    sums = [end.sh(f"sha256sum <{name}; rm -f {name} {over}").split()[0] for end, name in ((sender, sent), (receiver, received))]
    want(sums[0] == sums[1], "what came is not what was sent")


def every_way(pair, handshake):
    """`handshake(initiator, responder)` in each role, with IPv4 and IPv6 outside, with and without preshared key."""
    for family in (4, 6):
        for psk in (False, True):
            for initiator, responder in pair.ways:
                pair.fresh(family, psk)
                try:
                    handshake(initiator, responder)
                except Failed as failed:
                    raise Failed(f"IPv{family} outside, preshared key {psk}, end {initiator.number} initiates: {failed}") from None


@check
def handshakes(pair):
    """handshake in each role, IPv4 and IPv6 outside and inside, with and without preshared key"""
    def one(initiator, responder):
        initiator.ping(responder.inside(4), "-c 1 -W 3")
        initiator.ping(responder.inside(6), "-c 1 -W 3")
        want(pair.messages(initiator, INITIATION) == 1 and pair.messages(responder, RESPONSE) == 1,
             "not one initiation and one response")
        want(pair.pen.handshake(), "no handshake is shown")
    every_way(pair, one)


@check
def handshakes_in_bad_weather(pair):
    """the same, over a cable that loses, delays, doubles and reorders"""
    pair.cable.weather = BAD

    def one(initiator, responder):
        # A lost handshake message is sent again after 5 s.
        initiator.sh(f"ping -n -q -c 20 -i 0.3 -w 20 {responder.inside(4)} -c 1")
        said = initiator.sh(f"ping -n -q -c 30 -i 0.02 -W 2 {responder.inside(6)} || true")
        want(pings_answered(said) >= 20, f"too few come through:\n{said}")
    every_way(pair, one)


@check
def files(pair):
    """files in both directions, IPv4 and IPv6 inside"""
    size = 1 << 20 if pair.kind == KERNEL else 8 << 20
    for family in (4, 6):
        for sender, receiver in pair.ways:
            send_file(pair, sender, receiver, receiver.inside(family), size)


@check
def files_in_bad_weather(pair):
    """files in both directions over a cable that loses, delays, doubles and reorders"""
    pair.cable.weather = BAD
    for sender, receiver in pair.ways:
        sender.sh(f"ping -n -q -c 20 -i 0.3 -w 20 {receiver.inside(4)} -c 1")
        send_file(pair, sender, receiver, receiver.inside(4), 256 << 10)


@check
def sizes(pair):
    """packets of every size up to the MTU, and fragments inside"""
    for size in (0, 1, 7, 8, 15, 16, 17, 100, 1371, 1372, 1391, 1392):
        pair.pen.ping(pair.peer.inside(4), f"-c 1 -W 3 -s {size}")
        pair.peer.ping(pair.pen.inside(4), f"-c 1 -W 3 -s {size}")
    pair.pen.ping(pair.peer.inside(4), "-c 3 -i 0.05 -W 3 -s 4000")
    pair.peer.ping(pair.pen.inside(6), "-c 3 -i 0.05 -W 3 -s 4000")


@check
def small_cable(pair):
    """datagrams that are cut on their way, on a cable with an MTU of 1280"""
    for end in (pair.pen, pair.peer):
        end.sh("ip link set cable mtu 1280")
    try:
        for family in (4, 6):
            pair.fresh(family)
            for sender, receiver in pair.ways:
                pair.cable.seen.clear()
                sender.ping(receiver.inside(4), "-c 3 -i 0.05 -W 3 -s 1392 -M dont")
                want(all(pair.cable.seen[end, "fragment"] >= 6 for end in (0, 1)), "nothing was cut")
    finally:
        for end in (pair.pen, pair.peer):
            end.sh("ip link set cable mtu 1500")


@check
def narrow_cable(pair):
    """on a cable with an MTU of 1400 who must not be cut is told what fits, and files go without a fragment"""
    pen, peer = pair.pen, pair.peer
    for end in (pen, peer):
        end.sh("ip link set cable mtu 1400")
    try:
        pen.ping(peer.inside(4))
        time.sleep(0.3)
        pen.ping(peer.inside(4), "-c 3 -i 0.05 -W 3 -s 1392 -M dont")
        for family, size in ((4, 1392), (6, 1372)):
            pen.fails(f"ping -n -q -c 2 -i 0.2 -W 1 -M do -s {size} {peer.inside(family)}")
            want("mtu 1340" in pen.sh(f"ip route get {peer.inside(family)}"), f"the stack was not told, IPv{family}")
            pen.ping(peer.inside(family), f"-c 3 -i 0.05 -W 3 -M do -s {size - 80}")
        # The peer may know nothing of the cable: it is the SYN that says so, both ways.
        pair.cable.seen.clear()
        for sender, receiver in pair.ways:
            for family in (4, 6):
                send_file(pair, sender, receiver, receiver.inside(family), 256 << 10)
        want(not pair.cable.seen[0, "fragment"] and not pair.cable.seen[1, "fragment"], "cut")
    finally:
        for end in (pen, peer):
            end.sh("ip link set cable mtu 1500")
        pen.sh("ip route flush cache; ip -6 route flush cache")


@check
def small_tunnel(pair):
    """a tunnel MTU of 1280, and one of 576 with IPv4 alone"""
    for mtu in (1280, 576):
        try:
            for end in (pair.pen, pair.peer):
                end.sh(f"ip link set {end.name} mtu {mtu}")
            pair.pen.ping(pair.peer.inside(4), f"-c 3 -i 0.05 -W 3 -s {mtu - 28} -M do")
            send_file(pair, pair.pen, pair.peer, pair.peer.inside(4), 256 << 10)
            send_file(pair, pair.peer, pair.pen, pair.pen.inside(4), 256 << 10)
        finally:
            for end in (pair.pen, pair.peer):
                end.sh(f"ip link set {end.name} mtu 1420")
                # An interface of less than 1280 bytes has lost its IPv6 addresses.
                end.run(f"ip addr add {end.inside(6)}/64 dev {end.name} nodad")


def move(end, old, new):
    """Changes an address of the cable's interface."""
    end.sh(f"ip addr del {old}/24 dev cable && ip addr add {new}/24 dev cable")


@check
def roaming(pair):
    """each end moves to another address, and to the other family, and is followed"""
    pair.pen.ping(pair.peer.inside(4))
    for mover, follower in pair.ways:
        new, port = f"10.77.0.{mover.number + 20}", mover.port
        move(mover, mover.outside(4), new)
        if mover is pair.peer and pair.kind != KERNEL and pair.kind not in KEEPS_ITS_PORT:
            # They hold on to the address that is gone, until they open new sockets.
            port += 100
            mover.wg(f"set {mover.name} listen-port {port}")
        try:
            mover.ping(follower.inside(4), "-c 3 -i 0.3 -W 3")
            want(follower.show("endpoints") == f"{new}:{port}", f"end {follower.number} did not follow")
            follower.ping(mover.inside(4))
            # It hears from the mover over IPv6 now.
            pair.set_peer(mover, f"endpoint {follower.endpoint(6)}")
            mover.ping(follower.inside(4))
            want(follower.show("endpoints") == f"[{mover.outside(6)}]:{port}", f"end {follower.number} did not change families")
        finally:
            move(mover, new, mover.outside(4))
        pair.fresh()
        pair.pen.ping(pair.peer.inside(4))


@check
def nat_rebinding(pair):
    """a NAT before penstock.sys forgets its port and shows another"""
    pair.cable.rebind(pair.pen.port, 40001)
    try:
        pair.pen.ping(pair.peer.inside(4))
        want(pair.peer.show("endpoints").endswith(":40001"), "the NAT is not seen")
        pair.cable.rebind(pair.pen.port, 40002)
        pair.peer.run(f"ping -n -q -c 1 -W 0.2 {pair.pen.inside(4)}")
        want(pair.cable.seen[1, "dropped by the NAT"], "nothing went to the port that was forgotten")
        pair.pen.ping(pair.peer.inside(4))
        want(pair.peer.show("endpoints").endswith(":40002"), "the peer did not follow")
        pair.peer.ping(pair.pen.inside(4))
    finally:
        pair.cable.nat.clear()
        pair.cable.forgotten.clear()


@check
def port_change(pair):
    """each end changes its listen port while up"""
    pair.pen.ping(pair.peer.inside(4))
    for mover, follower in pair.ways:
        if mover is pair.peer and pair.kind in KEEPS_ITS_PORT:
            continue
        mover.wg(f"set {mover.name} listen-port {mover.port + 100}")
        mover.ping(follower.inside(4))
        want(follower.show("endpoints").endswith(f":{mover.port + 100}"), f"end {follower.number} did not follow")


@check
def key_change(pair):
    """each end changes its private key while up"""
    pair.pen.ping(pair.peer.inside(4))
    for mover, follower in pair.ways:
        if mover is pair.peer and pair.kind in KEEPS_ITS_KEY:
            continue
        follower.wg(f"set {follower.name} peer {mover.public} remove")
        mover.private = new_key()
        mover.wg(f"set {mover.name} private-key @private")
        follower.wg(f"set {follower.name} peer {mover.public} endpoint {mover.endpoint(4)} "
                    f"allowed-ips {mover.inside(4)}/32,{mover.inside(6)}/128")
        before = pair.messages(follower, INITIATION)
        follower.ping(mover.inside(4))
        want(pair.messages(follower, INITIATION) > before, "no handshake with the new key")


@check
def preshared_key_change(pair):
    """a preshared key at one end only lets nothing through; at both it does"""
    pair.pen.psk = new_key("psk")
    pair.set_peer(pair.pen, "preshared-key @psk")
    pair.pen.fails(f"ping -n -q -c 1 -W 0.5 {pair.peer.inside(4)}")
    pair.peer.psk = pair.pen.psk
    pair.set_peer(pair.peer, "preshared-key @psk")
    # The next initiation comes 5 s after the last.
    pair.pen.ping(pair.peer.inside(4), "-c 1 -W 8")


@check
def allowed_ips_move(pair):
    """allowed IPs move to another peer, which takes their packets, and back"""
    other = public(new_key())
    pair.pen.ping(pair.peer.inside(4))
    pair.pen.wg(f"set {pair.pen.name} peer {other} allowed-ips {pair.peer.inside(4)}/32")
    want(pair.peer.inside(4) not in pair.pen.sh(f"wg show {pair.pen.name} allowed-ips").split(pair.peer.public)[1].split("\n")[0],
         "both have it")
    pair.pen.fails(f"ping -n -q -c 1 -W 0.5 {pair.peer.inside(4)}")
    # Nor is a source taken that is the other's.
    pair.peer.fails(f"ping -n -q -c 1 -W 0.5 {pair.pen.inside(4)}")
    pair.pen.ping(pair.peer.inside(6))
    pair.set_peer(pair.pen, f"allowed-ips {pair.peer.inside(4)}/32,{pair.peer.inside(6)}/128")
    pair.pen.ping(pair.peer.inside(4))
    pair.peer.ping(pair.pen.inside(4))


@check
def down_and_up(pair):
    """each interface goes down and up"""
    pair.pen.ping(pair.peer.inside(4))
    for end in (pair.pen, pair.peer):
        if end is pair.peer and pair.kind in STAYS_UP:
            continue
        end.sh(f"ip link set {end.name} down && ip link set {end.name} up")
        end.run(f"ip addr add {end.inside(6)}/64 dev {end.name} nodad")
        # It has forgotten its session, so it is the one that begins another.
        end.ping(end.other.inside(4), "-c 3 -i 0.05 -W 8")


@check
def sticky_source(pair):
    """who was asked at its second address answers from it"""
    for asked, asker in pair.ways:
        if asked is pair.peer and pair.kind in ANSWERS_FROM_ONE:
            continue
        second = f"10.77.0.{asked.number + 30}"
        asked.sh(f"ip addr add {second}/24 dev cable")
        try:
            pair.fresh()
            pair.set_peer(asker, f"endpoint {second}:{asked.port}")
            asker.ping(asked.inside(4))
            want(asker.show("endpoints") == f"{second}:{asked.port}", f"end {asked.number} answers from {asker.show('endpoints')}")
        finally:
            asked.sh(f"ip addr del {second}/24 dev cable")


@check
def tunnel_in_tunnel(pair):
    """a second tunnel whose datagrams go through the first"""
    keys = {}
    for end in (pair.pen, pair.peer):
        pair.start(end, f"{end.name}i")
        keys[end] = new_key()
    for end, other in pair.ways:
        end.wg(f"set {end.name}i private-key @private listen-port {end.port + 200} peer {public(keys[other])} "
               f"endpoint {other.inside(4)}:{other.port + 200} allowed-ips 10.79.0.{other.number}/32", private=keys[end])
        end.sh(f"ip addr add 10.79.0.{end.number}/24 dev {end.name}i && ip link set {end.name}i mtu 1360 up")
    pair.pen.ping("10.79.0.2", "-c 3 -i 0.05 -W 8 -s 1332 -M do")
    send_file(pair, pair.peer, pair.pen, "10.79.0.1", 256 << 10)
    for end in (pair.pen, pair.peer):
        if end.processes:
            stop(end.processes.pop())
        else:
            end.sh(f"ip link del {end.name}i")


@check
def all_through_it(pair):
    """0.0.0.0/0 and ::/0 through the tunnel, over the very route that it replaces"""
    pen, peer = pair.pen, pair.peer
    pen.sh("ip route add default via 10.77.0.2")
    pair.set_peer(pen, "allowed-ips 0.0.0.0/0,::/0")
    peer.sh("ip addr add 192.0.2.1/32 dev lo")
    pen.sh(f"ip route add 0.0.0.0/1 dev {pen.name} && ip route add 128.0.0.0/1 dev {pen.name} && ip route del 10.77.0.0/24")
    try:
        pen.ping("192.0.2.1")
    finally:
        pen.sh("ip route add 10.77.0.0/24 dev cable && ip route del default && "
               "ip route del 0.0.0.0/1 && ip route del 128.0.0.0/1")
        peer.sh("ip addr del 192.0.2.1/32 dev lo")


@check
def loop(pair):
    """an endpoint that the tunnel itself leads to: nothing goes round, and the tunnel lives"""
    pair.pen.ping(pair.peer.inside(4))
    pair.set_peer(pair.pen, f"endpoint {pair.peer.inside(4)}:{pair.peer.port}")
    pair.cable.seen.clear()
    pair.pen.run(f"ping -n -q -c 5 -i 0.05 -W 0.3 {pair.peer.inside(4)}")
    want(pair.messages(pair.pen, TRANSPORT) < 50, "packets go round")
    pair.set_peer(pair.pen, f"endpoint {pair.peer.endpoint(4)}")
    pair.pen.ping(pair.peer.inside(4))


@check
def bad_configuration(pair):
    """bad configuration is refused, with an error, and changes nothing"""
    pen = pair.pen
    before = pen.sh(f"wg showconf {pen.name}")
    pen.fails(f"wg set {pen.name} peer {pair.peer.public} allowed-ips 10.0.0.0/33")
    for lines in (r"set=1\nlisten_port=70000\n\n", r"set=1\nlisten_port=1234\nno_such_key=1\n\n"):
        said = pen.sh(f"printf '{lines}' | nc -N -U /var/run/wireguard/{pen.name}.sock")
        want(said.startswith("errno=-"), f"taken: {lines}")
    want(pen.sh(f"wg showconf {pen.name}") == before, "something has changed")


@check
def garbage(pair):
    """garbage on the port is answered by nothing, and the tunnel lives"""
    pair.pen.ping(pair.peer.inside(4))
    pair.cable.seen.clear()
    pair.peer.sh("for length in 0 1 3 4 31 32 63 64 91 92 147 148 149 1400; do for type in 1 2 3 4 5; do "
                 r"{ printf '\x0'$type'\x00\x00\x00'; head -c 2000 /dev/urandom; } | head -c $length | "
                 f"nc -u -w 0 {pair.pen.outside(4)} {pair.pen.port}; done; done; true")
    # A keepalive may be due for the ping.
    want(not any(pair.messages(pair.pen, kind) for kind in range(256) if kind != TRANSPORT)
         and pair.messages(pair.pen, TRANSPORT) <= 1, "it was answered")
    pair.peer.ping(pair.pen.inside(4))


def initiations(public, number):
    """Initiations that anybody can make who knows a public key: right mac1, the rest random."""
    key = hashlib.blake2s(b"mac1----" + base64.b64decode(public)).digest()
    for _ in range(number):
        message = b"\1\0\0\0" + os.urandom(112)
        yield message + hashlib.blake2s(message, key=key, digest_size=16).digest() + bytes(16)


@check
def under_load(pair):
    """each end handshakes while it is flooded with initiations: by cookie"""
    floods = [(pair.pen, pair.peer)]
    # Who floods needs Python, which the emulated machine has not.
    if pair.kind != KERNEL and pair.kind not in ASKS_FOR_NO_COOKIE:
        floods.append((pair.peer, pair.pen))
    for flooded, asker in floods:
        messages = f"{pair.work}/initiations"
        with open(messages, "wb") as file:
            file.writelines(initiations(flooded.public, 1500))
        flood = flooded.start(["python3", os.path.join(os.path.dirname(__file__), "flood.py"), messages,
                               flooded.outside(4), str(flooded.port), "60"])
        try:
            # How fast who is flooded is compared with who floods is not ours to say.
            for _ in range(6):
                time.sleep(0.5)
                pair.fresh()
                asker.ping(flooded.inside(4), "-c 1 -W 25 -w 25")
                if pair.messages(flooded, COOKIE):
                    break
            want(pair.messages(flooded, COOKIE), f"end {flooded.number} asked for no cookie")
            want(pair.messages(asker, INITIATION) >= 2, "no second initiation")
        finally:
            stop(flood)
        calm_down(pair, flooded, asker)


def calm_down(pair, flooded, asker):
    """Waits until who was flooded asks for no cookie: what is in its buffer may keep it under load for longer than a second."""
    for _ in range(10):
        time.sleep(1)
        pair.fresh()
        asker.ping(flooded.inside(4), "-c 1 -W 25 -w 25")
        if not pair.messages(flooded, COOKIE):
            return
    want(False, f"end {flooded.number} asks for cookies long after the flood")


@check
def unload(pair):
    """penstock.sys unloads, and leaks nothing"""
    pair.pen.ping(pair.peer.inside(4))
    status = stop(pair.penstock)
    said = pair.pen.said()
    want(status == 0, f"status {status}:\n{said}")
    want(not any(word in said.lower() for word in ("leak", "panic", "***")), said)
