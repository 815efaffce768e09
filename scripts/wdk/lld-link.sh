#!/bin/bash
# The driver's linker: lld-link, told nothing of where it runs.
#
# rustc runs this as: lld-link.sh <arguments of link.exe>
#
# The PDB keeps the linker's folder, its command line and the names of what was linked, among them temporary ones of
# rustc's; the image keeps the PDB's hash. So the linker runs in a folder of its own, in which whatever it reads and
# writes has a name that is the same everywhere.
#
# environment:
#   PENSTOCK_LLVM    LLVM's directory    (/usr/lib/llvm-19)
set -euo pipefail
linker=${PENSTOCK_LLVM:-/usr/lib/llvm-19}/bin/lld-link
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/in" "$folder/out"

arguments=() outputs=() count=0
# input PATH: sets `name` to what the linker calls it: a number keeps two of one name apart.
input() {
    count=$((count + 1))
    name=in/$count-$(basename "$1")
    ln -s "$(readlink -f "$1")" "$folder/$name"
}
for argument in "$@"; do
    case $argument in
    @*)
        echo "lld-link.sh: $argument: a file of arguments, which this does not read" >&2
        exit 1
        ;;
    /OUT:* | /IMPLIB:* | /PDB:*)
        outputs+=("${argument#*:}")
        arguments+=("${argument%%:*}:out/$(basename "${argument#*:}")")
        ;;
    /DEF:* | /NATVIS:*)
        input "${argument#*:}"
        arguments+=("${argument%%:*}:$name")
        ;;
    /LIBPATH:*)
        if [ -d "${argument#*:}" ]; then
            # Not by the folder's name: Cargo's have a hash in them.
            count=$((count + 1))
            ln -s "$(readlink -f "${argument#*:}")" "$folder/in/$count"
            arguments+=("/LIBPATH:in/$count")
        fi
        ;;
    *)
        if [ -f "$argument" ]; then
            input "$argument"
            argument=$name
        fi
        arguments+=("$argument")
        ;;
    esac
done

cd "$folder"
"$linker" "${arguments[@]}" /PDBSOURCEPATH:/
for output in "${outputs[@]}"; do
    [ ! -e "out/$(basename "$output")" ] || mv "out/$(basename "$output")" "$output"
    # What else is made beside the image has its name.
    for beside in pdb map; do
        made=out/$(basename "${output%.*}").$beside
        [ ! -e "$made" ] || mv "$made" "${output%.*}.$beside"
    done
done
