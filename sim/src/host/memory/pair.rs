//! Two computers, one tunnel between them: what the demo shows and most scenarios begin with.
//!
//! ```text
//!   10.9.0.1 fd09::1 ┌───────┐ 192.0.2.1    network    198.51.100.1 ┌──────┐ 10.9.0.2 fd09::2
//!   ──── endpoint ───┤ alpha ├──────────────────────────────────────┤ beta ├─── endpoint ────
//!                    └───────┘ 2001:db8:1::1        2001:db8:2::1   └──────┘
//! ```
//!
//! [`Station`] is one half, for scenarios that need more than two; [`Station::beside`] is another
//! adapter of the same driver, and [`Station::restart`] the same machine with the driver loaded anew.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use abi::ioctl::writer::{InterfaceFields, PeerFields};
use abi::ioctl::{AdapterState, AllowedIp, Set, Writer, interface_flag, peer_flag};

use super::endpoint::Endpoint;
use super::{Host, Network};
use crate::host::Outer;
use crate::host::computer::{BootError, Computer, Tunnel};
use crate::host::routes::Prefix;
use crate::nt::machine::Options;
use crate::verifier::report::Leak;
use crate::verifier::schedule::World;

/// The port that station 1 of a machine listens on; one beside it has its number added.
pub const PORT: u16 = 51820;

/// A peer as a station is told of it; without `Debug`, for its key.
#[derive(Clone)]
pub struct PeerSettings {
    /// Its public key.
    pub public_key: [u8; 32],
    /// Where it is; none waits for it.
    pub endpoint: Option<SocketAddr>,
    /// The shared secret; none is zeros.
    pub preshared_key: Option<[u8; 32]>,
    /// Seconds between keepalives; 0 is off.
    pub persistent_keepalive_s: u16,
    /// What is routed to it.
    pub allowed_ips: Vec<Prefix>,
}

/// A computer in a network, one tunnel on it, and a small host behind that.
///
/// The fields are dropped in this order: a tunnel is removed by a machine that still runs, else whoever
/// drops a station on the way out of a failed test waits for it.
pub struct Station {
    tunnel: Option<Tunnel>,
    computer: Arc<Computer>,
    host: Arc<Host>,
    endpoint: Arc<Endpoint>,
    number: u8,
    outer: [IpAddr; 2],
    port: u16,
    adapter: u32,
}

impl Station {
    /// Boots station `number` (1 to 255) with the driver at `driver`; its tunnel is down and has a key.
    ///
    /// # Errors
    ///
    /// [`BootError`].
    pub fn boot(
        world: &Arc<World>,
        network: &Network,
        number: u8,
        options: Options,
        driver: &Path,
    ) -> Result<Self, BootError> {
        Self::boot_behind(world, network, number, options, driver, |host| host)
    }

    /// The same, with what `outer` puts between the machine and its host in the network.
    ///
    /// # Errors
    ///
    /// [`BootError`].
    pub fn boot_behind(
        world: &Arc<World>,
        network: &Network,
        number: u8,
        options: Options,
        driver: &Path,
        outer: impl FnOnce(Arc<Host>) -> Arc<dyn Outer>,
    ) -> Result<Self, BootError> {
        let addresses = outer_addresses(number);
        let host = network.plug_in(&addresses);
        let outer = outer(host.clone());
        let computer = Arc::new(Computer::boot(world, options, outer, driver)?);
        Self::on(computer, host, number, addresses, PORT)
    }

    /// Another adapter of this station's driver: with the inner addresses of station `number`, behind
    /// this one's outer addresses, on a port of its own. To be shut down before this one.
    ///
    /// # Errors
    ///
    /// [`BootError`].
    pub fn beside(&self, number: u8) -> Result<Self, BootError> {
        let port = PORT + u16::from(number);
        Self::on(self.computer.clone(), self.host.clone(), number, self.outer, port)
    }

