//! Scripts on the real kernel.

use std::ffi::CString;
use std::os::fd::AsFd;

use super::*;
use crate::pidfd::{self, WaitStatus};

fn c(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn shell(script: &str) -> Op {
    Op::Exec(Exec {
        program: Program::Paths(vec![c("/nonexistent/sh"), c("/bin/sh")]),
        arguments: vec![c("sh"), c("-c"), c(script)],
        environment: vec![c("PATH=/bin:/usr/bin")],
    })
}

fn run(script: &Script<'_>) -> (Vec<String>, WaitStatus) {
    let child = script.spawn().unwrap();
    let mut messages = Vec::new();
    while let Some(message) = child.report.next_blocking().unwrap() {
        if matches!(message, Message::Ready | Message::Waiting | Message::NeedsMaps) {
            child.report.go_on().unwrap();
        }
        messages.push(format!("{message:?}"));
    }
    (messages, pidfd::wait_blocking(child.pidfd.as_fd()).unwrap())
}

fn script(ops: Vec<Op>) -> Script<'static> {
    Script { steps: ops.into_iter().map(Step::from).collect(), ..Script::default() }
}

#[test]
fn a_program_runs_and_its_status_comes_back() {
    let (messages, status) = run(&script(vec![shell("exit 42")]));
    assert_eq!(messages, ["Executing"]);
    assert_eq!(status, WaitStatus::Exited(42));
}

#[test]
fn a_failed_step_is_named() {
    let failing = Op::Chdir { path: c("/no/such/directory") };
    let (messages, status) = run(&script(vec![Op::NewSession, failing, shell("exit 42")]));
    assert_eq!(messages, ["Failed { step: 1, errno: 2 }"]);
    assert_eq!(status, WaitStatus::Exited(1));
}

#[test]
fn a_tolerated_failure_is_a_warning() {
    let failing = Step { op: Op::Chdir { path: c("/no/such/directory") }, tolerate: &[libc::ENOENT] };
    let mut script = script(vec![shell("exit 0")]);
    script.steps.insert(0, failing);
    let (messages, status) = run(&script);
    assert_eq!(messages, ["Warning { step: 0, errno: 2 }", "Executing"]);
    assert_eq!(status, WaitStatus::Exited(0));
}

#[test]
fn a_missing_program_and_one_that_cannot_run_differ() {
    let exec = |path: &str| {
        let program = Program::Paths(vec![c(path)]);
        script(vec![Op::Exec(Exec { program, arguments: vec![c("x")], environment: vec![] })])
    };
    assert_eq!(run(&exec("/nonexistent")).1, WaitStatus::Exited(127));
    assert_eq!(run(&exec("/etc/passwd")).1, WaitStatus::Exited(126));
}

#[test]
fn the_built_in_init_reaps_and_ends_when_told_from_outside() {
    let mut files = Files::default();
    let init = files.own(crate::memfd::sealed_executable("init", &init_image()).unwrap());
    let exec = Exec { program: Program::File(init), arguments: vec![c("init")], environment: vec![] };
    let steps = vec![Op::BlockSignals, Op::Exec(exec)];
    let child = Script {
        clone_flags: libc::CLONE_NEWPID,
        steps: steps.into_iter().map(Step::from).collect(),
        files,
        ..Script::default()
    }
    .spawn()
    .unwrap();
    while child.report.next_blocking().unwrap().is_some() {}
    // An orphan of another process in its namespace is reaped by it; SIGTERM from inside is ignored.
    let mut files = Files::default();
    let namespace = files.borrow(child.pidfd.as_fd());
    let orphan = Script {
        pid_namespace: Some(namespace),
        steps: vec![shell("(exec sleep 0.05) & kill -TERM 1; exit 3").into()],
        files,
        ..Script::default()
    };
    assert_eq!(run(&orphan).1, WaitStatus::Exited(3));
    let children = format!("/proc/{0}/task/{0}/children", child.pid);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !std::fs::read_to_string(&children).unwrap().is_empty() {
        assert!(std::time::Instant::now() < deadline, "the orphan was not reaped");
        std::thread::yield_now();
    }
    assert!(pidfd::is_running(child.pidfd.as_fd()).unwrap());
    pidfd::signal(child.pidfd.as_fd(), libc::SIGTERM).unwrap();
    assert_eq!(pidfd::wait_blocking(child.pidfd.as_fd()).unwrap(), WaitStatus::Exited(0));
}

#[test]
fn the_parent_dying_ends_a_waiting_child() {
    let child = script(vec![Op::Hold { listener: None }, shell("exit 0")]).spawn().unwrap();
    assert!(matches!(child.report.next_blocking().unwrap(), Some(Message::Ready)));
    drop(child.report);
    assert_eq!(pidfd::wait_blocking(child.pidfd.as_fd()).unwrap(), WaitStatus::Exited(1));
}

#[test]
fn only_what_is_kept_stays_open() {
    let mut files = Files::default();
    let null = files.own(std::fs::File::open("/dev/null").unwrap().into());
    let steps = vec![
        Op::Stdio([null, null, null]),
        Op::CloseOthers { keep: vec![], preserve: 0 },
        shell("for fd in /proc/self/fd/*; do case $fd in */[0-3]) ;; *) exit 1;; esac; done"),
    ];
    let script = Script { steps: steps.into_iter().map(Step::from).collect(), files, ..Script::default() };
    assert_eq!(run(&script).1, WaitStatus::Exited(0));
}

#[test]
fn programs_are_bounded_in_time_and_fed() {
    let shell = |script: &str| Command {
        program: "/bin/sh".into(),
        arguments: vec!["-c".into(), script.into()],
        environment: vec![("PATH".into(), "/bin:/usr/bin".into())],
        ..Command::default()
    };
    let mut echo = shell("cat; echo err >&2; exit 3");
    echo.stdin = b"given".to_vec();
    let output = echo.run().unwrap();
    assert_eq!(
        (output.status.code(), &output.stdout[..], &output.stderr[..]),
        (Some(3), &b"given"[..], &b"err\n"[..])
    );
    let mut slow = shell("exec sleep 100");
    slow.timeout = Some(std::time::Duration::from_millis(50));
    assert!(matches!(slow.run(), Err(RunError::Timeout { .. })));
}
