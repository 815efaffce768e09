//! The control requests: who may make them, and what they do.
//!
//! The caller is judged in his own thread, when he opens the device and again for each request;
//! from there a request goes to a queue whose handler runs in any thread and reads nothing of the
//! caller. Only the adapter's state is set in the caller's thread, because the sockets belong to
//! the process that brings the adapter up. A buffer is copied once, and the copy parsed; what may
//! hold keys is zeroed. `PASSIVE_LEVEL`.

use alloc::vec::Vec;

use abi::{
    capture::{INNER, START_LEN, Start},
    events::Event,
    ioctl::{
        self, AdapterState, LOG_ENTRY_LEN, ParseError, SET_MAX_LEN, Set, UNIX_EPOCH_FILETIME,
        Writer, interface_flag, peer_flag,
        writer::{InterfaceFields, PeerFields},
    },
    policy::Policy,
    statistics::{self, Kind},
};
use crypto::{
    aead::wipe_stack,
    protocol::{ConfigError, InterfaceStatus, PeerStatus, Visitor, allowed_ips::Prefix},
    sync::Shared,
};
use netadapter::QueueCounts;
use nt::{
    access,
    closing::Closing,
    irql::Passive,
    process::Process,
    status::NtError,
    wdf::{Control, Device as Handle, DeviceEvents, File, Request, RequestorMode},
};
use zeroize::Zeroizing;

use crate::{
    device::{Device, Refused},
    ground::AtPassive,
    interceptions::Attached,
    shown::Kept,
    workers::Errand,
};

const NO_KEY: [u8; 32] = [0; 32];

/// The context of a device object.
pub(crate) struct Context {
    _shown: [Kept<Device>; 2],
    pub(crate) device: Shared<Device>,
    /// Let go of when the device has closed.
    _callouts: Closing<Attached>,
}

impl Context {
    /// Of a device, which is in dumps from now on.
    pub(crate) fn new(device: Shared<Device>, callouts: Closing<Attached>) -> Self {
        let whole = Kept::new(&device, |device| device);
        let counters = Kept::new(&device, |device| device.counters.of_cpus());
        Self { _shown: [whole, counters], device, _callouts: callouts }
    }
}

impl DeviceEvents for Context {
    /// The adapter is started here and not when it is made: a device that is stopped for other resources has it stopped, and
    /// starts on the same object.
    fn prepare_hardware(&self, _handle: Handle, passive: &mut Passive) -> Result<(), NtError> {
        let adapter = &self.device.adapter;
        adapter.start(passive)?;
        self.device.exclude_luid(adapter.luid(passive))?;
        adapter.set_link_up(self.device.tunnel.is_up());
        Ok(())
    }

    fn release_hardware(&self, _handle: Handle, _passive: &mut Passive) {
        self.device.include_luid();
    }

    fn d0_entry(
        &self,
        _handle: Handle,
        _from: nt::wdf::PowerState,
        passive: &mut Passive,
    ) -> Result<(), NtError> {
        self.device.tunnel.resumed(&AtPassive(passive), crate::now());
        self.device.note(Event::PoweredUp, [0; 3]);
        Ok(())
    }

    fn d0_exit(&self, _handle: Handle, _to: nt::wdf::PowerState, _passive: &mut Passive) {
        self.device.note(Event::PoweredDown, [0; 3]);
    }

    fn cleanup(&self, passive: &mut Passive) {
        self.device.note(Event::DeviceRemoved, [0; 3]);
        self.device.core.remove(&self.device, passive);
        self.device.close(passive);
    }

    fn open(&self, request: &Request, passive: &mut Passive) -> Result<(), NtError> {
        judge(request, passive)
    }

    fn closed(&self, file: File, passive: &mut Passive) {
        self.device.capture.close(Some(file), &AtPassive(passive));
    }

