//! `WDFQUEUE`: parallel and manual queues, and who delivers what is in them.
//!
//! Requests of a parallel queue are presented by threads of the framework, in the System process:
//! a handler that reads something of its requestor there reads something of the wrong process.
//!
//! Source: `facts/kmdf.md` §8 (`irphandlers/io/fxioqueue.cpp`, `fxpkgio.cpp`, read in Microsoft's
//! source).

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::Entered;
use super::attributes::{self, Attributes};
use super::device::Device;
use super::driver_memory::Address;
use super::object::{Kind, Object};
use super::request::{Owner, Request};
use super::status::{self, NtStatus};
use crate::nt::imports;
use crate::nt::machine::{Call, Level, Machine};
use crate::verifier::rules;
use crate::verifier::schedule::{Key, lock};

const CONFIG_SIZE: u32 = 96;
const SEQUENTIAL: u32 = 1;
const PARALLEL: u32 = 2;
const MANUAL: u32 = 3;
const UNLIMITED: u32 = u32::MAX;
/// Delivering threads per device: enough for two handlers to run at once.
const DELIVERERS: usize = 2;
/// How long the KMDF verifier lets a power-down or removal wait for a driver's requests.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    /// New requests are queued and presented.
    All,
    /// New requests are queued, none is presented: powered down.
    Held,
    /// New requests are refused.
    None,
}

struct State {
    accepting: Accepting,
    waiting: VecDeque<Arc<Request>>,
    /// Requests that were taken out and are not completed.
    owned: usize,
}

/// The simulator's part of a `WDFQUEUE`.
pub(crate) struct Queue {
    pub(crate) object: Arc<Object>,
    manual: bool,
    power_managed: bool,
    default: bool,
    /// `EvtIoDefault` and `EvtIoDeviceControl`, `EvtIoCanceledOnQueue`; 0 where there is none.
    on_default: u64,
    on_device_control: u64,
    on_canceled: u64,
    state: Mutex<State>,
}

impl Queue {
    /// Appends a request.
    ///
    /// # Errors
    ///
    /// If the queue refuses new ones.
    pub(crate) fn push(
        &self,
        machine: &Machine,
        device: &Device,
        request: &Arc<Request>,
    ) -> Result<(), ()> {
        {
            let mut state = lock(&self.state);
            if state.accepting == Accepting::None {
                return Err(());
            }
            state.waiting.push_back(request.clone());
        }
        machine.world().wake(Key::of(&device.queues));
        Ok(())
    }

    fn pop(&self) -> Option<Arc<Request>> {
        let mut state = lock(&self.state);
        if state.accepting == Accepting::Held {
            return None;
        }
        let request = state.waiting.pop_front()?;
        state.owned += 1;
        Some(request)
    }

    /// Takes out those that `which` picks, to be cancelled.
    pub(crate) fn withdraw(&self, which: impl Fn(&Request) -> bool) -> Vec<Arc<Request>> {
        let mut state = lock(&self.state);
        let (out, stay) = state.waiting.drain(..).partition(|request| which(request));
        state.waiting = stay;
        Vec::from(out)
    }

    /// A request that had been taken out is completed.
    pub(crate) fn completed(&self, machine: &Machine) {
        lock(&self.state).owned -= 1;
        machine.world().wake(Key::of(&self.state));
    }

    /// `EvtIoCanceledOnQueue`, or 0.
    pub(crate) fn on_canceled(&self) -> u64 {
        self.on_canceled
    }

    fn waits_for_driver(&self, machine: &Machine, why: &'static str) {
        let deadline = machine.world().now() + PATIENCE;
        let none = || (lock(&self.state).owned == 0).then_some(());
        if let Err(Some(_)) = machine.wait(Key::of(&self.state), Some(deadline), why, none) {
            let owned = lock(&self.state).owned;
            let detail = format!("{why}: the driver has kept {owned} requests of a queue for 60 s");
            machine.die(&rules::WDF_DEFERRED_REQUEST_COMPLETED, detail);
        }
    }
}

impl Device {
    /// Starts the threads that present requests.
    pub(crate) fn start_delivering(self: &Arc<Self>, machine: &Arc<Machine>) {
        for _ in 0..DELIVERERS {
            let device = self.clone();
            machine.background("wdf", move |machine| device.deliver(machine));
        }
    }

    /// Ends them.
    pub(crate) fn stop_delivering(&self, machine: &Machine) {
        self.delivering.store(false, Ordering::Release);
        machine.world().wake(Key::of(&self.queues));
    }

    fn deliver(&self, machine: &Machine) {
        loop {
            let next = machine.wait(Key::of(&self.queues), None, "request to present", || {
                if machine.is_off() || !self.delivering.load(Ordering::Acquire) {
                    return Some(None);
                }
                self.next_to_present().map(Some)
            });
            let Ok(Some((queue, request))) = next else { return };
            queue.present(machine, &request);
        }
    }

    fn next_to_present(&self) -> Option<(Arc<Queue>, Arc<Request>)> {
        let queues = lock(&self.queues);
        let parallel = queues.iter().filter(|queue| !queue.manual);
        parallel.filter_map(|queue| Some((queue.clone(), queue.pop()?))).next()
    }

