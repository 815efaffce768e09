/* Routines that the driver kit declares here and not in wdm.h. */
#pragma once
#include "wdm.h"

PGENERIC_MAPPING NTAPI IoGetFileObjectGenericMapping(VOID);
ULONG64 NTAPI RtlGetEnabledExtendedFeatures(ULONG64 FeatureMask);
