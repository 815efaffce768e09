//! The filtering layers that exist here: their keys, the values each classify has, and how conditions meet them.
//!
//! Numbers of layers and fields are those of `fwpsk.h` and `fwpmu.h` of WDK 10.0.26100. Values are in host order; an IPv6
//! address is an array of 16 bytes as on the wire.
//!
//! Source: WDD network/management-filtering-layer-identifiers, DDI fwpsk/ne-fwpsk-fwps_fields_inbound_transport_v4.

use std::net::{IpAddr, SocketAddr};

/// A GUID as it lies in memory.
pub(crate) type Guid = [u8; 16];

/// A GUID from the groups it is written in.
pub(crate) const fn guid(one: u32, two: u16, three: u16, rest: u64) -> Guid {
    let ([a, b, c, d], [e, f], [g, h], r) =
        (one.to_le_bytes(), two.to_le_bytes(), three.to_le_bytes(), rest.to_be_bytes());
    [a, b, c, d, e, f, g, h, r[0], r[1], r[2], r[3], r[4], r[5], r[6], r[7]]
}

/// `FWPM_SUBLAYER_UNIVERSAL`.
pub(crate) const UNIVERSAL_SUBLAYER: Guid =
    guid(0xEEBE_CC03, 0xCED4, 0x4380, 0x819A_2734_397B_2B74);

/// A layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// `FWPM_LAYER_INBOUND_TRANSPORT_V4`.
    InboundTransportV4,
    /// `FWPM_LAYER_INBOUND_TRANSPORT_V6`.
    InboundTransportV6,
    /// `FWPM_LAYER_OUTBOUND_TRANSPORT_V4`.
    OutboundTransportV4,
    /// `FWPM_LAYER_OUTBOUND_TRANSPORT_V6`.
    OutboundTransportV6,
    /// `FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V4`.
    AuthRecvAcceptV4,
    /// `FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V6`.
    AuthRecvAcceptV6,
    /// `FWPM_LAYER_ALE_RESOURCE_ASSIGNMENT_V4`.
    ResourceAssignmentV4,
    /// `FWPM_LAYER_ALE_RESOURCE_ASSIGNMENT_V6`.
    ResourceAssignmentV6,
}

/// How many layers there are.
pub(crate) const LAYERS: usize = 8;

/// What a field of a layer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Protocol,
    LocalAddress,
    LocalAddressType,
    RemoteAddress,
    DestinationAddressType,
    LocalPort,
    RemotePort,
    Interface,
    InterfaceIndex,
    SubInterfaceIndex,
    Flags,
    InterfaceType,
    TunnelType,
    ProfileId,
    SecurityRealm,
    Compartment,
    /// Present in the layer and not modelled: its value is empty.
    Other,
}

use Field::*;

const INBOUND: [Field; 15] = [
    Protocol,
    LocalAddress,
    RemoteAddress,
    LocalAddressType,
    LocalPort,
    RemotePort,
    Interface,
    InterfaceIndex,
    SubInterfaceIndex,
    Flags,
    InterfaceType,
    TunnelType,
    ProfileId,
    SecurityRealm,
    Compartment,
];

const OUTBOUND: [Field; 16] = [
    Protocol,
    LocalAddress,
    LocalAddressType,
    RemoteAddress,
    LocalPort,
    RemotePort,
    Interface,
    InterfaceIndex,
    SubInterfaceIndex,
    DestinationAddressType,
    Flags,
    InterfaceType,
    TunnelType,
    ProfileId,
    SecurityRealm,
    Compartment,
];

const AUTH_RECV_ACCEPT: [Field; 40] = {
    let mut fields = [Other; 40];
    fields[2] = LocalAddress;
    fields[3] = LocalAddressType;
    fields[4] = LocalPort;
    fields[5] = Protocol;
    fields[6] = RemoteAddress;
    fields[7] = RemotePort;
    fields[10] = Interface;
    fields[11] = Flags;
    fields[14] = InterfaceType;
    fields[15] = TunnelType;
    fields[16] = InterfaceIndex;
    fields[17] = SubInterfaceIndex;
    fields[34] = Compartment;
    fields
};

const RESOURCE_ASSIGNMENT: [Field; 19] = {
    let mut fields = [Other; 19];
    fields[2] = LocalAddress;
    fields[3] = LocalAddressType;
    fields[4] = LocalPort;
    fields[5] = Protocol;
    fields[7] = Interface;
    fields[8] = Flags;
    fields[9] = InterfaceType;
    fields[10] = TunnelType;
    fields[15] = Compartment;
    fields
};

