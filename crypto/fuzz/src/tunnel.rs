//! Two tunnels and somebody between them who sends anything to either, at any time.
//!
//! What was never sent by either draws no answer but a cookie reply, and that only under load and with a right mac1; what
//! comes out of a tunnel went into the other, once; and when all of it is over they can still talk.

use std::collections::BTreeSet;

use crypto::protocol::messages::{COOKIE_REPLY_LEN, INITIATION_LEN, RESPONSE_LEN};

use super::{
    Input,
    net::{
        self, A, B, KEYS, Pair, Request, Wire,
        request::{PeerRequest, public},
    },
};

/// Steps at most.
const STEPS: usize = 60;
/// Handshake messages that wait when there is load.
const LOAD: usize = 512;

/// What is known of a pair from outside.
struct Game<'i> {
    pair: Pair,
    input: Input<'i>,
    /// Numbers of the packets that each was given to send, and of those that each delivered.
    sent: [BTreeSet<u32>; 2],
    delivered: [BTreeSet<u32>; 2],
    number: u32,
}

/// Plays what `input` says.
///
/// # Panics
///
/// If one of the promises above is broken.
pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let pair = Pair::new(input.byte().into());
    let mut game =
        Game { pair, input, sent: Default::default(), delivered: Default::default(), number: 0 };
    for _ in 0..STEPS {
        if game.input.is_empty() {
            break;
        }
        game.step();
        game.check_delivered();
    }
    game.end();
}

