//! Rundown protection (`Ex*RundownProtection`).
//!
//! The word counts users in twos; its lowest bit says that rundown has begun. That is also how the inline forms of the headers
//! see it. Source: WDD kernel/run-down-protection.md.

use std::sync::atomic::Ordering;

use crate::loader::probe;
use crate::nt::thread::Thread;
use crate::verifier::rules;
use crate::verifier::schedule::{Key, WaitEnd};

const ACTIVE: u64 = 1;
const ONE_USER: u64 = 2;

fn acquire(thread: &Thread, place: usize) -> u8 {
    let Ok(word) = probe::atomic_u64(place) else {
        return thread.bad_pointer("RunRef", place) as u8;
    };
    let step = |value: u64| (value & ACTIVE == 0).then_some(value + ONE_USER);
    word.fetch_update(Ordering::AcqRel, Ordering::Acquire, step).is_ok().into()
}

fn release(thread: &Thread, place: usize) {
    let Ok(word) = probe::atomic_u64(place) else {
        thread.bad_pointer("RunRef", place);
        return;
    };
    match word
        .fetch_update(Ordering::AcqRel, Ordering::Acquire, |value| value.checked_sub(ONE_USER))
    {
        Ok(before) if before == ACTIVE + ONE_USER => thread.machine().world().wake(Key(place)),
        Ok(_) => {}
        Err(_) => {
            thread.stop(&rules::RUNDOWN, format!("{place:#x} released more often than acquired"))
        }
    }
}

fn wait_for_release(thread: &Thread, place: usize) {
    let Ok(word) = probe::atomic_u64(place) else {
        thread.bad_pointer("RunRef", place);
        return;
    };
    word.fetch_or(ACTIVE, Ordering::AcqRel);
    let machine = thread.machine();
    let ended = machine.wait(Key(place), None, "rundown protection", || {
        (word.load(Ordering::Acquire) == ACTIVE).then_some(())
    });
    match ended {
        Ok(()) => {}
        Err(Some(WaitEnd::Stuck | WaitEnd::TimedOut)) => {
            let users = word.load(Ordering::Relaxed) / ONE_USER;
            thread.stop(
                &rules::DEADLOCK,
                format!("rundown of {place:#x} waits for {users} users, and nobody can run"),
            );
        }
        Err(None) => thread.abandon(),
    }
}

crate::nt::imports! {
    pub(crate) static IMPORTS: "ntoskrnl.exe";

    /// No users, not run down.
    [max: APC, mark: Documented, source: "DDI wdm/nf-wdm-exinitializerundownprotection"]
    fn ExInitializeRundownProtection(thread, place: usize) {
        if probe::write(place, 0_u64).is_err() {
            thread.bad_pointer("RunRef", place);
        }
    }

    /// One more user; false once rundown has begun.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-exacquirerundownprotection"]
    fn ExAcquireRundownProtection(thread, place: usize) -> u8 {
        acquire(thread, place)
    }

    /// One user fewer.
    [max: DISPATCH, mark: Documented, source: "DDI wdm/nf-wdm-exreleaserundownprotection"]
    fn ExReleaseRundownProtection(thread, place: usize) {
        release(thread, place);
    }

    /// Begins rundown and waits until there are no users.
    [max: APC, mark: Documented, source: "DDI wdm/nf-wdm-exwaitforrundownprotectionrelease", point: true]
    fn ExWaitForRundownProtectionRelease(thread, place: usize) {
        wait_for_release(thread, place);
    }

    /// Usable again after a rundown that has ended.
    [max: APC, mark: Documented, source: "DDI wdm/nf-wdm-exreinitializerundownprotection"]
    fn ExReInitializeRundownProtection(thread, place: usize) {
        match probe::read::<u64>(place) {
            Ok(ACTIVE) => {
                if probe::write(place, 0_u64).is_err() {
                    thread.bad_pointer("RunRef", place);
                }
            }
            Ok(_) => thread.stop(&rules::RUNDOWN, format!("{place:#x} initialised again without a rundown")),
            Err(_) => {
                thread.bad_pointer("RunRef", place);
            }
        }
    }
}
