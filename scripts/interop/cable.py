"""The cable between the two ends of a tunnel: Ethernet frames through this process, which can lose, delay, reorder, double
and cut them off, renumber ports as a NAT does, and count what passes.

A port is a TAP device that is handed to a network namespace, or a socket that an emulated machine's network card is joined to.
"""
import fcntl
import heapq
import os
import random
import selectors
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass

TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
IPV4, IPV6, UDP = 0x0800, 0x86DD, 17


@dataclass
class Weather:
    """What the cable does to frames, both ways. Probabilities; seconds."""
    loss: float = 0.0
    double: float = 0.0
    # Of frames that overtake those that wait.
    overtake: float = 0.0
    delay: float = 0.0
    jitter: float = 0.0


class Tap:
    """A TAP device, given to a namespace under the name `cable`."""

    def __init__(self, name, namespace):
        self.file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.file, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
        subprocess.run(["ip", "link", "set", name, "netns", namespace, "name", "cable"], check=True)

    def fileno(self):
        return self.file

    def read(self):
        return os.read(self.file, 65536)

    def write(self, frame):
        try:
            os.write(self.file, frame)
        except (BlockingIOError, OSError):
            pass  # full, or its interface is down: as on a cable

    def close(self):
        os.close(self.file)


class Card:
    """The network card of an emulated machine (QEMU's `dgram`), joined by two sockets with names in `folder`."""

    def __init__(self, folder):
        self.theirs, self.ours = f"{folder}/card-of-guest", f"{folder}/card-of-cable"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.ours)
        self.socket.setblocking(False)

    def fileno(self):
        return self.socket.fileno()

    def read(self):
        return self.socket.recv(65536)

    def write(self, frame):
        try:
            self.socket.sendto(frame, self.theirs)
        except OSError:
            pass  # not there yet, gone, or full

    def close(self):
        self.socket.close()


class Cable:
    """Joins port 0 (end a) and port 1 (end b) in a thread of its own, until closed."""

    def __init__(self, a, b, seed):
        self.ports = [a, b]
        self.random = random.Random(seed)
        self.weather = Weather()
        # UDP port of end a: the port that the NAT before it shows; older ones lead nowhere.
        self.nat = {}
        self.forgotten = set()
        # (end it came from, type of WireGuard message or "fragment" or "dropped by the NAT"): how many.
        self.seen = Counter()
        self.waiting, self.number = [], 0
        self.over = False
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def rebind(self, inside, outside):
        """The NAT before end a forgets what it showed for UDP port `inside` and shows `outside` from now on."""
        if inside in self.nat:
            self.forgotten.add(self.nat[inside])
        self.nat[inside] = outside

    def close(self):
        self.over = True
        self.thread.join()
        for port in self.ports:
            port.close()

    def run(self):
        selector = selectors.DefaultSelector()
        for end, port in enumerate(self.ports):
            selector.register(port, selectors.EVENT_READ, end)
        while not self.over:
            wait = self.waiting[0][0] - time.monotonic() if self.waiting else 0.1
            for key, _ in selector.select(max(0, min(wait, 0.1))):
                for _ in range(64):
                    try:
                        frame = self.ports[key.data].read()
                    except OSError:
                        break
                    self.take(key.data, frame)
            while self.waiting and self.waiting[0][0] <= time.monotonic():
                _, _, end, frame = heapq.heappop(self.waiting)
                self.ports[end].write(frame)

    def take(self, end, frame):
        frame = self.look(end, frame)
        weather = self.weather
        if frame is None or self.random.random() < weather.loss:
            return
        for _ in range(2 if self.random.random() < weather.double else 1):
            delay = weather.delay + self.random.uniform(-weather.jitter, weather.jitter)
            if self.random.random() < weather.overtake:
                delay = 0
            if delay <= 0:
                self.ports[1 - end].write(frame)
            else:
                self.number += 1
                heapq.heappush(self.waiting, (time.monotonic() + delay, self.number, 1 - end, frame))

    def look(self, end, frame):
        """Counts a frame and passes it through the NAT; `None` if that drops it."""
        kind = int.from_bytes(frame[12:14])
        if kind == IPV4:
            cut = int.from_bytes(frame[20:22]) & 0x3FFF
            start, udp = 14 + 4 * (frame[14] & 15), frame[23] == UDP
        elif kind == IPV6:
            cut = frame[20] == 44
            start, udp = 54, frame[20] == UDP
        else:
            return frame
        if cut:
            self.seen[end, "fragment"] += 1
        if not udp or (cut and cut & 0x1FFF):
            return frame
        self.seen[end, frame[start + 8] if len(frame) > start + 8 else 0] += 1
        return self.translate(end, frame, start) if self.nat and kind == IPV4 else frame

    def translate(self, end, frame, start):
        # The source port of what end a sends, the destination port of what it is sent.
        place = start if end == 0 else start + 2
        port = int.from_bytes(frame[place:place + 2])
        ports = self.nat if end == 0 else {outside: inside for inside, outside in self.nat.items()}
        if end == 1 and port in self.forgotten:
            self.seen[end, "dropped by the NAT"] += 1
            return None
        if port not in ports:
            return frame
        # IPv4 allows a UDP checksum of zero: none.
        changed = bytearray(frame)
        changed[place:place + 2] = ports[port].to_bytes(2)
        changed[start + 6:start + 8] = b"\0\0"
        return bytes(changed)
