//! What the services say in Windows' event log: one table, from which come the message file in `penstock.exe` (`ctl/build.rs`), the page
//! of `docs/events.md`, and what is reported.
//!
//! Numbers are what administrators filter by: an event is added at the end, and never renumbered. No event has a secret key in it: what is put
//! in the places of its text is looked at first ([`shown`]).
//!
//! Source: [MS-WINERRORI] for the numbers; <https://learn.microsoft.com/windows/win32/api/winnt/ns-winnt-message_resource_data>.

/// The source by which the log knows them.
pub const SOURCE: &str = "Penstock";
/// Characters in a row that may be a key, of which base64 has 44 and hex 64.
const KEY_LIKE: usize = 40;
/// What stands in its place.
const HIDDEN: &str = "(not shown)";

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Something was done.
    Information,
    /// Something is not as it should be, and went on.
    Warning,
    /// Something could not be done.
    Error,
}

impl Level {
    /// Its name in Event Viewer.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Information => "Information",
            Self::Warning => "Warning",
            Self::Error => "Error",
        }
    }

    /// What a message's identifier says of it: severity, and that it is not Microsoft's.
    const fn bits(self) -> u32 {
        let severity = match self {
            Self::Information => 1,
            Self::Warning => 2,
            Self::Error => 3,
        };
        severity << 30 | 1 << 29
    }
}

