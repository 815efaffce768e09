#!/bin/bash
# The archiver of the C that crates compile: llvm-lib, which is told no names that depend on the folder.
#
# The crate cc calls an object by a hash of where its source is, and the PDB has the names of what was linked.
#
# environment:
#   PENSTOCK_LLVM    LLVM's directory    (/usr/lib/llvm-19)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
arguments=()
for argument in "$@"; do
    case $argument in
    *.o)
        name=$(basename "$argument")
        # 574d5a55758aae73-wdf.o: without the hash; two of one name would not be told apart.
        name=${name#*-}
        [ ! -e "$folder/$name" ] || { echo "llvm-lib.sh: two objects are called $name" >&2; exit 1; }
        ln -s "$(readlink -f "$argument")" "$folder/$name"
        arguments+=("$name")
        ;;
    -out:* | /out:*)
        # Made here, too: members are called by where they are from the archive.
        made=$(readlink -f "${argument#*:}")
        arguments+=(-out:made.lib)
        ;;
    *) arguments+=("$argument") ;;
    esac
done
cd "$folder"
"${PENSTOCK_LLVM:-/usr/lib/llvm-19}/bin/llvm-lib" "${arguments[@]}"
mv made.lib "$made"
