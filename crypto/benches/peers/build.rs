//! Joins ipsec-mb (Debian: libipsec-mb-dev) where it is installed.

fn main() {
    println!("cargo::rerun-if-changed=ipsec_mb.c");
    println!("cargo::rustc-check-cfg=cfg(ipsec_mb)");
    let header = "/usr/include/intel-ipsec-mb.h";
    println!("cargo::rerun-if-changed={header}");
    if std::path::Path::new(header).exists() {
        cc::Build::new().file("ipsec_mb.c").compile("ipsec_mb_packet");
        println!("cargo::rustc-link-lib=IPSec_MB");
        println!("cargo::rustc-cfg=ipsec_mb");
    }
}
