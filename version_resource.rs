//! What Explorer, `Get-Item` and crash dumps show of a file: compiled by the build scripts of those that are linked for Windows.
//!
//! Source: <https://learn.microsoft.com/windows/win32/menurc/versioninfo-resource>.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// Compiles the version of `file`, whose `kind` is a FILETYPE and what belongs to it; `others` are resources besides, what they name
/// being in OUT_DIR.
pub(crate) fn compile(
    file: &str,
    kind: &str,
    description: &str,
    others: &str,
) -> Result<PathBuf, Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=PENSTOCK_LLVM");
    let version = env::var("CARGO_PKG_VERSION")?;
    let numbers = format!("{},0", version.replace('.', ","));
    let text = format!(
        r#"{others}1 VERSIONINFO
FILEVERSION {numbers}
PRODUCTVERSION {numbers}
FILEFLAGSMASK 0x3f
FILEOS 0x40004
{kind}
BEGIN
  BLOCK "StringFileInfo"
  BEGIN
    BLOCK "040904b0"
    BEGIN
      VALUE "CompanyName", "Penstock"
      VALUE "FileDescription", "{description}"
      VALUE "FileVersion", "{version}"
      VALUE "InternalName", "{file}"
      VALUE "LegalCopyright", "{license}"
      VALUE "OriginalFilename", "{file}"
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
