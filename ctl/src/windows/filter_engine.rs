//! Filters of the Windows Filtering Platform, in a session that ends with this process, and they with it.
//!
//! All of them come at once, or none does. A block is final: no lighter sublayer permits what it blocks. What they permit the firewall may
//! still block.
//!
//! Source: <https://learn.microsoft.com/windows/win32/fwp/filter-arbitration>,
//! <https://learn.microsoft.com/windows/win32/api/fwpmu/nf-fwpmu-fwpmfilteradd0>.

use std::io;
use std::net::IpAddr;
use std::ptr::{null, null_mut};

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::NetworkManagement::WindowsFilteringPlatform::{
    FWP_ACTION_BLOCK, FWP_ACTION_PERMIT, FWP_BYTE_ARRAY16, FWP_BYTE_ARRAY16_TYPE, FWP_BYTE_BLOB,
    FWP_BYTE_BLOB_TYPE, FWP_CONDITION_FLAG_IS_LOOPBACK, FWP_CONDITION_VALUE0,
    FWP_CONDITION_VALUE0_0, FWP_MATCH_EQUAL, FWP_MATCH_FLAGS_ALL_SET, FWP_SECURITY_DESCRIPTOR_TYPE,
    FWP_UINT8, FWP_UINT16, FWP_UINT32, FWP_UINT64, FWP_VALUE0, FWP_VALUE0_0,
    FWPM_CONDITION_ALE_APP_ID, FWPM_CONDITION_ALE_USER_ID, FWPM_CONDITION_FLAGS,
    FWPM_CONDITION_IP_LOCAL_INTERFACE, FWPM_CONDITION_IP_LOCAL_PORT, FWPM_CONDITION_IP_PROTOCOL,
    FWPM_CONDITION_IP_REMOTE_ADDRESS, FWPM_CONDITION_IP_REMOTE_PORT, FWPM_DISPLAY_DATA0,
    FWPM_FILTER_CONDITION0, FWPM_FILTER_FLAG_CLEAR_ACTION_RIGHT, FWPM_FILTER0,
    FWPM_LAYER_ALE_AUTH_CONNECT_V4, FWPM_LAYER_ALE_AUTH_CONNECT_V6,
    FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V4, FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V6,
    FWPM_SESSION_FLAG_DYNAMIC, FWPM_SESSION0, FWPM_SUBLAYER0, FwpmEngineClose0, FwpmEngineOpen0,
    FwpmFilterAdd0, FwpmFreeMemory0, FwpmGetAppIdFromFileName0, FwpmSubLayerAdd0,
    FwpmTransactionAbort0, FwpmTransactionBegin0, FwpmTransactionCommit0,
};
use windows_sys::Win32::System::Rpc::RPC_C_AUTHN_WINNT;
use windows_sys::core::GUID;

use super::access::Access;
use super::network::Luid;
use super::token::{self, Token};
use super::wide::wide;
use crate::service::descriptor::Sid;
use crate::tunnel::filters::{Condition, Filter};

/// Where filters are, and whether that is IPv4.
const LAYERS: [(GUID, bool); 4] = [
    (FWPM_LAYER_ALE_AUTH_CONNECT_V4, true),
    (FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V4, true),
    (FWPM_LAYER_ALE_AUTH_CONNECT_V6, false),
    (FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V6, false),
];
/// The heaviest sublayer there can be.
const HEAVIEST: u16 = u16::MAX;

/// A session with filters, which go when this does.
pub(super) struct Filters {
    engine: HANDLE,
}

impl Filters {
    /// Installs filters for the tunnel of this adapter, whose own service has this SID; without one it is the account of this process.
    pub(super) fn install(
        filters: &[Filter],
        adapter: Luid,
        service: Option<&Sid>,
    ) -> io::Result<Self> {
        let session = Self::open()?;
        let program = Program::of(&std::env::current_exe()?)?;
        let account = Account::of(&own(service)?)?;
        let own = Own { adapter, program: program.0, account: account.blob() };
        // SAFETY: the engine is open.
        answered(unsafe { FwpmTransactionBegin0(session.engine, 0) })?;
        if let Err(why) = session.add_all(filters, &own) {
            // SAFETY: the transaction was begun.
            unsafe { FwpmTransactionAbort0(session.engine) };
            return Err(why);
        }
        // SAFETY: as above.
        answered(unsafe { FwpmTransactionCommit0(session.engine) })?;
        Ok(session)
    }

