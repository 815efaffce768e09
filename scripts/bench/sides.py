"""Two network namespaces with a cable between them, a WireGuard implementation in each, and what can be measured of them."""
import json
import os
import re
import subprocess
import threading
import time

TICKS = os.sysconf("SC_CLK_TCK")
# The bare cable, without a tunnel.
BARE = "bare link"


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def percentile(values, part):
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, round(part * (len(ordered) - 1)))]


class Side:
    """One end: a namespace, a program in it, and the interface that program made. Without a command, the namespace alone."""

    def __init__(self, prefix, side, number, command, environment):
        self.namespace, self.name, self.number = f"{prefix}-{side}", f"{prefix}{side}", number
        self.private = run("wg", "genkey")
        self.public = run("wg", "pubkey", input=self.private).strip()
        self.process = None
        if command is None:
            return
        # One that is left from before would look like this program's.
        socket = f"/var/run/wireguard/{self.name}.sock"
        if os.path.exists(socket):
            os.unlink(socket)
        command = [word.replace("{if}", self.name) for word in command]
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, **environment})
        try:
            self.wait_until(lambda: os.path.exists(socket))
            self.wait_until(lambda: self.inside("ip", "link", "show", self.name, check=False).returncode == 0)
        except RuntimeError:
            self.stop()
            raise

    def wait_until(self, ready):
        for _ in range(200):
            if self.process and self.process.poll() is not None:
                raise RuntimeError(f"{self.process.args} ended with {self.process.returncode}")
            if ready():
                return
            time.sleep(0.05)
        raise RuntimeError(f"{self.name}: waited 10 s")

    def inside(self, *command, check=True, **options):
        return subprocess.run(["ip", "netns", "exec", self.namespace, *command], check=check,
                              capture_output=True, text=True, **options)

    def configure(self, other):
        self.inside("wg", "set", self.name, "private-key", "/dev/stdin", "listen-port", str(51820 + self.number),
                    "peer", other.public, "allowed-ips", f"10.78.0.{other.number}/32",
                    "endpoint", f"10.77.0.{other.number}:{51820 + other.number}", input=self.private)
        self.inside("ip", "addr", "add", f"10.78.0.{self.number}/24", "dev", self.name)
        self.inside("ip", "link", "set", self.name, "mtu", "1420", "up")

    def cpu_seconds(self):
        if not self.process:
            return 0.0
        fields = open(f"/proc/{self.process.pid}/stat").read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def resident_mb(self):
        if not self.process:
            return 0.0
        return int(re.search(r"VmRSS:\s+(\d+)", open(f"/proc/{self.process.pid}/status").read()).group(1)) / 1024

    def stop(self):
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Link:
    """Both ends, and the measurements between them; a context that takes everything away again."""

    def __init__(self, prefix, command, environment, udp):
        self.prefix, self.command, self.environment, self.udp = prefix, command, environment, udp
        self.sides = []
        self.address = "10.78.0.2" if command else "10.77.0.2"

    def __enter__(self):
        try:
            self.join()
            for number, side in enumerate("ab", 1):
                self.sides.append(Side(self.prefix, side, number, self.command, self.environment))
            self.a, self.b = self.sides
            if self.command:
                self.a.configure(self.b)
                self.b.configure(self.a)
            # The other end may only just be coming up: what finds it closed is tried again after five seconds, by the protocol.
            ping = ("ping", "-c", "1", "-W", "1", self.address)
            if all(self.a.inside(*ping, check=False).returncode for _ in range(12)):
                raise RuntimeError("no ping went through")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for side in self.sides:
            side.stop()
        for side in "ab":
            subprocess.run(["ip", "netns", "del", f"{self.prefix}-{side}"], capture_output=True)

    def join(self):
        for side in "ab":
            run("ip", "netns", "add", f"{self.prefix}-{side}")
        run("ip", "link", "add", f"{self.prefix}-a", "netns", f"{self.prefix}-a", "type", "veth",
            "peer", "name", f"{self.prefix}-b", "netns", f"{self.prefix}-b")
        for number, side in enumerate("ab", 1):
            run("ip", "-n", f"{self.prefix}-{side}", "link", "set", "lo", "up")
            run("ip", "-n", f"{self.prefix}-{side}", "addr", "add", f"10.77.0.{number}/24", "dev", f"{self.prefix}-{side}")
            run("ip", "-n", f"{self.prefix}-{side}", "link", "set", f"{self.prefix}-{side}", "up")

    def cpu_seconds(self):
        return sum(side.cpu_seconds() for side in self.sides)

    def tcp(self, seconds, *options):
        """iperf3 from a to b: (Gbit/s received, CPU seconds per 10^9 bytes of both ends' processes)."""
        server = subprocess.Popen(["ip", "netns", "exec", self.b.namespace, "iperf3", "-s", "-1"],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self.b.wait_until(lambda: ":5201" in self.b.inside("ss", "-ltn").stdout)
            before = self.cpu_seconds()
            client = self.a.inside("iperf3", "-c", self.address, "-J", "-t", str(seconds), *options, timeout=seconds + 60)
            used = self.cpu_seconds() - before
            server.wait(10)
        finally:
            if server.poll() is None:
                server.kill()
                server.wait()
        received = json.loads(client.stdout)["end"]["sum_received"]
        return received["bits_per_second"] / 1e9, used / (received["bytes"] / 1e9)

    def ping(self, count, interval):
        """Round trips in microseconds."""
        said = self.a.inside("ping", "-n", "-c", str(count), "-i", str(interval), "-W", "1", self.address, check=False).stdout
        times = [float(time) * 1000 for time in re.findall(r"time=([\d.]+) ms", said)]
        if not times:
            raise RuntimeError("no ping came back")
        return times

    def ping_under(self, seconds, *options):
        """Round trips while iperf3 sends."""
        failed = []

        def load():
            try:
                self.tcp(seconds, *options)
            except Exception as error:  # told in the thread that measures
                failed.append(error)

        thread = threading.Thread(target=load)
        thread.start()
        time.sleep(1)
        try:
            return self.ping(int((seconds - 1.5) / 0.01), 0.01)
        finally:
            thread.join()
            if failed:
                raise failed[0]

    def datagrams(self, size, rate, seconds):
        """Datagrams of `size` bytes at `rate` a second: (sent, received, seconds, CPU seconds of both processes)."""
        receiver = subprocess.Popen(
            ["ip", "netns", "exec", self.b.namespace, self.udp, "receive", "5300", str(seconds + 0.5)],
            stdout=subprocess.PIPE, text=True)
        try:
            receiver.stdout.readline()
            before = self.cpu_seconds()
            sent, took = self.a.inside(self.udp, "send", self.address, "5300", str(size), str(rate), str(seconds)).stdout.split()
            came = int(receiver.communicate(timeout=seconds + 15)[0])
            return int(sent), came, float(took), self.cpu_seconds() - before
        finally:
            if receiver.poll() is None:
                receiver.kill()
                receiver.wait()

    def most_datagrams(self, size, seconds):
        """The highest rate with less than 1 % lost, found by halving: (thousands a second, CPU microseconds each)."""
        good, bad, cost, rate = 0.0, None, 0.0, 40_000.0
        for _ in range(12):
            sent, came, took, used = self.datagrams(size, rate, seconds)
            if came >= 0.99 * sent and sent / took >= 0.93 * rate:
                good, cost = sent / took, used * 1e6 / came
            elif sent / took < 0.93 * rate and came >= 0.99 * sent:
                # What sends does not get there: the machine's bound, not the tunnel's.
                good, cost, bad = max(good, sent / took), used * 1e6 / came, rate
            else:
                bad = rate
            if bad and bad - good < 0.06 * bad:
                break
            rate = (good + bad) / 2 if bad else rate * 1.6
        return good / 1000, cost
