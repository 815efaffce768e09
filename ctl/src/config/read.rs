//! Reads a file, line by line: every problem is told, and a file that has one is not used.

use std::collections::HashMap;

use super::key_names::{Key, Section, nearest, nearest_of};
use super::problem::{Place, Problem};
use super::value::{self, Wrong};
use super::{Config, Peer, Prefix, Script, Table};
use crate::key::{PublicKey, SecretKey};

/// Problems that are told; a file with more has these and the last.
const PROBLEMS_MAX: usize = 100;
/// The longest word that is repeated in a problem: anything longer may be a key.
const WORD_MAX: usize = 24;

/// What a file is read for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// An interface that is there, as `wg setconf`: only `wg`'s keys.
    Interface,
    /// A tunnel that is made of it, as `wg-quick`: all keys.
    Tunnel {
        /// Whether policy allows its commands.
        scripts: bool,
    },
}

/// A file that was read.
#[derive(Default)]
pub struct Reading {
    /// What it says.
    pub config: Config,
    /// What is strange in it.
    pub warnings: Vec<Problem>,
}

/// Reads a file.
///
/// # Errors
///
/// Every [`Problem`], in the order of the file, up to a hundred.
pub fn read(file: &[u8], purpose: Purpose) -> Result<Reading, Vec<Problem>> {
    let mut reader = Reader::new(purpose);
    if let [0xFF, 0xFE, ..] | [0xFE, 0xFF, ..] = file {
        reader.problem(1, "the file is UTF-16; it has to be UTF-8");
        return Err(reader.problems);
    }
    let file = file.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(file);
    for line in file.split(|byte| *byte == b'\n') {
        reader.line += 1;
        reader.bytes(line.strip_suffix(b"\r").unwrap_or(line));
    }
    reader.end_section();
    reader.look_for_itself();
    // That a peer has no key is seen behind it.
    reader.problems.sort_by_key(|problem| problem.place);
    if reader.problems.is_empty() { Ok(reader.reading) } else { Err(reader.problems) }
}

/// What is being read.
struct Reader {
    purpose: Purpose,
    reading: Reading,
    problems: Vec<Problem>,
    line: usize,
    section: At,
    /// Keys of this section, and where each stood.
    seen: Vec<(Key, usize)>,
    /// Where `[Interface]` stood.
    interface: Option<usize>,
    /// Where each peer's key stood.
    peers: HashMap<PublicKey, usize>,
    peer: Peer,
}

/// Where a line is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum At {
    /// Before the first section.
    Start,
    /// Behind a section that there is not, whose lines are not looked at.
    Unknown,
    /// In one, which began in this line.
    In(Section, usize),
}

/// A text of a line, and the characters before it.
#[derive(Clone, Copy)]
struct Word<'l> {
    text: &'l str,
    column: usize,
}

impl<'l> Word<'l> {
    /// The text without the white space around it.
    fn trimmed(self) -> Self {
        let text = self.text.trim_start();
        let cut = self.text.len() - text.len();
        let column = self.column + self.text.get(..cut).map_or(0, |cut| cut.chars().count());
        Word { text: text.trim_end(), column }
    }

    /// What stands before and behind the first `at`.
    fn split(self, at: char) -> Option<(Self, Self)> {
        let (before, behind) = self.text.split_once(at)?;
        let column = self.column + before.chars().count() + 1;
        Some((Word { text: before, column: self.column }, Word { text: behind, column }))
    }

    /// What stands between commas, each trimmed.
    fn list(self) -> impl Iterator<Item = Word<'l>> {
        let mut rest = Some(self);
        std::iter::from_fn(move || {
            let word = rest?;
            let (item, others) = word.split(',').map_or((word, None), |(a, b)| (a, Some(b)));
            rest = others;
            Some(item.trimmed())
        })
    }
}

impl Reader {
    fn new(purpose: Purpose) -> Self {
        Self {
            purpose,
            reading: Reading::default(),
            problems: Vec::new(),
            line: 0,
            section: At::Start,
            seen: Vec::new(),
            interface: None,
            peers: HashMap::new(),
            peer: Self::no_peer(),
        }
    }

    fn no_peer() -> Peer {
        Peer {
            public_key: PublicKey([0; 32]),
            preshared_key: None,
            allowed_ips: Vec::new(),
            endpoint: None,
            persistent_keepalive: None,
        }
    }

    /// Tells a problem of this line.
    fn problem(&mut self, column: usize, what: impl Into<String>) {
        self.problem_at(self.line.max(1), column, what);
    }

