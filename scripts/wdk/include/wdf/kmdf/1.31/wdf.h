/* The part of KMDF 1.31 that our driver uses. */
#pragma once
#include "ntddk.h"

/* wdk-sys looks for the table under its versioned name. */
#define WdfFunctions WdfFunctions_01031

typedef VOID (*WDFFUNC)(VOID);
extern const WDFFUNC *WdfFunctions;

#include "wdftypes.h"
#include "wdffuncenum.h"
#include "wdfcalls.h"
