#!/bin/bash
# Refuses an image that the Windows kernel would not map, or that we would not want it to.
#
# usage: check-image.sh IMAGE
set -euo pipefail
image=$1
readobj=${PENSTOCK_LLVM:-/usr/lib/llvm-19}/bin/llvm-readobj

headers=$("$readobj" --file-headers "$image")
sections=$("$readobj" --sections "$image")
failed=0
expect() { # what, regular expression in the headers
    if ! grep -qE "$2" <<<"$headers"; then
        echo "check-image.sh: $image: $1" >&2
        failed=1
    fi
}
expect 'not for x64' 'Machine: IMAGE_FILE_MACHINE_AMD64'
expect 'no checksum (/RELEASE)' 'CheckSum: 0x[0-9A-F]*[1-9A-F]'
expect 'not a native image (/SUBSYSTEM:NATIVE)' 'IMAGE_SUBSYSTEM_NATIVE'
expect 'not relocatable (/DYNAMICBASE)' 'IMAGE_DLL_CHARACTERISTICS_DYNAMIC_BASE'
expect 'no high-entropy addresses (/HIGHENTROPYVA)' 'IMAGE_DLL_CHARACTERISTICS_HIGH_ENTROPY_VA'
expect 'data may be run (/NXCOMPAT)' 'IMAGE_DLL_CHARACTERISTICS_NX_COMPAT'
expect 'integrity is not forced (/INTEGRITYCHECK)' 'IMAGE_DLL_CHARACTERISTICS_FORCE_INTEGRITY'
expect 'sections are not aligned to 4 KiB' 'SectionAlignment: 4096'

# A section is named, then has its characteristics: none may be written to and run.
if awk '/Name: /{name=$2} /MEM_EXECUTE/{run=name} /MEM_WRITE/{if (run == name) {print name; bad=1}}
        /^  }/{run=""} END{exit bad}' <<<"$sections" >/dev/null; then :; else
    echo "check-image.sh: $image: a section is writable and executable" >&2
    failed=1
fi
exit $failed
