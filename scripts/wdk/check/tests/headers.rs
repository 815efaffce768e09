//! Our headers, import libraries and entry object against the driver kit's numbers.

use declarations::{
    abi::Abi,
    header::{Headers, Signature},
    read,
};

fn headers() -> Headers {
    let mut headers = Headers::default();
    for path in [
        "10.0.26100.0/shared/ntdef.h",
        "10.0.26100.0/km/wdm.h",
        "10.0.26100.0/km/ntddk.h",
        "wdf/kmdf/1.31/wdf.h",
        "wdf/kmdf/1.31/wdftypes.h",
        "wdf/kmdf/1.31/wdffuncenum.h",
        "wdf/kmdf/1.31/wdfcalls.h",
    ] {
        headers.read(&read(&format!("scripts/wdk/include/{path}")));
    }
    headers
}

fn none(wrong: &[String]) {
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_structure_lies_as_in_the_kit() {
    let (abi, headers) = (Abi::load(), headers());
    // `_EXT_SET_PARAMETERS_V0` goes by the kit's newer name; handles and opaque types have no fields.
    let wrong: Vec<_> =
        headers.records.iter().flat_map(|(name, record)| abi.differences(name, record)).collect();
    none(&wrong);
    assert!(headers.records.len() > 30, "{} structures", headers.records.len());
}

#[test]
fn the_entry_object_hands_the_loader_what_it_knows() {
    let abi = Abi::load();
    let mut headers = headers();
    let before = headers.records.len();
    let text = read("scripts/wdk/lib/kmdf_entry.c");
    let declarations = text.split_once("#define CLASS_RECORD_LONG").expect("the records").0;
    headers.read(&declarations[declarations.find("typedef struct _WDF_VERSION").expect("begin")..]);
    assert_eq!(headers.records.len(), before + 3);
    none(&abi.differences("WDF_BIND_INFO2", &flat(&headers, "WDF_BIND_INFO2")));
    none(&abi.differences("WDF_CLASS_BIND_INFO", &flat(&headers, "WDF_CLASS_BIND_INFO")));
    let long =
        abi.get("structs", "WDF_CLASS_BIND_INFO2").and_then(|record| record["size"].as_u64());
    assert_eq!(long, Some(120), "CLASS_RECORD_LONG");
    assert!(text.contains("#define CLASS_RECORD_LONG 120"));
}

/// The record without the members of its version, which the kit keeps in one.
fn flat(headers: &Headers, name: &str) -> declarations::layout::Record {
    let mut record = headers.records[name].clone();
    record.fields.retain(|field| !field.name.starts_with("Version."));
    record
}

#[test]
fn every_number_is_the_kit_s() {
    let (abi, headers) = (Abi::load(), headers());
    let mut wrong = Vec::new();
    for (name, value) in &headers.constants {
        if name == "PENSTOCK_WDF_STRUCTURE_COUNT" {
            assert_eq!(*value, 81, "binding-semantics of 1.31");
        } else if abi.value(name) != Some(*value) {
            wrong.push(format!("{name}: {value}, kit {:?}", abi.value(name)));
        }
    }
    for (name, value) in headers.enums.values().flatten() {
        let kit = match name.strip_suffix("TableIndex") {
            _ if name == "WdfFunctionTableNumEntries" => abi.count("WDF_1_31").map(|n| n as i64),
            Some(function) => abi.index("WDF_1_31", function).map(|index| index as i64),
            None if SINGLE.contains(&name.as_str()) => continue,
            None => abi.value(name),
        };
        if kit != Some(*value) {
            wrong.push(format!("{name}: {value}, kit {kit:?}"));
        }
    }
    none(&wrong);
}

/// Members that the extraction does not have; nothing of ours depends on their value.
const SINGLE: [&str; 5] = [
    "SecurityAnonymous",
    "SecurityIdentification",
    "SecurityImpersonation",
    "SecurityDelegation",
    "BusRelations",
];

#[test]
fn every_routine_takes_what_the_kit_s_takes() {
    let (abi, headers) = (Abi::load(), headers());
    let mut wrong = Vec::new();
    for (name, ours) in &headers.functions {
        let Some(kit) = abi.get("functions", name) else {
            wrong.push(format!("{name}: not in nt/tests/abi.json"));
            continue;
        };
        let parameters: Vec<_> = kit["params"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|parameter| {
                let (name, kind) =
                    parameter.as_str().unwrap_or_default().split_once(": ").unwrap_or_default();
                (word(kind), name.to_owned())
            })
            .collect();
        let kit = (word(kit["ret"].as_str().unwrap_or_default()), parameters);
        let ours = (
            word(&ours.returns),
            ours.parameters.iter().map(|(kind, name)| (word(kind), name.clone())).collect(),
        );
        if ours != kit {
            wrong.push(format!("{name}: {ours:?}\n  kit {kit:?}"));
        }
    }
    none(&wrong);
    assert!(headers.functions.len() > 50);
}

#[test]
fn every_callback_and_table_entry_has_the_kit_s_type() {
    let (abi, headers) = (Abi::load(), headers());
    let mut wrong = Vec::new();
    for (name, ours) in &headers.function_types {
        if UNNAMED.contains(&name.as_str()) {
            continue;
        }
        let callback = name.replacen("PFN_WDF_", "EVT_WDF_", 1);
        let group = "function_pointer_types";
        let pointer =
            |kit: &&serde_json::Value| kit.as_str().is_some_and(|text| text.contains('('));
        let kit = abi.get(group, name).filter(pointer).or_else(|| abi.get(group, &callback));
        let kit = kit.and_then(|kit| kit.as_str()).map(signature);
        let ours = shape_of(ours);
        if kit.as_ref() != Some(&ours) {
            wrong.push(format!("{name}: {ours:?}\n  kit {kit:?}"));
        }
    }
    none(&wrong);
    assert!(headers.function_types.len() > 60);
}

/// Types of routines that the extraction has under no name of their own.
const UNNAMED: [&str; 1] = ["WDFFUNC"];

fn shape_of(ours: &Signature) -> (String, Vec<String>) {
    (word(&ours.returns), ours.parameters.iter().map(|(kind, _)| word(kind)).collect())
}

/// `RETURNS (*)(A, B)` or `RETURNS (A, B)`.
fn signature(kit: &str) -> (String, Vec<String>) {
    let kit = kit.split("__attribute__").next().unwrap_or_default().replace("(*)", "");
    let (returns, rest) = kit.split_once('(').unwrap_or_default();
    let parameters = rest[..rest.rfind(')').unwrap_or(0)].split(',').map(word);
    (word(returns), parameters.filter(|kind| !["", "void"].contains(&kind.as_str())).collect())
}

/// One spelling for types that are the same: `struct _X *`, `PX`, `PRX`.
fn word(kind: &str) -> String {
    let kind = kind.replace("VOID", "void").replace("Pvoid", "PVOID");
    let words: Vec<_> = kind.split_whitespace().filter(|word| *word != "volatile").collect();
    let kind = words.join(" ").replace(" *", "*");
    if let Some(tag) = kind.strip_prefix("struct _").and_then(|rest| rest.strip_suffix('*')) {
        return format!("P{tag}");
    }
    match kind.as_str() {
        "PRKDPC" => "PKDPC".to_owned(),
        "PRKEVENT" => "PKEVENT".to_owned(),
        _ => kind,
    }
}

#[test]
fn every_import_is_exported() {
    let abi = Abi::load();
    let mut wrong = Vec::new();
    for (file, dll) in [
        ("ntoskrnl", "ntoskrnl.exe"),
        ("netio", "netio.sys"),
        ("ndis", "ndis.sys"),
        ("fwpkclnt", "fwpkclnt.sys"),
        ("wdfldr", "wdfldr.sys"),
    ] {
        let text = read(&format!("scripts/wdk/lib/{file}.def"));
        let (head, names) = text.split_once("EXPORTS\n").expect("EXPORTS");
        assert!(head.to_lowercase().contains(&format!("library {dll}")), "{file}.def");
        for name in names.lines().filter(|name| !CONFIRMED_ELSEWHERE.contains(name)) {
            if !abi.exports(dll, name) {
                wrong.push(format!("{dll}: {name}"));
            }
        }
    }
    none(&wrong);
}

/// Exports of the kernel that the lists at hand lack: the compiler's stack probe, which drivers of
/// every kind import, and routines newer than those lists, which the kit's headers declare.
const CONFIRMED_ELSEWHERE: [&str; 1] = ["__chkstk"];
