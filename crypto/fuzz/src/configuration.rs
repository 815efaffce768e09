//! The bytes of SET requests, on a tunnel, against the model of one page.

use std::time::Duration;

use abi::ioctl::Set;
use crypto::{
    protocol::{ConfigError, HandshakeLoad, IndexTable, Instant, Now, Tunnel, hash_table::HashKey},
    sync::Shared,
};

use super::{
    Input,
    net::{
        Attached, G, Outbox, Request,
        model::{Configuration, get},
        request::{PeerRequest, public},
    },
};

/// A buffer made from choices: few keys and addresses, so that they meet; what they mean, anything.
fn plausible(input: &mut Input<'_>) -> Vec<u8> {
    let mut request = Request::new();
    let flags = input.byte();
    if flags & 1 != 0 {
        request.private_key = Some([input.byte() % 5; 32]);
    }
    if flags & 2 != 0 {
        request.listen_port = Some(u16::from_le_bytes(input.bytes()));
    }
    request.replace_peers = flags & 4 != 0;
    for _ in 0..flags >> 4 & 3 {
        let flags = input.byte();
        let mut peer = PeerRequest::new(public(&[1 + input.byte() % 4; 32]));
        peer.remove = flags & 3 == 3;
        peer.update_only = flags & 4 != 0;
        peer.preshared_key = (flags & 8 != 0).then(|| [input.byte() % 3; 32]);
        peer.keepalive = (flags & 16 != 0).then(|| u16::from(input.byte()));
        peer.endpoint = (flags & 32 != 0).then(|| ([192, 0, 2, input.byte()], 7).into());
        peer.replace_allowed_ips = flags & 64 != 0;
        for _ in 0..input.byte() % 4 {
            let (shape, bits) = (input.byte(), input.byte());
            let address = match shape & 1 {
                0 => [10, 0, bits >> 4, bits & 15].into(),
                _ => [0xFD00, 0, 0, bits.into(), 0, 0, 0, 1].into(),
            };
            let cidr = input.byte() % if shape & 1 == 0 { 33 } else { 129 };
            peer.allowed_ips.push((address, cidr, shape & 2 != 0));
        }
        request.peers.push(peer);
    }
    request.encode()
}

/// Applies one buffer after the other.
///
/// # Panics
///
/// If a buffer does not read back as it is written, if what is refused changes something, or if tunnel and model disagree.
pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let index = Shared::try_new(IndexTable::try_new().unwrap()).unwrap();
    let load = Shared::try_new(HandshakeLoad::new(HashKey::new([1; 16]))).unwrap();
    let tunnel: Tunnel<Attached> = Tunnel::try_new(1, index, load, HashKey::new([2; 16])).unwrap();
    let mut model = Configuration::default();
    let mut out = Outbox::default();
    let now =
        Now { monotonic: Instant(Duration::from_secs(5)), wall: Duration::from_secs(1 << 30) };
    while !input.is_empty() {
        let how = input.byte();
        if how & 1 != 0 {
            tunnel.up(&G, &mut out)
        } else {
            tunnel.down(&G)
        }
        out.flushes.clear();
        let mut buffer = match how & 2 {
            0 => plausible(&mut input),
            _ => {
                let count = input.below(600);
                input.take(count).to_vec()
            }
        };
        for _ in 0..how >> 2 & 3 {
            let (at, byte) = (input.below(buffer.len().max(1)), input.byte());
            if let Some(place) = buffer.get_mut(at) {
                *place ^= byte;
            }
        }
        let Ok(set) = Set::parse(&buffer) else { continue };
        let request = Request::of(&set);
        let again = request.encode();
        assert_eq!(Request::of(&Set::parse(&again).unwrap()), request, "written and read");
        let before = model.clone();
        let done = tunnel.prepare(&G, &set).map(|prepared| drop(prepared.commit(&G, now)));
        if model.apply(&request) {
            assert_eq!(done, Ok(()));
        } else {
            assert_eq!(done, Err(ConfigError::DuplicatePeer));
            model = before;
        }
        assert_eq!(get(&tunnel), model);
    }
    tunnel.close(&G);
}
