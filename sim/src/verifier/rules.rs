//! The rules: what stops a simulated machine, each by the name that Microsoft has for it.
//!
//! Every stop takes a [`Rule`], and the table below is the only place where there are any. `proof` is the test, in this crate,
//! that breaks the rule on purpose and expects it; a test here sees that the test is there and names its rule.
//!
//! Sources: WDD is Microsoft's driver documentation, DDI its reference of functions, NCX the published source of NetAdapterCx.

use std::fmt;

/// What a driver must not do, or must.
#[derive(Debug, PartialEq, Eq)]
pub struct Rule {
    /// What a stop is called: by the name of Windows where it has one.
    pub name: &'static str,
    /// The bugcheck code.
    pub code: u32,
    /// What checks it in Windows, and by which names; empty if nothing does.
    pub microsoft: &'static str,
    /// What it forbids, as one sentence.
    pub forbids: &'static str,
    /// Where that was read.
    pub source: &'static str,
    /// The test that proves that it fires: a file of this crate, and a function of it.
    pub proof: (&'static str, &'static str),
}

impl Rule {
    /// Who has it, in Windows, and where it was read, in parentheses.
    pub fn origin(&self) -> String {
        if self.microsoft.is_empty() {
            format!("(no rule of Windows' verifiers; {})", self.source)
        } else {
            format!("({}; {})", self.microsoft, self.source)
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

macro_rules! rules {
    ($( $rule:ident: $code:literal $name:literal, $microsoft:literal, $source:literal, $file:literal $test:literal,
        $forbids:literal; )*) => {
        $(
            #[doc = $forbids]
            pub static $rule: Rule = Rule {
                name: $name,
                code: $code,
                microsoft: $microsoft,
                forbids: $forbids,
                source: $source,
                proof: ($file, $test),
            };
        )*
        /// All of them.
        pub static ALL: &[&Rule] = &[$( &$rule ),*];
        /// What they are called here.
        #[cfg(test)]
        const IDENTIFIERS: &[&str] = &[$( stringify!($rule) ),*];
    };
}

rules! {
    // IRQL, locks and waits.
    IRQL_NOT_LESS_OR_EQUAL: 0x0A "IRQL_NOT_LESS_OR_EQUAL",
        "DDI compliance: IrqlExApcLte, IrqlExPassive, IrqlIoPassive, IrqlKeApcLte, IrqlKeDispatchLte, IrqlKeReleaseSpinLock, IrqlKeSetEvent, IrqlMmDispatch, IrqlObPassive, IrqlPsPassive, IrqlRtlPassive, IrqlZwPassive, KmdfIrql; NetAdapterCx: IrqlIsNotPassive", "WDD devtest/ddi-compliance-checking, and the page of each function",
        "tests/imports.rs" "what_is_for_dispatch_level_is_refused_below_it", "A function is called at an IRQL that its documentation does not allow.";
    IRQL_UNEXPECTED_VALUE: 0xC8 "IRQL_UNEXPECTED_VALUE",
        "DDI compliance: IrqlReturn", "WDD debugger/bug-check-0xc8--irql-unexpected-value",
        "tests/imports.rs" "an_irql_that_a_call_leaves_raised_is_a_stop", "A callback returns at another IRQL than it was called at.";
    SPIN_LOCK_ALREADY_OWNED: 0x0F "SPIN_LOCK_ALREADY_OWNED",
        "DDI compliance: SpinLock, WdfSpinlock; deadlock detection 0x1000", "WDD debugger/bug-check-0xf--spin-lock-already-owned",
        "tests/imports.rs" "spin_locks_have_one_owner", "A thread acquires a spin lock that it holds.";
    SPIN_LOCK_NOT_OWNED: 0x10 "SPIN_LOCK_NOT_OWNED",
        "DDI compliance: SpinLockRelease; deadlock detection 0x1003", "WDD debugger/bug-check-0x10--spin-lock-not-owned",
        "tests/imports.rs" "spin_locks_have_one_owner", "A spin lock is released by a thread that does not hold it.";
    SPIN_LOCK_HELD: 0xC4 "SPIN LOCK HELD",
        "DDI compliance: SpinLock", "WDD devtest/wdm-spinlock",
        "tests/imports.rs" "spin_locks_have_one_owner", "A callback returns with more or fewer spin locks than it was called with.";
    SPIN_LOCK_ORDER: 0xC4 "SPIN LOCK ORDER",
        "deadlock detection 0x1001", "WDD devtest/deadlock-detection",
        "tests/imports.rs" "spin_locks_are_taken_in_one_order_and_not_for_long", "Two spin locks are taken in both orders, each under the other, be it on the way over more.";
    ENDLESS_SPIN: 0xC4 "ENDLESS SPIN",
        "", "ours",
        "tests/images.rs" "a_loop_that_nobody_can_end_is_a_stop", "A thread spins for what nobody else can give it, under an explored order of events.";
    SPIN_LOCK_HELD_TOO_LONG: 0xC4 "SPIN LOCK HELD TOO LONG",
        "", "WDD kernel/preventing-errors-and-deadlocks-while-using-spin-locks: at most 25 us",
        "tests/imports.rs" "spin_locks_are_taken_in_one_order_and_not_for_long", "A spin lock is held for more than 25 us of virtual time.";
    DPC_WATCHDOG_VIOLATION: 0x133 "DPC_WATCHDOG_VIOLATION",
        "", "WDD debugger/bug-check-0x133-dpc-watchdog-violation; the limit is ours",
        "tests/imports.rs" "a_cpu_is_not_kept_at_dispatch_level", "A callback, or DPCs one after the other, keep a CPU at DISPATCH_LEVEL for more than 1 s of virtual time.";
    IRQL_UNDER_SPIN_LOCK: 0xC4 "IRQL LOWERED UNDER A SPIN LOCK",
        "DDI compliance: IrqlKeReleaseSpinLock", "DDI wdm/nf-wdm-kelowerirql",
        "tests/imports.rs" "spin_locks_have_one_owner", "The IRQL falls below DISPATCH_LEVEL while a spin lock is held.";
    DEADLOCK: 0xC4 "DEADLOCK",
        "", "ours: a wait that no thread is left to end",
        "tests/imports.rs" "a_wait_that_nobody_can_end_is_a_deadlock", "A thread waits for what nobody can signal any more.";
    ATTEMPTED_SWITCH_FROM_DPC: 0xB8 "ATTEMPTED_SWITCH_FROM_DPC",
        "DDI compliance: IrqlKeDispatchLte", "DDI wdm/nf-wdm-kewaitforsingleobject",
        "tests/imports.rs" "nobody_waits_at_dispatch_level", "A thread waits at DISPATCH_LEVEL.";
    WAIT: 0xC4 "WAIT",
        "", "DDI wdm/nf-wdm-kewaitforsingleobject",
        "tests/imports.rs" "wrong_objects_are_refused_by_name", "A wait names what is no event, thread or timer.";
    EVENT: 0xC4 "EVENT",
        "", "DDI wdm/nf-wdm-keinitializeevent",
        "tests/imports.rs" "wrong_objects_are_refused_by_name", "An event is made of a type that there is not.";
    PRIORITY: 0xC4 "PRIORITY",
        "", "DDI wdm/nf-wdm-kesetprioritythread",
        "tests/imports.rs" "wrong_objects_are_refused_by_name", "A thread gets a priority outside 1 to 31.";
    RUNDOWN: 0xC4 "RUNDOWN PROTECTION",
        "", "DDI wdm/nf-wdm-exreleaserundownprotection",
        "tests/imports.rs" "rundown_waits_for_its_users", "Rundown protection is released more often than acquired, or made anew while it is used.";
    TIMER_OR_DPC_INVALID: 0xC7 "TIMER_OR_DPC_INVALID",
        "", "WDD debugger/bug-check-0xc7--timer-or-dpc-invalid",
        "tests/imports.rs" "wrong_objects_are_refused_by_name", "A timer or DPC is used that is none, or was deleted.";
    EX_TIMER: 0xC4 "EX_TIMER",
        "", "DDI wdm/nf-wdm-exdeletetimer",
        "tests/imports.rs" "wrong_objects_are_refused_by_name", "A timer is deleted with Wait and without Cancel.";
    // Memory.
    PAGE_FAULT_IN_NONPAGED_AREA: 0x50 "PAGE_FAULT_IN_NONPAGED_AREA",
        "special pool", "WDD devtest/special-pool",
        "tests/images.rs" "a_wild_read_is_a_page_fault_with_a_stack", "Memory is touched that is not there: freed, beyond its end, or never given.";
    KMODE_EXCEPTION_NOT_HANDLED: 0x1E "KMODE_EXCEPTION_NOT_HANDLED",
        "", "WDD debugger/bug-check-0x1e--kmode-exception-not-handled",
        "tests/images.rs" "an_undefined_instruction_is_an_exception", "An instruction cannot be carried out.";
    BAD_POOL_CALLER: 0xC2 "BAD_POOL_CALLER",
        "special pool, pool tracking; KMDF: UnsafeAllocatePool; code integrity", "WDD debugger/bug-check-0xc2--bad-pool-caller",
        "tests/imports.rs" "freeing_twice_and_wrong_flags_are_stops", "Pool is asked for with wrong flags, or freed twice or under another tag.";
    MDL: 0xC4 "MDL",
        "invariant MDL", "DDI wdm/nf-wdm-mmbuildmdlfornonpagedpool",
        "tests/imports.rs" "mdls_describe_nonpaged_pool_only", "An MDL is built over what is not nonpaged pool, or mapped unlocked or twice.";
    UNINITIALISED_MEMORY_LEAVES: 0xC4 "UNINITIALISED MEMORY LEAVES",
        "", "ours: sixteen bytes of it in a datagram, or in what a program gets",
        "tests/sockets.rs" "memory_that_nobody_wrote_is_not_sent", "Memory that the driver never wrote is sent, or given to a program.";
    STACK_BUDGET: 0xC4 "STACK BUDGET",
        "", "ours: a driver has what NIC, NDIS, tcpip and other callouts leave of 24 KiB",
        "tests/images.rs" "a_budget_of_stack_is_kept", "A callback uses more stack than is left to it deep in a real chain.";
    EXTENDED_STATE: 0xC4 "EXTENDED STATE",
        "", "DDI ntddk/nf-ntddk-kerestoreextendedprocessorstate",
        "tests/imports.rs" "vector_state_is_restored_once", "Vector state is restored without a save, out of order, or on another CPU.";
    EXTENDED_STATE_CORRUPTED: 0xC4 "EXTENDED STATE CORRUPTED",
        "", "DDI ntddk/nf-ntddk-kesaveextendedprocessorstate",
        "tests/images.rs" "spoiled_vector_registers_are_seen", "A callback changes vector registers that it has not saved.";
    EXTENDED_STATE_NOT_RESTORED: 0xC4 "EXTENDED STATE NOT RESTORED",
        "", "DDI ntddk/nf-ntddk-kesaveextendedprocessorstate",
        "tests/images.rs" "a_saved_and_restored_state_is_whole", "A callback returns with vector state saved and not restored.";
    // Objects, IRPs and threads.
    REFERENCE_BY_POINTER: 0x18 "REFERENCE_BY_POINTER",
        "", "WDD debugger/bug-check-0x18--reference-by-pointer",
        "tests/imports.rs" "a_foreign_handle_and_object_are_stops", "An object is dereferenced that is none, or more often than referenced.";
    HANDLE: 0xC4 "HANDLE",
        "DDI compliance: security checks 0xF6", "DDI wdm/nf-wdm-zwclose",
        "tests/imports.rs" "a_foreign_handle_and_object_are_stops", "A handle is closed that is not open.";
    SUBJECT_CONTEXT: 0xC4 "SUBJECT CONTEXT",
        "", "DDI ntifs/nf-ntifs-sereleasesubjectcontext",
        "tests/imports.rs" "wrong_objects_are_refused_by_name", "A subject context is used without a capture, or released twice.";
    THREAD_ENDED: 0xC4 "THREAD ENDED IN A CALLBACK",
        "", "DDI ntddk/nf-ntddk-psterminatesystemthread",
        "tests/imports.rs" "wrong_objects_are_refused_by_name", "A thread is ended that the driver has not made.";
    IRP: 0xC4 "IRP",
        "I/O verification; WDM: IoReuseIrp", "WDD devtest/i-o-verification",
        "tests/imports.rs" "irps_cannot_be_freed_while_sent", "An IRP is freed, reused or sent while it is under way, or completes without a proper completion routine.";
    MULTIPLE_IRP_COMPLETE_REQUESTS: 0x44 "MULTIPLE_IRP_COMPLETE_REQUESTS",
        "I/O verification; WDM: DoubleCompletion", "WDD debugger/bug-check-0x44--multiple-irp-complete-requests",
        "tests/imports.rs" "irps_cannot_be_freed_while_sent", "An IRP is completed that nobody has sent, or twice.";
    DRIVER_POWER_STATE_FAILURE: 0x9F "DRIVER_POWER_STATE_FAILURE",
        "NDIS: NdisTimedDataHang", "WDD debugger/bug-check-0x9f--driver-power-state-failure",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A power change or a stop of the data path waits for the driver for 120 s.";
    KE_BUG_CHECK: 0xE2 "THE DRIVER'S OWN BUGCHECK",
        "", "DDI wdm/nf-wdm-kebugcheckex",
        "tests/imports.rs" "a_driver_may_stop_the_machine", "The driver asks for it (KeBugCheckEx): a panic, or an assertion.";
    BUGCHECK_CALLBACK: 0xCE "DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS",
        "", "DDI wdm/nf-wdm-keregisterbugcheckreasoncallback",
        "tests/imports.rs" "callbacks_at_a_bugcheck_are_deregistered", "The driver is unloaded with a callback at a bugcheck registered.";
    ETW_REGISTRATION: 0xCE "DRIVER_UNLOADED WITH A PROVIDER REGISTERED",
        "", "DDI wdm/nf-wdm-etwunregister: before the provider exits",
        "tests/tracing.rs" "providers_are_unregistered_before_the_driver_goes", "The driver is unloaded with a provider of events registered.";
    ETW_HANDLE: 0xC4 "ETW: no provider",
        "", "DDI wdm/nf-wdm-etwunregister: no calls outside of registration",
        "tests/tracing.rs" "wrong_calls_are_stopped_by_name", "An event is written by, or something asked of, a provider that is not registered.";
    ETW_PAGED_DATA: 0xC4 "ETW: pageable data",
        "", "DDI wdm/nf-wdm-etwwritetransfer: nonpaged above APC_LEVEL",
        "tests/tracing.rs" "wrong_calls_are_stopped_by_name", "An event is written above APC_LEVEL out of memory that may be paged out.";
    DEADLOCK_ETW: 0xC4 "DEADLOCK: EtwUnregister",
        "", "ours: Windows would wait for ever",
        "tests/tracing.rs" "a_provider_is_not_unregistered_in_its_callback", "A provider is unregistered inside its callback, or while that does not return.";
    // KMDF.
    WDF_INVALID_HANDLE: 0x10D "WDF_INVALID_HANDLE",
        "KMDF verifier", "WDD debugger/bug-check-0x10d---wdf-violation",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A framework function gets a handle that is none, of another kind, or deleted.";
    WDF_REQUIRED_PARAMETER_IS_NULL: 0x10D "WDF_REQUIRED_PARAMETER_IS_NULL",
        "KMDF verifier", "WDD debugger/bug-check-0x10d---wdf-violation",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A pointer that a framework function needs is NULL.";
    WDF_DRIVER_GLOBALS: 0x10D "WDF_VIOLATION: driver globals",
        "", "ours: Windows does not look",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A framework function gets other driver globals than the driver was bound with.";
    DOUBLE_COMPLETION: 0x10D "DoubleCompletion",
        "KMDF: DoubleCompletion", "WDD devtest/kmdf-doublecompletion",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A request is completed twice, or while it is a queue's.";
    REQUEST_COMPLETED: 0x10D "BufAfterReqCompleted",
        "KMDF: BufAfterReqCompletedRead, BufAfterReqCompletedWrite, MdlAfterReqCompletedIntIoctl", "WDD devtest/kmdf-bufafterreqcompletedread",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A request's handle is used after the request has been completed.";
    WDF_DEFERRED_REQUEST_COMPLETED: 0x10D "DeferredRequestCompleted",
        "KMDF: DeferredRequestCompleted", "WDD devtest/kmdf-deferredrequestcompleted",
        "tests/frameworks/main.rs" "a_request_that_is_kept_for_ever_is_a_stop", "A request is never completed: its handle cannot close, or its queue not stop.";
    WDF_REQUEST_FATAL_ERROR: 0x10D "WDF_REQUEST_FATAL_ERROR",
        "KMDF verifier", "WDD debugger/bug-check-0x10d---wdf-violation",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A request is completed with more bytes than its buffer has, or with a status that is no result.";
    WDF_OBJECT_ERROR: 0x10D "WDF_OBJECT_ERROR",
        "KMDF verifier", "WDD debugger/bug-check-0x10d---wdf-violation",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "An object is deleted twice, dereferenced too often, or deleted though it is the framework's.";
    WDF_QUEUE_FATAL_ERROR: 0x10D "WDF_QUEUE_FATAL_ERROR",
        "KMDF verifier", "WDD debugger/bug-check-0x10d---wdf-violation",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A request is put into a queue by who has not been given it, or into its own.";
    WDF_DEVICE_INIT: 0x10D "ChildDeviceInitAPI",
        "KMDF: ChildDeviceInitAPI, DoubleDeviceInitFree, ControlDeviceInitAPI", "WDD devtest/kmdf-childdeviceinitapi",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A WDFDEVICE_INIT is used after it has become a device, or freed though it is the framework's.";
    WDF_CONTROL_DEVICE: 0x10D "CtlDeviceFinishInit",
        "KMDF: CtlDeviceFinishInitDeviceAdd", "WDD devtest/kmdf-ctldevicefinishinitdeviceadd",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A control device is made without a security descriptor, or finished though it is none.";
    WDF_IGNORED_CALL: 0x10D "WDF_VIOLATION: ignored call",
        "", "facts/kmdf.md: the call returns nothing, and Windows drops it",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A configuration has a size or a value that has the framework ignore the call.";
    WDF_FS_CONTEXT: 0x10D "WDF_VIOLATION: FsContext",
        "", "facts/kmdf.md 5: NetAdapterCx uses FsContext of its handles",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "File objects take the field that NetAdapterCx uses.";
    WDF_UNLOAD: 0x10D "WDF_VIOLATION: DriverUnload",
        "KMDF: CtlDeviceDeletion", "WDD wdf/using-control-device-objects",
        "tests/frameworks/main.rs" "a_driver_with_a_control_device_is_not_unloaded", "The driver is unloaded while it has devices.";
    // NetAdapterCx: what a driver declares.
    CORRUPTED_PRIVATE_GLOBALS: 0x19E "CorruptedPrivateGlobals",
        "NetAdapterCx: CorruptedPrivateGlobals", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A function gets other globals than the driver was bound with.";
    PARAMETER_CANT_BE_NULL: 0x19E "ParameterCantBeNull",
        "NetAdapterCx: ParameterCantBeNull", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A pointer or callback that is needed is NULL.";
    INVALID_STRUCT_TYPE_SIZE: 0x19E "InvalidStructTypeSize",
        "NetAdapterCx: InvalidStructTypeSize", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A structure has not the size of this version.";
    PARENT_OBJECT_NOT_NULL: 0x19E "ParentObjectNotNull",
        "NetAdapterCx: ParentObjectNotNull", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "The attributes of an adapter or queue name a parent.";
    INVALID_NET_ADAPTER_INIT_SIGNATURE: 0x19E "InvalidNetAdapterInitSignature",
        "NetAdapterCx: InvalidNetAdapterInitSignature", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A NETADAPTER_INIT is none, or was freed.";
    NET_ADAPTER_INIT_ALREADY_USED: 0x19E "NetAdapterInitAlreadyUsed",
        "NetAdapterCx: NetAdapterInitAlreadyUsed", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A NETADAPTER_INIT makes a second adapter.";
    INVALID_DATAPATH_CALLBACKS: 0x19E "InvalidDatapathCallbacks",
        "NetAdapterCx: InvalidDatapathCallbacks", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "An adapter is made without callbacks that make its queues.";
    ADAPTER_ALREADY_STARTED: 0x19E "AdapterAlreadyStarted",
        "NetAdapterCx: AdapterAlreadyStarted", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "An adapter is started twice, or declares something after its start.";
    ADAPTER_NOT_CONFIGURED: 0x19E "AdapterNotConfigured",
        "", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "An adapter is started before it has declared link layer and data path.";
    MTU_MUST_BE_GREATER_THAN_ZERO: 0x19E "MtuMustBeGreaterThanZero",
        "NetAdapterCx: MtuMustBeGreaterThanZero", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "An MTU is 0.";
    INVALID_LINK_STATE: 0x19E "InvalidLinkState",
        "", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A link state has values that there are not.";
    INVALID_ADAPTER_TX_CAPABILITIES: 0x19E "InvalidAdapterTxCapabilities",
        "NetAdapterCx: InvalidAdapterTxCapabilities", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "Transmit capabilities have no queue, fragment or alignment.";
    INVALID_ADAPTER_RX_CAPABILITIES: 0x19E "InvalidAdapterRxCapabilities",
        "NetAdapterCx: InvalidAdapterRxCapabilities", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "Receive capabilities have no queue or frame size, or driver-managed buffers without a way back.";
    NOT_POWER_OF_TWO: 0x19E "NotPowerOfTwo",
        "NetAdapterCx: NotPowerOfTwo", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A number of elements or an alignment is no power of two.";
    INVALID_GSO_CAPABILITIES: 0x19E "InvalidGsoCapabilities",
        "NetAdapterCx: InvalidGsoCapabilities", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "Segmentation is declared of 0 bytes or segments, or with TCP options alone.";
    INVALID_GSO_HARDWARE_CAPABILITIES: 0x19E "InvalidGsoHardwareCapabilities",
        "NetAdapterCx: InvalidGsoHardwareCapabilities", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "Segmentation is declared of nothing.";
    INVALID_NET_OFFLOAD: 0x19E "InvalidNetOffload",
        "", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "An offload handle is none.";
    CREATING_NET_QUEUE_FROM_WRONG_THREAD: 0x19E "CreatingNetQueueFromWrongThread",
        "NetAdapterCx: CreatingNetQueueFromWrongThread", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A queue is made outside the callback that asks for it.";
    BAD_QUEUE_INIT_CONTEXT: 0x19E "BadQueueInitContext",
        "NetAdapterCx: BadQueueInitContext", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A queue is made with another token than the callback was given.";
    QUEUE_ALREADY_CREATED: 0x19E "QueueAlreadyCreated",
        "NetAdapterCx: QueueAlreadyCreated", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A callback makes a second queue.";
    NET_QUEUE_INVALID_CONFIGURATION: 0x19E "NetQueueInvalidConfiguration",
        "NetAdapterCx: NetQueueInvalidConfiguration", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A queue lacks Advance, Cancel or SetNotificationEnabled.";
    INVALID_QUEUE_HANDLE: 0x19E "InvalidQueueHandle",
        "", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A function for one direction gets a queue of the other.";
    INVALID_NET_EXTENSION_NAME: 0x19E "InvalidNetExtensionName",
        "NetAdapterCx: InvalidNetExtensionName", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "An extension is asked for by a name that is none of its ring.";
    INVALID_NET_EXTENSION_TYPE: 0x19E "InvalidNetExtensionType",
        "NetAdapterCx: InvalidNetExtensionType", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "An extension is asked for of what is neither packet nor fragment.";
    RECEIVE_SCALING: 0x19E "RECEIVE SCALING",
        "", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A driver that declares receive scaling refuses to set it up.";
    // NetAdapterCx: rings and buffers.
    RING_MOVED_OUTSIDE_CALLBACK: 0x19E "RingMovedOutsideCallback",
        "", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "BeginIndex moves outside Advance and Cancel.";
    INVALID_RING_IMMUTABLE: 0x19E "InvalidRingImmutable",
        "NetAdapterCx: InvalidRingImmutable", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "both_directions_have_their_header_and_foreign_elements_watched", "A field of a ring is written that is not the driver's.";
    INVALID_RING_BEGIN_INDEX: 0x19E "InvalidRingBeginIndex",
        "NetAdapterCx: InvalidRingBeginIndex", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "BeginIndex leaves the elements that the driver has.";
    INVALID_RING_IMMUTABLE_FRAMEWORK_ELEMENT: 0x19E "InvalidRingImmutableFrameworkElement",
        "NetAdapterCx: InvalidRingImmutableFrameworkElement", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "both_directions_have_their_header_and_foreign_elements_watched", "An element is written that is the framework's.";
    INVALID_RING_IMMUTABLE_DRIVER_TX_PACKET: 0x19E "InvalidRingImmutableDriverTxPacket",
        "NetAdapterCx: InvalidRingImmutableDriverTxPacket", "NCX netcx/adapter/verifier.cpp",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A transmitted packet is written but for Scratch.";
    INVALID_RING_IMMUTABLE_DRIVER_TX_FRAGMENT: 0x19E "InvalidRingImmutableDriverTxFragment",
        "NetAdapterCx: InvalidRingImmutableDriverTxFragment", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "of_a_transmit_packet_only_scratch_is_the_drivers", "A transmitted fragment is written but for Scratch.";
    INVALID_RING_IMMUTABLE_DRIVER_RX_PACKET_IGNORE: 0x19E "InvalidRingImmutableDriverRxPacketIgnore",
        "NetAdapterCx: InvalidRingImmutableDriverRxPacketIgnore", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "Ignore of a received packet is taken back.";
    INVALID_RING_MODIFIED_RX_PACKET: 0x19E "InvalidRingModifiedRxPacket",
        "NetAdapterCx: InvalidRingModifiedRxPacket", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "An ignored packet is written otherwise.";
    INVALID_RING_UNMODIFIED_RX_PACKET: 0x19E "InvalidRingUnmodifiedRxPacket",
        "NetAdapterCx: InvalidRingUnmodifiedRxPacket", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "A received packet is returned with fields that were not written.";
    INVALID_RING_UNMODIFIED_RX_FRAGMENT: 0x19E "InvalidRingUnmodifiedRxFragment",
        "NetAdapterCx: InvalidRingUnmodifiedRxFragment", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "A received packet lies in fragments that were not written or not returned.";
    INVALID_RING_MODIFIED_RX_FRAGMENT: 0x19E "InvalidRingModifiedRxFragment",
        "NetAdapterCx: InvalidRingModifiedRxFragment", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "The fragments of two received packets overlap.";
    INVALID_RING_RX_FRAGMENT_LENGTH_INVALID: 0x19E "InvalidRingRxFragmentLengthInvalid",
        "NetAdapterCx: InvalidRingRxFragmentLengthInvalid", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "A received fragment is longer than its buffer.";
    INVALID_RING_RX_PACKET_FRAGMENT_COUNT_ZERO: 0x19E "InvalidRingRxPacketFragmentCountZero",
        "NetAdapterCx: InvalidRingRxPacketFragmentCountZero", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "A received packet has no fragment.";
    INVALID_RING_RX_PACKET_FRAGMENT_COUNT_OUT_OF_RANGE: 0x19E "InvalidRingRxPacketFragmentCountOutOfRange",
        "NetAdapterCx: InvalidRingRxPacketFragmentCountOutOfRange", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "A received packet has more fragments than the driver.";
    INVALID_RING_RX_PACKET_FRAGMENT_INDEX_OUT_OF_PRE_RANGE: 0x19E "InvalidRingRxPacketFragmentIndexOutOfPreRange",
        "NetAdapterCx: InvalidRingRxPacketFragmentIndexOutOfPreRange", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "The first fragment of a received packet was not the driver's.";
    INVALID_RING_RX_PACKET_FRAGMENT_COUNT_OUT_OF_PRE_RANGE: 0x19E "InvalidRingRxPacketFragmentCountOutOfPreRange",
        "NetAdapterCx: InvalidRingRxPacketFragmentCountOutOfPreRange", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "The last fragment of a received packet was not the driver's.";
    INVALID_RING_RX_PACKET_FRAGMENT_INDEX_OUT_OF_POST_RANGE: 0x19E "InvalidRingRxPacketFragmentIndexOutOfPostRange",
        "NetAdapterCx: InvalidRingRxPacketFragmentIndexOutOfPostRange", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "The first fragment of a received packet has not been returned.";
    INVALID_RING_RX_PACKET_FRAGMENT_COUNT_OUT_OF_POST_RANGE: 0x19E "InvalidRingRxPacketFragmentCountOutOfPostRange",
        "NetAdapterCx: InvalidRingRxPacketFragmentCountOutOfPostRange", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "The last fragment of a received packet has not been returned.";
    INVALID_RING_RX_PACKET_FRAGMENT_INDEX_OVERLAP: 0x19E "InvalidRingRxPacketFragmentIndexOverlap",
        "NetAdapterCx: InvalidRingRxPacketFragmentIndexOverlap", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "two_received_packets_may_not_share_a_fragment", "A received packet begins in a fragment of the one before.";
    INVALID_RING_RX_PACKET_FRAGMENT_COUNT_OVERLAP: 0x19E "InvalidRingRxPacketFragmentCountOverlap",
        "NetAdapterCx: InvalidRingRxPacketFragmentCountOverlap", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "two_received_packets_may_not_share_a_fragment", "The fragments of a received packet go round into its own.";
    INVALID_RING_RX_PACKET_LAYER2_TYPE: 0x19E "InvalidRingRxPacketLayer2Type",
        "NetAdapterCx: InvalidRingRxPacketLayer2Type", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "A link layer type is none.";
    INVALID_RING_RX_PACKET_LAYER2_TYPE_NULL_LENGTH_NON_ZERO: 0x19E "InvalidRingRxPacketLayer2TypeNullLengthNonZero",
        "NetAdapterCx: InvalidRingRxPacketLayer2TypeNullLengthNonZero", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "There is no link layer, but a length of it.";
    INVALID_RING_RX_PACKET_LAYER2_TYPE_ETHERNET_LENGTH_INVALID: 0x19E "InvalidRingRxPacketLayer2TypeEthernetLengthInvalid",
        "NetAdapterCx: InvalidRingRxPacketLayer2TypeEthernetLengthInvalid", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "An Ethernet header is shorter than 14 bytes.";
    INVALID_RING_RX_PACKET_LAYER3_TYPE: 0x19E "InvalidRingRxPacketLayer3Type",
        "NetAdapterCx: InvalidRingRxPacketLayer3Type", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "A network layer type is none.";
    INVALID_RING_RX_PACKET_LAYER3_TYPE_IPV4_LENGTH_INVALID: 0x19E "InvalidRingRxPacketLayer3TypeIPv4LengthInvalid",
        "NetAdapterCx: InvalidRingRxPacketLayer3TypeIPv4LengthInvalid", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "An IPv4 header is shorter than 20 bytes.";
    INVALID_RING_RX_PACKET_LAYER3_TYPE_IPV6_LENGTH_INVALID: 0x19E "InvalidRingRxPacketLayer3TypeIPv6LengthInvalid",
        "NetAdapterCx: InvalidRingRxPacketLayer3TypeIPv6LengthInvalid", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "An IPv6 header is shorter than 40 bytes.";
    INVALID_RING_RX_PACKET_LAYER4_TYPE: 0x19E "InvalidRingRxPacketLayer4Type",
        "NetAdapterCx: InvalidRingRxPacketLayer4Type", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "A transport layer type is none.";
    INVALID_RING_RX_PACKET_LAYER4_TYPE_TCP_LENGTH_INVALID: 0x19E "InvalidRingRxPacketLayer4TypeTcpLengthInvalid",
        "NetAdapterCx: InvalidRingRxPacketLayer4TypeTcpLengthInvalid", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "A TCP header is not of 20 to 60 bytes by four.";
    INVALID_RING_RX_PACKET_LAYER4_TYPE_UDP_LENGTH_INVALID: 0x19E "InvalidRingRxPacketLayer4TypeUdpLengthInvalid",
        "NetAdapterCx: InvalidRingRxPacketLayer4TypeUdpLengthInvalid", "NCX netcx/adapter/verifier.cpp",
        "src/nt/netcx/ring_verifier.rs" "a_received_packet_is_filled_within_its_limits", "A UDP header is shorter than 8 bytes.";
    RX_BUFFER_INVALID: 0xC4 "INVALID RX BUFFER",
        "", "ours: NetAdapterCx would pass it on",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A received packet lies in memory that is not nonpaged.";
    RX_BUFFER_LINKED_TWICE: 0xC4 "RX BUFFER LINKED TWICE",
        "", "ours: NetAdapterCx would pass it on",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A receive buffer is indicated again before it has come back.";
    RX_BUFFER_WRITTEN: 0xC4 "RX BUFFER WRITTEN",
        "", "ours: NetAdapterCx would pass it on",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A receive buffer is written while the stack has it.";
    RX_BUFFER_LOST: 0xC4 "RX BUFFER LOST",
        "", "ours: NetAdapterCx would pass it on",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "A receive buffer goes by two addresses or contexts.";
    RX_CHECKSUM_NOT_TRUE: 0xC4 "RX CHECKSUM NOT TRUE",
        "", "ours: NetAdapterCx would pass it on",
        "tests/frameworks/main.rs" "each_mistake_is_stopped_by_name", "What a driver says of a checksum is not true.";
    // NDIS.
    NBL_N1: 0xC4 "NBL_VIOLATION: N1",
        "", "DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure",
        "tests/net_buffer_lists.rs" "each_rule_stops_the_caller_that_breaks_it", "A chain of MDLs does not end, or names what is not memory.";
    NBL_N2: 0xC4 "NBL_VIOLATION: N2",
        "", "DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure",
        "tests/net_buffer_lists.rs" "each_rule_stops_the_caller_that_breaks_it", "CurrentMdl is not in the chain.";
    NBL_N3: 0xC4 "NBL_VIOLATION: N3",
        "", "DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure",
        "tests/net_buffer_lists.rs" "each_rule_stops_the_caller_that_breaks_it", "CurrentMdl, its offset and DataOffset do not agree.";
    NBL_N4: 0xC4 "NBL_VIOLATION: N4",
        "", "DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure",
        "tests/net_buffer_lists.rs" "each_rule_stops_the_caller_that_breaks_it", "CurrentMdlOffset lies outside CurrentMdl.";
    NBL_N5: 0xC4 "NBL_VIOLATION: N5",
        "", "DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure",
        "tests/net_buffer_lists.rs" "each_rule_stops_the_caller_that_breaks_it", "The data is longer than its chain.";
    NBL_N6: 0xC4 "NBL_VIOLATION: N6",
        "", "DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure",
        "src/nt/fwp/tests/injecting.rs" "each_wrong_list_stops_its_driver", "A byte of the data is not memory.";
    NBL_N7: 0xC4 "NBL_VIOLATION: N7",
        "", "DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure",
        "src/nt/fwp/tests/injecting.rs" "what_is_under_way_is_not_touched", "Two lists that are under way share an MDL.";
    NBL_L1: 0xC4 "NBL_VIOLATION: L1",
        "", "DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure",
        "src/nt/fwp/tests/injecting.rs" "each_wrong_list_stops_its_driver", "The buffers of a list do not end.";
    NBL_L2: 0xC4 "NBL_VIOLATION: L2",
        "", "DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure",
        "src/nt/fwp/tests/cloning.rs" "a_parent_that_is_given_up_before_its_clone_is_found", "A list that was received is changed by who may not.";
    NBL_L3: 0xC4 "NBL_VIOLATION: L3",
        "", "DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure",
        "tests/net_buffer_lists.rs" "each_rule_stops_the_caller_that_breaks_it", "A list is freed while it has clones, or counts fewer than none.";
    NBL_L4: 0xC4 "NBL_VIOLATION: L4",
        "", "DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure",
        "tests/net_buffer_lists.rs" "each_rule_stops_the_caller_that_breaks_it", "A pool or list is used that is none or is gone, or freed while something of it is out.";
    NBL_L5: 0xC4 "NBL_VIOLATION: L5",
        "", "DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure",
        "tests/net_buffer_lists.rs" "each_rule_stops_the_caller_that_breaks_it", "A list comes back with other buffers, chains, offsets or lengths than it went with.";
    NBL_L7: 0xC4 "NBL_VIOLATION: L7",
        "", "DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure",
        "src/nt/fwp/tests/injecting.rs" "each_wrong_list_stops_its_driver", "The info slots of a list contradict each other.";
    NBL_L8: 0xC4 "NBL_VIOLATION: L8",
        "", "DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure",
        "src/nt/fwp/tests/injecting.rs" "what_is_under_way_is_not_touched", "A list is touched that is another's.";
    NBL_M1: 0xC4 "NBL_VIOLATION: M1",
        "", "DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure",
        "tests/net_buffer_lists.rs" "each_rule_stops_the_caller_that_breaks_it", "An MDL has not the room for its page numbers.";
    NBL_M2: 0xC4 "NBL_VIOLATION: M2",
        "", "DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure",
        "tests/net_buffer_lists.rs" "each_rule_stops_the_caller_that_breaks_it", "ByteOffset of an MDL lies outside a page.";
    NBL_M3: 0xC4 "NBL_VIOLATION: M3",
        "", "DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure",
        "tests/net_buffer_lists.rs" "each_rule_stops_the_caller_that_breaks_it", "A mapped MDL does not say where.";
    NBL_M5: 0xC4 "NBL_VIOLATION: M5",
        "", "DDI nbl/ns-nbl-net_buffer, WDD network/net-buffer-list-structure",
        "src/nt/fwp/tests/injecting.rs" "what_is_under_way_is_not_touched", "An MDL is freed while it is under way.";
    NBL_ALIGNMENT: 0xC4 "NBL_VIOLATION: alignment",
        "", "DDI nblapi/nf-nblapi-ndisgetdatabuffer",
        "tests/net_buffer_lists.rs" "each_rule_stops_the_caller_that_breaks_it", "Data is asked for with an alignment that is none.";
    // Filtering platform.
    WFP_CLASSIFY: 0xC4 "WFP_VIOLATION: classifyFn",
        "", "DDI fwpsk/nc-fwpsk-fwps_callout_classify_fn1",
        "src/nt/fwp/tests/classifying.rs" "what_is_to_be_authorised_may_not_be_absorbed", "classifyFn leaves no decision or one it has no right to, or a list other than it was.";
    WFP_LIST_CHANGED: 0xC4 "WFP_VIOLATION: NET_BUFFER_LIST",
        "", "WDD network/packet-modification-examples",
        "src/nt/fwp/tests/receiving.rs" "what_a_driver_writes_into_a_kept_list_is_found_when_it_gives_it_back", "A list comes back from callouts changed.";
    WFP_LIST_REFERENCE: 0xC4 "WFP_VIOLATION: list references",
        "", "DDI fwpsk/nf-fwpsk-fwpsdereferencenetbufferlist0",
        "src/nt/fwp/tests/engine_objects.rs" "wrong_handles_stop", "A list is referenced, or given back, that is not being classified and was not referenced.";
    WFP_CALLOUT: 0xC4 "WFP_VIOLATION: FwpsCalloutRegister",
        "", "DDI fwpsk/nf-fwpsk-fwpscalloutregister1",
        "src/nt/fwp/tests/engine_objects.rs" "wrong_handles_stop", "A callout is registered without its functions or a device.";
    WFP_SUBSCRIPTION: 0xC4 "WFP_VIOLATION: BFE subscription",
        "", "DDI fwpmk/nf-fwpmk-fwpmbfestatesubscribechanges0",
        "src/nt/fwp/tests/engine_objects.rs" "wrong_handles_stop", "A subscription is made without callback or device, or ended that is none.";
    WFP_ENGINE_HANDLE: 0xC4 "WFP_VIOLATION: engine handle",
        "", "DDI fwpmk/nf-fwpmk-fwpmengineclose0",
        "src/nt/fwp/tests/engine_objects.rs" "wrong_handles_stop", "An engine function gets a handle that is none.";
    WFP_INJECTION: 0xC4 "WFP_VIOLATION: FwpsInjectTransportSendAsync1",
        "", "DDI fwpsk/nf-fwpsk-fwpsinjecttransportsendasync1",
        "src/nt/fwp/tests/injecting.rs" "each_wrong_list_stops_its_driver", "An injection has a handle, an argument or a list that it cannot have.";
    WFP_INJECTION_CHANGED: 0xC4 "WFP_VIOLATION: injection",
        "", "DDI fwpsk/nf-fwpsk-fwpsinjecttransportsendasync1",
        "src/nt/fwp/tests/injecting.rs" "what_is_under_way_is_not_touched", "The address or control messages of an injection change before it completes.";
    WFP_INJECTION_HANDLE: 0xC4 "WFP_VIOLATION: FwpsInjectionHandleDestroy0",
        "", "DDI fwpsk/nf-fwpsk-fwpsinjectionhandledestroy0",
        "src/nt/fwp/tests/engine_objects.rs" "wrong_handles_stop", "An injection handle is destroyed that is none, or twice.";
    WFP_INJECTION_STATE: 0xC4 "WFP_VIOLATION: FwpsQueryPacketInjectionState0",
        "", "DDI fwpsk/nf-fwpsk-fwpsquerypacketinjectionstate0",
        "src/nt/fwp/tests/engine_objects.rs" "wrong_handles_stop", "The injection state is asked of a list that is not in the stack, or for a handle that is none.";
    DEADLOCK_INJECTION: 0xC4 "DEADLOCK: FwpsInjectionHandleDestroy0",
        "", "ours: Windows would wait for ever",
        "src/nt/fwp/tests/injecting.rs" "a_handle_is_not_destroyed_by_what_it_waits_for", "An injection handle is destroyed from inside what it waits for.";
    DEADLOCK_CALLOUT: 0xC4 "DEADLOCK: FwpsCalloutUnregisterById0",
        "", "ours: Windows would wait for ever",
        "src/nt/fwp/tests/engine_objects.rs" "nobody_waits_for_himself", "A callout is unregistered from inside what it waits for.";
    DEADLOCK_BFE_SUBSCRIPTION: 0xC4 "DEADLOCK: FwpmBfeStateUnsubscribeChanges0",
        "", "ours: Windows would wait for ever",
        "src/nt/fwp/tests/engine_objects.rs" "nobody_waits_for_himself", "A subscription is ended from inside its callback, or while that does not return.";
    // Kernel sockets and IP Helper.
    WSK_REGISTRATION: 0xC4 "WSK_VIOLATION: registration",
        "", "DDI wsk/nf-wsk-wskregister",
        "tests/sockets.rs" "each_wrong_call_of_wsk_is_stopped_by_name", "A registration is made twice, or ended that there is not.";
    WSK_PROVIDER: 0xC4 "WSK_VIOLATION: provider interface",
        "", "DDI wsk/nf-wsk-wskcaptureprovidernpi",
        "tests/sockets.rs" "each_wrong_call_of_wsk_is_stopped_by_name", "The provider interface is captured without a registration or waited for above PASSIVE_LEVEL, or released uncaptured.";
    WSK_SOCKET: 0xC4 "WSK_VIOLATION: WskSocket",
        "", "DDI wsk/nc-wsk-pfn_wsk_socket",
        "tests/sockets.rs" "each_wrong_call_of_wsk_is_stopped_by_name", "A socket is made by a client that has not captured the provider.";
    WSK_CONTROL_CLIENT: 0xC4 "WSK_VIOLATION: WskControlClient",
        "", "DDI wsk/nc-wsk-pfn_wsk_control_client",
        "tests/sockets.rs" "each_wrong_call_of_wsk_is_stopped_by_name", "A client is none, or event callbacks are set with an IRP or after a socket.";
    WSK_CONTROL_SOCKET: 0xC4 "WSK_VIOLATION: WskControlSocket",
        "", "DDI wsk/nc-wsk-pfn_wsk_control_socket",
        "tests/sockets.rs" "each_wrong_call_of_wsk_is_stopped_by_name", "An option has buffers that cannot be used, or a returned size beside an IRP.";
    WSK_NO_SUCH_SOCKET: 0xC4 "WSK_VIOLATION: no such socket",
        "", "WDD network/winsock-kernel",
        "tests/sockets.rs" "each_wrong_call_of_wsk_is_stopped_by_name", "A socket is used that is none, or closed.";
    WSK_SOCKET_IS_CLOSING: 0xC4 "WSK_VIOLATION: socket is closing",
        "", "DDI wsk/nc-wsk-pfn_wsk_close_socket",
        "tests/sockets.rs" "each_wrong_call_of_wsk_is_stopped_by_name", "A socket is used after WskCloseSocket was called.";
    WSK_NO_IRP: 0xC4 "WSK_VIOLATION: no IRP",
        "", "WDD network/winsock-kernel",
        "tests/sockets.rs" "each_wrong_call_of_wsk_is_stopped_by_name", "A call that needs an IRP has none.";
    WSK_ADDRESS: 0xC4 "WSK_VIOLATION: bad address",
        "", "WDD network/winsock-kernel",
        "tests/sockets.rs" "each_wrong_call_of_wsk_is_stopped_by_name", "An address is no socket address, or cannot be written.";
    WSK_CLOSE_SOCKET: 0xC4 "WSK_VIOLATION: WskCloseSocket",
        "", "DDI wsk/nc-wsk-pfn_wsk_close_socket",
        "tests/sockets.rs" "a_socket_is_closed_after_its_datagrams_came_back", "A socket is closed while other calls are inside or datagrams are kept, or twice.";
    WSK_SEND: 0xC4 "WSK_VIOLATION: send",
        "", "DDI wsk/nc-wsk-pfn_wsk_send_to",
        "tests/sockets.rs" "each_wrong_call_of_wsk_is_stopped_by_name", "Buffers of a send change before its IRP completes.";
    WSK_SEND_MSG_SIZE: 0xC4 "WSK_VIOLATION: UDP_SEND_MSG_SIZE",
        "", "WDD network/udp-segmentation-offload-uso-",
        "tests/sockets.rs" "each_wrong_call_of_wsk_is_stopped_by_name", "A send that is to be cut apart has a size that it cannot have.";
    WSK_IRP_TOUCHED: 0xC4 "WSK_VIOLATION: IRP touched",
        "", "WDD network/winsock-kernel",
        "tests/sockets.rs" "each_wrong_call_of_wsk_is_stopped_by_name", "An IRP changes while the provider has it.";
    WSK_RECEIVE_FROM_EVENT: 0xC4 "WSK_VIOLATION: WskReceiveFromEvent",
        "", "DDI wsk/nc-wsk-pfn_wsk_receive_from_event",
        "tests/sockets.rs" "each_wrong_call_of_wsk_is_stopped_by_name", "WskReceiveFromEvent returns a status that it may not.";
    WSK_RELEASE: 0xC4 "WSK_VIOLATION: WskRelease",
        "", "DDI wsk/nc-wsk-pfn_wsk_release_datagram_indication_list",
        "tests/sockets.rs" "each_wrong_call_of_wsk_is_stopped_by_name", "Received datagrams are released that the driver does not hold.";
    DEADLOCK_WSK: 0xC4 "DEADLOCK: WskDeregister",
        "", "DDI wsk/nf-wsk-wskderegister",
        "tests/sockets.rs" "each_wrong_call_of_wsk_is_stopped_by_name", "A registration ends with sockets open or the provider captured: it would wait for ever.";
    IP_HELPER_TABLE: 0xC4 "IP_HELPER_VIOLATION: FreeMibTable",
        "", "WDD network/freemibtable",
        "tests/imports.rs" "wrong_objects_are_refused_by_name", "A table is freed that is none, or twice.";
    IP_HELPER_NOTIFICATION: 0xC4 "IP_HELPER_VIOLATION: CancelMibChangeNotify2",
        "", "WDD network/cancelmibchangenotify2",
        "tests/imports.rs" "wrong_objects_are_refused_by_name", "A notification is cancelled that there is not.";
    DEADLOCK_CHANGE_NOTIFICATION: 0xC4 "DEADLOCK: CancelMibChangeNotify2",
        "", "ours: Windows would wait for ever",
        "tests/imports.rs" "a_notification_is_not_cancelled_in_its_callback", "A notification is cancelled inside its callback, or while that does not return.";
    // The simulator's own.
    NOT_PROVIDED: 0xC4 "NOT PROVIDED",
        "", "ours",
        "tests/imports.rs" "a_missing_function_stops_by_name", "Something is asked for that is not in the simulator: nothing is quietly pretended.";
    SIMULATOR: 0xC4 "SIMULATOR",
        "", "ours",
        "tests/images.rs" "an_endless_loop_ends_with_its_machine", "The simulator itself cannot go on, or was told to stop.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::{ALL, IDENTIFIERS, Rule};

    /// The test that a rule names, as text: from its name to the next function that is a test.
    fn text(rule: &Rule) -> Result<String, String> {
        let (file, test) = rule.proof;
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let source = std::fs::read_to_string(&path).map_err(|error| format!("{file}: {error}"))?;
        let (_, after) =
            source.split_once(&format!("fn {test}()")).ok_or(format!("{file} has no {test}"))?;
        Ok(after.split("#[test]").next().unwrap_or_default().to_owned())
    }

    #[test]
    fn every_rule_has_a_test_that_names_it() {
        let mut without = Vec::new();
        for (rule, identifier) in ALL.iter().zip(IDENTIFIERS) {
            let text = match text(rule) {
                Ok(text) => text,
                Err(why) => {
                    without.push(format!("{rule}: {why}"));
                    continue;
                }
            };
            let whole = |text: &str| !text.starts_with(|c: char| c.is_alphanumeric() || c == ' ');
            let quoted = |from: char| {
                text.match_indices(&format!("{from}{rule}"))
                    .any(|(at, found)| whole(&text[at + found.len()..]))
            };
            let word = |c: char| c != '_' && !c.is_alphanumeric();
            if !quoted('"') && !text.split(word).any(|word| word == *identifier) {
                without.push(format!("{rule}: {:?} does not name it", rule.proof));
            }
        }
        assert!(without.is_empty(), "no proof: {without:#?}");
    }

    #[test]
    fn every_rule_says_what_it_forbids_and_where_that_is_from() {
        let mut names = BTreeSet::new();
        for rule in ALL {
            assert!(names.insert(rule.name), "{rule} is there twice");
            assert!(rule.forbids.ends_with('.') && !rule.source.is_empty(), "{rule}");
        }
    }
}
