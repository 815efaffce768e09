//! The handshake against vectors computed by other implementations, step by step.

use std::{string::String, vec::Vec};

use serde_json::Value;

use super::*;

fn vectors() -> Value {
    serde_json::from_str(include_str!("../../../tests/vectors/wireguard.json")).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn bytes<const N: usize>(value: &Value) -> [u8; N] {
    hex(value).try_into().unwrap()
}

fn rows<'v>(vectors: &'v Value, group: &str) -> impl Iterator<Item = &'v Value> {
    vectors[group].as_array().unwrap().iter()
}

#[test]
fn the_initial_state_is_the_papers() {
    let constants = &vectors()["constants"];
    let chaining_key = hash(&[CONSTRUCTION]);
    assert_eq!(chaining_key, bytes(&constants["initial_chaining_key"]));
    assert_eq!(hash(&[&chaining_key, IDENTIFIER]), bytes(&constants["initial_hash"]));
}

// spec-test: WG 5.4-h, WG 5.4-i
#[test]
fn key_derivation() {
    for row in rows(&vectors(), "kdf") {
        let (key, input) = (bytes(&row["key"]), hex(&row["input"]));
        assert_eq!(hmac(&key, &[&input]).expose(), &bytes::<32>(&row["t0"]));
        let outputs: [Secret; 3] = kdf(&key, &input);
        for (output, name) in outputs.iter().zip(["t1", "t2", "t3"]) {
            assert_eq!(output.expose(), &bytes::<32>(&row[name]), "{name}");
        }
    }
}

// spec-test: WG 5.4-g
#[test]
fn keyed_blake2s_with_16_bytes_of_output() {
    for row in rows(&vectors(), "mac") {
        let (key, input) = (hex(&row["key"]), hex(&row["input"]));
        let out = match key.len() {
            16 => mac::<16>(&key.try_into().unwrap(), &[&input]),
            _ => mac::<32>(&key.try_into().unwrap(), &[&input]),
        };
        assert_eq!(out, bytes(&row["out"]));
    }
}

// spec-test: WG 5.4-b, WG 5.4-d
#[test]
fn private_keys_are_clamped() {
    for row in rows(&vectors(), "clamping") {
        let identity = Identity::new(&bytes(&row["given"])).unwrap();
        assert_eq!(identity.private(), &bytes::<32>(&row["stored"]));
        assert_eq!(identity.public(), &bytes::<32>(&row["public"]));
    }
    assert!(Identity::new(&[0; 32]).is_none());
}

// spec-test: WG 5.1-a, WG 5.1-e
#[test]
fn timestamps() {
    for row in rows(&vectors(), "tai64n") {
        let wall = core::time::Duration::new(
            row["unix_sec"].as_u64().unwrap(),
            row["unix_nsec"].as_u64().unwrap() as u32,
        );
        assert_eq!(super::super::tai64n::Tai64n::of(wall).0, bytes(&row["linux_whitened"]));
    }
}

// spec-test: WG 5.4-a, WG 5.4.2-d
#[test]
fn the_top_bit_of_a_public_key_is_ignored() {
    let identity = Identity::new(&[7; 32]).unwrap();
    let mut remote = *Identity::new(&[9; 32]).unwrap().public();
    let one = *identity.static_static(&remote).unwrap().expose();
    remote[31] |= 0x80;
    assert_eq!(identity.static_static(&remote).unwrap().expose(), &one);
    assert!(identity.static_static(&[0; 32]).is_none(), "a zero result is refused");
}

/// The values of RFC 7748, sections 5.2 and 6.1.
// spec-test: WG 5.4-a
#[test]
fn x25519_as_the_rfc_has_it() {
    let value = |digits: &str| bytes::<32>(&Value::from(digits));
    let alice =
        Identity::new(&value("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"));
    let bob =
        Identity::new(&value("5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"));
    let (alice, bob) = (alice.unwrap(), bob.unwrap());
    let shared = value("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742");
    for (one, other) in [(&alice, &bob), (&bob, &alice)] {
        assert_eq!(one.static_static(other.public()).unwrap().expose(), &shared);
    }
    let mut nine = [0; 32];
    nine[0] = 9;
    let (mut scalar, mut point) = (nine, nine);
    for round in 1..=1000 {
        let next = *shared_secret(&clamped(scalar), &point).unwrap().expose();
        (point, scalar) = (scalar, next);
        let expected = match round {
            1 => "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079",
            1000 => "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51",
            _ => continue,
        };
        assert_eq!(scalar, value(expected), "after {round}");
    }
}

/// "abc", of RFC 7693, appendix B.
// spec-test: WG 5.4-g
#[test]
fn blake2s_as_the_rfc_has_it() {
    let expected = "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982";
    assert_eq!(hash(&[b"a", b"", b"bc"]), bytes(&Value::from(expected)));
}

