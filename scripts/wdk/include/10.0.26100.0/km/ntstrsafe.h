/* wdk-build includes this third; Rust code has no use for its string routines. */
#pragma once
