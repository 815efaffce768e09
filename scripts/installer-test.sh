#!/bin/bash
# Installs, upgrades, repairs and removes penstock.msi under Wine, and looks at what is there afterwards.
#
# usage: scripts/installer-test.sh
#
# Needs the package: scripts/package.sh. Where the driver is staged, a stand-in writes down how it was called
# (scripts/installer/standin.c), for Wine has no driver store. Wine 8 rolls back in an order of its own, and does not bring an
# old product back: that each action has one that undoes it, in the right place, is a rule of the tables
# (inf/src/installer/rules.rs). Its exit codes are those of msiexec, modulo 256.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
here=$PWD folder=$(mktemp -d)
export WINEPREFIX=$folder/prefix WINEDEBUG=-all WINEDLLOVERRIDES='mscoree,mshtml=;winemenubuilder.exe,winedbg.exe=d'
trap 'wineserver -k || true; rm -rf "$folder"' EXIT
passed=0 failed=0
same() { # same WHAT WANTED GOT
    if [ "$2" = "$3" ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        printf 'installer-test.sh: %s\n  wanted: %s\n  got:    %s\n' "$1" "$2" "$3"
    fi
}
msi=target/package/installer/penstock.msi
[ -e "$msi" ] || { echo "installer-test.sh: no $msi: scripts/package.sh makes it" >&2; exit 1; }
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
cargo build --quiet --locked -p inf
for version in 1 2; do
    files=$folder/$version
    mkdir "$files"
    x86_64-w64-mingw32-gcc -O1 -s -DMAJOR=$version -DMINOR=0 -o "$files/penstock.exe" scripts/installer/standin.c
    "${CARGO_TARGET_DIR:-target}/debug/penstock-package" without-console "$files/penstock.exe" "$files/penstockw.exe"
    cp target/package/driver/* "$files/"
    scripts/installer.sh "$folder/$version.msi" "$files" $version.0.0
    cp "$folder/$version.msi" "$folder/again"
    scripts/installer.sh "$folder/again" "$files" $version.0.0
    same "an MSI of the same files is the same" '' "$(cmp "$folder/again" "$folder/$version.msi" 2>&1)"
done

wineboot --init >/dev/null 2>&1
# Two managers of services may run after that, of which either answers: until both are gone.
wineserver -w
drive=$WINEPREFIX/drive_c there=$WINEPREFIX/drive_c/'Program Files'/Penstock
# What the standard library of penstock.exe needs, and Wine 8 lacks.
prng=$drive/windows/system32/bcryptprimitives.dll
[ -e "$prng" ] ||
    x86_64-w64-mingw32-gcc -O1 -shared -nostdlib -e DllMain -o "$prng" ctl/tests/wine/bcryptprimitives.c -ladvapi32
installer() { # installer OPTION MSI...: the exit code
    local status=0
    timeout 100 wine msiexec "$1" "Z:${2//\//\\}" "${@:3}" /qn >"$folder/log" 2>&1 || status=$?
    echo $status
}
value() { # value KEY NAME: of HKEY_LOCAL_MACHINE
    wine reg query "HKLM\\$1" /v "$2" 2>/dev/null | tr -d '\r' | sed -n 's/^ *[^ ]* *REG_[A-Z_]* *//p'
}
service() { value 'SYSTEM\CurrentControlSet\Services\PenstockManager' "$1"; }
path() { value 'SYSTEM\CurrentControlSet\Control\Session Manager\Environment' PATH; }
state() { wine sc query PenstockManager 2>/dev/null | tr -d '\r' | sed -n 's/.*STATE *: //p' | xargs; }
products() {
    wine reg query 'HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall' /s 2>/dev/null | tr -d '\r' |
        grep -c 'DisplayName *REG_SZ *Penstock' || true
}
called() { # called WHAT LINES: how the stand-in was called since
    same "$1" "$2" "$(cat "$drive/penstock.log" 2>/dev/null | tr -d '\r')"
    rm -f "$drive/penstock.log"
}
whole() { # whole WHAT FOLDER: the files of the folder are installed
    same "$1" '' "$(diff -rq "$2" "$there" 2>&1)"
}
gone() {
    same "$1: no file stays" no "$([ -e "$there" ] && echo yes || echo no)"
    same "$1: no service stays" '' "$(service ImagePath)"
    same "$1: no source of events stays" '' "$(value 'SYSTEM\CurrentControlSet\Services\EventLog\Application\Penstock' TypesSupported)"
    same "$1: the path is as it was" "$path_before" "$(path | sed 's/;*$//')"
    same "$1: nothing is listed" 0 "$(products)"
}

