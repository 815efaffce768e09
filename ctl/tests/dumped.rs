//! What `dump` writes of a simulated driver's interface: all that a report needs, and no secret.
//!
//! Needs root, /dev/net/tun, penstock.sys (scripts/build.sh) and penstock-sim (`cargo build --release -p sim`).

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

mod simulated;

use std::fs;

use simulated::{PENSTOCK, Tunnel, run};

const ALICE: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";
const PRESHARED: &str = "ERERERERERERERERERERERERERERERERERERERERERE=";
const PRIVATE: &str = "mAZGQvaDkOZ+DFVBOEMZECvRiOzOR8FZIZ4Bn+Ss3UU=";

#[test]
fn a_dump_has_everything_but_secrets() {
    let tunnel = Tunnel::up('j', None);
    let folder = std::env::temp_dir().join(format!("penstock-dumped-{}", tunnel.name));
    fs::create_dir_all(&folder).unwrap();
    let (file, dump) = (folder.join("a.conf"), folder.join("dump.txt"));
    let text = format!(
        "[Interface]\nPrivateKey = {PRIVATE}\n[Peer]\nPublicKey = {ALICE}\nPresharedKey = {PRESHARED}\n\
         AllowedIPs = 10.0.0.0/8\nEndpoint = 192.0.2.1:7\n"
    );
    fs::write(&file, text).unwrap();
    let set = run(PENSTOCK, &["setconf", &tunnel.name, file.to_str().unwrap()]);
    assert!(set.status.success(), "{set:?}");
    // It has to show keys elsewhere; here it may not.
    let shown = run(PENSTOCK, &["show", &tunnel.name]);
    assert!(String::from_utf8_lossy(&shown.stdout).contains(PRIVATE));
    let printed = run(PENSTOCK, &["dump"]);
    let written = run(PENSTOCK, &["dump", "-o", dump.to_str().unwrap()]);
    assert!(printed.status.success() && written.status.success(), "{written:?}");
    for text in [String::from_utf8(printed.stdout).unwrap(), fs::read_to_string(&dump).unwrap()] {
        let version = format!("penstock {}, linux ", env!("CARGO_PKG_VERSION"));
        assert!(text.starts_with(&version), "{text}");
        let parts = [
            "\n# doctor\n\nok  driver: simulated, 1 interface\n",
            "\n# interfaces\n\ninterface: ",
            &format!("peer: {ALICE}\n"),
            "endpoint: 192.0.2.1:7\n",
            "discarded inbound: 0\n",
            "\n# policy\n\nSendEngine\n",
        ];
        for part in parts {
            assert!(text.contains(part), "{part} is not in:\n{text}");
        }
        for secret in [PRIVATE, PRESHARED] {
            assert!(!text.contains(&secret[..20]), "{text}");
        }
        assert!(!text.contains('\x1b'), "{text}");
    }
    fs::remove_dir_all(&folder).unwrap();
}
