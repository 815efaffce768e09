//! The driver in a machine: loaded, started, unloaded, and searched for what it left behind.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use crate::loader::gdb::Companion;
use crate::loader::pe::{Image, LoadError};
use crate::loader::probe;
use crate::nt::machine::{Call, Dead, Level, Machine};
use crate::nt::memory::{self, Memory, Region};
use crate::nt::processor::Processor;
use crate::verifier::report::Leak;
use crate::verifier::schedule::lock;

/// Bytes of a `DRIVER_OBJECT`, and where its fields are.
const DRIVER_OBJECT: usize = 336;
const DRIVER_START: usize = 24;
const DRIVER_SIZE: usize = 32;
const DRIVER_INIT: usize = 88;
const DRIVER_UNLOAD: usize = 104;
/// `IO_TYPE_DRIVER`.
const IO_TYPE_DRIVER: u64 = 4;

impl Machine {
    /// Whether `address` is in the driver's image. Safe in a signal handler.
    pub fn is_driver_code(&self, address: usize) -> bool {
        self.driver_code().contains(&address)
    }

    /// Where the driver is.
    pub fn driver_code(&self) -> std::ops::Range<usize> {
        self.range[0].load(Ordering::Acquire)..self.range[1].load(Ordering::Acquire)
    }

    /// Maps the driver at `path` and binds its imports.
    ///
    /// # Errors
    ///
    /// [`LoadError`] says what is wrong with the file.
    pub fn load(&self, path: &Path) -> Result<(), LoadError> {
        let mut image = Image::load(path, crate::nt::address)?;
        if self.world.explores() {
            image.trap_atomics()?;
        }
        let image = Arc::new(image);
        self.range[0].store(image.base(), Ordering::Release);
        self.range[1].store(image.base() + image.size(), Ordering::Release);
        self.symbols.forget();
        *lock(&self.companion) = Companion::introduce(&image);
        *self.image.write().unwrap_or_else(PoisonError::into_inner) = Some(image);
        Ok(())
    }

    /// Calls the entry point of the loaded driver and returns its `NTSTATUS`.
    ///
    /// # Errors
    ///
    /// [`Dead`].
    ///
    /// # Panics
    ///
    /// If no driver is loaded.
    pub fn start(&self) -> Result<i32, Dead> {
        let Some(image) = self.image() else { panic!("no driver is loaded") };
        let driver = self.allocate(DRIVER_OBJECT);
        let path = self.unicode(&self.service_key());
        let fields: [(usize, u64); 4] = [
            (0, IO_TYPE_DRIVER | (DRIVER_OBJECT as u64) << 16),
            (DRIVER_START, image.base() as u64),
            (DRIVER_SIZE, image.size() as u64),
            (DRIVER_INIT, image.entry() as u64),
        ];
        for (offset, value) in fields {
            self.poke(driver + offset, value);
        }
        self.driver.store(driver, Ordering::Release);
        let call = Call::new("DriverEntry", image.entry(), Level::Passive);
        self.call(call, &[driver as u64, path as u64]).map(|status| status as i32)
    }

    /// Address of the `DRIVER_OBJECT`; 0 before [`Machine::start`].
    pub fn driver_object(&self) -> usize {
        self.driver.load(Ordering::Acquire)
    }

    /// Calls the driver's unload routine, looks for what it left behind, and unmaps the image.
    ///
    /// # Errors
    ///
    /// [`Dead`].
    pub fn unload(&self) -> Result<Vec<Leak>, Dead> {
        if self.is_dead() {
            return Err(Dead);
        }
        let driver = self.driver_object();
        let routine =
            if driver == 0 { 0 } else { probe::read::<usize>(driver + DRIVER_UNLOAD).unwrap_or(0) };
        if routine != 0 {
            self.call(Call::new("DriverUnload", routine, Level::Passive), &[driver as u64])?;
        }
        self.unmap()
    }

    /// Looks for what the driver left behind and unmaps the image without calling it: after a failed `DriverEntry`, which
    /// Windows follows with no unload call.
    ///
    /// # Errors
    ///
    /// [`Dead`].
    pub fn unmap(&self) -> Result<Vec<Leak>, Dead> {
        let leaks = self.leaks();
        if self.is_dead() {
            return Err(Dead);
        }
        for range in &self.range {
            range.store(0, Ordering::Release);
        }
        *lock(&self.companion) = None;
        let image = self.image.write().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(image) = image.filter(|_| self.options.remembers) {
            let bytes = memory::bytes(image.base(), image.size());
            self.extension::<Memory>().keep("the unloaded image".to_owned(), bytes);
        }
        self.driver.store(0, Ordering::Release);
        Ok(leaks)
    }

    /// What [`Machine::allocate`] gave and [`Machine::release`] has not taken.
    pub(crate) fn owned_memory(&self) -> Vec<Region> {
        let owned = lock(&self.owned);
        let owned = owned.iter().map(|(address, block)| Region {
            what: "memory of the frameworks".to_owned(),
            bytes: memory::bytes(*address, size_of_val(&**block)),
        });
        owned.collect()
    }

    /// The stacks that DPCs run on, by CPU.
    pub(crate) fn dpc_stacks(&self) -> Vec<(usize, usize)> {
        self.processors.iter().map(Processor::stack_bounds).collect()
    }

    fn leaks(&self) -> Vec<Leak> {
        let mut leaks = Vec::new();
        self.pool.leaks(self, &mut leaks);
        self.objects.leaks(&mut leaks);
        self.timers.leaks(self, &mut leaks);
        for (number, processor) in self.processors.iter().enumerate() {
            leaks.extend(
                processor
                    .queued()
                    .into_iter()
                    .map(|dpc| Leak::new("DPC queued", format!("{dpc:#x} on CPU {number}"))),
            );
        }
        let mut threads = lock(&self.driver_threads);
        threads
            .retain(|(object, thread)| !thread.is_finished() && !self.objects.has_ended(*object));
        let running = threads.len();
        drop(threads);
        if running > 0 {
            leaks.push(Leak::new("thread", format!("{running} system threads still run")));
        }
        for check in lock(&self.unload_checks).iter() {
            check(self, &mut leaks);
        }
        leaks
    }
}
