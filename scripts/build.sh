#!/bin/bash
# Builds the driver, or the command line, for Windows x64 on Linux.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/build.sh [--debug] [--quiet] [--check | --clippy]
       scripts/build.sh --ctl [--quiet] [--tests | --check | --clippy]

Builds target/driver/penstock.sys and penstock.pdb with the unmodified crates wdk-sys and wdk,
and checks that the image is one the kernel would map.

  --ctl     instead target/ctl/penstock.exe, the command line, for x86_64-pc-windows-gnu: with the standard
            library built from its source, Debian's mingw-w64 for what is linked in, and LLVM's linker

  --tests   besides target/ctl/tests.exe, the unit tests of what it is made of
  --debug   no optimisation, debug assertions (among them: IRQL checks at run time);
            result in target/driver/debug/
  --check   only compile, as `cargo check` does, for Windows; no image
  --clippy  as --check, with Clippy, for which a warning is an error
  --quiet   print nothing but errors and the result

What is missing on this machine is named, with the Debian package; scripts/setup.sh installs it.

environment:
  PENSTOCK_LLVM    LLVM's directory          (/usr/lib/llvm-19)
  PENSTOCK_RUST    directory with cargo and rustc, the standard library's source beside them
                   (/usr/bin, or the toolchain on PATH if that has its source)
TEXT
}

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

say_what() {
    printf '%s  %s bytes  sha256 %s\n' "$1" "$(stat -c %s "$1")" "$(sha256sum <"$1" | cut -d' ' -f1)"
}

profile=driver
command=build
what=driver
tests=''
quiet=()
for argument in "$@"; do
    case $argument in
    --ctl) what=ctl ;;
    --tests) tests=yes ;;
    --debug) profile=dev ;;
    --check) command=check ;;
    --clippy) command=clippy ;;
    --quiet) quiet=(--quiet) ;;
    --help | -h)
        usage
        exit 0
        ;;
    *)
        usage >&2
        fail "unknown argument: $argument"
        ;;
    esac
done

[ "$what $profile" != 'ctl dev' ] || fail "--ctl has no debug build"
[ "$what$tests" != driveryes ] || fail "--tests is for --ctl"

cd "$(dirname "$(readlink -f "$0")")/.."
workspace=$PWD
llvm=${PENSTOCK_LLVM:-/usr/lib/llvm-19}

# The toolchain: it must have the source of the standard library, which is built for the target.
has_source() {
    local sysroot
    [ -x "$1/rustc" ] && [ -x "$1/cargo" ] && sysroot=$("$1/rustc" --print sysroot 2>/dev/null) &&
        [ -e "$sysroot/lib/rustlib/src/rust/library/core/src/lib.rs" ]
}
rust=${PENSTOCK_RUST:-}
if [ -z "$rust" ]; then
    on_path=$(dirname "$(command -v rustc || echo none/rustc)")
    for rust in /usr/bin "$on_path" ''; do
        if [ -n "$rust" ] && has_source "$rust"; then break; fi
    done
fi
if [ -z "$rust" ] || ! has_source "$rust"; then
    fail "no Rust toolchain with the standard library's source: run scripts/setup.sh" \
        "(Debian packages rustc-web, cargo-web, rust-web-src; elsewhere: rustup component add rust-src)"
fi
if [ "$command" = clippy ] && [ ! -x "$rust/cargo-clippy" ]; then
    fail "no Clippy beside $rust/rustc: run scripts/setup.sh (Debian package rust-web-clippy)"
fi
for tool in bin/clang bin/llvm-lib bin/llvm-dlltool bin/llvm-rc bin/lld-link bin/llvm-readobj 'lib/libclang[-.][1s]*'; do
    compgen -G "$llvm/$tool" >/dev/null || fail "$llvm/$tool is missing: run scripts/setup.sh" \
        "(Debian packages clang-19, libclang1-19, llvm-19, lld-19), or set PENSTOCK_LLVM"
done

# Any of these silently takes the place of flags that are set here or in .cargo/config.toml.
for variable in RUSTFLAGS CARGO_ENCODED_RUSTFLAGS CARGO_TARGET_X86_64_PC_WINDOWS_{MSVC,GNU}_RUSTFLAGS; do
    [ -z "${!variable:-}" ] || echo "build.sh: $variable is ignored" >&2
    unset "$variable"
done

export RUSTC=$rust/rustc RUSTDOC=$rust/rustdoc
# For -Zbuild-std; rustc-wrapper.sh keeps it from everything but the standard library.
export RUSTC_BOOTSTRAP=1
# Incremental builds are others: dearer by the packet.
export CARGO_INCREMENTAL=0
[ "$command" != clippy ] || export PATH=$rust:$PATH

