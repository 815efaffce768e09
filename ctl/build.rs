//! What Windows reads of penstock.exe before it runs it: version and manifest.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// No more rights than who starts it has; UTF-8 in and out; paths of any length; made for Windows 10 and later.
///
/// Source: <https://learn.microsoft.com/windows/win32/sbscs/application-manifests>.
const MANIFEST: &str = r#"<?xml version="1.0" encoding="UTF-8" standalone="yes"?>
<assembly xmlns="urn:schemas-microsoft-com:asm.v1" manifestVersion="1.0">
  <trustInfo xmlns="urn:schemas-microsoft-com:asm.v3">
    <security><requestedPrivileges><requestedExecutionLevel level="asInvoker" uiAccess="false"/></requestedPrivileges></security>
  </trustInfo>
  <compatibility xmlns="urn:schemas-microsoft-com:compatibility.v1">
    <application><supportedOS Id="{8e0f7a12-bfb3-4fe8-b9a5-48fd50a15a9a}"/></application>
  </compatibility>
  <application xmlns="urn:schemas-microsoft-com:asm.v3">
    <windowsSettings>
      <activeCodePage xmlns="http://schemas.microsoft.com/SMI/2019/WindowsSettings">UTF-8</activeCodePage>
      <longPathAware xmlns="http://schemas.microsoft.com/SMI/2016/WindowsSettings">true</longPathAware>
    </windowsSettings>
  </application>
</assembly>
"#;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    if env::var("CARGO_CFG_TARGET_OS")? == "windows" {
        println!("cargo::rustc-link-arg-bins={}", resources()?.display());
    }
    Ok(())
}

/// Compiles version and manifest.
///
/// Source: <https://learn.microsoft.com/windows/win32/menurc/versioninfo-resource>.
fn resources() -> Result<PathBuf, Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=PENSTOCK_LLVM");
    let version = env::var("CARGO_PKG_VERSION")?;
    let numbers = format!("{},0", version.replace('.', ","));
    let text = format!(
        r#"1 24 "penstock.manifest"
1 VERSIONINFO
FILEVERSION {numbers}
PRODUCTVERSION {numbers}
FILEFLAGSMASK 0x3f
FILEOS 0x40004
FILETYPE 1
BEGIN
  BLOCK "StringFileInfo"
  BEGIN
    BLOCK "040904b0"
    BEGIN
      VALUE "CompanyName", "Penstock"
      VALUE "FileDescription", "Penstock VPN tunnels"
      VALUE "FileVersion", "{version}"
      VALUE "InternalName", "penstock.exe"
      VALUE "LegalCopyright", "{license}"
      VALUE "OriginalFilename", "penstock.exe"
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
    fs::write(directory.join("penstock.manifest"), MANIFEST)?;
    fs::write(directory.join("penstock.rc"), text)?;
    let llvm = env::var("PENSTOCK_LLVM").unwrap_or_else(|_| "/usr/lib/llvm-19".into());
    let compiler = Path::new(&llvm).join("bin/llvm-rc");
    // Names without a folder: the compiler takes a path that begins like one of its options for that option.
    let ended = Command::new(&compiler)
        .current_dir(&directory)
        .args(["/no-preprocess", "/FO", "penstock.res", "penstock.rc"])
        .status()
        .map_err(|error| format!("{}: {error}", compiler.display()))?;
    if !ended.success() {
        return Err(format!("{} failed", compiler.display()).into());
    }
    Ok(directory.join("penstock.res"))
}
