//! One datagram socket: made, bound, listening, sending, closed.
//!
//! Receive callbacks are enabled per socket (`SO_WSK_EVENT_CALLBACK`) and not for the whole client
//! (`WSK_SET_STATIC_EVENT_CALLBACKS`): with the latter they come from the moment a socket is
//! created, before its creator knows it, also for one that is about to be given up because its port
//! is taken in the other family. Here they come when [`Socket::listen`] says so.
//!
//! The socket's context outlives the socket. Two rundowns guard it: `calls` counts the calls in
//! progress and the lists held, of which there must be none when `WskCloseSocket` is called;
//! `sending` counts sends from call to completion, which that call hastens, and which are waited
//! for after it. So nothing waits for a completion that only the close brings.
//!
//! Source: network/closing-a-socket, network/receiving-data-over-a-datagram-socket,
//! wsk/nc-wsk-pfn_wsk_close_socket.

use alloc::boxed::Box;
use core::{
    ffi::c_void,
    marker::PhantomData,
    ptr::{self, NonNull},
    sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering},
};

use wdk_sys::{NTSTATUS, PDEVICE_OBJECT, PIRP, STATUS_PENDING, STATUS_SUCCESS};

use super::{
    datagrams::{Datagrams, measure},
    provider::Provider,
    request::SendRequest,
};
use crate::{
    irp::{CompletionRoutine, Irp, STATUS_MORE_PROCESSING_REQUIRED},
    irql::{AtMostDispatch, Passive},
    netio::SockaddrInet,
    pool::try_box,
    process::Process,
    rundown::{Inside, Rundown},
    status::NtError,
    sys::wsk::{
        IPPROTO_UDP, NPI_WSK_INTERFACE_ID, SO_WSK_EVENT_CALLBACK, SOCK_DGRAM, SOL_SOCKET,
        WSK_CLIENT_DATAGRAM_DISPATCH, WSK_DATAGRAM_INDICATION, WSK_EVENT_CALLBACK_CONTROL,
        WSK_EVENT_RECEIVE_FROM, WSK_FLAG_DATAGRAM_SOCKET, WSK_PROVIDER_DATAGRAM_DISPATCH,
        WSK_SET_OPTION, WSK_SOCKET,
    },
};

/// How many datagrams of one socket may be held at once: more would starve WSK of buffers.
const MOST_HELD: usize = 4096;
/// `STATUS_FILE_FORCED_CLOSED`: the transport under the socket is gone.
const STATUS_FILE_FORCED_CLOSED: NTSTATUS = 0xC000_00B6_u32.cast_signed();

/// Why a list of datagrams was left with WSK, unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// As many are held as may be.
    Full,
    /// The socket is closing.
    Closing,
}

/// What a socket tells its owner. Called on any CPU, on several at once.
///
/// Dropped at `PASSIVE_LEVEL`, when the socket has closed.
pub trait Events: Send + Sync + 'static {
    /// Datagrams arrived; they are the callee's until it drops them.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    fn received(&self, datagrams: Datagrams, level: &AtMostDispatch);

    /// `count` datagrams arrived that could not be held, and are gone.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    fn refused(&self, count: usize, why: Refused, level: &AtMostDispatch);

    /// A request is complete: how many bytes of it were sent, or why none were known to be.
    ///
    /// May be called before [`Socket::send`] returns. Dropping the request returns it to its pool; by
    /// `sender` it can be sent once more.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    fn sent(
        &self,
        request: SendRequest,
        outcome: Result<usize, NtError>,
        sender: Sender<'_>,
        level: &AtMostDispatch,
    );

    /// The transport under the socket is gone: it will neither receive nor send again.
    ///
    /// May come more than once.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`.
    fn lost(&self, level: &AtMostDispatch);
}

/// What is shared by a socket, its callbacks, the datagrams held of it and the sends in flight.
pub(super) struct Core {
    /// Null until the socket is created, and after it has closed.
    socket: AtomicPtr<WSK_SOCKET>,
    /// Calls in progress and lists held.
    calls: Rundown,
    /// Sends that are not complete.
    sending: Rundown,
    /// Datagrams in the lists held.
    held: AtomicUsize,
    lost: AtomicBool,
}

