//! One port's outer side as the driver uses it: the sockets, and the callouts before them.
//!
//! The sockets are always there and always right; the callouts take what they may and inject what
//! they can, and are gone before the sockets, whose endpoint they send from.

use abi::statistics::Counter;
use nt::{
    irql::{AtMostDispatch, Passive},
    process::Process,
    shared::Shared,
    status::NtError,
    wsk::Provider,
};

use crate::{
    endpoint::Family,
    interception::{Intercepted, Interception, Ways},
    route::Route,
    run::Run,
    socket::{Receiver, Sockets},
};

/// The sockets of one port, and what stands before them. Closed on drop, the sockets last, and not
/// before everybody who has them is dropped.
pub struct Outside<R: Receiver> {
    intercepted: Option<Intercepted<R>>,
    sockets: Shared<Sockets<R>>,
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
        Ok(Self { intercepted: None, sockets: Shared::try_new(sockets)? })
    }

    /// The same sockets, with nothing before them.
    ///
    /// # IRQL
    ///
    /// Any; dropped at `PASSIVE_LEVEL`.
    #[must_use]
    pub fn bare(&self) -> Self {
        Self { intercepted: None, sockets: self.sockets.clone() }
    }

    /// Which ways there are besides the sockets.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub fn ways(&self) -> Ways {
        self.intercepted.as_ref().map_or(Ways::NONE, Intercepted::ways)
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
        ways: Ways,
        instead_of: Option<&Self>,
    ) -> Result<(), NtError> {
        let instead_of = instead_of.and_then(|old| old.intercepted.as_ref());
        let made = interception.intercept(level, &self.sockets, ways, instead_of)?;
        self.intercepted = Some(made);
        Ok(())
    }

    /// Lets the stack give datagrams several as one, or no longer; see [`Sockets::coalesce`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`, one at a time.
    pub fn coalesce(&self, level: &Passive, wanted: bool) -> Result<(), NtError> {
        self.sockets.coalesce(level, wanted)
    }

    /// Sends the run's datagrams to where `route` leads; see [`Sockets::send`].
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`. No lock may be held: the stack is called, down to the network adapter.
    pub fn send(&self, run: Run, route: &Route, tos: u8, level: &AtMostDispatch) {
        let run = match &self.intercepted {
            Some(callouts) if callouts.ways().inject.is_some() => {
                // What bears a DSCP goes by the sockets, of which it is known whether they can send it.
                let passed =
                    if tos >> 2 == 0 { callouts.inject(run, route, tos, level) } else { Err(run) };
                let Err(run) = passed else { return };
                self.sockets.receiver().counted(Counter::InjectionPassed, run.len());
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
    pub fn port(&self) -> u16 {
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
