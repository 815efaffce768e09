//! A plan as a person reads it; it tells no key but by what was made of it.

use std::fmt::{self, Display, Formatter};

use super::{OVERHEAD, Plan, Step};

impl Display for Plan {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "up {}:", self.name)?;
        for (number, step) in (1..).zip(&self.steps) {
            writeln!(f, "{number:3}. {step}")?;
            if let Step::KillSwitch(filters) = step {
                filters.iter().try_for_each(|filter| writeln!(f, "       {filter}"))?;
            }
        }
        writeln!(f, "down {}:", self.name)?;
        let undone = self.steps.iter().rev().filter(|step| step.is_undone());
        for (number, step) in (1..).zip(undone) {
            writeln!(f, "{number:3}. {}", fmt::from_fn(|f| step.write_undone(f)))?;
        }
        Ok(())
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outermost { up, .. } | Self::Innermost { up, .. } => run(f, up),
            Self::Adapter(guid) => write!(f, "make the adapter {guid}, or open it if it is there"),
            Self::Configure { peers, lookups } => {
                if !lookups.is_empty() {
                    write!(f, "look up {}; ", lookups.join(", "))?;
                }
                write!(f, "set keys, port and {peers} peer{}", if *peers == 1 { "" } else { "s" })
            }
            Self::KillSwitch(_) => f.write_str("filter what would leave beside the tunnel"),
            Self::Interface { mtu, first } => {
                match mtu {
                    Some(mtu) => write!(f, "MTU {mtu}")?,
                    None => write!(f, "MTU {OVERHEAD} less than that of the default route")?,
                }
                f.write_str(if *first { ", metric 0" } else { "" })
            }
            Self::Up => f.write_str("the driver opens its sockets"),
            Self::Address(prefix) => write!(f, "address {prefix}"),
            Self::Route(prefix) => write!(f, "route {prefix}"),
            Self::Dns { servers, search } => {
                f.write_str("DNS")?;
                servers.iter().try_for_each(|server| write!(f, " {server}"))?;
                if search.is_empty() { Ok(()) } else { write!(f, ", search {}", search.join(" ")) }
            }
        }
    }
}

impl Step {
    /// Whether there is something to take back.
    fn is_undone(&self) -> bool {
        match self {
            Self::Outermost { down, .. } | Self::Innermost { down, .. } => !down.is_empty(),
            Self::Adapter(_) | Self::KillSwitch(_) | Self::Up | Self::Route(_) => true,
            Self::Configure { .. }
            | Self::Interface { .. }
            | Self::Address(_)
            | Self::Dns { .. } => false,
        }
    }

    fn write_undone(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outermost { down, .. } | Self::Innermost { down, .. } => run(f, down),
            Self::Adapter(guid) => {
                write!(f, "remove the adapter {guid}, and with it keys, addresses and DNS")
            }
            Self::KillSwitch(_) => f.write_str("remove the filters"),
            Self::Up => f.write_str("the driver closes its sockets"),
            Self::Route(prefix) => write!(f, "remove route {prefix}"),
            Self::Configure { .. }
            | Self::Interface { .. }
            | Self::Address(_)
            | Self::Dns { .. } => Ok(()),
        }
    }
}

fn run(f: &mut Formatter<'_>, commands: &[String]) -> fmt::Result {
    if commands.is_empty() {
        return f.write_str("run nothing");
    }
    write!(f, "run {}", commands.join(", then "))
}