    fn open() -> io::Result<Self> {
        let mut name = wide("Penstock");
        let session = FWPM_SESSION0 {
            displayData: named(&mut name),
            flags: FWPM_SESSION_FLAG_DYNAMIC,
            ..FWPM_SESSION0::default()
        };
        let mut engine = null_mut();
        // SAFETY: this machine, this user, and a place for the handle; the name ends with a NUL.
        answered(unsafe {
            FwpmEngineOpen0(null(), RPC_C_AUTHN_WINNT, null(), &raw const session, &raw mut engine)
        })?;
        Ok(Self { engine })
    }

    fn add_all(&self, filters: &[Filter], own: &Own) -> io::Result<()> {
        let mut name = wide("Penstock: nothing beside the tunnel");
        let sublayer = FWPM_SUBLAYER0 {
            subLayerKey: any_guid()?,
            displayData: named(&mut name),
            weight: HEAVIEST,
            ..FWPM_SUBLAYER0::default()
        };
        // SAFETY: the engine is open; the sublayer has a key and a name.
        answered(unsafe { FwpmSubLayerAdd0(self.engine, &raw const sublayer, null_mut()) })?;
        for filter in filters {
            for (layer, is_ipv4) in LAYERS {
                let Some(conditions) = filter.conditions(is_ipv4) else { continue };
                let values = Values::of(&conditions, own);
                self.add(filter, layer, sublayer.subLayerKey, &values)?;
            }
        }
        Ok(())
    }

    fn add(&self, filter: &Filter, layer: GUID, sublayer: GUID, values: &Values) -> io::Result<()> {
        let mut name = wide(format!("Penstock: {filter}"));
        let mut conditions = values.conditions();
        let row = FWPM_FILTER0 {
            displayData: named(&mut name),
            flags: if filter.permit { 0 } else { FWPM_FILTER_FLAG_CLEAR_ACTION_RIGHT },
            layerKey: layer,
            subLayerKey: sublayer,
            weight: FWP_VALUE0 {
                r#type: FWP_UINT8,
                Anonymous: FWP_VALUE0_0 { uint8: filter.weight },
            },
            numFilterConditions: u32::try_from(conditions.len()).unwrap_or(u32::MAX),
            filterCondition: conditions.as_mut_ptr(),
            ..FWPM_FILTER0::default()
        };
        let mut row = row;
        row.action.r#type = if filter.permit { FWP_ACTION_PERMIT } else { FWP_ACTION_BLOCK };
        // SAFETY: the engine is open; conditions and what they point to live as long as the call.
        answered(unsafe { FwpmFilterAdd0(self.engine, &raw const row, null_mut(), null_mut()) })
    }
}

impl Drop for Filters {
    fn drop(&mut self) {
        // SAFETY: opened here, and closed once; the session's objects go with it.
        unsafe { FwpmEngineClose0(self.engine) };
    }
}

/// Who the tunnel's own are, as filters name them.
struct Own {
    adapter: Luid,
    program: *mut FWP_BYTE_BLOB,
    account: *mut FWP_BYTE_BLOB,
}

/// Whom this process is known by: its service's SID, which its token then has, or its account.
fn own(service: Option<&Sid>) -> io::Result<Sid> {
    let Some(service) = service else { return Token::of_process()?.user() };
    if token::is_of(service)? {
        return Ok(service.clone());
    }
    Err(io::Error::other(format!(
        "this service has no SID of its own ({service}), by which filters know it: install it by `penstock install-tunnel`"
    )))
}

/// A security descriptor that lets one account or service match, and nobody else.
struct Account {
    blob: Box<FWP_BYTE_BLOB>,
    /// What it points into.
    _access: Access,
}

/// Conditions, and the values that theirs point to.
struct Values {
    conditions: Vec<Condition>,
    adapter: Box<u64>,
    program: *mut FWP_BYTE_BLOB,
    account: *mut FWP_BYTE_BLOB,
    /// Remote addresses of IPv6, in the order of their conditions.
    addresses: Vec<FWP_BYTE_ARRAY16>,
}

