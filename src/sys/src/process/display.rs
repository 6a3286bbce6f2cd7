//! Operations in words: for error messages and for tests that compare whole scripts.

use std::ffi::CStr;
use std::fmt;

use super::op::{Exec, Fd, FsOption, MountChange, Op, Program, Slot, Step, Target, resolve};
use crate::mount::Attributes;

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${}", self.0)
    }
}

impl fmt::Display for Fd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fd::Cwd => f.write_str("cwd"),
            Fd::File(index) => write!(f, "file{index}"),
            Fd::Slot(slot) => slot.fmt(f),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}", String::from_utf8_lossy(self.path()))
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.op.fmt(f)?;
        if self.tolerate.is_empty() { Ok(()) } else { f.write_str(" (may fail)") }
    }
}

/// A path or name as text.
struct Text<'a>(&'a CStr);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_string_lossy())
    }
}

/// `CLONE_NEW…` flags by the names of their kinds.
struct Kinds(i32);

impl fmt::Display for Kinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = crate::ns::Kind::ALL
            .iter()
            .filter(|kind| self.0 & kind.clone_flag() != 0)
            .map(|kind| kind.proc_name())
            .collect();
        f.write_str(&names.join("+"))
    }
}

struct MountFlags(u64);

impl fmt::Display for MountFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (Attributes::RDONLY, "ro"),
            (Attributes::NOSUID, "nosuid"),
            (Attributes::NODEV, "nodev"),
            (Attributes::NOEXEC, "noexec"),
            (Attributes::NOATIME, "noatime"),
            (Attributes::STRICTATIME, "strictatime"),
            (Attributes::NODIRATIME, "nodiratime"),
            (Attributes::NOSYMFOLLOW, "nosymfollow"),
        ];
        let set: Vec<_> =
            names.into_iter().filter(|(flag, _)| self.0 & flag.0 != 0).map(|(_, name)| name).collect();
        f.write_str(&set.join(","))
    }
}

impl fmt::Display for MountChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        if self.set != 0 {
            parts.push(format!("set {}", MountFlags(self.set)));
        }
        if self.clear != 0 {
            parts.push(format!("clear {}", MountFlags(self.clear)));
        }
        match self.propagation {
            0 => {}
            libc::MS_PRIVATE => parts.push("private".into()),
            libc::MS_SHARED => parts.push("shared".into()),
            libc::MS_SLAVE => parts.push("slave".into()),
            libc::MS_UNBINDABLE => parts.push("unbindable".into()),
            other => parts.push(format!("propagation {other:#x}")),
        }
        if let Some(userns) = self.idmap {
            parts.push(format!("idmap {userns}"));
        }
        if self.recursive {
            parts.push("recursive".into());
        }
        f.write_str(&parts.join("; "))
    }
}

impl fmt::Display for Exec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.program {
            Program::File(file) => write!(f, "{file}"),
            Program::Paths(paths) if paths.is_empty() => f.write_str("nothing"),
            Program::Paths(paths) => {
                let names: Vec<_> = paths.iter().map(|path| path.to_string_lossy()).collect();
                f.write_str(&names.join(" or "))
            }
        }
    }
}

fn options(options: &[FsOption]) -> String {
    let words: Vec<_> = options
        .iter()
        .map(|option| match option {
            FsOption::Flag(key) => key.to_string_lossy().into_owned(),
            FsOption::Text(key, value) => format!("{}={}", Text(key), Text(value)),
        })
        .collect();
    words.join(",")
}

