//! Link arguments of penstock.sys.
//!
//! `wdk-build` gives the driver model's own; here are those it leaves out. Nothing is linked when
//! the driver is only checked for another target, so there is nothing to say then.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS")? != "windows" {
        return Ok(());
    }
    for argument in [
        // Fills in the image checksum, which the kernel verifies.
        "/RELEASE",
        // Same input, same bytes: no time stamps, and no directory names in the image.
        "/Brepro",
        "/PDBALTPATH:penstock.pdb",
        // What nt/src/sys declares beyond the kernel's own routines.
        "netio.lib",
        "ndis.lib",
        "fwpkclnt.lib",
        "cng.lib",
    ] {
        println!("cargo::rustc-cdylib-link-arg={argument}");
    }
    println!("cargo::rustc-cdylib-link-arg={}", version_resource()?.display());
    wdk_build::configure_wdk_binary_build()?;
    Ok(())
}

/// Compiles what Explorer, `Get-Item` and crash dumps show of the file.
///
/// Source: <https://learn.microsoft.com/windows/win32/menurc/versioninfo-resource>.
fn version_resource() -> Result<PathBuf, Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=PENSTOCK_LLVM");
    let version = env::var("CARGO_PKG_VERSION")?;
    let numbers = format!("{},0", version.replace('.', ","));
    let text = format!(
        r#"1 VERSIONINFO
FILEVERSION {numbers}
PRODUCTVERSION {numbers}
FILEFLAGSMASK 0x3f
FILEOS 0x40004
FILETYPE 3
FILESUBTYPE 6
BEGIN
  BLOCK "StringFileInfo"
  BEGIN
    BLOCK "040904b0"
    BEGIN
      VALUE "CompanyName", "Penstock"
      VALUE "FileDescription", "Penstock VPN adapter"
      VALUE "FileVersion", "{version}"
      VALUE "InternalName", "penstock.sys"
      VALUE "LegalCopyright", "{license}"
      VALUE "OriginalFilename", "penstock.sys"
      VALUE "ProductName", "Penstock"
      VALUE "ProductVersion", "{version}"
    END
  END
  BLOCK "VarFileInfo"
  BEGIN
    VALUE "Translation", 0x409, 1200
  END
END
"#,
        license = env::var("CARGO_PKG_LICENSE")?,
    );
    let directory = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(directory.join("version.rc"), text)?;
    let llvm = env::var("PENSTOCK_LLVM").unwrap_or_else(|_| "/usr/lib/llvm-19".into());
    let compiler = Path::new(&llvm).join("bin/llvm-rc");
    // Names without a folder: the compiler takes a path that begins like one of its options, as
    // `/check/out` does like `/c`, for that option.
    let ended = Command::new(&compiler)
        .current_dir(&directory)
        .args(["/no-preprocess", "/FO", "version.res", "version.rc"])
        .status()
        .map_err(|error| format!("{}: {error}", compiler.display()))?;
    if !ended.success() {
        return Err(format!("{} failed", compiler.display()).into());
    }
    Ok(directory.join("version.res"))
}