    /// The rest of [`Station::boot`]: a tunnel, and a host behind it.
    fn on(
        computer: Arc<Computer>,
        host: Arc<Host>,
        number: u8,
        outer: [IpAddr; 2],
        port: u16,
    ) -> Result<Self, BootError> {
        let world = computer.machine().world().clone();
        let tunnel = computer.add_tunnel()?;
        let addresses = inner_addresses(number);
        let own: Vec<(IpAddr, u8)> =
            addresses.iter().map(|a| (*a, if a.is_ipv4() { 24 } else { 64 })).collect();
        let routes: Vec<Prefix> =
            own.iter().map(|(address, length)| Prefix::new(*address, *length)).collect();
        let adapter = host.plug_in_adapter(tunnel.adapter().luid(), &own, &routes);
        let (sender, machine) = (tunnel.adapter().clone(), computer.machine().clone());
        let transmit = Box::new(move |packet: &[u8], mss: usize| match mss {
            0 => sender.send(&machine, packet).is_ok(),
            _ => sender.send_super(&machine, packet, mss).is_ok(),
        });
        let endpoint = Endpoint::new(&world, &addresses, transmit);
        // The endpoint has the adapter, to send by.
        let inbox = Arc::downgrade(&endpoint);
        tunnel.adapter().on_receive(move |packets| {
            let Some(inbox) = inbox.upgrade() else { return };
            for packet in packets.iter() {
                inbox.deliver(packet.pieces().flatten().copied().collect());
            }
        });
        let tunnel = Some(tunnel);
        let station = Self { number, outer, port, host, computer, tunnel, adapter, endpoint };
        let key: [u8; 32] =
            std::array::from_fn(|at| (at as u8).wrapping_mul(29) ^ number.wrapping_mul(83));
        let configured = station.configure_interface(&key, port);
        configured.map_err(|status| BootError::Device("WG_IOCTL_SET", status))?;
        Ok(station)
    }

    /// The network's view of its computer: addresses, routes, NAT.
    #[must_use]
    pub fn host(&self) -> &Arc<Host> {
        &self.host
    }

    /// The machine and its driver.
    #[must_use]
    pub fn computer(&self) -> &Computer {
        &self.computer
    }

    /// The tunnel.
    ///
    /// # Panics
    ///
    /// Never: it is there until [`Station::shut_down`] takes the station.
    #[must_use]
    pub fn tunnel(&self) -> &Tunnel {
        self.tunnel.as_ref().unwrap_or_else(|| unreachable!("taken only with the station"))
    }

    /// The host behind the adapter.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// Its addresses inside the tunnel: IPv4, IPv6.
    #[must_use]
    pub fn inner(&self) -> [IpAddr; 2] {
        inner_addresses(self.number)
    }

    /// Its addresses outside: IPv4, IPv6.
    #[must_use]
    pub fn outer(&self) -> [IpAddr; 2] {
        self.outer
    }

    /// The port it was first told to listen on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sets private key and port.
    ///
    /// # Errors
    ///
    /// The status.
    pub fn configure_interface(&self, private_key: &[u8; 32], port: u16) -> Result<(), i32> {
        let fields = InterfaceFields {
            flags: interface_flag::HAS_PRIVATE_KEY | interface_flag::HAS_LISTEN_PORT,
            listen_port: port,
            private_key,
            public_key: &[0; 32],
        };
        self.tunnel().set(&written(&fields, &[]))
    }

    /// Changes the port it listens on, and nothing else.
    ///
    /// # Errors
    ///
    /// The status.
    pub fn set_port(&self, port: u16) -> Result<(), i32> {
        let flags = interface_flag::HAS_LISTEN_PORT;
        let (private_key, public_key) = (&[0; 32], &[0; 32]);
        let fields = InterfaceFields { flags, listen_port: port, private_key, public_key };
        self.tunnel().set(&written(&fields, &[]))
    }

    /// Its public key, as the driver says.
    ///
    /// # Errors
    ///
    /// The status; 0 if the answer has no key.
    pub fn public_key(&self) -> Result<[u8; 32], i32> {
        let answer = self.tunnel().get()?;
        Set::parse(&answer).ok().and_then(|set| set.public_key().copied()).ok_or(0)
    }

    /// Its private key, as the driver says.
    ///
    /// # Errors
    ///
    /// The status; 0 if the answer has no key.
    pub fn private_key(&self) -> Result<[u8; 32], i32> {
        let answer = self.tunnel().get()?;
        Set::parse(&answer).ok().and_then(|set| set.private_key().copied()).ok_or(0)
    }

