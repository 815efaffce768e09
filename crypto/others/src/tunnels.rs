//! Penstock and boringtun play with each other over a bad wire, with somebody between them.
//!
//! What comes out of one went into the other, once; what was changed on its way does nothing; and when the wire is good again
//! they talk.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    input::Input,
    net::{A, B, BOOT, inner, number, packet},
    seats::{Boringtun, Penstock, Seat, Taken},
};

/// Steps at most.
const STEPS: usize = 80;
/// How often both look at their clocks.
const TICK: Duration = Duration::from_millis(100);

struct Game<'i> {
    input: Input<'i>,
    seats: [Box<dyn Seat>; 2],
    now: Duration,
    /// What is under way: when it arrives, and a number that makes it unique; at whom.
    wire: BTreeMap<(Duration, usize), (usize, Vec<u8>)>,
    /// All that was ever sent, and to whom.
    trace: Vec<(usize, Vec<u8>)>,
    /// Of 256 datagrams so many are lost, and doubled.
    lose: u8,
    double: u8,
    /// Up to so long is each under way.
    delay_ms: usize,
    number: u32,
    sent: [BTreeSet<u32>; 2],
    delivered: [BTreeSet<u32>; 2],
}

/// Plays what `input` says.
///
/// # Panics
///
/// If one of the promises above is broken.
pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let preshared = if input.byte() & 1 == 0 { [0; 32] } else { [0x77; 32] };
    let seats: [Box<dyn Seat>; 2] = [
        Box::new(Penstock::new(input.byte().into(), A, preshared)),
        Box::new(Boringtun::new(B, preshared, None)),
    ];
    let mut game = Game {
        input,
        seats,
        now: BOOT,
        wire: BTreeMap::new(),
        trace: Vec::new(),
        lose: 0,
        double: 0,
        delay_ms: 10,
        number: 0,
        sent: Default::default(),
        delivered: Default::default(),
    };
    for _ in 0..STEPS {
        if game.input.is_empty() {
            break;
        }
        game.step();
    }
    game.end();
}

impl Game<'_> {
    fn step(&mut self) {
        let what = self.input.byte();
        let who = usize::from(what >> 7);
        match what & 0x0F {
            0..=4 => self.send(who),
            5..=7 => {
                let ms = 1 << self.input.below(14);
                self.pass(Duration::from_millis(ms));
            }
            8 => {
                let s = self.input.below(300) as u64;
                self.pass(Duration::from_secs(s));
            }
            9 => [self.lose, self.double] = self.input.bytes(),
            10 => self.delay_ms = 1 + self.input.below(3000),
            11 => self.replay(),
            _ => self.change(),
        }
    }

    fn send(&mut self, who: usize) {
        self.number += 1;
        self.sent[who].insert(self.number);
        let sent = self.seats[who].send(&packet(inner(who), inner(1 - who), self.number));
        self.put(who, sent);
    }

    /// Puts datagrams on the wire, to the other one.
    fn put(&mut self, from: usize, datagrams: Vec<Vec<u8>>) {
        for datagram in datagrams {
            self.trace.push((1 - from, datagram.clone()));
            let [lost, doubled] = self.input.bytes();
            let copies = if lost < self.lose { 0 } else { 1 + usize::from(doubled < self.double) };
            for _ in 0..copies {
                let ms = 1 + self.input.below(self.delay_ms) as u64;
                let key = (self.now + Duration::from_millis(ms), self.trace.len() * 2 + copies);
                self.wire.insert(key, (1 - from, datagram.clone()));
            }
        }
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let arrival = self.wire.first_key_value().map(|((at, _), _)| *at);
            let next = [self.now + TICK, end].into_iter().chain(arrival).min();
            self.now = self.now.max(next.unwrap_or(end));
            for who in [A, B] {
                let sent = self.seats[who].pass(self.now);
                self.put(who, sent);
            }
            while let Some(first) =
                self.wire.first_entry().filter(|first| first.key().0 <= self.now)
            {
                let (to, datagram) = first.remove();
                self.arrive(to, &datagram);
            }
        }
    }

    fn arrive(&mut self, to: usize, datagram: &[u8]) -> Taken {
        let mut taken = self.seats[to].take(datagram);
        for packet in taken.delivered.iter() {
            let number = number(packet);
            assert!(self.sent[1 - to].contains(&number), "{number} was never sent");
            assert!(self.delivered[to].insert(number), "{number} came twice");
        }
        self.put(to, core::mem::take(&mut taken.answers));
        taken
    }

    /// One of the last datagrams, and who it was for.
    fn heard(&mut self) -> Option<(usize, Vec<u8>)> {
        let back = self.input.below(32);
        self.trace.len().checked_sub(1 + back).map(|at| self.trace[at].clone())
    }

    fn replay(&mut self) {
        if let Some((to, datagram)) = self.heard() {
            self.arrive(to, &datagram);
        }
    }

    /// One byte is another, or some are missing or too many: nobody takes that, and nobody answers.
    fn change(&mut self) {
        let Some((to, mut datagram)) = self.heard() else { return };
        let (at, byte) = (self.input.below(datagram.len()), 1 + self.input.byte() % 255);
        match self.input.byte() % 8 {
            0 => datagram.truncate(at.max(1)),
            1 => datagram.extend(std::iter::repeat_n(byte, 1 + at)),
            _ if matches!(datagram[0], 1 | 2) && at >= datagram.len() - 16 => return, // mac2
            _ => datagram[at] ^= byte,
        }
        let taken = self.seats[to].take(&datagram);
        let name = self.seats[to].name();
        assert!(!taken.accepted && taken.delivered.is_none(), "{name} took {datagram:?}");
        assert!(taken.answers.is_empty(), "{name} answered {datagram:?}");
    }

    /// When all is quiet again, they can talk.
    fn end(mut self) {
        (self.lose, self.double, self.delay_ms) = (0, 0, 10);
        self.pass(Duration::from_secs(200));
        for who in [A, B] {
            self.send(who);
            self.pass(Duration::from_secs(30));
            assert!(
                self.delivered[1 - who].contains(&self.number),
                "{} is not heard",
                self.seats[who].name()
            );
        }
    }
}
