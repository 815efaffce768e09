#!/bin/bash
# Verifies a package that scripts/package.sh made: every signature, every file by the catalog, the INF, the MSI, the cabinet.
#
# usage: scripts/verify-package.sh [FOLDER]    (target/package)
#
# Whom the package says to trust is whom it is verified by: this shows that nothing was changed, not who made it.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
out=${1:-target/package}
[ -d "$out/driver" ] || { echo "verify-package.sh: $out is no package: scripts/package.sh makes one" >&2; exit 1; }
out=$(readlink -f "$out") folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
failed=0
holds() { # holds WHAT COMMAND...
    local what=$1
    shift
    "$@" >"$folder/log" 2>&1 && return
    echo "verify-package.sh: $what" >&2
    grep -iE 'mismatch|fail|error|no match|not right|line|not found|differ' "$folder/log" | head -5 | sed 's/^/    /' >&2 || true
    failed=1
}
cargo build --quiet --locked -p inf
package() { "${CARGO_TARGET_DIR:-target}/debug/penstock-package" "$@"; }

openssl x509 -inform der -in "$out/certificates/root.cer" -out "$folder/root.pem"
signed() { osslsigncode verify -CAfile "$folder/root.pem" "$@"; }
by_signer() { # the signature in FILE is the signer's, and not some other's that root vouches for
    openssl x509 -inform der -in "$out/certificates/signer.cer" -noout -serial | sed 's/.*=//' >"$folder/serial"
    signed -in "$1" | grep -iqF "$(cat "$folder/serial")"
}
for file in driver/penstock.{sys,cat} program/penstock.exe installer/penstock.msi $(cd "$out" && echo scripts/*); do
    holds "${file#*/}: its signature does not hold" signed -in "$out/$file"
    holds "${file#*/} is not signed by certificates/signer.cer" by_signer "$out/$file"
done
holds 'penstock.sys is not the one in the catalog' signed -catalog "$out/driver/penstock.cat" -in "$out/driver/penstock.sys"
paged() { # the signature has hashes of FILE's pages, and they are right
    signed -in "$1" | awk -F ' *: ' '/^Page hash  /{has = $2} /^Calculated page hash/{made = $2} END {exit !has || has != made}'
}
holds 'penstock.sys has no hashes of its pages, or wrong ones' paged "$out/driver/penstock.sys"
# osslsigncode knows no INF files: the catalog must have the hash that we make of ours.
listed() { od -An -v -tx1 "$out/driver/penstock.cat" | tr -d " \n" | grep -iqF "0420$(package digest "$1")"; }
for file in penstock.inf penstock.sys; do
    holds "$file is not the one in the catalog" listed "$out/driver/$file"
done
unsigned_is() { sed '/^# SIG # Begin/,$d' "$out/scripts/$1" | tr -d '\r' | sed '$!b; /^$/d' | diff -q - "scripts/deploy/$1"; }
for script in scripts/deploy/*; do
    holds "${script##*/} is not the one that was judged, $script" unsigned_is "${script##*/}"
done
holds 'penstock.inf is not right' package check "$out/driver/penstock.inf"
for file in penstock.admx en-US/penstock.adml; do
    holds "$file is not the one that was judged, inf/$file" cmp "inf/$file" "$out/policy/$file"
done

msi=$out/installer/penstock.msi
mkdir "$folder/tables" "$folder/installed"
for table in $(msiinfo tables "$msi" | grep -v _ForceCodepage); do
    msiinfo export "$msi" "$table" >"$folder/tables/$table"
done
holds 'penstock.msi is not right' package check-installer "$folder"/tables/*
msiinfo extract "$msi" penstock.cab >"$folder/installed.cab" || true
(cd "$folder/installed" && gcab --extract ../installed.cab) >/dev/null 2>&1 || true
for file in driver/penstock.sys driver/penstock.inf driver/penstock.cat program/penstock.exe; do
    holds "${file#*/} of the MSI is another" cmp "$folder/installed/${file#*/}" "$out/$file"
done
windowless() {
    osslsigncode remove-signature -in "$out/program/penstock.exe" -out "$folder/console.exe" &&
        package without-console "$folder/console.exe" "$folder/windowless.exe" &&
        [ "$(package digest "$folder/windowless.exe")" = "$(package digest "$folder/installed/penstockw.exe")" ]
}
holds 'penstockw.exe of the MSI is not penstock.exe without a console' windowless
holds 'penstockw.exe is not signed by certificates/signer.cer' by_signer "$folder/installed/penstockw.exe"

(cd "$folder" && gcab --extract "$out/submission/penstock.cab") >/dev/null 2>&1 || true
for file in penstock.sys penstock.pdb penstock.inf penstock.cat; do
    holds "the cabinet has no $file" test -s "$folder/penstock/$file"
done
holds 'penstock.inf of the cabinet is another' cmp "$folder/penstock/penstock.inf" "$out/driver/penstock.inf"
same() { [ "$(package digest "$1")" = "$(package digest "$2")" ]; }
holds 'penstock.sys of the cabinet is another' same "$folder/penstock/penstock.sys" "$out/driver/penstock.sys"
# The debugger takes a PDB by the number that the image names.
pdb_of() {
    local llvm=${PENSTOCK_LLVM:-/usr/lib/llvm-19}/bin image pdb
    image=$("$llvm/llvm-readobj" --coff-debug-directory "$1" | sed -n 's/.*PDBGUID: {\(.*\)}/\1/p' | head -1)
    pdb=$("$llvm/llvm-pdbutil" dump --summary "$2" | sed -n 's/.*GUID: {\(.*\)}/\1/p' | head -1)
    [ -n "$image" ] && [ "$image" = "$pdb" ]
}
holds 'penstock.pdb of the cabinet is of another build' pdb_of "$folder/penstock/penstock.sys" "$folder/penstock/penstock.pdb"
[ $failed = 0 ] && echo "$out: signatures, catalog, INF, MSI, templates and cabinet hold"
exit $failed
