#!/bin/sh
# Installs what building, testing and demonstrating the driver need, on Debian 12 or later.
#
# usage: scripts/setup.sh [--check]
#
#   --check   only say what is missing; exit status 1 if anything is
#
# Quick and quiet when nothing is missing. Installs Debian packages and nothing else; needs root or
# sudo for that.
set -eu

case ${1:-} in
'' | --check) ;;
*)
    sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//p}' "$0"
    [ "$1" = --help ]
    exit
    ;;
esac

# What they are for: the packages. Nothing else is installed.
packages=$(sed 's/.*: //' <<'T'
headers for wdk-sys, the entry object:  clang-19 libclang1-19
import libraries, image checks:         llvm-19
the driver's linker:                    lld-19
the driver's compiler and its library:  rustc-web cargo-web rust-web-src rust-web-clippy
the command line for Windows, its run:  gcc-mingw-w64-x86-64-win32 wine64 wine
the peer in the demo, and its tool:     wireguard-go wireguard-tools
throughput:                             iperf3
namespaces, TUN devices, ping, files:   iproute2 iputils-ping ethtool netcat-openbsd
processes and tables in scripts:        procps python3 python3-pip
the driver's functions and lines:       gdb
signatures, the package's cabinet, MSI: openssl osslsigncode gcab msitools
WinDbg's script, tried on a simulation: nodejs
packets as others read them:            tshark
a Linux kernel as a peer, emulated:     qemu-system-x86 busybox-static cpio kmod xz-utils
T
)

# Debian's compiler moves on; lists of packages from the day an image was made may offer one that is too old.
oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")
new_enough() { # new_enough PACKAGE: any version of most; of the compiler and what goes with it, rust-version
    case $1 in
    rustc-web | cargo-web | rust-web-src | rust-web-clippy)
        dpkg --compare-versions "$(dpkg-query -W -f '${Version}' "$1")" ge "$oldest"
        ;;
    esac
}

missing=''
installed=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 2>/dev/null | sed -n 's/^ii *//p') ||
    installed=''
for package in $packages; do
    case "
$installed
" in
    *"
$package
"*) new_enough "$package" || missing="$missing $package" ;;
    *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

if [ -n "${1:-}" ]; then
    echo "setup.sh: not installed, or older than Rust $oldest:$missing" >&2
    exit 1
fi

if ! command -v apt-get >/dev/null; then
    echo "setup.sh: no apt-get here; what these Debian packages hold is needed:$missing" >&2
    exit 1
fi
as_root=''
if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
        echo "setup.sh: must be root (there is no sudo) to install:$missing" >&2
        exit 1
    fi
    as_root=sudo
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "installing:$missing"
# A source that cannot be reached is no reason to stop: what matters is whether the packages can be had.
if ! { { $as_root apt-get update -qq || true; } &&
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends $missing; } \
    >"$log" 2>&1; then
    cat "$log" >&2
    echo "setup.sh: could not install:$missing" >&2
    exit 1
fi
for package in $missing; do
    if ! new_enough "$package"; then
        echo "setup.sh: $package is older than Rust $oldest, and apt offers no newer one;" \
            "Debian 12's security updates have it (bookworm-security in /etc/apt)" >&2
        exit 1
    fi
done
