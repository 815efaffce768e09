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
the peer in the demo, and its tool:     wireguard-go wireguard-tools
throughput:                             iperf3
namespaces, TUN devices, ping, files:   iproute2 iputils-ping ethtool netcat-openbsd
processes and tables in scripts:        procps python3
T
)

missing=''
installed=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' 2>/dev/null | sed -n 's/^ii *//p') ||
    installed=''
for package in $packages; do
    case "
$installed
" in
    *"
$package
"*) ;;
    *) missing="$missing $package" ;;
    esac
done
[ -n "$missing" ] || exit 0

if [ -n "${1:-}" ]; then
    echo "setup.sh: not installed:$missing" >&2
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
install() {
    DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq --no-install-recommends \
        $missing >"$log" 2>&1
}
# The lists of packages may never have been fetched, or be too old.
if ! install && ! { $as_root apt-get update -qq >"$log" 2>&1 && install; }; then
    cat "$log" >&2
    echo "setup.sh: could not install:$missing" >&2
    exit 1
fi
