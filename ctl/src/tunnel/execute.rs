//! Does a plan, step by step, on a [`System`]; takes it back from the last step to the first, or from the one that failed.
//!
//! What was there before, and the same, is left alone both ways: so a tunnel may be brought up that is up, and what fails in the middle
//! of that leaves it as it was. What vanishes with an adapter is taken back only if the adapter stays, because it was there before.

use std::fmt::{self, Display, Formatter};
use std::io;

use abi::ioctl::Set;

use super::system::{Before, Dns, Interface, System};
use super::{OVERHEAD, Plan, Step};
use crate::change::{Change, Unresolved};
use crate::config::{Config, Prefix};
use crate::words::said;

/// The least MTU that is made of that of another interface. [RFC 791]
const MTU_MIN: u16 = 576;

/// A tunnel that is up, and what takes it down.
#[must_use = "nothing else knows what takes the tunnel down"]
pub struct Running {
    done: Vec<Done>,
    /// Whether the adapter was made here, and takes what it has with it.
    made: bool,
}

/// Something that was done, as what takes it back.
enum Done {
    Commands(Vec<String>),
    Adapter,
    Configuration(Box<Config>),
    KillSwitch,
    Interface(Interface),
    Up,
    Address(Prefix),
    Route(Prefix),
    Dns(Dns),
}

/// Something that could not be done, or not be taken back.
#[derive(Debug)]
pub struct Undone {
    /// What it was.
    pub what: String,
    /// What the system says.
    pub why: io::Error,
}

/// Why a tunnel did not come up.
#[derive(Debug)]
pub struct Failure {
    /// The step.
    pub step: Undone,
    /// What was done before it and could not be taken back, in the order in which that was tried.
    pub left: Vec<Undone>,
}

/// Does what a plan says with a tunnel's file, which the plan was made of.
///
/// # Errors
///
/// The first step that failed. What was done before is taken back.
pub fn up<S: System>(plan: &Plan, config: Config, system: &mut S) -> Result<Running, Failure> {
    let mut running = Running { done: Vec::new(), made: false };
    let mut config = Some(config);
    for step in &plan.steps {
        if let Err(why) = running.take(step, plan, &mut config, system) {
            let what = step.to_string();
            let left = running.down(system).err().unwrap_or_default();
            return Err(Failure { step: Undone { what, why }, left });
        }
    }
    Ok(running)
}

/// The MTU of a tunnel: what its file gives, or what fits through the interface that the default route leaves by.
///
/// # Errors
///
/// What the system says, or that the adapter does not take what the file gives.
pub fn mtu<S: System>(given: Option<u16>, system: &mut S) -> io::Result<u16> {
    let largest = system.largest_mtu()?;
    match given {
        Some(mtu) if mtu > largest => Err(io::Error::other(format!(
            "the adapter takes {largest} at most; the policy value Mtu raises that, for adapters that are made from then on"
        ))),
        Some(mtu) => Ok(mtu),
        None => {
            let around = system.default_mtu()?.map(|mtu| mtu.saturating_sub(OVERHEAD).max(MTU_MIN));
            Ok(around.unwrap_or(largest).min(largest))
        }
    }
}

impl Running {
    /// A tunnel that another process brought up by this plan, on an adapter that is there and stays: all that the plan does is taken back,
    /// and nothing that was before is known.
    pub fn of(plan: &Plan) -> Self {
        let mut done = Vec::new();
        for step in &plan.steps {
            done.extend(match step {
                Step::Outermost { down, .. } | Step::Innermost { down, .. } => {
                    Some(Done::Commands(named(down, &plan.name)))
                }
                Step::Adapter(_) | Step::Interface { .. } => None,
                Step::Configure { .. } => Some(Done::Configuration(Box::default())),
                Step::KillSwitch(_) => Some(Done::KillSwitch),
                Step::Up => Some(Done::Up),
                Step::Address(address) => Some(Done::Address(*address)),
                Step::Route(route) => Some(Done::Route(*route)),
                Step::Dns { .. } => Some(Done::Dns(Dns::default())),
            });
        }
        Self { done, made: false }
    }

    /// Takes everything back, the last first. What cannot be does not keep the rest from it.
    ///
    /// # Errors
    ///
    /// All that could not be taken back, in this order.
    pub fn down<S: System>(self, system: &mut S) -> Result<(), Vec<Undone>> {
        self.take_back(system, |_| true)
    }

    /// The same where the machine goes down, but the filters stay, until the end of this process: others that have not stopped yet send nothing
    /// beside the tunnel that is no more.
    ///
    /// # Errors
    ///
    /// As above.
    pub fn down_with_the_machine<S: System>(self, system: &mut S) -> Result<(), Vec<Undone>> {
        self.take_back(system, |done| !matches!(done, Done::KillSwitch))
    }

