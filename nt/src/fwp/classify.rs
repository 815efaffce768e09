//! One packet as a classify sees it, and the answer it gets.
//!
//! Everything here is the stack's and lives as long as the classify. Fixed values and metadata are
//! read by what they say they are: one that is missing, or of another type, is `None`, and whoever
//! decides lets the packet pass. Addresses and ports are in host order here, unlike anywhere else
//! (WFP's convention).
//!
//! Source: DDI fwpsk/nc-fwpsk-fwps_callout_classify_fn2, WDD network/types-of-callouts,
//! WDD network/metadata-fields-at-each-filtering-layer.

use core::{
    ffi::c_void,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ptr::{self, NonNull},
};

use super::{InjectionId, Layer};
use crate::{
    nbl::Indicated,
    sys::fwp::{
        FIELD_FLAGS_INBOUND, FIELD_FLAGS_OUTBOUND, FIELD_INTERFACE, FIELD_LOCAL_ADDRESS,
        FIELD_LOCAL_PORT, FIELD_REMOTE_ADDRESS_INBOUND, FIELD_REMOTE_ADDRESS_OUTBOUND,
        FIELD_REMOTE_PORT, FWP_ACTION_BLOCK, FWP_ACTION_CONTINUE, FWP_ACTION_PERMIT,
        FWP_BYTE_ARRAY16_TYPE, FWP_CONDITION_FLAG_IS_LOOPBACK, FWP_UINT16, FWP_UINT32, FWP_VALUE0,
        FWPS_CLASSIFY_OUT_FLAG_ABSORB, FWPS_CLASSIFY_OUT0, FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT,
        FWPS_FILTER2, FWPS_INCOMING_METADATA_VALUES0, FWPS_INCOMING_VALUES0,
        FWPS_METADATA_FIELD_ALE_CLASSIFY_REQUIRED, FWPS_METADATA_FIELD_COMPARTMENT_ID,
        FWPS_METADATA_FIELD_IP_HEADER_SIZE, FWPS_METADATA_FIELD_TRANSPORT_ENDPOINT_HANDLE,
        FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE, FWPS_PACKET_INJECTED_BY_OTHER,
        FWPS_PACKET_NOT_INJECTED, FWPS_RIGHT_ACTION_WRITE, FwpsQueryPacketInjectionState0,
    },
};

/// One packet, and the answer it will get. Dropped without one, it passes as if we were not there.
///
/// # Invariants
///
/// Everything is the stack's, lent for a classify at `layer` that runs during `'c`; the values'
/// array is as long as it says.
pub struct Classify<'c> {
    layer: Layer,
    values: &'c FWPS_INCOMING_VALUES0,
    metadata: &'c FWPS_INCOMING_METADATA_VALUES0,
    filter: &'c FWPS_FILTER2,
    out: &'c mut FWPS_CLASSIFY_OUT0,
    packet: Option<Indicated<'c>>,
}

/// What the stack says of a packet besides its fixed values; each part may be missing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Bytes of the IP header, which lies before the transport header.
    pub ip_header: Option<u32>,
    /// Bytes of the transport header, which inbound lies before the data.
    pub transport_header: Option<u32>,
    /// The endpoint (socket) the packet is for, or comes from; valid until it closes.
    pub endpoint: Option<u64>,
    /// The routing compartment.
    pub compartment: Option<u32>,
    /// The packet's flow is to be authorised (anew) by the firewall, at a layer further up.
    pub authorisation_required: bool,
}

/// Whether a packet comes from a driver, and whose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Injected {
    /// From the network, or a program.
    No,
    /// From this driver, or made of something that did.
    ByUs,
    /// From another driver.
    ByOther,
}

/// The parameters of a classify, as the stack passes them.
pub(super) struct Raw {
    pub(super) values: *const FWPS_INCOMING_VALUES0,
    pub(super) metadata: *const FWPS_INCOMING_METADATA_VALUES0,
    pub(super) layer_data: *mut c_void,
    pub(super) filter: *const FWPS_FILTER2,
    pub(super) out: *mut FWPS_CLASSIFY_OUT0,
}

