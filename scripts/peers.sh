#!/usr/bin/env bash
# Installs boringtun-cli and gotatun-cli, other implementations to test and measure against, and etl-parser and dissect.etl, other
# readers of log files, below a folder, unless they are there.
# usage: scripts/peers.sh FOLDER
set -euo pipefail
folder=$1
for peer in boringtun-cli:boringtun-cli gotatun-cli:gotatun; do
    [ -x "$folder/bin/${peer#*:}" ] && continue
    echo "installing ${peer%:*}, a peer"
    CARGO_TARGET_DIR=$folder/build cargo install --quiet --locked --root "$folder" "${peer%:*}"
done
[ -d "$folder/python/dissect" ] || python3 -m pip install --quiet --disable-pip-version-check --target "$folder/python" \
    etl-parser==1.0.1 construct==2.10.70 dissect.etl==3.14
