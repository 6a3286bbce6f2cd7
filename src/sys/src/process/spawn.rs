//! The one clone3, with the namespaces that only a clone can enter.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::child::{Interpreter, run};
use super::op::{Exec, Fd, Op, Program, Step};
use super::report::Report;
use crate::ns::{self, Kind};

/// Open files that a script refers to by index.
#[derive(Debug, Default)]
pub struct Files<'a>(Vec<Held<'a>>);

#[derive(Debug)]
enum Held<'a> {
    Borrowed(BorrowedFd<'a>),
    Owned(OwnedFd),
}

impl<'a> Files<'a> {
    /// Adds a file that the caller keeps open.
    pub fn borrow(&mut self, file: BorrowedFd<'a>) -> Fd {
        self.push(Held::Borrowed(file))
    }

    /// Adds a file that is closed with the script.
    pub fn own(&mut self, file: OwnedFd) -> Fd {
        self.push(Held::Owned(file))
    }

    fn push(&mut self, file: Held<'a>) -> Fd {
        let index = u16::try_from(self.0.len()).unwrap_or(u16::MAX);
        self.0.push(file);
        Fd::File(index)
    }

    fn get(&self, fd: Fd) -> Option<BorrowedFd<'_>> {
        match fd {
            Fd::File(index) => self.0.get(usize::from(index)).map(|held| match held {
                Held::Borrowed(file) => *file,
                Held::Owned(file) => file.as_fd(),
            }),
            Fd::Cwd | Fd::Slot(_) => None,
        }
    }

    fn raw(&self) -> Vec<i32> {
        let raw = |held: &Held<'_>| match held {
            Held::Borrowed(file) => file.as_raw_fd(),
            Held::Owned(file) => file.as_raw_fd(),
        };
        self.0.iter().map(raw).collect()
    }
}

/// Everything a child does, ready to run.
#[derive(Debug, Default)]
pub struct Script<'a> {
    /// Namespaces made by the clone itself: `CLONE_NEWPID` for a new PID namespace.
    pub clone_flags: i32,
    /// A PID namespace, or a process (pidfd) whose one, that the child is born in.
    pub pid_namespace: Option<Fd>,
    /// A cgroup v2 directory that the child is born in.
    pub cgroup: Option<Fd>,
    /// The operations, in order.
    pub steps: Vec<Step>,
    /// Files the operations refer to.
    pub files: Files<'a>,
}

/// A child that runs its script.
#[derive(Debug)]
pub struct Spawned {
    /// Its id in our PID namespace.
    pub pid: u32,
    /// It, by descriptor.
    pub pidfd: OwnedFd,
    /// What it tells.
    pub report: Report,
}

/// `struct clone_args` of clone3(2).
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

impl Script<'_> {
    /// Clones the child and returns at once.
    pub fn spawn(&self) -> io::Result<Spawned> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let tables = self.tables();
        let files = self.files.raw();
        let mut slots = vec![-1; self.slot_count()];
        let mut interpreter = Interpreter {
            steps: &self.steps,
            tables: &tables,
            files: &files,
            slots: &mut slots,
            report: theirs.as_raw_fd(),
            parents_end: ours.as_raw_fd(),
            in_session_directory: false,
        };
        let birthplace = self.pid_namespace.and_then(|fd| self.files.get(fd));
        let cgroup = self.cgroup.and_then(|fd| self.files.get(fd));
        let (pid, pidfd) = in_pid_namespace(birthplace, || {
            clone(self.clone_flags, cgroup, &mut |()| run(&mut interpreter))
        })?;
        Ok(Spawned { pid, pidfd, report: Report::new(ours) })
    }

    fn slot_count(&self) -> usize {
        self.steps
            .iter()
            .filter_map(|step| step.op.highest_slot())
            .max()
            .map_or(0, |slot| usize::from(slot.0) + 1)
    }

    /// Argument tables, by step: made before the clone, since the child cannot allocate.
    fn tables(&self) -> Vec<Option<ExecTable>> {
        let table = |step: &Step| match &step.op {
            Op::Exec(exec) => Some(ExecTable::new(exec)),
            Op::RunHook(hook) => Some(ExecTable::new(&hook.exec)),
            _ => None,
        };
        self.steps.iter().map(table).collect()
    }
}

/// The pointers that execve(2) takes; they point into the [`Exec`] they were made of.
pub(super) struct ExecTable {
    pub(super) paths: Vec<*const c_char>,
    pub(super) arguments: Vec<*const c_char>,
    pub(super) environment: Vec<*const c_char>,
}

impl ExecTable {
    fn new(exec: &Exec) -> ExecTable {
        let pointers = |strings: &[CString]| {
            strings.iter().map(|s| s.as_ptr()).chain([std::ptr::null()]).collect::<Vec<*const c_char>>()
        };
        let paths = match &exec.program {
            Program::Paths(paths) => paths.iter().map(|p| CStr::as_ptr(p)).collect(),
            Program::File(_) => Vec::new(),
        };
        ExecTable { paths, arguments: pointers(&exec.arguments), environment: pointers(&exec.environment) }
    }
}

/// Runs `work` with the calling thread's children being born in a PID namespace.
fn in_pid_namespace<T>(
    namespace: Option<BorrowedFd<'_>>,
    work: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let Some(namespace) = namespace else { return work() };
    let own = ns::open_self(Kind::Pid)?;
    ns::join(namespace, Kind::Pid)?;
    let result = work();
    if ns::join(own.as_fd(), Kind::Pid).is_err() {
        // From here on every child would be born in a container. There is no way to go on.
        std::process::abort();
    }
    result
}

fn clone(
    flags: i32,
    cgroup: Option<BorrowedFd<'_>>,
    child: &mut dyn FnMut(()),
) -> io::Result<(u32, OwnedFd)> {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
    let mut pidfd: i32 = -1;
    let mut arguments = CloneArgs {
        flags: u64::from(flags.cast_unsigned())
            | u64::from(libc::CLONE_PIDFD.cast_unsigned())
            | CLONE_CLEAR_SIGHAND,
        pidfd: std::ptr::from_mut(&mut pidfd) as u64,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        ..CloneArgs::default()
    };
    if let Some(cgroup) = cgroup {
        arguments.flags |= CLONE_INTO_CGROUP;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: without CLONE_VM the child has its own copy of the memory and of this stack. In it only the
    // interpreter runs, which makes system calls alone and never returns.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>()) };
    match result {
        0 => {
            child(());
            super::raw::exit(1)
        }
        1.. => Ok((u32::try_from(result).map_err(io::Error::other)?, crate::pidfd::owned(pidfd.into())?)),
        _ => Err(io::Error::last_os_error()),
    }
}