    /// Adds or changes peers.
    ///
    /// # Errors
    ///
    /// The status.
    pub fn set_peers(&self, peers: &[PeerSettings]) -> Result<(), i32> {
        let fields = InterfaceFields {
            flags: 0,
            listen_port: 0,
            private_key: &[0; 32],
            public_key: &[0; 32],
        };
        self.tunnel().set(&written(&fields, peers))
    }

    /// Removes the peer with this key.
    ///
    /// # Errors
    ///
    /// The status.
    pub fn remove_peer(&self, public_key: &[u8; 32]) -> Result<(), i32> {
        let interface = InterfaceFields {
            flags: 0,
            listen_port: 0,
            private_key: &[0; 32],
            public_key: &[0; 32],
        };
        let flags = peer_flag::HAS_PUBLIC_KEY | peer_flag::REMOVE;
        let fields = PeerFields { flags, ..PeerFields::of(public_key) };
        let write = |buffer: &mut [u8]| {
            let mut writer = Writer::new(buffer, &interface);
            writer.peer(&fields);
            writer.len_bytes()
        };
        let mut buffer = vec![0; write(&mut [])];
        write(&mut buffer);
        self.tunnel().set(&buffer)
    }

    /// This station as another is told of it: by its IPv4 address, with its inner addresses.
    ///
    /// # Errors
    ///
    /// The status.
    pub fn as_peer(&self) -> Result<PeerSettings, i32> {
        let exactly = |address: IpAddr| Prefix::new(address, 128);
        Ok(PeerSettings {
            public_key: self.public_key()?,
            endpoint: Some(SocketAddr::new(self.outer[0], self.port)),
            preshared_key: None,
            persistent_keepalive_s: 0,
            allowed_ips: self.inner().map(exactly).to_vec(),
        })
    }

    /// Brings the tunnel up or down.
    ///
    /// # Errors
    ///
    /// The status.
    pub fn set_up(&self, up: bool) -> Result<(), i32> {
        self.tunnel().set_state(if up { AdapterState::Up } else { AdapterState::Down })
    }

    /// Takes everything down, unloads the driver, and loads it anew on the same machine: the new
    /// station, and what the old driver left behind.
    ///
    /// # Errors
    ///
    /// [`BootError`].
    pub fn restart(self, driver: &Path) -> Result<(Self, Vec<Leak>), BootError> {
        let place = self.take_out()?;
        let leaks = place.computer.unload()?;
        place.computer.load(driver)?;
        Ok((place.plug_in()?, leaks))
    }

    /// Takes everything down and says what the driver left behind, if this was its last station.
    ///
    /// # Errors
    ///
    /// [`BootError`].
    pub fn shut_down(mut self) -> Result<Vec<Leak>, BootError> {
        self.remove()?;
        if Arc::strong_count(&self.computer) > 1 {
            return Ok(Vec::new());
        }
        self.computer.unload()
    }

    /// Pulls the adapter out while it works, and plugs another in: down, and without peers.
    ///
    /// # Errors
    ///
    /// [`BootError`].
    pub fn replace(self) -> Result<Self, BootError> {
        self.pull_out()?.plug_in()
    }

    /// Pulls the adapter out while it works.
    ///
    /// # Errors
    ///
    /// [`BootError`].
    pub fn pull_out(mut self) -> Result<Place, BootError> {
        self.host.unplug(self.adapter);
        if let Some(tunnel) = self.tunnel.take() {
            tunnel.pull_out()?;
        }
        Ok(self.place())
    }

    /// Takes the adapter down and away.
    ///
    /// # Errors
    ///
    /// [`BootError`].
    pub fn take_out(mut self) -> Result<Place, BootError> {
        self.remove()?;
        Ok(self.place())
    }

    fn place(&self) -> Place {
        let (number, outer, port) = (self.number, self.outer, self.port);
        Place { computer: self.computer.clone(), host: self.host.clone(), number, outer, port }
    }

    /// Takes the adapter away.
    fn remove(&mut self) -> Result<(), BootError> {
        self.host.unplug(self.adapter);
        if let Some(tunnel) = self.tunnel.take() {
            // Down already is as good as down now.
            let _ = tunnel.set_state(AdapterState::Down);
            tunnel.remove()?;
        }
        Ok(())
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        self.endpoint.stop();
    }
}