impl Core {
    /// Counts a list of `count` datagrams as held.
    fn hold(&self, count: usize) -> Result<(), Refused> {
        let inside = self.calls.enter().ok_or(Refused::Closing)?;
        // Relaxed: the number bounds memory and orders nothing.
        let held = self.held.fetch_add(count, Ordering::Relaxed).saturating_add(count);
        if held > MOST_HELD {
            self.held.fetch_sub(count, Ordering::Relaxed);
            return Err(Refused::Full);
        }
        // Left by `release`.
        inside.into_raw();
        Ok(())
    }

    /// Counts another list of datagrams that are held already; false when the socket is closing.
    pub(super) fn enter(&self) -> bool {
        // Left by `release`.
        self.calls.enter().map(Inside::into_raw).is_some()
    }

    /// Gives a list back to WSK and ends its being counted; the core may be gone afterwards.
    ///
    /// # Safety
    ///
    /// `core` is live; the list from `first` on, of `count` datagrams, was indicated by its socket,
    /// is counted among those held and owned by the caller; so is the list itself, by
    /// [`Core::hold`] or [`Core::enter`].
    pub(super) unsafe fn release(
        core: NonNull<Self>,
        first: Option<NonNull<WSK_DATAGRAM_INDICATION>>,
        count: usize,
    ) {
        // SAFETY: promised by the caller; live until the call that was counted is released.
        let core = unsafe { core.as_ref() };
        if let Some(first) = first {
            let socket = core.socket.load(Ordering::Acquire);
            // SAFETY: datagrams come after the socket was stored, and it closes after this call.
            let dispatch = unsafe { dispatch(socket) };
            // SAFETY: the list is the caller's to release, once, and the socket is not closing. It
            // cannot fail but for a list that is not this socket's.
            let _ = unsafe { (dispatch.WskRelease)(socket, first.as_ptr()) };
            core.held.fetch_sub(count, Ordering::Relaxed);
        }
        // SAFETY: entered by `hold` or `enter` for this list.
        drop(unsafe { core.calls.from_raw() });
    }
}

/// A socket's context, as WSK knows it.
#[repr(C)]
struct Context<E> {
    core: Core,
    events: E,
}

/// A datagram socket of one family, closed on drop.
///
/// # Invariants
///
/// `context` came from a box and is freed by `Drop`, after the socket has closed; its core holds the
/// socket, once there is one.
pub struct Socket<E: Events> {
    context: NonNull<Context<E>>,
    /// For the calls that are waited for, one at a time; there at closing whatever happens.
    pub(super) irp: Irp,
    pub(super) family: u16,
    /// Referenced until the socket has closed.
    _owner: Process,
}

// SAFETY: WSK's sockets belong to no thread, and `E` is shared by the callbacks anyway.
unsafe impl<E: Events> Send for Socket<E> {}
// SAFETY: through a shared socket datagrams are sent, which WSK allows from any thread.
unsafe impl<E: Events> Sync for Socket<E> {}

