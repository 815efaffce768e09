//! The threads that do what the data path may not: handshakes, timers, routes.
//!
//! They run at `PASSIVE_LEVEL`, above ordinary threads and above those that seal and open packets, so
//! that a rekey at saturation does not wait. A flood of handshake messages must not keep packets waiting
//! either: half of each clock tick a worker spends on such messages, and leaves the others to as many
//! threads that come behind those for packets ([`Pace::Patient`]), which do nothing else. All of a kind
//! wait on one event that lets one through; a worker that leaves work behind wakes the next. One kernel
//! timer wakes them at the earliest deadline of any adapter; it is only a wake-up, so early or late is
//! harmless.

use alloc::vec::Vec;
use core::{
    mem::offset_of,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use abi::{descriptor::Places, discard::Discard, events, places, statistics::Counter};
use callout::Layout;
use crypto::{
    aead::wipe_stack,
    protocol::{Endpoint, Output},
    sync::{RwSpinLock, Shared},
};
use nt::{
    event::{Event, Kind},
    irql::{Dispatch, Passive},
    processor,
    spin_lock::SpinLock,
    status::NtError,
    thread::Thread,
    time::{monotonic, to_100ns},
    timer::{Timer, Wake},
};

use crate::{
    account::{Account, Share, TICK},
    device::Device,
    ground::AtPassive,
    now,
    peer::{Paths, Peer},
    random::Generator,
    shown::{Kept, ShownList},
};

/// Which work a thread does, and before whom.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pace {
    /// All there is; before the threads that seal and open packets.
    Prompt,
    /// Handshake messages for which the others have no time left; behind those threads.
    Patient,
}

impl Pace {
    /// Ordinary threads have 8, those that seal and open 12.
    const fn priority(self) -> i32 {
        match self {
            Self::Prompt => 13,
            Self::Patient => 11,
        }
    }

    /// What it may spend of a tick on handshake messages.
    const fn share(self) -> Share {
        match self {
            Self::Prompt => Share::HALF,
            Self::Patient => Share::ALL,
        }
    }
}

/// More threads of a pace than this do not finish handshakes sooner on any machine that has as many.
const MOST: u32 = 8;
/// How many messages, and how many peers, a worker serves before it looks at the rest.
const BURST: usize = 32;
/// The shortest time the timer is set to: a deadline that is past is due at the next tick.
const SOONEST: Duration = Duration::from_millis(1);

/// The worker threads. Dropped at `PASSIVE_LEVEL`, after the last adapter: waits for all of them.
pub(crate) struct Workers {
    threads: Vec<Thread>,
    /// Set by the data path, which does not know the alarm's deadline.
    reminder: Timer<Shared<Desk>>,
    desk: Shared<Desk>,
}

/// What the threads share.
pub(crate) struct Desk {
    /// Set when there is work; lets one worker through.
    work: Event,
    /// Set when there is work for the patient; lets one of them through.
    overtime: Event,
    stop: AtomicBool,
    /// The reminder is set.
    reminds: AtomicBool,
    devices: RwSpinLock<ShownList<Shared<Device>>>,
}

impl Desk {
    const PLACES: Places = places!(
        "Desk",
        shared = Shared::<Self>::VALUE,
        devices = offset_of!(Self, devices)
            + RwSpinLock::<ShownList<Shared<Device>>>::VALUE
            + ShownList::<Shared<Device>>::LIST,
    );
}

/// The timer that wakes a worker at the earliest deadline.
///
/// Locked while the deadline is computed and set, so that a slower worker does not replace a newer
/// one by an older.
struct Alarm(SpinLock<Timer<Shared<Desk>>>);

impl Workers {
    /// For a debugger: the workers, and what they share.
    pub(crate) const PLACES: [Places; 2] = [places!("Workers", desk), Desk::PLACES];

    /// Starts one thread of each pace for each CPU, eight at most.
    ///
    /// # Errors
    ///
    /// What NT answers; threads started by then are ended.
    pub(crate) fn start(passive: &Passive) -> Result<Self, NtError> {
        let no_memory = |_| NtError::INSUFFICIENT_RESOURCES;
        let desk = Desk {
            work: Event::try_new(Kind::Synchronization)?,
            overtime: Event::try_new(Kind::Synchronization)?,
            stop: AtomicBool::new(false),
            reminds: AtomicBool::new(false),
            devices: RwSpinLock::new(ShownList::new()),
        };
        let desk = Shared::try_new(desk).map_err(no_memory)?;
        let timer = Timer::try_new(desk.clone(), Wake::Cpu, ring)?;
        let alarm = Shared::try_new(Alarm(SpinLock::new(timer))).map_err(no_memory)?;
        let reminder = Timer::try_new(desk.clone(), Wake::Cpu, remind)?;
        let count = processor::count().clamp(1, MOST);
        let mut threads = Vec::new();
        let room = count.saturating_mul(2) as usize;
        threads.try_reserve_exact(room).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        // From here on dropping `workers` ends those that run.
        let mut workers = Self { threads, reminder, desk };
        for _ in 0..count {
            for pace in [Pace::Prompt, Pace::Patient] {
                let random = Generator::try_new(passive)?;
                let (desk, alarm) = (workers.desk.clone(), alarm.clone());
                let account = Account::new(pace.share());
                let thread = Thread::spawn(passive, move |passive| {
                    Worker { desk, alarm, random, pace, account }.run(&passive);
                })?;
                thread.set_priority(passive, pace.priority());
                workers.threads.push(thread);
            }
        }
        Ok(workers)
    }

