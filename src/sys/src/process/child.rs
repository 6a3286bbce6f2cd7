//! The interpreter that runs in the child.
//!
//! Everything here runs after clone in a copy of the parent's memory, possibly while other threads of the
//! parent held locks: system calls only. Indexing goes through `get`, so that no panic can be reached.

use std::ffi::CStr;

use super::mountpoint as place;
use super::op::{Capabilities, Exec, Fd, FsOption, Hook, MountChange, Op, Program, Scheduler, Slot, Step};
use super::raw::{self, Errno, at, at_mut, call, fd, text};
use super::report::{encode, kind};
use super::spawn::ExecTable;
use super::terminal;

/// The state of a child.
pub(super) struct Interpreter<'a> {
    pub(super) steps: &'a [Step],
    pub(super) tables: &'a [Option<ExecTable>],
    pub(super) files: &'a [i32],
    pub(super) slots: &'a mut [i32],
    pub(super) report: i32,
    /// The parent's end of the socket, which the child has a copy of: while it is open the child would not
    /// notice that the parent is gone.
    pub(super) parents_end: i32,
    /// Whether the working directory has been set.
    pub(super) in_session_directory: bool,
}

/// Runs the script. Never returns.
pub(super) fn run(child: &mut Interpreter<'_>) -> ! {
    raw::close(child.parents_end);
    terminal::reset_signals();
    // The parent may have blocked some; nothing can be done about a failure, and there is none.
    let _ = terminal::set_signal_mask(false);
    let steps = child.steps;
    for (index, step) in steps.iter().enumerate() {
        match child.step(index, &step.op) {
            Ok(()) => {}
            Err(errno) if step.tolerate.contains(&errno) => child.tell(kind::WARNING, index, errno),
            Err(errno) => {
                child.tell(kind::FAILED, index, errno);
                raw::exit(exit_code(&step.op, errno));
            }
        }
    }
    raw::exit(0)
}

/// What a shell would exit with.
fn exit_code(op: &Op, errno: Errno) -> i32 {
    match (op, errno) {
        (Op::Exec(_), libc::ENOENT) => 127,
        (Op::Exec(_), _) => 126,
        _ => 1,
    }
}

