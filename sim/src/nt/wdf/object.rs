//! Framework objects: handles, contexts, parents, references, and the order in which they die.
//!
//! A handle is a number in the kernel's half of the address space: a driver that dereferences one
//! faults. Numbers are never used again, so a call with the handle of a freed object is recognised
//! for the whole life of the machine, where Windows would read freed memory.
//!
//! Deleting has two phases. *Dispose* goes depth first: children before parents, each one's
//! framework part, then its `EvtCleanup`s in the order the contexts were attached. *Destroy* drops
//! the creation references from the bottom up; whoever drops an object's last reference runs its
//! `EvtDestroy`s. References delay only the second phase.
//!
//! The tree needs little of its machine, and asks for that through [`Host`]; its tests run without
//! one. No lock is held over a callback.
//!
//! Source: `facts/kmdf.md` §2, §3 (`object/fxobject.cpp`, `fxobjectstatemachine.cpp`, read in
//! Microsoft's source).

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use rustc_hash::FxHashMap;

use super::attributes::ContextType;
use crate::verifier::schedule::lock;

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `WDFDRIVER`.
    Driver,
    /// `WDFDEVICE`.
    Device,
    /// `WDFQUEUE`.
    Queue,
    /// `WDFREQUEST`.
    Request,
    /// `WDFFILEOBJECT`.
    FileObject,
    /// `WDFKEY`.
    Key,
    /// `NETADAPTER`.
    Adapter,
    /// `NETPACKETQUEUE`, transmit.
    TxQueue,
    /// `NETPACKETQUEUE`, receive.
    RxQueue,
}

impl Kind {
    /// The handle's type in Windows' headers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Driver => "WDFDRIVER",
            Self::Device => "WDFDEVICE",
            Self::Queue => "WDFQUEUE",
            Self::Request => "WDFREQUEST",
            Self::FileObject => "WDFFILEOBJECT",
            Self::Key => "WDFKEY",
            Self::Adapter => "NETADAPTER",
            Self::TxQueue => "NETPACKETQUEUE (transmit)",
            Self::RxQueue => "NETPACKETQUEUE (receive)",
        }
    }
}

/// What the tree needs of the machine it lives on.
pub trait Host {
    /// Makes `size` zeroed bytes the driver may use.
    fn allocate(&self, size: usize) -> u64;
    /// Takes them back; a later access is a stop.
    fn release(&self, address: u64);
    /// Calls a driver callback that takes a handle and returns nothing.
    fn callback(&self, name: &'static str, address: u64, handle: u64);
}

/// How far an object's death has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Life {
    /// Usable.
    Created,
    /// `EvtCleanup`s are due, running or done; handles are still valid inside them.
    Disposing,
    /// Only references, dereferences and context look-ups are left.
    Deleted,
}

struct Context {
    of: ContextType,
    memory: u64,
}

struct Inner {
    life: Life,
    deleting: bool,
    references: usize,
    by_driver: usize,
    parent: Weak<Object>,
    children: Vec<Arc<Object>>,
    contexts: Vec<Context>,
    on_dispose: Option<Box<dyn FnOnce() + Send>>,
}

/// One framework object.
pub struct Object {
    handle: u64,
    kind: Kind,
    /// Until it is destroyed: the body knows the object, too.
    body: Mutex<Option<Arc<dyn Any + Send + Sync>>>,
    inner: Mutex<Inner>,
}

impl Object {
    /// The driver's name for it.
    #[must_use]
    pub fn handle(&self) -> u64 {
        self.handle
    }

    /// What it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How far its death has come.
    #[must_use]
    pub fn life(&self) -> Life {
        self.inner().life
    }

    /// Attaches the simulator's own part; right after creation.
    ///
    /// # Panics
    ///
    /// If it is done twice.
    pub fn set_body(&self, body: Arc<dyn Any + Send + Sync>) {
        let before = lock(&self.body).replace(body);
        assert!(before.is_none(), "an object has one body");
    }

