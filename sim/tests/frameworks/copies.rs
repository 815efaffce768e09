//! `memcpy`, `memmove` and `memset` without vector registers, in the place of the C library's.
//!
//! The driver of these tests is made of host functions, and a compiler may put a library copy into
//! any of them. The library's use registers that a kernel driver must save first, which the machine
//! would rightly stop. These belong to the whole test program.

use std::arch::global_asm;

global_asm!(
    r#"
.globl memcpy
.type memcpy,@function
memcpy:
  mov rax, rdi
  mov rcx, rdx
  rep movsb
  ret
.globl memmove
.type memmove,@function
memmove:
  mov rax, rdi
  mov rcx, rdx
  mov r8, rdi
  sub r8, rsi
  cmp r8, rdx
  jae 2f
  lea rdi, [rdi+rcx-1]
  lea rsi, [rsi+rcx-1]
  std
  rep movsb
  cld
  ret
2:
  rep movsb
  ret
.globl memset
.type memset,@function
memset:
  mov r8, rdi
  mov eax, esi
  mov rcx, rdx
  rep stosb
  mov rax, r8
  ret
"#
);
