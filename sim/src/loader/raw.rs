//! The C functions that compilers call on their own, bound to the driver without a gate.
//!
//! They are called for every copied packet, and a gate would cost more than most copies. They follow the driver's calling
//! convention and change no register that win64 preserves and no vector register at all. A fault inside one is the caller's:
//! RSP is as at entry, so the unwinder finds the caller at the top of the stack.

use std::arch::global_asm;
use std::ops::Range;

unsafe extern "C" {
    fn raw_begin();
    fn raw_end();
    fn raw_chkstk();
    fn raw_memcpy();
    fn raw_memmove();
    fn raw_memset();
    fn raw_memcmp();
    fn raw_strlen();
}

global_asm!(
    r#"
.globl raw_begin
raw_begin:
.globl raw_chkstk
.type raw_chkstk,@function
raw_chkstk:                      # rax = size of the frame; only r10 and r11 may change
  mov r10, rsp
  mov r11, rax
1: cmp r11, 4096
  jb 2f
  sub r10, 4096
  test [r10], r10
  sub r11, 4096
  jmp 1b
2: sub r10, r11
  test [r10], r10
  ret

.globl raw_memcpy
.type raw_memcpy,@function
raw_memcpy:                      # rcx = to, rdx = from, r8 = count
  mov rax, rcx
  cmp r8, 256                    # few bytes are there before rep movsb has begun
  ja 6f
2:
  cmp r8, 8
  jb 3f
  mov r10, [rdx]
  mov [rcx], r10
  add rdx, 8
  add rcx, 8
  sub r8, 8
  jmp 2b
3:
  test r8, r8
  jz 5f
  mov r10b, [rdx]
  mov [rcx], r10b
  inc rdx
  inc rcx
  dec r8
  jmp 3b
5:
  ret
6:
  mov r10, rdi
  mov r11, rsi
  mov rdi, rcx
  mov rsi, rdx
  mov rcx, r8
  rep movsb
  mov rdi, r10
  mov rsi, r11
  ret

.globl raw_memmove
.type raw_memmove,@function
raw_memmove:
  mov r9, rcx
  sub r9, rdx
  cmp r9, r8
  jae raw_memcpy                 # to - from, unsigned, is at least count: forward is safe
  mov rax, rcx
  mov r10, rdi
  mov r11, rsi
  lea rdi, [rcx+r8-1]
  lea rsi, [rdx+r8-1]
  mov rcx, r8
  std
  rep movsb
  cld
  mov rdi, r10
  mov rsi, r11
  ret

.globl raw_memset
.type raw_memset,@function
raw_memset:                      # rcx = to, edx = byte, r8 = count
  mov r9, rcx
  mov r10, rdi
  mov rdi, rcx
  mov eax, edx
  mov rcx, r8
  rep stosb
  mov rdi, r10
  mov rax, r9
  ret

.globl raw_memcmp
.type raw_memcmp,@function
raw_memcmp:
  xor r9d, r9d
1: cmp r9, r8
  je 2f
  movzx eax, byte ptr [rcx+r9]
  movzx r10d, byte ptr [rdx+r9]
  inc r9
  sub eax, r10d
  je 1b
  ret
2: xor eax, eax
  ret

.globl raw_strlen
.type raw_strlen,@function
raw_strlen:
  xor eax, eax
1: cmp byte ptr [rcx+rax], 0
  je 2f
  inc rax
  jmp 1b
2: ret
.globl raw_end
raw_end:
"#
);

/// All of them, by name.
const ALL: [(&str, unsafe extern "C" fn()); 6] = [
    ("__chkstk", raw_chkstk),
    ("memcpy", raw_memcpy),
    ("memmove", raw_memmove),
    ("memset", raw_memset),
    ("memcmp", raw_memcmp),
    ("strlen", raw_strlen),
];

/// The address of one of them.
pub(crate) fn address(name: &str) -> Option<usize> {
    ALL.iter()
        .find(|(known, _)| *known == name)
        .map(|(_, function)| *function as *const () as usize)
}

/// The name of the one that begins at `address`.
pub(crate) fn name_at(address: usize) -> Option<&'static str> {
    ALL.iter()
        .find(|(_, function)| *function as *const () as usize == address)
        .map(|(name, _)| *name)
}

/// Where they all are.
pub(crate) fn range() -> Range<usize> {
    raw_begin as *const () as usize..raw_end as *const () as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    type Three = unsafe extern "win64" fn(*mut u8, *const u8, usize) -> usize;

    fn function(name: &str) -> Three {
        let address = address(name).unwrap() as *const ();
        // SAFETY: the functions above take three words by the win64 convention.
        unsafe { std::mem::transmute::<*const (), Three>(address) }
    }

    #[test]
    fn they_do_what_c_says() {
        for (to, from, count) in [(0, 4, 8), (4, 0, 8), (0, 0, 8), (3, 11, 5), (5, 3, 0)] {
            let mut ours: [u8; 16] = std::array::from_fn(|number| number as u8);
            let mut theirs = ours;
            theirs.copy_within(from..from + count, to);
            let base = ours.as_mut_ptr();
            // SAFETY: both ranges are inside the array.
            unsafe { function("memmove")(base.wrapping_add(to), base.wrapping_add(from), count) };
            assert_eq!(ours, theirs, "{to} {from} {count}");
        }
        for count in (0..40).chain(250..260) {
            for (to, from) in [(0, 300), (300, 0), (1, 0), (0, 1), (0, 9), (9, 0)] {
                let mut ours: [u8; 600] = std::array::from_fn(|number| number as u8);
                let mut theirs = ours;
                theirs.copy_within(from..from + count, to);
                let base = ours.as_mut_ptr();
                // SAFETY: both ranges are inside the array.
                unsafe {
                    function("memmove")(base.wrapping_add(to), base.wrapping_add(from), count)
                };
                assert_eq!(ours, theirs, "{to} {from} {count}");
            }
        }
        let mut to = [0_u8; 5];
        // SAFETY: five bytes each.
        unsafe { function("memcpy")(to.as_mut_ptr(), b"abcde".as_ptr(), 5) };
        assert_eq!(&to, b"abcde");
        for (left, right, sign) in [(b"abc", b"abd", -1), (b"abd", b"abc", 1), (b"abc", b"abc", 0)]
        {
            // SAFETY: three bytes each; it only reads.
            let order =
                unsafe { function("memcmp")(left.as_ptr().cast_mut(), right.as_ptr(), 3) } as i32;
            assert_eq!(order.signum(), sign);
        }
        // SAFETY: five bytes; the second argument is the byte.
        unsafe { function("memset")(to.as_mut_ptr(), std::ptr::without_provenance(7), 4) };
        assert_eq!(to, [7, 7, 7, 7, b'e']);
        // SAFETY: a terminated string.
        let length =
            unsafe { function("strlen")(c"four".as_ptr().cast_mut().cast(), std::ptr::null(), 0) };
        assert_eq!(length, 4);
    }
}