    fn in_caller_context(
        &self,
        handle: Handle,
        request: Request,
        control: Control,
        passive: &mut Passive,
    ) {
        if let Err(error) = judge(&request, passive) {
            return request.complete(Err(error), 0);
        }
        match control.code {
            ioctl::SET_ADAPTER_STATE => self.set_state(request, passive),
            ioctl::GET
            | ioctl::SET
            | ioctl::READ_LOG_LINE
            | ioctl::GET_STATISTICS
            | ioctl::RELOAD_POLICY
            | ioctl::START_CAPTURE
            | ioctl::READ_CAPTURE => {
                if let Err((request, error)) = request.enqueue(handle) {
                    request.complete(Err(error), 0);
                }
            }
            _ => request.complete(Err(NtError::INVALID_DEVICE_REQUEST), 0),
        }
    }

    fn device_control(&self, request: Request, control: Control, passive: &mut Passive) {
        match control.code {
            ioctl::GET => self.get(request, control, passive),
            ioctl::SET => self.set(request, passive),
            ioctl::READ_LOG_LINE if control.output_len < LOG_ENTRY_LEN => {
                request.complete(Err(NtError::BUFFER_TOO_SMALL), 0);
            }
            ioctl::READ_LOG_LINE => self.device.log.read(passive.lend(), request),
            ioctl::GET_STATISTICS => self.get_statistics(request, control),
            ioctl::RELOAD_POLICY => {
                request.complete(self.reload_policy(control, passive), 0);
            }
            ioctl::START_CAPTURE => {
                let started = self.start_capture(&request, control, passive);
                request.complete(started, 0);
            }
            ioctl::READ_CAPTURE => self.read_capture(request, control, passive),
            _ => request.complete(Err(NtError::INVALID_DEVICE_REQUEST), 0),
        }
    }
}

/// Whether the thread that makes a request may make it.
fn judge(request: &Request, passive: &Passive) -> Result<(), NtError> {
    match request.requestor_mode() {
        RequestorMode::Kernel => Ok(()),
        RequestorMode::User => access::check_administrators(passive),
    }
}

impl Context {
    /// SET_ADAPTER_STATE, in the thread of the caller.
    fn set_state(&self, mut request: Request, passive: &Passive) {
        let done = self.try_set_state(&mut request, passive);
        let written = *done.as_ref().unwrap_or(&0);
        request.complete(done.map(drop), written);
    }

    fn try_set_state(&self, request: &mut Request, passive: &Passive) -> Result<usize, NtError> {
        let mut word = [0; 4];
        request.input()?.copy_to(&mut word)?;
        match AdapterState::parse(&word).ok_or(NtError::INVALID_PARAMETER)? {
            AdapterState::Up => {
                let mut errand = Errand { device: &self.device, passive };
                let owner = Process::current(passive);
                Device::bring_up(&self.device, owner, &mut errand, passive)?;
                Ok(0)
            }
            AdapterState::Down => {
                self.device.take_down(passive);
                Ok(0)
            }
            AdapterState::Query => {
                let up = self.device.tunnel.is_up();
                let state = if up { AdapterState::Up } else { AdapterState::Down };
                let mut output = request.output()?;
                if output.len() != word.len() {
                    return Err(NtError::INVALID_PARAMETER);
                }
                output.write(&(state as u32).to_le_bytes())?;
                Ok(word.len())
            }
        }
    }

    /// SET.
    fn set(&self, request: Request, passive: &Passive) {
        let done = self.try_set(&request, passive);
        wipe_stack(2);
        let event = if done.is_ok() { Event::Configured } else { Event::Refused };
        let bytes = request.direct_input().map_or(0, |input| input.len() as u64);
        self.device.note(event, [bytes, 0, 0]);
        let consumed = *done.as_ref().unwrap_or(&0);
        request.complete(done.map(drop), consumed);
    }

    // Not inlined: what it leaves has to lie below its caller, which wipes it.
    #[inline(never)]
    fn try_set(&self, request: &Request, passive: &Passive) -> Result<usize, NtError> {
        let untrusted = request.direct_input()?;
        if untrusted.len() > SET_MAX_LEN {
            return Err(NtError::INVALID_PARAMETER);
        }
        // Keys are in it: the copy is zeroed.
        let copy = Zeroizing::new(untrusted.copy()?);
        let set = Set::parse(&copy).map_err(parse_status)?;
        let mut errand = Errand { device: &self.device, passive };
        Device::configure(&self.device, &set, &mut errand, passive).map_err(
            |refused| match refused {
                Refused::Config(error) => config_status(error),
                Refused::Port(error) => error,
            },
        )?;
        Ok(set.len_bytes())
    }

