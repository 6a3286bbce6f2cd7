//! Programs installed in children of the test.

use std::io;

use super::super::*;
use super::{NEW_KERNEL, parse};

/// Forks, runs `body` in the child, and returns its exit code, or the signal that ended it as a negative.
fn in_child(body: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child only makes system calls on memory prepared before, and leaves by _exit.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
    if pid == 0 {
        let code = body();
        // SAFETY: ends the child without running the test harness's exit handlers.
        unsafe { libc::_exit(code) };
    }
    let mut status = 0;
    // SAFETY: pid is our child and status a local variable.
    let waited = unsafe { libc::waitpid(pid, &raw mut status, 0) };
    assert_eq!(waited, pid);
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -libc::WTERMSIG(status) }
}

fn no_new_privs() {
    // SAFETY: this prctl takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
}

/// The errno of a system call with up to two arguments, 0 when it succeeds.
fn errno_of(nr: libc::c_long, first: libc::c_long, second: libc::c_long) -> i32 {
    // SAFETY: the callers pass numbers or null pointers, which the kernel checks.
    let result = unsafe { libc::syscall(nr, first, second, 0, 0, 0, 0) };
    if result < 0 { io::Error::last_os_error().raw_os_error().unwrap_or(-1) } else { 0 }
}

#[test]
fn the_default_profile_in_force() {
    let profile = Profile::parse(DEFAULT_PROFILE).unwrap();
    let native = Arch::native().expect("a table for this architecture");
    let program = compile(&profile.resolve(&[], KernelVersion::current(), native).unwrap()).unwrap();
    let code = in_child(|| {
        no_new_privs();
        if install(&program, program.flags()).is_err() {
            return 1;
        }
        let checks = [
            (errno_of(libc::SYS_getppid, 0, 0), 0),
            (errno_of(libc::SYS_unshare, libc::c_long::from(libc::CLONE_NEWUTS), 0), libc::EPERM),
            (errno_of(libc::SYS_clone3, 0, 0), libc::ENOSYS),
            (errno_of(libc::SYS_socket, 38, 5), libc::EPERM),
            (errno_of(libc::SYS_socket, 40, 1), libc::EPERM),
            (errno_of(libc::SYS_socket, 0x1_0000_0026, 5), libc::EPERM),
            (errno_of(libc::SYS_socket, 2, 2), 0),
            (errno_of(libc::SYS_personality, 0xffff_ffff, 0), 0),
            (errno_of(libc::SYS_personality, 0x4_0000, 0), libc::EPERM),
            (errno_of(900, 0, 0), libc::ENOSYS),
        ];
        let wrong = checks.iter().position(|(have, want)| have != want);
        wrong.map_or(0, |at| i32::try_from(at).unwrap_or(99) + 10)
    });
    assert_eq!(code, 0, "1: install failed; 10 and more: that check is wrong");
}

#[test]
fn a_killing_rule_kills() {
    let program = compile(&parse(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["getppid"],"action":"SCMP_ACT_KILL_PROCESS"}]}"#,
    ))
    .unwrap();
    let code = in_child(|| {
        no_new_privs();
        if install(&program, Flags::LOG.union(Flags::SPEC_ALLOW)).is_err() {
            return 1;
        }
        errno_of(libc::SYS_getppid, 0, 0);
        2
    });
    assert_eq!(code, -libc::SIGSYS);
}

#[test]
fn all_flags_are_taken() {
    let program = compile(&parse(
        r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_TSYNC","SECCOMP_FILTER_FLAG_LOG",
        "SECCOMP_FILTER_FLAG_SPEC_ALLOW","SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls":[{"names":["getppid"],"action":"SCMP_ACT_NOTIFY"}]}"#,
    ))
    .unwrap();
    let code = in_child(|| {
        no_new_privs();
        match install(&program, program.flags()) {
            Ok(Some(listener)) => {
                drop(listener);
                // Without a listener the call fails.
                i32::from(errno_of(libc::SYS_getppid, 0, 0) != libc::ENOSYS)
            }
            Ok(None) => 2,
            Err(e) => e.raw_os_error().unwrap_or(3),
        }
    });
    assert_eq!(code, 0);
    let quiet = compile(&parse(r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#)).unwrap();
    let code = in_child(|| {
        no_new_privs();
        i32::from(!matches!(install(&quiet, Flags::TSYNC.union(Flags::WAIT_KILLABLE)), Ok(None)))
    });
    assert_eq!(code, 0, "the flag about waiting is dropped without a listener");
}

#[test]
fn the_largest_program_is_taken() {
    let rules: Vec<String> = (0..1000)
        .map(|value| {
            format!(
                r#"{{"names":["read"],"action":"SCMP_ACT_ERRNO","args":[{{"index":0,"value":{},"op":"SCMP_CMP_EQ"}}]}}"#,
                value + 100_000
            )
        })
        .collect();
    let json = format!(r#"{{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{}]}}"#, rules.join(","));
    let profile = Profile::parse(&json).unwrap();
    let native = Arch::native().expect("a table for this architecture");
    let program = compile(&profile.resolve(&[], NEW_KERNEL, native).unwrap()).unwrap();
    let code = in_child(|| {
        no_new_privs();
        if install(&program, Flags::NONE).is_err() {
            return 1;
        }
        let refused = errno_of(libc::SYS_read, 100_999, 0);
        i32::from(refused != libc::EPERM || errno_of(libc::SYS_read, 200_000, 0) != libc::EBADF) * 2
    });
    assert_eq!(code, 0);
}
