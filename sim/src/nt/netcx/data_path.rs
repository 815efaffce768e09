//! The queues of an adapter: created, started, stopped, destroyed, each in NetAdapterCx's order.
//!
//! One transmit and one receive queue; there is no RSS here. Stopping waits for the host to return
//! every received packet *before* the driver hears Cancel, and for the driver to complete every
//! accepted packet after it.
//!
//! Source: `facts/netcx-os.md` §2.3, §3 (`nxadapterstatemachine.h`, `nxtranslationapp.cpp`,
//! `queuecontrol.cpp`, read in Microsoft's source).

use std::sync::{Arc, Mutex};

use super::Sizes;
use super::adapter::{Adapter, Capabilities};
use super::poll_thread::{Poll, wait_or_die};
use super::queue::PacketQueue;
use super::receive_scaling::{Program, Scaling};
use super::ring_verifier::Direction;
use super::rx_translator::{Parts, RxTranslator};
use super::stopping::Stopping;
use super::tx_translator::TxTranslator;
use crate::nt::machine::{Call, Dead, Level, Machine};
use crate::nt::wdf::Wdf;
use crate::nt::wdf::status::{self, NtStatus};
use crate::verifier::rules;
use crate::verifier::schedule::{JoinHandle, lock};

/// Where an adapter's data path stands. Names as in NetAdapterCx.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    Halted,
    AdapterPaused,
    AdapterRestarted,
    DatapathPaused,
    Running,
}

/// What happens to a data path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Initialize,
    Halt,
    Create,
    Destroy,
    Restart,
    Pause,
}

/// What a transition does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Create,
    Start,
    Stop,
    Destroy,
}

impl Path {
    /// The table of transitions: actions in order, and the next state; `None` for an event that
    /// does not occur in this state.
    pub(crate) fn on(self, event: Event) -> Option<(&'static [Action], Self)> {
        use Action::{Create, Destroy, Start, Stop};
        Some(match (self, event) {
            (Self::Halted, Event::Initialize) => (&[], Self::AdapterPaused),
            (Self::AdapterPaused, Event::Create) => (&[Create], Self::DatapathPaused),
            (Self::AdapterPaused, Event::Restart) => (&[], Self::AdapterRestarted),
            (Self::AdapterPaused, Event::Halt) => (&[], Self::Halted),
            (Self::AdapterRestarted, Event::Create) => (&[Create, Start], Self::Running),
            (Self::AdapterRestarted, Event::Pause) => (&[], Self::AdapterPaused),
            (Self::DatapathPaused, Event::Restart) => (&[Start], Self::Running),
            (Self::DatapathPaused, Event::Destroy) => (&[Destroy], Self::AdapterPaused),
            (Self::Running, Event::Pause) => (&[Stop], Self::DatapathPaused),
            (Self::Running, Event::Destroy) => (&[Stop, Destroy], Self::AdapterRestarted),
            _ => return None,
        })
    }
}

/// The queues of one adapter and the threads that poll them.
pub(crate) struct DataPath {
    adapter: Arc<Adapter>,
    tx: Arc<TxTranslator>,
    /// By number; more than one if the driver may have several.
    rx: Vec<Arc<RxTranslator>>,
    scaling: Option<Scaling>,
    program: Mutex<Option<Program>>,
    threads: Mutex<Vec<JoinHandle>>,
}

