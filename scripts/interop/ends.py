"""The two ends of a tunnel: penstock.sys in the simulator in a network namespace, and a peer in another or in an emulated
machine. What a test asks of either is a shell command."""
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from cable import Cable, Card, Tap
from guest import Guest, run
from implementations import command

# What not every one can do, as seen of boringtun 0.7.1 and gotatun 0.10.2: change its port (ends itself at times) or private key
# (refused), live on while its interface is down (ends), change a peer that it has (answers nothing any more), answer from
# the address that it was asked at, ask for cookies.
KEEPS_ITS_PORT, KEEPS_ITS_KEY, STAYS_UP, KEEPS_ITS_PEERS = {"gotatun"}, {"gotatun"}, {"gotatun"}, {"boringtun-cli"}
ANSWERS_FROM_ONE, ASKS_FOR_NO_COOKIE = {"boringtun-cli", "gotatun"}, {"gotatun"}
# The Linux kernel's, in an emulated machine.
KERNEL = "linux"


# A command that takes longer hangs.
COMMAND_SECONDS = 90


class Failed(Exception):
    """A check does not hold; says which and what was seen."""


def new_key(kind="key"):
    """A private key, or with "psk" a preshared one."""
    return run("wg", f"gen{kind}").strip()


def public(private):
    """The public half of a private key."""
    return run("wg", "pubkey", input=private).strip()


class End:
    """One end: 10.77.0.N and fd77::N outside, 10.78.0.N and fd78::N inside, UDP port 5182N."""

    def __init__(self, number, name):
        self.number, self.name, self.port = number, name, 51820 + number
        self.private = new_key()
        self.processes = []

    @property
    def public(self):
        return public(self.private)

    def outside(self, family):
        return f"10.77.0.{self.number}" if family == 4 else f"fd77::{self.number}"

    def inside(self, family):
        return f"10.78.0.{self.number}" if family == 4 else f"fd78::{self.number}"

    def endpoint(self, family):
        return f"{self.outside(4)}:{self.port}" if family == 4 else f"[{self.outside(6)}]:{self.port}"

    def connect_outside(self):
        self.sh("ip link set cable up")
        for family, length in ((4, 24), (6, 64)):
            self.sh(f"ip addr add {self.outside(family)}/{length} dev cable {'nodad' if family == 6 else ''}")

    def connect_inside(self, name=None):
        name = name or self.name
        for family, length in ((4, 24), (6, 64)):
            self.sh(f"ip addr add {self.inside(family)}/{length} dev {name} {'nodad' if family == 6 else ''}")
        self.sh(f"ip link set {name} mtu 1420 up")

    def wg(self, words, private=None):
        """`wg WORDS`; a word @private or @PSK stands for a file with that key in it."""
        for key, text in (("@private", private or self.private), ("@psk", getattr(self, "psk", ""))):
            words = words.replace(key, f"<(echo {shlex.quote(text)})")
        return self.sh(f"wg {words}")

    def show(self, what, name=None):
        """`wg show` of one property, of the first peer: its value."""
        said = self.sh(f"wg show {name or self.name} {what}").split()
        return said[1] if len(said) > 1 else ""

    def handshake(self, name=None):
        """Unix time of the latest, in seconds; 0 if there is none."""
        return int(self.show("latest-handshakes", name) or 0)

    def ping(self, address, options="-c 3 -i 0.05 -W 3"):
        """Sends pings, and fails unless every one comes back."""
        self.sh(f"ping -n -q {options} {address}")

    def sh(self, command):
        """What a shell command says; raises Failed if it fails."""
        status, said = self.run(command)
        if status:
            raise Failed(f"end {self.number}: `{command}`: status {status}\n{said}")
        return said

    def fails(self, command):
        """Fails unless a shell command does."""
        status, said = self.run(command)
        if not status:
            raise Failed(f"end {self.number}: `{command}` should fail\n{said}")

    def close(self):
        for process in self.processes:
            stop(process)


