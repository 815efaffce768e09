//! The keys that there are, by section, and the one that another word was perhaps meant to be.

use super::Script;

/// A section of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// `[Interface]`.
    Interface,
    /// `[Peer]`.
    Peer,
}

impl Section {
    /// Its name, without brackets.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Interface => "Interface",
            Self::Peer => "Peer",
        }
    }
}

/// What a line may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// The interface's private key.
    PrivateKey,
    /// The UDP port.
    ListenPort,
    /// The mark of datagrams.
    FwMark,
    /// Addresses of the interface.
    Address,
    /// Servers and search domains of DNS.
    Dns,
    /// The MTU.
    Mtu,
    /// Where routes go.
    Table,
    /// A command.
    Script(Script),
    /// Whether the file is written when the interface goes down.
    SaveConfig,
    /// Who a peer is.
    PublicKey,
    /// A key shared with it.
    PresharedKey,
    /// What is sent to it.
    AllowedIps,
    /// Where it is.
    Endpoint,
    /// Seconds between keepalives.
    PersistentKeepalive,
}

/// Every key as it is written, its section, and whether it is `wg`'s: the others are a tunnel's file's alone.
const KEYS: [(&str, Key, Section, bool); 17] = [
    ("PrivateKey", Key::PrivateKey, Section::Interface, true),
    ("ListenPort", Key::ListenPort, Section::Interface, true),
    ("FwMark", Key::FwMark, Section::Interface, true),
    ("Address", Key::Address, Section::Interface, false),
    ("DNS", Key::Dns, Section::Interface, false),
    ("MTU", Key::Mtu, Section::Interface, false),
    ("Table", Key::Table, Section::Interface, false),
    ("PreUp", Key::Script(Script::PreUp), Section::Interface, false),
    ("PostUp", Key::Script(Script::PostUp), Section::Interface, false),
    ("PreDown", Key::Script(Script::PreDown), Section::Interface, false),
    ("PostDown", Key::Script(Script::PostDown), Section::Interface, false),
    ("SaveConfig", Key::SaveConfig, Section::Interface, false),
    ("PublicKey", Key::PublicKey, Section::Peer, true),
    ("PresharedKey", Key::PresharedKey, Section::Peer, true),
    ("AllowedIPs", Key::AllowedIps, Section::Peer, true),
    ("Endpoint", Key::Endpoint, Section::Peer, true),
    ("PersistentKeepalive", Key::PersistentKeepalive, Section::Peer, true),
];

impl Key {
    /// The key that is written so, in any case, and its section.
    #[must_use]
    pub fn find(word: &str) -> Option<(Self, Section)> {
        let row = KEYS.iter().find(|row| row.0.eq_ignore_ascii_case(word));
        row.map(|&(_, key, section, _)| (key, section))
    }

    /// How it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().map_or("", |row| row.0)
    }

    /// Whether `wg` has it.
    #[must_use]
    pub fn is_wgs(self) -> bool {
        self.row().is_some_and(|row| row.3)
    }

    /// Whether it may stand more than once in a section.
    #[must_use]
    pub const fn repeats(self) -> bool {
        matches!(self, Self::Address | Self::Dns | Self::AllowedIps | Self::Script(_))
    }

    fn row(self) -> Option<&'static (&'static str, Self, Section, bool)> {
        KEYS.iter().find(|row| row.1 == self)
    }
}

/// The key of `section` that `word` was perhaps meant to be.
#[must_use]
pub fn nearest(word: &str, section: Section) -> Option<&'static str> {
    let keys = KEYS.iter().filter(|row| row.2 == section).map(|row| row.0);
    nearest_of(word, keys)
}

/// The word of `words` that is nearest to `word`: no more than a third of it has to be changed.
pub fn nearest_of<'w>(word: &str, words: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    // Lengths alone tell of most words that they are too far, and of long ones without a look.
    let near = words.filter(|other| other.len().abs_diff(word.len()) * 3 <= other.len());
    let distance = |other: &str| {
        strsim::damerau_levenshtein(&word.to_ascii_lowercase(), &other.to_ascii_lowercase())
    };
    let nearest = near.map(|other| (distance(other), other)).min_by_key(|(distance, _)| *distance);
    nearest.filter(|(distance, other)| distance * 3 <= other.len()).map(|(_, other)| other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_leads_to_the_key_that_was_meant() {
        for (word, section, key) in [
            ("Adress", Section::Interface, Some("Address")),
            ("privatkey", Section::Interface, Some("PrivateKey")),
            ("ListnePort", Section::Interface, Some("ListenPort")),
            ("PostUP1", Section::Interface, Some("PostUp")),
            ("AllowedIP", Section::Peer, Some("AllowedIPs")),
            ("Allowed_IPs", Section::Peer, Some("AllowedIPs")),
            ("EndPiont", Section::Peer, Some("Endpoint")),
            ("Endpoint", Section::Interface, None),
            ("Frobnicate", Section::Interface, None),
            ("", Section::Peer, None),
        ] {
            assert_eq!(nearest(word, section), key, "{word}");
        }
    }

    #[test]
    fn every_key_is_found_by_its_name() {
        for (name, key, section, _) in KEYS {
            assert_eq!(Key::find(&name.to_uppercase()), Some((key, section)));
            assert_eq!(key.name(), name);
        }
        assert_eq!(Key::find("Adress"), None);
    }
}
