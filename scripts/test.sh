#!/usr/bin/env bash
# Says whether Penstock is right: formats, lints, tests, builds penstock.sys, runs it in the simulator and against
# other implementations, and checks the small rules. Everything by default, or the parts named.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
usage: scripts/test.sh [PART...]

parts, in the order they run:
  rules     names, sizes, addresses of unsafe code, direction of dependencies, commit subjects
  fmt       rustfmt
  lint      clippy, for this host and for Windows
  unit      unit, property and documentation tests of every crate; layouts against the WDK's numbers
  loom      model checking of what is lock-free; longer histories of the pipeline, drawn by shuttle
  ctl       penstock.exe is built, and does under Wine what it does here
  driver    penstock.sys is built, and its file is what Windows will load
  package   the driver package is made and signed for testing, and a change of any file of it is found
  sim       penstock.sys in the simulator: every scenario of sim/tests
  interop   penstock.sys beside wireguard-go, boringtun, gotatun and Linux's own, penstock beside wg (root and /dev/net/tun)
TEXT
}
parts=(rules fmt lint unit loom ctl driver package sim interop)
case "${1:-}" in
-h | --help) usage; exit 0 ;;
esac
[ $# -eq 0 ] || parts=("$@")
for part in "${parts[@]}"; do
    case $part in
    rules | fmt | lint | unit | loom | ctl | driver | package | sim | interop) ;;
    *) echo "test.sh: no part named '$part'; scripts/test.sh --help lists them" >&2; exit 2 ;;
    esac
done

scripts/setup.sh
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
passed=0 failed=0 skipped=0

# count FILE: adds the result lines of cargo test, and of our own scripts, to the totals.
count() {
    read -r p f s < <(awk '
        /^test result:/ { p += $4; f += $6; s += $8 }
        /^[0-9]+ passed, [0-9]+ failed/ { p += $1; f += $3; s += $5 }
        END { print p + 0, f + 0, s + 0 }' "$1")
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}
# run PART COMMAND...: shows the output only of what fails.
run() {
    local part=$1 start=$SECONDS
    shift
    if "$@" >"$log/$part" 2>&1; then
        count "$log/$part"
        { grep -E '^(SKIPPED|rules ok)' "$log/$part" || true; }
        printf '%-8s ok    %4d s\n' "$part" $((SECONDS - start))
    else
        count "$log/$part"
        cat "$log/$part"
        [ "$failed" -gt 0 ] || failed=1
        printf '%-8s FAILED %3d s\n' "$part" $((SECONDS - start))
        finish 1
    fi
}
finish() {
    echo "$passed passed, $failed failed, $skipped skipped"
    exit "$1"
}
unit() {
    # What plain `cargo test` runs, the protocol beside other implementations, and the pure parts of the crates that stand on NT.
    cargo test --quiet --locked &&
        cargo test --quiet --locked --manifest-path crypto/others/Cargo.toml --target-dir "${CARGO_TARGET_DIR:-target}" &&
        cargo test --quiet --locked -p callout --no-default-features &&
        (. scripts/wdk/env.sh && cargo test --quiet --locked -p nt -p netadapter -p callout --lib)
}
model_checks() {
    RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR=target/loom cargo test --quiet --locked -p crypto --release --lib loom &&
        RUSTFLAGS='--cfg shuttle' CARGO_TARGET_DIR=target/shuttle \
            cargo test --quiet --locked -p crypto --release --lib shuttle &&
        (. scripts/wdk/env.sh &&
            RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR=target/loom cargo test --quiet --locked -p nt --release --lib loom)
}
command_line() {
    scripts/build.sh --ctl --tests --quiet && cargo test --quiet --locked -p ctl --features wine --test under_wine
}
beside_others() {
    scripts/interop.sh || return
    # The command line beside `wg`, where there is what interop.sh needs, too.
    if (. scripts/namespaces.sh && can_make_namespaces) >/dev/null; then
        cargo test --quiet --locked -p ctl --features driver --test beside_wg
    fi
}
scenarios() {
    local run=(cargo test --quiet --locked --release -p sim --features driver)
    "${run[@]}" --test '*' || return
    # The same by the other ways packets can take, injected, by sockets alone and several as one, but for those that choose
    # their ways.
    local policy file skip=()
    for file in callouts filter_engine filter_clash both_paths injection neighbour clones loopback shapes firewall \
        nic_buffers held faults refusals clocks flood life_cycle policy policy_change allocations zero_copy outer_offloads; do
        skip+=(--skip "$file::")
    done
    for policy in SendEngine=1 FastPath=0 FastPath=0,OuterSegmentation=1,OuterCoalescing=1; do
        echo "scenarios with $policy"
        PENSTOCK_POLICY=$policy "${run[@]}" --test scenarios -- "${skip[@]}" || return
    done
}

for part in "${parts[@]}"; do
    case $part in
    rules) run rules scripts/rules.sh ;;
    fmt) run fmt cargo fmt --all --check ;;
    lint) run lint scripts/lint.sh ;;
    unit) run unit unit ;;
    loom) run loom model_checks ;;
    ctl) run ctl command_line ;;
    driver) run driver scripts/build.sh ;;
    package) run package scripts/package-test.sh ;;
    sim) run sim scenarios ;;
    interop) run interop beside_others ;;
    esac
done
finish 0