    /// Has dumps hold what leads to the devices.
    pub(crate) fn show(&self) -> Kept<Desk> {
        Kept::new(&self.desk, |desk| desk)
    }

    /// Has a worker look for work. `<= DISPATCH_LEVEL`.
    pub(crate) fn call(&self) {
        self.desk.work.set();
    }

    /// Has a worker look for work within `delay` and a tick. `<= DISPATCH_LEVEL`.
    pub(crate) fn call_within(&self, delay: Duration) {
        // Relaxed: who is told that it is set finds it before it rings; and what is due later than that the worker sees.
        if !self.desk.reminds.swap(true, Ordering::Relaxed) {
            self.reminder.set(delay);
        }
    }

    /// Has the workers serve `device`.
    ///
    /// # Errors
    ///
    /// [`NtError::INSUFFICIENT_RESOURCES`].
    pub(crate) fn add(&self, device: &Shared<Device>, passive: &Passive) -> Result<(), NtError> {
        // Room is made outside of the lock; devices are added one at a time, by the PnP manager.
        let mut devices = Vec::new();
        let count = self.desk.devices.read(&AtPassive(passive), |devices| devices.len());
        devices
            .try_reserve_exact(count.saturating_add(1))
            .map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        let old = self
            .desk
            .devices
            .write(&AtPassive(passive), |current| current.move_to(devices, device.clone()));
        drop(old);
        Ok(())
    }

    /// The device whose number comes next after `number`.
    pub(crate) fn device_after(&self, number: u64, passive: &Passive) -> Option<Shared<Device>> {
        self.desk.devices.read(&AtPassive(passive), |devices| {
            let later = devices.iter().filter(|device| device.tunnel.number() > number);
            later.min_by_key(|device| device.tunnel.number()).cloned()
        })
    }

    /// Has the workers leave `device` alone. One of them may still be busy with it.
    pub(crate) fn remove(&self, device: &Shared<Device>, passive: &Passive) {
        let removed = self.desk.devices.write(&AtPassive(passive), |devices| {
            let at = devices.iter().position(|other| Shared::ptr_eq(other, device))?;
            devices.take(at)
        });
        drop(removed);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.desk.stop.store(true, Ordering::Release);
        // Each worker that ends wakes the next of its pace; dropping a thread waits for it.
        self.desk.work.set();
        self.desk.overtime.set();
    }
}

/// The timer's routine.
fn ring(desk: &Shared<Desk>, _level: &Dispatch<'_>) {
    desk.work.set();
}

/// The reminder's routine.
fn remind(desk: &Shared<Desk>, level: &Dispatch<'_>) {
    desk.reminds.store(false, Ordering::Relaxed);
    ring(desk, level);
}

/// One thread.
struct Worker {
    desk: Shared<Desk>,
    alarm: Shared<Alarm>,
    random: Generator,
    pace: Pace,
    /// What it has spent on handshake messages.
    account: Account,
}

impl Worker {
    fn run(mut self, passive: &Passive) {
        loop {
            self.call().wait(passive);
            if self.desk.stop.load(Ordering::Acquire) {
                self.call().set();
                return;
            }
            self.random.stir(passive);
            let mut at = 0;
            while let Some(device) = self.device(at, passive) {
                self.serve(&device, passive);
                at = at.saturating_add(1);
            }
            self.set_alarm(passive);
            // What handshakes left below; this is near the top of the thread's 24 KiB.
            wipe_stack(4);
        }
    }

    /// What it waits on.
    fn call(&self) -> &Event {
        match self.pace {
            Pace::Prompt => &self.desk.work,
            Pace::Patient => &self.desk.overtime,
        }
    }

    fn device(&self, at: usize, passive: &Passive) -> Option<Shared<Device>> {
        self.desk.devices.read(&AtPassive(passive), |devices| devices.get(at).cloned())
    }

    /// Does all there is to do for a device.
    ///
    /// In turns: a flood of handshake messages must not keep rekeys and timers waiting.
    fn serve(&mut self, device: &Shared<Device>, passive: &Passive) {
        if self.pace == Pace::Patient {
            while self.consume_handshakes(device, passive) > 0 {}
            return;
        }
        Device::reopen(device, passive);
        device.tell_sockets(passive);
        device.look_for_runs();
        loop {
            let messages = self.consume_handshakes(device, passive);
            let peers = self.serve_peers(device, passive);
            let mut errand = Errand { device, passive };
            device.tunnel.poll(&AtPassive(passive), now(), &mut self.random, &mut errand);
            if messages < BURST && peers < BURST {
                return;
            }
        }
    }

