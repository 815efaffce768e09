"""Debian's Linux kernel, with its own WireGuard, in an emulated machine that is one end of the cable.

The machine has nothing but an initial file system: busybox, the programs that a test calls, and the kernel's modules. It is
emulated in software, so it is slow, and right.
"""
import glob
import os
import shutil
import socket
import subprocess

PACKAGE = "linux-image-cloud-amd64"
MODULES = ("virtio_pci", "virtio_net", "wireguard")
# Programs that are put into the machine with the libraries they want. busybox's `timeout` would run busybox's `nc`.
PROGRAMS = ("bash", "wg", "ip", "ping", "nc.openbsd", "timeout")

INIT = """#!/bin/sh
export PATH=/bin:/sbin
mount -t devtmpfs d /dev; mount -t proc p /proc; mount -t sysfs s /sys; mkdir -p /tmp /run; ln -s /proc/self/fd /dev/fd
for module in /modules/*; do insmod $module || echo "no $module"; done
ip link set lo up
ip link set eth0 name cable
stty raw -echo </dev/ttyS1
exec </dev/ttyS1 >/dev/ttyS1
echo ready
# A line is a command; its answer is what it said, and a line of its status.
while read -r line; do
    bash -c "$line" >/tmp/said 2>&1 </dev/null
    status=$?
    cat /tmp/said
    echo
    echo "status=$status"
done
poweroff -f
"""


def run(*command, **options):
    return subprocess.run(command, check=True, capture_output=True, text=True, **options).stdout


def kernel(folder):
    """A Debian kernel and its modules, unpacked below `folder`, by its package's name; installs nothing."""
    wanted = [line.split()[1] for line in run("apt-cache", "depends", PACKAGE).splitlines() if "Depends: linux-image" in line]
    place = f"{folder}/{wanted[0]}"
    if not os.path.exists(f"{place}/ready"):
        shutil.rmtree(place, ignore_errors=True)
        os.makedirs(place)
        run("apt-get", "download", "-q", wanted[0], cwd=place)
        package, = glob.glob(f"{place}/*.deb")
        run("dpkg-deb", "-x", package, place)
        os.unlink(package)
        # Debian keeps modules below /lib, which is /usr/lib.
        if not os.path.exists(f"{place}/usr/lib/modules"):
            os.makedirs(f"{place}/usr/lib", exist_ok=True)
            os.rename(f"{place}/lib/modules", f"{place}/usr/lib/modules")
        if not os.path.islink(f"{place}/lib"):
            shutil.rmtree(f"{place}/lib", ignore_errors=True)
            os.symlink("usr/lib", f"{place}/lib")
        version, = os.listdir(f"{place}/lib/modules")
        run("depmod", "-b", place, version)
        open(f"{place}/ready", "w").close()
    return place


def file_system(place, work, files):
    """The initial file system, packed: its path. `files` are host paths by their path inside."""
    root = f"{work}/guest"
    for folder in ("bin", "sbin", "dev", "proc", "sys", "modules", "etc"):
        os.makedirs(f"{root}/{folder}")
    # Its own applets stand back behind the programs below.
    shutil.copy(shutil.which("busybox"), f"{root}/bin/busybox")
    for applet in run("busybox", "--list").split():
        if applet != "busybox":
            os.symlink("/bin/busybox", f"{root}/sbin/{applet}")
    os.symlink("busybox", f"{root}/bin/sh")
    for program in PROGRAMS:
        path = shutil.which(program)
        shutil.copy(path, f"{root}/bin/{program.removesuffix('.openbsd')}")
        for word in run("ldd", path).split():
            if word.startswith("/") and not os.path.exists(root + word):
                os.makedirs(os.path.dirname(root + word), exist_ok=True)
                shutil.copy(word, root + word)
    for inside, outside in files.items():
        shutil.copy(outside, root + inside)
    version, = os.listdir(f"{place}/lib/modules")
    number = 0
    for module in MODULES:
        for line in run("modprobe", "-d", place, "-S", version, "--show-depends", module).splitlines():
            kind, path = line.split()[:2]
            name = os.path.basename(path)
            if kind == "insmod" and not glob.glob(f"{root}/modules/*-{name.removesuffix('.xz')}"):
                target = f"{root}/modules/{number:02}-{name.removesuffix('.xz')}"
                number += 1
                if path.endswith(".xz"):
                    with open(target, "wb") as file:
                        subprocess.run(["xz", "-dc", path], check=True, stdout=file)
                else:
                    shutil.copy(path, target)
    with open(f"{root}/init", "w") as file:
        file.write(INIT)
    os.chmod(f"{root}/init", 0o755)
    packed = f"{work}/guest.cpio"
    with open(packed, "wb") as file:
        subprocess.run("find . | cpio -o -H newc --quiet", shell=True, check=True, cwd=root, stdout=file)
    return packed


class Guest:
    """The machine, running. Its network card is joined to `card` (see cable.Card); commands go by a serial line."""

    def __init__(self, place, work, card, files):
        line = f"{work}/line"
        waiting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        waiting.bind(line)
        waiting.listen(1)
        waiting.settimeout(120)
        image, = glob.glob(f"{place}/boot/vmlinuz-*")
        self.log = open(f"{work}/guest.log", "wb")
        self.process = subprocess.Popen(
            ["qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off", "-smp", "2", "-m", "512", "-nographic",
             "-no-reboot", "-kernel", image, "-initrd", file_system(place, work, files),
             "-append", "console=ttyS0 quiet panic=-1", "-monitor", "none", "-serial", "stdio",
             "-chardev", f"socket,id=line,path={line}", "-serial", "chardev:line",
             "-netdev", f"dgram,id=cable,local.type=unix,local.path={card.theirs},remote.type=unix,remote.path={card.ours}",
             "-device", "virtio-net-pci,netdev=cable,mac=52:54:00:00:00:02"],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.socket, _ = waiting.accept()
        waiting.close()
        self.socket.settimeout(120)
        self.left = b""
        while self.read_line() != "ready":
            pass

    def read_line(self):
        while b"\n" not in self.left:
            more = self.socket.recv(65536)
            if not more:
                raise RuntimeError("the emulated machine has ended")
            self.left += more
        line, self.left = self.left.split(b"\n", 1)
        return line.decode(errors="replace").rstrip("\r")

    def run(self, command):
        """(status, what it said) of a shell command of one line."""
        self.socket.sendall(command.encode() + b"\n")
        said = []
        while not (line := self.read_line()).startswith("status="):
            said.append(line)
        return int(line.removeprefix("status=")), "\n".join(said)

    def close(self):
        self.socket.close()
        self.process.terminate()
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
