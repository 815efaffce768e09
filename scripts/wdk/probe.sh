#!/bin/sh
# Tries what rustc-wrapper.sh leans on, and refuses a compiler on which it does not work.
#
# usage: probe.sh RUSTC
#
# The compiler makes no promise that `--extern std=` takes the place of the standard library, nor
# that `--cfg target_os=` may be given; a later one may stop. The answer is kept in target/wdk, per
# compiler and wrapper, so that this takes milliseconds but for the first time.
set -eu
here=$(dirname "$(readlink -f "$0")")
rustc=$1
root=${here%/scripts/wdk}/target/wdk

if ! version=$("$rustc" --version --verbose 2>&1); then
    echo "penstock: no Rust compiler: $version" >&2
    echo "penstock: run scripts/setup.sh, or see https://rustup.rs" >&2
    exit 1
fi
answer=$root/probed-$(cat "$here/rustc-wrapper.sh" "$here"/shims/*.rs - <<T | sha256sum | cut -c1-32
$version
T
)
[ ! -e "$answer" ] || exit 0

mkdir -p "$root"
work=$(mktemp -d "$root/probing.XXXXXX")
trap 'rm -rf "$work"' EXIT
cat >"$work/lib.rs" <<'T'
#[cfg(not(target_os = "windows"))]
compile_error!("the wrapper's --cfg has no effect");
pub use std::os::windows::fs::symlink_file;
pub fn size() -> usize { std::vec::Vec::<u8>::new().len() }
T
if ! said=$("$here/rustc-wrapper.sh" "$rustc" --crate-name wdk_build --crate-type rlib \
    --edition 2024 --emit metadata --out-dir "$work" "$work/lib.rs" 2>&1); then
    echo "$said" >&2
    cat >&2 <<T
penstock: $(echo "$version" | head -n 1) does not let us compile wdk-build for this host (above).
penstock: use Rust 1.95 or 1.96 (scripts/setup.sh installs it), or see "When the wrapper fails" in
penstock: scripts/wdk/README.md
T
    exit 1
fi

# Cargo does not know what the wrapper put in place of these crates: have it compile them again.
if [ -n "$(find "$root" -maxdepth 1 -name 'probed-*' -print -quit)" ]; then
    find "${CARGO_TARGET_DIR:-$root/..}" -maxdepth 6 -type d \
        \( -path '*/.fingerprint/windows-*' -o -path '*/.fingerprint/wdk-build-*' \) \
        -exec rm -rf {} + 2>/dev/null || true
fi
: >"$answer"
