//! The keywords of network adapters that have a meaning here, and what they may be.
//!
//! The driver reads none of them: NetAdapterCx does, and honours them for what the driver says it can
//! ([`Keyword::declared_by`]). One for what the driver does not declare would be a switch that nothing is behind.
//!
//! Source: <https://learn.microsoft.com/windows-hardware/drivers/network/standardized-inf-keywords-for-network-devices>,
//! there RSS, task offloads, and USO.

use abi::policy::Policy;

/// What [`Keyword::values`] are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// One of a list.
    Enum,
    /// A number.
    Int,
}

/// A keyword below `Ndi\Params`.
#[derive(Clone, Copy, Debug)]
pub struct Keyword {
    /// With its asterisk.
    pub name: &'static str,
    /// What its values are.
    pub values: Values,
    /// The least value.
    pub least: u32,
    /// The greatest.
    pub most: u32,
    /// What it is if nobody says anything.
    pub default: u32,
    /// The function by which the driver says that it can do this.
    pub declared_by: &'static str,
}

const SCALING: &str = "NetAdapterSetReceiveScalingCapabilities";
const SEGMENTATION: &str = "NetAdapterOffloadSetGsoCapabilities";
const CHECKSUMS: &str = "NetAdapterOffloadSetRxChecksumCapabilities";

const fn keyword(
    name: &'static str,
    values: Values,
    range: (u32, u32),
    default: u32,
    declared_by: &'static str,
) -> Keyword {
    Keyword { name, values, least: range.0, most: range.1, default, declared_by }
}

/// As many as the driver makes.
const MOST_QUEUES: u32 = *Policy::ReceiveQueues.range().end();
/// The last group and number of a processor (`MAXIMUM_GROUPS`, `MAXIMUM_PROC_PER_GROUP`).
const LAST_GROUP: u32 = 31;
const LAST_NUMBER: u32 = 63;
/// Any node.
const ANY_NODE: u32 = *Policy::ScalingNode.range().end();

use Values::{Enum, Int};

/// All that the INF offers.
pub const KEYWORDS: &[Keyword] = &[
    keyword("*RSS", Enum, (0, 1), 1, SCALING),
    keyword("*RSSProfile", Enum, (1, 5), 4, SCALING),
    keyword("*NumRssQueues", Int, (1, MOST_QUEUES), MOST_QUEUES, SCALING),
    // A CPU without a queue of its own would take another's.
    keyword("*MaxRssProcessors", Int, (1, MOST_QUEUES), MOST_QUEUES, SCALING),
    keyword("*RssBaseProcGroup", Int, (0, LAST_GROUP), 0, SCALING),
    keyword("*RssBaseProcNumber", Int, (0, LAST_NUMBER), 0, SCALING),
    keyword("*RssMaxProcGroup", Int, (0, LAST_GROUP), LAST_GROUP, SCALING),
    keyword("*RssMaxProcNumber", Int, (0, LAST_NUMBER), LAST_NUMBER, SCALING),
    keyword("*NumaNodeId", Int, (0, ANY_NODE), ANY_NODE, SCALING),
    keyword("*LsoV2IPv4", Enum, (0, 1), 1, SEGMENTATION),
    keyword("*LsoV2IPv6", Enum, (0, 1), 1, SEGMENTATION),
    keyword("*UsoIPv4", Enum, (0, 1), 1, SEGMENTATION),
    keyword("*UsoIPv6", Enum, (0, 1), 1, SEGMENTATION),
    keyword("*IPChecksumOffloadIPv4", Enum, (0, 3), 3, CHECKSUMS),
    keyword("*TCPChecksumOffloadIPv4", Enum, (0, 3), 3, CHECKSUMS),
    keyword("*TCPChecksumOffloadIPv6", Enum, (0, 3), 3, CHECKSUMS),
    keyword("*UDPChecksumOffloadIPv4", Enum, (0, 3), 3, CHECKSUMS),
    keyword("*UDPChecksumOffloadIPv6", Enum, (0, 3), 3, CHECKSUMS),
];

/// What the install section itself must say of the adapter, beside `Characteristics`: an interface of bare IP packets
/// that no connector is behind.
///
/// Source: <https://learn.microsoft.com/windows-hardware/drivers/netcx/inf-files-for-netadaptercx-client-drivers>.
pub const ADAPTER: &[(&str, u32)] = &[
    ("Characteristics", 1),
    ("*IfType", 53),
    ("*MediaType", 19),
    ("*PhysicalMediaType", 0),
    ("*IfConnectorPresent", 0),
    ("*ConnectionType", 1),
    ("*DirectionType", 0),
    ("*AccessType", 2),
    ("*HardwareLoopback", 0),
];

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the driver tells NetAdapterCx what it can.
    const DECLARED: &str = include_str!("../../nt/src/netcx/adapter.rs");

    #[test]
    fn every_keyword_is_of_something_that_the_driver_declares() {
        for keyword in KEYWORDS {
            let called = format!("{}(self.adapter", keyword.declared_by);
            assert!(
                DECLARED.contains(&called),
                "{}: the driver does not call {called}",
                keyword.name
            );
            assert!((keyword.least..=keyword.most).contains(&keyword.default), "{}", keyword.name);
        }
    }

    #[test]
    fn everything_that_the_driver_declares_has_keywords() {
        let declared = DECLARED.match_indices("unsafe { NetAdapterOffloadSet").map(|(at, _)| {
            let (name, _) = DECLARED[at + "unsafe { ".len()..].split_once('(').unwrap();
            name
        });
        for name in declared {
            let mut keywords = KEYWORDS.iter();
            assert!(keywords.any(|keyword| keyword.declared_by == name), "{name} has no keyword");
        }
    }
}
