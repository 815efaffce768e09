//! What Linux can do for a tunnel, before the simulated driver: addresses, routes and MTU by `ip` of iproute2.
//!
//! The interface is `penstock-sim`'s, which makes and removes it: it is opened, and everything that a tunnel puts on it is taken back. There
//! is no kill switch and nothing sets DNS: [`lacking`] says so.

use std::io;
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use abi::ioctl::{AdapterState, SET_ADAPTER_STATE};
use abi::policy::Policy;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::config::{Prefix, value};
use crate::driver::simulated::Simulated;
use crate::driver::{self, Device, Driver, Failure};
use crate::tunnel::filters::Filter;
use crate::tunnel::guid::Guid;
use crate::tunnel::system::{Before, COMMAND_MAX, Dns, Interface, System, too_long};
use crate::tunnel::{Plan, Step};

pub mod trace_session;

/// Where programs are looked for, whatever the environment says.
const PATH: &str = "/usr/sbin:/usr/bin:/sbin:/bin";
/// The interpreter of a file's commands.
const SHELL: &str = "/bin/sh";
/// How long the driver may take to follow the interface.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it is not asked again.
const PAUSE: Duration = Duration::from_millis(10);

/// Linux, and the interface of one tunnel.
pub struct Machine {
    name: String,
}

/// What a plan says and Linux does not do.
#[must_use]
pub fn lacking(plan: &Plan) -> Vec<&'static str> {
    let lacking = |step: &Step| match step {
        Step::KillSwitch(_) => {
            Some("there is no kill switch on Linux: packets may leave beside the tunnel")
        }
        Step::Dns { .. } => Some("DNS is not set on Linux"),
        _ => None,
    };
    plan.steps.iter().filter_map(lacking).collect()
}

impl Machine {
    /// The interface of the tunnel `name`.
    #[must_use]
    pub fn of(name: &str) -> Self {
        Self { name: name.to_owned() }
    }

