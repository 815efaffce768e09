#!/usr/bin/env bash
# Which lines of crypto its own tests run: unit and property tests, crypto/tests, the corpora.
set -euo pipefail
cd "$(dirname "$0")/.."

usage() {
    cat <<'TEXT'
usage: scripts/coverage.sh [--missed] [--at-least PERCENT]

Prints lines that were run, of those there are, for each file of crypto/src, and of protocol/ and all of it together. Tests
that stand in a file are left out, and so are lines of nothing but a brace.

  --missed            the lines, too, that no test ran
  --at-least PERCENT  fails if less of protocol/ was run

Needs `cargo install cargo-llvm-cov` and `rustup component add llvm-tools`. Takes minutes when cold; CI does not run it.
TEXT
}
missed=0 least=0
while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage; exit 0 ;;
    --missed) missed=1 ;;
    --at-least) least=${2:?PERCENT}; shift ;;
    *) echo "coverage.sh: what is '$1'? scripts/coverage.sh --help tells" >&2; exit 2 ;;
    esac
    shift
done
cargo llvm-cov --version >/dev/null 2>&1 || { echo "coverage.sh: cargo install cargo-llvm-cov" >&2; exit 1; }

report=$(mktemp)
trap 'rm -f "$report"' EXIT
cargo llvm-cov --quiet --locked --package crypto --lcov --output-path "$report" >/dev/null
python3 - "$report" "$missed" "$least" <<'PYTHON'
import re
import sys

report, missed, least = sys.argv[1], sys.argv[2] == "1", float(sys.argv[3])
files = {}
for line in open(report):
    kind, _, rest = line.strip().partition(":")
    if kind == "SF":
        lines = files.setdefault(rest, {})
    elif kind == "DA":
        number, count = map(int, rest.split(",")[:2])
        lines[number] = lines.get(number, 0) + count
totals = {"protocol": [0, 0], "crypto": [0, 0]}
for path, lines in sorted(files.items()):
    name = path.partition("/crypto/src/")[2]
    if not name or "tests" in name:
        continue
    source = open(path).read().split("\n")
    tests = re.compile(r"#\[cfg\((all\()?test")
    ours = next((at for at, text in enumerate(source) if tests.match(text) and "mod " in source[at + 1]), len(source))
    code = {at: run for at, run in lines.items() if at <= ours and source[at - 1].strip(" ;,)}")}
    left = sorted(at for at, run in code.items() if not run)
    if not code:
        continue
    for group, total in totals.items():
        if group == "crypto" or name.startswith(group):
            total[0] += len(code) - len(left)
            total[1] += len(code)
    print(f"{100 - 100 * len(left) / len(code):6.1f} % {len(code) - len(left):5} of {len(code):5}  {name}")
    if missed:
        for at in left:
            print(f"{at:>26}  {source[at - 1]}")
for group, (run, there) in totals.items():
    print(f"{100 * run / there:6.1f} % {run:5} of {there:5}  all of {group}")
if 100 * totals["protocol"][0] / totals["protocol"][1] < least:
    sys.exit(f"coverage.sh: less than {least} % of protocol/")
PYTHON