impl<E: Events> Socket<E> {
    /// Creates a socket of `family` (`AF_INET` or `AF_INET6`) that belongs to the process `owner`.
    ///
    /// # Errors
    ///
    /// What WSK answers, for instance that the family is not installed; or
    /// [`NtError::INSUFFICIENT_RESOURCES`].
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`; so is dropping the socket, which waits for its calls, the lists held, and
    /// its sends. It must not be dropped in one of its own events.
    ///
    /// Source: wsk/nc-wsk-pfn_wsk_socket.
    pub fn create(
        level: &Passive,
        provider: &Provider,
        family: u16,
        owner: Process,
        events: E,
    ) -> Result<Self, NtError> {
        let irp = Irp::allocate()?;
        let core = Core {
            socket: AtomicPtr::new(ptr::null_mut()),
            calls: Rundown::new(),
            sending: Rundown::new(),
            held: AtomicUsize::new(0),
            lost: AtomicBool::new(false),
        };
        let context = NonNull::from(Box::leak(try_box(Context { core, events })?));
        // INVARIANT: from a box, without a socket yet.
        let mut socket = Self { context, irp, family, _owner: owner };
        let npi = provider.npi();
        let process = socket._owner.as_ptr();
        // SAFETY: the provider is captured, so its table is valid.
        let create = unsafe { (*npi.Dispatch).WskSocket };
        let created = socket.irp.call(level, |irp| {
            // SAFETY: the context and its dispatch table outlive the socket; the process is
            // referenced; the packet is prepared.
            unsafe {
                create(
                    npi.Client,
                    family,
                    SOCK_DGRAM,
                    IPPROTO_UDP,
                    WSK_FLAG_DATAGRAM_SOCKET,
                    context.as_ptr().cast(),
                    ptr::from_ref(Self::DISPATCH).cast(),
                    process.cast(),
                    ptr::null_mut(),
                    ptr::null_mut(),
                    irp,
                )
            }
        })?;
        // The packet's information is the socket.
        let created = ptr::with_exposed_provenance_mut::<WSK_SOCKET>(created);
        // Release pairs with the Acquire of whoever uses the socket.
        socket.core().socket.store(created, Ordering::Release);
        Ok(socket)
    }

    /// Binds the socket.
    ///
    /// # Errors
    ///
    /// [`NtError::ADDRESS_ALREADY_EXISTS`] or [`NtError::ACCESS_DENIED`] when the port is somebody
    /// else's or reserved; otherwise what WSK answers.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    ///
    /// Source: wsk/nc-wsk-pfn_wsk_bind.
    pub fn bind(&mut self, level: &Passive, local: SockaddrInet) -> Result<(), NtError> {
        let mut local = local;
        let socket = self.raw();
        // SAFETY: the socket is open.
        let bind = unsafe { dispatch(socket) }.WskBind;
        let local = &raw mut local;
        // SAFETY: the address lives until the call is complete, which `Irp::call` waits for.
        self.irp.call(level, |irp| unsafe { bind(socket, local, 0, irp) })?;
        Ok(())
    }

    /// The address the socket is bound to.
    ///
    /// # Errors
    ///
    /// What WSK answers, for instance that it is not bound.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`.
    ///
    /// Source: wsk/nc-wsk-pfn_wsk_get_local_address.
    pub fn local_address(&mut self, level: &Passive) -> Result<SockaddrInet, NtError> {
        let mut local = SockaddrInet([0; 28]);
        let socket = self.raw();
        // SAFETY: the socket is open.
        let get = unsafe { dispatch(socket) }.WskGetLocalAddress;
        let place = &raw mut local;
        // SAFETY: room for either family's address, that lives until the call is complete.
        self.irp.call(level, |irp| unsafe { get(socket, place, irp) })?;
        Ok(local)
    }

    /// Lets datagrams come: [`Events::received`] is called from now on.
    ///
    /// # Errors
    ///
    /// What WSK answers.
    ///
    /// # IRQL
    ///
    /// `PASSIVE_LEVEL`, after binding.
    ///
    /// Source: network/so-wsk-event-callback, whose request takes no IRP.
    pub fn listen(&mut self, _level: &Passive) -> Result<(), NtError> {
        let mut control = WSK_EVENT_CALLBACK_CONTROL {
            NpiId: &raw const NPI_WSK_INTERFACE_ID,
            EventMask: WSK_EVENT_RECEIVE_FROM,
        };
        let socket = self.raw();
        // SAFETY: the socket is open.
        let control_socket = unsafe { dispatch(socket) }.WskControlSocket;
        // SAFETY: enabling a callback reads its input before it returns, and takes no IRP.
        let status = unsafe {
            control_socket(
                socket,
                WSK_SET_OPTION,
                SO_WSK_EVENT_CALLBACK,
                SOL_SOCKET,
                size_of_val(&control),
                (&raw mut control).cast(),
                0,
                ptr::null_mut(),
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
        crate::status::check(status)
    }

    /// Whether the transport is gone, so that only closing is left.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        // Relaxed: a flag that orders nothing, as everywhere.
        self.core().lost.load(Ordering::Relaxed)
    }

    /// Sends the request's datagrams; [`Events::sent`] tells what became of it, if it is taken.
    ///
    /// # Errors
    ///
    /// The request itself, when it has no datagrams or the socket is lost or closing.
    ///
    /// # IRQL
    ///
    /// `<= DISPATCH_LEVEL`. No lock may be held: the stack is called, down to the network adapter.
    ///
    /// Source: wsk/nc-wsk-pfn_wsk_send_messages.
    pub fn send(&self, request: SendRequest) -> Result<(), SendRequest> {
        self.sender().send(request)
    }

    /// What the socket tells its owner.
    ///
    /// # IRQL
    ///
    /// Any.
    #[must_use]
    pub const fn events(&self) -> &E {
        // SAFETY: by the type invariant the context lives as long as this value.
        unsafe { &self.context.as_ref().events }
    }

    const fn sender(&self) -> Sender<'_> {
        // SAFETY: as above.
        unsafe { self.context.as_ref() }.sender()
    }

