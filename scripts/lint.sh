#!/bin/bash
# Clippy, warnings refused.
#
# usage: scripts/lint.sh [host|windows]...    both, if none is named
#
#   host      the whole workspace, all targets, for this machine
#   windows   the driver and what it stands on, and the command line, for Windows; skipped, and said so, where the
#             compiler that builds the driver has no Clippy (Debian package rust-web-clippy)
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

host() {
    (
        . scripts/wdk/env.sh
        cargo clippy --locked --workspace --all-targets --features sim/driver,ctl/driver,ctl/wine -- -D warnings
    )
}

windows() {
    local rust=${PENSTOCK_RUST:-/usr/bin}
    if ! [ -x "$rust/cargo-clippy" ]; then
        echo "lint.sh: windows: skipped, no Clippy beside $rust/rustc" \
            "(apt-get install rust-web-clippy)" >&2
        return 0
    fi
    scripts/build.sh --clippy && scripts/build.sh --ctl --clippy
}

[ $# -gt 0 ] || set -- host windows
for target in "$@"; do
    case $target in
    host | windows) "$target" ;;
    *)
        sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//p}' "$0" >&2
        [ "$target" = --help ]
        exit
        ;;
    esac
done