    fn take_back<S: System>(
        self,
        system: &mut S,
        goes: impl Fn(&Done) -> bool,
    ) -> Result<(), Vec<Undone>> {
        let mut left = Vec::new();
        for done in self.done.into_iter().rev().filter(goes) {
            let what = done.to_string();
            left.extend(done.take_back(system).err().map(|why| Undone { what, why }));
        }
        if left.is_empty() { Ok(()) } else { Err(left) }
    }

    /// Does one step.
    fn take<S: System>(
        &mut self,
        step: &Step,
        plan: &Plan,
        config: &mut Option<Config>,
        system: &mut S,
    ) -> io::Result<()> {
        match step {
            Step::Outermost { up, down } | Step::Innermost { up, down } => {
                named(up, &plan.name).iter().try_for_each(|command| system.run(command))?;
                self.done.push(Done::Commands(named(down, &plan.name)));
            }
            Step::Adapter(guid) => {
                self.made = system.open_adapter(&plan.name, *guid)? == Before::Absent;
                self.done.extend(self.made.then_some(Done::Adapter));
            }
            Step::Configure { .. } => {
                let before = configure(config.take().unwrap_or_default(), system)?;
                self.until_it_goes(Done::Configuration(Box::new(before)));
            }
            Step::KillSwitch(filters) => {
                system.filter(filters)?;
                self.done.push(Done::KillSwitch);
            }
            Step::Interface { mtu, first } => {
                let (mtu, before) = (self::mtu(*mtu, system)?, system.interface()?);
                // One family may have been set when the other fails.
                self.until_it_goes(Done::Interface(before));
                system.set_interface(Interface { mtu, first: *first })?;
            }
            Step::Up => {
                let before = system.bring_up()?;
                self.done.extend((before == Before::Absent).then_some(Done::Up));
            }
            Step::Address(address) => {
                if system.add_address(*address)? == Before::Absent {
                    self.until_it_goes(Done::Address(*address));
                }
            }
            Step::Route(route) => {
                let before = system.add_route(*route)?;
                self.done.extend((before == Before::Absent).then_some(Done::Route(*route)));
            }
            Step::Dns { servers, search } => {
                let before = system.dns()?;
                system.set_dns(&Dns { servers: servers.clone(), search: search.clone() })?;
                self.until_it_goes(Done::Dns(before));
            }
        }
        Ok(())
    }

    /// Remembers what an adapter that was made here takes with it.
    fn until_it_goes(&mut self, done: Done) {
        if !self.made {
            self.done.push(done);
        }
    }
}

impl Done {
    fn take_back<S: System>(self, system: &mut S) -> io::Result<()> {
        match self {
            Self::Commands(commands) => {
                // As with steps: one that fails does not keep the others from it.
                let mut ran = Ok(());
                for command in &commands {
                    ran = ran.and(system.run(command));
                }
                ran
            }
            Self::Adapter => system.remove_adapter(),
            Self::Configuration(before) => configure(*before, system).map(drop),
            Self::KillSwitch => system.unfilter(),
            Self::Interface(before) => system.set_interface(before),
            Self::Up => system.bring_down(),
            Self::Address(address) => system.remove_address(address),
            Self::Route(route) => system.remove_route(route),
            Self::Dns(before) => system.set_dns(&before),
        }
    }
}

/// Makes the driver's configuration this, without a disturbance of peers that stay; gives back what it was.
fn configure<S: System>(config: Config, system: &mut S) -> io::Result<Config> {
    let running = system.configuration()?;
    let running = Set::parse(&running).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut change = Change::syncing(config, &running);
    let found = change.resolve_by(|host, port| system.resolve(host, port).map(first));
    found.map_err(|Unresolved { endpoint, error }| {
        io::Error::other(format!("{}: `{endpoint}'", said(&error)))
    })?;
    system.configure(change.encode())?;
    Ok(Config::from(&running))
}

fn first<T>(all: Vec<T>) -> Option<T> {
    all.into_iter().next()
}

/// Commands with the tunnel's name where they have `%i`.
fn named(commands: &[String], name: &str) -> Vec<String> {
    commands.iter().map(|command| command.replace("%i", name)).collect()
}

impl Display for Done {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Commands(commands) => write!(f, "run {}", commands.join(", then ")),
            Self::Adapter => f.write_str("remove the adapter"),
            Self::Configuration(_) => f.write_str("set keys, port and peers back"),
            Self::KillSwitch => f.write_str("remove the filters"),
            Self::Interface(before) => write!(f, "MTU {} again", before.mtu),
            Self::Up => f.write_str("the driver closes its sockets"),
            Self::Address(address) => write!(f, "remove address {address}"),
            Self::Route(route) => write!(f, "remove route {route}"),
            Self::Dns(_) => f.write_str("set DNS back"),
        }
    }
}

impl Display for Undone {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, said(&self.why))
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.step)?;
        self.left.iter().try_for_each(|left| write!(f, "\nnot taken back: {left}"))
    }
}

impl std::error::Error for Undone {}
impl std::error::Error for Failure {}