impl Game<'_> {
    fn step(&mut self) {
        let what = self.input.byte();
        let host = usize::from(what >> 7);
        match what & 0x0F {
            0..=2 => self.send(host),
            3 | 4 => self.pair.run_ms(1 << self.input.below(12)),
            5 => self.pair.run_s(self.input.below(300) as u64),
            6 => {
                let count = self.input.below(300);
                let datagram = self.input.take(count).to_vec();
                self.inject(host, datagram);
            }
            7..=9 => self.mutate(host),
            10 => {
                let datagram = self.heard();
                self.inject(host, datagram);
            }
            11 => self.forge(host),
            12 => {
                let [lose, duplicate, delay, jitter] = self.input.bytes();
                let ms = |byte: u8| std::time::Duration::from_millis(4 * u64::from(byte));
                self.pair.wire = Wire {
                    lose: u64::from(lose) * 2,
                    duplicate: u64::from(duplicate) * 2,
                    delay: ms(delay),
                    jitter: ms(jitter),
                };
            }
            13 => self.pair.hosts[host].queued = if self.input.byte() & 1 == 0 { 1 } else { LOAD },
            14 => {
                self.pair.hosts[host].down();
                let now = self.pair.clock(host);
                self.pair.hosts[host].up(now);
                self.pair.collect();
            }
            _ => self.configure(host),
        }
    }

    fn send(&mut self, host: usize) {
        self.number += 1;
        self.sent[host].insert(self.number);
        self.pair.send(host, self.number);
    }

    /// A datagram that somebody sent; the latest are the likeliest.
    fn heard(&mut self) -> Vec<u8> {
        let back = self.input.below(32);
        let trace = &self.pair.trace;
        trace.len().checked_sub(1 + back).map_or(Vec::new(), |at| trace[at].bytes.clone())
    }

    fn mutate(&mut self, host: usize) {
        let mut datagram = self.heard();
        for _ in 0..1 + self.input.byte() % 3 {
            let (how, at, byte) =
                (self.input.byte(), self.input.below(datagram.len().max(1)), self.input.byte());
            match (how % 4, datagram.get_mut(at)) {
                (0 | 1, Some(place)) => *place ^= byte,
                (2, Some(_)) => datagram.truncate(at),
                _ => datagram.extend(std::iter::repeat_n(byte, at)),
            }
        }
        if self.input.byte() & 1 == 0 {
            sign(&mut datagram, host);
        }
        self.inject(host, datagram);
    }

    /// A handshake message of any contents, and a right mac1.
    fn forge(&mut self, host: usize) {
        let (kind, len) = match self.input.byte() & 1 {
            0 => (1, INITIATION_LEN),
            _ => (2, RESPONSE_LEN),
        };
        let mut datagram = vec![kind, 0, 0, 0];
        datagram.extend_from_slice(self.input.take(len - 4));
        datagram.resize(len, 0);
        sign(&mut datagram, host);
        self.inject(host, datagram);
    }

    /// Gives a host a datagram; from elsewhere, if nobody sent it.
    fn inject(&mut self, host: usize, datagram: Vec<u8>) {
        let genuine = self.pair.trace.iter().any(|sent| same(&sent.bytes, &datagram));
        let elsewhere = ([203, 0, 113, 1 + self.input.byte() % 4], 4711).into();
        let from = if genuine { self.pair.hosts[1 - host].address } else { elsewhere };
        let sent = self.pair.trace.len();
        let delivered = self.pair.hosts[host].delivered.len();
        self.pair.inject(host, &datagram, from);
        if genuine {
            return;
        }
        assert_eq!(self.pair.hosts[host].delivered.len(), delivered, "delivered");
        let now = self.pair.clock(host);
        let loaded = self.pair.hosts[host].load.is_under_load(now.monotonic);
        let mut signed = datagram.clone();
        sign(&mut signed, host);
        let handshake = matches!(
            (datagram.get(..4), datagram.len()),
            (Some([1, 0, 0, 0]), INITIATION_LEN) | (Some([2, 0, 0, 0]), RESPONSE_LEN)
        );
        let answer = usize::from(loaded && handshake && signed == datagram);
        let answers = &self.pair.trace[sent..];
        assert!(answers.len() <= answer, "{answers:?}");
        for answer in answers {
            assert_eq!((answer.kind(), answer.bytes.len(), answer.to), (3, COOKIE_REPLY_LEN, from));
        }
    }

    /// Both learn another preshared key, or one forgets the other and is told again.
    fn configure(&mut self, host: usize) {
        let byte = self.input.byte();
        let peer = |of: usize| PeerRequest::new(public(&KEYS[of]));
        if byte & 1 == 0 {
            for host in [A, B] {
                let request = Request::new().peer(peer(1 - host).preshared_key([byte; 32]));
                self.pair.configure(host, &request);
            }
        } else {
            let key = {
                let mut known = net::model::get(&self.pair.hosts[host].tunnel);
                known.peers.pop().unwrap().1.preshared_key
            };
            self.pair.configure(host, &Request::new().peer(peer(1 - host).remove()));
            let mut request = self.pair.introduction(host);
            request.peers[0].preshared_key = Some(key);
            self.pair.configure(host, &request);
        }
    }

    fn check_delivered(&mut self) {
        for host in [A, B] {
            for number in self.pair.numbers(host) {
                assert!(self.sent[1 - host].contains(&number), "{number} was never sent");
                assert!(self.delivered[host].insert(number), "{number} came twice");
            }
            self.pair.hosts[host].delivered.clear();
        }
    }

    /// When all is quiet again, they can talk.
    fn end(mut self) {
        self.pair.wire = Wire { delay: std::time::Duration::from_millis(10), ..Wire::default() };
        for host in [A, B] {
            self.pair.hosts[host].queued = 1;
        }
        self.pair.run_s(600);
        self.check_delivered();
        for host in [A, B] {
            self.send(host);
            self.pair.run_s(30);
            self.check_delivered();
            assert!(self.delivered[1 - host].contains(&self.number), "{host} is not heard");
        }
    }
}

/// Whether two datagrams say the same: without load nobody looks at mac2.
fn same(one: &[u8], other: &[u8]) -> bool {
    let told = |bytes: &[u8]| match (bytes.first(), bytes.len()) {
        (Some(1), INITIATION_LEN) | (Some(2), RESPONSE_LEN) => bytes.len() - 16,
        _ => bytes.len(),
    };
    one.len() == other.len() && one[..told(one)] == other[..told(other)]
}

/// Writes the mac1 that a host wants to see.
fn sign(datagram: &mut [u8], host: usize) {
    net::sign(datagram, &public(&KEYS[host]));
}
