#!/bin/bash
# Builds the driver twice from nothing, in folders of different names, and compares what comes out.
#
# usage: scripts/reproducible.sh [--keep]
#
#   --keep    leave the two folders where they are, and say where
#
# What is compared is the last commit, with penstock.sys, penstock.pdb and the package's INF. It takes as long as two
# builds; scripts/build.sh refuses what says where it was built each time.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

keep=
case ${1:-} in
'') ;;
--keep) keep=yes ;;
*)
    sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//p}' "$0"
    [ "$1" = --help ] || [ "$1" = -h ]
    exit
    ;;
esac

folder=$(mktemp -d)
[ -n "$keep" ] || trap 'rm -rf "$folder"' EXIT
here=$PWD
# What a build takes from where it runs: a short and a long name, other variables, another home for crates.
places=("$folder/a" "$folder/another-folder-with-a-longer-name/b")
for place in "${places[@]}"; do
    mkdir -p "$place"
    git -C "$here" archive HEAD | tar -x -C "$place"
    (
        cd "$place"
        scripts/build.sh --quiet
        SOURCE_DATE_EPOCH=$(git -C "$here" log -1 --format=%ct) \
            cargo run --quiet --locked -p inf -- inf target/driver/penstock.inf
    )
done

failed=0
for file in penstock.sys penstock.pdb penstock.inf; do
    if cmp "${places[0]}/target/driver/$file" "${places[1]}/target/driver/$file"; then
        echo "$file: the same twice, sha256 $(sha256sum <"${places[0]}/target/driver/$file" | cut -d' ' -f1)"
    else
        failed=1
    fi
done
[ -z "$keep" ] || echo "kept: $folder"
exit $failed