    /// The simulator's own part, if it is a `T`.
    #[must_use]
    pub fn body<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        let body = lock(&self.body).clone();
        body?.downcast().ok()
    }

    /// Sets what the framework does when the object is disposed of, before its `EvtCleanup`s.
    pub fn on_dispose(&self, action: impl FnOnce() + Send + 'static) {
        self.inner().on_dispose = Some(Box::new(action));
    }

    /// The context of the type at `unique`, or `None`.
    #[must_use]
    pub fn context(&self, unique: u64) -> Option<u64> {
        let inner = self.inner();
        inner.contexts.iter().find(|context| context.of.unique == unique).map(|found| found.memory)
    }

    /// Attaches a context, unless one of its type is there.
    ///
    /// # Errors
    ///
    /// [`AddContext`] says what stands in the way.
    pub fn add_context(&self, host: &dyn Host, of: ContextType) -> Result<u64, AddContext> {
        if self.life() != Life::Created {
            return Err(AddContext::DeletePending);
        }
        if let Some(memory) = self.context(of.unique).filter(|_| of.unique != 0) {
            return Err(AddContext::Exists(memory));
        }
        let memory = if of.size == 0 { 0 } else { host.allocate(of.size) };
        self.inner().contexts.push(Context { of, memory });
        Ok(memory)
    }

    /// Takes a reference for the driver.
    pub fn reference(&self) {
        let mut inner = self.inner();
        inner.references += 1;
        inner.by_driver += 1;
    }

    /// References the driver holds.
    #[must_use]
    pub fn references_of_driver(&self) -> usize {
        self.inner().by_driver
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why a context was not attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddContext {
    /// One of the same type is there, at this address.
    Exists(u64),
    /// The object is being deleted.
    DeletePending,
}

/// What a handle turned out to be.
pub enum Found {
    /// A live object.
    Live(Arc<Object>),
    /// It was one of these, and has been freed.
    Freed(Kind),
    /// It never was a handle.
    Never,
}

/// All objects of one machine.
#[derive(Default)]
pub struct Objects {
    table: RwLock<Table>,
}

#[derive(Default)]
struct Table {
    entries: FxHashMap<u64, Entry>,
    made: u64,
}

enum Entry {
    Live(Arc<Object>),
    Freed(Kind),
}

const FIRST_HANDLE: u64 = 0xFFFF_8A80_0000_0000;

impl Objects {
    /// Makes an object under `parent`, with its first context.
    pub fn create(
        &self,
        host: &dyn Host,
        kind: Kind,
        context: ContextType,
        parent: Option<&Arc<Object>>,
    ) -> Arc<Object> {
        let object = {
            let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
            table.made += 1;
            let object = Arc::new(Object {
                handle: FIRST_HANDLE + table.made * 0x10,
                kind,
                body: Mutex::new(None),
                inner: Mutex::new(Inner {
                    life: Life::Created,
                    deleting: false,
                    references: 1,
                    by_driver: 0,
                    parent: parent.map_or_else(Weak::new, Arc::downgrade),
                    children: Vec::new(),
                    contexts: Vec::new(),
                    on_dispose: None,
                }),
            });
            table.entries.insert(object.handle, Entry::Live(Arc::clone(&object)));
            object
        };
        if context != ContextType::default() {
            let added = object.add_context(host, context);
            debug_assert!(added.is_ok(), "a new object has no context");
        }
        if let Some(parent) = parent {
            parent.inner().children.push(Arc::clone(&object));
        }
        object
    }

    /// Looks a handle up.
    #[must_use]
    pub fn find(&self, handle: u64) -> Found {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        match table.entries.get(&handle) {
            Some(Entry::Live(object)) => Found::Live(Arc::clone(object)),
            Some(Entry::Freed(kind)) => Found::Freed(*kind),
            None => Found::Never,
        }
    }

    /// Deletes an object with all below it; `false` if somebody has begun to already.
    pub fn delete(&self, host: &dyn Host, object: &Arc<Object>) -> bool {
        if std::mem::replace(&mut object.inner().deleting, true) {
            return false;
        }
        Self::dispose(host, object);
        self.remove(host, object);
        true
    }

    /// Takes a disposed object from its parent and runs the second phase of its deletion.
    pub fn remove(&self, host: &dyn Host, object: &Arc<Object>) {
        let parent = object.inner().parent.upgrade();
        if let Some(parent) = parent {
            parent.inner().children.retain(|child| child.handle != object.handle);
        }
        self.destroy(host, object);
    }

    /// Runs the first phase of deletion alone: what happens to a request's children and contexts
    /// before its IRP is completed.
    pub fn dispose(host: &dyn Host, object: &Arc<Object>) {
        let (children, action) = {
            let mut inner = object.inner();
            if inner.life != Life::Created {
                return;
            }
            inner.life = Life::Disposing;
            inner.deleting = true;
            (inner.children.clone(), inner.on_dispose.take())
        };
        for child in &children {
            Self::dispose(host, child);
        }
        if let Some(action) = action {
            action();
        }
        for callback in Self::callbacks(object, |context| context.cleanup) {
            host.callback("EvtObjectCleanup", callback, object.handle);
        }
    }

    /// Runs the second phase: drops the creation references of an object and all below it.
    pub fn destroy(&self, host: &dyn Host, object: &Arc<Object>) {
        let children = {
            let mut inner = object.inner();
            inner.life = Life::Deleted;
            std::mem::take(&mut inner.children)
        };
        for child in &children {
            self.destroy(host, child);
        }
        self.release(host, object);
    }

    /// Gives back a reference the driver took; `false` if it holds none.
    pub fn dereference(&self, host: &dyn Host, object: &Arc<Object>) -> bool {
        {
            let mut inner = object.inner();
            if inner.by_driver == 0 {
                return false;
            }
            inner.by_driver -= 1;
        }
        self.release(host, object);
        true
    }

    /// What is still alive, by kind and with the driver's references: the audit at unload.
    #[must_use]
    pub fn alive(&self) -> Vec<(Kind, u64, usize)> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let mut alive: Vec<_> = table
            .entries
            .values()
            .filter_map(|entry| match entry {
                Entry::Live(object) => {
                    Some((object.kind, object.handle, object.references_of_driver()))
                }
                Entry::Freed(_) => None,
            })
            .collect();
        alive.sort_by_key(|(_, handle, _)| *handle);
        alive
    }

    fn release(&self, host: &dyn Host, object: &Arc<Object>) {
        {
            let mut inner = object.inner();
            inner.references -= 1;
            if inner.references > 0 {
                return;
            }
        }
        for callback in Self::callbacks(object, |context| context.destroy) {
            host.callback("EvtObjectDestroy", callback, object.handle);
        }
        let contexts = std::mem::take(&mut object.inner().contexts);
        for context in contexts.iter().filter(|context| context.memory != 0) {
            host.release(context.memory);
        }
        let mut table = self.table.write().unwrap_or_else(PoisonError::into_inner);
        table.entries.insert(object.handle, Entry::Freed(object.kind));
        drop(table);
        let body = lock(&object.body).take();
        drop(body);
    }

    fn callbacks(object: &Object, which: impl Fn(&ContextType) -> u64) -> Vec<u64> {
        let inner = object.inner();
        inner.contexts.iter().map(|context| which(&context.of)).filter(|at| *at != 0).collect()
    }
}

#[cfg(test)]
mod tests;