fn how(resolve: u64) -> &'static str {
    match resolve {
        resolve::ANY => "",
        resolve::STRICT => " strictly",
        resolve::NO_MAGIC_LINKS => " without magic links",
        _ => " in root",
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Op::Join { fd, flags } => write!(f, "join {} namespace of {fd}", Kinds(*flags)),
            Op::Unshare { flags } => write!(f, "new {} namespace", Kinds(*flags)),
            Op::AskForMaps => f.write_str("wait for id maps"),
            Op::AskToGoOn => f.write_str("wait for the runtime"),
            Op::BecomeRoot => f.write_str("become root of the user namespace"),
            Op::Open { slot, directory, path, resolve, .. } => {
                write!(f, "{slot} = open {} at {directory}{}", Text(path), how(*resolve))
            }
            Op::RequireFs { fd, magic } => write!(f, "check that {fd} is on file system {magic:#x}"),
            Op::RequireDevice { fd, device, .. } => {
                write!(f, "check that {fd} is device {}:{}", libc::major(*device), libc::minor(*device))
            }
            Op::Write { directory, path, resolve, bytes } => {
                let value = String::from_utf8_lossy(bytes);
                write!(f, "write {:?} to {} at {directory}{}", value, Text(path), how(*resolve))
            }
            Op::WriteTo { fd, bytes } => write!(f, "write {:?} to {fd}", String::from_utf8_lossy(bytes)),
            Op::Hostname(name) => write!(f, "set host name {:?}", String::from_utf8_lossy(name)),
            Op::Domainname(name) => write!(f, "set domain name {:?}", String::from_utf8_lossy(name)),
            Op::CloneTree { slot, directory, path, recursive } => {
                let tree = if *recursive { "tree" } else { "mount" };
                write!(f, "{slot} = copy of {tree} {:?} at {directory}", path.to_string_lossy())
            }
            Op::NewFs { slot, fstype, options: list, attributes } => {
                write!(f, "{slot} = new {} [{}] [{}]", Text(fstype), options(list), MountFlags(*attributes))
            }
            Op::SetMount { fd, change } => write!(f, "change mount {fd}: {change}"),
            Op::SetRoot { change } => write!(f, "change mount /: {change}"),
            Op::AttachRoot { mount } => write!(f, "mount {mount} over /"),
            Op::Attach { mount, target, .. } => write!(f, "mount {mount} on {target}"),
            Op::MakeDirectory { target, .. } => write!(f, "make directory {target}"),
            Op::MakeNode { target, mode, device, uid, gid, .. } => {
                let (major, minor) = (libc::major(*device), libc::minor(*device));
                write!(f, "make node {target} mode {mode:o} device {major}:{minor} owner {uid}:{gid}")
            }
            Op::MakeLink { target, to, .. } => write!(f, "link {target} -> {}", Text(to)),
            Op::Mask { target, .. } => write!(f, "mask {target}"),
            Op::Freeze { target, .. } => write!(f, "make {target} read-only"),
            Op::Pivot { root } => write!(f, "make {root} the root"),
            other => fmt_process(other, f),
        }
    }
}

fn fmt_process(op: &Op, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match op {
        Op::OpenTerminal { master, slave, size: (columns, rows), uid, .. } => {
            write!(f, "{master}, {slave} = new terminal {columns}x{rows} of user {uid}")
        }
        Op::SendConsole { master } => write!(f, "hand over terminal {master}"),
        Op::BindConsole { slave, target, .. } => write!(f, "mount terminal {slave} on {target}"),
        Op::NewSession => f.write_str("new session"),
        Op::ControllingTerminal { slave } => write!(f, "controlling terminal {slave}"),
        Op::Stdio([stdin, stdout, stderr]) => write!(f, "standard streams {stdin}, {stdout}, {stderr}"),
        Op::OwnStdio { uid } => write!(f, "give standard streams to user {uid}"),
        Op::Chdir { path } => write!(f, "change directory to {}", Text(path)),
        Op::Rlimit { resource, soft, hard } => write!(f, "limit resource {resource} to {soft}, {hard}"),
        Op::Umask(mask) => write!(f, "umask {mask:04o}"),
        Op::Personality(persona) => write!(f, "personality {persona:#x}"),
        Op::IoPriority(priority) => write!(f, "io priority {priority:#x}"),
        Op::Scheduler(scheduler) => write!(f, "scheduler {scheduler:?}"),
        Op::CpuAffinity(mask) => write!(f, "cpu affinity {mask:x?}"),
        Op::MemoryPolicy { mode, nodes } => write!(f, "memory policy {mode:#x} on nodes {nodes:x?}"),
        Op::SessionKeyring(name) => write!(f, "session keyring {}", Text(name)),
        Op::Dumpable(dumpable) => write!(f, "dumpable {dumpable}"),
        Op::Bounding { keep } => write!(f, "bounding set {keep:#x}"),
        Op::Identity { uid, gid, groups } => write!(f, "become user {uid} group {gid} groups {groups:?}"),
        Op::Capabilities(sets) => write!(
            f,
            "capabilities effective {:#x} permitted {:#x} inheritable {:#x}",
            sets.effective, sets.permitted, sets.inheritable
        ),
        Op::Ambient(raise) => write!(f, "ambient capabilities {raise:#x}"),
        Op::NoNewPrivileges => f.write_str("no new privileges"),
        Op::CloseOthers { keep, preserve } => {
            let keep: Vec<_> = keep.iter().map(ToString::to_string).collect();
            write!(f, "close all files but {preserve} and [{}]", keep.join(", "))
        }
        Op::RunHook(hook) => write!(f, "run hook {}", hook.exec),
        Op::Hold { listener: None } => f.write_str("wait to be started"),
        Op::Hold { listener: Some(listener) } => write!(f, "wait to be started on {listener}"),
        Op::Seccomp { program, flags, notify } => {
            let notify = if notify.is_some() { ", with notifications" } else { "" };
            write!(f, "install seccomp filter of {} instructions, flags {flags:#x}{notify}", program.len())
        }
        Op::BlockSignals => f.write_str("block signals"),
        Op::Exec(exec) => write!(f, "execute {exec}"),
        Op::ExitWhenTold => f.write_str("wait, then exit"),
        _ => f.write_str("unnamed operation"),
    }
}
