//! The driver's IOCTLs: codes, and the configuration structures two of them carry.
//!
//! The four `WG_IOCTL_*` codes and their structures are WireGuardNT's, byte for byte, so that tools
//! written for it need not learn another ABI; our own codes start at function 0x900.
//! [`configuration`] parses and [`writer`] writes the structures, on either side of the call.
//!
//! Two differences from WireGuardNT are intended. A SET is validated whole before any of it is
//! applied, where WireGuardNT stops at the first error with the earlier part applied. And a buffer
//! that makes no sense (unknown flag, unknown address family, the same peer twice) is refused,
//! where some of that is ignored there.
//!
//! Source: the interface's codes and layouts, WireGuardNT `driver/ioctl.h` (public interface facts).

pub mod configuration;
pub mod writer;

pub use configuration::{AllowedIp, ParseError, Peer, Set};
pub use writer::{InterfaceChange, PeerChange, Writer};

/// WG_IOCTL_GET: the configuration, private key included, into the output buffer.
///
/// METHOD_OUT_DIRECT. Too small a buffer gives STATUS_BUFFER_OVERFLOW and the length needed.
pub const GET: u32 = code(321, METHOD_OUT_DIRECT);
/// WG_IOCTL_SET: a configuration to apply, in the *output* buffer (METHOD_IN_DIRECT).
pub const SET: u32 = code(322, METHOD_IN_DIRECT);
/// WG_IOCTL_SET_ADAPTER_STATE: a [`AdapterState`] word in; [`AdapterState::Query`] gives one out.
pub const SET_ADAPTER_STATE: u32 = code(323, METHOD_BUFFERED);
/// WG_IOCTL_READ_LOG_LINE: waits for a log line, [`LOG_ENTRY_LEN`] bytes out.
pub const READ_LOG_LINE: u32 = code(324, METHOD_BUFFERED);
/// Our own: the statistics block of [`crate::statistics`].
pub const GET_STATISTICS: u32 = code(0x900, METHOD_BUFFERED);
/// Our own: has the driver read its policy ([`crate::policy`]) anew, and every adapter follow it. Takes
/// no bytes and gives none; what is not applied is in the log of the adapter that was asked.
pub const RELOAD_POLICY: u32 = code(0x901, METHOD_BUFFERED);
/// Our own: opens a capture ([`crate::capture`]), a [`crate::capture::Start`] in. It ends with the handle it was opened by.
pub const START_CAPTURE: u32 = code(0x902, METHOD_BUFFERED);
/// Our own: what the handle's capture has taken since it was last read, a [`crate::capture::Answer`] out, at once.
///
/// METHOD_OUT_DIRECT. The buffer has to have room for the longest answer.
pub const READ_CAPTURE: u32 = code(0x903, METHOD_OUT_DIRECT);

/// GUID of the device interface that takes these codes, as (data1, data2, data3, data4).
pub const INTERFACE_CLASS: (u32, u16, u16, [u8; 8]) =
    (0x8f3c_6a52, 0x1d7e, 0x4b0a, [0x9c, 0x41, 0x5e, 0x60, 0xd2, 0x87, 0x3b, 0x19]);
/// Reference string of that interface: it keeps NDIS from taking the handle for itself.
pub const INTERFACE_REFERENCE: &str = "penstock";

/// Bytes of a `WG_IOCTL_INTERFACE`.
pub const INTERFACE_LEN: usize = 80;
/// Bytes of a `WG_IOCTL_PEER`.
pub const PEER_LEN: usize = 136;
/// Bytes of a `WG_IOCTL_ALLOWED_IP`.
pub const ALLOWED_IP_LEN: usize = 24;
/// Bytes of a log entry: a FILETIME, then a NUL-terminated line whose first character is its level.
pub const LOG_ENTRY_LEN: usize = 128;
/// Bytes of the text of a log entry, its terminating NUL included.
pub const LOG_TEXT_LEN: usize = LOG_ENTRY_LEN - 8;
/// The longest SET buffer that is looked at: 256 MiB, room for more than 2^20 peers.
pub const SET_MAX_LEN: usize = 256 << 20;

/// 100 ns from 1601, where the times of the interface begin, to 1970.
pub const UNIX_EPOCH_FILETIME: u64 = 116_444_736_000_000_000;

/// Address family of IPv4 on Windows.
pub const AF_INET: u16 = 2;
/// Address family of IPv6 on Windows.
pub const AF_INET6: u16 = 23;