    /// The plan of a tunnel that is as this one, but for its file's commands.
    ///
    /// # Errors
    ///
    /// There is no such interface of the simulated driver.
    pub fn plan(&mut self) -> io::Result<Plan> {
        let name = self.name.clone();
        let guid = Guid::of_tunnel(&name, None);
        self.open_adapter(&name, guid)?;
        let mut steps =
            vec![Step::Adapter(guid), Step::Configure { peers: 0, lookups: Vec::new() }, Step::Up];
        let is_global = |address: &Prefix| !matches!(address.address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        steps.extend(self.addresses()?.into_iter().filter(is_global).map(Step::Address));
        for family in ["-4", "-6"] {
            let routes = self.ask(&[family, "route", "show", "dev", &name])?;
            let made = routes.iter().filter(|route| text(route, "protocol") != Some("kernel"));
            let destinations = made.filter_map(|route| text(route, "dst"));
            steps.extend(
                destinations.filter_map(|route| destination(family, route)).map(Step::Route),
            );
        }
        Ok(Plan { name, steps })
    }

    fn device(&self) -> Result<Box<dyn Device>, Failure> {
        Simulated::default().open(&self.name)
    }

    fn ask(&self, arguments: &[&str]) -> io::Result<Vec<Value>> {
        let output = ip(&[&["-json"], arguments].concat())?;
        // It prints nothing where there is nothing of the kind.
        if output.trim_ascii().is_empty() {
            return Ok(Vec::new());
        }
        serde_json::from_slice(&output).map_err(io::Error::from)
    }

    fn link(&self, name: &str) -> io::Result<Value> {
        let links = self.ask(&["link", "show", "dev", name])?;
        links.into_iter().next().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn mtu_of(&self, name: &str) -> io::Result<u16> {
        let mtu = self.link(name)?.get("mtu").and_then(Value::as_u64);
        // That of the loopback interface is 65536.
        Ok(u16::try_from(mtu.ok_or(io::ErrorKind::InvalidData)?).unwrap_or(u16::MAX))
    }

    /// Addresses of the interface, its own one of the link among them.
    fn addresses(&self) -> io::Result<Vec<Prefix>> {
        let links = self.ask(&["addr", "show", "dev", &self.name])?;
        let addresses = links.iter().filter_map(|link| link.get("addr_info")?.as_array()).flatten();
        let prefix = |address: &Value| {
            let length = u8::try_from(address.get("prefixlen")?.as_u64()?).ok()?;
            Some(Prefix { address: text(address, "local")?.parse().ok()?, length })
        };
        Ok(addresses.filter_map(prefix).collect())
    }

    fn has_route(&self, route: &str, family: &str) -> io::Result<bool> {
        let found = self.ask(&[family, "route", "show", "exact", route, "dev", &self.name])?;
        Ok(!found.is_empty())
    }

    /// Has the interface be up, or not, and waits until the driver is.
    fn set_state(&self, state: AdapterState) -> io::Result<()> {
        let word = if state == AdapterState::Up { "up" } else { "down" };
        ip(&["link", "set", "dev", &self.name, word])?;
        let deadline = Instant::now() + PATIENCE;
        while self.state()? != Some(state) {
            if Instant::now() > deadline {
                return Err(io::Error::other(format!(
                    "the driver does not follow the interface {word}"
                )));
            }
            std::thread::sleep(PAUSE);
        }
        Ok(())
    }

    fn state(&self) -> io::Result<Option<AdapterState>> {
        let query = (AdapterState::Query as u32).to_le_bytes();
        let mut word = [0; 4];
        let answer = self.device()?.control(SET_ADAPTER_STATE, &query, &mut word)?;
        answer.status.check()?;
        Ok(AdapterState::parse(&word))
    }
}

impl System for Machine {
    fn open_adapter(&mut self, name: &str, _: Guid) -> io::Result<Before> {
        name.clone_into(&mut self.name);
        match self.device() {
            Ok(_) => self.link(name).map(|_| Before::There),
            Err(Failure::Io(why)) if why.kind() == io::ErrorKind::NotFound => {
                Err(io::Error::other(format!(
                    "there is none; on Linux `penstock-sim up {name}` makes it"
                )))
            }
            Err(why) => Err(why.into()),
        }
    }

    fn remove_adapter(&mut self) -> io::Result<()> {
        // Nobody asks for it: it was there before.
        Err(io::ErrorKind::Unsupported.into())
    }

    fn configuration(&mut self) -> io::Result<Zeroizing<Vec<u8>>> {
        Ok(driver::get(&*self.device()?)?)
    }

    fn configure(&mut self, configuration: Zeroizing<Vec<u8>>) -> io::Result<()> {
        Ok(driver::set(&*self.device()?, configuration)?)
    }

    fn filter(&mut self, _: &[Filter]) -> io::Result<()> {
        Ok(())
    }

    fn unfilter(&mut self) -> io::Result<()> {
        Ok(())
    }

    fn default_mtu(&mut self) -> io::Result<Option<u16>> {
        let mut least = None;
        for family in ["-4", "-6"] {
            let mut routes = self.ask(&[family, "route", "show", "default"])?;
            routes.sort_by_key(|route| route.get("metric").and_then(Value::as_u64));
            let mut names = routes.iter().filter_map(|route| text(route, "dev"));
            if let Some(name) = names.find(|name| *name != self.name) {
                let mtu = self.mtu_of(name)?;
                least = Some(least.map_or(mtu, |least: u16| least.min(mtu)));
            }
        }
        Ok(least)
    }

    fn largest_mtu(&mut self) -> io::Result<u16> {
        // The interface takes any, and does not say what the driver behind it has: what it has unless it was told otherwise.
        Ok(u16::try_from(Policy::Mtu.default()).unwrap_or(u16::MAX))
    }

    fn interface(&mut self) -> io::Result<Interface> {
        Ok(Interface { mtu: self.mtu_of(&self.name)?, first: false })
    }

    fn set_interface(&mut self, interface: Interface) -> io::Result<()> {
        ip(&["link", "set", "dev", &self.name, "mtu", &interface.mtu.to_string()]).map(drop)
    }

    fn bring_up(&mut self) -> io::Result<Before> {
        let link = self.link(&self.name)?;
        let flags = link.get("flags").and_then(Value::as_array);
        if flags.is_some_and(|flags| flags.iter().any(|flag| flag == "UP")) {
            return Ok(Before::There);
        }
        let came = self.set_state(AdapterState::Up);
        if came.is_err() {
            // What fails has changed nothing.
            let _ = self.set_state(AdapterState::Down);
        }
        came.map(|()| Before::Absent)
    }

    fn bring_down(&mut self) -> io::Result<()> {
        self.set_state(AdapterState::Down)
    }

    fn add_address(&mut self, address: Prefix) -> io::Result<Before> {
        if self.addresses()?.contains(&address) {
            return Ok(Before::There);
        }
        let address = address.to_string();
        let mut arguments = vec!["addr", "add", &address, "dev", &self.name];
        // Nobody else is there who could have it.
        arguments.extend(address.contains(':').then_some("nodad"));
        ip(&arguments).map(|_| Before::Absent)
    }

    fn remove_address(&mut self, address: Prefix) -> io::Result<()> {
        if !self.addresses()?.contains(&address) {
            return Ok(());
        }
        ip(&["addr", "del", &address.to_string(), "dev", &self.name]).map(drop)
    }

    fn add_route(&mut self, route: Prefix) -> io::Result<Before> {
        let (family, route) = (family_of(route), route.to_string());
        if self.has_route(&route, family)? {
            return Ok(Before::There);
        }
        ip(&[family, "route", "add", &route, "dev", &self.name]).map(|_| Before::Absent)
    }

    fn remove_route(&mut self, route: Prefix) -> io::Result<()> {
        let (family, route) = (family_of(route), route.to_string());
        if !self.has_route(&route, family)? {
            return Ok(());
        }
        ip(&[family, "route", "del", &route, "dev", &self.name]).map(drop)
    }

    fn dns(&mut self) -> io::Result<Dns> {
        Ok(Dns::default())
    }

    fn set_dns(&mut self, _: &Dns) -> io::Result<()> {
        Ok(())
    }

    fn run(&mut self, command: &str) -> io::Result<()> {
        run(command, &self.name, COMMAND_MAX)
    }
}

/// Runs a command to its end, which may take so long.
fn run(command: &str, tunnel: &str, limit: Duration) -> io::Result<()> {
    let mut shell = Command::new(SHELL);
    shell.args(["-c", command]).env_clear().env("WIREGUARD_TUNNEL_NAME", tunnel);
    // A group of its own, which what it starts is of.
    let mut shell = shell.stdin(Stdio::null()).process_group(0).spawn()?;
    let deadline = Instant::now() + limit;
    loop {
        match shell.try_wait()? {
            Some(ended) if ended.success() => return Ok(()),
            Some(ended) => return Err(io::Error::other(ended.to_string())),
            None if Instant::now() > deadline => break,
            None => std::thread::sleep(PAUSE),
        }
    }
    // Nobody waited for it yet, so that nobody else has its number.
    let group = format!("kill -s KILL -- -{}", shell.id());
    Command::new(SHELL).args(["-c", &group]).env_clear().status()?;
    shell.wait()?;
    Err(too_long(limit))
}

/// Runs `ip` and gives back what it printed.
fn ip(arguments: &[&str]) -> io::Result<Vec<u8>> {
    let mut command = Command::new("ip");
    command.args(arguments).env_clear().env("PATH", PATH).stdin(Stdio::null());
    let output = command.output().map_err(|why| match why.kind() {
        io::ErrorKind::NotFound => io::Error::other("there is no `ip`: install iproute2"),
        _ => why,
    })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said.lines().next().unwrap_or("it failed without a word");
    let line = line.strip_prefix("RTNETLINK answers: ").unwrap_or(line);
    Err(io::Error::other(format!("`ip {}`: {line}", arguments.join(" "))))
}

fn text<'v>(of: &'v Value, key: &str) -> Option<&'v str> {
    of.get(key)?.as_str()
}

