//! A terminal in the container's own devpts.
//!
//! The slave is opened through the master (`TIOCGPTPEER`), never by a path that the container could have
//! exchanged, and everything is checked to be what it claims.

use super::mountpoint::{attach_on, clone_tree, find};
use super::op::{Target, resolve};
use super::raw::{self, Errno, Opened, at, at_mut, call, fd};

const DEVPTS_SUPER_MAGIC: u64 = 0x1cd1;
const TIOCGPTPEER: usize = 0x5441;
/// Major numbers of terminals that `/dev/pts` holds: 136 to 143.
const SLAVE_MAJORS: std::ops::RangeInclusive<u32> = 136..=143;

/// Opens a new terminal below `root`: master and slave.
pub(super) fn open(root: i32, (columns, rows): (u16, u16), uid: u32) -> Result<(i32, i32), Errno> {
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = Opened(raw::openat2(root, c"dev/pts/ptmx", flags, 0, resolve::IN_ROOT_NO_LINKS)?);
    if raw::fs_magic(master.0)? != DEVPTS_SUPER_MAGIC {
        return Err(libc::ENODEV);
    }
    let unlocked: libc::c_int = 0;
    call(libc::SYS_ioctl, [fd(master.0), libc::TIOCSPTLCK as usize, at(&unlocked)])?;
    let peer_flags = (flags | libc::O_CLOEXEC) as usize;
    let slave = Opened(raw::descriptor(call(libc::SYS_ioctl, [fd(master.0), TIOCGPTPEER, peer_flags])?));
    let stat = raw::stat(slave.0)?;
    if stat.st_mode & libc::S_IFMT != libc::S_IFCHR || !SLAVE_MAJORS.contains(&libc::major(stat.st_rdev)) {
        return Err(libc::ENODEV);
    }
    if columns != 0 || rows != 0 {
        let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        call(libc::SYS_ioctl, [fd(master.0), libc::TIOCSWINSZ as usize, at(&size)])?;
    }
    if stat.st_uid != uid {
        call(libc::SYS_fchown, [fd(slave.0), uid as usize, u32::MAX as usize])?;
    }
    Ok((master.keep(), slave.keep()))
}

/// Mounts the slave on `/dev/console`.
pub(super) fn bind_console(root: i32, slave: i32, console: &Target) -> Result<(), Errno> {
    let place = console_file(root, console)?;
    let copy = Opened(clone_tree(slave, c"", false)?);
    attach_on(copy.0, place.0)
}

fn console_file(root: i32, console: &Target) -> Result<Opened, Errno> {
    match find(root, console, 0) {
        Err(libc::ENOENT) => super::mountpoint::ensure_file(root, console),
        other => other,
    }
}

/// Sends a descriptor over the socket together with some bytes.
pub(super) fn send_fd(socket: i32, bytes: &[u8], descriptor: i32) -> Result<(), Errno> {
    #[repr(C)]
    struct Control {
        header: libc::cmsghdr,
        descriptor: i32,
        padding: i32,
    }
    // SAFETY: all zeroes is a value of these plain structs.
    let (mut control, mut message): (Control, libc::msghdr) =
        unsafe { (std::mem::zeroed(), std::mem::zeroed()) };
    control.header.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<i32>()) as _;
    control.header.cmsg_level = libc::SOL_SOCKET;
    control.header.cmsg_type = libc::SCM_RIGHTS;
    control.descriptor = descriptor;
    let mut vector = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    message.msg_iov = &raw mut vector;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    let sent =
        raw::retry(libc::SYS_sendmsg, [fd(socket), at_mut(&mut message), libc::MSG_NOSIGNAL as usize])?;
    if sent == bytes.len() { Ok(()) } else { Err(libc::EIO) }
}

/// Gives a standard stream to a user, unless it is a device that others use as well, such as `/dev/null`.
pub(super) fn own(stream: i32, uid: u32) -> Result<(), Errno> {
    let Ok(stat) = raw::stat(stream) else { return Ok(()) };
    let null = stat.st_mode & libc::S_IFMT == libc::S_IFCHR && libc::major(stat.st_rdev) == 1;
    if null || stat.st_uid == uid {
        return Ok(());
    }
    match call(libc::SYS_fchown, [fd(stream), uid as usize, u32::MAX as usize]) {
        // Where the file cannot be given away the program must do with the open descriptor.
        Ok(_) | Err(libc::EPERM | libc::EROFS | libc::EINVAL | libc::ENOSYS) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Makes three descriptors the standard streams, whatever their numbers are.
pub(super) fn set_streams(streams: [i32; 3]) -> Result<(), Errno> {
    let mut high = [-1; 3];
    for (to, from) in high.iter_mut().zip(streams) {
        *to = raw::descriptor(call(libc::SYS_fcntl, [fd(from), libc::F_DUPFD_CLOEXEC as usize, 10])?);
    }
    for (number, from) in high.into_iter().enumerate() {
        call(libc::SYS_dup3, [fd(from), number, 0])?;
        raw::close(from);
    }
    Ok(())
}

/// The working directory is inside the root: else the kernel says "(unreachable)".
pub(super) fn working_directory_is_inside() -> Result<(), Errno> {
    let mut buffer = [0_u8; libc::PATH_MAX as usize];
    call(libc::SYS_getcwd, [buffer.as_mut_ptr() as usize, buffer.len()])?;
    if buffer[0] == b'/' { Ok(()) } else { Err(libc::ENOENT) }
}

/// Changes the working directory.
pub(super) fn change_directory(path: &std::ffi::CStr) -> Result<(), Errno> {
    let flags = libc::O_PATH | libc::O_DIRECTORY;
    let directory = Opened(raw::openat2(libc::AT_FDCWD, path, flags, 0, resolve::NO_MAGIC_LINKS)?);
    call(libc::SYS_fchdir, [fd(directory.0)])?;
    working_directory_is_inside()
}

/// A signal mask: with every signal, or with none.
pub(super) fn set_signal_mask(block: bool) -> Result<(), Errno> {
    let mask: u64 = if block { u64::MAX } else { 0 };
    call(libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, at(&mask), 0, 8]).map(drop)
}

/// Every signal gets its default action, also those the parent ignores.
pub(super) fn reset_signals() {
    // The kernel's `struct sigaction`, all zeroes for the default action.
    let default = [0_u64; 4];
    for signal in 1..=64_usize {
        // Fails for SIGKILL and SIGSTOP, whose action cannot differ.
        let _ = call(libc::SYS_rt_sigaction, [signal, at(&default), 0, 8]);
    }
}
