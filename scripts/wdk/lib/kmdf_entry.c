/*
 * Entry point of the image: ties the driver to KMDF, and to the class extensions it has records
 * for, through the loader (WDFLDR.SYS); then runs its DriverEntry; and on unload undoes both.
 *
 * It stands for the stub library of the driver kit, which is not ours to ship. The records handed
 * to the loader follow the layouts published with the framework's sources; the test of scripts/wdk
 * compares the numbers below with nt/tests/abi.json. Left out, because nothing of ours needs it:
 * static context types that ask for a unique type (section .kmdftypeinit).
 *
 * All of this runs at PASSIVE_LEVEL, in one thread.
 */
#define PENSTOCK_ENTRY_OBJECT
#include "wdf.h"

#define SUCCEEDED(status) ((status) >= 0)
#define STATUS_INVALID_IMAGE_FORMAT ((NTSTATUS)0xC000007B)

typedef struct _WDF_VERSION {
    ULONG Major, Minor, Build;
} WDF_VERSION;

/* The short form of the record is its first 48 bytes; the loader tells them apart by Size. */
typedef struct _WDF_BIND_INFO2 {
    ULONG Size;
    PWSTR Component;
    WDF_VERSION Version;
    ULONG FuncCount;
    const WDFFUNC **FuncTable; /* since 1.15: where the framework stores its table's address */
    PVOID Module;              /* the loader's own */
    ULONG *MinimumVersionRequired;
    BOOLEAN *ClientVersionHigherThanFramework;
    ULONG *FuncCountPtr;
    ULONG *StructCountPtr;
    WDF_STRUCT_INFO *StructTable;
} WDF_BIND_INFO2;

typedef struct _WDF_CLASS_BIND_INFO WDF_CLASS_BIND_INFO;
typedef NTSTATUS(NTAPI WDF_VERSION_BIND_CLASS)(WDF_BIND_INFO2 *, PWDF_DRIVER_GLOBALS, WDF_CLASS_BIND_INFO *);
typedef VOID(NTAPI WDF_VERSION_UNBIND_CLASS)(WDF_BIND_INFO2 *, PWDF_DRIVER_GLOBALS, WDF_CLASS_BIND_INFO *);

/* The long form, WDF_CLASS_BIND_INFO2, has 40 more bytes, which only the class extension reads. */
struct _WDF_CLASS_BIND_INFO {
    ULONG Size;
    PWSTR ClassName;
    WDF_VERSION Version;
    WDFFUNC *FunctionTable;
    ULONG FunctionTableCount;
    PVOID ClassBindInfo;
    NTSTATUS(NTAPI *ClientBindClass)(WDF_VERSION_BIND_CLASS *, WDF_BIND_INFO2 *, PWDF_DRIVER_GLOBALS, WDF_CLASS_BIND_INFO *);
    VOID(NTAPI *ClientUnbindClass)(WDF_VERSION_UNBIND_CLASS *, WDF_BIND_INFO2 *, PWDF_DRIVER_GLOBALS, WDF_CLASS_BIND_INFO *);
    PVOID ClassModule;
};

#define CLASS_RECORD_LONG 120

_Static_assert(sizeof(WDF_BIND_INFO2) == 88, "the loader knows the record by its size");
_Static_assert(sizeof(WDF_CLASS_BIND_INFO) == 80, "the loader knows the record by its size");

NTSTATUS NTAPI WdfVersionBind(PDRIVER_OBJECT, PUNICODE_STRING, WDF_BIND_INFO2 *, PWDF_DRIVER_GLOBALS *);
NTSTATUS NTAPI WdfVersionUnbind(PUNICODE_STRING, WDF_BIND_INFO2 *, PWDF_DRIVER_GLOBALS);
WDF_VERSION_BIND_CLASS WdfVersionBindClass;
WDF_VERSION_UNBIND_CLASS WdfVersionUnbindClass;

DRIVER_INITIALIZE DriverEntry;
extern ULONG WdfMinimumVersionRequired;

const WDFFUNC *WdfFunctions;
PWDF_DRIVER_GLOBALS WdfDriverGlobals;
BOOLEAN WdfClientVersionHigherThanFramework;
ULONG WdfFunctionCount = WdfFunctionTableNumEntries;
ULONG WdfStructureCount = PENSTOCK_WDF_STRUCTURE_COUNT;
WDF_STRUCT_INFO WdfStructures;

