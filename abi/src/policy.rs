//! Policy values: what an administrator may set, and within which bounds.
//!
//! One table for the driver, its tools and the templates of Group Policy. The driver reads its values
//! from its service's `Parameters` key, as `REG_DWORD`s of these names: when it is loaded, when an
//! adapter comes up, and when it is asked to ([`crate::ioctl::RELOAD_POLICY`]). Each applies to every
//! adapter from then on, under load too; one that could not would say so in its text. A value that is
//! missing is the default; one that is out of bounds or of another type is, too, and the adapter's log
//! says so. The service has a table of its own ([`ServicePolicy`]). No value may hold a secret: policies are world-readable.

use core::ops::RangeInclusive;

use crate::cpu_list::MOST_CHARACTERS;
use crate::table::table;

/// A number that an administrator may set, the driver's or the service's.
#[derive(Clone, Debug)]
pub struct Row {
    /// The registry value's.
    pub name: &'static str,
    /// What it is, for a person.
    pub description: &'static str,
    /// What is counted, or what each number stands for.
    pub unit: &'static str,
    /// The numbers that are accepted.
    pub range: RangeInclusive<u32>,
    /// What it is if nobody says anything.
    pub default: u32,
}

/// Every number that may be set, the driver's first.
pub fn rows() -> impl Iterator<Item = Row> {
    let driver = Policy::ALL.iter().map(|policy| policy.row());
    driver.chain(ServicePolicy::ALL.iter().map(|policy| policy.row()))
}

