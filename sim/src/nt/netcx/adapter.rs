//! `NETADAPTER`: what it can do, when it runs, and the host behind it.
//!
//! An adapter carries packets once its driver has started it and its device is in D0; whichever
//! comes last starts the data path. The host's side ([`Adapter::send`], [`Adapter::on_receive`])
//! outlives pauses, sleeps and restarts.
//!
//! Source: `facts/netcx-os.md` §2 (`adapterpnppower.cpp`, `nxadapter.cpp`, read in Microsoft's
//! source).

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::data_path::{Action, DataPath, Event, Path};
use super::receive_scaling::Scaling;
use super::rx_translator::{Inbox, Received, RxPacket};
use super::segmentation::{self, Gso};
use super::tx_translator::{Outbox, Refused, Sent};
use super::{
    DATA_PATH_BEFORE_RESTART, GSO_IS_GRANTED, NetCx, RSS_IS_GRANTED, RX_CHECKSUM_IS_GRANTED,
    SUPER_PACKETS_WITHOUT_LENGTH, Sizes, adapter_functions,
};
use crate::nt::machine::{Call, Dead, Level, Machine};
use crate::nt::wdf::device::{ClassExtension, Device};
use crate::nt::wdf::object::Object;
use crate::nt::wdf::status::{self, NtStatus};
use crate::verifier::rules::{self, Rule};
use crate::verifier::schedule::{Key, lock};

/// What the driver declares before it starts its adapter.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Capabilities {
    pub(crate) link_layer: bool,
    pub(crate) data_path: bool,
    pub(crate) mtu: u32,
    pub(crate) tx_fragments: usize,
    pub(crate) rx_frame: u32,
    pub(crate) return_rx_buffer: u64,
    /// `EvtAdapterOffloadSetRxChecksum`, or 0.
    pub(crate) rx_checksum: u64,
    pub(crate) gso: Option<Gso>,
    pub(crate) scaling: Option<Scaling>,
}

/// `NET_ADAPTER_LINK_STATE`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Whether the media is connected.
    pub connected: bool,
    /// Bits per second towards the driver.
    pub transmit_speed: u64,
    /// Bits per second from the driver.
    pub receive_speed: u64,
}

struct State {
    capabilities: Capabilities,
    link: Link,
    started: bool,
    in_d0: bool,
    gone: bool,
    path: Path,
    data_path: Option<Arc<DataPath>>,
}

/// An adapter.
pub struct Adapter {
    object: Arc<Object>,
    /// The device it belongs to.
    pub(crate) device: Arc<Device>,
    /// `EvtAdapterCreateTxQueue`.
    pub(crate) create_tx_queue: u64,
    /// `EvtAdapterCreateRxQueue`.
    pub(crate) create_rx_queue: u64,
    index: u32,
    sizes: Sizes,
    state: Mutex<State>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) inbox: Arc<Inbox>,
}

/// `IF_TYPE_PROP_VIRTUAL`.
const IF_TYPE: u64 = 53;

impl Adapter {
    /// Makes an adapter that has not been started.
    pub(crate) fn new(
        machine: &Machine,
        object: Arc<Object>,
        device: Arc<Device>,
        [create_tx_queue, create_rx_queue]: [u64; 2],
        index: u32,
        sizes: Sizes,
    ) -> Arc<Self> {
        Arc::new(Self {
            object,
            device,
            create_tx_queue,
            create_rx_queue,
            index,
            sizes,
            state: Mutex::new(State {
                capabilities: Capabilities::default(),
                link: Link::default(),
                started: false,
                in_d0: false,
                gone: false,
                path: Path::Halted,
                data_path: None,
            }),
            outbox: Arc::new(Outbox::new(sizes.outstanding, machine.options().verified)),
            inbox: Arc::default(),
        })
    }

    /// Its handle.
    #[must_use]
    pub fn handle(&self) -> u64 {
        self.object.handle()
    }

    pub(crate) fn object(&self) -> &Arc<Object> {
        &self.object
    }

    /// Its `NET_LUID`.
    #[must_use]
    pub fn luid(&self) -> u64 {
        IF_TYPE << 48 | u64::from(self.index) << 24
    }

