//! `show --json`: interfaces by name, with the names that `wg`'s own JSON script gives things. Keys that are secret are in it
//! only if they would be shown to a person, too.

use abi::discard::Discard;
use abi::ioctl::Peer;
use abi::statistics::{Counter, Statistics};
use serde_json::{Map, Value, json};
use zeroize::Zeroizing;

use super::{Shown, handshake_s, of_part};
use crate::key::{PublicKey, SecretKey};

/// An interface.
#[must_use]
pub fn interface(shown: &Shown<'_>, shows_secrets: bool) -> Value {
    let set = &shown.set;
    let mut object = Map::new();
    if let Some(key) = set.public_key() {
        put(&mut object, "publicKey", PublicKey(*key).to_string());
    }
    secret(&mut object, "privateKey", set.private_key().filter(|_| shows_secrets));
    if let Some(port) = set.listen_port().filter(|port| *port != 0) {
        put(&mut object, "listenPort", port);
    }
    let peers = set
        .peers()
        .map(|peer| (PublicKey(*peer.public_key()).to_string(), self::peer(&peer, shows_secrets)));
    put(&mut object, "peers", Value::Object(peers.collect()));
    if let Some(statistics) = &shown.statistics {
        put(&mut object, "statistics", self::statistics(statistics));
    }
    Value::Object(object)
}

fn peer(peer: &Peer<'_>, shows_secrets: bool) -> Value {
    let mut object = Map::new();
    secret(&mut object, "presharedKey", peer.preshared_key().filter(|_| shows_secrets));
    if let Some(endpoint) = peer.endpoint() {
        put(&mut object, "endpoint", endpoint.to_string());
    }
    let allowed_ips = peer.allowed_ips().map(|ip| format!("{}/{}", ip.address, ip.cidr));
    put(&mut object, "allowedIps", allowed_ips.collect::<Vec<_>>());
    for (name, value) in [
        ("latestHandshake", handshake_s(peer)),
        ("transferRx", peer.rx_bytes()),
        ("transferTx", peer.tx_bytes()),
        ("persistentKeepalive", peer.persistent_keepalive_s().unwrap_or(0).into()),
    ] {
        if value != 0 {
            put(&mut object, name, value);
        }
    }
    Value::Object(object)
}

fn statistics(statistics: &Statistics<'_>) -> Value {
    let counters = Counter::ALL.iter();
    let counters = counters.map(|row| (row.name().to_owned(), statistics.counter(*row).into()));
    let discards = Discard::ALL.iter();
    let discards = discards.map(|row| (row.name().to_owned(), statistics.discarded(*row).into()));
    let parts = statistics.parts().filter_map(|part| {
        let (name, values) = of_part(&part)?;
        let values = values.into_iter().map(|(name, value)| (name.to_owned(), value.into()));
        Some((name, Value::Object(values.collect())))
    });
    json!({
        "parts": Value::Object(parts.collect()),
        "counters": Value::Object(counters.collect()),
        "discards": Value::Object(discards.collect()),
        "waiting": statistics.waiting(),
        "underWay": statistics.lost(),
    })
}

fn put(object: &mut Map<String, Value>, name: &str, value: impl Into<Value>) {
    object.insert(name.to_owned(), value.into());
}

fn secret(object: &mut Map<String, Value>, name: &str, key: Option<&[u8; 32]>) {
    if let Some(key) = key.map(SecretKey::of).filter(|key| !key.is_none()) {
        let mut text = Zeroizing::new(String::with_capacity(crate::key::TEXT_LEN));
        key.write(&mut text);
        put(object, name, text.as_str());
    }
}
