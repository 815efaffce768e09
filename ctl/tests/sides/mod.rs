//! Two simulated drivers, each in a network namespace that the test makes, and a cable.
//!
//! Needs root, /dev/net/tun, iproute2, penstock.sys (scripts/build.sh) and penstock-sim (`cargo build --release -p sim`).

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use ctl::key::SecretKey;

use crate::simulated::{PENSTOCK, Tunnel};

const KEYS: [&str; 2] = [
    "mAZGQvaDkOZ+DFVBOEMZECvRiOzOR8FZIZ4Bn+Ss3UU=",
    "EHEHEHEHEHEHEHEHEHEHEHEHEHEHEHEHEHEHEHEHEHE=",
];

/// Two namespaces with a cable between them, and a folder.
pub(crate) struct Sides {
    names: [String; 2],
    pub(crate) folder: PathBuf,
}

impl Sides {
    pub(crate) fn new() -> Self {
        let id = std::process::id();
        let names = ["a", "b"].map(|side| format!("pen-up-{side}-{id}"));
        let folder = std::env::temp_dir().join(format!("penstock-up-{id}"));
        fs::create_dir_all(&folder).unwrap();
        let sides = Self { names, folder };
        let [a, b] = &sides.names;
        run(&format!("ip netns add {a}"));
        run(&format!("ip netns add {b}"));
        run(&format!(
            "ip link add cable netns {a} mtu 1400 type veth peer name cable netns {b} mtu 1400"
        ));
        for (name, number) in [(a, 1), (b, 2)] {
            run(&format!("ip -n {name} link set lo up"));
            run(&format!("ip -n {name} addr add 10.77.0.{number}/24 dev cable"));
            run(&format!("ip -n {name} link set cable up"));
            run(&format!("ip -n {name} route add default via 10.77.0.9"));
        }
        sides
    }

    pub(crate) fn tunnel(&self, side: usize) -> Side<'_> {
        let namespace = &*self.names[side];
        let letter = ['i', 'j'][side];
        let tunnel = Tunnel::up(letter, Some(namespace));
        Side { namespace, tunnel, folder: &self.folder }
    }
}

impl Drop for Sides {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A simulated driver in its namespace.
pub(crate) struct Side<'s> {
    namespace: &'s str,
    pub(crate) tunnel: Tunnel,
    folder: &'s PathBuf,
}

impl Side<'_> {
    pub(crate) fn inside(&self, program: &str, arguments: &[&str]) -> Output {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.namespace, program]).args(arguments);
        command.output().unwrap()
    }

    pub(crate) fn says(&self, line: &str) -> String {
        let (program, arguments) = line.split_once(' ').unwrap();
        let output = self.inside(program, &arguments.split(' ').collect::<Vec<_>>());
        assert!(output.status.success(), "{line}: {}", errors(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// The tunnel's file, with these lines for the interface and allowed IPs.
    pub(crate) fn file(&self, number: usize, interface: &str, allowed_ips: &str) -> String {
        let other = SecretKey::parse(KEYS[2 - number]).unwrap().public();
        let text = format!(
            "[Interface]\nPrivateKey = {}\nListenPort = 5182{number}\n{interface}[Peer]\nPublicKey = {other}\n\
             AllowedIPs = {allowed_ips}\nEndpoint = 10.77.0.{}:5182{}\n",
            KEYS[number - 1],
            3 - number,
            3 - number
        );
        let path = self.folder.join(format!("{}.conf", self.tunnel.name));
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    pub(crate) fn penstock(&self, arguments: &[&str]) {
        let ended = self.inside(PENSTOCK, arguments);
        assert!(ended.status.success(), "{arguments:?}: {}", errors(&ended));
    }
}

fn run(line: &str) {
    let mut words = line.split(' ');
    let ended = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(ended.status.success(), "{line}: {}", errors(&ended));
}

pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}
