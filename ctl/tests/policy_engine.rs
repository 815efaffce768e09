//! The policy engine, and what lists of policy allow, over a registry in memory.

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;

use abi::policy::{Policy, SCALING_EXCLUDE, TextPolicy};
use proptest::prelude::*;

use ctl::config::{Config, Endpoint, Peer};
use ctl::key::PublicKey;
use ctl::policy::allowed::{check, refusal};
use ctl::policy::engine::{Applied, Engine, PARAMETERS, Writable};
use ctl::policy::{From, GROUP, LOCAL, Registry, Value, number};

/// By key and name.
#[derive(Default)]
struct Memory(RefCell<BTreeMap<(String, String), Value>>);

impl Registry for Memory {
    fn value(&self, key: &str, name: &str) -> io::Result<Option<Value>> {
        Ok(self.0.borrow().get(&(key.to_owned(), name.to_owned())).cloned())
    }
}

impl Writable for Memory {
    fn set(&self, key: &str, name: &str, value: &Value) -> io::Result<()> {
        self.0.borrow_mut().insert((key.to_owned(), name.to_owned()), value.clone());
        Ok(())
    }

    fn remove(&self, key: &str, name: &str) -> io::Result<()> {
        self.0.borrow_mut().remove(&(key.to_owned(), name.to_owned()));
        Ok(())
    }
}

impl Memory {
    fn with(values: &[(&str, &str, Value)]) -> Self {
        let memory = Self::default();
        values.iter().for_each(|(key, name, value)| memory.set(key, name, value).unwrap());
        memory
    }

    fn parameter(&self, name: &str) -> Option<Value> {
        self.value(PARAMETERS, name).unwrap()
    }
}

#[test]
fn what_policy_says_is_what_the_driver_reads() {
    let memory = Memory::with(&[
        (GROUP, "Mtu", Value::Dword(1300)),
        (LOCAL, "Mtu", Value::Dword(1280)),
        (LOCAL, "FastPath", Value::Dword(0)),
        (LOCAL, SCALING_EXCLUDE, Value::Text("0-1".to_owned())),
        (PARAMETERS, "SimdCap", Value::Dword(2)),
    ]);
    let mut engine = Engine::default();
    let applied = engine.apply(&memory).unwrap();
    assert_eq!(applied.changed, ["FastPath", "SimdCap", "Mtu", SCALING_EXCLUDE]);
    assert_eq!(memory.parameter("Mtu"), Some(Value::Dword(1300)));
    assert_eq!(memory.parameter("FastPath"), Some(Value::Dword(0)));
    assert_eq!(memory.parameter(SCALING_EXCLUDE), Some(Value::Text("0-1".to_owned())));
    assert_eq!(memory.parameter("SimdCap"), None, "nobody says it");
    assert_eq!(engine.apply(&memory).unwrap(), Applied::default());
    // The policy goes: what the administrator of the machine said holds again.
    memory.remove(GROUP, "Mtu").unwrap();
    assert_eq!(engine.apply(&memory).unwrap().changed, ["Mtu"]);
    assert_eq!(memory.parameter("Mtu"), Some(Value::Dword(1280)));
}

#[test]
fn what_is_refused_is_told_once_and_the_rest_holds() {
    let memory =
        Memory::with(&[(GROUP, "Mtu", Value::Dword(9000)), (GROUP, "FastPath", Value::Dword(0))]);
    let mut engine = Engine::default();
    let applied = engine.apply(&memory).unwrap();
    assert_eq!(applied.changed, ["FastPath"]);
    let told: Vec<_> = applied.refused.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "Mtu: 9000 is not from 576 to 1968, default 1420 (from Group Policy, HKLM\\SOFTWARE\\Policies\\Penstock)"
        ]
    );
    assert_eq!(engine.apply(&memory).unwrap(), Applied::default());
    // Mended, and wrong again: that is news.
    memory.set(GROUP, "Mtu", &Value::Dword(1300)).unwrap();
    assert_eq!(engine.apply(&memory).unwrap().refused, []);
    memory.set(GROUP, "Mtu", &Value::Dword(9000)).unwrap();
    let applied = engine.apply(&memory).unwrap();
    assert_eq!((applied.changed, applied.refused.len()), (vec!["Mtu"], 1));
    assert_eq!(memory.parameter("Mtu"), None);
}

/// A registry that can be read and not written.
struct Locked(Memory);

impl Registry for Locked {
    fn value(&self, key: &str, name: &str) -> io::Result<Option<Value>> {
        self.0.value(key, name)
    }
}

impl Writable for Locked {
    fn set(&self, _: &str, _: &str, _: &Value) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }

    fn remove(&self, _: &str, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

#[test]
fn what_cannot_be_written_is_told() {
    let locked = Locked(Memory::with(&[(GROUP, "FastPath", Value::Dword(0))]));
    let error = Engine::default().apply(&locked).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
    let locked = Locked(Memory::default());
    assert_eq!(Engine::default().apply(&locked).unwrap(), Applied::default());
}

fn values() -> impl Strategy<Value = Value> {
    prop_oneof![
        (0_u32..2_100).prop_map(Value::Dword),
        any::<u32>().prop_map(Value::Dword),
        "[0-9,:-]{0,6}".prop_map(Value::Text),
        Just(Value::Other),
    ]
}

proptest! {
    /// The driver reads what policy comes to, or nothing where that is the default, whatever was there.
    #[test]
    fn the_driver_reads_what_policy_comes_to(
        set in prop::collection::vec((0..3_usize, 0..=Policy::COUNT, values()), 0..40)
    ) {
        let memory = Memory::default();
        let name = |at: usize| Policy::ALL.get(at).map_or(SCALING_EXCLUDE, |policy| policy.name());
        for (key, at, value) in &set {
            memory.set([GROUP, LOCAL, PARAMETERS][*key], name(*at), value).unwrap();
        }
        let mut engine = Engine::default();
        engine.apply(&memory).unwrap();
        for policy in Policy::ALL {
            let read = number(&policy.row(), &memory);
            let wanted = (read.from != From::Default).then_some(Value::Dword(read.value));
            prop_assert_eq!(memory.parameter(policy.name()), wanted);
        }
        prop_assert_eq!(engine.apply(&memory).unwrap(), Applied::default());
    }

    /// A part of a list of what is allowed that is told as none allows nothing.
    #[test]
    fn a_part_that_is_none_allows_nothing(
        part in "[*a-b0-9./: -]{0,9}",
        name in "[ab-]{1,4}",
        host in "[ab]{1,2}(\\.[ab]{1,2}){0,2}",
        address: [u8; 4],
    ) {
        let set = |policy: TextPolicy| Memory::with(&[(LOCAL, policy.name(), Value::Text(part.clone()))]);
        let interfaces = TextPolicy::AllowedInterfaces;
        if check(interfaces, &part).is_err() {
            prop_assert!(refusal(&name, &Config::default(), &set(interfaces)).is_some());
        }
        let endpoints = TextPolicy::AllowedEndpoints;
        if check(endpoints, &part).is_err() {
            for endpoint in [Endpoint::Host(host, 7), Endpoint::Address((address, 7).into())] {
                let endpoint = Some(endpoint);
                let config = Config { peers: vec![Peer { endpoint, ..peer() }], ..Config::default() };
                prop_assert!(refusal(&name, &config, &set(endpoints)).is_some());
            }
        }
    }
}

fn peer() -> Peer {
    Peer {
        public_key: PublicKey([1; 32]),
        preshared_key: None,
        allowed_ips: Vec::new(),
        endpoint: None,
        persistent_keepalive: None,
    }
}
