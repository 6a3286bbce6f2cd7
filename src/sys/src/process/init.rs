//! The built-in init: the first process of a PID namespace that a pod shares.
//!
//! A complete static program of a few hundred bytes, for a sealed memfd. It holds no file, maps nothing but
//! itself and does two things: it reaps, and it exits on SIGTERM or SIGINT from outside its namespace. It
//! expects to be started with every signal blocked. Being code of its own, it gives a container that can
//! look at `/proc/1/exe` nothing of the node's to overwrite.

use std::slice;

#[cfg(target_arch = "x86_64")]
std::arch::global_asm!(
    ".pushsection .rodata",
    "berth_init_start:",
    "    sub rsp, 256",
    "    mov rax, 0x0000000000014002", // SIGINT, SIGTERM and SIGCHLD as bits signal - 1
    "    mov [rsp + 128], rax",
    "2:  lea rdi, [rsp + 128]",
    "    mov rsi, rsp",
    "    xor edx, edx",
    "    mov r10d, 8",
    "    mov eax, 128", // rt_sigtimedwait
    "    syscall",
    "    cmp eax, 17",
    "    je 3f",
    "    test eax, eax",
    "    jle 2b",
    "    cmp dword ptr [rsp + 16], 0", // si_pid: 0 for a sender outside
    "    jne 2b",
    "    xor edi, edi",
    "    mov eax, 231", // exit_group
    "    syscall",
    "3:  mov edi, -1",
    "    xor esi, esi",
    "    mov edx, 1", // WNOHANG
    "    xor r10d, r10d",
    "    mov eax, 61", // wait4
    "    syscall",
    "    test eax, eax",
    "    jg 3b",
    "    jmp 2b",
    "berth_init_end:",
    ".popsection",
);

#[cfg(target_arch = "aarch64")]
std::arch::global_asm!(
    ".pushsection .rodata",
    ".balign 4",
    "berth_init_start:",
    "    sub sp, sp, #256",
    "    movz x9, #0x4002", // SIGINT, SIGTERM and SIGCHLD as bits signal - 1
    "    movk x9, #1, lsl #16",
    "    str x9, [sp, #128]",
    "2:  add x0, sp, #128",
    "    mov x1, sp",
    "    mov x2, #0",
    "    mov x3, #8",
    "    mov x8, #137", // rt_sigtimedwait
    "    svc #0",
    "    cmp w0, #17",
    "    b.eq 3f",
    "    cmp w0, #0",
    "    b.le 2b",
    "    ldr w9, [sp, #16]", // si_pid: 0 for a sender outside
    "    cbnz w9, 2b",
    "    mov x0, #0",
    "    mov x8, #94", // exit_group
    "    svc #0",
    "3:  mov x0, #-1",
    "    mov x1, #0",
    "    mov x2, #1", // WNOHANG
    "    mov x3, #0",
    "    mov x8, #260", // wait4
    "    svc #0",
    "    cmp w0, #0",
    "    b.gt 3b",
    "    b 2b",
    "berth_init_end:",
    ".popsection",
);

unsafe extern "C" {
    static berth_init_start: u8;
    static berth_init_end: u8;
}

/// Where the program is loaded.
const BASE: u64 = 0x0040_0000;
const ELF_HEADER_BYTES: u16 = 64;
const PROGRAM_HEADER_BYTES: u16 = 56;

/// The program as an ELF executable.
#[must_use]
pub fn init_image() -> Vec<u8> {
    let code = code();
    let headers = u64::from(ELF_HEADER_BYTES) + 2 * u64::from(PROGRAM_HEADER_BYTES);
    let size = headers + code.len() as u64;
    let mut image = Vec::new();
    image.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    for half in [2, if cfg!(target_arch = "aarch64") { 183 } else { 62_u16 }] {
        image.extend_from_slice(&half.to_le_bytes());
    }
    image.extend_from_slice(&1_u32.to_le_bytes());
    for long in [BASE + headers, u64::from(ELF_HEADER_BYTES), 0] {
        image.extend_from_slice(&long.to_le_bytes());
    }
    image.extend_from_slice(&0_u32.to_le_bytes());
    for half in [ELF_HEADER_BYTES, PROGRAM_HEADER_BYTES, 2, 64, 0, 0] {
        image.extend_from_slice(&half.to_le_bytes());
    }
    // PT_LOAD, readable and executable; PT_GNU_STACK, readable and writable.
    program_header(&mut image, 1, 5, [0, BASE, BASE, size, size, 0x1000]);
    program_header(&mut image, 0x6474_e551, 6, [0, 0, 0, 0, 0, 16]);
    image.extend_from_slice(code);
    image
}

fn program_header(image: &mut Vec<u8>, kind: u32, flags: u32, fields: [u64; 6]) {
    image.extend_from_slice(&kind.to_le_bytes());
    image.extend_from_slice(&flags.to_le_bytes());
    for field in fields {
        image.extend_from_slice(&field.to_le_bytes());
    }
}

fn code() -> &'static [u8] {
    // SAFETY: both symbols are defined by the block above, in this order and in one section that is never
    // written, so the bytes between them are a constant of this program.
    unsafe {
        let (start, end) = (&raw const berth_init_start, &raw const berth_init_end);
        slice::from_raw_parts(start, end as usize - start as usize)
    }
}
