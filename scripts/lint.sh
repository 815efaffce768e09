#!/bin/bash
# Clippy, warnings refused.
#
# usage: scripts/lint.sh [host|windows]...    both, if none is named
#
#   host      the whole workspace, all targets, for this machine; and whether the lock files beside the workspace (fuzzing,
#             benches, other implementations) are those of what they name
#   windows   the driver and what it stands on, and the command line, for Windows; skipped, and said so, where the
#             compiler that builds the driver has no Clippy (Debian package rust-web-clippy)
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

locks() {
    local lock stale=0
    while read -r lock; do
        cargo update --quiet --workspace --locked --manifest-path "${lock%lock}toml" 2>/dev/null && continue
        echo "lint.sh: $lock is stale: cargo update --workspace --manifest-path ${lock%lock}toml" >&2
        stale=1
    done < <(git ls-files '*/Cargo.lock')
    return "$stale"
}

host() {
    locks
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