impl<'c> Classify<'c> {
    /// Wraps the parameters of a classify; `None` if one that may not be null is.
    ///
    /// # Safety
    ///
    /// They are those of the classify at `layer` that is running, and the value does not outlive
    /// it.
    pub(super) unsafe fn new(layer: Layer, raw: &Raw) -> Option<Self> {
        // SAFETY: null or live for the classify, as the caller promises, and not changed meanwhile.
        let values = unsafe { raw.values.as_ref() }?;
        // SAFETY: the same.
        let metadata = unsafe { raw.metadata.as_ref() }?;
        // SAFETY: the same.
        let filter = unsafe { raw.filter.as_ref() }?;
        // SAFETY: the same; the answer is ours to write during the classify.
        let out = unsafe { raw.out.as_mut() }?;
        // SAFETY: what these layers lend is a NET_BUFFER_LIST or null.
        let packet = unsafe { Indicated::from_raw(raw.layer_data) };
        // INVARIANT: the caller's promise.
        Some(Self { layer, values, metadata, filter, out, packet })
    }

    /// Where the packet is.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`, as everywhere here.
    #[must_use]
    pub const fn layer(&self) -> Layer {
        self.layer
    }

    /// The context of the filter that matched.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub const fn context(&self) -> u64 {
        self.filter.context
    }

    /// Whether the answer counts; otherwise another callout has decided already.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub const fn may_decide(&self) -> bool {
        self.out.rights & FWPS_RIGHT_ACTION_WRITE != 0
    }

    /// The other end.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn remote(&self) -> Option<SocketAddr> {
        let field = if self.layer.is_inbound() {
            FIELD_REMOTE_ADDRESS_INBOUND
        } else {
            FIELD_REMOTE_ADDRESS_OUTBOUND
        };
        Some(SocketAddr::new(self.address(field)?, self.port(FIELD_REMOTE_PORT)?))
    }

    /// Our end.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn local(&self) -> Option<SocketAddr> {
        Some(SocketAddr::new(self.address(FIELD_LOCAL_ADDRESS)?, self.port(FIELD_LOCAL_PORT)?))
    }

    /// Index of the interface.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn interface(&self) -> Option<u32> {
        self.value(FIELD_INTERFACE, FWP_UINT32).map(|value| value as u32)
    }

    /// Whether the packet never leaves this machine; `None` when the stack does not say.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn is_loopback(&self) -> Option<bool> {
        let field =
            if self.layer.is_inbound() { FIELD_FLAGS_INBOUND } else { FIELD_FLAGS_OUTBOUND };
        let flags = self.value(field, FWP_UINT32)?;
        Some(flags & u64::from(FWP_CONDITION_FLAG_IS_LOOPBACK) != 0)
    }

    /// What else the stack says.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub fn metadata(&self) -> Metadata {
        let meta = self.metadata;
        let is_present = |field| meta.currentMetadataValues & field != 0;
        Metadata {
            ip_header: is_present(FWPS_METADATA_FIELD_IP_HEADER_SIZE).then_some(meta.ipHeaderSize),
            transport_header: is_present(FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE)
                .then_some(meta.transportHeaderSize),
            endpoint: is_present(FWPS_METADATA_FIELD_TRANSPORT_ENDPOINT_HANDLE)
                .then_some(meta.transportEndpointHandle),
            compartment: is_present(FWPS_METADATA_FIELD_COMPARTMENT_ID)
                .then_some(meta.compartmentId),
            authorisation_required: is_present(FWPS_METADATA_FIELD_ALE_CLASSIFY_REQUIRED),
        }
    }

    /// The packet; `None` when the stack lends none, or not just one.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    #[must_use]
    pub const fn packet(&mut self) -> Option<&mut Indicated<'c>> {
        self.packet.as_mut()
    }

    /// Whether the packet was injected, and by whom.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: DDI fwpsk/nf-fwpsk-fwpsquerypacketinjectionstate0.
    #[must_use]
    pub fn injected(&self, injection: InjectionId<'_>) -> Injected {
        let Some(packet) = &self.packet else { return Injected::No };
        // SAFETY: a live handle, as its lifetime says, and a live list (their invariants); the
        // injection's context is not asked for.
        let state = unsafe {
            FwpsQueryPacketInjectionState0(injection.as_raw(), packet.as_ptr(), ptr::null_mut())
        };
        match state {
            FWPS_PACKET_NOT_INJECTED => Injected::No,
            FWPS_PACKET_INJECTED_BY_OTHER => Injected::ByOther,
            _ => Injected::ByUs,
        }
    }

    /// Takes the packet away: nobody further up sees it, and nobody counts it as dropped.
    ///
    /// Only after [`Classify::may_decide`]; what is wanted of the packet was referenced before.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    ///
    /// Source: WDD network/types-of-callouts.
    pub fn absorb(self) {
        self.out.actionType = FWP_ACTION_BLOCK;
        self.out.flags |= FWPS_CLASSIFY_OUT_FLAG_ABSORB;
        self.out.rights &= !FWPS_RIGHT_ACTION_WRITE;
    }

    /// Lets the packet go on; leaves the answer alone if another callout has given it.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    pub fn permit(self) {
        if !self.may_decide() {
            return;
        }
        // A callout that only looks has no say.
        if !self.layer.is_inbound() {
            self.out.actionType = FWP_ACTION_CONTINUE;
            return;
        }
        self.out.actionType = FWP_ACTION_PERMIT;
        if self.filter.flags & FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT != 0 {
            self.out.rights &= !FWPS_RIGHT_ACTION_WRITE;
        }
    }

    fn address(&self, field: usize) -> Option<IpAddr> {
        if self.layer.is_v4() {
            let value = self.value(field, FWP_UINT32)?;
            return Some(Ipv4Addr::from_bits(value as u32).into());
        }
        let value = self.value(field, FWP_BYTE_ARRAY16_TYPE)?;
        let octets = NonNull::new(ptr::with_exposed_provenance_mut::<[u8; 16]>(value as usize))?;
        // SAFETY: a value of this type is the address of 16 bytes, live for the classify.
        Some(Ipv6Addr::from(unsafe { octets.as_ptr().read() }).into())
    }

    fn port(&self, field: usize) -> Option<u16> {
        self.value(field, FWP_UINT16).map(|value| value as u16)
    }

    /// The fixed value of a field, if it is there and of the type `kind`.
    fn value(&self, field: usize, kind: u32) -> Option<u64> {
        if field >= self.values.valueCount as usize {
            return None;
        }
        let first = NonNull::new(self.values.incomingValue.cast_mut())?;
        // SAFETY: less than the number of values, which by the type invariant are there.
        let value = unsafe { first.add(field) };
        // SAFETY: the same; live and unchanged for the classify.
        let FWP_VALUE0 { kind: found, value } = unsafe { value.read() };
        (found == kind).then_some(value)
    }
}

