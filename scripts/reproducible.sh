#!/bin/bash
# Builds driver, program and MSI twice from nothing, in folders of different names, and compares what comes out.
#
# usage: scripts/reproducible.sh [--keep]
#
#   --keep    leave the two folders where they are, and say where
#
# What is compared is the last commit, unsigned: penstock.sys, penstock.pdb, the package's INF and catalog, penstock.exe, and the
# MSI of these. It takes as long as two builds; scripts/build.sh refuses what says where it was built each time.
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
here=$PWD commit=$(git rev-parse HEAD)
# What a build takes from where it runs: a short and a long name, other variables, another home for crates.
places=("$folder/a" "$folder/another-folder-with-a-longer-name/b")
for place in "${places[@]}"; do
    mkdir -p "$place"
    git -C "$here" archive "$commit" | tar -x -C "$place"
    (
        cd "$place"
        scripts/build.sh --quiet
        scripts/build.sh --ctl --quiet
        export SOURCE_DATE_EPOCH
        SOURCE_DATE_EPOCH=$(git -C "$here" log -1 --format=%ct "$commit")
        package() { cargo run --quiet --locked -p inf -- "$@"; }
        mkdir target/made
        cp target/driver/penstock.{sys,pdb} target/ctl/penstock.exe target/made/
        cd target/made
        package without-console penstock.exe penstockw.exe
        package inf penstock.inf
        package catalog penstock.cat penstock.inf penstock.sys
        ../../scripts/installer.sh "$PWD/penstock.msi" "$PWD"
    )
done

failed=0
for file in penstock.{sys,pdb,inf,cat,exe,msi}; do
    if cmp "${places[0]}/target/made/$file" "${places[1]}/target/made/$file"; then
        echo "$file: the same twice, sha256 $(sha256sum <"${places[0]}/target/made/$file" | cut -d' ' -f1)"
    else
        failed=1
    fi
done
[ -z "$keep" ] || echo "kept: $folder"
exit $failed
