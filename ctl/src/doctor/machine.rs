//! Findings of the machine: the driver, and what it needs of Windows.

use super::Finding;

/// Whether a service is there, and runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// It is not.
    Absent,
    /// It is, and does not run.
    Stopped,
    /// It runs, or is about to.
    Running,
}

/// What was read of Windows.
pub struct Facts {
    /// The driver's.
    pub driver: Service,
    /// Why Windows does not trust who signed its file, if it does not; nothing, where there is no file.
    pub signature: Option<Result<(), String>>,
    /// The Base Filtering Engine's.
    pub filtering: Service,
    /// What Windows was started with (`SystemStartOptions`).
    pub start_options: String,
}

/// Whether a Windows that was started with these options (`SystemStartOptions`) loads drivers that are signed for tests.
#[must_use]
pub fn takes_test_signatures(start_options: &str) -> bool {
    start_options.split_whitespace().any(|option| option.eq_ignore_ascii_case("TESTSIGNING"))
}

/// Findings of Windows.
#[must_use]
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let driver = match facts.driver {
        Service::Running => Finding::good("driver", "runs"),
        Service::Stopped => Finding::bad(
            "driver",
            "installed, and not loaded",
            "it is loaded with the first adapter: if there is one, Device Manager says why it does not start (code 52: not signed)",
        ),
        Service::Absent => Finding::bad(
            "driver",
            "not installed",
            "install its package, as an administrator: `penstock driver install`",
        ),
    };
    let filtering = match facts.filtering {
        Service::Running => Finding::good("Base Filtering Engine", "runs"),
        Service::Stopped | Service::Absent => Finding::bad(
            "Base Filtering Engine",
            "does not run",
            "the kill switch and `FastPath` need it: `sc start BFE`, as an administrator",
        ),
    };
    let signatures = if takes_test_signatures(&facts.start_options) {
        Finding::bad(
            "signatures",
            "Windows loads drivers that are signed for tests",
            "good for a machine that tests; elsewhere `bcdedit /set testsigning off`, and start anew",
        )
    } else {
        Finding::good("signatures", "Windows loads drivers that Microsoft signed")
    };
    let signature = facts.signature.as_ref().map(|signature| match signature {
        Ok(()) => Finding::good("the driver's signature", "Windows trusts who signed it"),
        Err(why) => Finding::bad(
            "the driver's signature",
            why.trim_end(),
            "install the package that Microsoft signed; on a machine for tests, trust the certificate of the one that you have",
        ),
    });
    [driver].into_iter().chain(signature).chain([filtering, signatures]).collect()
}

/// The finding where the driver is simulated.
#[must_use]
pub fn simulated(interfaces: usize) -> Finding {
    if interfaces == 0 {
        return Finding::bad(
            "driver",
            "no simulated driver runs",
            "`penstock-sim up NAME` loads one",
        );
    }
    let plural = if interfaces == 1 { "" } else { "s" };
    Finding::good("driver", format!("simulated, {interfaces} interface{plural}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_is_a_word_of_its_own() {
        for (options, expected) in [
            (" TESTSIGNING NOEXECUTE=OPTIN", true),
            ("noexecute=optin  testsigning", true),
            (" NOTESTSIGNING", false),
            ("TESTSIGNING=OFF", false),
            ("", false),
        ] {
            assert_eq!(takes_test_signatures(options), expected, "{options:?}");
        }
    }
}
