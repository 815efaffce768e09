#!/usr/bin/env python3
"""TCP throughput and CPU time of WireGuard implementations, each with itself, between two network namespaces.

Run by scripts/bench.sh tunnel. Every implementation is a program that stays in the foreground, makes the TUN interface
it is given and answers the WireGuard UAPI. Runs are interleaved, so that a machine's moods are shared, and medians are
printed. CPU seconds are user and system time of both ends' processes, from /proc/PID/stat.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

TICKS = os.sysconf("SC_CLK_TCK")


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def cpu_seconds(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


class Side:
    """One end: a namespace, a program in it, and the interface that program made."""

    def __init__(self, prefix, side, number, command, environment):
        self.namespace, self.name, self.number = f"{prefix}-{side}", f"{prefix}{side}", number
        self.private = run("wg", "genkey")
        self.public = run("wg", "pubkey", input=self.private).strip()
        command = [word.replace("{if}", self.name) for word in command]
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace, *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env={**os.environ, **environment})
        self.wait_until(lambda: os.path.exists(f"/var/run/wireguard/{self.name}.sock"))
        self.wait_until(lambda: self.inside("ip", "link", "show", self.name, check=False).returncode == 0)

    def wait_until(self, ready):
        for _ in range(200):
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.process.args} ended with {self.process.returncode}")
            if ready():
                return
            time.sleep(0.05)
        raise RuntimeError(f"{self.process.args} did not come up")

    def inside(self, *command, check=True, **options):
        return subprocess.run(["ip", "netns", "exec", self.namespace, *command], check=check,
                              capture_output=True, text=True, **options)

    def configure(self, other):
        self.inside("wg", "set", self.name, "private-key", "/dev/stdin", "listen-port", str(51820 + self.number),
                    "peer", other.public, "allowed-ips", f"10.78.0.{other.number}/32",
                    "endpoint", f"10.77.0.{other.number}:{51820 + other.number}", input=self.private)
        self.inside("ip", "addr", "add", f"10.78.0.{self.number}/24", "dev", self.name)
        self.inside("ip", "link", "set", self.name, "mtu", "1420", "up")

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def namespaces(prefix):
    for side in "ab":
        run("ip", "netns", "add", f"{prefix}-{side}")
    run("ip", "link", "add", f"{prefix}-a", "netns", f"{prefix}-a", "type", "veth",
        "peer", "name", f"{prefix}-b", "netns", f"{prefix}-b")
    for number, side in enumerate("ab", 1):
        run("ip", "-n", f"{prefix}-{side}", "link", "set", "lo", "up")
        run("ip", "-n", f"{prefix}-{side}", "addr", "add", f"10.77.0.{number}/24", "dev", f"{prefix}-{side}")
        run("ip", "-n", f"{prefix}-{side}", "link", "set", f"{prefix}-{side}", "up")


def remove_namespaces(prefix):
    for side in "ab":
        subprocess.run(["ip", "netns", "del", f"{prefix}-{side}"], capture_output=True)


def tcp(a, b, seconds):
    """One iperf3 stream from a to b: (Gbit/s received, CPU seconds per 10^9 bytes of both ends)."""
    server = subprocess.Popen(["ip", "netns", "exec", b.namespace, "iperf3", "-s", "-1"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        b.wait_until(lambda: ":5201" in b.inside("ss", "-ltn").stdout)
        before = cpu_seconds(a.process.pid) + cpu_seconds(b.process.pid)
        result = json.loads(a.inside("iperf3", "-c", "10.78.0.2", "-J", "-t", str(seconds), timeout=seconds + 60).stdout)
        used = cpu_seconds(a.process.pid) + cpu_seconds(b.process.pid) - before
        server.wait(10)
    finally:
        if server.poll() is None:
            server.kill()
            server.wait()
    received = result["end"]["sum_received"]
    return received["bits_per_second"] / 1e9, used / (received["bytes"] / 1e9)


def measure(prefix, command, environment, seconds):
    namespaces(prefix)
    sides = []
    try:
        for number, side in enumerate("ab", 1):
            sides.append(Side(prefix, side, number, command, environment))
        a, b = sides
        a.configure(b)
        b.configure(a)
        if a.inside("ping", "-c", "1", "-W", "5", "10.78.0.2", check=False).returncode:
            raise RuntimeError("no ping went through the tunnel")
        return tcp(a, b, seconds)
    finally:
        for side in sides:
            side.stop()
        remove_namespaces(prefix)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulator", required=True)
    parser.add_argument("--driver", required=True)
    parser.add_argument("--boringtun", required=True)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("bench.sh tunnel: network namespaces need root")
    implementations = {
        "penstock": ([options.simulator, "up", "{if}", "--driver", options.driver], {}),
        "wireguard-go": (["wireguard-go", "-f", "{if}"], {"WG_PROCESS_FOREGROUND": "1", "LOG_LEVEL": "error"}),
        "boringtun-cli": ([options.boringtun, "-f", "--disable-drop-privileges", "{if}"], {"WG_SUDO": "1"}),
    }
    seen = {name: [] for name in implementations}
    prefix = f"pb{os.getpid() % 100000}"
    for number in range(options.runs):
        for name, (command, environment) in implementations.items():
            gbps, cpu = measure(prefix, command, environment, options.seconds)
            seen[name].append((gbps, cpu))
            print(f"run {number + 1}/{options.runs}  {name:14}  {gbps:6.2f} Gb/s  {cpu:6.2f} CPU s/GB", flush=True)
    medians = {name: [statistics.median(v[i] for v in values) for i in range(2)] for name, values in seen.items()}
    print("\nTCP, one stream, tunnel MTU 1420, medians of", options.runs)
    print(f"{'':14}  {'Gb/s':>6}  {'CPU s/GB':>8}   penstock is")
    rows = []
    ours = medians["penstock"]
    for name, theirs in medians.items():
        faster, cheaper = ours[0] / theirs[0], theirs[1] / ours[1]
        note = "" if name == "penstock" else f"   {faster:.2f}x as fast, {cheaper:.2f}x as cheap"
        print(f"{name:14}  {theirs[0]:6.2f}  {theirs[1]:8.2f}{note}")
        if name != "penstock":
            rows.append({"what": "tcp1", "size": 1420, "unit": "Gb/s", "ours": ours[0], "peer": name,
                         "theirs": theirs[0], "ratio": faster})
            rows.append({"what": "tcp1 cpu", "size": 1420, "unit": "CPU s/GB", "ours": ours[1], "peer": name,
                         "theirs": theirs[1], "ratio": cheaper})
    out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "target", "bench")
    os.makedirs(out, exist_ok=True)
    with open(os.path.join(out, "tunnel.json"), "w") as file:
        json.dump(rows, file, indent=1)
    print("\nsure figures: no GSO into the adapter, no USO or URO outside")


if __name__ == "__main__":
    main()