target=x86_64-pc-windows-msvc
[ "$what" != ctl ] || target=x86_64-pc-windows-gnu
# Where things lie on this machine is nobody's business and would make builds differ. Crates are where they will be
# before their folder is asked for.
"$rust/cargo" fetch --locked "${quiet[@]}" --target "$target"
source=$("$RUSTC" --print sysroot)/lib/rustlib/src/rust
remap="'--remap-path-prefix=$workspace=penstock'"
remap+=", '--remap-path-prefix=$(readlink -f "$source")=rust', '--remap-path-prefix=$source=rust'"
for registry in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
    [ ! -d "$registry" ] || remap+=", '--remap-path-prefix=$registry=registry'"
done

if [ "$what" = ctl ]; then
    export CARGO_TARGET_DIR=$workspace/target/ctl-build PENSTOCK_LLVM=$llvm
    compgen -G '/usr/lib/gcc/x86_64-w64-mingw32/*/libgcc.a' >/dev/null ||
        fail "no mingw-w64: run scripts/setup.sh (Debian package gcc-mingw-w64-x86-64-win32)"
    # LLVM's linker: it fills in the load configuration (ctl/src/load_config.rs), and same input gives the same bytes.
    flags="'-Clinker=$llvm/bin/clang', '-Clinker-flavor=gcc', '-Cdlltool=$llvm/bin/llvm-dlltool'"
    for argument in --target=x86_64-w64-mingw32 -fuse-ld=lld --ld-path="$llvm/bin/ld.lld" -Wl,--no-insert-timestamp; do
        flags+=", '-Clink-arg=$argument'"
    done
    lints=()
    [ "$command" != clippy ] || lints=(-- -D warnings)
    built=$CARGO_TARGET_DIR/$target/tool
    options=(--locked "${quiet[@]}" --profile tool --package ctl --target "$target" -Zbuild-std=std,panic_abort
        --config "target.$target.rustflags=[$flags, $remap]")
    "$rust/cargo" "$command" "${options[@]}" --lib --bins "${lints[@]}"
    [ "$command" = build ] || exit 0
    mkdir -p target/ctl
    if [ -n "$tests" ]; then
        # The same panic strategy as the program's, so that the standard library is built once.
        "$rust/cargo" test "${options[@]}" --lib --no-run -Zpanic-abort-tests
        newest=$(ls -t "$built"/deps/ctl-*.exe | head -1)
        cp "$newest" target/ctl/tests.exe
    fi
    cp "$built/penstock.exe" target/ctl/penstock.exe.new
    mv target/ctl/penstock.exe.new target/ctl/penstock.exe
    say_what target/ctl/penstock.exe
    exit
fi

scripts/wdk/content.sh --libraries
. scripts/wdk/env.sh || exit 1
export CC_x86_64_pc_windows_msvc=$workspace/target/wdk/bin/clang-cl
export AR_x86_64_pc_windows_msvc=$workspace/scripts/wdk/llvm-lib.sh
# It has no code, and its debugging information would say where it was compiled.
export CFLAGS_x86_64_pc_windows_msvc=/clang:-g0
export PENSTOCK_LLVM=$llvm CARGO_TARGET_X86_64_PC_WINDOWS_MSVC_LINKER=$workspace/scripts/wdk/lld-link.sh
export CARGO_TARGET_DIR=$workspace/target/driver-build

# A workspace crate that the driver does not stand on does not build for Windows: name the others.
packages=(--package penstock) lints=()
if [ "$command" = clippy ]; then
    packages+=(--package abi --package crypto --package nt --package callout --package netadapter)
    lints=(-- -D warnings)
fi

"$rust/cargo" "$command" --locked "${quiet[@]}" --profile "$profile" "${packages[@]}" --lib \
    --target "$target" -Zbuild-std=core,alloc \
    --config "target.$target.rustflags=[$remap]" \
    --config 'profile.dev.package.compiler_builtins.opt-level=3' \
    "${lints[@]}"
[ "$command" = build ] || exit 0

built=$CARGO_TARGET_DIR/$target
if [ "$profile" = dev ]; then
    built=$built/debug out=target/driver/debug
else
    built=$built/$profile out=target/driver
fi
scripts/wdk/check-image.sh "$built/penstock.dll"
# The PDB has the hashes of sources, too, and some are made by the build.
scripts/wdk/check-paths.sh "$built/penstock.dll" "$built/penstock.pdb" "$built"/build/wdk-sys-*/out/*.rs
mkdir -p "$out"
# Renamed into place, so that whoever has the old one open keeps it whole.
for suffix in dll:sys pdb:pdb; do
    cp "$built/penstock.${suffix%:*}" "$out/penstock.${suffix#*:}.new"
    mv "$out/penstock.${suffix#*:}.new" "$out/penstock.${suffix#*:}"
done
say_what "$out/penstock.sys"