    /// What WSK calls for this socket.
    const DISPATCH: &'static WSK_CLIENT_DATAGRAM_DISPATCH =
        &WSK_CLIENT_DATAGRAM_DISPATCH { WskReceiveFromEvent: receive_from_event::<E> };

    fn core(&self) -> &Core {
        // SAFETY: by the type invariant the context lives as long as this value.
        unsafe { &self.context.as_ref().core }
    }

    /// The socket, which every method runs with: `create` returns none without.
    pub(super) fn raw(&self) -> *mut WSK_SOCKET {
        // Acquire pairs with the Release of `create`.
        self.core().socket.load(Ordering::Acquire)
    }
}

/// What sends by a socket: the socket itself, or a completion of its own.
///
/// # Invariants
///
/// `core` is the first field of a context that takes completions by `completed`, and that lives for `'s`.
#[derive(Clone, Copy)]
pub struct Sender<'s> {
    core: NonNull<Core>,
    completed: CompletionRoutine,
    context: PhantomData<&'s Core>,
}

impl Sender<'_> {
    /// See [`Socket::send`].
    ///
    /// # Errors
    ///
    /// As there.
    ///
    /// # IRQL
    ///
    /// As there.
    pub fn send(self, request: SendRequest) -> Result<(), SendRequest> {
        let Self { core: shared, completed, .. } = self;
        // SAFETY: by the type invariant.
        let core = unsafe { shared.as_ref() };
        if request.message_count() == 0 || core.lost.load(Ordering::Relaxed) {
            return Err(request);
        }
        let Some(_in_call) = core.calls.enter() else { return Err(request) };
        let Some(sending) = core.sending.enter() else { return Err(request) };
        // Left by `Context::complete`.
        sending.into_raw();
        // Acquire pairs with the Release of `create`.
        let socket = core.socket.load(Ordering::Acquire);
        // SAFETY: inside `calls`, so the socket does not close before this returns.
        let send = unsafe { dispatch(socket) }.WskSendMessages;
        request.send(shared, completed, |out| {
            // SAFETY: everything passed is in the request, which is nobody's but WSK's until the
            // completion routine takes it back. That is told whatever is returned here.
            let _ = unsafe {
                send(socket, out.nodes, 0, out.remote, out.control_len, out.control, out.irp)
            };
        });
        Ok(())
    }
}

impl<E: Events> Drop for Socket<E> {
    fn drop(&mut self) {
        // SAFETY: a socket is dropped at PASSIVE_LEVEL, as `create` says.
        let level = unsafe { Passive::assume() };
        // Whoever holds datagrams or is in a call ends first; nobody begins any more.
        self.core().calls.wait(&level);
        let socket = self.raw();
        if !socket.is_null() {
            // SAFETY: the socket is open.
            let close = unsafe { dispatch(socket) }.WskCloseSocket;
            // SAFETY: no call is in progress and no datagram held, as just waited for. WSK waits
            // for its callbacks and completes what is in flight. Closing cannot be refused.
            let _ = self.irp.call(&level, |irp| unsafe { close(socket, irp) });
            self.core().socket.store(ptr::null_mut(), Ordering::Relaxed);
        }
        self.core().sending.wait(&level);
        // SAFETY: by the type invariant from a box; the socket has closed and its sends are
        // complete, so nobody else has the context.
        drop(unsafe { Box::from_raw(self.context.as_ptr()) });
    }
}