/// Where a station was: a computer without its adapter.
pub struct Place {
    computer: Arc<Computer>,
    host: Arc<Host>,
    number: u8,
    outer: [IpAddr; 2],
    port: u16,
}

impl Place {
    /// The machine, with its driver if that was not unloaded.
    #[must_use]
    pub fn computer(&self) -> &Computer {
        &self.computer
    }

    /// Plugs another adapter in: down, and without peers.
    ///
    /// # Errors
    ///
    /// [`BootError`].
    pub fn plug_in(self) -> Result<Station, BootError> {
        Station::on(self.computer, self.host, self.number, self.outer, self.port)
    }
}

/// Two stations that know each other and are up.
pub struct Pair {
    /// Station 1.
    pub alpha: Station,
    /// Station 2.
    pub beta: Station,
    /// What joins them.
    pub network: Network,
    /// Their time.
    pub world: Arc<World>,
}

impl Pair {
    /// Boots two stations, makes them peers of each other, and brings them up.
    ///
    /// # Errors
    ///
    /// [`BootError`].
    pub fn boot(world: &Arc<World>, options: &Options, driver: &Path) -> Result<Self, BootError> {
        let network = Network::new(world);
        let boot = |name: &str, number| {
            let options = Options { name: name.to_owned(), ..options.clone() };
            Station::boot(world, &network, number, options, driver)
        };
        let (alpha, beta) = (boot("alpha", 1)?, boot("beta", 2)?);
        let join = |one: &Station, other: &Station| {
            one.set_peers(&[other.as_peer()?])?;
            one.set_up(true)
        };
        let joined = join(&alpha, &beta).and_then(|()| join(&beta, &alpha));
        joined.map_err(|status| BootError::Device("configuring the tunnel", status))?;
        Ok(Self { alpha, beta, network, world: world.clone() })
    }

    /// Takes both down and says what their drivers left behind.
    ///
    /// # Errors
    ///
    /// [`BootError`].
    pub fn shut_down(self) -> Result<Vec<Leak>, BootError> {
        let mut leaks = self.alpha.shut_down()?;
        leaks.extend(self.beta.shut_down()?);
        Ok(leaks)
    }
}

fn outer_addresses(number: u8) -> [IpAddr; 2] {
    let v4 = if number.is_multiple_of(2) {
        [198, 51, 100, number / 2]
    } else {
        [192, 0, 2, number / 2 + 1]
    };
    let v6 = [0x2001, 0xDB8, u16::from(number), 0, 0, 0, 0, 1];
    [v4.into(), v6.into()]
}

fn inner_addresses(number: u8) -> [IpAddr; 2] {
    [[10, 9, 0, number].into(), [0xFD09, 0, 0, 0, 0, 0, 0, u16::from(number)].into()]
}

/// The buffer of a SET.
fn written(interface: &InterfaceFields<'_>, peers: &[PeerSettings]) -> Vec<u8> {
    let write = |buffer: &mut [u8]| {
        let mut writer = Writer::new(buffer, interface);
        for peer in peers {
            writer.peer(&peer_fields(peer));
            for prefix in &peer.allowed_ips {
                writer.allowed_ip(&AllowedIp {
                    address: prefix.address,
                    cidr: prefix.length,
                    remove: false,
                });
            }
        }
        writer.len_bytes()
    };
    let mut buffer = vec![0; write(&mut [])];
    write(&mut buffer);
    buffer
}

fn peer_fields(peer: &PeerSettings) -> PeerFields<'_> {
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    PeerFields {
        flags: peer_flag::HAS_PUBLIC_KEY
            | peer_flag::HAS_PERSISTENT_KEEPALIVE
            | peer_flag::REPLACE_ALLOWED_IPS
            | flag(peer.preshared_key.is_some(), peer_flag::HAS_PRESHARED_KEY)
            | flag(peer.endpoint.is_some(), peer_flag::HAS_ENDPOINT),
        preshared_key: peer.preshared_key.as_ref().unwrap_or(&[0; 32]),
        persistent_keepalive_s: peer.persistent_keepalive_s,
        endpoint: peer.endpoint,
        ..PeerFields::of(&peer.public_key)
    }
}