impl Layer {
    /// All of them, in the order of their numbers.
    pub(crate) const ALL: [Self; LAYERS] = [
        Self::InboundTransportV4,
        Self::InboundTransportV6,
        Self::OutboundTransportV4,
        Self::OutboundTransportV6,
        Self::AuthRecvAcceptV4,
        Self::AuthRecvAcceptV6,
        Self::ResourceAssignmentV4,
        Self::ResourceAssignmentV6,
    ];

    /// The transport layer of a direction and family.
    pub(crate) fn transport(inbound: bool, ipv6: bool) -> Self {
        match (inbound, ipv6) {
            (true, false) => Self::InboundTransportV4,
            (true, true) => Self::InboundTransportV6,
            (false, false) => Self::OutboundTransportV4,
            (false, true) => Self::OutboundTransportV6,
        }
    }

    /// The layer that authorises what is received.
    pub(crate) fn auth_recv_accept(ipv6: bool) -> Self {
        if ipv6 { Self::AuthRecvAcceptV6 } else { Self::AuthRecvAcceptV4 }
    }

    /// The layer that a bind has to pass.
    pub(crate) fn resource_assignment(ipv6: bool) -> Self {
        if ipv6 { Self::ResourceAssignmentV6 } else { Self::ResourceAssignmentV4 }
    }

    /// Whether it is one of those that authorise received datagrams.
    pub(crate) fn is_ale(self) -> bool {
        matches!(self, Self::AuthRecvAcceptV4 | Self::AuthRecvAcceptV6)
    }

    /// Its key.
    pub(crate) fn key(self) -> Guid {
        match self {
            Self::InboundTransportV4 => guid(0x5926_DFC8, 0xE3CF, 0x4426, 0xA283_DC39_3F5D_0F9D),
            Self::InboundTransportV6 => guid(0x634A_869F, 0xFC23, 0x4B90, 0xB0C1_BF62_0A36_AE6F),
            Self::OutboundTransportV4 => guid(0x09E6_1AEA, 0xD214, 0x46E2, 0x9B21_B26B_0B2F_28C8),
            Self::OutboundTransportV6 => guid(0xE173_5BDE, 0x013F, 0x4655, 0xB351_A49E_1576_2DF0),
            Self::AuthRecvAcceptV4 => guid(0xE1CD_9FE7, 0xF4B5, 0x4273, 0x96C0_592E_487B_8650),
            Self::AuthRecvAcceptV6 => guid(0xA3B4_2C97, 0x9F04, 0x4672, 0xB87E_CEE9_C483_257F),
            Self::ResourceAssignmentV4 => guid(0x1247_D66D, 0x0B60, 0x4A15, 0x8D44_7155_D0F5_3A0C),
            Self::ResourceAssignmentV6 => guid(0x55A6_50E1, 0x5F0A, 0x4ECA, 0xA653_88F5_3B26_AA8C),
        }
    }

    /// The layer with this key.
    pub(crate) fn find(key: &Guid) -> Option<Self> {
        Self::ALL.into_iter().find(|layer| layer.key() == *key)
    }

    /// Its number at run time.
    pub(crate) fn id(self) -> u16 {
        match self {
            Self::InboundTransportV4 => 12,
            Self::InboundTransportV6 => 14,
            Self::OutboundTransportV4 => 16,
            Self::OutboundTransportV6 => 18,
            Self::AuthRecvAcceptV4 => 44,
            Self::AuthRecvAcceptV6 => 46,
            Self::ResourceAssignmentV4 => 36,
            Self::ResourceAssignmentV6 => 38,
        }
    }

    /// Its fields, in the order of their numbers.
    pub(crate) fn fields(self) -> &'static [Field] {
        match self {
            Self::InboundTransportV4 | Self::InboundTransportV6 => &INBOUND,
            Self::OutboundTransportV4 | Self::OutboundTransportV6 => &OUTBOUND,
            Self::AuthRecvAcceptV4 | Self::AuthRecvAcceptV6 => &AUTH_RECV_ACCEPT,
            Self::ResourceAssignmentV4 | Self::ResourceAssignmentV6 => &RESOURCE_ASSIGNMENT,
        }
    }

    fn is_ipv6(self) -> bool {
        matches!(
            self,
            Self::InboundTransportV6
                | Self::OutboundTransportV6
                | Self::AuthRecvAcceptV6
                | Self::ResourceAssignmentV6
        )
    }
}

