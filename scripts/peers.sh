#!/usr/bin/env bash
# Installs boringtun-cli and gotatun-cli, other implementations to test and measure against, below a folder, unless they are there.
# usage: scripts/peers.sh FOLDER
set -euo pipefail
folder=$1
for peer in boringtun-cli:boringtun-cli gotatun-cli:gotatun; do
    [ -x "$folder/bin/${peer#*:}" ] && continue
    echo "installing ${peer%:*}, a peer"
    CARGO_TARGET_DIR=$folder/build cargo install --quiet --locked --root "$folder" "${peer%:*}"
done
