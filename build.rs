//! Link arguments of penstock.sys.
//!
//! `wdk-build` gives the driver model's own; here are those it leaves out. Nothing is linked when
//! the driver is only checked for another target, so there is nothing to say then.

use std::env;
use std::error::Error;

mod version_resource;

const NATVIS: &str = "scripts/windbg/penstock.natvis";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=version_resource.rs");
    println!("cargo::rerun-if-changed={NATVIS}");
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
    // How debuggers show our structures: goes into the PDB.
    let folder = env::var("CARGO_MANIFEST_DIR")?;
    println!("cargo::rustc-cdylib-link-arg=/NATVIS:{folder}/{NATVIS}");
    let version = version_resource::compile(
        "penstock.sys",
        "FILETYPE 3\nFILESUBTYPE 6",
        "Penstock VPN adapter",
        "",
    )?;
    println!("cargo::rustc-cdylib-link-arg={}", version.display());
    wdk_build::configure_wdk_binary_build()?;
    Ok(())
}