    /// The queue of requests that the driver forwards nowhere itself.
    pub(crate) fn default_queue(&self) -> Option<Arc<Queue>> {
        lock(&self.queues).iter().find(|queue| queue.default).cloned()
    }

    /// Lets power-managed queues present requests, or holds them and waits for the driver's.
    pub(crate) fn set_power(&self, machine: &Machine, on: bool) {
        let managed: Vec<_> =
            lock(&self.queues).iter().filter(|queue| queue.power_managed).cloned().collect();
        for queue in managed {
            lock(&queue.state).accepting = if on { Accepting::All } else { Accepting::Held };
            if !on {
                queue.waits_for_driver(machine, "power-down");
            }
        }
        machine.world().wake(Key::of(&self.queues));
    }

    /// Refuses new requests, cancels what waits, and waits for what the driver has.
    pub(crate) fn purge(&self, machine: &Machine, power_managed: bool) {
        let queues: Vec<_> = lock(&self.queues).clone();
        let queues = || queues.iter().filter(|queue| queue.power_managed == power_managed);
        for queue in queues() {
            lock(&queue.state).accepting = Accepting::None;
            for request in queue.withdraw(|_| true) {
                request.cancel_in_queue(machine, Some(queue));
            }
        }
        for queue in queues() {
            queue.waits_for_driver(machine, "removal");
        }
    }
}

impl Queue {
    fn present(self: &Arc<Self>, machine: &Machine, request: &Arc<Request>) {
        request.give_to_driver(self);
        let (queue, handle) = (self.object.handle(), request.object().handle());
        let (input, output, code) = request.lengths();
        let (name, callback, arguments): (_, _, &[u64]) = if self.on_device_control != 0 {
            ("EvtIoDeviceControl", self.on_device_control, &[queue, handle, output, input, code])
        } else if self.on_default != 0 {
            ("EvtIoDefault", self.on_default, &[queue, handle])
        } else {
            request.complete(machine, status::INVALID_DEVICE_REQUEST, 0);
            return;
        };
        // A stop ends the machine and with it this thread's loop.
        let _ = machine.call(Call::new(name, callback as usize, Level::Passive), arguments);
    }
}

imports! {
    pub(crate) static IMPORTS: "wdf01000";

    /// Makes a queue.
    [max: PASSIVE, mark: ReadInSource, source: "facts/kmdf.md 8", fail: status::INSUFFICIENT_RESOURCES]
    fn WdfIoQueueCreate(thread, globals: u64, device: u64, config: u64, attributes: u64, queue: u64) -> i32 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        create(&entered, device, config, attributes, queue)
    }

    /// Sends a request from `EvtIoInCallerContext` on to its queue.
    [max: DISPATCH, mark: ReadInSource, source: "facts/kmdf.md 8"]
    fn WdfDeviceEnqueueRequest(thread, globals: u64, device: u64, request: u64) -> i32 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        let Some(device) = entered.body::<Device>(device, Kind::Device) else { return 0 };
        let Some(request) = entered.body::<Request>(request, Kind::Request) else { return 0 };
        if request.owner() != Owner::CallerContext {
            entered.violation(&rules::WDF_QUEUE_FATAL_ERROR, "WdfDeviceEnqueueRequest outside EvtIoInCallerContext, or a second time");
            return 0;
        }
        let Some(queue) = device.default_queue() else { return status::INVALID_DEVICE_REQUEST };
        request.enter_queue(&queue);
        if queue.push(&entered.machine, &device, &request).is_err() {
            request.back_to(Owner::CallerContext);
            return status::WDF_BUSY;
        }
        status::SUCCESS
    }

    /// Moves a request that the driver has to another queue.
    [max: DISPATCH, mark: ReadInSource, source: "facts/kmdf.md 8"]
    fn WdfRequestForwardToIoQueue(thread, globals: u64, request: u64, queue: u64) -> i32 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        let Some(request) = entered.body::<Request>(request, Kind::Request) else { return 0 };
        let Some(queue) = entered.body::<Queue>(queue, Kind::Queue) else { return 0 };
        if request.owner() != Owner::Driver {
            entered.violation(&rules::WDF_QUEUE_FATAL_ERROR, "WdfRequestForwardToIoQueue of a request that no queue has presented");
            return 0;
        }
        let from = request.queue();
        if from.as_ref().is_some_and(|from| Arc::ptr_eq(from, &queue)) {
            entered.violation(&rules::WDF_QUEUE_FATAL_ERROR, "WdfRequestForwardToIoQueue to the same queue; that is WdfRequestRequeue");
            return 0;
        }
        request.enter_queue(&queue);
        if queue.push(&entered.machine, request.device(), &request).is_err() {
            request.back_to(Owner::Driver);
            request.set_queue(from);
            return status::WDF_BUSY;
        }
        if let Some(from) = from {
            from.completed(&entered.machine);
        }
        status::SUCCESS
    }

    /// Takes the next request out of a manual queue.
    [max: DISPATCH, mark: ReadInSource, source: "facts/kmdf.md 8"]
    fn WdfIoQueueRetrieveNextRequest(thread, globals: u64, queue: u64, request: u64) -> i32 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        let Some(queue) = entered.body::<Queue>(queue, Kind::Queue) else { return 0 };
        let Some(out) = entered.required("OutRequest", request) else { return 0 };
        out.write(0, 0_u64);
        if !queue.manual {
            return status::INVALID_DEVICE_STATE;
        }
        if lock(&queue.state).accepting == Accepting::Held {
            return status::WDF_PAUSED;
        }
        let Some(request) = queue.pop() else { return status::NO_MORE_ENTRIES };
        request.give_to_driver(&queue);
        out.write(0, request.object().handle());
        status::SUCCESS
    }

    /// The device of a queue.
    [max: DISPATCH, mark: Documented, source: "DDI wdfio/nf-wdfio-wdfioqueuegetdevice"]
    fn WdfIoQueueGetDevice(thread, globals: u64, queue: u64) -> u64 {
        let Some(entered) = Entered::new(thread, globals) else { return 0 };
        let Some(queue) = entered.body::<Queue>(queue, Kind::Queue) else { return 0 };
        let devices = entered.wdf.devices();
        let owns = |device: &&Arc<Device>| lock(&device.queues).iter().any(|known| Arc::ptr_eq(known, &queue));
        devices.iter().find(owns).map_or(0, |device| device.handle())
    }
}