    /// Its interface index.
    #[must_use]
    pub fn interface_index(&self) -> u32 {
        self.index
    }

    /// The link as the driver last reported it.
    #[must_use]
    pub fn link(&self) -> Link {
        lock(&self.state).link
    }

    /// The MTU as the driver last set it.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        lock(&self.state).capabilities.mtu
    }

    /// Whether packets flow.
    #[must_use]
    pub fn is_running(&self) -> bool {
        lock(&self.state).path == Path::Running
    }

    /// What the host sent.
    #[must_use]
    pub fn sent(&self) -> Sent {
        self.outbox.sent()
    }

    /// What the host got.
    #[must_use]
    pub fn received(&self) -> Received {
        self.inbox.received()
    }

    /// Sets what is done with packets from the driver. The callback runs in the receive queue's poll
    /// and must not block; packets it does not hold go back to the driver when it returns.
    pub fn on_receive(&self, receiver: impl Fn(&mut [RxPacket]) + Send + Sync + 'static) {
        self.inbox.set_receiver(Arc::new(receiver));
    }

    /// Sends one IP packet into the tunnel.
    ///
    /// # Errors
    ///
    /// [`Refused`]; the packet is then not sent.
    pub fn send(&self, machine: &Machine, packet: &[u8]) -> Result<(), Refused> {
        let mut packet = Some(packet);
        let taken = self.send_with(machine, |buffer| {
            let packet = packet.take()?;
            let room = buffer.get_mut(..packet.len())?;
            room.copy_from_slice(packet);
            Some((packet.len(), 0))
        })?;
        if taken == 1 { Ok(()) } else { Err(Refused::Full) }
    }

    /// Sends the payload of one IP packet, TCP or UDP, into the tunnel as packets of at most `mss` bytes of
    /// it: has the driver cut the packet if it declared that it can and Windows lets it, or else cuts it.
    ///
    /// # Errors
    ///
    /// [`Refused`]; nothing is then sent, or no more.
    pub fn send_super(&self, machine: &Machine, packet: &[u8], mss: usize) -> Result<(), Refused> {
        if !self.may_be_given(machine, packet, mss) {
            for segment in segmentation::cut(packet, mss).unwrap_or_default() {
                while let Err(refused) = self.send(machine, &segment) {
                    if refused == Refused::Paused || !self.wait_for_room(machine, None) {
                        return Err(refused);
                    }
                }
            }
            return Ok(());
        }
        let mut packet = packet.to_vec();
        self.offload(machine, &mut packet);
        self.send_unchecked(machine, &packet, mss)
    }

    /// Makes a packet what tcpip gives an adapter to be cut.
    pub(crate) fn offload(&self, machine: &Machine, packet: &mut [u8]) {
        segmentation::offload(packet, machine.either(&SUPER_PACKETS_WITHOUT_LENGTH));
    }

    /// Whether the driver may be given `packet` whole, to be cut by `mss`.
    pub(crate) fn may_be_given(&self, machine: &Machine, packet: &[u8], mss: usize) -> bool {
        self.gso(machine).is_some_and(|gso| gso.covers(packet, mss))
    }

    /// Gives the driver a packet to be cut as it is, whatever that is: no stack would send most of them.
    ///
    /// # Errors
    ///
    /// [`Refused`]; the packet is then not sent.
    pub fn send_unchecked(
        &self,
        machine: &Machine,
        packet: &[u8],
        mss: usize,
    ) -> Result<(), Refused> {
        let mut once = Some(packet);
        let taken = self.fill(machine, packet.len(), |buffer| {
            let packet = once.take()?;
            buffer.get_mut(..packet.len())?.copy_from_slice(packet);
            Some((packet.len(), mss))
        })?;
        if taken == 1 { Ok(()) } else { Err(Refused::Full) }
    }

    /// Sends what `fill` writes into the buffers it is given, until it answers `None` or there is no
    /// more room; how many. It answers how many bytes it wrote, and into segments of how much payload
    /// they are to be cut, which may be 0: then they are one packet. Buffers have room for a packet of
    /// the MTU; for 64 KiB with none set, and if the driver may be given packets to be cut. No memory
    /// is allocated once enough buffers have come back.
    ///
    /// # Errors
    ///
    /// [`Refused`] if not even the first could be sent; `fill` was then not called.
    pub fn send_with(
        &self,
        machine: &Machine,
        fill: impl FnMut(&mut [u8]) -> Option<(usize, usize)>,
    ) -> Result<usize, Refused> {
        let mtu = lock(&self.state).capabilities.mtu as usize;
        let whole = mtu == 0 || self.gso(machine).is_some();
        // A little more than the MTU fits, so that a packet too long reaches the driver as Windows lets it.
        self.fill(machine, if whole { 1 << 16 } else { mtu + 64 }, fill)
    }

    fn fill(
        &self,
        machine: &Machine,
        capacity: usize,
        fill: impl FnMut(&mut [u8]) -> Option<(usize, usize)>,
    ) -> Result<usize, Refused> {
        let data_path = lock(&self.state).data_path.clone();
        let taken = self.outbox.take(machine, capacity, fill)?;
        if let Some(data_path) = data_path.filter(|_| taken > 0 && self.outbox.take_armed()) {
            data_path.notify_transmit(machine);
        }
        Ok(taken)
    }

    /// Whether the queues of the running data path are polled by [`Adapter::poll_here`] alone, for a
    /// measurement in one thread; to be ended before the adapter pauses.
    pub fn poll_by_hand(&self, machine: &Machine, by_hand: bool) {
        if let Some(data_path) = lock(&self.state).data_path.clone() {
            data_path.set_by_hand(machine, by_hand);
        }
    }

    /// Polls both queues in the calling thread until neither has work.
    pub fn poll_here(&self, machine: &Machine) {
        if let Some(data_path) = lock(&self.state).data_path.clone() {
            data_path.poll_here(machine);
        }
    }

    /// Waits until there is room for a packet or the gate is closed; `false` at the deadline or when
    /// the machine is dead.
    pub fn wait_for_room(&self, machine: &Machine, deadline: Option<Duration>) -> bool {
        let room = || self.outbox.has_room().then_some(());
        machine.wait(self.outbox.key(), deadline, "room in the transmit ring", room).is_ok()
    }

    /// What the driver declared of packets to be cut, if Windows lets it have any.
    pub(crate) fn gso(&self, machine: &Machine) -> Option<Gso> {
        let declared = lock(&self.state).capabilities.gso;
        declared.filter(|_| machine.either(&GSO_IS_GRANTED))
    }

    /// What the driver declared of receive queues, if Windows uses several.
    pub(crate) fn scaling(&self, machine: &Machine) -> Option<Scaling> {
        let declared = lock(&self.state).capabilities.scaling;
        declared.filter(|_| machine.either(&RSS_IS_GRANTED))
    }

    /// How many receive queues there are; none if the data path is down.
    #[must_use]
    pub fn receive_queues(&self) -> usize {
        lock(&self.state).data_path.as_ref().map_or(0, |path| path.receive_queues())
    }

    /// The number of the receive queue that the stack expects `packet` from; 0 if it has programmed none.
    #[must_use]
    pub fn expected_queue(&self, packet: &[u8]) -> usize {
        lock(&self.state).data_path.as_ref().map_or(0, |path| path.expected_queue(packet))
    }

    /// The stack gives the driver another key, and spreads its flows anew; nothing with one queue.
    pub fn program_receive_scaling(&self, machine: &Machine) {
        let data_path = lock(&self.state).data_path.clone();
        if let Some(data_path) = data_path {
            data_path.program(machine);
        }
    }

    /// Whether received packets have room for what the driver found of their checksums.
    pub(crate) fn rx_checksum(&self, machine: &Machine) -> bool {
        lock(&self.state).capabilities.rx_checksum != 0 && machine.either(&RX_CHECKSUM_IS_GRANTED)
    }

    /// An administrator has received packets' checksums looked at or not: IPv4 headers, TCP and UDP. Nothing if the driver
    /// declared no such offload.
    ///
    /// # Errors
    ///
    /// [`Dead`].
    pub fn set_rx_checksum(&self, machine: &Machine, enabled: [bool; 3]) -> Result<(), Dead> {
        let callback = lock(&self.state).capabilities.rx_checksum;
        if callback == 0 {
            return Ok(());
        }
        let offload = adapter_functions::offload_handle(enabled);
        let name = "EvtAdapterOffloadSetRxChecksum";
        let call = Call::new(name, callback as usize, Level::Passive);
        machine.call(call, &[self.handle(), offload]).map(drop)
    }

    /// Changes what the driver declares; `false` once the adapter has been started.
    pub(crate) fn declare(&self, change: impl FnOnce(&mut Capabilities)) -> bool {
        let mut state = lock(&self.state);
        if state.started {
            return false;
        }
        change(&mut state.capabilities);
        true
    }

    pub(crate) fn set_mtu(&self, mtu: u32) {
        lock(&self.state).capabilities.mtu = mtu;
    }

    pub(crate) fn set_link(&self, machine: &Machine, link: Link) {
        lock(&self.state).link = link;
        machine.world().wake(Key::of(&self.state));
    }

    /// Waits until `condition` holds of the link, for tests and hosts.
    pub fn wait_for_link(
        &self,
        machine: &Machine,
        deadline: Option<Duration>,
        condition: impl Fn(Link) -> bool,
    ) -> bool {
        let holds = || condition(lock(&self.state).link).then_some(());
        machine.wait(Key::of(&self.state), deadline, "the link", holds).is_ok()
    }

    /// `NetAdapterStart`.
    pub(crate) fn start(
        self: &Arc<Self>,
        machine: &Arc<Machine>,
    ) -> Result<Result<(), Option<&'static Rule>>, Dead> {
        {
            let mut state = lock(&self.state);
            if state.gone {
                return Ok(Err(None));
            }
            if state.started {
                return Ok(Err(Some(&rules::ADAPTER_ALREADY_STARTED)));
            }
            if !state.capabilities.link_layer
                || !state.capabilities.data_path
                || state.capabilities.mtu == 0
            {
                return Ok(Err(Some(&rules::ADAPTER_NOT_CONFIGURED)));
            }
            state.started = true;
        }
        self.event(machine, Event::Initialize)?;
        if lock(&self.state).in_d0 {
            self.start_io(machine)?;
        }
        Ok(Ok(()))
    }

    /// `NetAdapterStop`, by the driver or on its behalf; nothing if it was not started.
    pub(crate) fn stop(self: &Arc<Self>, machine: &Arc<Machine>) -> Result<(), Dead> {
        if !std::mem::take(&mut lock(&self.state).started) {
            return Ok(());
        }
        self.stop_io(machine, false)?;
        self.event(machine, Event::Halt)?;
        let mut state = lock(&self.state);
        // Halt clears the general attributes; clients before 2.2 must set these again.
        (state.capabilities.link_layer, state.capabilities.mtu) = (false, 0);
        Ok(())
    }

    fn io_start(self: &Arc<Self>, machine: &Arc<Machine>) -> Result<(), Dead> {
        let started = {
            let mut state = lock(&self.state);
            state.in_d0 = true;
            state.started
        };
        if started { self.start_io(machine) } else { Ok(()) }
    }

    fn io_stop(self: &Arc<Self>, machine: &Arc<Machine>, pause_first: bool) -> Result<(), Dead> {
        lock(&self.state).in_d0 = false;
        self.stop_io(machine, pause_first)
    }

    fn start_io(self: &Arc<Self>, machine: &Arc<Machine>) -> Result<(), Dead> {
        let mut events = [Event::Restart, Event::Create];
        if machine.either(&DATA_PATH_BEFORE_RESTART) {
            events.reverse();
        }
        for event in events {
            self.event(machine, event)?;
        }
        Ok(())
    }

    /// Takes the data path down from wherever it is to `AdapterPaused`.
    fn stop_io(self: &Arc<Self>, machine: &Arc<Machine>, pause_first: bool) -> Result<(), Dead> {
        let down = if pause_first {
            [Event::Pause, Event::Destroy]
        } else {
            [Event::Destroy, Event::Pause]
        };
        for event in down {
            self.event(machine, event)?;
        }
        Ok(())
    }

    /// NDIS pauses and restarts the adapter: the queues are stopped and started, not made again.
    ///
    /// # Errors
    ///
    /// [`Dead`].
    pub fn pause_and_restart(self: &Arc<Self>, machine: &Arc<Machine>) -> Result<(), Dead> {
        self.event(machine, Event::Pause)?;
        self.event(machine, Event::Restart)
    }

    fn event(self: &Arc<Self>, machine: &Arc<Machine>, event: Event) -> Result<(), Dead> {
        let path = lock(&self.state).path;
        let Some((actions, next)) = path.on(event) else { return Ok(()) };
        for action in actions {
            if let Err(status) = self.act(machine, *action)? {
                // As Windows: the device has failed, and PnP will remove it.
                machine.with_thread(|_| self.device.set_failed(machine, 2));
                debug_assert!(!status::is_success(status));
                return Ok(());
            }
        }
        lock(&self.state).path = next;
        Ok(())
    }

    fn act(
        self: &Arc<Self>,
        machine: &Arc<Machine>,
        action: Action,
    ) -> Result<Result<(), NtStatus>, Dead> {
        let (capabilities, data_path) = {
            let state = lock(&self.state);
            (state.capabilities, state.data_path.clone())
        };
        match (action, data_path) {
            (Action::Create, _) => {
                match DataPath::create(machine, self, capabilities, self.sizes)? {
                    Ok(made) => lock(&self.state).data_path = Some(made),
                    Err(status) => return Ok(Err(status)),
                }
            }
            (Action::Start, Some(data_path)) => data_path.start(machine),
            (Action::Stop, Some(data_path)) => data_path.stop(machine),
            (Action::Destroy, Some(data_path)) => {
                data_path.destroy(machine);
                lock(&self.state).data_path = None;
            }
            (_, None) => {}
        }
        if machine.is_dead() { Err(Dead) } else { Ok(Ok(())) }
    }
}