    fn problem_at(&mut self, line: usize, column: usize, what: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { place: Place { line, column }, what: what.into() });
        }
    }

    fn warning(&mut self, column: usize, what: impl Into<String>) {
        let place = Place { line: self.line, column };
        self.reading.warnings.push(Problem { place, what: what.into() });
    }

    /// A line as it lies in the file.
    fn bytes(&mut self, line: &[u8]) {
        let text = match str::from_utf8(line) {
            Ok(text) => text,
            Err(error) => {
                let good = line.get(..error.valid_up_to()).unwrap_or_default();
                let column = String::from_utf8_lossy(good).chars().count() + 1;
                return self.problem(column, "this is no UTF-8");
            }
        };
        let text = text.split('#').next().unwrap_or_default();
        if let Some(at) = text.chars().position(|c| c.is_control() && c != '\t') {
            return self.problem(at + 1, "a control character");
        }
        let word = Word { text, column: 1 }.trimmed();
        if let Some(rest) = word.text.strip_prefix('[') {
            self.header(Word { text: rest, column: word.column });
        } else if !word.text.is_empty() && self.section != At::Unknown {
            self.setting(word);
        }
    }

    /// What follows a `[`.
    fn header(&mut self, rest: Word<'_>) {
        self.end_section();
        self.section = At::Unknown;
        let Some(name) = rest.text.strip_suffix(']').map(str::trim) else {
            return self.problem(rest.column, "a section is written [Interface] or [Peer]");
        };
        let sections = [Section::Interface, Section::Peer];
        let found = sections.into_iter().find(|section| section.name().eq_ignore_ascii_case(name));
        let Some(section) = found else {
            let nearest = nearest_of(name, sections.iter().map(|section| section.name()));
            let hint = nearest.map_or("there are [Interface] and [Peer]".to_owned(), |name| {
                format!("did you mean [{name}]?")
            });
            return self.problem(rest.column, format!("there is no such section; {hint}"));
        };
        self.section = At::In(section, self.line);
        if section == Section::Interface {
            if let Some(line) = self.interface {
                self.problem(
                    rest.column,
                    format!("[Interface] stands twice, first in line {line}"),
                );
            }
            self.interface = Some(self.line);
        }
    }

    /// Ends a section, if there is one.
    fn end_section(&mut self) {
        if let At::In(Section::Peer, line) = self.section {
            let peer = std::mem::replace(&mut self.peer, Self::no_peer());
            if self.seen.iter().any(|(key, _)| *key == Key::PublicKey) {
                self.reading.config.peers.push(peer);
            } else {
                self.problem_at(line, 1, "this peer has no PublicKey");
            }
        }
        self.seen.clear();
    }

    /// Warns of a peer that is the interface: the driver makes none.
    fn look_for_itself(&mut self) {
        let key = self.reading.config.interface.private_key.as_ref().map(SecretKey::public);
        if let Some(line) = key.and_then(|key| self.peers.get(&key).copied()) {
            let what = "this peer has the interface's own key, and is left out".to_owned();
            self.reading.warnings.push(Problem { place: Place { line, column: 1 }, what });
        }
    }

    /// `KEY = VALUE`.
    fn setting(&mut self, word: Word<'_>) {
        let Some((name, value)) = word.split('=') else {
            return self.problem(word.column, "a line is KEY = VALUE, or a [Section]");
        };
        let (name, value) = (name.trimmed(), value.trimmed());
        let At::In(section, _) = self.section else {
            return self.problem(name.column, "this stands before the first [Section]");
        };
        let key = match Key::find(name.text) {
            Some((key, of)) if of == section => key,
            Some((key, of)) => {
                let (key, of) = (key.name(), of.name());
                return self.problem(name.column, format!("{key} belongs in [{of}]"));
            }
            None => return self.unknown_key(name, section),
        };
        let earlier = self.seen.iter().find(|(seen, _)| *seen == key).map(|(_, line)| *line);
        self.seen.push((key, self.line));
        if let Some(line) = earlier.filter(|_| !key.repeats()) {
            let what = format!("{} stands twice, first in line {line}", key.name());
            return self.problem(name.column, what);
        }
        if self.purpose == Purpose::Interface && !key.is_wgs() {
            let what = format!(
                "{} is of a tunnel's file, and nothing for an interface that is there \
                 (`penstock strip` leaves such keys out)",
                key.name()
            );
            return self.problem(name.column, what);
        }
        if value.text.is_empty() {
            return self.problem(value.column, format!("{} has no value", key.name()));
        }
        if let Err(wrong) = self.value(key, value) {
            self.problem(value.column + wrong.at, wrong.why);
        }
    }

    fn unknown_key(&mut self, name: Word<'_>, section: Section) {
        let first = name.text.split_ascii_whitespace().next().and_then(Key::find);
        if let Some((key, _)) = first {
            return self.problem(name.column, format!("behind {} there is no `=`", key.name()));
        }
        let is_word = name.text.len() <= WORD_MAX
            && name.text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_- ".contains(&byte));
        let mut what = if is_word && !name.text.is_empty() {
            format!("there is no key `{}` in [{}]", name.text, section.name())
        } else {
            format!("there is no such key in [{}]", section.name())
        };
        if let Some(nearest) = nearest(name.text, section) {
            what = format!("{what}; did you mean `{nearest}`?");
        }
        self.problem(name.column, what);
    }

    /// Takes the value of a key.
    fn value(&mut self, key: Key, value: Word<'_>) -> Result<(), Wrong> {
        match key {
            Key::PublicKey => self.public_key(value)?,
            Key::PresharedKey => self.peer.preshared_key = Some(value::secret_key(value.text)?),
            Key::AllowedIps => {
                for prefix in self.prefixes(value)? {
                    self.peer.allowed_ips.push(prefix);
                }
            }
            Key::Endpoint => self.peer.endpoint = Some(value::endpoint(value.text)?),
            Key::PersistentKeepalive => {
                self.peer.persistent_keepalive = Some(value::persistent_keepalive(value.text)?);
            }
            _ => self.interface_value(key, value)?,
        }
        Ok(())
    }

    fn public_key(&mut self, value: Word<'_>) -> Result<(), Wrong> {
        self.peer.public_key = value::public_key(value.text)?;
        if let Some(line) = self.peers.insert(self.peer.public_key, self.line) {
            return Err(Wrong {
                at: 0,
                why: format!("this peer stands twice, first in line {line}"),
            });
        }
        Ok(())
    }

    /// Allowed IPs, with a warning for each that has host bits.
    fn prefixes(&mut self, value: Word<'_>) -> Result<Vec<Prefix>, Wrong> {
        let prefixes = items(value, value::prefix)?;
        for (prefix, item) in prefixes.iter().zip(value.list()) {
            let network = value::network(*prefix);
            if network != *prefix {
                self.warning(item.column, format!("{prefix} has host bits: it is {network}"));
            }
        }
        Ok(prefixes)
    }

    fn interface_value(&mut self, key: Key, value: Word<'_>) -> Result<(), Wrong> {
        let text = value.text;
        match key {
            Key::FwMark => {
                self.reading.config.interface.fw_mark = Some(value::fw_mark(text)?);
                self.warning(value.column, "only Linux has FwMark: it is ignored");
                return Ok(());
            }
            Key::Table => {
                let table = value::table(text)?;
                if let Table::Number(_) = table {
                    self.warning(value.column, "only Linux has tables of a number: it is ignored");
                }
                self.reading.config.interface.tunnel.table = Some(table);
                return Ok(());
            }
            Key::SaveConfig if value::truth(text)? => {
                let why = "SaveConfig is not done: it would write keys, and what peers learned, over \
                           your file whenever the tunnel ends; `penstock showconf` prints them";
                return Err(Wrong { at: 0, why: why.to_owned() });
            }
            Key::Script(script) => return self.script(script, text),
            _ => {}
        }
        let interface = &mut self.reading.config.interface;
        match key {
            Key::PrivateKey => interface.private_key = Some(value::secret_key(text)?),
            Key::ListenPort => interface.listen_port = Some(value::listen_port(text)?),
            Key::Address => interface.tunnel.addresses.extend(items(value, value::prefix)?),
            Key::Mtu => interface.tunnel.mtu = Some(value::mtu(text)?),
            Key::Dns => {
                for server in items(value, dns)? {
                    match server {
                        Dns::Server(address) => interface.tunnel.dns.push(address),
                        Dns::Search(domain) => interface.tunnel.search.push(domain),
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn script(&mut self, script: Script, command: &str) -> Result<(), Wrong> {
        if self.purpose != (Purpose::Tunnel { scripts: true }) {
            let name = Key::Script(script).name();
            return Err(Wrong {
                at: 0,
                why: format!("{name} is a command, and policy allows none"),
            });
        }
        self.reading.config.interface.tunnel.scripts[script as usize].push(command.to_owned());
        Ok(())
    }
}

/// A word of `DNS`.
enum Dns {
    Server(std::net::IpAddr),
    Search(String),
}

fn dns(text: &str) -> Result<Dns, Wrong> {
    if let Ok(address) = text.parse() {
        return Ok(Dns::Server(address));
    }
    value::host_name(text)?;
    Ok(Dns::Search(text.to_owned()))
}

/// Reads each word of a list.
fn items<T>(value: Word<'_>, read: impl Fn(&str) -> Result<T, Wrong>) -> Result<Vec<T>, Wrong> {
    let item = |item: Word<'_>| {
        let at = item.column - value.column;
        if item.text.is_empty() {
            return Err(Wrong { at, why: "nothing stands here".to_owned() });
        }
        read(item.text).map_err(|wrong| Wrong { at: at + wrong.at, ..wrong })
    };
    value.list().map(item).collect()
}
