//! The callouts, which are the driver's: there while there is an adapter.
//!
//! Windows does not unload a driver that has a control device, so what needs one is made with the
//! first adapter and goes with the last. Without them the sockets do everything.

use abi::policy::Policy;
use callout::{Caps, Interception};
use crypto::sync::Shared;
use nt::{
    closing::{Close, Closing},
    irql::Passive,
    mutex::Mutex,
    rcu::Reclaimer,
    status::NtError,
};

use crate::{Core, ends::Outer, policy::Policies};

/// Counts the adapters, and has the callouts while there are any.
pub(crate) struct Interceptions {
    state: Mutex<State>,
    reclaimer: nt::shared::Shared<Reclaimer>,
}

struct State {
    adapters: usize,
    /// Why there are none, if so.
    made: Result<Interception<Outer>, NtError>,
}

/// One adapter's part in them.
pub(crate) struct Attached(Shared<Core>);

impl Close for Attached {
    fn close(&mut self, passive: &Passive) {
        let mut state = self.0.interceptions.state.lock(passive);
        state.adapters = state.adapters.saturating_sub(1);
        if state.adapters == 0 {
            state.made = Err(NtError::DEVICE_NOT_READY);
        }
    }
}

impl Interceptions {
    /// None yet.
    ///
    /// # Errors
    ///
    /// What NT answers.
    pub(crate) fn try_new(passive: &Passive) -> Result<Self, NtError> {
        let none = State { adapters: 0, made: Err(NtError::DEVICE_NOT_READY) };
        let reclaimer = nt::shared::Shared::try_new(Reclaimer::start(passive)?)?;
        Ok(Self { state: Mutex::try_new(none)?, reclaimer })
    }

    /// Counts an adapter, and makes them with the first.
    ///
    /// That they cannot be made is no error: [`Interceptions::with`] tells why.
    pub(crate) fn attach(core: &Shared<Core>, passive: &Passive) -> Closing<Attached> {
        let this = &core.interceptions;
        let mut state = this.state.lock(passive);
        state.adapters = state.adapters.saturating_add(1);
        if state.made.is_err() {
            state.made = this.start(&core.policies, passive);
        }
        drop(state);
        Closing::new(Attached(core.clone()))
    }

    fn start(
        &self,
        policies: &Policies,
        passive: &Passive,
    ) -> Result<Interception<Outer>, NtError> {
        let mut seed = [0; 8];
        nt::random::fill(passive, &mut seed)?;
        let seed = u64::from_ne_bytes(seed);
        Interception::start(passive, &self.reclaimer, caps(policies), seed)
    }

    /// Has the callouts hold as many datagrams as they may now.
    pub(crate) fn follow_policy(&self, policies: &Policies, passive: &Passive) {
        self.with(passive, |callouts| {
            if let Ok(callouts) = callouts {
                callouts.set_caps(caps(policies));
            }
        });
    }

    /// Runs `body` with the callouts, or with the reason why there are none.
    pub(crate) fn with<R>(
        &self,
        passive: &Passive,
        body: impl FnOnce(Result<&Interception<Outer>, NtError>) -> R,
    ) -> R {
        body(self.state.lock(passive).made.as_ref().map_err(|error| *error))
    }
}

/// How many datagrams may be held.
fn caps(policies: &Policies) -> Caps {
    let (per_cpu, per_peer) = (policies.get(Policy::HeldPerCpu), policies.get(Policy::HeldPerPeer));
    Caps { per_cpu, per_peer }
}