impl Interpreter<'_> {
    fn tell(&self, kind: u32, step: usize, errno: Errno) {
        let message = encode(kind, step as u32, errno);
        let arguments =
            [fd(self.report), message.as_ptr() as usize, message.len(), libc::MSG_NOSIGNAL as usize, 0, 0];
        let _ = raw::retry(libc::SYS_sendto, arguments);
    }

    /// Tells the parent something and waits for its answer.
    fn ask(&self, kind: u32, step: usize) -> Result<(), Errno> {
        self.tell(kind, step, 0);
        let mut answer = 0_u8;
        let arguments = [fd(self.report), at_mut(&mut answer), 1, 0, 0, 0];
        match raw::retry(libc::SYS_recvfrom, arguments)? {
            0 => Err(libc::EPIPE),
            _ => Ok(()),
        }
    }

    fn fd(&self, which: Fd) -> Result<i32, Errno> {
        let found = match which {
            Fd::Cwd => return Ok(libc::AT_FDCWD),
            Fd::File(index) => self.files.get(usize::from(index)),
            Fd::Slot(slot) => self.slots.get(usize::from(slot.0)),
        };
        found.copied().filter(|fd| *fd >= 0).ok_or(libc::EBADF)
    }

    fn put(&mut self, slot: Slot, descriptor: i32) -> Result<(), Errno> {
        *self.slots.get_mut(usize::from(slot.0)).ok_or(libc::EBADF)? = descriptor;
        Ok(())
    }

    fn step(&mut self, index: usize, op: &Op) -> Result<(), Errno> {
        match op {
            Op::Join { fd: which, flags } => {
                call(libc::SYS_setns, [fd(self.fd(*which)?), *flags as usize]).map(drop)
            }
            Op::Unshare { flags } => call(libc::SYS_unshare, [*flags as usize]).map(drop),
            Op::AskForMaps => self.ask(kind::NEEDS_MAPS, index),
            Op::AskToGoOn => self.ask(kind::WAITING, index),
            Op::Open { slot, directory, path, flags, resolve } => {
                let opened = raw::openat2(self.fd(*directory)?, path, *flags, 0, *resolve)?;
                self.put(*slot, opened)
            }
            Op::RequireFs { fd: which, magic } => {
                require(raw::fs_magic(self.fd(*which)?)? == *magic, libc::EINVAL)
            }
            Op::RequireDevice { fd: which, kind, device } => {
                let stat = raw::stat(self.fd(*which)?)?;
                require(stat.st_mode & libc::S_IFMT == *kind && stat.st_rdev == *device, libc::ENODEV)
            }
            Op::Write { directory, path, resolve, bytes } => {
                let file =
                    raw::Opened(raw::openat2(self.fd(*directory)?, path, libc::O_WRONLY, 0, *resolve)?);
                raw::write_once(file.0, bytes)
            }
            Op::WriteTo { fd: which, bytes } => raw::write_once(self.fd(*which)?, bytes),
            Op::Hostname(name) => call(libc::SYS_sethostname, [name.as_ptr() as usize, name.len()]).map(drop),
            Op::Domainname(name) => {
                call(libc::SYS_setdomainname, [name.as_ptr() as usize, name.len()]).map(drop)
            }
            Op::CloneTree { .. }
            | Op::NewFs { .. }
            | Op::SetMount { .. }
            | Op::SetRoot { .. }
            | Op::AttachRoot { .. }
            | Op::Attach { .. }
            | Op::Pivot { .. } => self.mount_step(op),
            Op::MakeDirectory { .. }
            | Op::MakeNode { .. }
            | Op::MakeLink { .. }
            | Op::Mask { .. }
            | Op::Freeze { .. } => self.file_step(op),
            Op::OpenTerminal { .. }
            | Op::SendConsole { .. }
            | Op::BindConsole { .. }
            | Op::NewSession
            | Op::ControllingTerminal { .. }
            | Op::Stdio(_)
            | Op::OwnStdio { .. }
            | Op::CloseOthers { .. } => self.stream_step(index, op),
            Op::Hold { listener } => self.hold(index, *listener),
            Op::Chdir { path } => self.chdir(path),
            Op::RunHook(hook) => self.hook(index, hook),
            Op::Seccomp { program, flags, notify } => {
                // The filter may forbid telling anything later.
                self.tell(kind::EXECUTING, index, 0);
                let notify = match notify {
                    Some((socket, bytes)) => Some((self.fd(*socket)?, bytes.as_slice())),
                    None => None,
                };
                seccomp(program, *flags, notify)
            }
            Op::BlockSignals => terminal::set_signal_mask(true),
            Op::Exec(exec) => self.exec(index, exec),
            Op::ExitWhenTold => {
                let _ = self.ask(kind::READY, index);
                raw::exit(0)
            }
            attribute => process_attribute(attribute),
        }
    }

    fn mount_step(&mut self, op: &Op) -> Result<(), Errno> {
        match op {
            Op::CloneTree { slot, directory, path, recursive } => {
                let copy = place::clone_tree(self.fd(*directory)?, path, *recursive)?;
                self.put(*slot, copy)
            }
            Op::NewFs { slot, fstype, options, attributes } => {
                let mount = new_fs(fstype, options, *attributes)?;
                self.put(*slot, mount)
            }
            Op::SetMount { fd: which, change } => self.set_mount(self.fd(*which)?, c"", change),
            Op::SetRoot { change } => self.set_mount(libc::AT_FDCWD, c"/", change),
            Op::AttachRoot { mount } => place::attach_over_root(self.fd(*mount)?),
            Op::Attach { mount, root, target } => place::attach(self.fd(*mount)?, self.fd(*root)?, target),
            Op::Pivot { root } => place::pivot(self.fd(*root)?),
            _ => Err(libc::ENOSYS),
        }
    }

    fn set_mount(&self, mount: i32, path: &CStr, change: &MountChange) -> Result<(), Errno> {
        let idmap = match change.idmap {
            Some(userns) => Some(self.fd(userns)?),
            None => None,
        };
        place::set_mount(mount, path, change, idmap)
    }

    fn file_step(&mut self, op: &Op) -> Result<(), Errno> {
        match op {
            Op::MakeDirectory { root, target } => place::ensure_directory(self.fd(*root)?, target).map(drop),
            Op::MakeNode { root, target, mode, device, uid, gid } => {
                place::make_node(self.fd(*root)?, target, (*mode, *device), (*uid, *gid))
            }
            Op::MakeLink { root, target, to } => place::make_link(self.fd(*root)?, target, to),
            Op::Mask { root, target, null, empty } => {
                let (null, empty) = (self.fd(Fd::Slot(*null))?, self.fd(Fd::Slot(*empty))?);
                place::mask(self.fd(*root)?, target, null, empty)
            }
            Op::Freeze { root, target } => place::freeze(self.fd(*root)?, target),
            _ => Err(libc::ENOSYS),
        }
    }

    fn stream_step(&mut self, index: usize, op: &Op) -> Result<(), Errno> {
        match op {
            Op::OpenTerminal { root, master, slave, size, uid } => {
                let (ours, theirs) = terminal::open(self.fd(*root)?, *size, *uid)?;
                self.put(*master, ours)?;
                self.put(*slave, theirs)
            }
            Op::SendConsole { master } => {
                let descriptor = self.fd(Fd::Slot(*master))?;
                terminal::send_fd(self.report, &encode(kind::CONSOLE, index as u32, 0), descriptor)?;
                raw::close(descriptor);
                self.put(*master, -1)
            }
            Op::BindConsole { root, slave, target } => {
                terminal::bind_console(self.fd(*root)?, self.fd(Fd::Slot(*slave))?, target)
            }
            Op::NewSession => match call(libc::SYS_setsid, []) {
                // Already the leader of one.
                Ok(_) | Err(libc::EPERM) => Ok(()),
                Err(error) => Err(error),
            },
            Op::ControllingTerminal { slave } => {
                call(libc::SYS_ioctl, [fd(self.fd(Fd::Slot(*slave))?), libc::TIOCSCTTY as usize, 0]).map(drop)
            }
            Op::Stdio([stdin, stdout, stderr]) => {
                terminal::set_streams([self.fd(*stdin)?, self.fd(*stdout)?, self.fd(*stderr)?])
            }
            Op::OwnStdio { uid } => (0..3).try_for_each(|stream| terminal::own(stream, *uid)),
            Op::CloseOthers { keep, preserve } => self.close_others(keep, *preserve),
            _ => Err(libc::ENOSYS),
        }
    }

    /// Closes all but the standard streams, the socket and `keep`; what is kept ends at exec, but for the
    /// first `preserve` descriptors from 3 on.
    fn close_others(&mut self, keep: &[Fd], preserve: u32) -> Result<(), Errno> {
        const CLOSE_RANGE_CLOEXEC: usize = 4;
        let first = 3 + preserve as usize;
        if self.report < descriptor_number(first) {
            let arguments = [fd(self.report), libc::F_DUPFD_CLOEXEC as usize, first];
            self.report = raw::descriptor(call(libc::SYS_fcntl, arguments)?);
        }
        let mut next = first;
        // The kept ones in ascending order; there are too few for sorting to pay.
        while let Some(kept) = self.lowest_kept(keep, next) {
            if kept > next {
                call(libc::SYS_close_range, [next, kept - 1, 0])?;
            }
            next = kept + 1;
        }
        call(libc::SYS_close_range, [next, u32::MAX as usize, 0])?;
        call(libc::SYS_close_range, [first, u32::MAX as usize, CLOSE_RANGE_CLOEXEC]).map(drop)
    }

    fn lowest_kept(&self, keep: &[Fd], from: usize) -> Option<usize> {
        let named = keep.iter().filter_map(|which| self.fd(*which).ok());
        named.chain([self.report]).filter_map(|fd| usize::try_from(fd).ok()).filter(|fd| *fd >= from).min()
    }

    fn hold(&mut self, index: usize, listener: Option<Fd>) -> Result<(), Errno> {
        let Some(listener) = listener else { return self.ask(kind::READY, index) };
        let listener = self.fd(listener)?;
        self.tell(kind::READY, index, 0);
        let flags = libc::SOCK_CLOEXEC as usize;
        let connection = raw::descriptor(raw::retry(libc::SYS_accept4, [fd(listener), 0, 0, flags])?);
        call(libc::SYS_dup3, [fd(connection), fd(self.report), libc::O_CLOEXEC as usize])?;
        raw::close(connection);
        raw::close(listener);
        Ok(())
    }

    /// Tried as root and, if that is refused, again as the user (the step is then in the script twice).
    fn chdir(&mut self, path: &CStr) -> Result<(), Errno> {
        if !self.in_session_directory {
            terminal::change_directory(path)?;
            self.in_session_directory = true;
        }
        Ok(())
    }

    fn exec(&self, index: usize, exec: &Exec) -> Result<(), Errno> {
        let Some(Some(table)) = self.tables.get(index) else { return Err(libc::EINVAL) };
        if !matches!(self.steps.get(index.wrapping_sub(1)).map(|s| &s.op), Some(Op::Seccomp { .. })) {
            self.tell(kind::EXECUTING, index, 0);
        }
        Err(self.execute(exec, table))
    }

    /// Returns only when nothing could be executed, with the most telling errno.
    fn execute(&self, exec: &Exec, table: &ExecTable) -> Errno {
        let (arguments, environment) =
            (table.arguments.as_ptr() as usize, table.environment.as_ptr() as usize);
        if let Program::File(file) = exec.program {
            let file = match self.fd(file) {
                Ok(file) => file,
                Err(error) => return error,
            };
            let flags = libc::AT_EMPTY_PATH as usize;
            return call(libc::SYS_execveat, [fd(file), text(c""), arguments, environment, flags])
                .err()
                .unwrap_or(libc::ENOEXEC);
        }
        let mut told = libc::ENOENT;
        for path in &table.paths {
            match call(libc::SYS_execve, [*path as usize, arguments, environment]) {
                Err(libc::ENOENT | libc::ENOTDIR) => {}
                Err(libc::EACCES) => told = libc::EACCES,
                Err(error) => return error,
                Ok(_) => return libc::ENOEXEC,
            }
        }
        told
    }

    /// Runs a program and waits for it; it shares nothing but standard input.
    fn hook(&self, index: usize, hook: &Hook) -> Result<(), Errno> {
        let Some(Some(table)) = self.tables.get(index) else { return Err(libc::EINVAL) };
        let stdin = self.fd(hook.stdin)?;
        call(libc::SYS_lseek, [fd(stdin), 0, libc::SEEK_SET as usize])?;
        let pid = call(libc::SYS_clone, [libc::SIGCHLD as usize, 0, 0, 0, 0])?;
        if pid == 0 {
            let _ = call(libc::SYS_dup3, [fd(stdin), 0, 0]);
            if hook.timeout_seconds > 0 {
                // The alarm survives exec, and its default action ends the program.
                let timer = [0_i64, 0, i64::from(hook.timeout_seconds), 0];
                let _ = call(libc::SYS_setitimer, [0, at(&timer), 0]);
            }
            let _ = self.execute(&hook.exec, table);
            raw::exit(127)
        }
        let mut status = 0_i32;
        raw::retry(libc::SYS_wait4, [pid, at_mut(&mut status), 0, 0])?;
        require(status == 0, libc::ECANCELED)
    }
}

