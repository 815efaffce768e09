//! One peer plays the same game with Penstock and with boringtun: what one of them refuses, both refuse.
//!
//! The peer's cryptography is snow's, so what is taken and given here is Noise as a third party knows it. A model of one page
//! says which sessions there are; where boringtun holds on to more than those, it is not asked.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    input::Input,
    net::{A, B, BOOT, KEYS, inner, packet, request::public, sign},
    noise::{INITIATION, Peer, Session, number},
    seats::{Boringtun, Penstock, Seat, Taken},
};

/// Steps at most.
const STEPS: usize = 50;
/// Counters that boringtun looks back.
const THEIR_WINDOW: u64 = 1024;
/// Counters that Penstock looks back. [RFC 6479]
const OUR_WINDOW: u64 = 8128;
/// No counter from here on. [WG §6.1]
const LAST: u64 = u64::MAX - (1 << 13);
/// The sessions that boringtun has room for.
const THEIR_SESSIONS: usize = 8;
/// Whoever began tries again after this, so what was begun before is over.
const ATTEMPT: Duration = Duration::from_secs(5);

/// A seat, and what the peer has of those who sit in it.
struct Table {
    seat: Box<dyn Seat>,
    sessions: Vec<Session>,
    /// The initiation that waits for the peer's response, and since when.
    begun: Option<(Vec<u8>, Duration)>,
    timestamp: [u8; 12],
    /// Counters that were seen, and their session.
    counters: BTreeSet<(usize, u64)>,
}

/// What is known of a session.
#[derive(Default)]
struct Known {
    made: Duration,
    seen: BTreeSet<u64>,
    greatest: u64,
}

struct Game<'i> {
    input: Input<'i>,
    peer: Peer,
    tables: [Table; 2],
    now: Duration,
    timestamp: u64,
    number: u32,
    sessions: Vec<Known>,
    previous: Option<usize>,
    current: Option<usize>,
    next: Option<usize>,
    /// What lies in boringtun's places, and which of them it sends with.
    places: [Option<usize>; THEIR_SESSIONS],
    sender: usize,
}

/// Plays what `input` says.
///
/// # Panics
///
/// If the two do not agree, or if either breaks a rule that the peer can see.
pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let preshared = if input.byte() & 1 == 0 { [0; 32] } else { [0x77; 32] };
    let peer = Peer { private: KEYS[A], other: public(&KEYS[B]), preshared };
    let seats: [Box<dyn Seat>; 2] = [
        Box::new(Penstock::new(input.byte().into(), B, preshared)),
        Box::new(Boringtun::new(B, preshared, Some(u64::MAX))),
    ];
    let tables = seats.map(|seat| Table {
        seat,
        sessions: Vec::new(),
        begun: None,
        timestamp: [0; 12],
        counters: BTreeSet::new(),
    });
    let mut game = Game {
        input,
        peer,
        tables,
        now: BOOT,
        timestamp: 0,
        number: 0,
        sessions: Vec::new(),
        previous: None,
        current: None,
        next: None,
        places: [None; THEIR_SESSIONS],
        sender: 0,
    };
    for _ in 0..STEPS {
        // Nobody minds 30 ms between two messages: Penstock takes initiations 20 ms apart.
        game.pass(Duration::from_millis(30));
        if game.input.is_empty() || !game.has_places() {
            break;
        }
        game.step();
    }
}

