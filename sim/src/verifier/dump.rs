//! A machine's memory in a file, as a dump has it: what `scripts/windbg` is tried on.
//!
//! The driver's image, its pool, and of Windows what the script reads: the time of the last clock tick and the stop's code and
//! parameters. The file is lines of text, an empty line, and the bytes of regions and of data behind the dump, one after the other:
//!
//! ```text
//! symbol penstock!PenstockDescriptor 0x140099000
//! region 0x140000000 864256 the image
//! tag 8E0F3F702D3B4B579C7A5C1B8E0A6D41 91234
//! stop 0x133 0x0 0x501 0x500 0x0
//! ```
//!
//! Pages that the driver's callback takes out of dumps are left out ([`Dump::of`]); what a thread is just at is not in it at all.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use abi::descriptor;

use crate::nt::machine::Machine;
use crate::nt::memory;

/// Where Windows shows every program and driver the time. Source: WDK ntddk.h (`KI_USER_SHARED_DATA`).
const USER_SHARED_DATA: u64 = 0xFFFF_F780_0000_0000;
/// `KUSER_SHARED_DATA.InterruptTime`.
const INTERRUPT_TIME: usize = 8;
/// Where this simulator says that `nt!KiBugCheckData` is: the code and its four parameters.
const BUGCHECK_DATA: u64 = 0xFFFF_F800_0000_0000;

const PAGE: usize = 4096;

/// A stretch of a machine's memory.
#[derive(Clone, Debug)]
pub struct Stretch {
    /// What it is.
    pub what: &'static str,
    /// Where it begins.
    pub at: u64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Stretch {
    /// What is left of it without these pages.
    fn without(self, pages: &BTreeSet<usize>) -> Vec<Self> {
        let (begin, end) = (self.at as usize, self.at as usize + self.bytes.len());
        let mut left = Vec::new();
        let mut from = begin;
        for &page in pages.range(begin.saturating_sub(PAGE - 1)..end) {
            let part = from..page.clamp(from, end);
            left.push(part);
            from = (page + PAGE).min(end);
        }
        left.push(from..end);
        left.retain(|part| !part.is_empty());
        let part = |part: std::ops::Range<usize>| Self {
            what: self.what,
            at: part.start as u64,
            bytes: self.bytes[part.start - begin..part.end - begin].to_vec(),
        };
        left.into_iter().map(part).collect()
    }
}

/// What a dump holds.
#[derive(Clone, Debug)]
pub struct Dump {
    /// `module!name` and address.
    pub symbols: Vec<(String, u64)>,
    /// The memory.
    pub stretches: Vec<Stretch>,
    /// Data behind the dump: their GUID, as memory has it, and the bytes.
    pub tagged: Vec<([u8; 16], Vec<u8>)>,
    /// What the dump's head says of the stop: its code and parameters, all 0 if there was none.
    pub stop: [u64; 5],
}

impl Dump {
    /// Of a machine in which nothing runs meanwhile (Virtual mode), or that has stopped, with what the driver's callbacks say.
    pub fn of(machine: &Machine) -> Self {
        let told = machine.crash_data();
        let mut dump = Self::whole(machine);
        dump.stretches = std::mem::take(&mut dump.stretches)
            .into_iter()
            .flat_map(|stretch| stretch.without(&told.removed))
            .collect();
        dump.tagged = told.secondary;
        dump
    }

    /// A small one: what the driver's callback adds to it, and the image, which a debugger has from its file.
    pub fn small(machine: &Machine) -> Self {
        let told = machine.crash_data();
        let mut dump = Self::whole(machine);
        dump.stretches.retain(|stretch| stretch.what != "pool");
        let added = |(at, bytes)| Stretch { what: "added by the driver", at, bytes };
        let added: Vec<Stretch> = told.triage.into_iter().map(added).collect();
        dump.stretches.splice(..0, added);
        dump.tagged = told.secondary;
        dump
    }

    /// The same as if the driver had no callbacks: with its secrets.
    pub fn whole(machine: &Machine) -> Self {
        let mut symbols = vec![("nt!KiBugCheckData".to_owned(), BUGCHECK_DATA)];
        let mut stretches = Vec::new();
        if let Some(image) = machine.image() {
            let found = image.export(descriptor::NAME);
            symbols.extend(found.map(|at| (format!("penstock!{}", descriptor::NAME), at as u64)));
            let bytes = memory::bytes(image.base(), image.size());
            stretches.push(Stretch { what: "the image", at: image.base() as u64, bytes });
        }
        let live = machine.pool().live().into_iter();
        stretches.extend(live.map(|(at, bytes)| Stretch { what: "pool", at: at as u64, bytes }));
        let mut shared = vec![0; 0x1000];
        let time = machine.coarse_time().interrupt;
        shared[INTERRUPT_TIME..INTERRUPT_TIME + 8].copy_from_slice(&time.to_le_bytes());
        let what = "KUSER_SHARED_DATA";
        stretches.push(Stretch { what, at: USER_SHARED_DATA, bytes: shared });
        let stop = machine.stop_report();
        let [a, b, c, d] = stop.as_ref().map_or([0; 4], |stop| stop.parameters);
        let stop = [stop.map_or(0, |stop| stop.code.into()), a, b, c, d];
        let bytes = stop.iter().flat_map(|word: &u64| word.to_le_bytes()).collect();
        stretches.push(Stretch { what: "KiBugCheckData", at: BUGCHECK_DATA, bytes });
        Self { symbols, stretches, tagged: Vec::new(), stop }
    }

    /// Writes the file.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
        for (name, at) in &self.symbols {
            writeln!(file, "symbol {name} {at:#x}")?;
        }
        for Stretch { what, at, bytes } in &self.stretches {
            writeln!(file, "region {at:#x} {} {what}", bytes.len())?;
        }
        for (guid, bytes) in &self.tagged {
            writeln!(file, "tag {} {}", digits(guid), bytes.len())?;
        }
        let [code, a, b, c, d] = self.stop;
        writeln!(file, "stop {code:#x} {a:#x} {b:#x} {c:#x} {d:#x}\n")?;
        let memory = self.stretches.iter().map(|stretch| &stretch.bytes);
        for bytes in memory.chain(self.tagged.iter().map(|(_, bytes)| bytes)) {
            file.write_all(bytes)?;
        }
        file.flush()
    }
}

/// A GUID's digits, in the order in which they are written.
fn digits(guid: &[u8; 16]) -> String {
    let order = [3, 2, 1, 0, 5, 4, 7, 6, 8, 9, 10, 11, 12, 13, 14, 15];
    order.iter().map(|at: &usize| format!("{:02X}", guid[*at])).collect()
}
