//! Why a packet went no further: one reason, counted once.
//!
//! Every packet or datagram that enters the driver ends in exactly one of: delivered, consumed as a
//! handshake message or keepalive, or discarded for one of these reasons. The numbers are part of
//! the statistics IOCTL, so a reason is only ever added at the end of the list, never renumbered.

use crate::table::table;

/// Which way the discarded packet was going.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From this machine into the tunnel: an inner packet, or the datagram made of it.
    Outbound,
    /// From the network: a datagram, or the inner packet opened from it.
    Inbound,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $direction:ident $name:ident,)*) => {
        table! {
            /// The reason a packet was discarded.
            Discard { $($(#[doc = $doc])+ $name,)* }
        }

        impl Discard {
            /// Which way the packet was going.
            #[must_use]
            pub const fn direction(self) -> Direction {
                match self { $(Self::$name => Direction::$direction,)* }
            }
        }
    };
}

reasons! {
    /// The inner packet is neither IPv4 nor IPv6, or its length is not its header's.
    Outbound MalformedPacket,
    /// No peer's allowed IPs cover the destination.
    Outbound NoPeer,
    /// The peer has no endpoint, and none has been learned.
    Outbound NoEndpoint,
    /// The adapter is down.
    Outbound AdapterDown,
    /// The peer already has as many packets waiting for a session as it may: the oldest went.
    Outbound StagedFull,
    /// The packet waited for a session, and the handshake was given up or the adapter went down.
    Outbound StagedDropped,
    /// The packet waited, and its peer was removed.
    Outbound PeerRemoved,
    /// The packet is larger than any datagram that can carry it.
    Outbound Oversize,
    /// No memory for a packet that had to wait or a datagram that had to be made.
    Outbound NoMemory,
    /// All run buffers are in flight, or the pipeline's queue is full.
    Outbound QueueFull,
    /// Never counted, and its number is kept: a packet that finds its session's key expired or out of counters waits for another.
    Outbound KeyExpired,
    /// The routing table has no route to the peer's endpoint.
    Outbound NoRoute,
    /// The only route to the peer's endpoint leads back into a tunnel of this driver.
    Outbound RoutingLoop,
    /// No socket of the endpoint's address family is open.
    Outbound NoSocket,
    /// The network stack refused the datagram.
    Outbound SendFailed,
    /// The adapter stopped or was removed while the packet was under way.
    Outbound Stopping,
    /// The datagram has no known message type, or not the length of its type.
    Inbound MalformedMessage,
    /// The datagram's memory could not be mapped.
    Inbound Unmapped,
    /// As many received datagrams are held as may be.
    Inbound HeldFull,
    /// No session and no pending handshake has this receiver index.
    Inbound UnknownReceiver,
    /// The session is too old, or its counter is used up.
    Inbound SessionExpired,
    /// The authentication tag does not verify.
    Inbound BadTag,
    /// The counter was seen before, or is older than the receive window.
    Inbound Replayed,
    /// The opened packet is neither IPv4 nor IPv6.
    Inbound InnerVersion,
    /// The opened packet is shorter than its header says.
    Inbound InnerLength,
    /// The opened packet's source is not in this peer's allowed IPs.
    Inbound WrongSource,
    /// No receive buffer was free.
    Inbound NoBuffer,
    /// The adapter's receive ring is full, or has no queue.
    Inbound RingFull,
    /// The adapter is down or stopping.
    Inbound NotUp,
    /// As many handshake messages wait as may.
    Inbound HandshakeQueueFull,
    /// The adapter has no private key.
    Inbound NoIdentity,
    /// The message's mac1 does not verify.
    Inbound BadMac1,
    /// Under load and without a valid cookie: a cookie reply was sent instead.
    Inbound CookieRequired,
    /// Under load, and this source sent too many.
    Inbound RateLimited,
    /// A field of the handshake message does not decrypt, or a shared secret is zero.
    Inbound BadHandshake,
    /// The static key of the initiator is not a configured peer.
    Inbound UnknownPeer,
    /// The timestamp is not newer than the newest seen: a replayed initiation.
    Inbound StaleTimestamp,
    /// The peer's last accepted initiation is less than 20 ms old.
    Inbound InitiationFlood,
    /// The cookie reply does not decrypt, or answers nothing that was sent.
    Inbound BadCookieReply,
    /// The peer was removed while its packet was being opened.
    Inbound PeerGone,
    /// No memory to process the message.
    Inbound OutOfMemory,
    /// The packet was to be cut into segments, and its headers do not allow it: counted once.
    Outbound Unsegmentable,
    /// Several datagrams that came as one, and where each ends is not said, or makes no sense.
    Inbound BadCoalescing,
    /// This CPU has spent its share of a clock tick on handshake messages: the datagram was not looked at.
    Inbound HandshakeShareSpent,
    /// The packet is longer than the way to its peer takes, and may not be cut (IPv4 with DF, IPv6).
    Outbound TooBig,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_positions() {
        for (position, reason) in Discard::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, position, "{}", reason.name());
        }
    }

    #[test]
    fn every_reason_speaks() {
        for reason in Discard::ALL {
            let text = reason.description();
            assert!(text.ends_with('.') && !text.starts_with(' '), "{}: {text:?}", reason.name());
        }
        assert_eq!(Discard::NoPeer.direction(), Direction::Outbound);
        assert_eq!(Discard::BadTag.direction(), Direction::Inbound);
    }
}
