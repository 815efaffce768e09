//! The manager hands the driver what policy says, whenever that changes.

use std::io;
use std::sync::mpsc::Sender;
use std::thread::Builder;
use std::time::Duration;

use ctl::policy::LOCAL;
use ctl::policy::engine::{self, Engine};
use ctl::service::events::Event;
use ctl::tunnel::watch::Signal;
use ctl::windows::event_log::tell;
use ctl::windows::policy_section::PolicySection;
use ctl::windows::registry::{LocalMachine, Watched};
use ctl::words::said;

/// The key around Group Policy's ([`ctl::policy::GROUP`]), which itself comes and goes.
const AROUND_GROUP: &str = r"SOFTWARE\Policies";
/// How long until a key is opened again that could not be watched.
const AGAIN: Duration = Duration::from_secs(5);

/// What was handed to the driver, and told of it.
#[derive(Default)]
pub(crate) struct Follow {
    engine: Engine,
    /// Whether an adapter could not be told of what its key has now.
    untold: bool,
    trouble: Option<String>,
}

/// Sends a signal whenever a value may have changed, from now on.
///
/// # Errors
///
/// There is no thread for it.
pub(crate) fn watch(signals: &Sender<Signal>) -> io::Result<()> {
    for key in [AROUND_GROUP, LOCAL] {
        let signals = signals.clone();
        Builder::new().spawn(move || {
            loop {
                // Until the key is removed, or nobody listens any more.
                let watched = Watched::new(key).and_then(|watched| until_gone(&watched, &signals));
                if watched.is_ok() {
                    return;
                }
                std::thread::sleep(AGAIN);
            }
        })?;
    }
    Ok(())
}

fn until_gone(watched: &Watched, signals: &Sender<Signal>) -> io::Result<()> {
    loop {
        let changed = watched.arm()?;
        // Whoever is told looks after this, so nothing is missed between.
        if signals.send(Signal::Changed).is_err() {
            return Ok(());
        }
        changed.wait(Duration::MAX)?;
    }
}

impl Follow {
    /// Does what is to be done; whether all of it could be.
    pub(crate) fn act(&mut self) -> bool {
        let failed = self.apply().err();
        if failed != self.trouble {
            if let Some(why) = &failed {
                tell(Event::PolicyNotApplied, &[why]);
            }
            self.trouble = failed;
        }
        self.trouble.is_none()
    }

    fn apply(&mut self) -> Result<(), String> {
        let applied = {
            let _whole = PolicySection::enter();
            self.engine.apply(&LocalMachine).map_err(|error| said(&error))?
        };
        for refused in &applied.refused {
            tell(Event::PolicyRefused, &[&refused.to_string()]);
        }
        if !applied.changed.is_empty() {
            tell(Event::PolicyApplied, &[&applied.changed.join(", ")]);
            self.untold = true;
        }
        if !self.untold {
            return Ok(());
        }
        // Without the driver there is nobody to tell: it reads its key when it comes.
        let failed = engine::tell(&super::reach::driver()).unwrap_or_default();
        self.untold = !failed.is_empty();
        match failed.first() {
            None => Ok(()),
            Some((name, why)) => Err(format!("{name}: {why}")),
        }
    }
}