impl Values {
    fn of(conditions: &[Condition], own: &Own) -> Self {
        let bytes = |condition: &Condition| match condition {
            Condition::Remote(IpAddr::V6(address)) => {
                Some(FWP_BYTE_ARRAY16 { byteArray16: address.octets() })
            }
            _ => None,
        };
        Self {
            conditions: conditions.to_vec(),
            adapter: Box::new(own.adapter.0),
            program: own.program,
            account: own.account,
            addresses: conditions.iter().filter_map(bytes).collect(),
        }
    }

    /// The conditions as the engine has them; they point into this.
    fn conditions(&self) -> Vec<FWPM_FILTER_CONDITION0> {
        let mut addresses = self.addresses.iter();
        let conditions = self.conditions.iter().map(|condition| {
            let (field, kind, value) = match *condition {
                Condition::OwnProgram => (
                    FWPM_CONDITION_ALE_APP_ID,
                    FWP_BYTE_BLOB_TYPE,
                    FWP_CONDITION_VALUE0_0 { byteBlob: self.program },
                ),
                Condition::OwnAccount => (
                    FWPM_CONDITION_ALE_USER_ID,
                    FWP_SECURITY_DESCRIPTOR_TYPE,
                    FWP_CONDITION_VALUE0_0 { sd: self.account },
                ),
                Condition::Loopback => (
                    FWPM_CONDITION_FLAGS,
                    FWP_UINT32,
                    FWP_CONDITION_VALUE0_0 { uint32: FWP_CONDITION_FLAG_IS_LOOPBACK },
                ),
                Condition::Adapter => (
                    FWPM_CONDITION_IP_LOCAL_INTERFACE,
                    FWP_UINT64,
                    FWP_CONDITION_VALUE0_0 { uint64: (&raw const *self.adapter).cast_mut() },
                ),
                Condition::Protocol(number) => (
                    FWPM_CONDITION_IP_PROTOCOL,
                    FWP_UINT8,
                    FWP_CONDITION_VALUE0_0 { uint8: number },
                ),
                Condition::LocalPort(port) => (
                    FWPM_CONDITION_IP_LOCAL_PORT,
                    FWP_UINT16,
                    FWP_CONDITION_VALUE0_0 { uint16: port },
                ),
                Condition::RemotePort(port) => (
                    FWPM_CONDITION_IP_REMOTE_PORT,
                    FWP_UINT16,
                    FWP_CONDITION_VALUE0_0 { uint16: port },
                ),
                // In the order of the machine.
                Condition::Remote(IpAddr::V4(address)) => (
                    FWPM_CONDITION_IP_REMOTE_ADDRESS,
                    FWP_UINT32,
                    FWP_CONDITION_VALUE0_0 { uint32: address.to_bits() },
                ),
                Condition::Remote(IpAddr::V6(_)) => (
                    FWPM_CONDITION_IP_REMOTE_ADDRESS,
                    FWP_BYTE_ARRAY16_TYPE,
                    FWP_CONDITION_VALUE0_0 {
                        byteArray16: addresses
                            .next()
                            .map_or_else(null_mut, |bytes| (&raw const *bytes).cast_mut()),
                    },
                ),
            };
            FWPM_FILTER_CONDITION0 {
                fieldKey: field,
                matchType: match condition {
                    Condition::Loopback => FWP_MATCH_FLAGS_ALL_SET,
                    _ => FWP_MATCH_EQUAL,
                },
                conditionValue: FWP_CONDITION_VALUE0 { r#type: kind, Anonymous: value },
            }
        });
        conditions.collect()
    }
}

impl Account {
    fn of(sid: &Sid) -> io::Result<Self> {
        // CC is FWP_ACTRL_MATCH_FILTER; owner and group are there because a descriptor without them is none to the engine.
        let access = Access::of(&format!("O:SYG:SYD:(A;;CC;;;{sid})"))?;
        let bytes = access.bytes();
        let blob = FWP_BYTE_BLOB {
            size: u32::try_from(bytes.len()).unwrap_or_default(),
            data: bytes.as_ptr().cast_mut(),
        };
        Ok(Self { blob: Box::new(blob), _access: access })
    }

