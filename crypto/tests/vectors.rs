//! A whole tunnel against messages that were computed elsewhere: every byte it sends, every message it must refuse.
//!
//! The randomness it asks for is scripted with the vectors' indices and ephemeral keys.

#![allow(clippy::unwrap_used)] // A failed unwrap is a failed test.

mod net;

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use abi::{discard::Discard, ioctl::Set};
use crypto::{
    aead::{self, Job, Source, Verdict},
    protocol::{
        Endpoint, HandshakeLoad, IndexTable, Instant, Now, Random, Tunnel,
        hash_table::HashKey,
        messages::{Message, Transport},
        ratelimiter::RateLimiter,
        receive::InnerPacket,
        replay::ReceiveWindow,
        send::padded_len,
    },
    sync::Shared,
};
use net::{
    Attached, G, Outbox, Request,
    request::{PeerRequest, public},
};
use serde_json::Value;

fn vectors() -> Value {
    serde_json::from_str(include_str!("vectors/wireguard.json")).unwrap()
}

fn hex(value: &Value) -> Vec<u8> {
    let digits: Vec<u8> =
        value.as_str().unwrap().chars().map(|c| c.to_digit(16).unwrap() as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn bytes<const N: usize>(value: &Value) -> [u8; N] {
    hex(value).try_into().unwrap()
}

fn counter(value: &Value) -> u64 {
    value.as_str().unwrap().parse().unwrap()
}

/// Random bytes by prescription; running out of them is a failed test.
#[derive(Default)]
struct Script(VecDeque<u8>);

impl Script {
    fn then(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}

impl Random for Script {
    fn fill(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            *byte = self.0.pop_front().expect("more random bytes were asked for than a vector has");
        }
    }
}

const FROM: &str = "192.0.2.17:51820";

/// One side of a handshake of the vectors.
struct Side {
    tunnel: Tunnel<Attached>,
    index: Shared<IndexTable<Attached>>,
    load: Shared<HandshakeLoad>,
    out: Outbox,
    now: Now,
}

impl Side {
    fn new(private: [u8; 32], peer: PeerRequest) -> Self {
        let index = Shared::try_new(IndexTable::try_new().unwrap()).unwrap();
        let load = Shared::try_new(HandshakeLoad::new(HashKey::new([1; 16]))).unwrap();
        let tunnel =
            Tunnel::try_new(1, index.clone(), load.clone(), HashKey::new([2; 16])).unwrap();
        let now = Now { monotonic: Instant(Duration::from_secs(50)), wall: Duration::ZERO };
        let request = Request::new().private_key(private).peer(peer).encode();
        let set = Set::parse(&request).unwrap();
        let _ = tunnel.prepare(&G, &set).unwrap().commit(&G, now);
        let mut side = Self { tunnel, index, load, out: Outbox::default(), now };
        side.tunnel.up(&G, &mut side.out);
        side.out.flushes.clear();
        side
    }

    /// The responder of a handshake.
    fn responder(handshake: &Value) -> Self {
        let inputs = &handshake["inputs"];
        let peer = PeerRequest::new(bytes(&inputs["initiator_static_public"]))
            .preshared_key(bytes(&inputs["preshared_key"]))
            .allow("10.0.0.1/32")
            .allow("fd00::1/128");
        Self::new(bytes(&inputs["responder_static_private"]), peer)
    }

    /// The initiator of a handshake, with a preshared key that may be another.
    fn initiator(handshake: &Value, preshared_key: [u8; 32]) -> Self {
        let inputs = &handshake["inputs"];
        let peer = PeerRequest::new(bytes(&inputs["responder_static_public"]))
            .preshared_key(preshared_key)
            .endpoint("198.51.100.9:51820".parse().unwrap());
        let mut side = Self::new(bytes(&inputs["initiator_static_private"]), peer);
        let time = &inputs["unix_time"];
        let (seconds, nanoseconds) =
            (time["sec"].as_u64().unwrap(), time["nsec"].as_u64().unwrap());
        side.now.wall = Duration::new(seconds, nanoseconds as u32);
        side
    }

    fn consume(&mut self, message: &[u8], from: &str, random: &mut Script) -> Result<(), Discard> {
        let from = Endpoint { remote: from.parse().unwrap(), local: None };
        self.tunnel.consume(&G, message, &from, self.now, random, &mut self.out)
    }

    /// Has an initiation made for the only peer.
    fn initiate(&mut self, peer: &[u8; 32], random: &mut Script) -> Vec<u8> {
        let peer = self.tunnel.find_peer(&G, peer).unwrap();
        assert!(peer.reserve(&G, 1, self.now).is_err());
        self.tunnel.service(&G, &peer, self.now, random, &mut self.out);
        self.out.datagrams.pop().unwrap().1
    }

    fn later(&mut self, time: Duration) {
        self.now.monotonic.0 += time;
        self.now.wall += time;
    }

    /// Opens transport data as the data path does.
    fn open(&self, message: &[u8]) -> Result<Vec<u8>, Discard> {
        let Message::Transport(message) = Message::parse(message)? else {
            panic!("not transport data")
        };
        let keypair = self.index.session(&G, message.receiver).ok_or(Discard::UnknownReceiver)?;
        net::open(&keypair, &message)
    }
}

impl Drop for Side {
    fn drop(&mut self) {
        self.out.flushes.clear();
        self.tunnel.close(&G);
    }
}

/// The random bytes of one side: its index, then its ephemeral key.
fn draws(handshake: &Value, side: &str) -> Script {
    let inputs = &handshake["inputs"];
    let index = inputs[format!("{side}_index")].as_u64().unwrap() as u32;
    let ephemeral = hex(&inputs[format!("{side}_ephemeral_private")]);
    Script::default().then(&index.to_le_bytes()).then(&ephemeral)
}

/// Both sides of a handshake, connected.
fn connected(handshake: &Value) -> [Side; 2] {
    let inputs = &handshake["inputs"];
    let mut responder = Side::responder(handshake);
    let mut initiator = Side::initiator(handshake, bytes(&inputs["preshared_key"]));
    let responder_key = bytes(&inputs["responder_static_public"]);
    let initiation = initiator.initiate(&responder_key, &mut draws(handshake, "initiator"));
    assert_eq!(
        initiation,
        hex(&handshake["initiation"]["message"]),
        "the initiation, macs and all"
    );
    responder.consume(&initiation, FROM, &mut draws(handshake, "responder")).unwrap();
    let (to, response, tos) = responder.out.datagrams.pop().unwrap();
    assert_eq!(response, hex(&handshake["response"]["message"]), "the response, macs and all");
    assert_eq!((to.remote, tos), (FROM.parse::<SocketAddr>().unwrap(), 0x88));
    initiator.consume(&response, "198.51.100.9:51820", &mut Script::default()).unwrap();
    assert_eq!(initiator.out.flushes.len(), 1, "to be confirmed at once");
    [initiator, responder]
}

// spec-test: WG 2.1-e, WG 5.4.2-a, WG 5.4.3-b, WG 5.4.4-a, WG 5.4.6-a, WG 5.4.6-c, WG 5.4.6-g, WG 5.4-e
#[test]
fn handshakes_and_transport() {
    for handshake in vectors()["handshakes"].as_array().unwrap() {
        let [initiator, responder] = connected(handshake);
        for row in handshake["transport"].as_array().unwrap() {
            let message = hex(&row["message"]);
            let (sender, receiver) = match row["direction"].as_str().unwrap() {
                "i->r" => (&initiator, &responder),
                _ => (&responder, &initiator),
            };
            // Sealed by us, it is the same bytes. (The responder's key sends before confirmation only here.)
            let inner = hex(&row["inner"]);
            let mut padded = inner.clone();
            padded.resize(padded_len(inner.len(), row["mtu"].as_u64().unwrap() as usize), 0);
            assert_eq!(padded.len() as u64, row["padded_len"].as_u64().unwrap());
            let their_index = Transport::parse(&message).unwrap().receiver;
            let own_index =
                if core::ptr::eq(sender, &initiator) { "initiator" } else { "responder" };
            let own_index =
                handshake["inputs"][format!("{own_index}_index")].as_u64().unwrap() as u32;
            let keypair = sender.index.session(&G, own_index).unwrap();
            assert_eq!(keypair.remote_index(), their_index);
            let counter = counter(&row["counter"]);
            let mut sealed = Transport::header(their_index, counter).to_vec();
            sealed.extend_from_slice(&padded);
            sealed.resize(sealed.len() + 16, 0);
            let (key, source) = (keypair.sending(), Source::InPlace { len: padded.len() });
            let destination = &mut sealed[16..];
            let mut jobs = [Job { key, counter, source, destination, verdict: Verdict::Pending }];
            aead::seal(None, &mut jobs);
            let desc = &row["desc"];
            assert_eq!(sealed, message, "{desc}");
            // Opened by the other side, it is the padded packet; past the paper's limit it is refused.
            let expected =
                if counter >= u64::MAX - 8192 { Err(Discard::SessionExpired) } else { Ok(padded) };
            assert_eq!(receiver.open(&message), expected, "{desc}");
        }
    }
}

// spec-test: WG 5.4-c, WG 5.4.2-c, WG 5.3-a, WG 5.1-b, WG 5.4.4-c, WG 5.4-m, WG 5.4-n, WG 5.4.2-g, WG 2.1-a
#[test]
fn messages_to_refuse_and_to_accept() {
    let vectors = vectors();
    let handshake = &vectors["handshakes"][0];
    let rows = vectors["negative"].as_array().unwrap();
    assert_eq!(rows.len(), 37);
    for row in rows {
        let message = hex(&row["message"]);
        let desc = row["desc"].as_str().unwrap();
        let verdict = match row["kind"].as_str().unwrap() {
            "initiation" => initiation_verdict(handshake, row, &message),
            "response" => response_verdict(handshake, row, &message),
            _ => connected(handshake)[1].open(&message).map(|_| ()),
        };
        let expected = match row["expect"].as_str().unwrap() {
            "accept" => Ok(()),
            "length" | "type" => Err(Discard::MalformedMessage),
            "mac1" => Err(Discard::BadMac1),
            "dh-zero" | "static-aead" | "timestamp-aead" | "empty-aead" => {
                Err(Discard::BadHandshake)
            }
            "unknown-peer" => Err(Discard::UnknownPeer),
            "timestamp-replay" => Err(Discard::StaleTimestamp),
            "unknown-index" => Err(Discard::UnknownReceiver),
            "aead" => Err(Discard::BadTag),
            other => panic!("{other}"),
        };
        assert_eq!(verdict, expected, "{desc}");
    }
}

fn initiation_verdict(handshake: &Value, row: &Value, message: &[u8]) -> Result<(), Discard> {
    let mut responder = Side::responder(handshake);
    if let Some(stamp) = row["last_timestamp"].as_str() {
        // Bring the greatest timestamp there with a genuine initiation of that time.
        let stamp: [u8; 12] = bytes(&Value::from(stamp));
        let seconds = u64::from_be_bytes(stamp[..8].try_into().unwrap()) - 0x4000_0000_0000_000A;
        let nanoseconds = u32::from_be_bytes(stamp[8..].try_into().unwrap());
        let mut initiator = Side::initiator(handshake, [0; 32]);
        initiator.now.wall = Duration::new(seconds, nanoseconds);
        let peer = bytes(&handshake["inputs"]["responder_static_public"]);
        let earlier = initiator.initiate(&peer, &mut draws(handshake, "initiator"));
        responder.consume(&earlier, FROM, &mut draws(handshake, "responder")).unwrap();
        responder.out.datagrams.clear();
        responder.later(Duration::from_secs(1));
    }
    let mut random = Script::default().then(&[9; 36]);
    let verdict = responder.consume(message, FROM, &mut random);
    assert_eq!(
        responder.out.datagrams.len(),
        usize::from(verdict.is_ok()),
        "answered iff accepted"
    );
    let peer = bytes(&handshake["inputs"]["initiator_static_public"]);
    let endpoint = responder.tunnel.find_peer(&G, &peer).unwrap().endpoint(&G);
    if row["last_timestamp"].is_null() {
        let expected = verdict.is_ok().then(|| FROM.parse().unwrap());
        assert_eq!(endpoint.map(|known| known.remote), expected, "moved iff accepted");
    }
    let untouched = verdict.is_err() && row["last_timestamp"].is_null();
    if untouched && !row["desc"].as_str().unwrap().contains("no configured peer") {
        // A refused message has changed nothing: the genuine one is still accepted.
        let genuine = hex(&handshake["initiation"]["message"]);
        assert_eq!(responder.consume(&genuine, FROM, &mut draws(handshake, "responder")), Ok(()));
    }
    verdict
}

/// What is refused leaves a handshake of our own alone.
// spec-test: WG 5.4.2-c
#[test]
fn refused_initiations_leave_the_pending_handshake_alone() {
    let vectors = vectors();
    let handshake = &vectors["handshakes"][0];
    let inputs = &handshake["inputs"];
    let [us, them] = ["responder_static_public", "initiator_static_public"]
        .map(|name| bytes::<32>(&inputs[name]));
    let endpoint = || PeerRequest::new(them).endpoint(FROM.parse().unwrap());
    let mut side = Side::new(bytes(&inputs["responder_static_private"]), endpoint());
    let mut other = Side::new(bytes(&inputs["initiator_static_private"]), PeerRequest::new(us));
    side.now.wall = Duration::from_secs(1_700_000_000);
    let ours = side.initiate(&them, &mut Script::default().then(&[3; 36]));
    let mut refused = 0;
    for row in vectors["negative"].as_array().unwrap() {
        // What is stale only for who has heard a later one is authentic here.
        let authentic = ["accept", "timestamp-replay"].contains(&row["expect"].as_str().unwrap());
        if row["kind"] == "initiation" && !authentic {
            let message = hex(&row["message"]);
            assert!(side.consume(&message, FROM, &mut Script::default()).is_err());
            refused += 1;
        }
    }
    assert_eq!(refused, 15);
    assert!(side.out.datagrams.is_empty());
    other.consume(&ours, FROM, &mut Script::default().then(&[4; 36])).unwrap();
    let (_, response, _) = other.out.datagrams.pop().unwrap();
    assert_eq!(side.consume(&response, FROM, &mut Script::default()), Ok(()));
    assert_eq!(side.out.flushes.len(), 1);
}

fn response_verdict(handshake: &Value, row: &Value, message: &[u8]) -> Result<(), Discard> {
    let mut initiator = Side::initiator(handshake, bytes(&row["preshared_key"]));
    let peer = bytes(&handshake["inputs"]["responder_static_public"]);
    initiator.initiate(&peer, &mut draws(handshake, "initiator"));
    let known = initiator.tunnel.find_peer(&G, &peer).unwrap();
    let known = || known.endpoint(&G).unwrap().remote;
    let before = known();
    let verdict = initiator.consume(message, FROM, &mut Script::default());
    let expected = if verdict.is_ok() { FROM.parse().unwrap() } else { before };
    assert_eq!(known(), expected, "moved iff accepted");
    assert_eq!(initiator.out.flushes.len(), usize::from(verdict.is_ok()));
    assert!(initiator.out.datagrams.is_empty(), "a response is never answered");
    let genuine = hex(&handshake["response"]["message"]);
    let again = initiator.consume(&genuine, FROM, &mut Script::default());
    let same_key = row["preshared_key"] == handshake["inputs"]["preshared_key"];
    match verdict {
        // spec-test: WG 5.4.3-c — a response is taken once.
        Ok(()) => assert_eq!(again, Err(Discard::UnknownReceiver)),
        Err(_) if same_key => assert_eq!(again, Ok(()), "the pending handshake was left alone"),
        Err(_) => {}
    }
    verdict
}

// spec-test: WG 5.4.7-b, WG 5.4.7-d, WG 5.4.7-e, WG 5.4.4-b, WG 7.4-e
#[test]
fn cookies() {
    let vectors = vectors();
    let handshake = &vectors["handshakes"][0];
    for row in vectors["cookies"].as_array().unwrap() {
        let to_response = row["in_reply_to"].as_str().unwrap().ends_with("response");
        let source = SocketAddr::new(
            row["source_ip"].as_str().unwrap().parse().unwrap(),
            row["source_port"].as_u64().unwrap() as u16,
        );
        let mut responder = Side::responder(handshake);
        let preshared_key = bytes(&handshake["inputs"]["preshared_key"]);
        let mut initiator = Side::initiator(handshake, preshared_key);
        let peer = bytes(&handshake["inputs"]["responder_static_public"]);
        let initiation = initiator.initiate(&peer, &mut draws(handshake, "initiator"));
        let reply = hex(&row["cookie_reply"]);
        if to_response {
            responder.consume(&initiation, FROM, &mut draws(handshake, "responder")).unwrap();
            let (_, response, _) = responder.out.datagrams.pop().unwrap();
            cookie_round(&mut initiator, row, &response, source);
            assert_eq!(responder.consume(&reply, "203.0.113.1:5", &mut Script::default()), Ok(()));
            continue;
        }
        cookie_round(&mut responder, row, &initiation, source);
        assert_eq!(initiator.consume(&reply, "203.0.113.1:5", &mut Script::default()), Ok(()));
        assert!(initiator.out.datagrams.is_empty(), "a cookie draws nothing");

        // The retry, at the vectors' time, with mac2.
        let retry = &row["retry"];
        initiator.later(Duration::from_nanos(5_070_000_000));
        let index = retry["initiator_index"].as_u64().unwrap() as u32;
        let ephemeral = hex(&retry["initiator_ephemeral_private"]);
        let mut random = Script::default().then(&index.to_le_bytes()).then(&ephemeral);
        let message = initiator.initiate(&peer, &mut random);
        let expected = hex(&retry["message"]);
        assert_eq!(message, expected);
        // From another port, its mac2 is worth nothing.
        responder.load.observe(512, responder.now.monotonic);
        let elsewhere = SocketAddr::new(source.ip(), source.port() + 1).to_string();
        let mut nonce = Script::default().then(&[0; 24]);
        let refused = responder.consume(&message, &elsewhere, &mut nonce);
        assert_eq!(refused, Err(Discard::CookieRequired));
        let answered =
            responder.consume(&message, &source.to_string(), &mut draws(handshake, "responder"));
        assert_eq!(answered, Ok(()));
    }
}

/// Under load, `offending` draws exactly the vectors' cookie reply.
fn cookie_round(issuer: &mut Side, row: &Value, offending: &[u8], source: SocketAddr) {
    issuer.load.observe(512, issuer.now.monotonic);
    let mut random = Script::default().then(&hex(&row["secret"])).then(&hex(&row["nonce"]));
    let refused = issuer.consume(offending, &source.to_string(), &mut random);
    assert_eq!(refused, Err(Discard::CookieRequired));
    let (to, reply, tos) = issuer.out.datagrams.pop().unwrap();
    assert_eq!(reply, hex(&row["cookie_reply"]));
    assert_eq!((to.remote, tos), (source, 0));
}

// spec-test: WG 5.3-b
#[test]
fn under_load_a_valid_cookie_still_pays() {
    let vectors = vectors();
    let handshake = &vectors["handshakes"][0];
    let row = &vectors["cookies"][0];
    let mut responder = Side::responder(handshake);
    let source: SocketAddr = "192.0.2.17:51820".parse().unwrap();
    cookie_round(&mut responder, row, &hex(&handshake["initiation"]["message"]), source);
    let retry = hex(&row["retry"]["message"]);
    let mut verdicts = Vec::new();
    for _ in 0..7 {
        let mut random = Script::default().then(&[9; 36]);
        verdicts.push(responder.consume(&retry, &source.to_string(), &mut random));
    }
    assert_eq!(verdicts[0], Ok(()));
    assert!(verdicts[1..5].iter().all(|verdict| *verdict == Err(Discard::StaleTimestamp)));
    assert!(verdicts[5..].iter().all(|verdict| *verdict == Err(Discard::RateLimited)));
    assert_eq!(responder.out.datagrams.len(), 1, "over the rate: silence");
}

// spec-test: WG 3-b, WG 3-c, WG 2-b, WG 5.4-o, WG 6.5-a
#[test]
fn opened_packets() {
    let vectors = vectors();
    let [_initiator, responder] = connected(&vectors["handshakes"][0]);
    let peer = bytes(&vectors["handshakes"][0]["inputs"]["initiator_static_public"]);
    let peer = responder.tunnel.find_peer(&G, &peer).unwrap();
    for row in vectors["after_decryption"].as_array().unwrap() {
        let plain = responder.open(&hex(&row["message"])).unwrap();
        assert_eq!(plain, hex(&row["plaintext"]));
        let verdict = InnerPacket::parse(&plain, plain.len()).and_then(|inner| {
            let owned = responder.tunnel.owns(&G, inner.source, &peer);
            if owned { Ok(inner.len) } else { Err(Discard::WrongSource) }
        });
        let effect = row["effect"].as_str().unwrap();
        let expected = match effect.split(' ').collect::<Vec<_>>()[..] {
            ["type", "error"] => Err(Discard::InnerVersion),
            ["size", "error"] => Err(Discard::InnerLength),
            ["source", "error", ..] => Err(Discard::WrongSource),
            ["deliver", len, "bytes"] => Ok(len.parse().unwrap()),
            _ => panic!("{effect}"),
        };
        assert_eq!(verdict, expected, "{}", row["desc"]);
    }
}

// spec-test: WG 5.4.6-c
#[test]
fn padding() {
    let vectors = vectors();
    let rows = vectors["padding"].as_array().unwrap();
    assert_eq!(rows.len(), 95);
    for row in rows {
        let field = |name: &str| row[name].as_u64().unwrap() as usize;
        assert_eq!(padded_len(field("length"), field("mtu")), field("padded"), "{row}");
    }
}

// spec-test: WG 5.4.6-f, WG 5.4.6-g
#[test]
fn replay() {
    for row in vectors()["replay"].as_array().unwrap() {
        // At the top the implementations differ; we have the paper's limit.
        if row["name"] == "top" && !row["limit"].as_str().unwrap().starts_with("paper") {
            continue;
        }
        let window = ReceiveWindow::new();
        let verdicts = row["accept"].as_array().unwrap();
        for (given, verdict) in row["counters"].as_array().unwrap().iter().zip(verdicts) {
            let accepted = window.accept(counter(given)).is_ok();
            assert_eq!(accepted, verdict.as_bool().unwrap(), "{}: {given}", row["name"]);
        }
    }
}

// spec-test: WG 7.4-e
#[test]
fn rate_limiter() {
    let row = &vectors()["ratelimiter"];
    let mut limiter = RateLimiter::new(HashKey::new([5; 16]));
    let sources = ["192.0.2.1", "192.0.2.2", "192.0.2.3"];
    let events = row["events"].as_array().unwrap();
    let allow = row["allow"].as_array().unwrap();
    assert_eq!(events.len(), allow.len());
    for (event, allow) in events.iter().zip(allow) {
        let letter = event["source"].as_str().unwrap().as_bytes()[0];
        let source = sources[usize::from(letter - b'a')].parse().unwrap();
        let at =
            Instant(Duration::from_secs(9) + Duration::from_nanos(event["t_ns"].as_u64().unwrap()));
        assert_eq!(limiter.allow(source, at).0, allow.as_bool().unwrap(), "{event}");
    }
}

/// A cookie made at 119 s is worth nothing at 121 s.
// spec-test: WG 5.4.7-c
#[test]
fn cookies_lapse_with_their_secret() {
    let private = [7; 32];
    let mut random = net::Seeded(1);
    let mut peer_random = net::Seeded(2);
    let initiator_key = public(&[8; 32]);
    let mut issuer = Side::new(private, PeerRequest::new(initiator_key));
    let to = PeerRequest::new(public(&private)).endpoint("198.51.100.9:1".parse().unwrap());
    let mut asker = Side::new([8; 32], to);
    asker.now.wall = Duration::from_secs(1_700_000_000);
    let from = Endpoint { remote: FROM.parse().unwrap(), local: None };
    let initiate = |asker: &mut Side, random: &mut net::Seeded| {
        let peer = asker.tunnel.find_peer(&G, &public(&private)).unwrap();
        assert!(peer.reserve(&G, 1, asker.now).is_err());
        asker.tunnel.service(&G, &peer, asker.now, random, &mut asker.out);
        asker.out.datagrams.pop().unwrap().1
    };
    for (wait, verdict) in [
        (0, Err(Discard::CookieRequired)),
        (119, Err(Discard::CookieRequired)),
        (6, Err(Discard::CookieRequired)),
        (6, Ok(())),
    ] {
        for side in [&mut issuer, &mut asker] {
            side.later(Duration::from_secs(wait));
        }
        let initiation = initiate(&mut asker, &mut peer_random);
        issuer.load.observe(512, issuer.now.monotonic);
        let got =
            issuer.tunnel.consume(&G, &initiation, &from, issuer.now, &mut random, &mut issuer.out);
        assert_eq!(got, verdict, "after {wait} s");
        let (_, reply, _) = issuer.out.datagrams.pop().unwrap();
        if verdict.is_err() {
            asker.consume(&reply, FROM, &mut Script::default()).unwrap();
        }
    }
}