macro_rules! events {
    ($($number:literal $level:ident $name:ident $text:literal;)*) => {
        /// Something that is told.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Event {
            $(#[doc = $text] $name = $number,)*
        }

        impl Event {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// How bad it is.
            #[must_use]
            pub const fn level(self) -> Level {
                match self { $(Self::$name => Level::$level,)* }
            }

            /// What is said, with `%1` and so on in the places of words.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

events! {
    1 Information TunnelUp "The tunnel %1 is up.";
    2 Information TunnelDown "The tunnel %1 is down.";
    3 Error TunnelFailed "The tunnel %1 cannot come up: %2";
    4 Error FileRefused "The file of the tunnel %1 is not taken: %2";
    5 Warning FileStrange "The file of the tunnel %1: %2";
    6 Warning FileReadable "The file %1 has keys in it, and %2 may read it: let System and administrators alone.";
    7 Warning Unseen "The tunnel %1 works, and wg.exe does not see it: %2";
    8 Error StepLeft "The tunnel %1 is down, and something of it is left: %2";
    9 Information ManagerStarted "The manager watches %1.";
    10 Information ManagerStopped "The manager stopped; tunnels stay as they are.";
    11 Error ManagerFailed "The manager cannot work: %1";
    12 Information FileSealed "The file of the tunnel %1 was encrypted, and the readable one removed.";
    13 Error FileNotSealed "The file of the tunnel %1 was not encrypted, and stays as it was: %2";
    14 Information TunnelInstalled "The service of the tunnel %1 was installed and started.";
    15 Error TunnelNotStarted "The service of the tunnel %1 could not be installed or started: %2";
    16 Information TunnelRemoved "The service of the tunnel %1 was removed: its file is gone.";
    17 Error TunnelNotRemoved "The service of the tunnel %1 could not be removed, though its file is gone: %2";
    18 Information TunnelRestarted "The service of the tunnel %1 was started anew: its file has changed.";
    19 Information PolicyApplied "The driver was handed what policy says now: %1";
    20 Warning PolicyRefused "A policy value is not taken: %1";
    21 Error PolicyNotApplied "The driver could not be handed what policy says: %1";
    22 Information Noted "The tunnel %1: %2";
    23 Information TunnelByPolicy "Policy sets the tunnel %1, and its peers are to know it by this public key: %2";
    24 Warning TunnelByPolicyRefused "What policy says of the tunnel %1 is not taken, and the tunnel stays as it was: %2";
}

impl Event {
    /// What Event Viewer shows as its number; the service stops with it, too.
    #[must_use]
    pub const fn number(self) -> u16 {
        self as u16
    }

    /// The identifier of its message.
    #[must_use]
    pub const fn id(self) -> u32 {
        self.level().bits() | self.number() as u32
    }

    /// The event of a number.
    #[must_use]
    pub fn of_number(number: u32) -> Option<Self> {
        Self::ALL.iter().copied().find(|event| u32::from(event.number()) == number)
    }
}

/// A word of an event, without what may be a key.
#[must_use]
pub fn shown(word: &str) -> String {
    let is_key = |c: char| c.is_ascii_alphanumeric() || "+/=_-".contains(c);
    let mut text = String::with_capacity(word.len());
    let mut rest = word;
    while let Some(first) = rest.chars().next() {
        let end = rest.find(|c| is_key(c) != is_key(first)).unwrap_or(rest.len());
        let (run, behind) = rest.split_at(end);
        text.push_str(if is_key(first) && run.len() >= KEY_LIKE { HIDDEN } else { run });
        rest = behind;
    }
    text
}

/// The bytes of a message table with all of them.
#[must_use]
pub fn message_table() -> Vec<u8> {
    let mut events: Vec<_> = Event::ALL.to_vec();
    events.sort_by_key(|event| event.id());
    let mut table = (events.len() as u32).to_le_bytes().to_vec();
    let mut entries = Vec::new();
    let front = 4 + 12 * events.len();
    for event in events {
        let (id, at) = (event.id(), (front + entries.len()) as u32);
        [id, id, at].iter().for_each(|word| table.extend(word.to_le_bytes()));
        let mut text: Vec<_> = event.text().encode_utf16().chain("\r\n\0".encode_utf16()).collect();
        // Entries are of whole words.
        text.resize(text.len().next_multiple_of(2), 0);
        entries.extend((4 + 2 * text.len() as u16).to_le_bytes());
        // UTF-16.
        entries.extend(1_u16.to_le_bytes());
        text.iter().for_each(|unit| entries.extend(unit.to_le_bytes()));
    }
    table.extend(entries);
    table
}

/// The page that lists them.
#[must_use]
pub fn page() -> String {
    let mut page = format!(
        "# Events\n\nWhat the services say in the log *Application*, source `{SOURCE}`: written from the table of `ctl/src/service/events.rs`,\n\
         which a test compares with this page. A service that fails stops with the number as its own exit code (`sc query`). No event\n\
         has a secret key in it.\n\n| | level | text |\n|---|---|---|\n"
    );
    for event in Event::ALL {
        let (number, level, text) = (event.number(), event.level().name(), event.text());
        page += &format!("| {number} | {level} | {text} |\n");
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_in_order_and_texts_have_their_words() {
        assert!(Event::ALL.is_sorted_by(|one, other| one.number() < other.number()));
        assert!(
            Event::ALL.iter().all(|event| Event::of_number(event.number().into()) == Some(*event))
        );
        for event in Event::ALL {
            let text = event.text();
            let places = text.matches('%').count();
            assert!((0..places).all(|place| text.contains(&format!("%{}", place + 1))), "{text}");
            assert!(text.ends_with('.') || text.ends_with(&format!("%{places}")), "{text}");
        }
    }

    /// Read as Windows does, each message is under its identifier.
    #[test]
    fn the_table_has_every_message_under_its_identifier() {
        let table = message_table();
        let word = |at: usize| u32::from_le_bytes(table[at..at + 4].try_into().unwrap());
        let blocks = (0..word(0) as usize).map(|block| 4 + 12 * block);
        let found: Vec<_> = blocks
            .map(|at| {
                let (low, high, entry) = (word(at), word(at + 4), word(at + 8) as usize);
                assert_eq!((low, word(entry) >> 16, entry % 4), (high, 1, 0));
                let len = word(entry) as usize & 0xFFFF;
                let units = table[entry + 4..entry + len].chunks(2);
                let units: Vec<_> =
                    units.map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
                (low, String::from_utf16(&units).unwrap())
            })
            .collect();
        assert!(found.is_sorted_by(|(one, _), (other, _)| one < other));
        assert_eq!(found.len(), Event::ALL.len());
        for event in Event::ALL {
            let (_, text) = found.iter().find(|(id, _)| *id == event.id()).unwrap();
            assert_eq!(text.trim_end_matches('\0'), format!("{}\r\n", event.text()));
            // Severity, customer bit, facility 0, and the number that Event Viewer shows.
            let severity = [0x6000, 0xA000, 0xE000][event.level() as usize];
            assert_eq!(event.id(), severity << 16 | u32::from(event.number()));
        }
    }

    /// Whatever comes into a word: keys as files, `wg` and its text protocol write them, alone and within something.
    #[test]
    fn no_word_has_a_key() {
        let base64 = "mAZGQvaDkOZ+DFVBOEMZECvRiOzOR8FZIZ4Bn+Ss3UU=";
        let hex = "98064642f68390e67e0c5541384319102bd188ecce47c1592199f81fe4acdd45";
        for key in [base64, hex, &base64[..43]] {
            for around in ["", "PrivateKey = ", "private_key", "x:", "ü", r"C:\a\"] {
                let told = shown(&format!("{around}{key} {key}\n{around}"));
                for from in 0..key.len() - 20 {
                    assert!(!told.contains(&key[from..from + 20]), "{told}");
                }
            }
        }
        let plain = r"C:\Program Files\Penstock\Data\Configurations\office.conf:3: no such key";
        assert_eq!(shown(plain), plain);
        assert_eq!(shown(""), "");
    }
}
