#!/bin/bash
# Makes penstock.msi of the files that it installs.
#
# usage: scripts/installer.sh MSI FOLDER [VERSION]
#
#   MSI        the file to write, unsigned
#   FOLDER     has penstock.exe, penstockw.exe, penstock.sys, .inf and .cat, signed as they are to be
#   VERSION    another than this one's, for what is tried with upgrades
#
# inf/installer.tables has the tables, which `penstock-package installer` fills in. The same files, version and date give the
# same bytes.
#
# environment:
#   SOURCE_DATE_EPOCH    when it was made, in seconds since 1970
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
[ $# -ge 2 ] && [ -d "$2" ] || { sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//p}' "$0" >&2; exit 1; }
msi=$(readlink -f "$1") from=$(readlink -f "$2")
: "${SOURCE_DATE_EPOCH:?when was it made?}"
for tool in gcab msibuild; do
    command -v "$tool" >/dev/null ||
        { echo "installer.sh: $tool is missing: run scripts/setup.sh (Debian packages gcab, msitools)" >&2; exit 1; }
done
cargo build --quiet --locked -p inf
package() { "${CARGO_TARGET_DIR:-target}/debug/penstock-package" "$@"; }

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# In the order of the File table.
files=(penstock.exe penstockw.exe penstock.sys penstock.inf penstock.cat)
mkdir "$folder/files" "$folder/tables"
(cd "$from" && cp "${files[@]}" "$folder/files/")
find "$folder/files" -type f -exec touch --date="@$SOURCE_DATE_EPOCH" {} +
package installer "$folder/tables" "${files[@]/#/$folder/files/}" ${3:+--version "$3"}
(cd "$folder/files" && TZ=UTC gcab --create --zip ../penstock.cab "${files[@]}")
msibuild "$folder/penstock.msi" -i "$folder"/tables/*.idt -a penstock.cab "$folder/penstock.cab"
mv "$folder/penstock.msi" "$msi"