impl DataPath {
    /// Asks the driver for its queues: transmit, then receive.
    ///
    /// # Errors
    ///
    /// [`Dead`]; inside, the driver's status, with nothing left over.
    pub(crate) fn create(
        machine: &Arc<Machine>,
        adapter: &Arc<Adapter>,
        capabilities: Capabilities,
        sizes: Sizes,
    ) -> Result<Result<Arc<Self>, NtStatus>, Dead> {
        let scaling = adapter.scaling(machine);
        let tx = (Direction::Transmit, 0);
        let tx_queue = match PacketQueue::ask(machine, adapter, tx, sizes)? {
            Ok(queue) => queue,
            Err(status) => return Ok(Err(status)),
        };
        let mut rx_queues: Vec<Arc<PacketQueue>> = Vec::new();
        for number in 0..scaling.map_or(1, |scaling| scaling.queues) {
            let rx = (Direction::Receive, number as u32);
            match PacketQueue::ask(machine, adapter, rx, sizes)? {
                Ok(queue) => rx_queues.push(queue),
                Err(status) => {
                    delete(machine, &tx_queue);
                    rx_queues.iter().for_each(|queue| delete(machine, queue));
                    return Ok(Err(status));
                }
            }
        }
        let tx = TxTranslator::new(
            tx_queue,
            adapter.outbox.clone(),
            adapter.gso(machine).map_or(capabilities.mtu as usize, |gso| gso.most_bytes()),
            capabilities.tx_fragments,
        );
        let translator = |(number, queue)| {
            let parts = Parts {
                queue,
                number,
                inbox: adapter.inbox.clone(),
                adapter: adapter.handle(),
                return_buffer: capabilities.return_rx_buffer,
                max_frame: capabilities.rx_frame,
                pool: sizes.receive_pool,
            };
            RxTranslator::new(machine, parts)
        };
        let rx: Vec<_> = rx_queues.into_iter().enumerate().map(translator).collect();
        let mut threads =
            vec![tx.queue().context.start(machine, "tx", tx.clone() as Arc<dyn Poll>)];
        for rx in &rx {
            threads.push(rx.queue().context.start(machine, "rx", rx.clone() as Arc<dyn Poll>));
        }
        Ok(Ok(Arc::new(Self {
            adapter: adapter.clone(),
            tx,
            rx,
            scaling,
            program: Mutex::default(),
            threads: Mutex::new(threads),
        })))
    }

    /// How many receive queues there are.
    pub(crate) fn receive_queues(&self) -> usize {
        self.rx.len()
    }

    /// The number of the receive queue that `packet` is expected from.
    pub(crate) fn expected_queue(&self, packet: &[u8]) -> usize {
        lock(&self.program).as_ref().map_or(0, |program| program.queue_of(packet))
    }

    /// Gives the driver a key, what it is to hash, and a table, in the order in which NetAdapterCx does.
    pub(crate) fn program(&self, machine: &Machine) {
        let Some(scaling) = self.scaling else { return };
        let key = std::array::from_fn(|_| machine.world().random() as u8);
        let table: Vec<usize> = (0..scaling.entries)
            .map(|_| machine.world().random() as usize % self.rx.len())
            .collect();
        let handle = self.adapter.handle();
        let call = |name, callback: u64, level, arguments: &[u64]| {
            // A stop ends the machine; whoever asked sees it dead.
            machine.call(Call::new(name, callback as usize, level), arguments).unwrap_or(0)
                as NtStatus
        };
        let [enable, _, set_key, set_entries] = scaling.callbacks;
        let secret: [u64; 2] = [address(&key), key.len() as u64];
        let level = Level::Passive;
        let name = "EvtAdapterReceiveScalingSetHashSecretKey";
        let mut status = call(name, set_key, level, &[handle, address(&secret)]);
        let name = "EvtAdapterReceiveScalingEnable";
        status |= call(name, enable, level, &[handle, 1, scaling.protocols().into()]);
        let entry = |(index, queue): (usize, &usize)| {
            [self.rx[*queue].queue().object().handle(), (index as u64) << 32]
        };
        let entries: Vec<[u64; 2]> = table.iter().enumerate().map(entry).collect();
        let entries: [u64; 2] = [entries.as_ptr().expose_provenance() as u64, entries.len() as u64];
        let name = "EvtAdapterReceiveScalingSetIndirectionEntries";
        status |= call(name, set_entries, Level::Dispatch, &[handle, address(&entries)]);
        if status != status::SUCCESS && !machine.is_dead() {
            machine.die(&rules::RECEIVE_SCALING, format!("the driver answers {status:#x}"));
        }
        *lock(&self.program) = Some(Program { key, table });
    }

    /// Tells the transmit queue that the host has sent something.
    pub(crate) fn notify_transmit(&self, machine: &Machine) {
        self.tx.queue().context.notify(machine);
    }

    /// Leaves polling to [`DataPath::poll_here`], or ends that.
    pub(crate) fn set_by_hand(&self, machine: &Machine, by_hand: bool) {
        for queue in self.queues() {
            queue.context.set_by_hand(machine, by_hand);
        }
    }

