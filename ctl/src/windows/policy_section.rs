//! The time in which Group Policy changes nothing.
//!
//! Source: <https://learn.microsoft.com/previous-versions/windows/desktop/policy/reading-policy-data-from-the-registry>.

use windows_sys::Win32::Foundation::HANDLE;
use windows_sys::Win32::System::GroupPolicy::{
    EnterCriticalPolicySection, LeaveCriticalPolicySection,
};

/// What is read meanwhile is a whole: Group Policy takes the machine's values away and sets them again where one changes, and waits.
///
/// To be held for seconds, and left before anything is done that may wait for Group Policy.
pub struct PolicySection(HANDLE);

impl PolicySection {
    /// Waits until no policy is applied. Nothing, where Windows refuses: what is read then may be half of a change, the other half of
    /// which is told as a change, too.
    #[must_use]
    pub fn enter() -> Option<Self> {
        // SAFETY: the machine's policy; nothing has to hold.
        let section = unsafe { EnterCriticalPolicySection(1) };
        (!section.is_null()).then_some(Self(section))
    }
}

impl Drop for PolicySection {
    fn drop(&mut self) {
        // SAFETY: entered here, and left once.
        unsafe { LeaveCriticalPolicySection(self.0) };
    }
}