fn family_of(prefix: Prefix) -> &'static str {
    if prefix.address.is_ipv4() { "-4" } else { "-6" }
}

/// Where a route leads, as `ip` prints it.
fn destination(family: &str, text: &str) -> Option<Prefix> {
    let text = match (text, family) {
        ("default", "-4") => "0.0.0.0/0",
        ("default", _) => "::/0",
        _ => text,
    };
    value::prefix(text).ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_command_has_a_shell_and_the_name_alone() {
        let mut machine = Machine::of("t0");
        let environment =
            r#"test "$(env | grep -vE '^(_|PWD|OLDPWD|SHLVL)=')" = WIREGUARD_TUNNEL_NAME=t0"#;
        machine.run(environment).unwrap();
        machine.run("test -z \"$(cat)\"").unwrap();
        assert_eq!(machine.run("exit 3").unwrap_err().to_string(), "exit status: 3");
    }

    /// Whether a process runs whose number a command wrote to a file; one that has ended may wait for who made it.
    fn runs(file: &Path) -> bool {
        let process = std::fs::read_to_string(file).expect("it wrote its number");
        let stat = std::fs::read_to_string(Path::new("/proc").join(process.trim()).join("stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[test]
    fn a_command_that_takes_too_long_is_ended_with_what_it_started() {
        let file = std::env::temp_dir().join(format!("penstock-started-{}", std::process::id()));
        let command = format!("sleep 1000 >/dev/null 2>&1 & echo $! >{}", file.display());
        let limit = Duration::from_secs(1);
        let why = run(&format!("{command}; wait"), "t0", limit).unwrap_err();
        assert_eq!(why.kind(), io::ErrorKind::TimedOut, "{why}");
        let deadline = Instant::now() + PATIENCE;
        while runs(&file) {
            assert!(Instant::now() < deadline, "what it started goes on");
            std::thread::sleep(PAUSE);
        }
        // What ends in time leaves alone what it started.
        run(&command, "t0", PATIENCE).unwrap();
        assert!(runs(&file));
        run(&format!("kill $(cat {})", file.display()), "t0", PATIENCE).unwrap();
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn what_ip_prints_is_read_back() {
        for (family, text, read) in [
            ("-4", "default", Some("0.0.0.0/0")),
            ("-6", "default", Some("::/0")),
            ("-4", "10.0.0.1", Some("10.0.0.1/32")),
            ("-6", "fd00::/8", Some("fd00::/8")),
            ("-4", "unreachable", None),
        ] {
            let destination = destination(family, text).map(|prefix| prefix.to_string());
            assert_eq!(destination.as_deref(), read);
        }
        let why = ip(&["link", "show", "dev", "pen-none"]).unwrap_err().to_string();
        assert!(why.ends_with("Device \"pen-none\" does not exist."), "{why}");
    }
}