fn descriptor_number(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn require(condition: bool, errno: Errno) -> Result<(), Errno> {
    if condition { Ok(()) } else { Err(errno) }
}

/// fsopen(2) … fsmount(2).
fn new_fs(fstype: &CStr, options: &[FsOption], attributes: u64) -> Result<i32, Errno> {
    const FSCONFIG_SET_FLAG: usize = 0;
    const FSCONFIG_SET_STRING: usize = 1;
    const FSCONFIG_CMD_CREATE: usize = 6;
    let context = raw::Opened(raw::descriptor(call(libc::SYS_fsopen, [text(fstype), 1])?));
    for option in options {
        match option {
            FsOption::Flag(key) => {
                call(libc::SYS_fsconfig, [fd(context.0), FSCONFIG_SET_FLAG, text(key), 0, 0])?
            }
            FsOption::Text(key, value) => {
                call(libc::SYS_fsconfig, [fd(context.0), FSCONFIG_SET_STRING, text(key), text(value), 0])?
            }
        };
    }
    call(libc::SYS_fsconfig, [fd(context.0), FSCONFIG_CMD_CREATE, 0, 0, 0])?;
    call(libc::SYS_fsmount, [fd(context.0), 1, attributes as usize]).map(raw::descriptor)
}

/// Operations on the process itself.
fn process_attribute(op: &Op) -> Result<(), Errno> {
    match op {
        Op::BecomeRoot => become_root(),
        Op::Rlimit { resource, soft, hard } => {
            let limit = [*soft, *hard];
            call(libc::SYS_prlimit64, [0, *resource as usize, at(&limit), 0]).map(drop)
        }
        Op::Umask(mask) => call(libc::SYS_umask, [*mask as usize]).map(drop),
        Op::Personality(persona) => call(libc::SYS_personality, [*persona as usize]).map(drop),
        Op::IoPriority(priority) => call(libc::SYS_ioprio_set, [1, 0, *priority as usize]).map(drop),
        Op::Scheduler(scheduler) => set_scheduler(scheduler),
        Op::CpuAffinity(mask) => {
            call(libc::SYS_sched_setaffinity, [0, mask.len(), mask.as_ptr() as usize]).map(drop)
        }
        Op::MemoryPolicy { mode, nodes } => {
            // The kernel takes the number of bits and one more.
            let bits = if nodes.is_empty() { 0 } else { nodes.len() * 8 + 1 };
            let mask = if nodes.is_empty() { 0 } else { nodes.as_ptr() as usize };
            call(libc::SYS_set_mempolicy, [*mode as usize, mask, bits]).map(drop)
        }
        Op::SessionKeyring(name) => session_keyring(name),
        Op::Dumpable(dumpable) => prctl(libc::PR_SET_DUMPABLE, usize::from(*dumpable), 0),
        Op::Bounding { keep } => drop_bounding(*keep),
        Op::Identity { uid, gid, groups } => become_user(*uid, *gid, groups.as_deref()),
        Op::Capabilities(sets) => capset(sets),
        Op::Ambient(raise) => set_ambient(*raise),
        Op::NoNewPrivileges => prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0),
        _ => Err(libc::ENOSYS),
    }
}

