//! `nt/src/sys` against the driver kit's numbers.

use declarations::{abi::Abi, raw::Raw, read};

fn raw() -> Raw {
    let mut raw = Raw::default();
    for file in ["ke", "etw", "cng", "wsk", "netio", "netcx", "ndis", "fwp"] {
        raw.read(&read(&format!("nt/src/sys/{file}.rs")));
    }
    raw
}

fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_structure_lies_as_in_the_kit() {
    let (abi, raw) = (Abi::load(), raw());
    let wrong: Vec<_> = raw
        .records
        .iter()
        .filter(|(name, _)| !OPAQUE.contains(&name.as_str()))
        .flat_map(|(name, record)| abi.differences(name, record))
        .filter(|wrong| !BEGINNINGS.iter().any(|beginning| wrong.starts_with(beginning)))
        .collect();
    none(&wrong);
    assert!(raw.records.len() > 45, "{} structures", raw.records.len());
}

/// Structures of which only the beginning is declared: their size differs, and their last member's.
const BEGINNINGS: [&str; 2] = ["NET_BUFFER_LIST: ", "NET_BUFFER_LIST.NetBufferListInfo: "];

/// Structures that are only pointed to.
const OPAQUE: [&str; 1] = ["WSK_CLIENT"];

#[test]
fn every_number_is_the_kit_s() {
    let (abi, raw) = (Abi::load(), raw());
    let mut wrong = Vec::new();
    for (name, value) in &raw.constants {
        let digits = value.replace('_', "");
        let value = digits
            .strip_prefix("0x")
            .map_or_else(|| digits.parse().ok(), |hex| i64::from_str_radix(hex, 16).ok());
        let other = KIT_NAMES.iter().find(|(ours, _)| ours == name);
        let names = other.map_or_else(|| vec![name.as_str()], |(_, kit)| kit.to_vec());
        for kit in names {
            let kit_value = abi.value(kit);
            if kit_value.is_none()
                || kit_value.map(|value| value & 0xFFFF_FFFF)
                    != value.map(|value| value & 0xFFFF_FFFF)
            {
                wrong.push(format!("{name}: {value:?}, kit {kit} {kit_value:?}"));
            }
        }
    }
    none(&wrong);
    assert!(raw.constants.len() > 15);
}

