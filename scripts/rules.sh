#!/usr/bin/env bash
# The small rules a compiler does not check. Prints each breach and fails if there was one.
# Usage: scripts/rules.sh
set -euo pipefail
cd "$(dirname "$0")/.."

# At the end of a pipe a function runs in a process of its own, so breaches are counted in a file.
broken=$(mktemp)
trap 'rm -f "$broken"' EXIT
rule() { # rule NAME: reads the breaches from standard input
    local found
    found=$(cat)
    [ -n "$found" ] || return 0
    printf '%s\n' "rule broken: $1" "$found" | sed '2,$s/^/    /'
    echo "$1" >>"$broken"
}
sources() { git ls-files -- '*.rs'; }

sources | { grep -E '(^|/)(utils?|helpers?|common|types|misc|manager)\.rs$' || true; } |
    rule 'a file is named for its subject'

sources | while read -r file; do
    head -3 "$file" | grep -q '^//!' || echo "$file"
done | rule 'a file opens with what it is (//!)'

sources | { grep -vE '(^|/)(tests|benches|fuzz)/|tests\.rs$' || true; } | while read -r file; do
    lines=$(awk '/^#\[cfg\((all\()?test/ { exit } END { print NR }' "$file")
    [ "$lines" -le 600 ] || echo "$file: $lines lines before its tests"
done | rule 'a file fits in one reading (600 lines)'

# style.md 3. nt and sim are made of unsafe code; the others say where theirs is.
{ git grep -lE '\bunsafe\b' -- 'abi/*.rs' 'crypto/src/*.rs' 'callout/*.rs' 'netadapter/*.rs' 'src/*.rs' 'ctl/*.rs' || true; } |
    { grep -vE '^(crypto/src/aead/|crypto/src/sync(\.rs|/)|crypto/src/pipeline/chunk\.rs$|(callout|netadapter)/src/|src/(lib|shown)\.rs|ctl/src/(windows/|load_config\.rs$))|tests\.rs$' || true; } |
    rule 'unsafe code has an address'

{ git grep -nE '\bnow\(\)|KeQuery|BCryptGen|rand::' -- 'crypto/src/*.rs' || true; } |
    { grep -vE '/tests?(/|\.rs)|tests\.rs' || true; } |
    rule 'the protocol reads no clock and makes no randomness'

{ git grep -nE 'core::sync::atomic' -- 'crypto/src/*.rs' ':!crypto/src/sync.rs' ':!crypto/src/sync/*' || true; } |
    rule 'atomics of crypto come from crate::sync'

{ git grep -nE 'KeAcquireSpinLock|KeReleaseSpinLock' -- '*.rs' ':!nt/*' ':!sim/*' || true; } |
    rule 'spin locks are taken through nt::spin_lock'

# A comparison that stops at the first difference says how far it came. Public are: what a flow is filed under.
{ git grep -nE '\b(mac1|mac2|tag|cookie|secret|private(_key)?|preshared(_key)?|chaining_key|shared)\b[^=,;&|({]*[^=!<>](==|!=)[^=]|(==|!=) *(Some\()?[*&]?([a-z_0-9]+\.)*(mac1|mac2|tag|cookie|secret|private(_key)?|preshared(_key)?|chaining_key|shared)\b' \
    -- 'crypto/src/*.rs' 'src/*.rs' 'abi/src/*.rs' 'ctl/src/*.rs' || true; } | { grep -vE '/tests?(/|\.rs)|tests\.rs' || true; } |
    rule 'keys and MACs are compared in constant time'

# never_printed! (crypto/src/lib.rs) has the compiler refuse Debug and Display; nothing here is to know of serde.
{ git grep -nE 'derive\([^)]*(Serialize|Deserialize)' -- 'crypto/src/*.rs' 'src/*.rs' 'abi/src/*.rs' 'nt/*.rs' 'ctl/src/*.rs' || true; } |
    rule 'nothing that may hold a key is serialised'

