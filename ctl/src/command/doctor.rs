//! `doctor`: what keeps tunnels from working, and what to do.

use abi::ioctl::{AdapterState, SET_ADAPTER_STATE, Set};
use abi::statistics::Statistics;
use ctl::doctor::firewall::Firewall;
use ctl::doctor::{Finding, interface, machine};
use ctl::driver::{self, Device, Driver, Failure};
use ctl::show::now_s;
use ctl::words::said;

use super::{Outcome, print, reach};

/// Looks at the machine and every interface; fails if something is not as it should be.
pub(crate) fn doctor() -> Outcome {
    let findings = found();
    print(&text(&findings))?;
    let bad = findings.iter().filter(|finding| finding.advice.is_some()).count();
    match bad {
        0 => Ok(()),
        1 => Err(super::Failure::Told("1 thing is not as it should be".to_owned())),
        _ => Err(super::Failure::Told(format!("{bad} things are not as they should be"))),
    }
}

/// Findings, as they are printed.
pub(super) fn text(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect()
}

/// What is found of the machine and every interface.
pub(super) fn found() -> Vec<Finding> {
    let driver = reach::driver();
    let (names, mut findings) = match driver.names() {
        Ok(names) => (names, Vec::new()),
        Err(error) => (
            Vec::new(),
            vec![Finding::bad("interfaces", said(&error), "see what is said of the driver")],
        ),
    };
    findings.extend(of_machine(names.len()));
    let firewall = firewall();
    for name in &names {
        findings.extend(of_interface(&driver, name, firewall.as_ref()).unwrap_or_else(|failure| {
            let advice = "ask as an administrator; an interface may also have gone meanwhile";
            vec![Finding::bad(name, failure.to_string(), advice)]
        }));
    }
    findings
}

#[cfg(unix)]
fn of_machine(interfaces: usize) -> Vec<Finding> {
    vec![machine::simulated(interfaces)]
}

#[cfg(windows)]
fn of_machine(_: usize) -> Vec<Finding> {
    use ctl::policy::{Registry, Value};
    use ctl::windows::registry::LocalMachine;
    use ctl::windows::services::state;
    use ctl::windows::signature::verify;

    use super::driver::installed_file;

    /// Where Windows says what it was started with.
    const CONTROL: &str = r"SYSTEM\CurrentControlSet\Control";
    let read = || {
        let options = LocalMachine.value(CONTROL, "SystemStartOptions")?;
        // Of a service that is being removed, nothing is left to ask for.
        let file = installed_file().unwrap_or_default().filter(|file| file.exists());
        Ok(machine::Facts {
            driver: state("penstock")?,
            signature: file.map(|file| verify(&file).map_err(|error| said(&error))),
            filtering: state("BFE")?,
            start_options: match options {
                Some(Value::Text(options)) => options,
                _ => String::new(),
            },
        })
    };
    let advice = "ask as an administrator";
    read().map_or_else(
        |error: std::io::Error| vec![Finding::bad("Windows", said(&error), advice)],
        |facts| machine::findings(&facts),
    )
}

/// A firewall of Linux has its own ways to be looked at.
#[cfg(unix)]
fn firewall() -> Option<Firewall> {
    None
}

/// Windows'; nothing, if it cannot be read.
#[cfg(windows)]
fn firewall() -> Option<Firewall> {
    use ctl::policy::tunnel::Listed;
    use ctl::policy::{Registry, Value};
    use ctl::windows::registry::LocalMachine;

    /// The machine's own, and Group Policy's.
    const KEYS: [&str; 2] = [
        r"SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy",
        r"SOFTWARE\Policies\Microsoft\WindowsFirewall",
    ];
    const PROFILES: [&str; 4] =
        ["DomainProfile", "StandardProfile", "PrivateProfile", "PublicProfile"];
    let number = |profile: &str, name: &str| {
        let values =
            KEYS.iter().rev().map(|key| LocalMachine.value(&format!(r"{key}\{profile}"), name));
        values.into_iter().find_map(|value| match value {
            Ok(Some(Value::Dword(number))) => Some(number),
            _ => None,
        })
    };
    // What no rule lets in is blocked, unless a profile says otherwise.
    let refuses = PROFILES.iter().any(|profile| {
        number(profile, "EnableFirewall") == Some(1)
            && number(profile, "DefaultInboundAction") != Some(0)
    });
    let mut rules = Vec::new();
    for key in KEYS {
        let key = format!(r"{key}\FirewallRules");
        for name in LocalMachine.names(&key).ok()? {
            if let Ok(Some(Value::Text(rule))) = LocalMachine.value(&key, &name) {
                rules.push(rule);
            }
        }
    }
    Some(Firewall { refuses, rules })
}

fn of_interface(
    driver: &impl Driver,
    name: &str,
    firewall: Option<&Firewall>,
) -> Result<Vec<Finding>, Failure> {
    let device = driver.open(name)?;
    let configuration = driver::get(&*device)?;
    let counted = driver::get_statistics(&*device)?;
    let (Ok(set), Some(statistics)) = (Set::parse(&configuration), Statistics::parse(&counted))
    else {
        return Err(Failure::Unknown);
    };
    let facts =
        interface::Facts { name, up: is_up(&*device)?, set, statistics, firewall, now_s: now_s() };
    Ok(interface::findings(&facts))
}

fn is_up(device: &dyn Device) -> Result<bool, Failure> {
    let mut word = [0; 4];
    let query = (AdapterState::Query as u32).to_le_bytes();
    device.control(SET_ADAPTER_STATE, &query, &mut word)?.status.check()?;
    Ok(AdapterState::parse(&word) == Some(AdapterState::Up))
}