    /// Takes up to [`BURST`] handshake messages, as far as there is time; returns how many.
    // spec: WG 5.3-c, WG 7.4-c
    fn consume_handshakes(&mut self, device: &Shared<Device>, passive: &Passive) -> usize {
        let ground = AtPassive(passive);
        let mut errand = Errand { device, passive };
        for taken in 0..BURST {
            let now = now();
            if self.account.is_spent(now.monotonic.0) {
                self.desk.overtime.set();
                return taken;
            }
            let Some((message, waiting)) = device.handshakes.pop(&ground) else { return taken };
            if taken == 0 && waiting > 1 {
                self.call().set();
            }
            device.core.load.observe(waiting, now.monotonic);
            let (bytes, from, random) = (message.bytes(), &message.from, &mut self.random);
            let (kind, handshake) = (kind(bytes), handshake(bytes));
            match device.tunnel.consume(&ground, bytes, from, now, random, &mut errand) {
                Ok(()) => {
                    device.counters.add(Counter::HandshakesIn, 1);
                    device.note(events::Event::MessageTaken, [kind, handshake, 0]);
                }
                Err(reason) => {
                    device.counters.discard(reason, 1);
                    device.note(events::Event::MessageRefused, [kind, handshake, reason as u64]);
                }
            }
            let ended = monotonic();
            let took = to_100ns(ended.saturating_sub(now.monotonic.0));
            self.account.note(ended, took, 1);
        }
        BURST
    }

    /// Serves up to [`BURST`] peers; returns how many.
    fn serve_peers(&mut self, device: &Shared<Device>, passive: &Passive) -> usize {
        let ground = AtPassive(passive);
        let mut errand = Errand { device, passive };
        for served in 0..BURST {
            let Some(peer) = device.service.pop(&ground) else { return served };
            let routed = device.refresh_route(&peer, passive);
            if let Err(reason) = routed {
                device.discard_staged(&peer, reason, passive);
            }
            // What waited for the route asks for a handshake, if it does not have a session.
            if routed == Ok(true) || peer.has_session(&ground, now()) {
                errand.flush(&peer, false);
            }
            device.tunnel.service(&ground, &peer, now(), &mut self.random, &mut errand);
        }
        BURST
    }

    /// Sets the timer to the earliest deadline of any device.
    fn set_alarm(&self, passive: &Passive) {
        passive.pinned(|level| {
            let alarm = self.alarm.0.lock(level);
            let ground = crate::ground::At(level.at_most());
            let now = now().monotonic.0;
            let next = self.desk.devices.read(&ground, |devices| {
                let wakes = devices.iter().flat_map(|device| {
                    let protocol = device.tunnel.next_wake(&ground).map(|wake| wake.0);
                    [protocol, device.next_attempt(), device.gives_up_at(now)]
                });
                // What it had no time for, if the patient have none either.
                let next_tick = self.account.is_spent(now).then(|| now.saturating_add(TICK));
                wakes.flatten().chain(next_tick).min()
            });
            if let Some(next) = next {
                alarm.set(next.saturating_sub(now).max(SOONEST));
            }
        });
    }
}

/// The type of a message.
fn kind(message: &[u8]) -> u64 {
    message.first().map_or(0, |kind| (*kind).into())
}

/// The index that the initiation of the message's handshake went by: its sender's, and else the receiver's, of whom an answer
/// tells it. Of a cookie reply to a response it is the response's.
fn handshake(message: &[u8]) -> u64 {
    let sender_or_receiver = if kind(message) == 2 { 8 } else { 4 };
    let index = message.get(sender_or_receiver..).and_then(<[u8]>::first_chunk);
    index.map_or(0, |index| u32::from_le_bytes(*index).into())
}

/// What a worker does for the protocol of one device: sends, and flushes.
pub(crate) struct Errand<'e> {
    pub(crate) device: &'e Shared<Device>,
    pub(crate) passive: &'e Passive,
}

impl Output<Paths> for Errand<'_> {
    fn send(&mut self, peer: Option<&Shared<Peer>>, to: &Endpoint, datagram: &[u8], tos: u8) {
        // From here on values are made on the stack and moved to the pool, with whatever lay between their parts.
        wipe_stack(2);
        let device = self.device;
        device.counters.add(Counter::HandshakesOut, 1);
        let words = [kind(datagram), handshake(datagram), 0];
        device.note(events::Event::MessageMade, words);
        let route = match device.message_route(peer, to, self.passive) {
            Ok(route) => route,
            Err(reason) => return device.counters.discard(reason, 1),
        };
        let Some(mut run) = device.core.runs.take(1, datagram.len(), Layout::Apart) else {
            return device.counters.discard(Discard::QueueFull, 1);
        };
        if let Some(place) = run.push(datagram.len()) {
            place.copy_from_slice(datagram);
            self.passive.pinned(|level| device.hand_over(run, &route, tos, level.at_most()));
        }
    }

    fn flush(&mut self, peer: &Shared<Peer>, keepalive_if_empty: bool) {
        // As above.
        wipe_stack(2);
        let (device, now) = (self.device, now());
        self.passive.pinned(|level| {
            Device::flush(device, peer, keepalive_if_empty, now, level.at_most());
        });
    }
}