/// Flags of a `WG_IOCTL_INTERFACE`.
pub mod interface_flag {
    /// The public key is present (GET).
    pub const HAS_PUBLIC_KEY: u32 = 1;
    /// The private key is present.
    pub const HAS_PRIVATE_KEY: u32 = 2;
    /// The listen port is present.
    pub const HAS_LISTEN_PORT: u32 = 4;
    /// Remove all peers first (SET).
    pub const REPLACE_PEERS: u32 = 8;
    /// Every flag there is.
    pub const ALL: u32 = 15;
}

/// Flags of a `WG_IOCTL_PEER`.
pub mod peer_flag {
    /// The public key is present; required.
    pub const HAS_PUBLIC_KEY: u32 = 1;
    /// The preshared key is present; all zeros removes it.
    pub const HAS_PRESHARED_KEY: u32 = 2;
    /// The persistent keepalive interval is present; 0 turns it off.
    pub const HAS_PERSISTENT_KEEPALIVE: u32 = 4;
    /// The endpoint is present.
    pub const HAS_ENDPOINT: u32 = 8;
    /// The protocol version is present: 0 (the latest) or 1.
    pub const HAS_PROTOCOL_VERSION: u32 = 0x10;
    /// Empty the peer's allowed IPs first (SET).
    pub const REPLACE_ALLOWED_IPS: u32 = 0x20;
    /// Remove the peer (SET).
    pub const REMOVE: u32 = 0x40;
    /// Do nothing if the peer does not exist (SET).
    pub const UPDATE_ONLY: u32 = 0x80;
    /// Every flag there is.
    pub const ALL: u32 = 0xFF;
}

/// Flags of a `WG_IOCTL_ALLOWED_IP`.
pub mod allowed_ip_flag {
    /// Take the prefix from the peer instead of giving it (SET).
    pub const REMOVE: u32 = 1;
    /// Every flag there is.
    pub const ALL: u32 = 1;
}

/// Whether the adapter is up; the 32-bit word of [`SET_ADAPTER_STATE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum AdapterState {
    /// Sockets closed, sessions wiped.
    Down = 0,
    /// Sockets open.
    Up = 1,
    /// A question, never an answer.
    Query = 2,
}

impl AdapterState {
    /// Parses the word; `None` for any other value or length.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        match u32::from_le_bytes(bytes.try_into().ok()?) {
            0 => Some(Self::Down),
            1 => Some(Self::Up),
            2 => Some(Self::Query),
            _ => None,
        }
    }
}

/// `CTL_CODE(45208, function, method, FILE_READ_DATA | FILE_WRITE_DATA)`.
const fn code(function: u32, method: u32) -> u32 {
    (45208 << 16) | (3 << 14) | (function << 2) | method
}

/// Whether a code is of METHOD_IN_DIRECT: the driver reads the buffer that others have it write.
#[must_use]
pub const fn reads_output(code: u32) -> bool {
    code & 3 == METHOD_IN_DIRECT
}

const METHOD_BUFFERED: u32 = 0;
const METHOD_IN_DIRECT: u32 = 1;
const METHOD_OUT_DIRECT: u32 = 2;

const _: () = {
    assert!(GET == 0xB098_C506);
    assert!(SET == 0xB098_C509);
    assert!(SET_ADAPTER_STATE == 0xB098_C50C);
    assert!(READ_LOG_LINE == 0xB098_C510);
};

/// Offsets inside the three structures. All are 8-byte aligned and little-endian.
mod offset {
    pub(super) const INTERFACE_FLAGS: usize = 0;
    pub(super) const INTERFACE_LISTEN_PORT: usize = 4;
    pub(super) const INTERFACE_PRIVATE_KEY: usize = 6;
    pub(super) const INTERFACE_PUBLIC_KEY: usize = 38;
    pub(super) const INTERFACE_PEERS_COUNT: usize = 72;

    pub(super) const PEER_FLAGS: usize = 0;
    pub(super) const PEER_PROTOCOL_VERSION: usize = 4;
    pub(super) const PEER_PUBLIC_KEY: usize = 8;
    pub(super) const PEER_PRESHARED_KEY: usize = 40;
    pub(super) const PEER_PERSISTENT_KEEPALIVE: usize = 72;
    pub(super) const PEER_ENDPOINT: usize = 76;
    pub(super) const PEER_TX_BYTES: usize = 104;
    pub(super) const PEER_RX_BYTES: usize = 112;
    pub(super) const PEER_LAST_HANDSHAKE: usize = 120;
    pub(super) const PEER_ALLOWED_IPS_COUNT: usize = 128;

    pub(super) const ALLOWED_IP_ADDRESS: usize = 0;
    pub(super) const ALLOWED_IP_FAMILY: usize = 16;
    pub(super) const ALLOWED_IP_CIDR: usize = 18;
    pub(super) const ALLOWED_IP_FLAGS: usize = 20;
}