/// NetAdapterCx's part of a device: hooked in by `NetDeviceInitConfig`.
pub(crate) struct NetDevice {
    netcx: Arc<NetCx>,
}

impl NetDevice {
    pub(crate) fn new(netcx: Arc<NetCx>) -> Arc<Self> {
        Arc::new(Self { netcx })
    }

    /// The adapters of the device this extension is hooked into.
    fn adapters(&self) -> Vec<Arc<Adapter>> {
        let own = |adapter: &Arc<Adapter>| {
            let extension = adapter.device.extension();
            extension.is_some_and(|extension| std::ptr::addr_eq(Arc::as_ptr(&extension), self))
        };
        self.netcx.adapters().into_iter().filter(own).collect()
    }
}

impl ClassExtension for NetDevice {
    fn pre_prepare_hardware(&self, _: &Arc<Machine>) -> Result<(), Dead> {
        // After a rebalance `pre_release_hardware` has stopped the adapters; the driver starts them again.
        Ok(())
    }

    fn post_d0_entry(&self, machine: &Arc<Machine>) -> Result<(), Dead> {
        self.adapters().iter().try_for_each(|adapter| adapter.io_start(machine))
    }

    fn interfaces_arrived(&self, _: &Arc<Machine>) -> Result<(), Dead> {
        Ok(())
    }

    fn pre_d0_exit(&self, machine: &Arc<Machine>, last: bool) -> Result<(), Dead> {
        // For D1 to D3 NDIS pauses first; for D3Final the data path is destroyed at once.
        self.adapters().iter().try_for_each(|adapter| adapter.io_stop(machine, !last))
    }

    fn pre_release_hardware(&self, machine: &Arc<Machine>) -> Result<(), Dead> {
        self.adapters().iter().try_for_each(|adapter| adapter.stop(machine))
    }

    fn pre_surprise_removal(&self, machine: &Arc<Machine>) -> Result<(), Dead> {
        for adapter in self.adapters() {
            adapter.io_stop(machine, false)?;
            lock(&adapter.state).gone = true;
        }
        Ok(())
    }

    fn cleanup(&self, machine: &Arc<Machine>) -> Result<(), Dead> {
        for adapter in self.adapters() {
            adapter.io_stop(machine, false)?;
            adapter.stop(machine)?;
            let mut state = lock(&self.netcx.state);
            state.adapters.retain(|known| !Arc::ptr_eq(known, &adapter));
        }
        Ok(())
    }
}