impl fmt::Debug for Classify<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Classify({:?}, {:?})", self.layer, self.packet)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use super::*;

    const FIELDS: usize = 16;

    /// What a stack would lend.
    struct Stack {
        values: Vec<FWP_VALUE0>,
        incoming: FWPS_INCOMING_VALUES0,
        metadata: FWPS_INCOMING_METADATA_VALUES0,
        filter: FWPS_FILTER2,
        out: FWPS_CLASSIFY_OUT0,
    }

    impl Stack {
        fn new() -> Self {
            // SAFETY: integers and pointers only, for which zero is a value.
            let zeroed = unsafe { core::mem::zeroed::<FWPS_INCOMING_METADATA_VALUES0>() };
            // SAFETY: the same.
            let filter = unsafe { core::mem::zeroed::<FWPS_FILTER2>() };
            // SAFETY: the same.
            let mut out = unsafe { core::mem::zeroed::<FWPS_CLASSIFY_OUT0>() };
            out.rights = FWPS_RIGHT_ACTION_WRITE;
            let values = std::vec![FWP_VALUE0 { kind: 0, value: 0 }; FIELDS];
            let incoming = FWPS_INCOMING_VALUES0 {
                layerId: 0,
                valueCount: FIELDS as u32,
                incomingValue: ptr::null(),
            };
            Self { values, incoming, metadata: zeroed, filter, out }
        }

        fn set(&mut self, field: usize, kind: u32, value: u64) {
            self.values[field] = FWP_VALUE0 { kind, value };
        }

        fn classify(&mut self, layer: Layer) -> Classify<'_> {
            self.incoming.incomingValue = self.values.as_ptr();
            let raw = Raw {
                values: &raw const self.incoming,
                metadata: &raw const self.metadata,
                layer_data: ptr::null_mut(),
                filter: &raw const self.filter,
                out: &raw mut self.out,
            };
            // SAFETY: all of it lives in `self`, which is borrowed for as long as the value.
            unsafe { Classify::new(layer, &raw) }.unwrap()
        }
    }

    #[test]
    fn fixed_values_are_read_by_layer_and_type() {
        let mut stack = Stack::new();
        stack.set(FIELD_LOCAL_ADDRESS, FWP_UINT32, 0x0A00_0001);
        stack.set(FIELD_LOCAL_PORT, FWP_UINT16, 51820);
        stack.set(FIELD_REMOTE_ADDRESS_INBOUND, FWP_UINT32, 0xC000_0201);
        stack.set(FIELD_REMOTE_ADDRESS_OUTBOUND, FWP_UINT32, 0xC633_6401);
        stack.set(FIELD_REMOTE_PORT, FWP_UINT16, 7);
        stack.set(FIELD_INTERFACE, FWP_UINT32, 12);
        stack.set(FIELD_FLAGS_INBOUND, FWP_UINT32, 1);
        stack.set(FIELD_FLAGS_OUTBOUND, FWP_UINT32, 0);
        let inbound = stack.classify(Layer::InboundV4);
        assert_eq!(inbound.local(), Some("10.0.0.1:51820".parse().unwrap()));
        assert_eq!(inbound.remote(), Some("192.0.2.1:7".parse().unwrap()));
        assert_eq!((inbound.interface(), inbound.is_loopback()), (Some(12), Some(true)));
        let outbound = stack.classify(Layer::OutboundV4);
        assert_eq!(outbound.remote(), Some("198.51.100.1:7".parse().unwrap()));
        assert_eq!(outbound.is_loopback(), Some(false));
        // Of another type than the layer has, missing, or not there at all.
        assert_eq!(stack.classify(Layer::InboundV6).remote(), None);
        stack.set(FIELD_INTERFACE, 0, 12);
        assert_eq!(stack.classify(Layer::InboundV4).interface(), None);
        stack.incoming.valueCount = FIELD_FLAGS_INBOUND as u32;
        assert_eq!(stack.classify(Layer::InboundV4).is_loopback(), None);
    }

    #[test]
    fn ipv6_addresses_are_in_network_order_elsewhere() {
        let octets: [u8; 16] = [0x20, 1, 0xD, 0xB8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9];
        let mut stack = Stack::new();
        let at = octets.as_ptr().expose_provenance() as u64;
        stack.set(FIELD_REMOTE_ADDRESS_INBOUND, FWP_BYTE_ARRAY16_TYPE, at);
        stack.set(FIELD_REMOTE_PORT, FWP_UINT16, 7);
        let remote = stack.classify(Layer::InboundV6).remote();
        assert_eq!(remote, Some("[2001:db8::9]:7".parse().unwrap()));
        stack.set(FIELD_REMOTE_ADDRESS_INBOUND, FWP_BYTE_ARRAY16_TYPE, 0);
        assert_eq!(stack.classify(Layer::InboundV6).remote(), None);
    }

    #[test]
    fn metadata_is_what_is_marked_present() {
        let mut stack = Stack::new();
        stack.metadata.ipHeaderSize = 20;
        stack.metadata.transportHeaderSize = 8;
        stack.metadata.transportEndpointHandle = 77;
        stack.metadata.compartmentId = 1;
        assert_eq!(stack.classify(Layer::InboundV4).metadata(), Metadata::default());
        stack.metadata.currentMetadataValues = !0;
        let all = Metadata {
            ip_header: Some(20),
            transport_header: Some(8),
            endpoint: Some(77),
            compartment: Some(1),
            authorisation_required: true,
        };
        assert_eq!(stack.classify(Layer::InboundV4).metadata(), all);
    }

    #[test]
    fn answers_respect_rights() {
        let answer = |layer, rights, flags, absorb: bool| {
            let mut stack = Stack::new();
            (stack.out.rights, stack.filter.flags) = (rights, flags);
            let classify = stack.classify(layer);
            if absorb {
                classify.absorb()
            } else {
                classify.permit()
            }
            (stack.out.actionType, stack.out.rights, stack.out.flags)
        };
        let (write, clear) = (FWPS_RIGHT_ACTION_WRITE, FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT);
        let inbound = Layer::InboundV6;
        assert_eq!(answer(inbound, write, 0, true), (FWP_ACTION_BLOCK, 0, 1));
        assert_eq!(answer(inbound, write, 0, false), (FWP_ACTION_PERMIT, write, 0));
        assert_eq!(answer(inbound, write, clear, false), (FWP_ACTION_PERMIT, 0, 0));
        assert_eq!(answer(inbound, 0, clear, false), (0, 0, 0), "somebody else decided");
        assert_eq!(answer(Layer::OutboundV4, write, clear, false), (FWP_ACTION_CONTINUE, write, 0));
        assert_eq!(answer(Layer::OutboundV4, 0, 0, false), (0, 0, 0));
    }
}
