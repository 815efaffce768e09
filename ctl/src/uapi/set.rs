//! The lines of `set=1`: the interface, then each peer, which a public key begins.

use std::net::SocketAddr;

use abi::ioctl::{ALLOWED_IP_LEN, INTERFACE_LEN, PEER_LEN, SET_MAX_LEN};
use zeroize::Zeroizing;

use super::EINVAL;
use crate::change::{Change, PeerChange};
use crate::config::value::number;
use crate::config::{Endpoint, value};
use crate::key::{PublicKey, SecretKey};

/// EOPNOTSUPP.
const EOPNOTSUPP: i32 = -95;
/// ENOMEM.
const ENOMEM: i32 = -12;

/// What was read so far.
pub(super) struct Reading {
    change: Change,
    /// Bytes of the IOCTL's buffer.
    len: usize,
}

impl Default for Reading {
    fn default() -> Self {
        Self { change: Change::default(), len: INTERFACE_LEN }
    }
}

impl Reading {
    /// Takes a line; the errno is what is wrong with it.
    pub(super) fn line(&mut self, line: &str) -> Result<(), i32> {
        let (key, value) = line.split_once('=').ok_or(EINVAL)?;
        if key == "public_key" {
            self.more(PEER_LEN)?;
            let public_key = PublicKey(*bytes(value)?);
            self.change.peers.push(PeerChange::of(public_key));
            return Ok(());
        }
        if key == "allowed_ip" {
            self.more(ALLOWED_IP_LEN)?;
        }
        match self.change.peers.last_mut() {
            None => self.interface(key, value),
            Some(peer) => of_peer(peer, key, value),
        }
    }

    /// All of it.
    pub(super) fn change(self) -> Change {
        self.change
    }

    fn more(&mut self, len: usize) -> Result<(), i32> {
        self.len += len;
        if self.len > SET_MAX_LEN { Err(ENOMEM) } else { Ok(()) }
    }

    fn interface(&mut self, key: &str, value: &str) -> Result<(), i32> {
        match key {
            "private_key" => self.change.private_key = Some(secret(value)?),
            "listen_port" => self.change.listen_port = Some(number(value).ok_or(EINVAL)?),
            // Only Linux has marks: there is nothing to set, and 0 says so.
            "fwmark" if number::<u32>(value).is_some() => {}
            "replace_peers" => self.change.replace_peers = truth(value)?,
            _ => return Err(EINVAL),
        }
        Ok(())
    }
}

fn of_peer(peer: &mut PeerChange, key: &str, value: &str) -> Result<(), i32> {
    match key {
        "remove" => peer.remove = truth(value)?,
        "update_only" => peer.update_only = truth(value)?,
        "preshared_key" => peer.preshared_key = Some(secret(value)?),
        "endpoint" => {
            let address: SocketAddr = value.parse().map_err(|_| EINVAL)?;
            peer.endpoint = Some(Endpoint::Address(address));
        }
        "persistent_keepalive_interval" => {
            peer.persistent_keepalive = Some(number(value).ok_or(EINVAL)?);
        }
        "replace_allowed_ips" => peer.replace_allowed_ips = truth(value)?,
        "allowed_ip" => {
            let (prefix, remove) = match value.strip_prefix('-') {
                Some(prefix) => (prefix, true),
                None => (value, false),
            };
            peer.allowed_ips.push((value::prefix(prefix).map_err(|_| EINVAL)?, remove));
        }
        "protocol_version" => return if value == "1" { Ok(()) } else { Err(EOPNOTSUPP) },
        _ => return Err(EINVAL),
    }
    Ok(())
}

/// What may be said of it is that it is so.
fn truth(value: &str) -> Result<bool, i32> {
    if value == "true" { Ok(true) } else { Err(EINVAL) }
}

fn secret(text: &str) -> Result<SecretKey, i32> {
    Ok(SecretKey::of(&*bytes(text)?))
}

/// The 32 bytes of 64 hex digits, in a time that does not depend on them; letters of either case.
pub(super) fn bytes(text: &str) -> Result<Zeroizing<[u8; 32]>, i32> {
    let mut bytes = Zeroizing::new([0; 32]);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if pairs.len() != bytes.len() || !rest.is_empty() {
        return Err(EINVAL);
    }
    let mut wrong = 0;
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        let (high, low) = (nibble(*high), nibble(*low));
        wrong |= high | low;
        *byte = (high << 4 | low & 15) as u8;
    }
    if wrong < 0 { Err(EINVAL) } else { Ok(bytes) }
}

/// The value of a digit, or a negative number; without a branch.
fn nibble(digit: u8) -> i16 {
    let digit = i16::from(digit);
    let lower = digit | 0x20;
    let mut value = -1;
    // All ones where the character is in the range.
    value += ((i16::from(b'0') - 1 - digit) & (digit - i16::from(b'9') - 1)) >> 8
        & (digit - i16::from(b'0') + 1);
    value
        + (((i16::from(b'a') - 1 - lower) & (lower - i16::from(b'f') - 1)) >> 8
            & (lower - i16::from(b'a') + 11))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_is_a_digit_or_none() {
        for byte in 0..=255_u8 {
            let digit = char::from(byte).to_digit(16).filter(|_| byte.is_ascii());
            let expected = digit.map_or(-1, |digit| digit as i16);
            assert_eq!(nibble(byte), expected, "{byte:#x}");
        }
        let text = "00ff".repeat(16);
        assert_eq!(bytes(&text).unwrap()[..4], [0, 255, 0, 255]);
        for wrong in [&text[1..], &text[2..], "", &*format!("{text}00"), &text.replace('f', "g")] {
            assert_eq!(bytes(wrong).err(), Some(EINVAL));
        }
    }
}
