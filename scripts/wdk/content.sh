#!/bin/sh
# Makes the content root that `wdk-build` looks for (target/wdk): our headers, and libraries made from lib/.
set -eu
here=$(dirname "$(readlink -f "$0")")
root=${here%/scripts/wdk}/target/wdk
mkdir -p "$root/Lib/10.0.26100.0/km/x64" "$root/Lib/wdf/kmdf/x64/1.31"
ln -sfn ../../scripts/wdk/include "$root/Include"
