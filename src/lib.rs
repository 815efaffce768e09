//! The driver: builds the layers, joins them, and nothing else.
//!
//! [`Core`] is what all adapters share, built once when the driver is loaded and taken down in the
//! opposite order of its fields when it is unloaded, or when loading fails half-way: one list for
//! both. Adapters come and go with their devices.
//!
//! | file | its subject |
//! |---|---|
//! | `device` | one adapter: its tunnel and its sockets, up and down |
//! | `control` | the control requests |
//! | `datapath` | packets: ring to socket, socket to ring |
//! | `descriptor` | what a debugger is told of all this |
//! | `workers` | threads and the timer: handshakes, deadlines, routes |
//! | `ends` | what sockets and rings call |
//! | `peer` | what is kept with each peer |
//! | `interceptions` | the callouts, there while there is an adapter |
//! | `policy` | what an administrator has set |
//! | `processors` | the CPUs that share the work |
//! | `handshakes` | handshake messages on their way to a worker |
//! | `account` | what of a clock tick is spent |
//! | `counters`, `log` | what is counted, and said |
//! | `capture` | packets for whoever traces them |
//! | `shown` | what dumps are to hold of it |
//! | `ground`, `random` | what the protocol core stands on |
#![no_std]
#![deny(unsafe_code)]

extern crate alloc;

mod account;
mod capture;
mod control;
mod counters;
mod datapath;
mod descriptor;
mod device;
mod ends;
mod ground;
mod handshakes;
mod interceptions;
mod log;
mod peer;
mod policy;
mod processors;
mod random;
mod shown;
mod workers;

