//! Which remote addresses a socket's port is authorised to hear from: the state of application layer enforcement (ALE).
//!
//! The first datagram of a remote address has to be classified at ALE_AUTH_RECV_ACCEPT; until then it carries
//! ALE_CLASSIFY_REQUIRED at the transport layer, and a callout has to let it pass. So do the first after a change of policy
//! and the first after [`IDLE`] without traffic. What counts as traffic nobody has written down for packets that a callout
//! absorbs or injects: the machine draws an answer for each, which makes four kinds of Windows.
//!
//! Source: `facts/wfp.md` 2, 9; WDD network/ale-stateful-filtering.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::fwp;
use crate::nt::machine::Machine;
use crate::verifier::schedule::lock;

/// How long a flow lasts without traffic.
pub const IDLE: Duration = Duration::from_secs(60);

/// A local port and a remote address.
pub(crate) type Tuple = (u16, SocketAddr);

struct Flow {
    last: Duration,
    epoch: u64,
}

/// What datagrams passed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Traffic {
    /// They came to the socket, or left by it.
    Socket,
    /// A callout absorbed them.
    Absorbed,
    /// A callout injected them.
    Injected,
}

/// The flows of one machine.
#[derive(Default)]
pub(crate) struct Flows {
    all: Mutex<FxHashMap<Tuple, Flow>>,
    epoch: AtomicU64,
    firewall: AtomicU8,
}

/// Whether the machine's firewall lets strangers in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firewall {
    /// A rule allows the port: any remote address is authorised.
    Open,
    /// Only who was sent to is heard.
    OnlyAnswers,
    /// As [`Firewall::Open`]; but what is sent authorises nobody. Stricter than Windows.
    IgnoresSends,
}

/// Sets what the firewall does with datagrams that have to be authorised.
pub fn set_firewall(machine: &Machine, firewall: Firewall) {
    fwp(machine).flows.firewall.store(firewall as u8, Ordering::Release);
}

/// Somebody's policy changed: every flow has to be authorised again.
pub fn change_policy(machine: &Machine) {
    fwp(machine).flows.policy_changed();
}

impl Flows {
    fn is(&self, firewall: Firewall) -> bool {
        self.firewall.load(Ordering::Acquire) == firewall as u8
    }

    /// Every flow has to be authorised again.
    pub(crate) fn policy_changed(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Whether datagrams of the tuple need no authorisation now.
    pub(crate) fn is_authorised(&self, now: Duration, tuple: &Tuple) -> bool {
        let epoch = self.epoch.load(Ordering::Acquire);
        lock(&self.all).get(tuple).is_some_and(|flow| flow.epoch == epoch && now < flow.last + IDLE)
    }

    /// Whether the firewall lets a datagram pass that has to be authorised.
    pub(crate) fn lets_in(&self, tuple: &Tuple) -> bool {
        // After a change of policy a flow that was there is judged as an answer still.
        !self.is(Firewall::OnlyAnswers) || lock(&self.all).contains_key(tuple)
    }

    /// The tuple was authorised.
    pub(crate) fn authorise(&self, now: Duration, tuple: Tuple) {
        let epoch = self.epoch.load(Ordering::Acquire);
        let mut all = lock(&self.all);
        if all.len() > 4096 {
            all.retain(|_, flow| now < flow.last + IDLE);
        }
        all.insert(tuple, Flow { last: now, epoch });
    }

    /// Datagrams of the tuple were seen.
    pub(crate) fn refresh(&self, machine: &Machine, tuple: &Tuple, traffic: Traffic) {
        let counts = match traffic {
            Traffic::Socket => true,
            Traffic::Absorbed => machine.either(&super::ABSORBED_PACKETS_KEEP_THE_FLOW),
            Traffic::Injected => machine.either(&super::INJECTED_PACKETS_KEEP_THE_FLOW),
        };
        if counts && let Some(flow) = lock(&self.all).get_mut(tuple) {
            let now = machine.world().now();
            if now < flow.last + IDLE {
                flow.last = now;
            }
        }
    }

    /// The socket, or a callout, has sent to the remote address: that authorises its answers.
    pub(crate) fn sent(&self, machine: &Machine, tuple: Tuple, traffic: Traffic) {
        let now = machine.world().now();
        if traffic == Traffic::Socket && !self.is_authorised(now, &tuple) {
            if !self.is(Firewall::IgnoresSends) {
                self.authorise(now, tuple);
            }
            return;
        }
        self.refresh(machine, &tuple, traffic);
    }
}