fn create(
    entered: &Entered<'_>,
    device: u64,
    config: u64,
    attributes: u64,
    queue_out: u64,
) -> NtStatus {
    let Some(device) = entered.body::<Device>(device, Kind::Device) else { return 0 };
    let Some(config) = entered.required("Config", config) else { return 0 };
    if config.read::<u32>(0) != CONFIG_SIZE {
        return status::INFO_LENGTH_MISMATCH;
    }
    let queue = match judge(&device, config, queue_out) {
        Ok(queue) => queue,
        Err(status) => return status,
    };
    let attributes = match Attributes::read(Address(attributes), attributes::QUEUE) {
        Ok(attributes) => attributes,
        Err(status) => return status,
    };
    let parent = match attributes.parent {
        0 => device.object().clone(),
        handle => match entered.any(handle) {
            Some(parent) => parent,
            None => return 0,
        },
    };
    let [_, _, on_default, _, _, on_device_control, _, on_stop, _, on_canceled] =
        config.words::<10>(0);
    if queue.dispatch == SEQUENTIAL || on_stop != 0 || attributes.scope > 1 && attributes.scope != 4
    {
        let detail = "sequential queues, EvtIoStop and synchronization scopes are not modelled";
        entered.thread.stop(&rules::NOT_PROVIDED, detail);
        return 0;
    }
    let object = entered.wdf.objects.create(
        &*entered.machine,
        Kind::Queue,
        attributes.context,
        Some(&parent),
    );
    let state = State { accepting: Accepting::All, waiting: VecDeque::new(), owned: 0 };
    let body = Arc::new(Queue {
        object: object.clone(),
        manual: queue.dispatch == MANUAL,
        power_managed: queue.power_managed,
        default: queue.default,
        on_default,
        on_device_control,
        on_canceled,
        state: Mutex::new(state),
    });
    object.set_body(body.clone());
    lock(&device.queues).push(body);
    if queue_out != 0 {
        Address(queue_out).write(0, object.handle());
    }
    status::SUCCESS
}

struct Judged {
    dispatch: u32,
    power_managed: bool,
    default: bool,
}

/// The rules of `WdfIoQueueCreate`, in Windows' order.
fn judge(device: &Device, config: Address, queue_out: u64) -> Result<Judged, NtStatus> {
    let dispatch: u32 = config.read(4);
    let power_managed = config.read::<u32>(8) != 0;
    let default = config.read::<u8>(13) != 0;
    let callbacks: [u64; 5] = config.words(16);
    let any_callback = callbacks.iter().any(|callback| *callback != 0);
    let presented: u32 = config.read(80);
    if !default && queue_out == 0 {
        return Err(status::INVALID_PARAMETER_4);
    }
    if default && device.open.load(Ordering::Acquire) {
        return Err(status::INVALID_DEVICE_STATE);
    }
    if default && device.default_queue().is_some() {
        return Err(status::UNSUCCESSFUL);
    }
    match dispatch {
        SEQUENTIAL | PARALLEL if !any_callback => return Err(status::WDF_NO_CALLBACK),
        MANUAL if any_callback => return Err(status::INVALID_PARAMETER),
        SEQUENTIAL | MANUAL if presented != 0 => return Err(status::INVALID_PARAMETER),
        SEQUENTIAL | MANUAL => {}
        PARALLEL if presented == UNLIMITED => {}
        PARALLEL => return Err(status::INVALID_PARAMETER),
        _ => return Err(status::INVALID_PARAMETER),
    }
    Ok(Judged { dispatch, power_managed, default })
}
