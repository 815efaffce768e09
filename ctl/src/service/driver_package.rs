//! The driver on this machine, as an administrator wants to know it: which version, whether it may be loaded, and what to do.

use std::fmt;

use crate::doctor::machine::Service;

/// What is known of the driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its service's state.
    pub service: Service,
    /// The version of the file that the service loads.
    pub installed: Option<Version>,
    /// The version that an INF beside this program would install.
    pub beside: Option<Version>,
    /// Whether Windows loads drivers that are signed for tests.
    pub testing: bool,
}

/// Four numbers, as Windows compares them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub [u16; 4]);

impl Version {
    /// Reads `1.2.3.4`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut numbers = text.split('.').map(|number| number.parse().ok());
        let version = [numbers.next()??, numbers.next()??, numbers.next()??, numbers.next()??];
        numbers.next().is_none().then_some(Self(version))
    }

    /// The version of an INF: its `DriverVer`, behind the date.
    #[must_use]
    pub fn of_inf(text: &str) -> Option<Self> {
        let line = text.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            key.trim().eq_ignore_ascii_case("DriverVer").then_some(value)
        })?;
        let value = line.split(';').next().unwrap_or_default();
        Self::parse(value.split_once(',')?.1.trim())
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch, build] = self.0;
        write!(f, "{major}.{minor}.{patch}.{build}")
    }
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = |version: Option<Version>| {
            version.map_or_else(|| "of unknown version".to_owned(), |version| version.to_string())
        };
        match self.service {
            Service::Absent => writeln!(f, "installed: no")?,
            Service::Stopped => writeln!(f, "installed: {}, not loaded", version(self.installed))?,
            Service::Running => writeln!(f, "installed: {}, loaded", version(self.installed))?,
        }
        if let Some(beside) = self.beside {
            writeln!(f, "beside this program: {beside}")?;
        }
        let signatures =
            if self.testing { "Microsoft's and those for tests" } else { "Microsoft's alone" };
        writeln!(f, "signatures that Windows takes: {signatures}")?;
        writeln!(f, "what to do: {}", self.advice())
    }
}

impl Facts {
    fn advice(&self) -> &'static str {
        let is_newer = self.installed < self.beside;
        match self.service {
            Service::Absent if self.beside.is_some() => "`penstock driver install`",
            Service::Absent => {
                "`penstock driver install FILE`, with the penstock.inf of the driver's package"
            }
            Service::Stopped | Service::Running if is_newer => {
                "`penstock driver update`: tunnels go down and come back"
            }
            Service::Stopped => {
                "nothing: it is loaded with the first tunnel (Device Manager says why, if it is not)"
            }
            Service::Running => "nothing",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared_by_their_numbers() {
        let read = |text| Version::parse(text);
        assert_eq!(read("1.2.30.4"), Some(Version([1, 2, 30, 4])));
        assert!(read("1.2.9.0") < read("1.2.10.0") && None < read("0.0.0.0"));
        for wrong in ["", "1.2.3", "1.2.3.4.5", "1.2.3.x", "1.2.3.65536", "-1.0.0.0"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        let inf = "[Version]\r\ndriverver = 03/04/2026,1.2.3.0 ; stamped\r\n";
        assert_eq!(Version::of_inf(inf), read("1.2.3.0"));
        assert_eq!(Version::of_inf("; DriverVer\nDriverVer = @DATE@,@VERSION@"), None);
    }

    #[test]
    fn each_state_says_what_to_do() {
        let (old, new) = (Version::parse("0.1.0.0"), Version::parse("0.2.0.0"));
        let told = |service, installed, beside| {
            let text = Facts { service, installed, beside, testing: false }.to_string();
            text.lines().last().unwrap_or_default().to_owned()
        };
        for (service, installed, beside, said) in [
            (Service::Absent, None, None, "with the penstock.inf"),
            (Service::Absent, None, new, "`penstock driver install`"),
            (Service::Stopped, old, new, "`penstock driver update`"),
            (Service::Running, old, new, "`penstock driver update`"),
            (Service::Running, new, new, "what to do: nothing"),
            (Service::Running, new, old, "what to do: nothing"),
            (Service::Running, new, None, "what to do: nothing"),
            (Service::Stopped, new, None, "it is loaded with the first tunnel"),
        ] {
            let told = told(service, installed, beside);
            assert!(told.contains(said), "{service:?} {installed:?} {beside:?}: {told}");
        }
        let tests =
            Facts { service: Service::Absent, installed: None, beside: None, testing: true };
        assert!(tests.to_string().contains("and those for tests"));
    }
}
