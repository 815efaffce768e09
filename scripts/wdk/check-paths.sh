#!/bin/bash
# Refuses a file that says where it was built: elsewhere it would be another one.
#
# usage: check-paths.sh FILE...
set -euo pipefail
workspace=$(readlink -f "$(dirname "$(readlink -f "$0")")/../..")
places=()
for place in "$workspace" "${CARGO_HOME:-$HOME/.cargo}" "$HOME" "${TMPDIR:-/tmp}"; do
    # A folder that is the root of all is in every path.
    [ "$place" = / ] || places+=(-e "$place/")
done
failed=0
for file in "$@"; do
    found=$(strings -a "$file" | grep -F "${places[@]}" || true)
    [ -n "$found" ] || continue
    echo "check-paths.sh: $file says where it was built:" >&2
    printf '%s\n' "$found" | sort -u | sed -n '1,5s/^/    /p' >&2
    failed=1
done
exit $failed
