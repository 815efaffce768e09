//! What Windows can do for a tunnel: its device, the IP stack, DNS, and filters, all of which go with this process.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use abi::ioctl::{AdapterState, SET_ADAPTER_STATE};
use windows_sys::core::GUID;
use zeroize::Zeroizing;

use super::filter_engine::Filters;
use super::network::{Luid, default_mtu};
use super::software_device::{Made, SoftwareDevice, name_connection};
use super::{device, dns, interpreter};
use crate::config::Prefix;
use crate::driver::{self, Device};
use crate::service::definition::TUNNEL_PREFIX;
use crate::service::descriptor::Sid;
use crate::tunnel::filters::Filter;
use crate::tunnel::guid::Guid;
use crate::tunnel::names::Names;
use crate::tunnel::system::{Before, COMMAND_MAX, Dns, Interface, System};

/// How long driver and stack may take until the adapter is there.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long they are not asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// Windows, and the adapter of one tunnel.
pub struct Machine {
    tunnel: String,
    is_service: bool,
    adapter: Option<Adapter>,
    filters: Option<Filters>,
    names: Names,
}

/// An adapter that is there.
struct Adapter {
    /// None: it is another process's.
    owned: Option<SoftwareDevice>,
    device: Box<dyn Device>,
    guid: GUID,
    luid: Luid,
}

impl Machine {
    /// For the tunnel `name`, without an adapter. A service begins before the network is there: a name of a host that leads nowhere is
    /// looked up again later; and filters know it by its own SID.
    #[must_use]
    pub fn of(name: &str, is_service: bool) -> Self {
        Self {
            tunnel: name.to_owned(),
            is_service,
            adapter: None,
            filters: None,
            names: Names::default(),
        }
    }

    fn adapter(&self) -> io::Result<&Adapter> {
        self.adapter.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn luid(&self) -> io::Result<Luid> {
        Ok(self.adapter()?.luid)
    }
}

impl Adapter {
    /// The adapter of a device that was made, when driver and stack have it.
    fn of(made: Made) -> io::Result<Self> {
        let (instance, owned) = match made {
            Made::Here(device) => (device.instance.clone(), Some(device)),
            Made::Elsewhere(instance) => (instance, None),
        };
        let why = "the adapter did not start: see whether the driver is installed, and what Windows says of the device";
        let path = patiently(why, || match device::interfaces(Some(&instance)) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            paths => Ok(paths?.into_iter().next()),
        })?;
        let guid = device::guid_of(&path)?;
        let luid = Luid::of(device::luid_of(&guid)?);
        let why = "Windows did not begin to use the adapter";
        patiently(why, || Ok(luid.is_known()?.then_some(())))?;
        let device = device::open(&path)?;
        Ok(Self { owned, device, guid, luid })
    }

    fn state(&self, state: AdapterState) -> io::Result<Option<AdapterState>> {
        let mut word = [0; 4];
        let asked = (state as u32).to_le_bytes();
        let room = if state == AdapterState::Query { &mut word[..] } else { &mut [] };
        let answer = self.device.control(SET_ADAPTER_STATE, &asked, room)?;
        answer.status.check()?;
        Ok(AdapterState::parse(&word))
    }
}

impl System for Machine {
    fn open_adapter(&mut self, name: &str, guid: Guid) -> io::Result<Before> {
        let adapter = Adapter::of(SoftwareDevice::make(guid)?)?;
        let before = if adapter.owned.is_some() { Before::Absent } else { Before::There };
        if before == Before::Absent {
            name_connection(&adapter.guid, name)?;
            // What the last adapter of this GUID had, which may not have gone down.
            dns::set(adapter.guid, &Dns::default())?;
        }
        self.adapter = Some(adapter);
        Ok(before)
    }

    fn remove_adapter(&mut self) -> io::Result<()> {
        // Its device closes; what it had of DNS Windows would keep for the GUID.
        let gone = self.adapter.take();
        gone.map_or(Ok(()), |adapter| dns::set(adapter.guid, &Dns::default()))
    }

    fn configuration(&mut self) -> io::Result<Zeroizing<Vec<u8>>> {
        Ok(driver::get(&*self.adapter()?.device)?)
    }

    fn configure(&mut self, configuration: Zeroizing<Vec<u8>>) -> io::Result<()> {
        Ok(driver::set(&*self.adapter()?.device, configuration)?)
    }

    fn filter(&mut self, filters: &[Filter]) -> io::Result<()> {
        let service = format!("{TUNNEL_PREFIX}{}", self.tunnel);
        let service = self.is_service.then(|| Sid::of_service(&service));
        self.filters = Some(Filters::install(filters, self.luid()?, service.as_ref())?);
        Ok(())
    }

    fn unfilter(&mut self) -> io::Result<()> {
        self.filters = None;
        Ok(())
    }

    fn default_mtu(&mut self) -> io::Result<Option<u16>> {
        default_mtu(self.adapter.as_ref().map(|adapter| adapter.luid))
    }

    fn largest_mtu(&mut self) -> io::Result<u16> {
        self.luid()?.largest_mtu()
    }

    fn interface(&mut self) -> io::Result<Interface> {
        self.luid()?.interface()
    }

    fn set_interface(&mut self, interface: Interface) -> io::Result<()> {
        self.luid()?.set_interface(interface)
    }

    fn bring_up(&mut self) -> io::Result<Before> {
        let adapter = self.adapter()?;
        if adapter.state(AdapterState::Query)? == Some(AdapterState::Up) {
            return Ok(Before::There);
        }
        adapter.state(AdapterState::Up).map(|_| Before::Absent)
    }

    fn bring_down(&mut self) -> io::Result<()> {
        self.adapter()?.state(AdapterState::Down).map(drop)
    }

    fn add_address(&mut self, address: Prefix) -> io::Result<Before> {
        self.luid()?.add_address(address)
    }

    fn remove_address(&mut self, address: Prefix) -> io::Result<()> {
        self.luid()?.remove_address(address)
    }

    fn add_route(&mut self, route: Prefix) -> io::Result<Before> {
        self.luid()?.add_route(route)
    }

    fn remove_route(&mut self, route: Prefix) -> io::Result<()> {
        self.luid()?.remove_route(route)
    }

    fn dns(&mut self) -> io::Result<Dns> {
        dns::get(self.adapter()?.guid)
    }

    fn set_dns(&mut self, dns: &Dns) -> io::Result<()> {
        dns::set(self.adapter()?.guid, dns)
    }

    fn run(&mut self, command: &str) -> io::Result<()> {
        interpreter::run(command, &self.tunnel, COMMAND_MAX)
    }

    fn resolve(&mut self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let found = (host, port).to_socket_addrs().map(Iterator::collect);
        match self.names.or_last(host, port, found) {
            Err(_) if self.is_service => Ok(Vec::new()),
            found => found,
        }
    }
}

/// Asks until there is an answer, but not for ever.
fn patiently<T>(why: &str, mut ask: impl FnMut() -> io::Result<Option<T>>) -> io::Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask()? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            return Err(io::Error::other(why));
        }
        std::thread::sleep(PAUSE);
    }
}
