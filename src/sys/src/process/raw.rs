//! System calls for a cloned child: no allocation, no lock, no libc beyond the bare `syscall`.

use std::ffi::CStr;

/// An errno.
pub(super) type Errno = i32;

/// Makes a system call.
pub(super) fn call<const N: usize>(number: libc::c_long, arguments: [usize; N]) -> Result<usize, Errno> {
    let mut a = [0_usize; 6];
    for (to, from) in a.iter_mut().zip(arguments) {
        *to = from;
    }
    // SAFETY: the callers in this module tree pass pointers to memory that lives through the call and is as
    // large as the call needs. `syscall` itself only moves registers and sets the thread's errno.
    let result = unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if result == -1 {
        // SAFETY: the location of the calling thread's errno is always valid.
        return Err(unsafe { *libc::__errno_location() });
    }
    Ok(result.cast_unsigned() as usize)
}

/// [`call`], repeated when a signal interrupted it.
pub(super) fn retry<const N: usize>(number: libc::c_long, arguments: [usize; N]) -> Result<usize, Errno> {
    loop {
        match call(number, arguments) {
            Err(libc::EINTR) => {}
            other => return other,
        }
    }
}

/// A descriptor as a register value.
pub(super) const fn fd(fd: i32) -> usize {
    fd as isize as usize
}

/// A C string as a register value.
pub(super) fn text(text: &CStr) -> usize {
    text.as_ptr() as usize
}

/// The address of a value.
pub(super) fn at<T>(value: &T) -> usize {
    std::ptr::from_ref(value) as usize
}

/// The address of a value that the kernel writes.
pub(super) fn at_mut<T>(value: &mut T) -> usize {
    std::ptr::from_mut(value) as usize
}

/// The `struct open_how` of openat2(2).
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

/// openat2(2), close-on-exec. Races that the kernel detects are retried.
pub(super) fn openat2(
    directory: i32,
    path: &CStr,
    flags: i32,
    mode: u32,
    resolve: u64,
) -> Result<i32, Errno> {
    let flags = u64::from((flags | libc::O_CLOEXEC).cast_unsigned());
    let how = OpenHow { flags, mode: u64::from(mode), resolve };
    let mut left = 128;
    loop {
        let result = retry(libc::SYS_openat2, [fd(directory), text(path), at(&how), size_of::<OpenHow>()])
            .map(descriptor);
        if result != Err(libc::EAGAIN) || left == 0 {
            return result;
        }
        left -= 1;
    }
}

/// A returned descriptor.
pub(super) fn descriptor(value: usize) -> i32 {
    // Descriptors are small: the kernel's limit is below 2^31.
    (value as u32).cast_signed()
}

/// close(2); there is nothing to do about an error.
pub(super) fn close(descriptor: i32) {
    let _ = call(libc::SYS_close, [fd(descriptor)]);
}

/// A descriptor that is closed when it goes out of scope.
pub(super) struct Opened(pub(super) i32);

impl Opened {
    /// The descriptor, which from now on nobody closes.
    pub(super) fn keep(self) -> i32 {
        std::mem::ManuallyDrop::new(self).0
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        close(self.0);
    }
}

/// The mode and device number of an open file.
pub(super) fn stat(descriptor: i32) -> Result<libc::stat, Errno> {
    // SAFETY: all zeroes is a value of this plain struct.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    call(libc::SYS_newfstatat, [fd(descriptor), text(c""), at_mut(&mut stat), libc::AT_EMPTY_PATH as usize])?;
    Ok(stat)
}

/// The type of the file system an open file lies on.
pub(super) fn fs_magic(descriptor: i32) -> Result<u64, Errno> {
    // SAFETY: all zeroes is a value of this plain struct.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    call(libc::SYS_fstatfs, [fd(descriptor), at_mut(&mut stat)])?;
    Ok((stat.f_type as i64).cast_unsigned())
}

/// write(2) of everything at once; a short write is an error.
pub(super) fn write_once(descriptor: i32, bytes: &[u8]) -> Result<(), Errno> {
    let written = retry(libc::SYS_write, [fd(descriptor), bytes.as_ptr() as usize, bytes.len()])?;
    if written == bytes.len() { Ok(()) } else { Err(libc::EIO) }
}

/// Leaves without running anything of the parent's.
pub(super) fn exit(code: i32) -> ! {
    loop {
        let _ = call(libc::SYS_exit_group, [code as usize]);
    }
}
