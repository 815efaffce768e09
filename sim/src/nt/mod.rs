//! NT as the driver sees it: one file per family of functions, one table row per function.
//!
//! A row says which dll exports the function, at which IRQL it may be called, whether fault injection may fail it, whether it
//! is a scheduling point, where its behaviour was read, and how sure we are. [`imports!`] makes the row and the win64
//! entry from one declaration; the framework tables (KMDF, NetAdapterCx) are declared the same way, under a group name
//! instead of a dll. Behaviours that are no function (an order, a choice Windows makes) are rows of [`behaviours!`].
//! [`guesses`] counts the rows nobody can vouch for; the command line prints that number.

use std::sync::{Mutex, OnceLock};

use rustc_hash::FxHashMap;

use crate::loader::gate::Stubs;
use crate::nt::machine::Thread;
use crate::verifier::explore::Place;
use crate::verifier::rules;
use crate::verifier::schedule::lock;

pub mod call;
pub mod cng;
pub mod crash;
pub mod dbg;
pub mod dpc;
pub mod etl;
pub mod etw;
pub mod ex;
pub mod fwp;
pub mod io;
pub mod ke;
pub mod lock_order;
pub mod machine;
pub mod memory;
pub mod mm;
pub(crate) mod ndis;
pub mod netcx;
pub mod netio;
pub mod ob;
pub mod pnp;
pub mod pool;
pub mod processor;
pub mod ps;
pub mod registry;
pub mod rtl;
pub mod se;
pub mod stack;
pub mod status;
pub mod thread;
pub mod timer;
pub mod topology;
pub mod wdf;
pub mod wsk;
pub mod xstate;
pub mod zw;

/// Where a behaviour of the simulator was learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// Microsoft's documentation says so.
    Documented,
    /// Microsoft's published source does so.
    ReadInSource,
    /// It follows from what is known; a guess.
    Inferred,
    /// Nobody knows; the simulator does it both ways.
    Unknown,
}

impl Mark {
    /// Whether it counts as a guess.
    pub fn is_guess(self) -> bool {
        matches!(self, Self::Inferred | Self::Unknown)
    }
}

/// One function the driver can call.
pub struct Import {
    /// Its name.
    pub name: &'static str,
    /// The dll that exports it, or the name of its framework table.
    pub dll: &'static str,
    /// The highest IRQL it may be called at.
    pub max: u8,
    /// The lowest IRQL it may be called at.
    pub min: u8,
    /// How sure we are of what it does.
    pub mark: Mark,
    /// Where that was read.
    pub source: &'static str,
    /// Whether fault injection may fail it.
    pub may_fail: bool,
    /// Whether another thread may run here in Virtual mode.
    pub point: bool,
    #[doc(hidden)]
    pub entry: Entry,
}

/// The win64 function behind an import.
#[doc(hidden)]
#[derive(Clone, Copy)]
pub struct Entry(pub *const ());

// SAFETY: the address of a function; it is never dereferenced as data.
unsafe impl Sync for Entry {}
// SAFETY: as above.
unsafe impl Send for Entry {}

/// A behaviour that is not a function.
pub struct Behaviour {
    /// Its name, which [`machine::Options::choices`] refers to.
    pub name: &'static str,
    /// How sure we are.
    pub mark: Mark,
    /// Where it was read.
    pub source: &'static str,
}

/// What an import returns to a driver whose machine has stopped: nobody looks at it.
pub trait Answer {
    /// Nothing.
    const NOTHING: Self;
}

macro_rules! answers {
    ($($type:ty)*) => { $( impl Answer for $type { const NOTHING: Self = 0; } )* };
}
answers!(u8 u16 u32 u64 usize i8 i16 i32 i64);
impl Answer for () {
    const NOTHING: Self = ();
}
impl<T> Answer for *mut T {
    const NOTHING: Self = std::ptr::null_mut();
}
impl<T> Answer for *const T {
    const NOTHING: Self = std::ptr::null();
}