macro_rules! policies {
    (
        $(#[doc = $about:literal])+
        $table:ident {
            $($(#[doc = $doc:literal])+ $name:ident: $range:expr, $unit:literal, default $default:literal;)*
        }
    ) => {
        table! {
            $(#[doc = $about])+
            $table { $($(#[doc = $doc])+ $name,)* }
        }

        impl $table {
            /// What is counted, or what each number stands for.
            #[must_use]
            pub const fn unit(self) -> &'static str {
                match self { $(Self::$name => $unit,)* }
            }

            /// The numbers that are accepted.
            #[must_use]
            pub const fn range(self) -> RangeInclusive<u32> {
                match self { $(Self::$name => $range,)* }
            }

            /// What it is if nobody says anything.
            #[must_use]
            pub const fn default(self) -> u32 {
                match self { $(Self::$name => $default,)* }
            }

            /// All of it.
            #[must_use]
            pub const fn row(self) -> Row {
                Row {
                    name: self.name(),
                    description: self.description(),
                    unit: self.unit(),
                    range: self.range(),
                    default: self.default(),
                }
            }
        }
    };
}

policies! {
    /// A value of the driver's; its name is that of the registry value.
    Policy {
        /// By what datagrams are sent. What injection does not take goes by the sockets.
        SendEngine: 0..=2, "0 sockets, 1 injection of one list a run, 2 injection of a list a datagram", default 0;
        /// Whether callouts take transport data from the stack before it reaches the sockets.
        FastPath: 0..=1, "0 no, 1 yes", default 1;
        /// The most datagrams that callouts hold of one CPU; beyond it they go by the sockets.
        HeldPerCpu: 0..=65_536, "datagrams", default 512;
        /// The most datagrams that callouts hold of one remote address and port.
        HeldPerPeer: 0..=65_536, "datagrams", default 256;
        /// The first of the CPUs that seal and open packets, by index; one behind which there is none is 0.
        /// Applies from the next time the driver is loaded.
        ScalingBase: 0..=2_047, "index of a CPU", default 0;
        /// How many CPUs, from the first on, share what there is to seal and open; with 1 each CPU does what
        /// comes to it. Applies from the next time the driver is loaded.
        ScalingMax: 1..=64, "CPUs", default 8;
        /// The widest vector code that seals and opens packets, if the machine has it.
        SimdCap: 0..=4, "0 none, 1 SSE2, 2 AVX2, 3 AVX-512, 4 AVX-512 with IFMA", default 4;
        /// Whether the stack may give an adapter packets of up to 64 KiB, to be cut into segments as they are
        /// sealed. Applies to an adapter from when it is made.
        Segmentation: 0..=1, "0 no, 1 yes", default 1;
        /// Whether datagrams of one length are given to the sockets several as one, for the network stack or
        /// the network adapter to cut apart (USO).
        OuterSegmentation: 0..=1, "0 no, 1 yes", default 0;
        /// Whether the sockets may be given datagrams of one sender several as one (URO).
        OuterCoalescing: 0..=1, "0 no, 1 yes", default 0;
        /// The NUMA node whose CPUs seal and open packets; one that has none is any. Applies from the next time
        /// the driver is loaded.
        ScalingNode: 0..=65_535, "number of a node, 65535 any, as in `*NumaNodeId`", default 65_535;
        /// Which CPUs seal and open packets where some are faster than others (the efficiency class that Windows
        /// gives them). Applies from the next time the driver is loaded.
        ScalingClass: 0..=2, "0 the fastest before others, 1 the fastest only, 2 all alike", default 0;
        /// Whether the checksums of received packets are verified when they are opened, where Windows wants to
        /// be told of them; otherwise the stack does that.
        ReceiveChecksum: 0..=1, "0 no, 1 yes", default 1;
        /// How many receive queues an adapter may have, for the stack to spread flows over; the next power of
        /// two below. Applies to an adapter from when it is made.
        ReceiveQueues: 1..=16, "queues", default 1;
        /// The MTU of an adapter, the most that its IP interfaces may have. Applies to an adapter from when it is
        /// made.
        Mtu: 576..=1_968, "bytes", default 1_420;
        /// Whether the maximum segment size in a TCP SYN, on its way out or in, is lowered to what the way to the
        /// peer takes.
        MssClamp: 0..=1, "0 no, 1 yes", default 1;
        /// What the flight recorder keeps.
        RecorderLevel: 0..=2, "0 nothing, 1 what happens to adapters and handshakes, 2 also each discard", default 1;
        /// What the events that the flight recorder keeps are about.
        RecorderKeywords: 0..=31, "sum of 1 for the driver, 2 adapters, 4 handshakes, 8 discards, 16 times at DISPATCH_LEVEL", default 31;
        /// Whether a capture may have the packets inside the tunnel, too (`penstock trace packets --inner`).
        TraceInner: 0..=1, "0 no, 1 yes", default 0;
    }
}

policies! {
    /// A value of the service and the command line, which read it where Group Policy or an administrator set
    /// it, and never give it to the driver.
    ServicePolicy {
        /// Whether the commands of tunnels' files (PreUp, PostUp, PreDown, PostDown) are run, by the account
        /// that brings the tunnel up. A file with commands is refused otherwise.
        DangerousScriptExecution: 0..=1, "0 no, 1 yes", default 0;
        /// Whether Network Configuration Operators may ask a tunnel's named pipe how it does, without its private
        /// key and preshared keys. Applies to a tunnel from when it comes up.
        LimitedOperators: 0..=1, "0 no, 1 yes", default 0;
        /// When packets are kept from leaving beside a tunnel. Applies to a tunnel from when it comes up.
        KillSwitch: 0..=2, "0 never, 1 where a default route goes through the tunnel, 2 always", default 1;
        /// What the services tell in the event log.
        EventLogLevel: 0..=2, "0 errors, 1 also warnings, 2 also information", default 2;
    }
}

macro_rules! texts {
    (
        $(#[doc = $about:literal])+
        $table:ident { $($(#[doc = $doc:literal])+ $name:ident: $form:literal, up to $longest:expr, default $default:literal;)* }
    ) => {
        table! {
            $(#[doc = $about])+
            $table { $($(#[doc = $doc])+ $name,)* }
        }

        impl $table {
            /// What is written.
            #[must_use]
            pub const fn form(self) -> &'static str {
                match self { $(Self::$name => $form,)* }
            }

            /// The most characters.
            #[must_use]
            pub const fn longest(self) -> usize {
                match self { $(Self::$name => $longest,)* }
            }

            /// What holds if nobody says anything, for a person.
            #[must_use]
            pub const fn default(self) -> &'static str {
                match self { $(Self::$name => $default,)* }
            }
        }
    };
}

texts! {
    /// A value that is a text, a `REG_SZ`: the first is the driver's, the others the service's.
    TextPolicy {
        /// CPUs that do not seal and open packets for others. Applies from the next time the driver is loaded.
        ScalingExclude: "a list of CPUs, as `0-1, 16, 1:0-3`", up to MOST_CHARACTERS, default "none";
        /// The tunnels that may be brought up from a file or by policy; any other is refused.
        AllowedInterfaces: "names with commas between, as `office, branch-*`", up to 1_023, default "all";
        /// Where peers of such a tunnel may be: the host or address of each Endpoint. A name is allowed by its name alone,
        /// whatever its address.
        AllowedEndpoints: "hosts, addresses and networks with commas between, as `vpn.example.org, *.example.net, 203.0.113.0/24, 2001:db8::/32`", up to 1_023, default "all";
        /// The folder that the manager watches for tunnels' files, in place of its own. It must be there, and only administrators may
        /// write there.
        ConfigurationFolder: "the path of a folder of a drive of the machine, as `D:\\Tunnels`", up to 200, default "Penstock\\Data\\Configurations of Program Files";
    }
}

/// The driver's one text ([`crate::cpu_list::CpuList`]). One that is no list, or leaves no CPU, excludes none, and the
/// adapter's log says so.
pub const SCALING_EXCLUDE: &str = TextPolicy::ScalingExclude.name();

/// The key, below the others' of the service, that has a text for each tunnel of policy, called as the tunnel is.
pub const TUNNELS: &str = "Tunnels";

#[cfg(test)]
mod tests {
    use super::*;

    /// The page that administrators are given says of each what holds.
    #[test]
    fn every_value_is_explained() {
        let page = include_str!("../../docs/tuning.md");
        for policy in Policy::ALL {
            let (range, name) = (policy.range(), policy.name());
            let said = std::format!("{}–{}, {} |", range.start(), range.end(), policy.default());
            let mut rows =
                page.lines().filter(|line| line.starts_with(&*std::format!("| `{name}`")));
            assert!(rows.any(|row| row.contains(&*said)), "docs/tuning.md: `{name}`: {said}");
        }
        let excluded = std::format!("| `{SCALING_EXCLUDE}`* | list of CPUs, empty |");
        assert!(page.contains(&*excluded), "docs/tuning.md: {excluded}");
    }

    /// So do those of the service, where these are explained.
    #[test]
    fn every_value_of_the_service_is_explained_and_no_other() {
        let page = include_str!("../../docs/deploy.md");
        for policy in ServicePolicy::ALL {
            let (range, name) = (policy.range(), policy.name());
            let row = std::format!(
                "| `{name}` | {}–{}, {} |",
                range.start(),
                range.end(),
                policy.default()
            );
            assert!(page.contains(&*row), "docs/deploy.md: {row}");
            assert!(range.contains(&policy.default()) && policy.description().ends_with('.'));
            assert!(Policy::ALL.iter().all(|driver| driver.name() != name), "{name}: the driver's");
        }
    }

    #[test]
    fn every_text_of_the_service_is_explained() {
        let page = include_str!("../../docs/deploy.md");
        for text in &TextPolicy::ALL[1..] {
            let row = std::format!("| `{}` | {}; {} |", text.name(), text.form(), text.default());
            assert!(page.contains(&*row), "docs/deploy.md: {row}");
            assert!(text.description().ends_with('.'));
        }
    }

    #[test]
    fn every_value_is_whole() {
        for (position, policy) in Policy::ALL.iter().enumerate() {
            let name = policy.name();
            assert_eq!(*policy as usize, position, "{name}");
            assert!(policy.range().contains(&policy.default()), "{name}");
            assert!(policy.description().ends_with('.') && !policy.unit().is_empty(), "{name}");
            assert!(name.len() <= 64, "{name}: longer than the driver asks for");
        }
    }
}