/// Both roles of both handshakes: every byte of both messages and both session keys.
// spec-test: WG 5.4.2-a, WG 5.4.2-b, WG 5.4.3-b, WG 5.4.3-c, WG 5.4.5-a, WG 5.2-a
#[test]
fn both_handshakes_byte_for_byte() {
    for row in rows(&vectors(), "handshakes") {
        let inputs = &row["inputs"];
        let identity = |name: &str| Identity::new(&bytes(&inputs[name])).unwrap();
        let initiator = identity("initiator_static_private");
        let responder = identity("responder_static_private");
        let preshared_key = Secret::new(bytes(&inputs["preshared_key"]));
        let index = |name: &str| inputs[name].as_u64().unwrap() as u32;
        let ephemeral = |name: &str| Zeroizing::new(bytes::<32>(&inputs[name]));
        let timestamp = bytes(&inputs["tai64n"]);

        let secret = initiator.static_static(responder.public()).unwrap();
        assert_eq!(secret.expose(), &bytes::<32>(&row["precomputed"]["ss"]));
        let (initiation, created) = create_initiation(
            &initiator,
            responder.public(),
            &secret,
            ephemeral("initiator_ephemeral_private"),
            index("initiator_index"),
            &timestamp,
        )
        .unwrap();
        let expected: [u8; 148] = bytes(&row["initiation"]["message"]);
        assert_eq!(initiation[..116], expected[..116]);
        let steps = row["initiation"]["steps"].as_array().unwrap();
        let last =
            |name: &str| bytes::<32>(&steps.iter().rfind(|it| it[name].is_string()).unwrap()[name]);
        assert_eq!(created.symmetric.hash, last("H"));
        assert_eq!(created.symmetric.chaining_key, last("C"));

        let message = Initiation::parse(&expected).unwrap();
        let opened = consume_initiation(&responder, &message).unwrap();
        assert_eq!(&opened.initiator, initiator.public());
        let (consumed, opened_timestamp) = opened.authenticate(&secret, &message).unwrap();
        assert_eq!(opened_timestamp, timestamp);
        assert_eq!(consumed.symmetric.hash, last("H"));
        assert_eq!(consumed.symmetric.chaining_key, last("C"));
        let (response, responders) = consumed
            .create_response(
                &preshared_key,
                ephemeral("responder_ephemeral_private"),
                index("responder_index"),
                message.sender,
            )
            .unwrap();
        let expected: [u8; 92] = bytes(&row["response"]["message"]);
        assert_eq!(response[..60], expected[..60]);

        let message = Response::parse(&expected).unwrap();
        let initiators = created.consume_response(&initiator, &preshared_key, &message).unwrap();
        let keys = &row["transport_keys"];
        let [there, back] = ["initiator_to_responder", "responder_to_initiator"]
            .map(|name| bytes::<32>(&keys[name]));
        assert_eq!((initiators.sending.expose(), initiators.receiving.expose()), (&there, &back));
        assert_eq!((responders.sending.expose(), responders.receiving.expose()), (&back, &there));
    }
}

// spec-test: WG 5.4.7-b, WG 5.4.7-d, WG 5.4-f
#[test]
fn cookies_seal_and_open() {
    for row in rows(&vectors(), "cookies") {
        let reply: [u8; 64] = bytes(&row["cookie_reply"]);
        let (key, nonce) = (bytes(&row["xaead_key"]), bytes(&row["nonce"]));
        let (cookie, mac1) = (bytes(&row["cookie"]), bytes(&row["aad_mac1"]));
        let sealed = seal_cookie(&key, &nonce, &cookie, &mac1);
        assert_eq!(sealed, reply[32..]);
        assert_eq!(open_cookie(&key, &nonce, &sealed, &mac1), Some(cookie));
        assert_eq!(open_cookie(&key, &nonce, &sealed, &[0; 16]), None, "another mac1");
        let name: String = row["name"].as_str().unwrap().into();
        assert_eq!(mac::<32>(&bytes(&row["secret"]), &[&hex(&row["mac_input"])]), cookie, "{name}");
    }
}

// spec-test: WG 7.4-a, WG 5.4.5-b
#[test]
#[allow(unsafe_code)] // To look at memory that has been given up.
fn secrets_are_wiped_where_they_lay() {
    let mut secret = core::mem::ManuallyDrop::new(Secret::new([7; 32]));
    let at = &raw mut *secret;
    // SAFETY: dropped once, here, and not used as a `Secret` again.
    unsafe { at.drop_in_place() };
    // SAFETY: the stack slot lives to the end of the function.
    let at = unsafe { &raw const (*at).0 };
    // SAFETY: as above, and any bytes are a `[u8; 32]`.
    assert_eq!(unsafe { at.read_volatile() }, [0; 32]);

    let mut state = core::mem::ManuallyDrop::new(Symmetric::new(&[1; 32]));
    let at = &raw mut *state;
    // SAFETY: dropped once, here, and not used as a `Symmetric` again.
    unsafe { at.drop_in_place() };
    // SAFETY: the stack slot lives to the end of the function.
    let chaining_key = unsafe { &raw const (*at).chaining_key };
    // SAFETY: as above.
    let hash = unsafe { &raw const (*at).hash };
    for at in [chaining_key, hash] {
        // SAFETY: as above, and any bytes are a `[u8; 32]`.
        assert_eq!(unsafe { at.read_volatile() }, [0; 32]);
    }
}
