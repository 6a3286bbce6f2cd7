//! Sealed anonymous files.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A read-only file in memory with this content; nobody can change it, whoever has a descriptor.
/// The offset is at the start.
pub fn sealed(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    seal(create(name, false)?, bytes)
}

/// Like [`sealed`], for a program that is to be executed.
pub fn sealed_executable(name: &str, bytes: &[u8]) -> io::Result<OwnedFd> {
    seal(create(name, true)?, bytes)
}

/// An empty file in memory that can be written.
pub fn anonymous(name: &str) -> io::Result<OwnedFd> {
    Ok(create(name, false)?.into())
}

fn create(name: &str, executable: bool) -> io::Result<File> {
    const MFD_NOEXEC_SEAL: libc::c_uint = 0x8;
    const MFD_EXEC: libc::c_uint = 0x10;
    let name = CString::new(name)?;
    let base = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // Kernels before 6.3 know neither flag and make every memfd executable.
    for flags in [base | if executable { MFD_EXEC } else { MFD_NOEXEC_SEAL }, base] {
        // SAFETY: memfd_create(2) reads one C string, which lives through the call.
        let fd = unsafe { libc::memfd_create(name.as_ptr(), flags) };
        if fd >= 0 {
            // SAFETY: the call made this descriptor for us.
            return Ok(unsafe { File::from_raw_fd(fd) });
        }
        if io::Error::last_os_error().raw_os_error() != Some(libc::EINVAL) {
            break;
        }
    }
    Err(io::Error::last_os_error())
}

fn seal(mut file: File, bytes: &[u8]) -> io::Result<OwnedFd> {
    file.write_all(bytes)?;
    file.rewind()?;
    let seals = libc::F_SEAL_SEAL | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE;
    // SAFETY: F_ADD_SEALS takes an integer; the descriptor is open.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn sealed_files_can_only_be_read() {
        let mut file = File::from(sealed("berth-test", b"content").unwrap());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        file.write_all(b"x").unwrap_err();
        file.set_len(0).unwrap_err();
    }
}