    /// Polls both queues in the calling thread until neither has work.
    pub(crate) fn poll_here(&self, machine: &Machine) {
        self.tx.queue().context.poll_here(machine, &*self.tx);
        for rx in &self.rx {
            rx.queue().context.poll_here(machine, &**rx);
        }
    }

    /// Opens the gates and starts both queues.
    pub(crate) fn start(&self, machine: &Machine) {
        self.adapter.inbox.set_open(true);
        self.adapter.outbox.set_open(true);
        self.tx.stopping().set(false);
        self.rx.iter().for_each(|rx| rx.stopping().set(false));
        for queue in self.queues() {
            let started = queue.clone();
            queue.context.run_task(machine, move |machine| started.start(machine));
            queue.context.notify(machine);
        }
        machine.world().wake(self.adapter.outbox.key());
        self.program(machine);
    }

    /// Stops both queues: gates, Cancel, drain, Stop.
    pub(crate) fn stop(&self, machine: &Machine) {
        let (outbox, inbox) = (&self.adapter.outbox, &self.adapter.inbox);
        inbox.set_open(false);
        for rx in &self.rx {
            let (returns, what) = (rx.returns(), "the host to return received packets");
            if !wait_or_die(machine, returns.key(), what, || returns.all_back()) {
                return;
            }
        }
        outbox.set_open(false);
        machine.world().wake(outbox.key());
        self.tx.stopping().set(true);
        self.cancel(machine, self.tx.queue());
        for rx in &self.rx {
            rx.stopping().set(true);
            self.cancel(machine, rx.queue());
        }
        if !wait_or_die(machine, outbox.key(), "the driver to complete accepted packets", || {
            outbox.is_empty()
        }) {
            return;
        }
        let drains = |stopping: &Stopping, what| {
            wait_or_die(machine, stopping.key(), what, || stopping.is_ready())
        };
        let stopped = drains(self.tx.stopping(), "the transmit queue to drain")
            && self.rx.iter().all(|rx| drains(rx.stopping(), "a receive queue to drain"));
        if !stopped {
            return;
        }
        for queue in self.queues() {
            let stopped = queue.clone();
            queue.context.run_task(machine, move |machine| stopped.stop(machine));
        }
    }

    fn cancel(&self, machine: &Machine, queue: &Arc<PacketQueue>) {
        let cancelled = queue.clone();
        queue.context.run_task(machine, move |machine| cancelled.cancel(machine));
        queue.context.notify(machine);
    }

    /// Ends the polls and deletes the queue objects: transmit, then receive.
    pub(crate) fn destroy(&self, machine: &Machine) {
        for queue in self.queues() {
            queue.context.end(machine);
        }
        let threads = std::mem::take(&mut *lock(&self.threads));
        for thread in threads {
            thread.join(None);
        }
        if machine.is_dead() {
            return;
        }
        for queue in self.queues() {
            delete(machine, queue);
        }
    }

    fn queues(&self) -> impl Iterator<Item = &Arc<PacketQueue>> {
        std::iter::once(self.tx.queue()).chain(self.rx.iter().map(|rx| rx.queue()))
    }
}

fn address<T>(value: &T) -> u64 {
    std::ptr::from_ref(value).expose_provenance() as u64
}

fn delete(machine: &Machine, queue: &PacketQueue) {
    Wdf::of(machine).objects.delete(machine, queue.object());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both orders of creation and restart end in the same state with the same actions.
    #[test]
    fn create_and_restart_come_in_either_order() {
        use Action::{Create, Destroy, Start, Stop};
        for events in [[Event::Create, Event::Restart], [Event::Restart, Event::Create]] {
            let mut path = Path::AdapterPaused;
            let mut actions = Vec::new();
            for event in events {
                let (done, next) = path.on(event).unwrap();
                actions.extend_from_slice(done);
                path = next;
            }
            assert_eq!((path, &actions[..]), (Path::Running, &[Create, Start][..]), "{events:?}");
        }
        let (actions, path) = Path::Running.on(Event::Destroy).unwrap();
        assert_eq!((actions, path), (&[Stop, Destroy][..], Path::AdapterRestarted));
        let (actions, path) = Path::Running.on(Event::Pause).unwrap();
        assert_eq!((actions, path), (&[Stop][..], Path::DatapathPaused));
        assert_eq!(Path::Halted.on(Event::Create), None);
        assert_eq!(Path::Running.on(Event::Halt), None);
    }
}