fn prctl(option: i32, first: usize, second: usize) -> Result<(), Errno> {
    call(libc::SYS_prctl, [option as usize, first, second, 0, 0]).map(drop)
}

fn session_keyring(name: &CStr) -> Result<(), Errno> {
    const KEYCTL_JOIN_SESSION_KEYRING: usize = 1;
    const KEYCTL_SETPERM: usize = 5;
    /// All to the possessor; the user may view, read, search and link, so that exec sessions find it.
    const PERMISSIONS: usize = 0x3f1b_0000;
    let keyring = call(libc::SYS_keyctl, [KEYCTL_JOIN_SESSION_KEYRING, text(name)])?;
    call(libc::SYS_keyctl, [KEYCTL_SETPERM, keyring, PERMISSIONS]).map(drop)
}

fn become_root() -> Result<(), Errno> {
    // Denied where the maps were written without privilege; then there are no groups to drop either.
    let _ = call(libc::SYS_setgroups, [0, 0]);
    call(libc::SYS_setresgid, [0, 0, 0])?;
    call(libc::SYS_setresuid, [0, 0, 0]).map(drop)
}

fn become_user(uid: u32, gid: u32, groups: Option<&[u32]>) -> Result<(), Errno> {
    prctl(libc::PR_SET_KEEPCAPS, 1, 0)?;
    if let Some(groups) = groups {
        call(libc::SYS_setgroups, [groups.len(), groups.as_ptr() as usize])?;
    }
    let (uid, gid) = (uid as usize, gid as usize);
    call(libc::SYS_setresgid, [gid, gid, gid])?;
    call(libc::SYS_setresuid, [uid, uid, uid])?;
    prctl(libc::PR_SET_KEEPCAPS, 0, 0)
}

