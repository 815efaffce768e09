/*
 * Base types of the Windows driver interface.
 *
 * Widths are spelled so that they come out right both for the Windows target (where long has 32
 * bits) and for a 64-bit Unix build host (where it has 64): that is what makes `cargo check` and
 * `cargo clippy` on the host see the same layouts as the driver.
 */
#pragma once

typedef void VOID, *PVOID;
typedef char CHAR, CCHAR, *PCHAR, *PSTR;
typedef const char *PCSTR, *LPCSTR, *PCCH;
typedef unsigned char UCHAR, *PUCHAR, BOOLEAN, *PBOOLEAN;
typedef short SHORT, CSHORT;
typedef unsigned short USHORT, *PUSHORT;
typedef unsigned short WCHAR, *PWCHAR, *PWSTR, *PWCH;
typedef const unsigned short *PCWSTR;
#ifdef __LP64__
typedef int LONG, *PLONG;
typedef unsigned int ULONG, *PULONG;
#else
typedef long LONG, *PLONG;
typedef unsigned long ULONG, *PULONG;
#endif
typedef ULONG LOGICAL;
typedef long long LONGLONG, LONG_PTR;
typedef unsigned long long ULONGLONG, ULONG64, *PULONG64, ULONG_PTR, *PULONG_PTR;
typedef ULONG_PTR KAFFINITY, KSPIN_LOCK, *PKSPIN_LOCK;
typedef unsigned long long SIZE_T, *PSIZE_T;
#ifdef _MSC_VER
typedef unsigned long long size_t;
#else
#include <stddef.h>
#endif

typedef LONG NTSTATUS, *PNTSTATUS;
typedef LONG KPRIORITY;
typedef PVOID HANDLE, *PHANDLE;
typedef UCHAR KIRQL, *PKIRQL;
typedef CCHAR KPROCESSOR_MODE;
typedef ULONG ACCESS_MASK, *PACCESS_MASK;

#define NTAPI __stdcall
#if defined(_MSC_VER)
#define PENSTOCK_ONE_COPY __declspec(selectany)
#define PENSTOCK_ALIGN(bytes) __declspec(align(bytes))
#else
#define __stdcall
#define PENSTOCK_ONE_COPY __attribute__((weak))
#define PENSTOCK_ALIGN(bytes) __attribute__((aligned(bytes)))
#endif

typedef struct _GUID {
    ULONG Data1;
    USHORT Data2;
    USHORT Data3;
    UCHAR Data4[8];
} GUID, *LPGUID;

typedef union _LARGE_INTEGER {
    struct {
        ULONG LowPart;
        LONG HighPart;
    } u;
    LONGLONG QuadPart;
} LARGE_INTEGER, *PLARGE_INTEGER;

typedef struct _UNICODE_STRING {
    USHORT Length;
    USHORT MaximumLength;
    PWCH Buffer;
} UNICODE_STRING, *PUNICODE_STRING;
typedef const UNICODE_STRING *PCUNICODE_STRING;

typedef struct _LIST_ENTRY {
    struct _LIST_ENTRY *Flink;
    struct _LIST_ENTRY *Blink;
} LIST_ENTRY, *PLIST_ENTRY;

typedef struct _SINGLE_LIST_ENTRY {
    struct _SINGLE_LIST_ENTRY *Next;
} SINGLE_LIST_ENTRY, *PSINGLE_LIST_ENTRY;

typedef struct _PROCESSOR_NUMBER {
    USHORT Group;
    UCHAR Number;
    UCHAR Reserved;
} PROCESSOR_NUMBER, *PPROCESSOR_NUMBER;

typedef struct _GROUP_AFFINITY {
    KAFFINITY Mask;
    USHORT Group;
    USHORT Reserved[3];
} GROUP_AFFINITY, *PGROUP_AFFINITY;

typedef struct _OBJECT_ATTRIBUTES {
    ULONG Length;
    HANDLE RootDirectory;
    PUNICODE_STRING ObjectName;
    ULONG Attributes;
    PVOID SecurityDescriptor;
    PVOID SecurityQualityOfService;
} OBJECT_ATTRIBUTES, *POBJECT_ATTRIBUTES;
