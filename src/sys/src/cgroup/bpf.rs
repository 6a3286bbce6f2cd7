//! The device controller of v2: a program that judges each access, assembled by hand.
//!
//! A program is attached in place of the one before it, so that there is no moment without one.

use std::fs::File;
use std::io;
#[cfg(test)]
use std::os::fd::BorrowedFd;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Error;
use super::device::{Access, DevicePolicy, DeviceRule, Kind};

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const PROG_QUERY: libc::c_long = 16;
const TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ALLOW_MULTI: u32 = 2;
const REPLACE: u32 = 4;
/// How many programs the kernel attaches to one group at most.
const MAX_PROGRAMS: usize = 64;

const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const JUMP_IF_EQUAL: u8 = 0x15;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

// Registers: the verdict, the context, and what is read from it.
const R_VERDICT: u8 = 0;
const R_CONTEXT: u8 = 1;
const R_KIND: u8 = 2;
const R_ACCESS: u8 = 3;
const R_MAJOR: u8 = 4;
const R_MINOR: u8 = 5;
const R_SCRATCH: u8 = 6;

/// Assembles the program for `policy`; each element is a `struct bpf_insn` in its memory layout.
#[must_use]
pub fn v2_device_program(policy: &DevicePolicy) -> Vec<u64> {
    // struct bpf_cgroup_dev_ctx: access << 16 | kind, major, minor.
    let mut code = vec![
        instruction(LOAD_WORD, R_KIND, R_CONTEXT, 0, 0),
        instruction(MOVE_REGISTER, R_ACCESS, R_KIND, 0, 0),
        instruction(SHIFT_RIGHT, R_ACCESS, 0, 0, 16),
        instruction(AND, R_KIND, 0, 0, 0xffff),
        instruction(LOAD_WORD, R_MAJOR, R_CONTEXT, 4, 0),
        instruction(LOAD_WORD, R_MINOR, R_CONTEXT, 8, 0),
    ];
    for rule in &policy.exceptions {
        code.extend(exception(rule, policy.allow_by_default));
    }
    code.push(instruction(MOVE, R_VERDICT, 0, 0, u32::from(policy.allow_by_default)));
    code.push(instruction(EXIT, 0, 0, 0, 0));
    code
}

fn exception(rule: &DeviceRule, allow_by_default: bool) -> Vec<u64> {
    let kind = match rule.kind {
        Kind::Block => 1,
        Kind::Char => 2,
    };
    // Each test jumps to the end of the block; where that is shows when the block is complete.
    let mut code = vec![Item::Skip((JUMP_UNLESS_EQUAL, R_KIND, kind))];
    if rule.access != Access::ALL {
        code.push(Item::Plain(instruction(MOVE_REGISTER, R_SCRATCH, R_ACCESS, 0, 0)));
        // An access is allowed if all of it is, and denied if any of it is.
        let mask = if allow_by_default { rule.access.0 } else { Access::ALL.0 & !rule.access.0 };
        let skip = if allow_by_default { JUMP_IF_EQUAL } else { JUMP_UNLESS_EQUAL };
        code.push(Item::Plain(instruction(AND, R_SCRATCH, 0, 0, mask)));
        code.push(Item::Skip((skip, R_SCRATCH, 0)));
    }
    let numbers = [(R_MAJOR, rule.major), (R_MINOR, rule.minor)];
    for (register, number) in numbers.into_iter().filter_map(|(r, n)| n.map(|n| (r, n))) {
        code.push(Item::Skip((JUMP_UNLESS_EQUAL, register, number)));
    }
    code.push(Item::Plain(instruction(MOVE, R_VERDICT, 0, 0, u32::from(!allow_by_default))));
    code.push(Item::Plain(instruction(EXIT, 0, 0, 0, 0)));
    let length = code.len();
    code.into_iter()
        .enumerate()
        .map(|(at, item)| match item {
            Item::Plain(word) => word,
            Item::Skip((code, register, value)) => {
                let offset = u16::try_from(length - at - 1).unwrap_or_default();
                instruction(code, register, 0, offset, value)
            }
        })
        .collect()
}

enum Item {
    Plain(u64),
    /// Code, register and value of a jump to the end of the block.
    Skip((u8, u8, u32)),
}

fn instruction(code: u8, to: u8, from: u8, offset: u16, value: u32) -> u64 {
    u64::from(code) | u64::from(to | from << 4) << 8 | u64::from(offset) << 16 | u64::from(value) << 32
}