    /// GET.
    fn get(&self, mut request: Request, control: Control, passive: &Passive) {
        let got = self.try_get(&mut request, control, passive);
        wipe_stack(2);
        let (result, len) = match got {
            Ok(len) if len > control.output_len => (Err(NtError::BUFFER_OVERFLOW), len),
            Ok(len) => (Ok(()), len),
            Err(error) => (Err(error), 0),
        };
        request.complete(result, len);
    }

    /// Writes the configuration if it fits, and returns its length.
    // Not inlined, as above.
    #[inline(never)]
    fn try_get(
        &self,
        request: &mut Request,
        control: Control,
        passive: &Passive,
    ) -> Result<usize, NtError> {
        let len = self.write_configuration(&mut [], passive)?;
        if len > control.output_len {
            return Ok(len);
        }
        let mut answer = Zeroizing::new(Vec::new());
        answer.try_reserve_exact(len).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        answer.resize(len, 0);
        // It may have grown meanwhile; then the caller asks again.
        let now = self.write_configuration(&mut answer, passive)?;
        if now <= len {
            request.output()?.write(answer.get(..now).unwrap_or_default())?;
        }
        Ok(if now <= len { now } else { control.output_len.saturating_add(1).max(now) })
    }

    fn write_configuration(&self, buffer: &mut [u8], passive: &Passive) -> Result<usize, NtError> {
        let port = self.device.port(passive);
        let mut answer = Answer { buffer: Some(buffer), writer: None, port };
        self.device
            .tunnel
            .get(&AtPassive(passive), &mut answer)
            .map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        answer.writer.map(|writer| writer.len_bytes()).ok_or(NtError::UNSUCCESSFUL)
    }

    /// RELOAD_POLICY.
    fn reload_policy(&self, control: Control, passive: &Passive) -> Result<(), NtError> {
        if (control.input_len, control.output_len) != (0, 0) {
            return Err(NtError::INVALID_PARAMETER);
        }
        let reading = self.device.core.follow_policy(passive);
        self.device.say_refused(&reading, passive);
        Ok(())
    }

    /// START_CAPTURE.
    fn start_capture(
        &self,
        request: &Request,
        control: Control,
        passive: &Passive,
    ) -> Result<(), NtError> {
        if (control.input_len, control.output_len) != (START_LEN, 0) {
            return Err(NtError::INVALID_PARAMETER);
        }
        let mut bytes = [0; START_LEN];
        request.input()?.copy_to(&mut bytes)?;
        let start = Start::parse(&bytes).ok_or(NtError::INVALID_PARAMETER)?;
        // Asked again whenever there is a packet.
        if start.what & INNER != 0 && self.device.core.policies.get(Policy::TraceInner) == 0 {
            return Err(NtError::ACCESS_DISABLED_BY_POLICY);
        }
        self.device.capture.open(request.file(), start, &AtPassive(passive))
    }

    /// READ_CAPTURE.
    fn read_capture(&self, mut request: Request, control: Control, passive: &Passive) {
        let (file, ground) = (request.file(), AtPassive(passive));
        let read = self
            .device
            .capture
            .read(file, control.output_len, &ground, |answer| request.output()?.write(answer));
        let written = *read.as_ref().unwrap_or(&0);
        request.complete(read.map(drop), written);
    }

    /// GET_STATISTICS.
    fn get_statistics(&self, mut request: Request, control: Control) {
        let written = self.try_get_statistics(&mut request, control);
        let len = *written.as_ref().unwrap_or(&0);
        request.complete(written.map(drop), len);
    }