fn drop_bounding(keep: u64) -> Result<(), Errno> {
    for capability in 0..64_usize {
        if keep & (1 << capability) != 0 {
            continue;
        }
        match prctl(libc::PR_CAPBSET_DROP, capability, 0) {
            // Past the last one this kernel knows.
            Err(libc::EINVAL) => return Ok(()),
            other => other?,
        }
    }
    Ok(())
}

fn capset(sets: &Capabilities) -> Result<(), Errno> {
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION_3, 0];
    let word = |set: u64, index: u32| (set >> (32 * index)) as u32;
    let data: [u32; 6] = [
        word(sets.effective, 0),
        word(sets.permitted, 0),
        word(sets.inheritable, 0),
        word(sets.effective, 1),
        word(sets.permitted, 1),
        word(sets.inheritable, 1),
    ];
    call(libc::SYS_capset, [at(&header), at(&data)]).map(drop)
}

fn set_ambient(raise: u64) -> Result<(), Errno> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as usize, 0)?;
    for capability in (0..64_usize).filter(|capability| raise & (1 << capability) != 0) {
        prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as usize, capability)?;
    }
    Ok(())
}

fn set_scheduler(scheduler: &Scheduler) -> Result<(), Errno> {
    /// `struct sched_attr` as of its first version.
    #[repr(C)]
    struct SchedAttr {
        size: u32,
        policy: u32,
        flags: u64,
        nice: i32,
        priority: u32,
        deadline_ns: [u64; 3],
    }
    let attr = SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: scheduler.policy,
        flags: scheduler.flags,
        nice: scheduler.nice,
        priority: scheduler.priority,
        deadline_ns: scheduler.deadline_ns,
    };
    call(libc::SYS_sched_setattr, [0, at(&attr), 0]).map(drop)
}

fn seccomp(program: &[u64], flags: u64, notify: Option<(i32, &[u8])>) -> Result<(), Errno> {
    const SECCOMP_SET_MODE_FILTER: usize = 1;
    const SECCOMP_FILTER_FLAG_NEW_LISTENER: u64 = 8;
    /// `struct sock_fprog`.
    #[repr(C)]
    struct FilterProgram {
        length: u16,
        filter: *const u64,
    }
    let length = u16::try_from(program.len()).map_err(|_| libc::EINVAL)?;
    let filter = FilterProgram { length, filter: program.as_ptr() };
    let flags = if notify.is_some() { flags | SECCOMP_FILTER_FLAG_NEW_LISTENER } else { flags };
    let result = call(libc::SYS_seccomp, [SECCOMP_SET_MODE_FILTER, flags as usize, at(&filter)])?;
    if let Some((socket, bytes)) = notify {
        let listener = raw::Opened(raw::descriptor(result));
        terminal::send_fd(socket, bytes, listener.0)?;
    }
    Ok(())
}