path_before=$(path)
same 'an older Windows is refused (1603)' 67 "$(installer /i "$here/$msi")"
wine reg add 'HKLM\SOFTWARE\Microsoft\Windows NT\CurrentVersion' /v CurrentBuildNumber /d 20348 /f >/dev/null 2>&1
gone 'after it was refused'

same 'it is installed' 0 "$(installer /i "$folder/1.msi")"
called 'the driver is staged, then the service started' '1.0 penstockw.exe: driver install
1.0 penstock.exe: service manager
1.0 service started'
whole 'the files are there' "$folder/1"
same 'the service runs our program' 'C:\Program Files\Penstock\penstock.exe service manager' "$(service ImagePath | tr -d '"')"
same 'the service starts with Windows' 0x2 "$(service Start)"
same 'the service runs' '4 RUNNING' "$(state)"
same 'the source of events is our program' 'C:\Program Files\Penstock\penstock.exe' \
    "$(value 'SYSTEM\CurrentControlSet\Services\EventLog\Application\Penstock' EventMessageFile)"
same 'the program is on the path' 'C:\Program Files\Penstock\' "$(path | sed 's/.*;//')"
same 'it is listed' 1 "$(products)"

# Wine does not tell the old product that it goes for a new one, as Windows does (UPGRADINGPRODUCTCODE): told below.
same 'it is upgraded' 0 "$(installer /i "$folder/2.msi")"
called 'the old driver goes before the new one comes' '1.0 service stopped
1.0 penstockw.exe: driver remove --with-tunnels
2.0 penstockw.exe: driver install
2.0 penstock.exe: service manager
2.0 service started'
whole 'the files are the new ones' "$folder/2"
same 'one of them is listed' 1 "$(products)"
same 'an older one is refused (1603)' 67 "$(installer /i "$folder/1.msi")"
whole 'the newer one stays' "$folder/2"

echo damaged 2>/dev/null >"$there/penstock.inf" || true
same 'it is repaired' 0 "$(installer /i "$folder/2.msi" REINSTALL=ALL REINSTALLMODE=amus)"
whole 'what was damaged is whole' "$folder/2"
rm -f "$drive/penstock.log"

same 'it is removed' 0 "$(installer /x "$folder/2.msi")"
called 'driver and tunnels are removed with it' '2.0 service stopped
2.0 penstockw.exe: driver remove --with-tunnels'
gone 'after its removal'

same 'it is installed once more' 0 "$(installer /i "$folder/1.msi" PENSTOCK_START=0)"
rm -f "$drive/penstock.log"
same 'it goes for a new one' 0 "$(installer /x "$folder/1.msi" 'UPGRADINGPRODUCTCODE={00000000-0000-0000-0000-000000000001}')"
called 'tunnels are stopped then, and not removed' '1.0 penstockw.exe: driver remove --for-upgrade'
gone 'after it went'

same 'it is installed without driver and path, not started' 0 "$(installer /i "$folder/1.msi" ADDLOCAL=Program PENSTOCK_START=0)"
called 'nobody is called' ''
same 'the path is as it was without it' "$path_before" "$(path | sed 's/;*$//')"
same 'of the files it is the program' penstock.exe "$(ls "$there")"
same 'the service waits for the next start' '1 STOPPED' "$(state)"
same 'it is removed again' 0 "$(installer /x "$folder/1.msi")"
called 'no driver is removed that was not staged' ''
gone 'after its second removal'

same 'the package is installed' 0 "$(installer /i "$here/$msi" ADDLOCAL=Program,Path PENSTOCK_START=0)"
same 'the program says its version' "penstock $(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)" \
    "$(wine 'C:\Program Files\Penstock\penstock.exe' --version 2>/dev/null | tr -d '\r')"
same 'the package is removed' 0 "$(installer /x "$here/$msi")"
gone 'after the removal of the package'

touch "$drive/fail"
same 'a driver that cannot be staged is a failure (1627; on Windows 1603)' 91 "$(installer /i "$folder/1.msi")"
called 'the service is not started then, and what was staged is taken back' '1.0 penstockw.exe: driver install
1.0 penstockw.exe: driver remove --for-upgrade'
same 'a failure leaves no program but the one that Wine could not delete' penstockw.exe "$(ls "$there")"
rm -r "$there"
gone 'after it failed'

echo "$passed passed, $failed failed"
[ $failed = 0 ]
