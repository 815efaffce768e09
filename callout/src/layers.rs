//! What the driver adds to the filter engine: its own provider and sublayer, a callout at each of
//! four layers, and the filters that lead there.
//!
//! The sublayer is the lightest, so that everything else is asked before: above all the universal
//! sublayer, in which the firewall's own callouts are (WDD
//! network/wfp-layer-requirements-and-restrictions). A filter is for UDP and one local port.

use nt::fwp::{Filter, Guid, Keys, Layer, Text, text};

/// Names what is ours, in the engine and to people.
const NAME: Text = Text::new(&const { text::<9>("Penstock") });
/// Below the universal sublayer, whatever its weight: below everything.
pub(crate) const WEIGHT: u16 = 0;
/// Our provider, {5D0B1F67-8C5C-4C0F-9D5B-6E4B1A7C2E10}.
pub(crate) const PROVIDER: Guid =
    Guid(0x5D0B_1F67, 0x8C5C, 0x4C0F, [0x9D, 0x5B, 0x6E, 0x4B, 0x1A, 0x7C, 0x2E, 0x10]);
/// Our sublayer, {5D0B1F67-8C5C-4C0F-9D5B-6E4B1A7C2E11}.
pub(crate) const SUBLAYER: Guid =
    Guid(0x5D0B_1F67, 0x8C5C, 0x4C0F, [0x9D, 0x5B, 0x6E, 0x4B, 0x1A, 0x7C, 0x2E, 0x11]);
/// Our callouts, by layer, {5D0B1F67-8C5C-4C0F-9D5B-6E4B1A7C2E20} and the three that follow.
pub(crate) const CALLOUTS: Keys =
    Keys([callout(0x20), callout(0x21), callout(0x22), callout(0x23)]);

const fn callout(last: u8) -> Guid {
    Guid(0x5D0B_1F67, 0x8C5C, 0x4C0F, [0x9D, 0x5B, 0x6E, 0x4B, 0x1A, 0x7C, 0x2E, last])
}

/// What a person sees the driver called.
pub(crate) const fn name() -> Text {
    NAME
}

/// Each layer, with the key of its callout.
pub(crate) fn callouts() -> impl Iterator<Item = (Layer, Guid)> {
    Layer::ALL.into_iter().zip(CALLOUTS.0)
}

/// The filters of a port, whose packets are shown to our callouts with `context`.
///
/// The outbound ones only look, and are there to learn the socket's endpoint from.
pub(crate) fn filters(port: u16, context: u64) -> impl Iterator<Item = Filter> {
    callouts().map(move |(layer, callout)| Filter {
        provider: PROVIDER,
        sublayer: SUBLAYER,
        layer,
        callout,
        context,
        port,
        name: NAME,
    })
}
