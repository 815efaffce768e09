//! Many peers with four allowed IPs each: what a look-up costs, how long configuring takes, and what a peer weighs.
//!
//! Beside `ip_network_table`, on the same prefixes and addresses, by turns in one run. A look-up is timed in three
//! ways: in a chain, where the next address is known only with the last answer, so that each waits for its memory;
//! in a stream, where the processor overlaps them as far as it sees; and several at once, as a batch of packets is looked up.
//! The peer, which knows no such thing, is timed in a stream then.

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use abi::ioctl::{
    AllowedIp, Set, Writer, interface_flag, peer_flag,
    writer::{InterfaceFields, PeerFields},
};
use crypto::protocol::allowed_ips::{AllowedIps, Prefix};
use crypto::protocol::hash_table::HashKey;
use crypto::protocol::{HandshakeLoad, IndexTable, Now, Tunnel};
use crypto::sync::{Shared, Unpinned};
use ip_network::IpNetwork;
use ip_network_table::IpNetworkTable;

const USAGE: &str = "usage: scale [--rounds N] [--peers N]

  --rounds N  interleaved samples of each, medians are printed (default 101)
  --peers N   peers, with four allowed IPs each (default 100000)

Run by scripts/bench.sh scale, which says more.";

/// Allowed IPs of a peer.
const PREFIXES: usize = 4;
/// Look-ups in a sample.
const LOOKUPS: usize = 2048;
/// Addresses that are looked up at once: as many as the driver does.
const BATCH: usize = 32;
/// Different addresses that are looked up: more than a sample's, so that caches do not know them.
const ADDRESSES: usize = 1 << 18;
/// Times everything is configured anew.
const CONFIGURATIONS: usize = 5;

/// Counts the bytes that are allocated.
struct Counting;

static LIVE_BYTES: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE_BYTES.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        LIVE_BYTES.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: passed on.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// SplitMix64: the same numbers in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let bits = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn wide(&mut self) -> u128 {
        u128::from(self.next()) << 64 | u128::from(self.next())
    }
}

/// Where the addresses of prefixes lie.
#[derive(Clone, Copy)]
struct Shape {
    name: &'static str,
    v4: (u32, u32),
    v6: (u128, u32),
    /// Whether they have all the lengths that there are from the network's on, and not the usual ones.
    any_length: bool,
}

/// All over the address space, and in one private network of each family; and what nobody has, for which the table is not made.
const SHAPES: [Shape; 3] = [
    Shape { name: "scattered", v4: (0, 0), v6: (0b001 << 125, 3), any_length: false },
    Shape {
        name: "one network",
        v4: (10 << 24, 8),
        v6: (0xFD12_3456_789A << 80, 32),
        any_length: false,
    },
    Shape { name: "any length", v4: (10 << 24, 8), v6: (0xFD << 120, 8), any_length: true },
];

impl Shape {
    fn v4(self, numbers: &mut Numbers) -> IpAddr {
        let (network, bits) = self.v4;
        let host = (numbers.next() as u32).checked_shr(bits).unwrap_or(0);
        Ipv4Addr::from(network | host).into()
    }

    fn v6(self, numbers: &mut Numbers) -> IpAddr {
        let (network, bits) = self.v6;
        let mask = u128::MAX.checked_shr(bits).unwrap_or(0);
        Ipv6Addr::from(network & !mask | numbers.wide() & mask).into()
    }

    /// A prefix of one of the usual lengths.
    fn prefix(self, numbers: &mut Numbers) -> Prefix {
        if self.any_length {
            let (address, from, to) = match numbers.below(2) {
                0 => (self.v4(numbers), self.v4.1, 32),
                _ => (self.v6(numbers), self.v6.1, 128),
            };
            let cidr = from as usize + numbers.below(to - from as usize + 1);
            return Prefix::new(address, cidr as u8).expect("not too long");
        }
        let (address, cidr) = match numbers.below(100) {
            0..35 => (self.v4(numbers), 32),
            35..47 => (self.v4(numbers), 24),
            47..50 => (self.v4(numbers), 16),
            50..75 => (self.v6(numbers), 128),
            75..95 => (self.v6(numbers), 64),
            _ => (self.v6(numbers), 48),
        };
        Prefix::new(address, cidr).expect("not too long")
    }
}