use core::{
    alloc::Layout,
    ffi::c_void,
    mem::offset_of,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    ptr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use abi::{
    descriptor::Descriptor,
    events::Event,
    ioctl::{INTERFACE_CLASS, INTERFACE_REFERENCE},
    policy::Policy,
};
use callout::{Provider, Routes, RunCaps, RunPool};
use crypto::{
    aead::{self, ExtendedState, Tier},
    pipeline::Claim,
    protocol::{Endpoint, HandshakeLoad, IndexTable, Instant, Now, SECRETS, hash_table::HashKey},
    sync::Shared,
};
use netadapter::{Adapter, RxPool};
use nt::{
    crash::{CrashCallbacks, Shown},
    etw::Provider as Tracing,
    extended_state::ExtendedFeatures,
    irql::Passive,
    layout,
    pool::{Keeping, PoolAllocator},
    processor,
    recorder::{self, Recorder},
    status::{NtError, to_status},
    wdf::{DeviceInit, DriverEvents, Entry, InterfaceClass},
};

use crate::{
    control::Context,
    datapath::{ReceiveWork, Receiving, SEGMENTS, SendWork, Sending},
    device::{Device, Waiters},
    ends::Inner,
    handshakes::{Accounts, Message},
    interceptions::Interceptions,
    peer::Paths,
    policy::{Policies, Reading},
    processors::{Choice, Processors},
    random::Generator,
    shown::Kept,
    workers::{Desk, Workers},
};

/// What the data path allocates for each chunk, and each message.
const KEPT: [Layout; 6] = [
    Layout::new::<SendWork>(),
    Layout::new::<ReceiveWork>(),
    Claim::<Sending>::LAYOUT,
    Claim::<Receiving>::LAYOUT,
    SEGMENTS,
    Layout::new::<Message>(),
];

#[global_allocator]
static ALLOCATOR: PoolAllocator<{ KEPT.len() }, { SECRETS.len() }> =
    PoolAllocator::new(KEPT, SECRETS);

#[cfg(not(test))]
#[panic_handler]
fn panic(info: &core::panic::PanicInfo<'_>) -> ! {
    nt::bugcheck::panic(info)
}

/// Where a debugger begins.
#[expect(unsafe_code, reason = "the edge of the driver")]
#[unsafe(export_name = "PenstockDescriptor")]
static DESCRIPTOR: Descriptor<{ descriptor::GROUPS }> = descriptor::descriptor();

/// The longest inner packet that can be received, with its tag; 32 of the largest that policy lets an adapter
/// have lie in a run, too.
const RX_BUFFER_BYTES: NonZeroU32 = NonZeroU32::new(2048).expect("not 0");
/// The most memory in receive buffers.
const RX_POOL_BYTES: usize = 64 << 20;

/// The most memory that is shown in a dump, besides the flight recorder's.
const SHOWN_BYTES: usize = 64 << 10;

/// What all adapters share. Newest first: fields are dropped in this order.
pub(crate) struct Core {
    workers: Workers,
    pub(crate) interceptions: Interceptions,
    pub(crate) processors: Processors,
    pub(crate) routes: Routes,
    pub(crate) buffers: RxPool,
    pub(crate) runs: RunPool,
    pub(crate) waiters: Waiters,
    pub(crate) provider: Provider,
    pub(crate) load: Shared<HandshakeLoad>,
    pub(crate) handshake_accounts: Accounts,
    pub(crate) indices: Shared<IndexTable<Paths>>,
    pub(crate) hash_key: HashKey,
    pub(crate) features: ExtendedFeatures,
    /// The fastest that this machine can seal and open with.
    detected: Tier,
    pub(crate) policies: Policies,
    numbers: AtomicU64,
    /// After whoever notes. None if Windows refuses: what happens is noted all the same.
    _tracing: Option<Tracing>,
    /// Before what it is allocated from, and after whoever notes or tells.
    recorder: Recorder,
    /// Last: what the others free goes there. None under Driver Verifier.
    _keeping: Option<Keeping<{ KEPT.len() }>>,
}

impl Core {
    /// Builds everything, oldest first.
    fn build(passive: &mut Passive, verified: bool) -> Result<Self, NtError> {
        let keeping = (!verified).then(|| ALLOCATOR.keep());
        let recorder = Recorder::start()?;
        let tracing = Tracing::register(passive).ok();
        let policies = Policies::try_new(passive)?;
        let no_memory = |_| NtError::INSUFFICIENT_RESOURCES;
        let features = ExtendedFeatures::detect(passive);
        let detected = aead::detect(features.mask());
        let mut random = Generator::try_new(passive)?;
        let hash_key = HashKey::new(random.array());
        let indices =
            Shared::try_new(IndexTable::try_new().map_err(no_memory)?).map_err(no_memory)?;
        let load = HandshakeLoad::new(HashKey::new(random.array()));
        let load = Shared::try_new(load).map_err(no_memory)?;
        let handshake_accounts = Accounts::try_new()?;
        let provider = Provider::register(passive)?;
        let runs = RunPool::new(passive, RunCaps::DRIVER)?;
        let buffers = RxPool::try_new(RX_BUFFER_BYTES, RX_POOL_BYTES)?;
        let routes = Routes::start(passive)?;
        let processors = Processors::start(Choice::make(&policies, passive)?, passive)?;
        let interceptions = Interceptions::try_new(passive)?;
        let workers = Workers::start(passive)?;
        let numbers = AtomicU64::new(1);
        recorder::note(Event::Loaded, [u64::from(processor::count()), 0, 0, 0]);
        Ok(Self {
            workers,
            interceptions,
            processors,
            routes,
            buffers,
            runs,
            waiters: Waiters::default(),
            provider,
            load,
            handshake_accounts,
            indices,
            hash_key,
            features,
            detected,
            policies,
            numbers,
            _tracing: tracing,
            recorder,
            _keeping: keeping,
        })
    }

    /// Runs `body` with the right to use wide registers, if the machine has them and so many bytes
    /// are worth saving them for.
    #[expect(unsafe_code, reason = "joins nt's proof and crypto's, which do not know each other")]
    pub(crate) fn with_extended_state<R>(
        &self,
        bytes: usize,
        body: impl FnOnce(Option<&ExtendedState>) -> R,
    ) -> R {
        let cap = Tier::ALL.get(self.policies.get(Policy::SimdCap) as usize);
        let tier = self.detected.at_most(cap.copied().unwrap_or(Tier::Avx512Ifma));
        if !tier.needs_state() {
            // SAFETY: not above what `detect` returned, and it needs no state.
            return body(Some(&unsafe { ExtendedState::assume(tier) }));
        }
        if !aead::is_worth_saving_state(bytes) {
            return body(None);
        }
        self.features.with(|saved| {
            let state = saved.map(|_saved| {
                // SAFETY: the tier is not above what `detect` returned for the mask that `features` saves and
                // restores around this closure, on this thread; the state does not leave it.
                unsafe { ExtendedState::assume(tier) }
            });
            body(state.as_ref())
        })
    }

    /// A number for another tunnel.
    pub(crate) fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Has a worker look for work. `<= DISPATCH_LEVEL`.
    pub(crate) fn call_workers(&self) {
        self.workers.call();
    }

    /// Has a worker look for work when `delay` is over, or soon after. `<= DISPATCH_LEVEL`.
    pub(crate) fn call_workers_within(&self, delay: Duration) {
        self.workers.call_within(delay);
    }

    /// Reads the policy anew, and has every adapter follow it, whatever is under way there.
    ///
    /// Each value is one for all adapters at any time but while this works. Returns what was set and is
    /// not applied.
    pub(crate) fn follow_policy(&self, passive: &Passive) -> Reading {
        let reading = self.policies.read(passive);
        self.interceptions.follow_policy(&self.policies, passive);
        let mut after = 0;
        while let Some(device) = self.workers.device_after(after, passive) {
            after = device.tunnel.number();
            Device::follow_policy(&device, passive);
        }
        reading
    }

    /// Takes a device from the workers.
    pub(crate) fn remove(&self, device: &Shared<Device>, passive: &Passive) {
        self.workers.remove(device, passive);
    }
}

/// Both clocks, read together.
pub(crate) fn now() -> Now {
    Now { monotonic: Instant(nt::time::monotonic()), wall: nt::time::wall() }
}

/// What is no address is none: an endpoint that is not known has another kind, where the known one has its address.
#[expect(unsafe_code, reason = "what a type is made of is for no other code to know")]
const _: () = {
    let v4 = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
    let kind = offset_of!(Endpoint, remote) + layout::SOCKET_ADDRESS_KIND;
    // SAFETY: the compiler refuses to read what is not initialised.
    let none = unsafe { layout::byte_of(&None::<Endpoint>, kind) };
    // SAFETY: as above.
    let some = unsafe { layout::byte_of(&Some(Endpoint { remote: v4, local: None }), kind) };
    assert!(none > 1 && some == 0);
};

/// The context of the driver object.
struct Driver {
    /// Of the descriptor, and of what it leads to.
    _shown: (Option<Shown>, Kept<Core>, Kept<Desk>),
    _crash: CrashCallbacks,
    core: Shared<Core>,
}

impl Driver {
    #[expect(unsafe_code, reason = "a static lives as long as the driver")]
    fn try_new(core: Shared<Core>) -> Result<Self, NtError> {
        let bytes = core.recorder.bytes().saturating_add(SHOWN_BYTES);
        let crash = CrashCallbacks::register(ALLOCATOR.secret_pages(), bytes)?;
        // SAFETY: a static.
        let descriptor = unsafe { Shown::new(&DESCRIPTOR) };
        let shown = Kept::new(&core, |core| core);
        Ok(Self { _shown: (descriptor, shown, core.workers.show()), _crash: crash, core })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        recorder::note(Event::Unloading, [0; 4]);
        DESCRIPTOR.core.store(0, Ordering::Relaxed);
    }
}

impl DriverEvents for Driver {
    fn device_add(&self, init: DeviceInit, passive: &mut Passive) -> Result<(), NtError> {
        let mut added = None;
        let handle = init.create(passive, |handle, passive| {
            let mut made = None;
            let segmentation = self.core.policies.get(Policy::Segmentation) != 0;
            let receive_queues = self.core.policies.get(Policy::ReceiveQueues);
            let receive_queues = NonZeroU32::new(receive_queues).unwrap_or(NonZeroU32::MIN);
            let mtu = NonZeroU32::new(self.core.policies.get(Policy::Mtu));
            let mtu_bytes = mtu.unwrap_or(netadapter::Config::default().mtu_bytes);
            Adapter::create(
                passive,
                handle,
                &netadapter::Config {
                    mtu_bytes,
                    segmentation,
                    receive_queues,
                    ..netadapter::Config::default()
                },
                &self.core.buffers,
                |adapter, _passive| {
                    let device = Device::try_new(&self.core, adapter.clone())?;
                    made = Some(device.clone());
                    Ok(Inner(device))
                },
            )?;
            let device = made.ok_or(NtError::UNSUCCESSFUL)?;
            device.tunnel.set_mtu(mtu_bytes.get());
            added = Some(device.clone());
            let callouts = Interceptions::attach(&self.core, passive);
            Ok(Context::new(device, callouts))
        })?;
        let device = added.ok_or(NtError::UNSUCCESSFUL)?;
        device.note(Event::DeviceAdded, [0; 3]);
        let queue = handle.create_manual_queue(passive)?;
        passive.pinned(|level| device.log.open(level.at_most(), queue));
        let (data1, data2, data3, data4) = INTERFACE_CLASS;
        let class = InterfaceClass(data1, data2, data3, data4);
        handle.create_interface(passive, class, INTERFACE_REFERENCE)?;
        self.core.workers.add(&device, passive)
    }
}

/// Where the framework's entry point hands over to us.
///
/// # Safety
///
/// Called once, at `PASSIVE_LEVEL`, with the driver object and the path of its registry key.
#[expect(unsafe_code, reason = "the edge of the driver")]
#[unsafe(export_name = "DriverEntry")]
pub unsafe extern "system" fn driver_entry(driver: *mut c_void, registry: *const c_void) -> i32 {
    // SAFETY: the caller's promise.
    let mut passive = unsafe { Passive::assume() };
    // SAFETY: the caller's promise; used up before we return.
    let entry = unsafe { Entry::new(driver.cast(), registry.cast()) };
    let verified = entry.is_verified(&passive);
    to_status(entry.create(&mut passive, |passive| {
        for (told, word) in DESCRIPTOR.vector.iter().zip(layout::vector_words()?) {
            told.store(word, Ordering::Relaxed);
        }
        let core = Shared::try_new(Core::build(passive, verified)?);
        let core = core.map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        let driver = Driver::try_new(core)?;
        let core = ptr::from_ref(&*driver.core).expose_provenance();
        // Release: who finds it finds it made.
        DESCRIPTOR.core.store(core as u64, Ordering::Release);
        Ok(driver)
    }))
}