# The same for who is told keys as plain bytes, which the simulator is; those that say nothing may be printed.
git ls-files -- '*.rs' | { grep -vE '(^|/)tests?(/|\.rs)|tests\.rs|/fuzz/' || true; } | while read -r file; do
    awk -v file="$file" '
        /derive\(.*Debug/ { printed = NR }
        /^[^a-z]*(pub(\([a-z]+\))? )?(struct|enum) / { if (NR - printed > 4) printed = 0; type = $0 }
        /^}/ { printed = 0 }
        printed && /(preshared|private)_key: [^S]*\[u8; 32\]/ { print file ":" FNR ":" $0 " in " type }' "$file"
done | rule 'who holds keys is not printed'

# The value is made whatever the condition says, and dropped again: for a guard that is one release too many.
dropped=$(git grep -hoE 'Drop for [A-Z][A-Za-z]*' -- nt callout netadapter src | sed 's/Drop for //' | sort -u | paste -sd'|')
for file in $(git ls-files -- 'nt/*.rs' 'callout/*.rs' 'netadapter/*.rs' 'src/*.rs'); do
    awk -v file="$file" -v dropped="^($dropped)$" '
        /^impl/ { type = $0; sub(/ *\{?$/, "", type); sub(/.* for /, "", type); sub(/^impl(<[^>]*>)? */, "", type); sub(/[<: ].*/, "", type) }
        match($0, /then_some\([A-Z][A-Za-z]* ?[({]/) {
            made = substr($0, RSTART + 10, RLENGTH - 10); sub(/ ?[({]$/, "", made)
            if (made == "Self") made = type
            if (made ~ dropped) print file ":" FNR ":" $0
        }' "$file"
done | rule 'a value that does something when it is dropped is made by then, not by then_some'

# Payload is copied in `copied` and `gather`, which are counted, and by the AEAD, whose count has a test. The others: a
# front that is looked at, headers, addresses, what an answer quotes, what a capture is given.
{ git grep -nE '(copy|clone)_from_slice|copy(_to|_from)?_nonoverlapping|ptr::copy|copy_within|extend_from_slice|to_vec\(|\.copy_to\(' \
    -- 'src/datapath/*.rs' 'callout/src/*.rs' 'netadapter/src/*.rs' ':!*tests.rs' || true; } | {
    grep -vE '^(callout/src/(classify|endpoint|udp)|netadapter/src/steering)\.rs|copy_from_slice\(&made\)|copy_to\((0, )?&mut head(er)?\)|copied(_segment)?\(.*counters\)|^src/datapath/length\.rs:.*copy_to\(.*(payload|to)\)|^src/datapath/(packet|tapped)\.rs:.*_as_many = .*copy_to\(' || true
} | {
    grep -vE '^(netadapter/src/tx_packet\.rs:.* piece\.address\.as_ptr\(\)\.|src/datapath/receive\.rs:.* place\.)copy_' || true
} | rule 'a copy of payload is counted'

{ git grep -nE '\b(todo|unimplemented)!\(' -- '*.rs' || true; } | rule 'nothing pretends to be done'

for edge in 'crypto nt' 'callout netadapter' 'netadapter callout' 'callout crypto' 'netadapter crypto' 'nt crypto' 'sim nt' 'sim crypto' \
    'ctl nt' 'ctl crypto' 'ctl sim' 'sim ctl' 'inf nt' 'inf crypto' 'inf sim' 'inf ctl'; do
    read -r from to <<<"$edge"
    cargo tree --quiet --locked -p "$from" -e normal --prefix none |
        { grep -E "^$to v" || true; } | sed "s/^/$from depends on /"
done | rule 'arrows point one way'

# Each rule of the protocol is in docs/conformance.md, and cited where it is met and where it is tested.
scripts/conformance.py | rule 'a requirement is listed, and cited where it is met and where it is tested'

git log --format=%s | { grep -vE '^(crypto|callout|netadapter|nt|sim|src|abi|ctl|inf|scripts|docs|build): .{1,64}' || true; } |
    rule 'a commit names its layer'

[ ! -s "$broken" ] || { echo "rules: $(wc -l <"$broken") broken" >&2; exit 1; }
echo "rules ok, $(scripts/conformance.py --open)"