/// An address within a prefix.
fn within(prefix: Prefix, numbers: &mut Numbers) -> IpAddr {
    let cidr = u32::from(prefix.cidr());
    match prefix.address() {
        IpAddr::V4(address) => {
            let hosts = u32::MAX.checked_shr(cidr).unwrap_or(0);
            Ipv4Addr::from(u32::from(address) | numbers.next() as u32 & hosts).into()
        }
        IpAddr::V6(address) => {
            let hosts = u128::MAX.checked_shr(cidr).unwrap_or(0);
            Ipv6Addr::from(u128::from(address) | numbers.wide() & hosts).into()
        }
    }
}

/// What is printed and written.
#[derive(Default)]
struct Report(Vec<serde_json::Value>);

impl Report {
    fn line(&mut self, what: &str, unit: &str, ours: f64, theirs: Option<f64>) {
        let round = |value: f64| (value * 100.0).round() / 100.0;
        let ratio = theirs.map(|theirs| round(theirs / ours));
        match theirs {
            Some(theirs) => {
                println!("{what:58} {ours:9.1} {unit:12} {theirs:9.1}  {:5.2}x", theirs / ours)
            }
            None => println!("{what:58} {ours:9.1} {unit}"),
        }
        self.0.push(serde_json::json!({
            "what": what, "size": null, "unit": unit, "ours": round(ours),
            "peer": theirs.map(|_| "ip_network_table"), "theirs": theirs.map(round), "ratio": ratio,
        }));
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Nanoseconds of a look-up among some.
fn time(addresses: &[IpAddr], chained: bool, mut lookup: impl FnMut(IpAddr) -> u32) -> f64 {
    let nothing = usize::from(chained) & black_box(1);
    let begun = Instant::now();
    let (mut last, mut sum) = (0, 0);
    for at in 0..addresses.len() {
        // The answer is no number of an owner's highest bit: in a chain it adds nothing, and has to be known.
        let answer = lookup(addresses[at + (last as usize >> 31) * nothing]);
        if chained {
            last = answer;
        }
        sum ^= answer;
    }
    black_box(sum);
    begun.elapsed().as_nanos() as f64 / addresses.len() as f64
}

/// Nanoseconds until a word of memory is known, if all lie within so many bytes: what no look-up in a table of that size can
/// do without. Once if where it is was known only with the one before, and once if that is known of all.
fn memory(bytes: usize, rounds: usize) -> [f64; 2] {
    let count = bytes / 64;
    let mut numbers = Numbers(4);
    let mut order: Vec<_> = (0..count).collect();
    for end in (1..count).rev() {
        order.swap(end, numbers.below(end + 1));
    }
    let mut lines = vec![[0; 8]; count];
    for (at, line) in order.iter().enumerate() {
        lines[*line][0] = order[(at + 1) % count];
    }
    let mut at = 0;
    let mut times = [const { Vec::new() }; 2];
    let each = |begun: Instant| begun.elapsed().as_nanos() as f64 / LOOKUPS as f64;
    for round in 0..rounds {
        let begun = Instant::now();
        for _ in 0..LOOKUPS {
            at = lines[at][0];
        }
        times[0].push(each(begun));
        let known = order.iter().cycle().skip(round * LOOKUPS % count).take(LOOKUPS);
        let begun = Instant::now();
        at = known.fold(at, |sum, line| sum ^ lines[*line][0]) % count;
        times[1].push(each(begun));
    }
    black_box(at);
    times.map(median)
}

/// No owner, as a number without the highest bit.
const NOBODY: u32 = 0x7FFF_FFFF;

fn lookups(shape: Shape, owners: usize, rounds: usize, report: &mut Report) {
    let mut numbers = Numbers(1);
    let prefixes: Vec<_> = (0..owners * PREFIXES).map(|_| shape.prefix(&mut numbers)).collect();
    let before = LIVE_BYTES.load(Ordering::Relaxed);
    let begun = Instant::now();
    let mut ours = AllowedIps::new();
    ours.reserve(prefixes.len(), owners).expect("memory");
    for (at, prefix) in prefixes.iter().enumerate() {
        assert!(ours.insert(*prefix, (at / PREFIXES) as u32));
    }
    let our_filling = begun.elapsed();
    let between = LIVE_BYTES.load(Ordering::Relaxed);
    let begun = Instant::now();
    let mut theirs = IpNetworkTable::new();
    for (at, prefix) in prefixes.iter().enumerate() {
        let network = IpNetwork::new(prefix.address(), prefix.cidr()).expect("masked");
        theirs.insert(network, (at / PREFIXES) as u32);
    }
    let their_filling = begun.elapsed();
    let after = LIVE_BYTES.load(Ordering::Relaxed);
    let each = |from: usize, to: usize| (to - from) as f64 / prefixes.len() as f64;
    let milliseconds = |time: Duration| Some(time.as_secs_f64() * 1e3);
    let name = shape.name;
    let what = format!("{name}: {} prefixes put in", prefixes.len());
    report.line(&what, "ms", our_filling.as_secs_f64() * 1e3, milliseconds(their_filling));
    report.line(
        &format!("{name}: memory of a prefix"),
        "bytes",
        each(before, between),
        Some(each(between, after)),
    );

    let hits: Vec<_> = (0..ADDRESSES)
        .map(|_| within(prefixes[numbers.below(prefixes.len())], &mut numbers))
        .collect();
    let misses: Vec<_> = (0..ADDRESSES)
        .map(|at| if at % 2 == 0 { shape.v4(&mut numbers) } else { shape.v6(&mut numbers) })
        .collect();
    let our_lookup = |address: IpAddr| ours.lookup(address).unwrap_or(NOBODY);
    let their_lookup =
        |address: IpAddr| theirs.longest_match(address).map_or(NOBODY, |(_, owner)| *owner);
    for address in hits.iter().chain(&misses) {
        assert_eq!(our_lookup(*address), their_lookup(*address), "{address}");
    }
    let v4: Vec<_> = hits.iter().copied().filter(IpAddr::is_ipv4).collect();
    let v6: Vec<_> = hits.iter().copied().filter(IpAddr::is_ipv6).collect();
    let kinds = [
        ("hits", &hits, true),
        ("hits of IPv4", &v4, true),
        ("hits of IPv6", &v6, true),
        ("random addresses", &misses, true),
        ("hits, in a stream", &hits, false),
    ];
    for (kind, addresses, chained) in kinds {
        let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
        let mut blocks = addresses.chunks_exact(LOOKUPS).cycle();
        for _ in 0..rounds {
            // Each different ones, of which the first are not counted: caches are as such look-ups leave them, and not as
            // the other table's do.
            let mut next = || blocks.next().expect("endless");
            time(next(), chained, our_lookup);
            our_times.push(time(next(), chained, our_lookup));
            time(next(), chained, their_lookup);
            their_times.push(time(next(), chained, their_lookup));
        }
        report.line(&format!("{name}: {kind}"), "ns", median(our_times), Some(median(their_times)));
    }
    let batch = |addresses: &[IpAddr]| {
        let begun = Instant::now();
        let mut sum = 0;
        for some in addresses.chunks_exact(BATCH) {
            let owners: [_; BATCH] = ours.lookup_all(some);
            sum ^= owners.iter().fold(0, |sum, owner| sum ^ owner.unwrap_or(NOBODY));
        }
        black_box(sum);
        begun.elapsed().as_nanos() as f64 / addresses.len() as f64
    };
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    let mut blocks = hits.chunks_exact(LOOKUPS).cycle();
    for _ in 0..rounds {
        let mut next = || blocks.next().expect("endless");
        batch(next());
        our_times.push(batch(next()));
        time(next(), false, their_lookup);
        their_times.push(time(next(), false, their_lookup));
    }
    let what = format!("{name}: hits, {BATCH} at once");
    report.line(&what, "ns", median(our_times), Some(median(their_times)));
    let (mut our_times, mut their_times) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let same = vec![hits[round % hits.len()]; LOOKUPS];
        our_times.push(time(&same, true, our_lookup));
        their_times.push(time(&same, true, their_lookup));
    }
    report.line(
        &format!("{name}: the same again"),
        "ns",
        median(our_times),
        Some(median(their_times)),
    );
}

/// A request that configures many peers, as a tool sends it.
fn request(shape: Shape, peers: usize, prefixes: usize) -> Vec<u8> {
    let mut numbers = Numbers(2);
    let mut write = |buffer: &mut [u8]| {
        let interface = InterfaceFields {
            flags: interface_flag::HAS_PRIVATE_KEY | interface_flag::REPLACE_PEERS,
            listen_port: 0,
            private_key: &[7; 32],
            public_key: &[0; 32],
        };
        let mut writer = Writer::new(buffer, &interface);
        for _ in 0..peers {
            let [high, low] = [numbers.wide(), numbers.wide()].map(u128::to_le_bytes);
            let mut public_key = [0; 32];
            public_key[..16].copy_from_slice(&high);
            public_key[16..].copy_from_slice(&low);
            writer.peer(&PeerFields {
                flags: peer_flag::HAS_PUBLIC_KEY | peer_flag::REPLACE_ALLOWED_IPS,
                ..PeerFields::of(&public_key)
            });
            for _ in 0..prefixes {
                let prefix = shape.prefix(&mut numbers);
                writer.allowed_ip(&AllowedIp {
                    address: prefix.address(),
                    cidr: prefix.cidr(),
                    remove: false,
                });
            }
        }
        writer.len_bytes()
    };
    let mut bytes = vec![0; write(&mut [])];
    write(&mut bytes);
    bytes
}

/// A tunnel, configured by the calls that the driver's IOCTL makes, and the time they took.
fn configured(request: &[u8]) -> (Tunnel<()>, Duration) {
    let now = Now {
        monotonic: crypto::protocol::Instant(Duration::from_secs(1)),
        wall: Duration::from_secs(1 << 30),
    };
    let index = Shared::try_new(IndexTable::try_new().expect("memory")).expect("memory");
    let load = Shared::try_new(HandshakeLoad::new(HashKey::new([4; 16]))).expect("memory");
    let tunnel = Tunnel::try_new(1, index, load, HashKey::new([3; 16])).expect("memory");
    let begun = Instant::now();
    let set = Set::parse(request).expect("well-formed");
    tunnel.prepare(&Unpinned, &set).expect("valid").commit(&Unpinned, now);
    (tunnel, begun.elapsed())
}

fn configuring(peers: usize, rounds: usize, report: &mut Report) {
    let shape = SHAPES[0];
    let with_prefixes = request(shape, peers, PREFIXES);
    let mut times = Vec::new();
    let mut one = Vec::new();
    for _ in 0..CONFIGURATIONS {
        let (tunnel, time) = configured(&with_prefixes);
        times.push(time.as_secs_f64() * 1e3);
        let more = request(SHAPES[1], 1, PREFIXES);
        let more = [&[0; 4], &more[4..]].concat();
        let begun = Instant::now();
        let set = Set::parse(&more).expect("well-formed");
        let now = Now {
            monotonic: crypto::protocol::Instant(Duration::from_secs(2)),
            wall: Duration::from_secs(1 << 30),
        };
        tunnel.prepare(&Unpinned, &set).expect("valid").commit(&Unpinned, now);
        one.push(begun.elapsed().as_secs_f64() * 1e6);
        tunnel.close(&Unpinned);
    }
    report.line(&format!("{peers} peers configured"), "ms", median(times), None);
    report.line("and one peer more", "us", median(one), None);

    let mut weights = Vec::new();
    for prefixes in [0, 2, PREFIXES] {
        let request = request(shape, peers, prefixes);
        let before = LIVE_BYTES.load(Ordering::Relaxed);
        let (tunnel, _) = configured(&request);
        let after = LIVE_BYTES.load(Ordering::Relaxed);
        weights.push((prefixes, (after - before) as f64 / peers as f64));
        if prefixes == PREFIXES {
            whole_lookups(&tunnel, &request, rounds, report);
        }
        tunnel.close(&Unpinned);
    }
    for (prefixes, bytes) in weights {
        report.line(
            &format!("memory of an idle peer with {prefixes} allowed IPs"),
            "bytes",
            bytes,
            None,
        );
    }
}

/// Look-ups as the data path makes them: with the table's lock and a reference to the peer.
fn whole_lookups(tunnel: &Tunnel<()>, request: &[u8], rounds: usize, report: &mut Report) {
    let mut numbers = Numbers(3);
    let set = Set::parse(request).expect("well-formed");
    let prefixes: Vec<_> = set
        .peers()
        .flat_map(|peer| peer.allowed_ips().collect::<Vec<_>>())
        .map(|given| Prefix::new(given.address, given.cidr).expect("valid"))
        .collect();
    let addresses: Vec<_> = (0..ADDRESSES)
        .map(|_| within(prefixes[numbers.below(prefixes.len())], &mut numbers))
        .collect();
    let lookup = |address: IpAddr| {
        tunnel.peer_for(&Unpinned, address).map_or(NOBODY, |peer| u32::from(peer.public_key()[0]))
    };
    let mut cached: Option<IpAddr> = None;
    let (mut any, mut again, mut remembered) = (Vec::new(), Vec::new(), Vec::new());
    for (round, block) in addresses.chunks_exact(LOOKUPS).cycle().take(rounds).enumerate() {
        any.push(time(block, true, lookup));
        let same = vec![block[round % LOOKUPS]; LOOKUPS];
        again.push(time(&same, true, lookup));
        remembered.push(time(&same, true, |address| {
            if black_box(cached) != Some(address) {
                cached = Some(address);
                return lookup(address) & 1;
            }
            0
        }));
    }
    report.line("Tunnel::peer_for: lock, look-up, reference; hits", "ns", median(any), None);
    report.line("Tunnel::peer_for: the same again", "ns", median(again), None);
    report.line(
        "the previous destination, as the driver remembers it",
        "ns",
        median(remembered),
        None,
    );
}

fn main() {
    let (mut rounds, mut peers) = (101, 100_000);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let value = match argument.as_str() {
            "-h" | "--help" => {
                println!("{USAGE}");
                return;
            }
            "--rounds" => &mut rounds,
            "--peers" => &mut peers,
            _ => quit(),
        };
        *value = arguments.next().and_then(|value| value.parse().ok()).unwrap_or_else(|| quit());
        if *value == 0 {
            quit();
        }
    }
    println!("{:58} {:>9} {:12} {:>9}  ratio", "", "Penstock", "", "ip_network_table");
    let mut report = Report::default();
    for mebibytes in [1, 16, 32] {
        let what = format!("a word anywhere in {mebibytes} MiB, for comparison");
        let [chained, streamed] = memory(mebibytes << 20, rounds);
        report.line(&what, "ns", chained, None);
        report.line("the same, in a stream", "ns", streamed, None);
    }
    for shape in SHAPES {
        lookups(shape, peers, rounds, &mut report);
    }
    configuring(peers, rounds, &mut report);
    let path = "target/bench/scale.json";
    let written = std::fs::create_dir_all("target/bench")
        .and_then(|()| std::fs::write(path, serde_json::Value::from(report.0).to_string()));
    written.expect(path);
}

fn quit() -> ! {
    eprintln!("{USAGE}");
    std::process::exit(2)
}