/// The fields that conditions can name, by key.
const CONDITIONS: [(Guid, Field); 10] = [
    (guid(0x3971_EF2B, 0x623E, 0x4F9A, 0x8CB1_6E79_B806_B9A7), Protocol),
    (guid(0xD9EE_00DE, 0xC1EF, 0x4617, 0xBFE3_FFD8_F5A0_8957), LocalAddress),
    (guid(0xB235_AE9A, 0x1D64, 0x49B8, 0xA44C_5FF3_D909_5045), RemoteAddress),
    (guid(0x0C1B_A1AF, 0x5765, 0x453F, 0xAF22_A8F7_91AC_775B), LocalPort),
    (guid(0xC35A_604D, 0xD22B, 0x4E1A, 0x91B4_68F6_74EE_674B), RemotePort),
    (guid(0x4CD6_2A49, 0x59C3, 0x4969, 0xB7F3_BDA5_D328_90A4), Interface),
    (guid(0x667F_D755, 0xD695, 0x434A, 0x8AF5_D383_5A12_59BC), InterfaceIndex),
    (guid(0x0CD4_2473, 0xD621, 0x4BE3, 0xAE8C_72A3_48D2_83E1), SubInterfaceIndex),
    (guid(0xDAF8_CD14, 0xE09E, 0x4C93, 0xA5AE_C5C1_3B73_FFCA), InterfaceType),
    (guid(0x632C_E23B, 0x5167, 0x435C, 0x86D7_E903_684A_A80C), Flags),
];

/// The field that a condition's key means at a layer.
pub(crate) fn condition_field(layer: Layer, key: &Guid) -> Option<Field> {
    let field = CONDITIONS.iter().find(|(known, _)| known == key)?.1;
    layer.fields().contains(&field).then_some(field)
}

/// A value of a field or of a condition: `FWP_VALUE0`, as far as such fields have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(crate) enum Value {
    Empty,
    U8(u8),
    U16(u16),
    U32(u32),
    U64(u64),
    Bytes16([u8; 16]),
}

impl Value {
    /// Its `FWP_DATA_TYPE`.
    pub(crate) fn kind(self) -> u32 {
        match self {
            Self::Empty => 0,
            Self::U8(_) => 1,
            Self::U16(_) => 2,
            Self::U32(_) => 3,
            Self::U64(_) => 4,
            Self::Bytes16(_) => 11,
        }
    }

    fn number(self) -> Option<u64> {
        match self {
            Self::U8(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::U64(value) => Some(value),
            Self::Empty | Self::Bytes16(_) => None,
        }
    }
}

/// What is known of a packet where it is classified.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) interface: u32,
    pub(crate) luid: u64,
    /// `FWP_CONDITION_FLAG_*`.
    pub(crate) flags: u32,
}

/// `IPPROTO_UDP`: nothing else passes here.
pub(crate) const UDP: u8 = 17;
/// `DEFAULT_COMPARTMENT_ID`.
pub(crate) const COMPARTMENT: u32 = 1;

fn address(address: IpAddr) -> Value {
    match address {
        IpAddr::V4(v4) => Value::U32(u32::from(v4)),
        IpAddr::V6(v6) => Value::Bytes16(v6.octets()),
    }
}

impl Facts {
    /// The value of a field.
    pub(crate) fn value(&self, field: Field) -> Value {
        match field {
            Protocol => Value::U8(UDP),
            LocalAddress => address(self.local.ip()),
            RemoteAddress => address(self.remote.ip()),
            // NlatUnicast.
            LocalAddressType | DestinationAddressType => Value::U8(1),
            LocalPort => Value::U16(self.local.port()),
            RemotePort => Value::U16(self.remote.port()),
            Interface => Value::U64(self.luid),
            InterfaceIndex => Value::U32(self.interface),
            SubInterfaceIndex | TunnelType | ProfileId => Value::U32(0),
            Flags => Value::U32(self.flags),
            // IF_TYPE_ETHERNET_CSMACD.
            InterfaceType => Value::U32(6),
            SecurityRealm => Value::U64(0),
            Compartment => Value::U32(COMPARTMENT),
            Other => Value::Empty,
        }
    }
}

/// `FWP_MATCH_*`, as far as known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Test {
    Equal,
    NotEqual,
    Greater,
    Less,
    GreaterOrEqual,
    LessOrEqual,
    Range,
    AllSet,
    AnySet,
    NoneSet,
}

impl Test {
    /// The test with this number.
    pub(crate) fn find(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Equal,
            1 => Self::Greater,
            2 => Self::Less,
            3 => Self::GreaterOrEqual,
            4 => Self::LessOrEqual,
            5 => Self::Range,
            6 => Self::AllSet,
            7 => Self::AnySet,
            8 => Self::NoneSet,
            10 => Self::NotEqual,
            _ => return None,
        })
    }
}

