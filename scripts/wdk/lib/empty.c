/*
 * wdk-sys links these libraries whether or not anything is taken from them: hal (its routines live
 * in the kernel now), wmilib, and BufferOverflowFastFailK (stack cookies, which neither Rust nor our
 * own C code asks for).
 */
typedef int nothing;