/// Puts the program for `policy` in the place of those attached to the group `dir` before.
pub(super) fn attach(dir: &Path, policy: &DevicePolicy) -> Result<(), Error> {
    let failed = |operation| move |source| Error::DeviceProgram { operation, path: dir.to_owned(), source };
    let group = File::open(dir).map_err(failed("open the group of"))?;
    let old = attached(group.as_raw_fd()).map_err(failed("list"))?;
    let everything = policy.allow_by_default && policy.exceptions.is_empty();
    if everything && old.is_empty() {
        return Ok(());
    }
    let program = load(&v2_device_program(policy)).map_err(failed("load"))?;
    let mut request = AttachAttr {
        target: fd_number(&group),
        program: fd_number(&program),
        ..AttachAttr::new(ALLOW_MULTI)
    };
    if let [only] = old.as_slice() {
        request.flags |= REPLACE;
        request.replace = fd_number(only);
        if bpf(PROG_ATTACH, &mut request).is_ok() {
            return Ok(());
        }
        // Linux before 5.6 cannot replace.
        request = AttachAttr { flags: ALLOW_MULTI, replace: 0, ..request };
    }
    bpf(PROG_ATTACH, &mut request).map_err(failed("attach"))?;
    for program in &old {
        let mut request =
            AttachAttr { target: fd_number(&group), program: fd_number(program), ..AttachAttr::new(0) };
        bpf(PROG_DETACH, &mut request).map_err(failed("detach the previous"))?;
    }
    Ok(())
}

/// `union bpf_attr` for attaching and detaching.
#[repr(C)]
#[derive(Clone, Copy)]
struct AttachAttr {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
    replace: u32,
}

impl AttachAttr {
    fn new(flags: u32) -> Self {
        AttachAttr { target: 0, program: 0, kind: ATTACH_CGROUP_DEVICE, flags, replace: 0 }
    }
}

/// `union bpf_attr` for loading, up to the attach type.
#[repr(C)]
#[derive(Clone, Copy)]
struct LoadAttr {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    interface: u32,
    attach_type: u32,
}

/// `union bpf_attr` for listing.
#[repr(C)]
#[derive(Clone, Copy)]
struct QueryAttr {
    target: u32,
    kind: u32,
    query_flags: u32,
    attach_flags: u32,
    ids: u64,
    count: u32,
    padding: u32,
}

/// `union bpf_attr` for opening by id.
#[repr(C)]
#[derive(Clone, Copy)]
struct IdAttr {
    id: u32,
    next: u32,
    flags: u32,
}

fn fd_number(fd: &impl AsRawFd) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(u32::MAX)
}

/// Programs attached to the group itself.
fn attached(group: RawFd) -> io::Result<Vec<OwnedFd>> {
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut request = QueryAttr {
        target: u32::try_from(group).unwrap_or(u32::MAX),
        kind: ATTACH_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        ids: ids.as_mut_ptr().expose_provenance() as u64,
        count: u32::try_from(MAX_PROGRAMS).unwrap_or(0),
        padding: 0,
    };
    bpf(PROG_QUERY, &mut request)?;
    let count = usize::try_from(request.count).unwrap_or(0).min(MAX_PROGRAMS);
    ids[..count].iter().map(|&id| bpf_fd(PROG_GET_FD_BY_ID, &mut IdAttr { id, next: 0, flags: 0 })).collect()
}

fn load(code: &[u64]) -> io::Result<OwnedFd> {
    let mut name = [0; 16];
    name[..13].copy_from_slice(b"berth_devices");
    let mut request = LoadAttr {
        kind: TYPE_CGROUP_DEVICE,
        instruction_count: u32::try_from(code.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: code.as_ptr().expose_provenance() as u64,
        license: c"Apache-2.0".as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
        name,
        interface: 0,
        attach_type: ATTACH_CGROUP_DEVICE,
    };
    match bpf_fd(PROG_LOAD, &mut request) {
        // Before Linux 5.11 programs count against the limit of locked memory. What may be raised without
        // CAP_SYS_RESOURCE is raised, and no more is asked for.
        Err(e) if e.raw_os_error() == Some(libc::EPERM) => {
            let limit = getrlimit(Resource::Memlock);
            _ = setrlimit(Resource::Memlock, Rlimit { current: limit.maximum, ..limit });
            bpf_fd(PROG_LOAD, &mut request).map_err(|_| e)
        }
        other => other,
    }
}

fn bpf_fd<T: Copy>(command: libc::c_long, request: &mut T) -> io::Result<OwnedFd> {
    let fd = bpf(command, request)?;
    // SAFETY: these commands return a new descriptor (close-on-exec), which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf<T: Copy>(command: libc::c_long, request: &mut T) -> io::Result<RawFd> {
    // SAFETY: T is one of the structures above, laid out as the kernel's for this command, and its size is
    // passed along; the buffers it points to live in the callers' frames until this returns.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(request), size_of::<T>()) };
    RawFd::try_from(result).ok().filter(|fd| *fd >= 0).ok_or_else(io::Error::last_os_error)
}

/// Counts the programs attached to an open group; for tests.
#[cfg(test)]
pub(super) fn count_attached(group: BorrowedFd<'_>) -> io::Result<usize> {
    attached(group.as_raw_fd()).map(|programs| programs.len())
}