class NamespaceEnd(End):
    """An end in the network namespace `namespace`, which is removed with it."""

    def __init__(self, number, name, namespace, log):
        super().__init__(number, name)
        self.namespace, self.log = namespace, open(log, "ab")
        run("ip", "netns", "add", namespace)
        self.sh("ip link set lo up")

    def run(self, command):
        try:
            said = subprocess.run(["ip", "netns", "exec", self.namespace, "bash", "-c", command], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
                                  timeout=COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            return 124, f"took longer than {COMMAND_SECONDS} s"
        return said.returncode, said.stdout

    def said(self):
        """What its programs have said."""
        return open(self.log.name, errors="replace").read()

    def start(self, command, environment=None):
        """Starts a program, which ends when the end is closed at the latest."""
        process = subprocess.Popen(["ip", "netns", "exec", self.namespace, *command], stdin=subprocess.DEVNULL,
                                   stdout=self.log, stderr=self.log, env={**os.environ, **(environment or {})})
        self.processes.append(process)
        return process

    def start_tunnel(self, command, environment, name):
        """Starts a userspace implementation with interface `name`, and waits for it."""
        control = f"/var/run/wireguard/{name}.sock"
        if os.path.exists(control):
            os.unlink(control)
        command = [word.replace("{if}", name) for word in command]
        process = self.start(command, environment)
        for _ in range(400):
            if os.path.exists(control) and not self.run(f"ip link show {name}")[0]:
                return process
            if process.poll() is not None:
                break
            time.sleep(0.05)
        raise Failed(f"{command[0]} did not make {name}; it said:\n{self.said()}")

    def close(self):
        super().close()
        self.log.close()
        subprocess.run(["ip", "netns", "del", self.namespace], capture_output=True)


class GuestEnd(End):
    """An end that is an emulated machine."""

    def __init__(self, number, name, guest):
        super().__init__(number, name)
        self.guest = guest

    def run(self, command):
        return self.guest.run(command)

    def said(self):
        """What its kernel has said."""
        return self.run("dmesg")[1]

    def close(self):
        self.guest.close()


def stop(process):
    """Asks a process to end, waits, insists; its exit status."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


class Pair:
    """penstock.sys (`pen`) and a peer (`peer`) with a cable between them; a context that takes all of it away again."""

    def __init__(self, options, peer):
        self.options, self.kind = options, peer
        self.prefix = f"pi{os.getpid() % 100000}{peer[0]}"

    def __enter__(self):
        self.work = tempfile.mkdtemp(prefix="penstock-interop-")
        self.pen = self.peer = self.cable = None
        try:
            self.join()
        except BaseException:
            self.__exit__()
            raise
        return self

    def join(self):
        # The names of control sockets are one set for all namespaces.
        pen, peer = f"{self.prefix}p", f"{self.prefix}q"
        self.pen = NamespaceEnd(1, pen, f"{self.prefix}-a", f"{self.work}/penstock.log")
        first = Tap(f"{self.prefix}-a", self.pen.namespace)
        if self.kind == KERNEL:
            second = Card(self.work)
            guest = Guest(self.options.kernel, self.work, second, {})
            self.peer = GuestEnd(2, peer, guest)
        else:
            self.peer = NamespaceEnd(2, peer, f"{self.prefix}-b", f"{self.work}/peer.log")
            second = Tap(f"{self.prefix}-b", self.peer.namespace)
        self.cable = Cable(first, second, self.options.seed)
        self.pen.other, self.peer.other = self.peer, self.pen
        for end in (self.pen, self.peer):
            end.connect_outside()
        self.penstock = self.start(self.pen, pen)
        self.start(self.peer, peer)
        for end in (self.pen, self.peer):
            end.connect_inside()
        self.fresh()

    def start(self, end, name):
        """A second or the first tunnel's program, with interface `name`."""
        if end is self.pen:
            return end.start_tunnel([self.options.simulator, "up", "{if}", "--driver", self.options.driver], {}, name)
        if self.kind == KERNEL:
            end.sh(f"ip link add {name} type wireguard")
            return None
        there = command(self.kind, self.options.peers)
        if not there:
            raise Failed(f"{self.kind} is not installed")
        return end.start_tunnel(*there, name)

    @property
    def ways(self):
        """Either end, with the other."""
        return (self.pen, self.peer), (self.peer, self.pen)

    def fresh(self, family=4, psk=False):
        """Both ends forget each other and are configured anew, by the addresses outside of `family`."""
        self.pen.psk = self.peer.psk = new_key("psk")
        self.cable.seen.clear()
        for end in (self.pen, self.peer):
            for known in end.sh(f"wg show {end.name} peers").split():
                end.wg(f"set {end.name} peer {known} remove")
        for end, other in self.ways:
            if end.sh(f"wg show {end.name} listen-port").strip() != str(end.port):
                end.wg(f"set {end.name} listen-port {end.port}")
            end.wg(f"set {end.name} private-key @private peer {other.public} "
                   f"{'preshared-key @psk' if psk else ''} endpoint {other.endpoint(family)} "
                   f"allowed-ips {other.inside(4)}/32,{other.inside(6)}/128")

    def set_peer(self, end, words):
        """`wg set` of the one peer that `end` has."""
        other = end.other
        if end is self.peer and self.kind in KEEPS_ITS_PEERS:
            end.wg(f"set {end.name} peer {other.public} remove")
            if "allowed-ips" not in words:
                words += f" allowed-ips {other.inside(4)}/32,{other.inside(6)}/128"
        end.wg(f"set {end.name} peer {other.public} {words}")

    def messages(self, end, kind):
        """How many WireGuard messages of a type have left an end since `fresh`."""
        return self.cable.seen[end.number - 1, kind]

    def __exit__(self, *_):
        for what in (self.pen, self.peer, self.cable):
            if what:
                what.close()
        shutil.rmtree(self.work, ignore_errors=True)


def pings_answered(said):
    """The number of answers that `ping -q` tells of."""
    return int(re.search(r"(\d+) received", said).group(1))