    /// As the engine takes it, for as long as this lives. It only reads it.
    fn blob(&self) -> *mut FWP_BYTE_BLOB {
        (&raw const *self.blob).cast_mut()
    }
}

/// A program, as filters name it.
struct Program(*mut FWP_BYTE_BLOB);

impl Program {
    fn of(path: &std::path::Path) -> io::Result<Self> {
        let path = wide(path);
        let mut program = null_mut();
        // SAFETY: the path ends with a NUL; a place for the blob.
        answered(unsafe { FwpmGetAppIdFromFileName0(path.as_ptr(), &raw mut program) })?;
        Ok(Self(program))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the engine's, which the caller is to free once.
        unsafe { FwpmFreeMemory0((&raw mut self.0).cast()) };
    }
}

fn named(name: &mut [u16]) -> FWPM_DISPLAY_DATA0 {
    FWPM_DISPLAY_DATA0 { name: name.as_mut_ptr(), description: null_mut() }
}

/// A GUID that nobody else has. [RFC 9562 §5.4]
fn any_guid() -> io::Result<GUID> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    bytes[6] = bytes[6] & 0x0F | 0x40;
    bytes[8] = bytes[8] & 0x3F | 0x80;
    Ok(GUID::from_u128(u128::from_be_bytes(bytes)))
}

/// The error of a function of the engine: a number of Win32, or one of its own (an HRESULT).
fn answered(code: u32) -> io::Result<()> {
    super::checked(code).map_err(|why| match code {
        0x8000_0000.. => io::Error::other(format!("the Base Filtering Engine answered {code:#x}")),
        _ => why,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::service::descriptor::{Descriptor, Grant};
    use crate::tunnel::filters::kill_switch;

    /// Two servers of IPv6 among them: each condition points to its own address.
    #[test]
    fn conditions_point_to_their_values() {
        let servers =
            ["192.0.2.53", "2001:db8::1", "2001:db8::2"].map(|text| text.parse().unwrap());
        let mut program = FWP_BYTE_BLOB { size: 0, data: null_mut() };
        let service = Sid::of_service("PenstockTunnel$office");
        let account = Account::of(&service).unwrap();
        let own = Own { adapter: Luid(7), program: &raw mut program, account: account.blob() };
        let mut named = Vec::new();
        let (mut count, mut accounts) = (0, 0);
        for filter in kill_switch(&servers) {
            for (_, is_ipv4) in LAYERS {
                let Some(conditions) = filter.conditions(is_ipv4) else { continue };
                let values = Values::of(&conditions, &own);
                for condition in values.conditions() {
                    let value = condition.conditionValue;
                    match value.r#type {
                        FWP_BYTE_ARRAY16_TYPE => {
                            // SAFETY: the type says which of the values it is.
                            let bytes = unsafe { value.Anonymous.byteArray16 };
                            // SAFETY: it points into `values`.
                            named.push(unsafe { (*bytes).byteArray16[15] });
                        }
                        FWP_UINT64 => {
                            // SAFETY: the type says which of the values it is.
                            let luid = unsafe { value.Anonymous.uint64 };
                            // SAFETY: it points into `values`.
                            assert_eq!(unsafe { *luid }, 7);
                        }
                        FWP_SECURITY_DESCRIPTOR_TYPE => {
                            // SAFETY: the type says which of the values it is.
                            let blob = unsafe { value.Anonymous.sd };
                            // SAFETY: it points to that of `account`.
                            let FWP_BYTE_BLOB { size, data } = unsafe { *blob };
                            // SAFETY: so many bytes of a descriptor that lives as long.
                            let bytes = unsafe { std::slice::from_raw_parts(data, size as usize) };
                            let grants = Descriptor::parse(bytes).unwrap().grants;
                            assert_eq!(
                                grants,
                                Some(vec![Grant { to: service.clone(), rights: 1 }])
                            );
                            accounts += 1;
                        }
                        _ => {}
                    }
                    count += 1;
                }
            }
        }
        assert_eq!(named, [1, 2, 1, 2]);
        assert_eq!((count, accounts), (72, 4));
    }

    #[test]
    fn a_service_without_its_sid_filters_nothing() {
        assert_eq!(own(None).unwrap(), Token::of_process().unwrap().user().unwrap());
        let administrators = Sid::nt(&[32, 544]);
        assert_eq!(own(Some(&administrators)).unwrap(), administrators);
        let why = own(Some(&Sid::of_service("PenstockTunnel$office"))).unwrap_err();
        assert!(why.to_string().contains("S-1-5-80-"), "{why}");
    }
}
