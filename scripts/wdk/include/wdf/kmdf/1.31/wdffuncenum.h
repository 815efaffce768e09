/*
 * Slots of the KMDF 1.31 function table that our driver (and the crate wdk) calls. The numbers are
 * the framework's binary interface and never change between versions.
 */
#pragma once

extern PWDF_DRIVER_GLOBALS WdfDriverGlobals;
extern BOOLEAN WdfClientVersionHigherThanFramework;
extern ULONG WdfFunctionCount;
extern ULONG WdfStructureCount;
extern WDF_STRUCT_INFO WdfStructures;

/* Oldest framework the driver accepts; the entry object (lib/kmdf_entry.c) reads it. */
#ifndef PENSTOCK_ENTRY_OBJECT
PENSTOCK_ONE_COPY ULONG WdfMinimumVersionRequired =
#ifdef KMDF_MINIMUM_VERSION_REQUIRED
    KMDF_MINIMUM_VERSION_REQUIRED;
#else
    KMDF_VERSION_MINOR;
#endif
#endif

typedef enum _WDFFUNCENUM {
    WdfControlDeviceInitAllocateTableIndex = 25,
    WdfControlFinishInitializingTableIndex = 27,
    WdfDeviceWdmGetDeviceObjectTableIndex = 31,
    WdfDeviceInitFreeTableIndex = 54,
    WdfDeviceInitSetPnpPowerEventCallbacksTableIndex = 55,
    WdfDeviceInitSetFileObjectConfigTableIndex = 71,
    WdfDeviceInitSetRequestAttributesTableIndex = 72,
    WdfDeviceInitSetIoInCallerContextCallbackTableIndex = 74,
    WdfDeviceCreateTableIndex = 75,
    WdfDeviceCreateDeviceInterfaceTableIndex = 77,
    WdfDeviceSetFailedTableIndex = 87,
    WdfDeviceEnqueueRequestTableIndex = 91,
    WdfDriverCreateTableIndex = 116,
    WdfDriverOpenParametersRegistryKeyTableIndex = 119,
    WdfFileObjectGetDeviceTableIndex = 139,
    WdfFileObjectWdmGetFileObjectTableIndex = 140,
    WdfIoQueueCreateTableIndex = 152,
    WdfIoQueueGetDeviceTableIndex = 157,
    WdfIoQueueRetrieveNextRequestTableIndex = 158,
    WdfObjectGetTypedContextWorkerTableIndex = 202,
    WdfObjectAllocateContextTableIndex = 203,
    WdfObjectReferenceActualTableIndex = 205,
    WdfObjectDereferenceActualTableIndex = 206,
    WdfObjectDeleteTableIndex = 208,
    WdfRegistryCloseTableIndex = 231,
    WdfRegistryQueryUnicodeStringTableIndex = 238,
    WdfRegistryQueryULongTableIndex = 240,
    WdfRequestCompleteTableIndex = 263,
    WdfRequestCompleteWithInformationTableIndex = 265,
    WdfRequestGetParametersTableIndex = 266,
    WdfRequestRetrieveInputBufferTableIndex = 269,
    WdfRequestRetrieveOutputBufferTableIndex = 270,
    WdfRequestRetrieveOutputWdmMdlTableIndex = 272,
    WdfRequestGetFileObjectTableIndex = 277,
    WdfRequestGetRequestorModeTableIndex = 280,
    WdfRequestForwardToIoQueueTableIndex = 281,
    WdfRequestWdmGetIrpTableIndex = 285,
    WdfSpinLockCreateTableIndex = 315,
    WdfSpinLockAcquireTableIndex = 316,
    WdfSpinLockReleaseTableIndex = 317,
    WdfTimerCreateTableIndex = 318,
    WdfTimerStartTableIndex = 319,
    WdfTimerStopTableIndex = 320,
    WdfFunctionTableNumEntries = 458
} WDFFUNCENUM;

/* Number of structures whose sizes the framework may report. */
#define PENSTOCK_WDF_STRUCTURE_COUNT 81
