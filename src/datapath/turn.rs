//! A turn: how long one CPU delivers a peer's chunks before another goes on.
//!
//! A lane has one owner, and the owner delivers what every CPU finishes. Without a bound it could be
//! kept at `DISPATCH_LEVEL` for as long as the others are busy.

use core::time::Duration;

use crypto::{pipeline::Baton, protocol::Now, sync::Shared};
use nt::irql::AtMostDispatch;

use crate::{
    device::Device,
    peer::Peer,
    processors::{Errand, GoOn},
};

/// The most packets delivered in one turn, give or take a chunk.
const MOST_PACKETS: usize = 64;
/// The longest turn, give or take a chunk.
const LONGEST: Duration = Duration::from_micros(100);

/// Which lane of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// What was sealed goes to the sender.
    Seal,
    /// What the sender has goes to the network.
    Send,
    /// What was opened goes to the adapter.
    Open,
}

/// One CPU's turn as the owner of a lane.
pub(super) struct Turn<'d> {
    pub(super) device: &'d Shared<Device>,
    pub(super) peer: &'d Shared<Peer>,
    /// When the callback began that this turn is a part of.
    pub(super) now: Now,
    pub(super) level: &'d AtMostDispatch,
    stage: Stage,
    packets: usize,
}

impl<'d> Turn<'d> {
    pub(super) fn begin(
        stage: Stage,
        device: &'d Shared<Device>,
        peer: &'d Shared<Peer>,
        now: Now,
        level: &'d AtMostDispatch,
    ) -> Self {
        Self { device, peer, now, level, stage, packets: 0 }
    }

    /// So many packets were delivered.
    pub(super) fn count(&mut self, packets: usize) {
        self.packets = self.packets.saturating_add(packets);
    }

    /// How many packets were delivered.
    pub(super) fn packets(&self) -> usize {
        self.packets
    }

    /// Whether another CPU is to go on.
    pub(super) fn is_over(&self) -> bool {
        self.packets >= MOST_PACKETS
            || nt::time::monotonic().saturating_sub(self.now.monotonic.0) >= LONGEST
    }

    /// Has the next CPU go on, or this one after what else it has to do.
    pub(super) fn hand_over(&self, baton: Baton) -> Result<(), Baton> {
        let (device, peer) = (self.device.clone(), self.peer.clone());
        let errand = Errand { task: GoOn(self.stage, baton), peer, device };
        Device::hand_on(errand, self.level).map_err(|Errand { task: GoOn(_, baton), .. }| baton)
    }
}
