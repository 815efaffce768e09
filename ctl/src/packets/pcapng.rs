//! A file of packets as Wireshark, tshark and tcpdump read it: pcapng, little-endian.
//!
//! There are two interfaces in it: the outside of the tunnel, whose datagrams get headers ([`super::headers`]), and the inside. How many
//! packets there were and how many were missed is told for each, whenever more were missed and at the end: the last one counts, so
//! that a file that somebody broke off tells it, too.
//!
//! Source: draft-ietf-opsawg-pcapng; <https://www.tcpdump.org/linktypes.html>.

use std::io::{self, Write};

use abi::capture::{Counts, INNER, OUTER, Record};

use super::headers;

const SECTION_HEADER: u32 = 0x0A0D_0D0A;
const INTERFACE_DESCRIPTION: u32 = 1;
const INTERFACE_STATISTICS: u32 = 5;
const ENHANCED_PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1A2B_3C4D;
/// LINKTYPE_RAW: IPv4 or IPv6, as the first byte says.
const RAW: u16 = 101;
/// if_tsresol: times are in 10⁻⁷ s.
const TICKS: u8 = 7;
/// The longest headers that a datagram gets.
const HEADERS_MAX: u32 = 48;

/// Options of blocks.
mod option {
    pub(super) const SHB_USERAPPL: u16 = 4;
    pub(super) const IF_NAME: u16 = 2;
    pub(super) const IF_DESCRIPTION: u16 = 3;
    pub(super) const IF_TSRESOL: u16 = 9;
    pub(super) const EPB_FLAGS: u16 = 2;
    pub(super) const ISB_IFRECV: u16 = 4;
    pub(super) const ISB_IFDROP: u16 = 5;
}

/// A file that is being written.
pub struct File<W> {
    out: W,
    /// Of the interface that statistics are about: the last time of a packet.
    last: u64,
    told: Counts,
}

impl<W: Write> File<W> {
    /// Begins a file of an interface's packets, of each `snap` bytes at most.
    ///
    /// # Errors
    ///
    /// Whatever writing says.
    pub fn begin(mut out: W, name: &str, snap: u32) -> io::Result<Self> {
        let program = concat!("penstock ", env!("CARGO_PKG_VERSION"));
        let mut block = Block::new(SECTION_HEADER);
        block.word(BYTE_ORDER).half(1).half(0).double(u64::MAX);
        block.option(option::SHB_USERAPPL, program.as_bytes());
        block.write(&mut out)?;
        for (name, what, snap) in [
            (
                format!("{name} outside"),
                "datagrams, with headers made by penstock",
                snap + HEADERS_MAX,
            ),
            (format!("{name} inside"), "packets of the tunnel", snap),
        ] {
            let mut block = Block::new(INTERFACE_DESCRIPTION);
            block.half(RAW).half(0).word(snap);
            block.option(option::IF_NAME, name.as_bytes());
            block.option(option::IF_DESCRIPTION, what.as_bytes());
            block.option(option::IF_TSRESOL, &[TICKS]);
            block.write(&mut out)?;
        }
        Ok(Self { out, last: 0, told: Counts::default() })
    }

    /// Writes a packet.
    ///
    /// # Errors
    ///
    /// Whatever writing says.
    pub fn packet(&mut self, record: &Record<'_>) -> io::Result<()> {
        let Record { head, bytes } = record;
        let headers =
            if head.place.what() == OUTER { headers::of(head, bytes) } else { Vec::new() };
        let added = headers.len() as u32;
        let mut block = Block::new(ENHANCED_PACKET);
        block.word(interface(head.place.what())).time(head.time_100ns);
        block.word(added.saturating_add(bytes.len() as u32));
        block.word(added.saturating_add(head.original));
        block.bytes(&[&headers[..], bytes].concat());
        let direction: u32 = if head.place.is_out() { 2 } else { 1 };
        block.option(option::EPB_FLAGS, &direction.to_le_bytes());
        self.last = head.time_100ns;
        block.write(&mut self.out)
    }

    /// Tells what was missed, if that is more than was told, and gives all of it to the system.
    ///
    /// # Errors
    ///
    /// Whatever writing says.
    pub fn flush(&mut self, counts: &Counts) -> io::Result<()> {
        let missed = |counts: &Counts| (counts.outer.missed, counts.inner.missed);
        if missed(counts) != missed(&self.told) {
            self.tell(counts)?;
        }
        self.out.flush()
    }