/// What can be done with a socket.
///
/// # Safety
///
/// `socket` is an open datagram socket.
pub(super) unsafe fn dispatch(socket: *mut WSK_SOCKET) -> &'static WSK_PROVIDER_DATAGRAM_DISPATCH {
    // SAFETY: promised by the caller.
    let dispatch = unsafe { (*socket).Dispatch };
    // SAFETY: WSK's tables stay as long as its provider is captured, and no call outlives that.
    unsafe { &*dispatch }
}

impl<E: Events> Context<E> {
    /// Decides whether a list is held, and passes it on; `true` when it was.
    fn receive(&self, list: *mut WSK_DATAGRAM_INDICATION, level: &AtMostDispatch) -> bool {
        let Some(first) = NonNull::new(list) else {
            self.core.lost.store(true, Ordering::Relaxed);
            self.events.lost(level);
            return false;
        };
        // SAFETY: WSK passes a list that nobody changes during the callback.
        let (last, count) = unsafe { measure(first) };
        match self.core.hold(count) {
            Ok(()) => {
                // SAFETY: counted above; the callback answers STATUS_PENDING for `true`.
                let datagrams =
                    unsafe { Datagrams::from_raw(first, last, count, NonNull::from(&self.core)) };
                self.events.received(datagrams, level);
                true
            }
            Err(why) => {
                self.events.refused(count, why, level);
                false
            }
        }
    }
}

/// `WskReceiveFromEvent`.
unsafe extern "C" fn receive_from_event<E: Events>(
    context: *mut c_void,
    _flags: u32,
    list: *mut WSK_DATAGRAM_INDICATION,
) -> NTSTATUS {
    // SAFETY: documented for up to DISPATCH_LEVEL.
    let level = unsafe { AtMostDispatch::assume() };
    // SAFETY: the context given to WskSocket, which is freed when the socket has closed.
    let context = unsafe { &*context.cast::<Context<E>>() };
    if context.receive(list, &level) { STATUS_PENDING } else { STATUS_SUCCESS }
}

/// Completion routine of [`Socket::send`].
unsafe extern "C" fn send_completed<E: Events>(
    _: PDEVICE_OBJECT,
    _: PIRP,
    context: *mut c_void,
) -> NTSTATUS {
    // SAFETY: a completion routine runs at up to DISPATCH_LEVEL.
    let level = unsafe { AtMostDispatch::assume() };
    // SAFETY: this is the routine that `Socket::send` named.
    let (request, core, outcome) = unsafe { SendRequest::completed(context) };
    // SAFETY: the core is the first field of the socket's context, which waits for this send.
    let socket = unsafe { core.cast::<Context<E>>().as_ref() };
    socket.complete(request, outcome, &level);
    STATUS_MORE_PROCESSING_REQUIRED
}

impl<E: Events> Context<E> {
    const fn sender(&self) -> Sender<'_> {
        // INVARIANT: the core is the first field, and the routine takes this context.
        let core = NonNull::from_ref(self).cast();
        Sender { core, completed: send_completed::<E>, context: PhantomData }
    }

    /// Passes on what became of a request, and ends its being counted.
    fn complete(
        &self,
        request: SendRequest,
        outcome: Result<usize, NtError>,
        level: &AtMostDispatch,
    ) {
        if outcome.is_err_and(|error| error.status() == STATUS_FILE_FORCED_CLOSED) {
            self.core.lost.store(true, Ordering::Relaxed);
            self.events.lost(level);
        }
        self.events.sent(request, outcome, self.sender(), level);
        // Last: the socket, and this context with it, may be gone right after.
        // SAFETY: entered by `Socket::send` for this request.
        drop(unsafe { self.core.sending.from_raw() });
    }
}
