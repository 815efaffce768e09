//! Threads of the host that are actors of a world.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::host_cpu::{HostCpu, Stay};
use super::{ACTOR, Key, World};

/// The calling thread is an actor while this lives. Not `Send`: it is this thread's presence.
#[must_use = "the thread leaves the world when this is dropped"]
pub struct Presence {
    world: Arc<World>,
    number: usize,
    outer: Option<(u64, usize)>,
    _stay: Option<Stay>,
}

impl Drop for Presence {
    fn drop(&mut self) {
        ACTOR.set(self.outer);
        self.world.end(self.number);
    }
}

/// A thread made by [`World::spawn`].
pub struct JoinHandle {
    world: Arc<World>,
    done: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl JoinHandle {
    /// Whether its body has returned.
    pub fn is_finished(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// Waits for the thread to end; false if the world is stuck, the deadline has passed, or the thread panicked.
    pub fn join(mut self, deadline: Option<Duration>) -> bool {
        let done = self.done.clone();
        let ended = self.world.wait(Key::of(&*done), deadline, "thread to end", || {
            done.load(Ordering::Acquire).then_some(())
        });
        match self.thread.take() {
            // A panicking body never sets `done`; the standard handle knows.
            Some(thread) if ended.is_ok() && !self.world.is_virtual() => thread.join().is_ok(),
            // In Virtual mode the thread still has to hand its baton on, which may be to somebody else: do not hold ours.
            _ => ended.is_ok(),
        }
    }
}

impl World {
    /// Makes the calling thread an actor until the guard is dropped. It is a foreground actor: if the whole world has come
    /// to rest it is told ([`WaitEnd::Stuck`]).
    pub fn enter(self: &Arc<Self>, name: &str) -> Presence {
        let number = self.register(name, true);
        let stay = self.host_cpu.as_ref().map(HostCpu::stay);
        self.begin(number);
        Presence {
            world: self.clone(),
            number,
            outer: ACTOR.replace(Some((self.identity, number))),
            _stay: stay,
        }
    }

    /// Starts a thread that is a background actor. It is registered before this returns, so the order is the spawner's.
    pub fn spawn(self: &Arc<Self>, name: &str, body: impl FnOnce() + Send + 'static) -> JoinHandle {
        let (world, number, done) =
            (self.clone(), self.register(name, false), Arc::new(AtomicBool::new(false)));
        let finished = done.clone();
        let thread =
            std::thread::Builder::new().name(name.chars().take(15).collect()).spawn(move || {
                let _stay = world.host_cpu.as_ref().map(HostCpu::stay);
                world.begin(number);
                let outer = ACTOR.replace(Some((world.identity, number)));
                let presence = Presence { world: world.clone(), number, outer, _stay };
                body();
                finished.store(true, Ordering::Release);
                world.wake(Key::of(&*finished));
                drop(presence);
            });
        if thread.is_err() {
            done.store(true, Ordering::Release);
            self.end(number);
        }
        JoinHandle { world: self.clone(), done, thread: thread.ok() }
    }
}
