#!/bin/bash
# Makes a package, and shows that a change of any file of it is found.
#
# usage: scripts/package-test.sh
#
# Needs the driver and the program: scripts/build.sh, scripts/build.sh --ctl.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
passed=0 failed=0
expect() { # expect WHAT STATUS COMMAND...: the command ends with 0, or does not
    local what=$1 wanted=$2 status=0
    shift 2
    "$@" >"$folder/log" 2>&1 || status=1
    if [ $status = "$wanted" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "package-test.sh: $what"
        sed 's/^/    /' "$folder/log"
    fi
}

expect 'no package could be made' 0 scripts/package.sh
(cd target/package && find driver program installer scripts policy certificates submission -type f | xargs sha256sum) >"$folder/first"
expect 'no package could be made again' 0 scripts/package.sh
(cd target/package && find driver program installer scripts policy certificates submission -type f | xargs sha256sum) >"$folder/second"
expect 'a package that is made again is another' 0 cmp "$folder/first" "$folder/second"
expect 'the package does not hold' 0 scripts/verify-package.sh target/package

changed() { # changed FILE SAID COMMAND...: after the command, run on a copy of the file, the package does not hold; why is said
    local file=$1 said=$2
    shift 2
    rm -rf "$folder/package"
    cp -r target/package "$folder/package"
    "$@" "$folder/package/$file"
    ! cmp -s "target/package/$file" "$folder/package/$file" || { echo "package-test.sh: $file: nothing was changed"; exit 1; }
    expect "$file was changed by $1, and the package holds" 1 scripts/verify-package.sh "$folder/package"
    mv "$folder/log" "$folder/said"
    expect "$file was changed by $1, which is not said: $said" 0 grep -F "$said" "$folder/said"
}
# A byte becomes another: near the front, for behind are certificates, of which the root's is not looked at.
flip() {
    local at=$(($(stat -c %s "$1") / 10)) byte
    byte=$(od -An -tu1 -j "$at" -N 1 "$1")
    printf "\\x$(printf %02x $((byte ^ 1)))" | dd of="$1" bs=1 seek="$at" conv=notrunc status=none
}
end() { echo >>"$1"; }
unsign() { osslsigncode remove-signature -in "$1" -out "$1.new" >/dev/null && mv "$1.new" "$1"; }
broken() { sed -i 's/^PnpLockdown = 1/PnpLockdown = 0/' "$1"; }
other_pdb() {
    local cab
    cab=$(readlink -f "$1")
    (
        cd "$folder"
        rm -rf penstock
        gcab --extract "$cab" >/dev/null
        # The number that the image names is at the beginning of the PDB's streams: another byte of it, wherever it is.
        python3 - penstock/penstock.pdb <<'PY'
import sys
path = sys.argv[1]
data = bytearray(open(path, 'rb').read())
image = open('penstock/penstock.sys', 'rb').read()
guid = image[image.index(b'RSDS') + 4:][:16]
at = data.index(guid)
data[at] ^= 1
open(path, 'wb').write(data)
PY
        gcab --create --zip "$cab" penstock/penstock.{sys,pdb,inf,cat}
    )
}
sign_again() { # sign_again FILE [OPTION...]: what was changed, by the package's signer
    local chain=target/package/test-chain
    osslsigncode sign -certs $chain/signer.pem -ac $chain/root.pem -key $chain/signer.key -h sha256 "${@:2}" \
        -in "$1" -out "$1.new" >/dev/null && mv "$1.new" "$1"
}
without_pages() { unsign "$1" && sign_again "$1"; }
repairable() { # a table says another thing
    unsign "$1" && msibuild "$1" -q "UPDATE \`Property\` SET \`Value\` = '0' WHERE \`Property\` = 'ARPNOREPAIR'" && sign_again "$1" -add-msi-dse
}
repacked() { # repacked MSI COMMAND: its cabinet has what the command makes of the files in it
    unsign "$1" && msiinfo extract "$1" penstock.cab >"$folder/cab"
    (
        rm -rf "$folder/files" && mkdir "$folder/files" && cd "$folder/files" && gcab --extract ../cab >/dev/null
        eval "$2"
        gcab --create --zip ../cab penstock.exe penstockw.exe penstock.{sys,inf,cat}
    )
    msibuild "$1" -a penstock.cab "$folder/cab" && sign_again "$1" -add-msi-dse
}
other_file() { repacked "$1" 'echo >>penstock.cat'; }
with_console() { repacked "$1" 'cp penstock.exe penstockw.exe'; }
stranger() { # another signer's certificate in place of ours
    openssl req -x509 -newkey rsa:2048 -nodes -keyout "$folder/key" -subj /CN=Somebody -outform der -out "$1" 2>/dev/null
}
cp -r target/package "$folder/package"
expect 'a copy of the package does not hold' 0 scripts/verify-package.sh "$folder/package"
changed driver/penstock.sys 'penstock.sys: its signature does not hold' flip
changed driver/penstock.sys 'penstock.sys is not the one in the catalog' flip
changed driver/penstock.sys 'penstock.sys: its signature does not hold' unsign
changed driver/penstock.sys 'penstock.sys has no hashes of its pages' without_pages
changed driver/penstock.cat 'penstock.cat: its signature does not hold' flip
changed program/penstock.exe 'penstock.exe: its signature does not hold' flip
changed program/penstock.exe 'penstock.exe: its signature does not hold' unsign
changed driver/penstock.inf 'penstock.inf is not the one in the catalog' end
changed driver/penstock.inf 'penstock.inf is not right' broken
changed policy/penstock.admx 'penstock.admx is not the one that was judged' flip
changed policy/en-US/penstock.adml 'penstock.adml is not the one that was judged' flip
changed certificates/root.cer 'penstock.cat: its signature does not hold' stranger
changed certificates/signer.cer 'penstock.exe is not signed by certificates/signer.cer' stranger
changed scripts/Install-Penstock.ps1 'Install-Penstock.ps1: its signature does not hold' flip
changed scripts/Penstock.psm1 'Penstock.psm1 is not the one that was judged' flip
changed installer/penstock.msi 'penstock.msi: its signature does not hold' flip
changed installer/penstock.msi 'penstock.msi: its signature does not hold' unsign
changed installer/penstock.msi 'penstock.msi is not right' repairable
changed installer/penstock.msi 'penstock.cat of the MSI is another' other_file
changed installer/penstock.msi 'penstockw.exe of the MSI is not penstock.exe without a console' with_console
changed submission/penstock.cab 'the cabinet has no penstock.pdb' flip
changed submission/penstock.cab 'penstock.pdb of the cabinet is of another build' other_pdb

echo "$passed passed, $failed failed"
[ $failed = 0 ]
