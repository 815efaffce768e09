#!/bin/sh
# Makes the content root that wdk-build looks for, in target/wdk: our headers, and from lib/ the
# import libraries and the KMDF entry object. Does nothing when it is up to date.
#
# usage: content.sh [--libraries]     without: headers and directories only (enough for cargo check)
set -eu
here=$(dirname "$(readlink -f "$0")")
workspace=${here%/scripts/wdk}
root=$workspace/target/wdk
llvm=${PENSTOCK_LLVM:-/usr/lib/llvm-19}/bin
km=$root/Lib/10.0.26100.0/km/x64
kmdf=$root/Lib/wdf/kmdf/x64/1.31
include=$here/include

case $workspace in
*[Ww][Dd][Ff]*)
    echo "penstock: $workspace: wdk-sys takes any header under a path with 'wdf' in it for one of" \
        "the framework's; move the checkout" >&2
    exit 1
    ;;
esac

if [ ! -d "$km" ] || [ ! -d "$kmdf" ] || [ ! -e "$root/Include/10.0.26100.0/km/wdm.h" ]; then
    mkdir -p "$km" "$kmdf"
    ln -sfn ../../scripts/wdk/include "$root/Include"
fi
[ "${1:-}" = --libraries ] || exit 0

stamp=$root/Lib/made
if [ -e "$stamp" ] &&
    [ -z "$(find "$here/lib" "$include" "$here/content.sh" -newer "$stamp" -print -quit)" ]; then
    exit 0
fi
for tool in clang llvm-dlltool llvm-lib; do
    if [ ! -x "$llvm/$tool" ]; then
        echo "penstock: $llvm/$tool is missing: run scripts/setup.sh (Debian packages clang-19," \
            "llvm-19), or set PENSTOCK_LLVM to LLVM's directory" >&2
        exit 1
    fi
done

# Beside the old ones first, then renamed: somebody may be linking.
work=$(mktemp -d "$root/making.XXXXXX")
trap 'rm -rf "$work"' EXIT

import_library() {
    "$llvm/llvm-dlltool" -m i386:x86-64 -d "$here/lib/$1.def" -l "$work/library"
    mv "$work/library" "$2"
}
# Objects and archives have their own names in them: without a folder.
compile() {
    # Debug information says where the file was, relative to the workspace.
    (cd "$work" && "$llvm/clang" --target=x86_64-pc-windows-msvc -ffreestanding -fno-builtin -fms-extensions \
        -mno-red-zone -mno-sse -mno-mmx -fasynchronous-unwind-tables -O2 -g -gcodeview \
        -gno-codeview-command-line -Wall -Wextra -Werror \
        "-ffile-prefix-map=$workspace=penstock" "-fdebug-compilation-dir=penstock" \
        -D_KERNEL_MODE -D_AMD64_ -DKMDF_VERSION_MAJOR=1 -DKMDF_VERSION_MINOR=31 \
        -I"$include/10.0.26100.0/km" -I"$include/10.0.26100.0/shared" -I"$include/wdf/kmdf/1.31" \
        -c "$here/lib/$1.c" -o "$1.obj")
}
archive() {
    (cd "$work" && "$llvm/llvm-lib" /nologo /out:library "$1.obj")
    mv "$work/library" "$2"
}

import_library ntoskrnl "$km/ntoskrnl.lib"
import_library netio "$km/netio.lib"
import_library ndis "$km/ndis.lib"
import_library fwpkclnt "$km/fwpkclnt.lib"
import_library cng "$km/cng.lib"
import_library wdfldr "$kmdf/WdfLdr.lib"
compile kmdf_entry
compile empty
archive kmdf_entry "$kmdf/WdfDriverEntry.lib"
for unused in BufferOverflowFastFailK hal wmilib; do
    archive empty "$km/$unused.lib"
done
# Clang takes the other compiler's arguments when it goes by this name.
mkdir -p "$root/bin"
ln -sfn "$llvm/clang" "$root/bin/clang-cl"
touch "$stamp"