impl Game<'_> {
    fn step(&mut self) {
        let what = self.input.byte();
        match what % 16 {
            0..=2 => self.initiate(),
            3..=4 => self.respond(),
            5..=10 => self.data(),
            11..=13 => self.ask_to_send(),
            14 => {
                let ms = self.input.below(20_000) as u64;
                self.pass(Duration::from_millis(ms));
            }
            _ => {
                let s = self.input.below(240) as u64;
                self.pass(Duration::from_secs(s));
            }
        }
    }

    /// Whether boringtun still has the sessions that Penstock has.
    ///
    /// differs: it has eight places, which an index names; each try takes the next, be it the one in use, and what lies in the
    /// place that it sends with is sent with, confirmed or not. With a handshake that it gives up, all its sessions go.
    fn has_places(&self) -> bool {
        let roles = [self.previous, self.current, self.next];
        let there = |id: usize| self.places[self.place(id)] == Some(id);
        let sender = self.places[self.sender].filter(|id| roles.contains(&Some(*id)));
        let kept = roles.into_iter().flatten().all(there) && sender == self.current;
        kept && !self.tables.iter().any(|table| table.seat.has_given_up())
    }

    /// Boringtun's place of a session.
    fn place(&self, id: usize) -> usize {
        self.tables[1].sessions[id].remote as usize % THEIR_SESSIONS
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for at in 0..2 {
            let sent = self.tables[at].seat.pass(self.now);
            self.look_at(at, sent);
        }
        let over = |known: &Known| self.now - known.made >= Duration::from_secs(180);
        let over: Vec<bool> = self.sessions.iter().map(over).collect();
        for role in [&mut self.previous, &mut self.current, &mut self.next] {
            role.take_if(|id| over[*id]);
        }
    }

    /// What a seat sent by itself: initiations, and keepalives of a session that is known.
    fn look_at(&mut self, at: usize, sent: Vec<Vec<u8>>) {
        for datagram in sent {
            if datagram[0] == 1 {
                self.tables[at].begun = Some((datagram, self.now));
            } else {
                let (_, inner) = self.opened(at, &datagram);
                assert!(inner.is_empty() || inner[0] == 0x45, "{inner:?}");
            }
        }
    }

    /// Transport data of a seat: the session, and what was in it. Every counter once.
    fn opened(&mut self, at: usize, datagram: &[u8]) -> (usize, Vec<u8>) {
        let table = &mut self.tables[at];
        let name = table.seat.name();
        assert_eq!(datagram[..4], [4, 0, 0, 0], "{name}");
        let id = number(datagram, 4) as usize;
        let session = table.sessions.get(id).unwrap_or_else(|| panic!("{name}: session {id}"));
        let (counter, inner) = session.open(datagram).unwrap_or_else(|| panic!("{name}: a tag"));
        assert!(table.counters.insert((id, counter)), "{name}: {counter} twice");
        (id, inner)
    }

    /// Gives both the like, and says what they made of it: the same.
    fn give(&mut self, datagrams: [Vec<u8>; 2]) -> [Taken; 2] {
        let mut datagrams = datagrams.into_iter();
        let taken = self.tables.each_mut().map(|table| table.seat.take(&datagrams.next().unwrap()));
        let [ours, theirs] = &taken;
        assert_eq!(ours.accepted, theirs.accepted, "{taken:?}");
        assert_eq!(ours.delivered, theirs.delivered);
        taken
    }

    /// The peer begins.
    fn initiate(&mut self) {
        let ephemeral = self.input.bytes();
        let (fresh, timestamp) = match self.input.byte() % 8 {
            0 => (false, self.timestamp),
            1 => (false, self.timestamp.saturating_sub(1)),
            _ => (true, self.timestamp + 1 + self.input.below(1000) as u64),
        };
        let id = self.sessions.len();
        let wire = [&timestamp.to_be_bytes()[..], &[0; 4]].concat().try_into().unwrap();
        let begun = [(); 2].map(|()| self.peer.begin(id as u32, &ephemeral, &wire));
        let mut datagram = begun[0].datagram.clone();
        let same = !self.mutate(&mut datagram, INITIATION - 16, Some(4..8));
        let taken = self.give([datagram.clone(), datagram]);
        assert_eq!(taken[0].accepted, same && fresh, "an initiation");
        if !taken[0].accepted {
            return assert!(taken.iter().all(|taken| taken.answers.is_empty()), "{taken:?}");
        }
        self.timestamp = timestamp;
        for (at, (mut taken, begun)) in taken.into_iter().zip(begun).enumerate() {
            let table = &mut self.tables[at];
            let session = self.peer.end(begun, &taken.answers.remove(0));
            table.sessions.push(session.expect("snow takes the response"));
            // differs: boringtun would still take a response to what it began before.
            table.begun = None;
            // differs: boringtun tries what waits without a session, which begins a handshake.
            self.look_at(at, taken.answers);
        }
        self.sessions.push(Known { made: self.now, ..Known::default() });
        (self.previous, self.next) = (None, Some(id));
        self.places[self.place(id)] = Some(id);
    }

    /// The peer answers what both began; if they have begun nothing, they are asked to.
    fn respond(&mut self) {
        if self.tables.iter().any(|table| table.begun.is_none()) {
            self.ask_to_send();
        }
        let waiting = |begun: &(Vec<u8>, Duration)| self.now - begun.1 < ATTEMPT;
        let [Some(ours), Some(theirs)] =
            self.tables.each_ref().map(|table| table.begun.clone().filter(waiting))
        else {
            return;
        };
        let id = self.sessions.len();
        let ephemeral = self.input.bytes();
        let mut sessions = Vec::new();
        let mut responses = [ours.0, theirs.0].map(|begun| {
            let (response, session, timestamp) = self.peer.answer(&begun, id as u32, &ephemeral);
            sessions.push((session, timestamp));
            response
        });
        let rest = self.input.clone();
        let mut same = true;
        for response in &mut responses {
            self.input = rest.clone();
            let signed = response.len() - 16;
            same = !self.mutate(response, signed, Some(4..8));
        }
        let taken = self.give(responses.clone());
        assert_eq!(taken[0].accepted, same, "a response");
        if !same {
            return assert!(taken.iter().all(|taken| taken.answers.is_empty()), "{taken:?}");
        }
        for (table, (session, timestamp)) in self.tables.iter_mut().zip(sessions) {
            table.sessions.push(session);
            table.begun = None;
            assert!(timestamp > table.timestamp, "{}: a timestamp", table.seat.name());
            table.timestamp = timestamp;
        }
        self.sessions.push(Known { made: self.now, ..Known::default() });
        self.previous = self.next.take().or(self.current);
        self.current = Some(id);
        self.sender = self.place(id);
        self.places[self.sender] = Some(id);
        for (at, taken) in taken.into_iter().enumerate() {
            assert!(!taken.answers.is_empty(), "the initiator confirms at once");
            for answer in taken.answers {
                assert_eq!(self.opened(at, &answer).0, id, "with the new session");
            }
        }
        let again = self.give(responses);
        assert!(!again[0].accepted, "a response is taken once");
    }

    /// The peer sends something in one of the last sessions.
    fn data(&mut self) {
        let back = (self.input.below(8) / 2).saturating_sub(1);
        let Some(id) = self.sessions.len().checked_sub(1 + back) else { return };
        let greatest = self.sessions[id].greatest;
        let far = self.input.below(3000) as u64;
        let counter = match self.input.byte() % 16 {
            0 => greatest,
            1..=3 => greatest.saturating_sub(far),
            4 => (greatest + 2).saturating_sub(OUR_WINDOW + far % 5),
            // The last number of all is none of Noise's.
            5 => greatest.saturating_add(4 * far).min(u64::MAX - 1),
            6 => LAST - far,
            7 => LAST,
            _ => greatest + 1,
        };
        let (inner, delivered) = self.inner();
        let mut datagram = self.tables[0].sessions[id].seal(counter, &inner);
        let mut theirs = self.tables[1].sessions[id].seal(counter, &inner);
        let rest = self.input.clone();
        let signed = datagram.len();
        let same = !self.mutate(&mut datagram, signed, None);
        self.input = rest;
        self.mutate(&mut theirs, signed, None);
        let live = [self.previous, self.current, self.next].contains(&Some(id));
        let fresh = {
            let known = &self.sessions[id];
            counter < LAST
                && counter.saturating_add(OUR_WINDOW) >= greatest
                && !known.seen.contains(&counter)
        };
        // differs: boringtun keeps more sessions, looks back less far, and has no last counter.
        if !live || counter.saturating_add(THEIR_WINDOW - 1) < greatest || counter >= LAST {
            let taken = self.tables[0].seat.take(&datagram);
            assert_eq!(taken.accepted, live && fresh && same && delivered.is_ok(), "{counter}");
        } else {
            let taken = self.give([datagram, theirs]);
            assert_eq!(taken[0].accepted, fresh && same && delivered.is_ok(), "{counter}");
            let expected = delivered.ok().flatten().filter(|_| fresh && same);
            assert_eq!(taken[0].delivered, expected);
            for (at, taken) in taken.into_iter().enumerate() {
                if live && fresh && same {
                    self.confirm(id);
                }
                self.look_at(at, taken.answers);
            }
        }
        if live && fresh && same {
            self.confirm(id);
            let known = &mut self.sessions[id];
            known.seen.insert(counter);
            known.greatest = known.greatest.max(counter);
        }
    }

    /// The first authentic message on the next session makes it the current one.
    fn confirm(&mut self, id: usize) {
        if self.next == Some(id) {
            self.previous = self.current;
            self.current = self.next.take();
            self.sender = self.place(id);
        }
    }

    /// Contents, and the packet that is to come out: none of a keepalive, an error if they are not a packet.
    fn inner(&mut self) -> (Vec<u8>, Result<Option<Vec<u8>>, ()>) {
        self.number += 1;
        let packet = packet(inner(A), inner(B), self.number);
        let mut wrong = packet.clone();
        match self.input.byte() % 16 {
            0..=2 => return (Vec::new(), Ok(None)),
            3 => wrong[0] = self.input.byte() & 0x0F | [0x00, 0x50, 0xF0][self.input.below(3)],
            4 => wrong.truncate(self.input.below(20).max(1)),
            5 => wrong[3] = 29 + self.input.byte() % 200,
            6 => wrong[12 + self.input.below(4)] ^= 1 + self.input.byte() % 255,
            _ => {
                let mut padded = packet.clone();
                padded.resize(28 + self.input.below(40), 0);
                return (padded, Ok(Some(packet)));
            }
        }
        (wrong, Err(()))
    }

    /// Both stacks send a packet: it leaves with the current session, or a handshake begins.
    fn ask_to_send(&mut self) {
        self.number += 1;
        let packet = packet(inner(B), inner(A), self.number);
        for at in 0..2 {
            let sent = self.tables[at].seat.send(&packet);
            let (data, others): (Vec<_>, Vec<_>) = sent.into_iter().partition(|one| one[0] == 4);
            self.look_at(at, others);
            assert_eq!(data.len(), usize::from(self.current.is_some()), "{at}: {data:?}");
            for datagram in data {
                let (id, inner) = self.opened(at, &datagram);
                assert_eq!(Some(id), self.current, "the current session sends");
                assert_eq!(inner[..28], packet, "what the stack sent");
                // differs: boringtun does not pad.
                let padding = if at == 0 { 4 } else { 0 };
                assert!(inner[28..] == [0; 4][..padding], "{inner:?}");
            }
        }
    }

    /// Maybe changes a message; says whether that matters. What lies from `signed` on is not looked at without load. Bytes of
    /// `free` are not authenticated once they are signed, so they stay as they are.
    fn mutate(
        &mut self,
        message: &mut Vec<u8>,
        signed: usize,
        free: Option<std::ops::Range<usize>>,
    ) -> bool {
        let how = self.input.byte();
        if !how.is_multiple_of(4) {
            return false;
        }
        let (at, byte) = (self.input.below(message.len()), 1 + self.input.byte() % 255);
        let mut matters = true;
        match how >> 2 & 7 {
            0 => message.truncate(at.max(1)),
            1 => message.extend(std::iter::repeat_n(byte, 1 + at)),
            _ if free.clone().is_some_and(|free| free.contains(&at)) => return false,
            _ => {
                message[at] ^= byte;
                matters = at < signed;
            }
        }
        // With a right mac1 what is wrong is found by what comes after it.
        if free.is_some() && matters && how & 0x80 != 0 {
            let before = message.clone();
            sign(message, &self.peer.other);
            matters = at < signed - 16 || message.len() != signed + 16 || *message == before;
        }
        matters
    }
}
