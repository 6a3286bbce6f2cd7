//! Handing a program to the kernel.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use super::program::{Flags, Program};

/// `struct sock_fprog`.
#[repr(C)]
struct FilterProgram {
    len: u16,
    filter: *const u64,
}

const SECCOMP_SET_MODE_FILTER: libc::c_long = 1;

/// Installs `program` for the calling thread with `flags` (usually [`Program::flags`]) and returns the
/// listener when they hold [`Flags::NEW_LISTENER`].
///
/// The caller has `CAP_SYS_ADMIN` or has set `no_new_privs`. Allocates nothing, so a freshly cloned child
/// may call it.
///
/// # Errors
/// What `seccomp(2)` reports; `ESRCH` when a thread could not be synchronised.
pub fn install(program: &Program, flags: Flags) -> io::Result<Option<OwnedFd>> {
    let len = u16::try_from(program.code.len()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
    let fprog = FilterProgram { len, filter: program.code.as_ptr() };
    let bits = flags.bits();
    // SAFETY: fprog has the layout of `struct sock_fprog` and points at `len` eight-byte instructions that
    // the shared slice keeps alive during the call; the kernel copies them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            SECCOMP_SET_MODE_FILTER,
            libc::c_ulong::from(bits),
            std::ptr::from_ref(&fprog),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    if !flags.contains(Flags::NEW_LISTENER) {
        // With TSYNC alone a positive result is the id of a thread that could not follow.
        return if result == 0 { Ok(None) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) };
    }
    let fd = i32::try_from(result).map_err(|_| io::Error::from_raw_os_error(libc::EBADF))?;
    // SAFETY: the kernel has just created this descriptor (close-on-exec) for us alone.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}
