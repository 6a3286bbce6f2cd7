//! Containers of an external OCI runtime: Debian's runc.

use std::os::fd::AsFd;

use keeper::protocol::{Exec, FailureKind, Reply, Request, TerminalSize};

use super::harness::{Keeper, bundle, lines, runc, start, unique};

#[test]
fn a_container_logs_and_exits() {
    let keeper = Keeper::new();
    let mut client = keeper.connect();
    client.subscribe();
    let id = unique("exits");
    let script = "echo out; echo err >&2; printf half; exit 7";
    let bundle = bundle(keeper.directory.path(), "a", &["/bin/sh", "-c", script], false);
    let request = Request::Start(Box::new(start(&id, bundle, Some(keeper.path("log")), runc(&keeper))));
    let (reply, fds) = client.ask(&request, &[]).unwrap();
    assert!(matches!(reply, Reply::Started { stdin: false, terminal: false, .. }), "{reply:?}");
    assert_eq!(fds.len(), 3);
    let exit = client.exit_of(&id);
    assert_eq!((exit.code, exit.signal), (7, None));
    let mut logged = lines(&keeper.path("log"));
    logged.sort();
    assert_eq!(logged, ["stderr F err", "stdout F out", "stdout P half"]);
    client.release(&id);
    assert!(keeper.children().is_empty());
}

#[test]
fn a_program_that_is_missing_leaves_nothing() {
    let keeper = Keeper::new();
    let mut client = keeper.connect();
    let id = unique("missing");
    let bundle = bundle(keeper.directory.path(), "a", &["/bin/nothing"], false);
    let request = Request::Start(Box::new(start(&id, bundle, Some(keeper.path("log")), runc(&keeper))));
    let failure = client.ask(&request, &[]).unwrap_err();
    assert_eq!(failure.kind, FailureKind::ProgramNotFound, "{}", failure.message);
    assert!(keeper.children().is_empty());
    assert!(client.ask(&request, &[]).is_err_and(|failure| failure.kind == FailureKind::ProgramNotFound));
}

#[test]
fn a_session_with_a_terminal_in_a_container() {
    let keeper = Keeper::new();
    let mut client = keeper.connect();
    client.subscribe();
    let id = unique("session");
    let bundle = bundle(keeper.directory.path(), "a", &["/bin/sleep", "1000"], false);
    let request = Request::Start(Box::new(start(&id, bundle, None, runc(&keeper))));
    let (_, container) = client.ask(&request, &[]).unwrap();
    let process = serde_json::json!({
        "terminal": true, "user": { "uid": 0, "gid": 0 }, "args": ["/bin/sh", "-c", "echo hello; exit 3"],
        "env": ["PATH=/bin"], "cwd": "/",
    });
    let session = Exec {
        id: "session".into(),
        container: id.clone(),
        process,
        env_bytes: Vec::new(),
        terminal: Some(TerminalSize::default()),
        cgroups: Vec::new(),
    };
    let (reply, fds) = client.ask(&Request::Exec(Box::new(session)), &[]).unwrap();
    assert!(matches!(reply, Reply::Started { terminal: true, .. }), "{reply:?}");
    let mut said = [0; 100];
    let n = sys::pipe::read(fds[1].as_fd(), &mut said).unwrap();
    assert_eq!(&said[..n], b"hello\r\n");
    assert_eq!(client.exit_of("session").code, 3);
    sys::pidfd::signal(container[0].as_fd(), 9).unwrap();
    let exit = client.exit_of(&id);
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
}
