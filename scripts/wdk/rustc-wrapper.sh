#!/bin/sh
# Lets the unmodified `wdk-build` compile on a build host that is not Windows.
#
# Cargo runs this as: rustc-wrapper.sh <rustc> <arguments...>
#
# Only what three names mean is changed, for code that runs on the build host, and a path:
#   windows     becomes shims/windows.rs, whose registry is empty (the real crate is itself
#               empty off Windows); the crates it is made of become shims/empty.rs.
#   wdk_build   is told `target_os = "windows"`, and sees a `std` that has
#               `std::os::windows::fs::symlink_file` (shims/std.rs).
#   wdk_sys     has, in a source that its build script makes, the path of another: it is written anew without the
#               workspace's, from which rustc is run, because the debugging information has the source's hash.
# Every other crate, and every other crate for the Windows target, is compiled exactly as Cargo asked.
#
# That `--extern std=` takes the place of the standard library is no documented promise of the
# compiler, so scripts/wdk/env.sh tries it (probe.sh) before anything is built.
#
# RUSTC_BOOTSTRAP is there for Cargo, which needs it for -Zbuild-std. It is kept from everything
# that is not the standard library's source or handed it by an unstable option of Cargo's: build
# scripts and the features they probe for must see the stable compiler that this is.
set -eu
shims=$(dirname "$(readlink -f "$0")")/shims
workspace=${shims%/scripts/wdk/shims}
rustc=$1

crate='' out_dir='' target='' source='' unstable='' previous=''
for argument in "$@"; do
    case $previous in
    --crate-name) crate=$argument ;;
    --out-dir) out_dir=$argument ;;
    --target) target=$argument ;;
    esac
    case $argument in
    *.rs) source=$argument ;;
    -Z*) unstable=yes ;;
    esac
    previous=$argument
done

# `___` is Cargo asking the compiler about itself; the rest is the standard library's own source.
case $crate:$unstable:$source in
___:* | *:yes:* | *:*/lib/rustlib/src/* | *:*/rustc-*/library/*) ;;
*) unset RUSTC_BOOTSTRAP ;;
esac

stand_in=''
case $crate${target:+ for another machine} in
windows) stand_in=$shims/windows.rs ;;
windows_collections | windows_future | windows_numerics) stand_in=$shims/empty.rs ;;
wdk_build)
    std=$out_dir/libstd_for_wdk_build.rlib
    "$rustc" --edition 2024 --crate-name std_for_wdk_build --crate-type rlib -O \
        -o "$std" "$shims/std.rs"
    set -- "$@" --cfg 'target_os="windows"' -A explicit_builtin_cfgs_in_flags --extern "std=$std"
    ;;
esac

bindings=${OUT_DIR:-}/call_unsafe_wdf_function_binding.rs
if [ "$crate" = wdk_sys ] && grep -qsF "r\"$workspace/" "$bindings"; then
    # Of its own name: Cargo may compile the crate twice at once, for code that is run and for code that is only checked.
    sed "s|r\"$workspace/|r\"|" "$bindings" >"$bindings.$$"
    mv "$bindings.$$" "$bindings"
fi
# wdk is no crate of the workspace, and run from its own folder; what it expands has that path.
[ "$crate" != wdk ] || cd "$workspace"

if [ -n "$stand_in" ]; then
    for argument in "$@"; do
        shift
        case $argument in
        */windows*/src/lib.rs) argument=$stand_in ;;
        esac
        set -- "$@" "$argument"
    done
fi
exec "$@"
