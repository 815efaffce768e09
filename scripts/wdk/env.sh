# Source this before running Cargo on a build host that is not Windows:
#
#     . scripts/wdk/env.sh && cargo check -p nt
#
# It sets what is particular to the host, so that nothing of it is in a manifest, the lockfile or
# Cargo's configuration. Works in bash from anywhere, in any other shell from the workspace root.
# Quiet and quick when there is nothing to do; returns non-zero, and says why, when something is missing.

if [ -n "${BASH_SOURCE:-}" ]; then
    penstock_wdk=$(dirname "$(readlink -f "$BASH_SOURCE")")
else
    penstock_wdk=$PWD/scripts/wdk
fi
if [ ! -e "$penstock_wdk/rustc-wrapper.sh" ]; then
    echo "env.sh: source me from the workspace root (or from bash)" >&2
    return 1
fi

"$penstock_wdk/content.sh" || return 1
# wdk-macros never looks again at a header it has read.
find "${CARGO_TARGET_DIR:-${penstock_wdk%/scripts/wdk}/target}" -maxdepth 9 \
    -name cached_function_info_map.json \
    ! -newer "$penstock_wdk/include/wdf/kmdf/1.31/wdfcalls.h" -delete 2>/dev/null || true
export WDKContentRoot="${penstock_wdk%/scripts/wdk}/target/wdk"
export Version_Number=10.0.26100.0
export RUSTC_WRAPPER="$penstock_wdk/rustc-wrapper.sh"
export LIBCLANG_PATH="${PENSTOCK_LLVM:-/usr/lib/llvm-19}/lib"
"$penstock_wdk/probe.sh" "${RUSTC:-rustc}" || return 1