    fn try_get_statistics(
        &self,
        request: &mut Request,
        control: Control,
    ) -> Result<usize, NtError> {
        let Device { core, counters, tunnel, adapter, .. } = &*self.device;
        let (room, mut block) = (control.output_len.min(statistics::ROOM), Vec::new());
        block.try_reserve_exact(room).map_err(|_| NtError::INSUFFICIENT_RESOURCES)?;
        block.resize(room, 0);
        let dpc = |cpu| core.processors.longest_dpc_100ns(cpu);
        let len = counters.write(&mut block, tunnel.staged_discards(), dpc);
        let mut len = len.ok_or(NtError::BUFFER_TOO_SMALL)?;
        let receive = adapter.rx().counts().map(|counts| (Kind::ReceiveQueue, counts));
        let transmit = [(Kind::TransmitQueue, (0, adapter.tx().counts()))];
        for (kind, (number, counts)) in receive.chain(transmit) {
            let QueueCounts { packets, bytes, waiting, most_waiting } = counts;
            let words = [packets, bytes, waiting, most_waiting];
            len = statistics::write_part(&mut block, len, kind, number, &words);
        }
        request.output()?.write(block.get(..len).unwrap_or_default())?;
        Ok(len)
    }
}

/// Encodes what the tunnel enumerates.
struct Answer<'b> {
    buffer: Option<&'b mut [u8]>,
    writer: Option<Writer<'b>>,
    port: u16,
}

impl Visitor for Answer<'_> {
    fn interface(&mut self, interface: &InterfaceStatus) {
        let Some(buffer) = self.buffer.take() else { return };
        let private_key = interface.private_key.as_ref();
        let public_key = interface.public_key.as_ref();
        let mut flags = interface_flag::HAS_LISTEN_PORT;
        flags |= private_key.map_or(0, |_| interface_flag::HAS_PRIVATE_KEY);
        flags |= public_key.map_or(0, |_| interface_flag::HAS_PUBLIC_KEY);
        let fields = InterfaceFields {
            flags,
            listen_port: self.port,
            private_key: private_key.map_or(&NO_KEY, |key| key.expose()),
            public_key: public_key.unwrap_or(&NO_KEY),
        };
        self.writer = Some(Writer::new(buffer, &fields));
    }

    fn peer(&mut self, peer: &PeerStatus) {
        let Some(writer) = &mut self.writer else { return };
        let mut flags = peer_flag::HAS_PUBLIC_KEY
            | peer_flag::HAS_PERSISTENT_KEEPALIVE
            | peer_flag::HAS_PROTOCOL_VERSION;
        let has_preshared_key = !peer.preshared_key.is_zero();
        flags |= if has_preshared_key { peer_flag::HAS_PRESHARED_KEY } else { 0 };
        flags |= peer.endpoint.map_or(0, |_| peer_flag::HAS_ENDPOINT);
        let filetime = |since_1970: core::time::Duration| {
            nt::time::to_100ns(since_1970).saturating_add(UNIX_EPOCH_FILETIME)
        };
        writer.peer(&PeerFields {
            flags,
            public_key: &peer.public_key,
            preshared_key: peer.preshared_key.expose(),
            persistent_keepalive_s: peer.persistent_keepalive_s,
            endpoint: peer.endpoint.map(|endpoint| endpoint.remote),
            tx_bytes: peer.tx_bytes,
            rx_bytes: peer.rx_bytes,
            last_handshake_filetime: peer.latest_handshake.map_or(0, filetime),
        });
    }

    fn allowed_ip(&mut self, prefix: Prefix) {
        let Some(writer) = &mut self.writer else { return };
        let (address, cidr) = (prefix.address(), prefix.cidr());
        writer.allowed_ip(&ioctl::AllowedIp { address, cidr, remove: false });
    }
}

/// The status of a buffer that is no configuration.
fn parse_status(error: ParseError) -> NtError {
    match error {
        ParseError::ProtocolVersion => NtError::NOT_IMPLEMENTED,
        ParseError::Truncated
        | ParseError::UnknownFlag
        | ParseError::NoPublicKey
        | ParseError::AddressFamily
        | ParseError::PrefixLength => NtError::INVALID_PARAMETER,
    }
}

/// The status of a configuration that cannot be applied.
fn config_status(error: ConfigError) -> NtError {
    match error {
        ConfigError::DuplicatePeer => NtError::INVALID_PARAMETER,
        ConfigError::TooManyPeers | ConfigError::OutOfMemory => NtError::INSUFFICIENT_RESOURCES,
        ConfigError::Busy => NtError::DEVICE_NOT_READY,
    }
}
