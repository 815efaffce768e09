//! One port's outer side as the driver uses it: the sockets, and the callouts before them.
//!
//! The sockets are always there and always right; the callouts take what they may and inject what
//! they can, and are gone before the sockets, whose endpoint they send from.

use abi::statistics::Counter;
use nt::{
    irql::{AtMostDispatch, Passive},
    process::Process,
    status::NtError,
    wsk::Provider,
};

use crate::{
    endpoint::Family,
    interception::{Intercepted, Interception, Options},
    route::Route,
    run::Run,
    socket::{Receiver, Sockets},
};

/// The sockets of one port, and what stands before them. Closed on drop, in this order.
pub struct Outside<R: Receiver> {
    intercepted: Option<Intercepted<R>>,
    sockets: Sockets<R>,
}

impl<R: Receiver> Outside<R> {
    /// Opens the sockets; see [`Sockets::open`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`; so is dropping the result.
    pub fn open(
        level: &Passive,
        provider: &Provider,
        port: u16,
        owner: &Process,
        receiver: R,
    ) -> Result<Self, NtError> {
        let sockets = Sockets::open(level, provider, port, owner, receiver)?;
        Ok(Self { intercepted: None, sockets })
    }

    /// Puts the callouts before the sockets. `instead_of` is about to be dropped: not before the new
    /// filters are there are its own deleted, all at once.
    ///
    /// # Errors
    ///
    /// As [`Interception::intercept`]; the sockets go on alone.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    pub fn intercept(
        &mut self,
        level: &Passive,
        interception: &Interception<R>,
        options: Options,
        instead_of: Option<&Self>,
    ) -> Result<(), NtError> {
        let options = Options { ecn: options.ecn && self.sockets.knows_ecn(), ..options };
        let (port, receiver) = (self.sockets.port(), self.sockets.receiver().clone());
        let instead_of = instead_of.and_then(|old| old.intercepted.as_ref());
        let made = interception.intercept(level, port, receiver, options, instead_of)?;
        self.intercepted = Some(made);
        Ok(())
    }

    /// Sends the run's datagrams to where `route` leads; see [`Sockets::send`].
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`. No lock may be held: the stack is called, down to the network adapter.
    pub fn send(&self, run: Run, route: &Route, tos: u8, level: &AtMostDispatch) {
        let run = match &self.intercepted {
            Some(callouts) if callouts.injects() => {
                let Err(run) = callouts.inject(run, route, tos, level) else { return };
                self.sockets.receiver().judged(Counter::InjectionPassed, run.len());
                run
            }
            _ => run,
        };
        self.sockets.send(run, route, tos, level);
    }

    /// The port, of both families.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.sockets.port()
    }

    /// The family that has no socket, and why; `None` when both have.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub fn missing(&self) -> Option<(Family, NtError)> {
        self.sockets.missing()
    }

    /// Whether the transport under one of the sockets is gone, so that they must be opened anew.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.sockets.is_lost()
    }
}
