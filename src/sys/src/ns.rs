//! Namespaces: create, join, pin, enter on a thread of its own.
//!
//! A namespace of the caller's thread never changes: whoever wants to act inside another one does so on a
//! fresh thread that ends with the work ([`in_netns`]).

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// A kind of namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// user_namespaces(7)
    User,
    /// mount_namespaces(7)
    Mount,
    /// uts_namespaces(7)
    Uts,
    /// ipc_namespaces(7)
    Ipc,
    /// network_namespaces(7)
    Net,
    /// pid_namespaces(7)
    Pid,
    /// cgroup_namespaces(7)
    Cgroup,
    /// time_namespaces(7)
    Time,
}

impl Kind {
    /// Every kind, the user namespace first, as joining requires.
    pub const ALL: [Kind; 8] =
        [Kind::User, Kind::Mount, Kind::Uts, Kind::Ipc, Kind::Net, Kind::Pid, Kind::Cgroup, Kind::Time];

    /// The `CLONE_NEW…` flag.
    #[must_use]
    pub fn clone_flag(self) -> i32 {
        match self {
            Kind::User => libc::CLONE_NEWUSER,
            Kind::Mount => libc::CLONE_NEWNS,
            Kind::Uts => libc::CLONE_NEWUTS,
            Kind::Ipc => libc::CLONE_NEWIPC,
            Kind::Net => libc::CLONE_NEWNET,
            Kind::Pid => libc::CLONE_NEWPID,
            Kind::Cgroup => libc::CLONE_NEWCGROUP,
            Kind::Time => 0x80,
        }
    }

    /// Its name below `/proc/PID/ns`.
    #[must_use]
    pub fn proc_name(self) -> &'static str {
        match self {
            Kind::User => "user",
            Kind::Mount => "mnt",
            Kind::Uts => "uts",
            Kind::Ipc => "ipc",
            Kind::Net => "net",
            Kind::Pid => "pid",
            Kind::Cgroup => "cgroup",
            Kind::Time => "time",
        }
    }
}

/// The namespace of the calling thread.
pub fn open_self(kind: Kind) -> io::Result<OwnedFd> {
    open_path(Path::new(&format!("/proc/thread-self/ns/{}", kind.proc_name())))
}

/// The namespace of a process. For [`Kind::Pid`] this is the one it lives in.
pub fn open_of(pid: u32, kind: Kind) -> io::Result<OwnedFd> {
    open_path(Path::new(&format!("/proc/{pid}/ns/{}", kind.proc_name())))
}

/// A namespace by path: a link in `/proc` or a file it is bound to. Anything else is refused.
pub fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let file = OwnedFd::from(File::open(path)?);
    kind_of(file.as_fd())?;
    Ok(file)
}

/// Which kind of namespace a descriptor stands for; `EINVAL` when it is none.
pub fn kind_of(namespace: BorrowedFd<'_>) -> io::Result<Kind> {
    /// `NS_GET_NSTYPE`, ioctl_ns(2).
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: NS_GET_NSTYPE takes no argument and writes no memory; a descriptor of another kind yields ENOTTY.
    let flag = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_NSTYPE as _) };
    Kind::ALL
        .into_iter()
        .find(|kind| kind.clone_flag() == flag)
        .ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))
}

/// A number that is the same for two descriptors exactly if they stand for the same namespace.
pub fn identity(namespace: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(namespace)?;
    Ok((stat.st_dev, stat.st_ino))
}