/// One condition of a filter. For [`Test::Range`] there are two values, else both are the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Condition {
    pub(crate) field: Field,
    pub(crate) test: Test,
    pub(crate) values: [Value; 2],
}

impl Condition {
    /// Whether its values have the type that the field has at `layer`.
    pub(crate) fn fits(&self, layer: Layer) -> bool {
        let local: SocketAddr =
            if layer.is_ipv6() { ([0_u16; 8], 0).into() } else { ([0_u8; 4], 0).into() };
        let facts = Facts { local, remote: local, interface: 0, luid: 0, flags: 0 };
        let kind = facts.value(self.field).kind();
        self.values.iter().all(|value| value.kind() == kind)
    }

    fn meets(&self, facts: &Facts) -> bool {
        let value = facts.value(self.field);
        let [low, high] = self.values;
        let bits = || value.number().zip(low.number());
        match self.test {
            Test::Equal => value == low,
            Test::NotEqual => value != low,
            Test::Greater => value > low,
            Test::Less => value < low,
            Test::GreaterOrEqual => value >= low,
            Test::LessOrEqual => value <= low,
            Test::Range => value >= low && value <= high,
            Test::AllSet => bits().is_some_and(|(value, bits)| value & bits == bits),
            Test::AnySet => bits().is_some_and(|(value, bits)| value & bits != 0),
            Test::NoneSet => bits().is_some_and(|(value, bits)| value & bits == 0),
        }
    }
}

/// Whether a packet meets a filter's conditions: those of one field are alternatives, different fields must all be met.
pub(crate) fn matches(conditions: &[Condition], facts: &Facts) -> bool {
    conditions.iter().all(|condition| {
        let alternatives = conditions.iter().filter(|other| other.field == condition.field);
        alternatives.into_iter().any(|other| other.meets(facts))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(field: Field, test: Test, value: Value) -> Condition {
        Condition { field, test, values: [value; 2] }
    }

    #[test]
    fn conditions_of_one_field_are_alternatives() {
        let facts = Facts {
            local: "192.0.2.1:51820".parse().unwrap(),
            remote: "198.51.100.7:9".parse().unwrap(),
            interface: 2,
            luid: 7,
            flags: 1,
        };
        let udp = condition(Protocol, Test::Equal, Value::U8(17));
        let port = |port| condition(LocalPort, Test::Equal, Value::U16(port));
        for (conditions, expected) in [
            (vec![], true),
            (vec![udp, port(51820)], true),
            (vec![udp, port(51821)], false),
            (vec![udp, port(51821), port(51820)], true),
            (vec![condition(Protocol, Test::Equal, Value::U8(6)), port(51820)], false),
            (vec![condition(Flags, Test::NoneSet, Value::U32(1))], false),
            (vec![condition(Flags, Test::AnySet, Value::U32(3))], true),
            (vec![condition(Flags, Test::AllSet, Value::U32(3))], false),
            (vec![condition(Interface, Test::NotEqual, Value::U64(8))], true),
            (vec![condition(RemoteAddress, Test::Equal, Value::U32(0xC633_6407))], true),
            (vec![condition(LocalPort, Test::Greater, Value::U16(51820))], false),
            (vec![condition(LocalPort, Test::LessOrEqual, Value::U16(51820))], true),
        ] {
            assert_eq!(matches(&conditions, &facts), expected, "{conditions:?}");
        }
        let range = Condition {
            field: LocalPort,
            test: Test::Range,
            values: [Value::U16(51820), Value::U16(51830)],
        };
        assert!(matches(&[range], &facts) && range.fits(Layer::InboundTransportV4));
    }

    #[test]
    fn keys_are_written_as_windows_lays_them_out() {
        let key = Layer::InboundTransportV4.key();
        assert_eq!(key[..4], [0xC8, 0xDF, 0x26, 0x59]);
        assert_eq!(key[8..], [0xA2, 0x83, 0xDC, 0x39, 0x3F, 0x5D, 0x0F, 0x9D]);
        let keys: std::collections::HashSet<_> =
            Layer::ALL.iter().map(|layer| layer.key()).collect();
        assert_eq!(keys.len(), LAYERS);
        assert_eq!(Layer::find(&key), Some(Layer::InboundTransportV4));
        assert_eq!(condition_field(Layer::InboundTransportV4, &[0; 16]), None);
    }
}