    /// Ends the file.
    ///
    /// # Errors
    ///
    /// Whatever writing says.
    pub fn end(mut self, counts: &Counts) -> io::Result<()> {
        self.tell(counts)?;
        self.out.flush()
    }

    fn tell(&mut self, counts: &Counts) -> io::Result<()> {
        for (what, count) in [(OUTER, counts.outer), (INNER, counts.inner)] {
            let mut block = Block::new(INTERFACE_STATISTICS);
            block.word(interface(what)).time(self.last);
            block.option(option::ISB_IFRECV, &count.seen.to_le_bytes());
            block.option(option::ISB_IFDROP, &count.missed.to_le_bytes());
            block.write(&mut self.out)?;
        }
        self.told = *counts;
        Ok(())
    }
}

/// The number of an interface in the file.
const fn interface(what: u32) -> u32 {
    if what == OUTER { 0 } else { 1 }
}

/// A block that is being made.
struct Block {
    kind: u32,
    body: Vec<u8>,
}

impl Block {
    const fn new(kind: u32) -> Self {
        Self { kind, body: Vec::new() }
    }

    fn half(&mut self, value: u16) -> &mut Self {
        self.body.extend(value.to_le_bytes());
        self
    }

    fn word(&mut self, value: u32) -> &mut Self {
        self.body.extend(value.to_le_bytes());
        self
    }

    fn double(&mut self, value: u64) -> &mut Self {
        self.body.extend(value.to_le_bytes());
        self
    }

    /// The upper half first.
    fn time(&mut self, ticks: u64) -> &mut Self {
        self.word((ticks >> 32) as u32).word(ticks as u32)
    }

    /// With zeros to the next word.
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.body.extend(bytes);
        self.body.resize(self.body.len().next_multiple_of(4), 0);
        self
    }

    fn option(&mut self, code: u16, value: &[u8]) {
        // Ours are short.
        self.half(code).half(value.len() as u16).bytes(value);
    }

    /// Every block of ours ends with options.
    fn write(mut self, out: &mut impl Write) -> io::Result<()> {
        self.half(0).half(0);
        // Its kind, its length twice, and the body.
        let len = (self.body.len() as u32).saturating_add(12);
        out.write_all(&[self.kind.to_le_bytes(), len.to_le_bytes()].concat())?;
        out.write_all(&self.body)?;
        out.write_all(&len.to_le_bytes())
    }
}

#[cfg(test)]
mod tests {
    use abi::capture::{Count, Head, Place};

    use super::*;

    /// Kinds and bodies of the blocks, whose two lengths agree.
    fn blocks(mut file: &[u8]) -> Vec<(u32, Vec<u8>)> {
        let mut blocks = Vec::new();
        while let Some((head, _)) = file.split_first_chunk::<8>() {
            let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
            let (block, rest) = file.split_at(word(4) as usize);
            assert_eq!(block.len() % 4, 0);
            assert_eq!(block[block.len() - 4..], head[4..]);
            blocks.push((word(0), block[8..block.len() - 4].to_vec()));
            file = rest;
        }
        blocks
    }

    #[test]
    fn a_file_has_what_was_seen_and_what_was_missed() {
        let mut bytes = Vec::new();
        let mut file = File::begin(&mut bytes, "wg0", 96).unwrap();
        let head = Head {
            place: Place::InnerOut,
            time_100ns: 0x1_0000_0002,
            original: 1000,
            tos: 0,
            local: None,
            remote: None,
        };
        file.packet(&Record { head, bytes: b"12345" }).unwrap();
        let counts =
            |missed| Counts { outer: Count::default(), inner: Count { seen: missed + 1, missed } };
        file.flush(&counts(0)).unwrap();
        file.flush(&counts(2)).unwrap();
        file.flush(&counts(2)).unwrap();
        file.end(&counts(2)).unwrap();
        let blocks = blocks(&bytes);
        let kinds: Vec<u32> = blocks.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [SECTION_HEADER, 1, 1, 6, 5, 5, 5, 5], "told as often as there is more");
        let packet = [
            &[1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 5, 0, 0, 0, 0xE8, 3, 0, 0][..],
            b"12345\0\0\0",
            &[2, 0, 4, 0, 2, 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(blocks[3].1, packet.concat());
        let told = &blocks[7].1;
        assert_eq!(told[..12], [1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
        assert_eq!(
            told[12..],
            [
                &[4, 0, 8, 0, 3, 0, 0, 0, 0, 0, 0, 0][..],
                &[5, 0, 8, 0, 2, 0, 0, 0, 0, 0, 0, 0],
                &[0; 4]
            ]
            .concat()
        );
    }
}
