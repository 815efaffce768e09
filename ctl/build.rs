//! What Windows reads of penstock.exe: version and manifest before it runs it, messages when the event log is looked at.

use std::error::Error;
use std::path::Path;
use std::{env, fs};

/// The services' events; of which only the messages are wanted here.
#[path = "src/service/events.rs"]
#[allow(dead_code, unreachable_pub)]
mod events;
#[path = "../version_resource.rs"]
mod version_resource;

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
    println!("cargo::rerun-if-changed=../version_resource.rs");
    println!("cargo::rerun-if-changed=src/service/events.rs");
    if env::var("CARGO_CFG_TARGET_OS")? == "windows" {
        let directory = env::var("OUT_DIR")?;
        fs::write(Path::new(&directory).join("penstock.manifest"), MANIFEST)?;
        fs::write(Path::new(&directory).join("messages.bin"), events::message_table())?;
        let resources = version_resource::compile(
            "penstock.exe",
            "FILETYPE 1",
            "Penstock VPN tunnels",
            "1 24 \"penstock.manifest\"\n1 11 \"messages.bin\"\n",
        )?;
        println!("cargo::rustc-link-arg-bins={}", resources.display());
    }
    Ok(())
}