/// Our name for what the kit calls something else, or several things; or which is in no table at
/// hand (a macro with arguments, the count of a function table, a header that was not read).
const KIT_NAMES: [(&str, &[&str]); 17] = [
    ("UDP_COALESCED_INFO", &["UdpRecvSegCoalesceOffloadInfo"]),
    ("RPC_C_AUTHN_DEFAULT", &[]),
    ("WSK_VERSION_1_0", &[]),
    ("WSK_SET_OPTION", &["WskSetOption"]),
    ("WSK_GET_OPTION", &["WskGetOption"]),
    ("PKTINFO", &["IP_PKTINFO", "IPV6_PKTINFO"]),
    ("RECVECN", &["IP_RECVECN", "IPV6_RECVECN"]),
    (
        "FIELD_LOCAL_ADDRESS",
        &[
            "FWPS_FIELD_INBOUND_TRANSPORT_V4_IP_LOCAL_ADDRESS",
            "FWPS_FIELD_INBOUND_TRANSPORT_V6_IP_LOCAL_ADDRESS",
            "FWPS_FIELD_OUTBOUND_TRANSPORT_V4_IP_LOCAL_ADDRESS",
            "FWPS_FIELD_OUTBOUND_TRANSPORT_V6_IP_LOCAL_ADDRESS",
        ],
    ),
    (
        "FIELD_LOCAL_PORT",
        &[
            "FWPS_FIELD_INBOUND_TRANSPORT_V4_IP_LOCAL_PORT",
            "FWPS_FIELD_INBOUND_TRANSPORT_V6_IP_LOCAL_PORT",
            "FWPS_FIELD_OUTBOUND_TRANSPORT_V4_IP_LOCAL_PORT",
            "FWPS_FIELD_OUTBOUND_TRANSPORT_V6_IP_LOCAL_PORT",
        ],
    ),
    (
        "FIELD_REMOTE_PORT",
        &[
            "FWPS_FIELD_INBOUND_TRANSPORT_V4_IP_REMOTE_PORT",
            "FWPS_FIELD_INBOUND_TRANSPORT_V6_IP_REMOTE_PORT",
            "FWPS_FIELD_OUTBOUND_TRANSPORT_V4_IP_REMOTE_PORT",
            "FWPS_FIELD_OUTBOUND_TRANSPORT_V6_IP_REMOTE_PORT",
        ],
    ),
    (
        "FIELD_INTERFACE",
        &[
            "FWPS_FIELD_INBOUND_TRANSPORT_V4_INTERFACE_INDEX",
            "FWPS_FIELD_INBOUND_TRANSPORT_V6_INTERFACE_INDEX",
            "FWPS_FIELD_OUTBOUND_TRANSPORT_V4_INTERFACE_INDEX",
            "FWPS_FIELD_OUTBOUND_TRANSPORT_V6_INTERFACE_INDEX",
        ],
    ),
    (
        "FIELD_REMOTE_ADDRESS_INBOUND",
        &[
            "FWPS_FIELD_INBOUND_TRANSPORT_V4_IP_REMOTE_ADDRESS",
            "FWPS_FIELD_INBOUND_TRANSPORT_V6_IP_REMOTE_ADDRESS",
        ],
    ),
    (
        "FIELD_REMOTE_ADDRESS_OUTBOUND",
        &[
            "FWPS_FIELD_OUTBOUND_TRANSPORT_V4_IP_REMOTE_ADDRESS",
            "FWPS_FIELD_OUTBOUND_TRANSPORT_V6_IP_REMOTE_ADDRESS",
        ],
    ),
    (
        "FIELD_FLAGS_INBOUND",
        &["FWPS_FIELD_INBOUND_TRANSPORT_V4_FLAGS", "FWPS_FIELD_INBOUND_TRANSPORT_V6_FLAGS"],
    ),
    (
        "FIELD_FLAGS_OUTBOUND",
        &["FWPS_FIELD_OUTBOUND_TRANSPORT_V4_FLAGS", "FWPS_FIELD_OUTBOUND_TRANSPORT_V6_FLAGS"],
    ),
    ("FUNCTION_COUNT", &[]),
    ("BCRYPT_USE_SYSTEM_PREFERRED_RNG", &[]),
];

#[test]
fn every_guid_is_the_kit_s() {
    let (abi, raw) = (Abi::load(), raw());
    for (name, ours) in raw.guids.iter().filter(|(name, _)| name != "NPI_WSK_INTERFACE_ID") {
        let kit = abi.get("guids", name).and_then(serde_json::Value::as_str);
        assert_eq!(kit, Some(ours.as_str()), "{name}");
    }
    assert!(raw.guids.len() > 5, "{} GUIDs", raw.guids.len());
}

#[test]
fn every_entry_of_the_function_table_is_at_its_index() {
    let (abi, raw) = (Abi::load(), raw());
    let table = "NetAdapterCx_2_1";
    for (index, name) in &raw.entries {
        assert_eq!(abi.index(table, name), Some(*index), "{name}");
    }
    assert!(raw.entries.len() > 15, "{} entries", raw.entries.len());
    let count = raw.constants.iter().find(|(name, _)| name == "FUNCTION_COUNT");
    assert_eq!(count.and_then(|(_, value)| value.parse().ok()), abi.count(table));
}

#[test]
fn every_routine_is_exported_and_takes_as_much() {
    let (abi, raw) = (Abi::load(), raw());
    for (name, count) in &raw.functions {
        if name == "BCryptGenRandom" {
            continue; // cng.sys is in no list at hand
        }
        let exported = ["ntoskrnl.exe", "netio.sys", "ndis.sys", "fwpkclnt.sys"]
            .iter()
            .any(|dll| abi.exports(dll, name));
        assert!(exported, "{name} is no export");
        if let Some(kit) = abi.get("functions", name) {
            assert_eq!(kit["params"].as_array().map(Vec::len), Some(*count), "{name}");
        }
    }
    assert!(raw.functions.len() > 10, "{} routines", raw.functions.len());
}