static WDF_BIND_INFO2 bind_info = {
    sizeof(WDF_BIND_INFO2), (PWSTR)L"KmdfLibrary", {KMDF_VERSION_MAJOR, KMDF_VERSION_MINOR, 0},
    WdfFunctionTableNumEntries, &WdfFunctions, 0,
    &WdfMinimumVersionRequired, &WdfClientVersionHigherThanFramework,
    &WdfFunctionCount, &WdfStructureCount, &WdfStructures,
};

/*
 * The class records lie between these two, because the linker sorts what follows the dollar sign;
 * between records it may leave zero words. The loader writes to the records.
 */
#pragma section(".kmdfclassbind$a", read, write)
#pragma section(".kmdfclassbind$c", read, write)
__declspec(allocate(".kmdfclassbind$a")) __declspec(align(16)) static ULONG_PTR classes_begin[2] = {0, 0};
__declspec(allocate(".kmdfclassbind$c")) static ULONG_PTR classes_end = 0;

/* The compiler must not conclude from the size of `classes_begin` that nothing follows it. */
static ULONG_PTR *marker(ULONG_PTR *address)
{
    __asm__("" : "+r"(address));
    return address;
}

/* Past the last record that has been bound. */
static ULONG_PTR *classes_bound;

/* Unbinding needs the service's path again, after DriverEntry's own is gone. */
static WCHAR path_text[260];
static UNICODE_STRING path = {0, sizeof(path_text), path_text};
static PDRIVER_UNLOAD displaced_unload;

/* The record at or after `at`, 0 past the last one; `*next` is where to go on. */
static NTSTATUS next_class(ULONG_PTR *at, ULONG_PTR *end, WDF_CLASS_BIND_INFO **record, ULONG_PTR **next)
{
    *record = 0;
    while (at < end && !*at)
        at++;
    *next = at;
    if (at >= end)
        return 0;

    ULONG size = ((WDF_CLASS_BIND_INFO *)at)->Size;
    if (size != sizeof(WDF_CLASS_BIND_INFO) && size != CLASS_RECORD_LONG)
        return STATUS_INVALID_IMAGE_FORMAT;
    if ((ULONG_PTR)end - (ULONG_PTR)at < size)
        return STATUS_INVALID_IMAGE_FORMAT;
    *record = (WDF_CLASS_BIND_INFO *)at;
    *next = at + size / sizeof(*at);
    return 0;
}

static NTSTATUS bind_classes(VOID)
{
    WDF_CLASS_BIND_INFO *record;
    ULONG_PTR *next;
    NTSTATUS status;

    classes_bound = marker(classes_begin);
    for (;;) {
        status = next_class(classes_bound, marker(&classes_end), &record, &next);
        if (!SUCCEEDED(status) || !record)
            return status;
        status = record->ClientBindClass
            ? record->ClientBindClass(WdfVersionBindClass, &bind_info, WdfDriverGlobals, record)
            : WdfVersionBindClass(&bind_info, WdfDriverGlobals, record);
        if (!SUCCEEDED(status))
            return status;
        classes_bound = next;
    }
}

/* Undoes what has been bound so far, classes first. */
static VOID unbind(VOID)
{
    WDF_CLASS_BIND_INFO *record;
    ULONG_PTR *next = marker(classes_begin);

    while (SUCCEEDED(next_class(next, classes_bound, &record, &next)) && record) {
        if (record->ClientUnbindClass)
            record->ClientUnbindClass(WdfVersionUnbindClass, &bind_info, WdfDriverGlobals, record);
        else
            WdfVersionUnbindClass(&bind_info, WdfDriverGlobals, record);
    }
    WdfVersionUnbind(&path, &bind_info, WdfDriverGlobals);
}

static VOID NTAPI unload(PDRIVER_OBJECT driver)
{
    if (displaced_unload && displaced_unload != unload)
        displaced_unload(driver);
    unbind();
}

NTSTATUS NTAPI FxDriverEntry(PDRIVER_OBJECT driver, PUNICODE_STRING registry_path)
{
    NTSTATUS status;

    /* No driver object: the kernel loads us as an export library. */
    if (!driver)
        return DriverEntry(driver, registry_path);

    RtlCopyUnicodeString(&path, registry_path);
    status = WdfVersionBind(driver, &path, &bind_info, &WdfDriverGlobals);
    if (!SUCCEEDED(status))
        return status;

    status = bind_classes();
    if (SUCCEEDED(status))
        status = DriverEntry(driver, registry_path);
    if (!SUCCEEDED(status)) {
        unbind();
        return status;
    }
    if (WdfDriverGlobals->DisplaceDriverUnload) {
        displaced_unload = driver->DriverUnload;
        driver->DriverUnload = unload;
    }
    return status;
}
