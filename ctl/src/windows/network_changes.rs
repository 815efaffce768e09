//! That interfaces, addresses or routes of this machine changed.
//!
//! Source: <https://learn.microsoft.com/windows/win32/api/netioapi/nf-netioapi-notifyroutechange2>.

use std::ffi::c_void;
use std::io;
use std::ptr::null_mut;

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::NetworkManagement::IpHelper::{
    CancelMibChangeNotify2, MIB_IPFORWARD_ROW2, MIB_IPINTERFACE_ROW, MIB_NOTIFICATION_TYPE,
    NotifyIpInterfaceChange, NotifyRouteChange2,
};
use windows_sys::Win32::Networking::WinSock::AF_UNSPEC;

/// Who is told. Called by threads of Windows', several at once, perhaps.
type Told = Box<dyn Fn() + Send + Sync>;

/// Somebody is told of changes while this is there.
pub struct NetworkChanges {
    handles: Vec<HANDLE>,
    /// What the callbacks are given; freed when none can come any more.
    told: *mut Told,
}

impl NetworkChanges {
    /// Has `told` be called at each change.
    ///
    /// # Errors
    ///
    /// What Windows says.
    pub fn tell(told: impl Fn() + Send + Sync + 'static) -> io::Result<Self> {
        let told: *mut Told = Box::into_raw(Box::new(Box::new(told)));
        let mut changes = Self { handles: Vec::new(), told };
        let mut handle = null_mut();
        // SAFETY: what the callback is given lives until it is cancelled.
        super::checked(unsafe {
            NotifyIpInterfaceChange(
                AF_UNSPEC,
                Some(interface_changed),
                told.cast(),
                false,
                &raw mut handle,
            )
        })?;
        changes.handles.push(handle);
        // SAFETY: as above.
        super::checked(unsafe {
            NotifyRouteChange2(AF_UNSPEC, Some(route_changed), told.cast(), false, &raw mut handle)
        })?;
        changes.handles.push(handle);
        Ok(changes)
    }
}

impl Drop for NetworkChanges {
    fn drop(&mut self) {
        for handle in &self.handles {
            // SAFETY: registered here, and cancelled once, by no callback; it returns when none runs any more.
            unsafe { CancelMibChangeNotify2(*handle) };
        }
        // SAFETY: made by `tell`, and no callback has it any more.
        drop(unsafe { Box::from_raw(self.told) });
    }
}

unsafe extern "system" fn interface_changed(
    told: *const c_void,
    _: *const MIB_IPINTERFACE_ROW,
    _: MIB_NOTIFICATION_TYPE,
) {
    call(told);
}

unsafe extern "system" fn route_changed(
    told: *const c_void,
    _: *const MIB_IPFORWARD_ROW2,
    _: MIB_NOTIFICATION_TYPE,
) {
    call(told);
}

fn call(told: *const c_void) {
    // SAFETY: what `tell` registered, which lives until it is cancelled.
    let told = unsafe { &*told.cast::<Told>() };
    told();
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn who_is_told_lives_until_nobody_tells() {
        let (sender, receiver) = mpsc::channel();
        let changes = NetworkChanges::tell(move || {
            let _ = sender.send(());
        })
        .unwrap();
        let told = changes.told;
        both_changed(told.cast());
        assert_eq!([receiver.recv(), receiver.recv()], [Ok(()), Ok(())]);
        drop(changes);
        // What was told went with it.
        assert!(receiver.recv().is_err());
    }

    fn both_changed(told: *const c_void) {
        // SAFETY: what a registration that is there has.
        unsafe { interface_changed(told, std::ptr::null(), 0) };
        // SAFETY: as above.
        unsafe { route_changed(told, std::ptr::null(), 0) };
    }
}
