#!/bin/bash
# Makes the package under target/package, signed for testing, and verifies every file of it.
#
# usage: scripts/package.sh [--driver FOLDER] [--program FOLDER]
#
#   --driver FOLDER    where penstock.sys and penstock.pdb are (target/driver, built if they are not there)
#   --program FOLDER   where penstock.exe is (target/ctl, built if it is not there)
#
#   target/package/driver/        penstock.sys, .inf, .cat: what `pnputil /add-driver` takes
#   target/package/program/       penstock.exe
#   target/package/installer/     penstock.msi: driver, program and service, for Group Policy, Intune or ConfigMgr
#   target/package/scripts/       the PowerShell scripts of scripts/deploy, signed, with Windows' ends of lines
#   target/package/policy/        penstock.admx, en-US/penstock.adml: for the central store
#   target/package/certificates/  root.cer, signer.cer: whom a test machine must trust
#   target/package/submission/    penstock.cab: what Partner Center takes, unsigned, with the PDB
#
# The certificates are made once, in target/package/test-chain, and are for testing only: with them a machine takes the
# driver after `bcdedit /set testsigning on`. docs/deploy.md says what a machine of users' needs. Nothing here was tried on
# Windows.
#
# environment:
#   SOURCE_DATE_EPOCH    the day of the package, in seconds since 1970    (the last commit's)
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

fail() {
    echo "package.sh: $*" >&2
    exit 1
}

driver=target/driver program=target/ctl
while [ $# -gt 0 ]; do
    case $1 in
    --driver) driver=${2:?which folder?} && shift 2 ;;
    --program) program=${2:?which folder?} && shift 2 ;;
    *)
        sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//p}' "$0"
        [ "$1" = --help ] || [ "$1" = -h ]
        exit
        ;;
    esac
done
for tool in openssl osslsigncode gcab msibuild; do
    command -v "$tool" >/dev/null || fail "$tool is missing: run scripts/setup.sh"
done
[ -e "$driver/penstock.sys" ] && [ -e "$driver/penstock.pdb" ] || scripts/build.sh --quiet
[ -e "$program/penstock.exe" ] || scripts/build.sh --ctl --quiet
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
cargo build --quiet --locked -p inf
package() { "${CARGO_TARGET_DIR:-target}/debug/penstock-package" "$@"; }

out=target/package chain=target/package/test-chain
mkdir -p "$chain"
rm -rf "$out"/{driver,program,installer,scripts,policy,certificates,submission}
mkdir -p "$out"/{driver,program,installer,scripts,certificates,submission} "$out/policy/en-US"

# Kernel code signing wants RSA; a publisher's certificate is an end of its chain.
if [ ! -e "$chain/signer.pem" ]; then
    (
        cd "$chain"
        umask 077
        openssl req -x509 -newkey rsa:3072 -nodes -sha256 -days 3650 -keyout root.key -out root.pem \
            -subj '/CN=Penstock test root' -addext 'basicConstraints=critical,CA:TRUE,pathlen:0' \
            -addext 'keyUsage=critical,keyCertSign,cRLSign'
        openssl req -new -newkey rsa:3072 -nodes -sha256 -keyout signer.key -out signer.csr \
            -subj '/CN=Penstock test signing/O=Penstock'
        printf '%s\n' 'basicConstraints=critical,CA:FALSE' 'keyUsage=critical,digitalSignature' \
            'extendedKeyUsage=critical,codeSigning' 'subjectKeyIdentifier=hash' 'authorityKeyIdentifier=keyid' >signer.ext
        openssl x509 -req -in signer.csr -CA root.pem -CAkey root.key -CAcreateserial -sha256 -days 730 \
            -extfile signer.ext -out signer.new
        mv signer.new signer.pem
    ) >"$chain/log" 2>&1 || { cat "$chain/log" >&2; fail 'no certificates could be made'; }
fi
for name in root signer; do
    openssl x509 -in "$chain/$name.pem" -outform der -out "$out/certificates/$name.cer"
done

sign() { # sign FROM TO [OPTION...]
    osslsigncode sign -certs "$chain/signer.pem" -ac "$chain/root.pem" -key "$chain/signer.key" -h sha256 \
        -n Penstock -time "$SOURCE_DATE_EPOCH" "${@:3}" -in "$1" -out "$2" >"$chain/log" 2>&1 ||
        { cat "$chain/log" >&2; fail "$1 could not be signed"; }
}
package inf "$out/driver/penstock.inf"
# With a hash of each page, which is what memory integrity looks at.
sign "$driver/penstock.sys" "$out/driver/penstock.sys" -ph
sign "$program/penstock.exe" "$out/program/penstock.exe"
# Of the image as it is given away: its hash is that of the unsigned one, too.
package catalog "$chain/penstock.cat" "$out/driver/penstock.inf" "$out/driver/penstock.sys"
sign "$chain/penstock.cat" "$out/driver/penstock.cat"
cp inf/penstock.admx "$out/policy/"
cp inf/en-US/penstock.adml "$out/policy/en-US/"

# Microsoft makes and signs a catalog of its own; it wants what was signed by nobody, and one folder in the cabinet.
mkdir "$chain/penstock"
trap 'rm -rf "$chain/penstock" "$chain/files"' EXIT
cp "$driver/penstock.sys" "$driver/penstock.pdb" "$out/driver/penstock.inf" "$chain/penstock.cat" "$chain/penstock/"
find "$chain/penstock" -exec touch --date="@$SOURCE_DATE_EPOCH" {} +
(cd "$chain" && TZ=UTC gcab --create --zip ../submission/penstock.cab penstock/penstock.{sys,pdb,inf,cat})

# penstockw.exe is penstock.exe without a console, for the actions of the installer.
rm -rf "$chain/files" "$chain/penstock.msi"
mkdir "$chain/files"
package without-console "$program/penstock.exe" "$chain/penstockw.exe"
sign "$chain/penstockw.exe" "$chain/files/penstockw.exe"
cp "$out"/driver/penstock.{sys,inf,cat} "$out/program/penstock.exe" "$chain/files/"
scripts/installer.sh "$chain/penstock.msi" "$chain/files"
sign "$chain/penstock.msi" "$out/installer/penstock.msi" -add-msi-dse

for script in scripts/deploy/*; do
    sed 's/$/\r/' "$script" >"$chain/files/${script##*/}"
    sign "$chain/files/${script##*/}" "$out/scripts/${script##*/}"
done

scripts/verify-package.sh "$out"
(cd "$out" && find driver program installer scripts policy certificates submission -type f | sort | xargs sha256sum) | sed 's/^/  /'
