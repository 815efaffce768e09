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
  unit      unit, property and documentation tests of every crate but the simulator; layouts against the WDK's numbers
  loom      model checking of what is lock-free; longer histories of the pipeline, drawn by shuttle
  ctl       penstock.exe is built, and does under Wine what it does here
  driver    penstock.sys is built, and its file is what Windows will load
  package   the package is made and signed for testing, a change of any file of it is found, and its MSI is installed,
            upgraded and removed under Wine
  sim       the simulator's own tests, and penstock.sys in it: every scenario of sim/tests
  interop   penstock.sys beside wireguard-go, boringtun, gotatun and Linux's own, penstock beside wg (root and /dev/net/tun)
TEXT
}
# Those of a row run at once: none of them keeps every CPU busy from beginning to end.
rows=(rules fmt 'lint ctl driver' 'unit loom' 'package sim interop')
case "${1:-}" in
-h | --help) usage; exit 0 ;;
esac
[ $# -eq 0 ] || rows=("$@")
for part in "$@"; do
    case $part in
    rules | fmt | lint | unit | loom | ctl | driver | package | sim | interop) ;;
    *) echo "test.sh: no part named '$part'; scripts/test.sh --help lists them" >&2; exit 2 ;;
    esac
done

scripts/setup.sh
# CI builds everything once: what would make a second time quicker only costs time there.
[ -z "${CI:-}" ] || export CARGO_INCREMENTAL=0
# Both compilers are tried once, and what an earlier one made is removed: not while parts that run at once build.
for compiler in rustc "${PENSTOCK_RUST:-/usr/bin}/rustc"; do
    (RUSTC=$compiler && . scripts/wdk/env.sh)
done
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
# perform PART: what it prints goes to a file; how it ended, and after how many seconds, to another.
perform() {
    local start=$SECONDS status=0
    case $1 in
    rules) scripts/rules.sh ;;
    fmt) cargo fmt --all --check ;;
    lint) scripts/lint.sh ;;
    unit) unit ;;
    loom) model_checks ;;
    ctl) command_line ;;
    driver) scripts/build.sh ;;
    package) scripts/package-test.sh && scripts/installer-test.sh ;;
    sim) scenarios ;;
    interop) beside_others ;;
    esac >"$log/$1" 2>&1 || status=$?
    # Of the CPU: what every process below this one took that has ended.
    times >"$log/$1.times"
    local cpu
    cpu=$(awk 'NR == 2 { split($1 "m" $2, of, /[ms]+/); printf "%d", of[1] * 60 + of[2] + of[3] * 60 + of[4] }' "$log/$1.times")
    echo "$status $((SECONDS - start)) $cpu" >"$log/$1.ended"
}
# tell PART: how it ended; what it printed only if it failed.
tell() {
    local status seconds cpu
    read -r status seconds cpu <"$log/$1.ended"
    count "$log/$1"
    if [ "$status" = 0 ]; then
        { grep -E '^(SKIPPED|rules ok)' "$log/$1" || true; }
        printf '%-8s ok    %4d s, %d of CPU\n' "$1" "$seconds" "$cpu"
    else
        cat "$log/$1"
        [ "$failed" -gt 0 ] || failed=1
        printf '%-8s FAILED %3d s\n' "$1" "$seconds"
    fi
}
finish() {
    echo "$passed passed, $failed failed, $skipped skipped"
    exit "$1"
}
unit() {
    # What plain `cargo test` runs but for the simulator, whose tests are built once, for the driver; the protocol beside other
    # implementations, and the pure parts of the crates that stand on NT.
    cargo test --quiet --locked -p abi -p crypto -p ctl -p inf -p declarations &&
        cargo test --quiet --locked --manifest-path crypto/others/Cargo.toml --target-dir "${CARGO_TARGET_DIR:-target}" &&
        cargo test --quiet --locked -p callout --no-default-features &&
        (. scripts/wdk/env.sh && cargo test --quiet --locked -p nt -p netadapter -p callout --lib)
}
model_checks() {
    local run=(cargo test --quiet --locked --release --lib)
    "${run[@]}" -p crypto --features loom loom &&
        "${run[@]}" -p crypto --features shuttle shuttle &&
        (. scripts/wdk/env.sh && "${run[@]}" -p nt --features loom loom)
}
command_line() {
    scripts/build.sh --ctl --tests --quiet && cargo test --quiet --locked -p ctl --features wine --test under_wine
}
beside_others() {
    scripts/interop.sh || return
    # The command line beside `wg`, where there is what interop.sh needs, too.
    if (. scripts/namespaces.sh && can_make_namespaces) >/dev/null; then
        cargo test --quiet --locked -p ctl --features driver --test beside_wg --test hostile_requests --test brought_up \
            --test traced --test recorded --test dumped
    fi
}
scenarios() {
    local -x CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$PWD/scripts/spread.sh
    # What runs beside it has clocks of its own, and comes first.
    local run=(nice cargo test --quiet --locked --release -p sim --features driver)
    "${run[@]}" || return
    # The same by the other ways packets can take, injected, and by sockets alone with several as one, but for those that
    # choose their ways.
    local policy file skip=()
    for file in callouts filter_engine filter_clash both_paths injection neighbour clones loopback shapes firewall \
        nic_buffers held faults refusals clocks flood life_cycle policy policy_change allocations zero_copy outer_offloads debugger small_dumps recipes; do
        skip+=(--skip "$file::")
    done
    for policy in SendEngine=1 FastPath=0,OuterSegmentation=1,OuterCoalescing=1; do
        echo "scenarios with $policy"
        PENSTOCK_POLICY=$policy "${run[@]}" --test scenarios -- "${skip[@]}" || return
    done
}

for row in "${rows[@]}"; do
    for part in $row; do
        perform "$part" &
    done
    wait
    for part in $row; do
        tell "$part"
    done
    [ "$failed" = 0 ] || finish 1
done
finish 0