/// Moves the calling thread into a namespace. Only for a thread that ends with its work.
pub fn join(namespace: BorrowedFd<'_>, kind: Kind) -> io::Result<()> {
    // SAFETY: setns(2) takes two integers; the descriptor is open for the whole call.
    if unsafe { libc::setns(namespace.as_raw_fd(), kind.clone_flag()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Runs `work` inside a network namespace, on a thread that ends with it.
pub fn in_netns<T: Send>(namespace: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    on_fresh_thread(|| {
        join(namespace, Kind::Net)?;
        Ok(work())
    })
}

/// A new network namespace, owned by the user namespace of the caller; it lives as long as the descriptor.
pub fn new_netns() -> io::Result<OwnedFd> {
    on_fresh_thread(|| {
        // SAFETY: unshare(2) takes one integer; CLONE_NEWNET changes this thread alone, which ends after this.
        if unsafe { libc::unshare(libc::CLONE_NEWNET) } < 0 {
            return Err(io::Error::last_os_error());
        }
        open_self(Kind::Net)
    })
}

/// Runs `work` inside a mount namespace, on a thread that ends with it. Paths mean other files there, those in `/proc`
/// included: work on descriptors alone.
pub fn in_mount_namespace<T: Send>(
    namespace: BorrowedFd<'_>,
    work: impl FnOnce() -> T + Send,
) -> io::Result<T> {
    on_fresh_thread(|| {
        // SAFETY: unshare(2) takes one integer; CLONE_FS changes this thread alone, which ends after this.
        if unsafe { libc::unshare(libc::CLONE_FS) } < 0 {
            return Err(io::Error::last_os_error());
        }
        join(namespace, Kind::Mount)?;
        Ok(work())
    })
}

/// Runs `work` with a copy of all mounts that nobody else sees, on a thread that ends with it. What it mounts stays
/// there, reachable through descriptors that it returns, as long as the namespace that comes with them is open.
pub fn with_private_mounts<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<(OwnedFd, T)> {
    on_fresh_thread(|| {
        // SAFETY: unshare(2) takes one integer; CLONE_FS and CLONE_NEWNS change this thread alone, which ends after this.
        if unsafe { libc::unshare(libc::CLONE_FS | libc::CLONE_NEWNS) } < 0 {
            return Err(io::Error::last_os_error());
        }
        use rustix::mount::MountPropagationFlags;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        rustix::mount::mount_change("/", private)?;
        let made = work()?;
        Ok((open_self(Kind::Mount)?, made))
    })
}

/// Keeps a namespace alive under a path: makes an empty file there and binds the namespace onto it.
pub fn pin(namespace: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
    if let Err(error) = rustix::mount::mount_bind(source.as_str(), path) {
        // The file is ours: it was made a moment ago.
        let _ = std::fs::remove_file(path);
        return Err(error.into());
    }
    Ok(())
}

/// Undoes [`pin`]; nothing there is fine.
pub fn unpin(path: &Path) -> io::Result<()> {
    use rustix::mount::UnmountFlags;
    loop {
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn on_fresh_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("berth-ns".into()).spawn_scoped(scope, work)?;
        match thread.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_runs_inside_and_the_caller_stays() {
        let own = open_self(Kind::Net).unwrap();
        let namespace = new_netns().unwrap();
        let inside =
            in_netns(namespace.as_fd(), || identity(open_self(Kind::Net).unwrap().as_fd()).unwrap()).unwrap();
        assert_eq!(inside, identity(namespace.as_fd()).unwrap());
        assert_ne!(inside, identity(own.as_fd()).unwrap());
        assert_eq!(identity(open_self(Kind::Net).unwrap().as_fd()).unwrap(), identity(own.as_fd()).unwrap());
    }

    #[test]
    fn every_kind_is_told_apart_and_other_files_are_refused() {
        for kind in Kind::ALL {
            assert_eq!(kind_of(open_self(kind).unwrap().as_fd()).unwrap(), kind);
        }
        open_path(Path::new("/dev/null")).unwrap_err();
    }

    #[test]
    fn pinned_namespaces_are_found_by_path() {
        let path = std::env::temp_dir().join(format!("berth-test-ns-{}", std::process::id()));
        let namespace = new_netns().unwrap();
        pin(namespace.as_fd(), &path).unwrap();
        let found = open_path(&path).unwrap();
        assert_eq!(identity(found.as_fd()).unwrap(), identity(namespace.as_fd()).unwrap());
        unpin(&path).unwrap();
        unpin(&path).unwrap();
    }
}
