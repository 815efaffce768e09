//! Requests that nobody should make, several at once, while somebody else makes those that he should: the driver answers him all the
//! time, has what he set, and leaves nothing behind when it is unloaded.
//!
//! ```text
//!   four who make any request, of any length, and go in the middle of it ──┐
//!                                                                          ├── penstock-sim up NAME (penstock.sys)
//!   one who sets, and reads what he set ───────────────────────────────────┘
//! ```

#![allow(clippy::unwrap_used)] // A test stops where something is not as it should be.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use abi::capture::START_LEN;
use abi::ioctl::{
    GET, GET_STATISTICS, READ_CAPTURE, RELOAD_POLICY, SET, SET_ADAPTER_STATE, START_CAPTURE, Set,
    reads_output,
};
use ctl::change::{Change, PeerChange};
use ctl::driver::simulated::{DIRECTORY, Simulated};
use ctl::driver::{self, Driver};
use ctl::key::PublicKey;

mod simulated;

use simulated::{PENSTOCK, Tunnel, run};

/// How many requests each makes.
const ROUNDS: u64 = 500;
/// Lengths about those that something has: a word, the structures, a page, and longer.
const LENGTHS: [usize; 17] =
    [0, 1, 3, 4, 5, START_LEN, 79, 80, 81, 127, 128, 136, 216, 240, 4095, 4097, 70_000];

/// Numbers that are the same in every run.
struct Numbers(u64);

impl Numbers {
    /// xorshift64, which no multiple of a small number comes out of too often.
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[(self.next() % all.len() as u64) as usize]
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let kind = self.next() % 3;
        (0..len)
            .map(
                |_| if kind == 0 { 0 } else { self.next() as u8 & if kind == 1 { 3 } else { 255 } },
            )
            .collect()
    }
}

/// Makes a request, or a part of one, and may not wait for the answer.
fn bother(socket: &Path, numbers: &mut Numbers) {
    let any = numbers.next() as u32;
    // Another method, or a function that is none, behind the same device.
    let close = SET ^ (1 << (numbers.next() % 14));
    let code = numbers.of(&[
        GET,
        SET,
        SET,
        SET,
        SET_ADAPTER_STATE,
        GET_STATISTICS,
        RELOAD_POLICY,
        START_CAPTURE,
        READ_CAPTURE,
        close,
        any,
    ]);
    let (input, output) = (numbers.of(&LENGTHS), numbers.of(&LENGTHS));
    let mut request = format!("ioctl={code}\ninput={input}\noutput={output}\n\n").into_bytes();
    request.extend(numbers.bytes(input));
    if reads_output(code) {
        request.extend(numbers.bytes(output));
    }
    let mut stream = UnixStream::connect(socket).unwrap();
    let ends = numbers.next();
    if ends.is_multiple_of(4) {
        request.truncate((ends / 4) as usize % (request.len() + 1));
    }
    // The other end may be done with it before it has read everything.
    let _ = stream.write_all(&request);
    if ends % 4 > 1 {
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

#[test]
fn the_driver_serves_who_asks_rightly_whatever_others_ask() {
    let tunnel = Tunnel::up('i', None);
    let socket: PathBuf = Path::new(DIRECTORY).join(format!("{}.sock", tunnel.name));
    let bothering: Vec<_> = (1..=4_u64)
        .map(|seed| {
            let socket = socket.clone();
            std::thread::spawn(move || {
                let mut numbers = Numbers(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
                (0..ROUNDS).for_each(|_| bother(&socket, &mut numbers));
            })
        })
        .collect();
    let device = Simulated::default().open(&tunnel.name).unwrap();
    let mut rounds = 0_u64;
    while rounds < 20 || bothering.iter().any(|thread| !thread.is_finished()) {
        rounds += 1;
        let mut key = [0xA5; 32];
        key[..8].copy_from_slice(&rounds.to_le_bytes());
        let peers = vec![PeerChange::of(PublicKey(key))];
        let change = Change { peers, ..Change::default() };
        driver::set(&*device, change.encode()).unwrap();
        let answer = driver::get(&*device).unwrap();
        let peers = Set::parse(&answer).unwrap().peers().count();
        assert_eq!(peers as u64, rounds, "what was set is there, and nothing else");
        driver::get_statistics(&*device).unwrap();
    }
    for thread in bothering {
        thread.join().unwrap();
    }
    let change = Change { replace_peers: true, listen_port: Some(7), ..Change::default() };
    driver::set(&*device, change.encode()).unwrap();
    let shown = run(PENSTOCK, &["show", &tunnel.name, "listen-port"]);
    assert_eq!(shown.stdout, b"7\n");
}