/// Declares functions that the driver can call; see the module and `ke.rs` for the form.
macro_rules! imports {
    (
        $vis:vis static $table:ident: $dll:literal;
        $(
            $(#[$doc:meta])*
            [max: $max:ident, $(min: $min:ident,)? mark: $mark:ident, source: $source:literal
                $(, fail: $fail:expr)? $(, point: $point:literal)? $(,)?]
            fn $name:ident($thread:ident $(, $argument:ident: $type:ty)* $(,)?) $(-> $answer:ty)? $body:block
        )*
    ) => {
        $(
            $(#[$doc])*
            #[allow(non_snake_case, clippy::too_many_arguments, unused_variables, unreachable_code)]
            extern "win64" fn $name($($argument: $type),*) $(-> $answer)? {
                let entered = $crate::nt::machine::Thread::at_import();
                let Some($thread) = $crate::nt::enter(entered) else { return $crate::nt::Answer::NOTHING };
                $(
                    if $thread.machine().faults().strikes(stringify!($name)) {
                        return $fail;
                    }
                )?
                $body
            }
        )*
        /// The functions of this file.
        $vis static $table: &[$crate::nt::Import] = &[
            $(
                $crate::nt::Import {
                    name: stringify!($name),
                    dll: $dll,
                    max: $crate::nt::level::$max,
                    min: $crate::nt::imports!(@min $($min)?),
                    mark: $crate::nt::Mark::$mark,
                    source: $source,
                    may_fail: $crate::nt::imports!(@has $({ let _ = stringify!($fail); })?),
                    point: $crate::nt::imports!(@has $({ let _ = $point; })?),
                    entry: $crate::nt::Entry($name as *const ()),
                },
            )*
        ];
    };
    (@min) => { $crate::nt::level::PASSIVE };
    (@min $min:ident) => { $crate::nt::level::$min };
    (@has) => { false };
    (@has $there:block) => { true };
}
pub(crate) use imports;

/// Declares behaviours that are no functions.
macro_rules! behaviours {
    (
        $vis:vis static $table:ident;
        $( $(#[$doc:meta])* [mark: $mark:ident, source: $source:literal] $name:ident; )*
    ) => {
        $(
            $(#[$doc])*
            $vis static $name: $crate::nt::Behaviour = $crate::nt::Behaviour {
                name: stringify!($name),
                mark: $crate::nt::Mark::$mark,
                source: $source,
            };
        )*
        /// The behaviours of this file.
        $vis static $table: &[&$crate::nt::Behaviour] = &[$(&$name),*];
    };
}
pub(crate) use behaviours;

/// The interrupt request levels that occur here.
pub mod level {
    /// `PASSIVE_LEVEL`.
    pub const PASSIVE: u8 = 0;
    /// `APC_LEVEL`.
    pub const APC: u8 = 1;
    /// `DISPATCH_LEVEL`.
    pub const DISPATCH: u8 = 2;
    /// `HIGH_LEVEL`: any level.
    pub const HIGH: u8 = 15;
}

/// The rows of one file: its functions and its behaviours.
type Table = (&'static [Import], &'static [&'static Behaviour]);

/// Every table. A file that declares imports adds its line here.
static TABLES: &[Table] = &[
    (cng::IMPORTS, &[]),
    (crash::IMPORTS, crash::BEHAVIOURS),
    (dbg::IMPORTS, &[]),
    (dpc::IMPORTS, dpc::BEHAVIOURS),
    (etw::IMPORTS, etw::BEHAVIOURS),
    (ex::IMPORTS, &[]),
    (io::IMPORTS, &[]),
    (ke::IMPORTS, ke::BEHAVIOURS),
    (mm::IMPORTS, &[]),
    (ob::IMPORTS, &[]),
    (pool::IMPORTS, &[]),
    (ps::IMPORTS, &[]),
    (rtl::IMPORTS, &[]),
    (se::IMPORTS, &[]),
    (timer::IMPORTS, timer::BEHAVIOURS),
    (topology::IMPORTS, &[]),
    (xstate::IMPORTS, xstate::BEHAVIOURS),
    (fwp::bfe::IMPORTS, fwp::BEHAVIOURS),
    (fwp::callouts::IMPORTS, &[]),
    (fwp::engine::IMPORTS, &[]),
    (fwp::inject::IMPORTS, &[]),
    (fwp::received::IMPORTS, &[]),
    (ndis::IMPORTS, ndis::BEHAVIOURS),
    (ndis::buffers::IMPORTS, &[]),
    (netio::IMPORTS, netio::BEHAVIOURS),
    (wsk::IMPORTS, wsk::BEHAVIOURS),
    (wsk::PROVIDER_IMPORTS, &[]),
    (wsk::DATAGRAM_IMPORTS, &[]),
    (zw::IMPORTS, &[]),
    (wdf::binding::IMPORTS, wdf::BEHAVIOURS),
    (wdf::object_functions::IMPORTS, &[]),
    (wdf::driver::IMPORTS, &[]),
    (wdf::registry::IMPORTS, &[]),
    (wdf::device::IMPORTS, &[]),
    (wdf::control_device::IMPORTS, &[]),
    (wdf::file::IMPORTS, &[]),
    (wdf::queue::IMPORTS, &[]),
    (wdf::request::IMPORTS, &[]),
    (netcx::adapter_functions::IMPORTS, netcx::BEHAVIOURS),
    (netcx::queue::IMPORTS, &[]),
];

/// What one number of the gate's table stands for.
#[derive(Clone, Copy)]
enum Slot {
    Import(&'static Import),
    Missing(&'static str),
}

struct Registry {
    stubs: Stubs,
    slots: Vec<Slot>,
    imports: FxHashMap<(&'static str, &'static str), usize>,
    missing: Mutex<FxHashMap<&'static str, usize>>,
}

/// Names of framework functions that nobody provides: they may be as many as two framework tables have slots.
const MISSING_ROOM: usize = 1024;

fn registry() -> &'static Registry {
    static REGISTRY: OnceLock<Registry> = OnceLock::new();
    REGISTRY.get_or_init(|| {
        let stubs = match Stubs::new() {
            Ok(stubs) => stubs,
            Err(error) => panic!("no memory for the import stubs: {error}"),
        };
        let slots: Vec<Slot> =
            TABLES.iter().flat_map(|(imports, _)| *imports).map(Slot::Import).collect();
        assert!(
            slots.len() + MISSING_ROOM <= crate::loader::gate::CAPACITY,
            "more imports than the gate has stubs"
        );
        let mut imports = FxHashMap::default();
        for (number, (row, slot)) in
            TABLES.iter().flat_map(|(imports, _)| *imports).zip(&slots).enumerate()
        {
            debug_assert!(matches!(slot, Slot::Import(_)));
            stubs.bind(number, row.entry.0.addr());
            let before = imports.insert((row.dll, row.name), number);
            assert!(before.is_none(), "{}!{} is declared twice", row.dll, row.name);
        }
        Registry { stubs, slots, imports, missing: Mutex::default() }
    })
}

/// Address of the simulator's table for the gate.
pub(crate) fn gate_table() -> *const usize {
    registry().stubs.table()
}

/// The address that the driver calls to reach a function; `None` if it is not provided.
pub fn address(dll: &str, name: &str) -> Option<usize> {
    if dll == "ntoskrnl.exe"
        && let Some(address) = crate::loader::raw::address(name)
    {
        return Some(address);
    }
    let registry = registry();
    // The key's lifetime is that of the rows; any shorter one will do for looking up.
    let number = *registry.imports.get(&(dll, name) as &(&str, &str))?;
    let Slot::Import(row) = registry.slots[number] else { return None };
    Some(registry.stubs.bind(number, row.entry.0.addr()))
}

/// An address that stops the machine by name when the driver calls it: for slots of a framework's table.
///
/// # Panics
///
/// If there are more than 1,024 different names, which is twice what the frameworks have.
pub fn missing(name: &str) -> usize {
    let registry = registry();
    let mut names = lock(&registry.missing);
    let next = registry.slots.len() + names.len();
    let number = match names.get(name) {
        Some(&number) => number,
        None => {
            assert!(names.len() < MISSING_ROOM, "too many missing functions");
            names.insert(Box::leak(name.to_owned().into_boxed_str()), next);
            next
        }
    };
    registry.stubs.bind(number, not_provided as *const () as usize)
}

/// The function that the driver reaches at `address`, which [`address`] or [`missing`] gave.
#[must_use]
pub fn name_at(address: usize) -> Option<&'static str> {
    let stub = || registry().stubs.number_at(address).map(|number| name_of(number as u64));
    crate::loader::raw::name_at(address).or_else(stub)
}

/// The name behind a number of the gate's table.
pub(crate) fn name_of(number: u64) -> &'static str {
    match slot(number) {
        Some(Slot::Import(row)) => row.name,
        Some(Slot::Missing(name)) => name,
        None => "?",
    }
}

fn slot(number: u64) -> Option<Slot> {
    let registry = registry();
    if let Some(slot) = registry.slots.get(number as usize) {
        return Some(*slot);
    }
    let names = lock(&registry.missing);
    names.iter().find(|(_, at)| **at as u64 == number).map(|(name, _)| Slot::Missing(name))
}

extern "win64" fn not_provided() {
    let thread = Thread::at_import();
    let name = name_of(thread.import_number());
    thread.stop(&rules::NOT_PROVIDED, format!("{name} is not provided by this simulator"));
}

/// What every import does first: the rules of its row. `None`: the machine has stopped, return anything.
pub(crate) fn enter(thread: &Thread) -> Option<&Thread> {
    let Some(Slot::Import(row)) = slot(thread.import_number()) else { return None };
    if thread.machine().is_dead() && !thread.speaks_last() {
        thread.abandon();
        return None;
    }
    let irql = thread.irql();
    if irql > row.max || irql < row.min {
        let (word, limit) =
            if irql > row.max { ("at most", row.max) } else { ("at least", row.min) };
        let detail = format!("{} wants IRQL {word} {limit}, called at IRQL {irql}", row.name);
        thread.bugcheck(&rules::IRQL_NOT_LESS_OR_EQUAL, [0, irql.into(), 0, 0], detail);
        return None;
    }
    if let Some(delay) = thread.machine().faults().delay_of(row.name) {
        thread.machine().take_time(delay);
    }
    if row.point && irql < level::DISPATCH {
        thread.machine().world().point();
    }
    if thread.speaks_last() {
        return Some(thread);
    }
    thread.reach(|| Place::Import(row.name, thread.caller()));
    if thread.machine().is_dead() {
        thread.abandon();
        return None;
    }
    Some(thread)
}

/// How much of the simulator is guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Guesses {
    /// Behaviours that are inferred or unknown.
    pub guessed: usize,
    /// All behaviours.
    pub total: usize,
}

impl std::fmt::Display for Guesses {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} behaviours are guesses", self.guessed, self.total)
    }
}

/// Counts the marks of all functions and behaviours.
pub fn guesses() -> Guesses {
    let functions = TABLES.iter().flat_map(|(imports, _)| *imports).map(|row| row.mark);
    let behaviours = TABLES.iter().flat_map(|(_, behaviours)| *behaviours).map(|row| row.mark);
    let marks: Vec<Mark> = functions.chain(behaviours).collect();
    Guesses { guessed: marks.iter().filter(|mark| mark.is_guess()).count(), total: marks.len() }
}

/// Every behaviour that is declared: what a simulated Windows does besides the contracts of its functions.
pub fn every_behaviour() -> impl Iterator<Item = &'static Behaviour> {
    TABLES.iter().flat_map(|(_, behaviours)| *behaviours).copied()
}

/// Every function row, for listings.
pub fn rows() -> impl Iterator<Item = &'static Import> {
    TABLES.iter().flat_map(|(imports, _)| *imports)
}
