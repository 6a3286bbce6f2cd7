//! Whole containers, as the daemon uses them.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;

use keeper::client::{ConnectError, connect};
use keeper::protocol::{Exec, FailureKind, Reply, Request, Stdio, TerminalSize};

use super::harness::{Keeper, bundle, lines, runtime, spawn, start, unique, wait_for};

#[test]
fn what_runs_is_listed_to_whoever_connects_next() {
    let keeper = Keeper::new();
    let id = unique("listed");
    let bundle =
        bundle(keeper.directory.path(), "a", &["/bin/sh", "-c", "read line; echo got $line; exit 5"], false);
    let mut request = start(&id, bundle, Some(keeper.path("log")), runtime(&keeper));
    request.stdio.stdin = true;
    {
        // This client dies without a word, its request on the way.
        let client = keeper.connect();
        client.sender.send(1, &Request::Start(Box::new(request)), &[]).unwrap();
        client.sender.close();
    }
    let mut client = keeper.connect();
    client.subscribe();
    let (held, mut fds) = wait_for("the container to be listed", || {
        let (reply, fds) = client.ask(&Request::List, &[]).unwrap();
        let Reply::List { processes, namespaces } = reply else { panic!("{reply:?}") };
        assert!(namespaces.is_empty());
        processes.into_iter().next().map(|held| (held, fds))
    });
    assert_eq!((held.id.as_str(), held.sandbox.as_str()), (id.as_str(), "berth-test-sandbox"));
    assert_eq!(sys::pidfd::start_time(held.pid).unwrap(), held.start_time);
    assert!(sys::pidfd::is_running(fds[held.pidfd].as_fd()).unwrap());
    let stdin = fds.swap_remove(held.stdin.unwrap());
    std::fs::File::from(stdin).write_all(b"a word\n").unwrap();
    assert_eq!(client.exit_of(&id).code, 5);
    assert_eq!(lines(&keeper.path("log")), ["stdout F got a word"]);
}

#[test]
fn closing_stdin_ends_the_reader() {
    let keeper = Keeper::new();
    let mut client = keeper.connect();
    client.subscribe();
    let id = unique("stdin");
    let bundle = bundle(keeper.directory.path(), "a", &["/bin/cat"], false);
    let mut request = start(&id, bundle, Some(keeper.path("log")), runtime(&keeper));
    request.stdio.stdin = true;
    let (_, mut fds) = client.ask(&Request::Start(Box::new(request)), &[]).unwrap();
    std::fs::File::from(fds.remove(1)).write_all(b"through\n").unwrap();
    client.ask(&Request::CloseStdin { id: id.clone() }, &[]).unwrap();
    assert_eq!(client.exit_of(&id).code, 0);
    assert_eq!(lines(&keeper.path("log")), ["stdout F through"]);
}

#[test]
fn a_terminal_is_logged_and_attached() {
    let keeper = Keeper::new();
    let mut client = keeper.connect();
    client.subscribe();
    let id = unique("terminal");
    let script = "stty size; read line; echo got $line";
    let bundle = bundle(keeper.directory.path(), "a", &["/bin/sh", "-c", script], true);
    let mut request = start(&id, bundle, Some(keeper.path("log")), runtime(&keeper));
    request.stdio = Stdio { terminal: Some(TerminalSize { columns: 101, rows: 33 }), stdin: true };
    let (reply, mut fds) = client.ask(&Request::Start(Box::new(request)), &[]).unwrap();
    assert!(matches!(reply, Reply::Started { terminal: true, .. }), "{reply:?}");
    let (tap, to_tap) = sys::pipe::pair().unwrap();
    client.ask(&Request::Attach { id: id.clone() }, &[to_tap.as_fd()]).unwrap();
    drop(to_tap);
    let mut master = std::fs::File::from(fds.pop().unwrap());
    wait_for("the script to start", || std::fs::read(keeper.path("log")).ok().filter(|log| !log.is_empty()));
    master.write_all(b"hello\n").unwrap();
    assert_eq!(client.exit_of(&id).code, 0);
    let mut attached = String::new();
    std::fs::File::from(tap).read_to_string(&mut attached).unwrap();
    assert!(attached.ends_with("got hello\r\n"), "{attached:?}");
    let logged = lines(&keeper.path("log"));
    assert_eq!(logged.last().unwrap(), "stdout F got hello\r");
    if super::harness::BUILT_IN {
        assert_eq!(logged[0], "stdout F 33 101\r");
    }
}

#[test]
fn a_session_speaks_through_the_clients_pipes() {
    let keeper = Keeper::new();
    let mut client = keeper.connect();
    client.subscribe();
    let id = unique("session");
    let bundle = bundle(keeper.directory.path(), "a", &["/bin/sleep", "1000"], false);
    let (_, container) =
        client.ask(&Request::Start(Box::new(start(&id, bundle, None, runtime(&keeper)))), &[]).unwrap();
    let session = |name: &str, args: &[&str]| {
        Request::Exec(Box::new(Exec {
            id: name.into(),
            container: id.clone(),
            process: serde_json::json!({
                "user": { "uid": 0, "gid": 0 }, "args": args, "env": ["PATH=/bin"], "cwd": "/",
            }),
            env_bytes: Vec::new(),
            terminal: None,
            cgroups: Vec::new(),
        }))
    };
    let null = std::fs::File::open("/dev/null").unwrap();
    let (reader, writer) = sys::pipe::pair().unwrap();
    let fds = [null.as_fd(), writer.as_fd(), writer.as_fd()];
    client.ask(&session("one", &["/bin/sh", "-c", "echo out; echo err >&2; exit 9"]), &fds).unwrap();
    assert_eq!(client.exit_of("one").code, 9);
    let failure = client.ask(&session("two", &["/bin/nothing"]), &fds).unwrap_err();
    assert_eq!(failure.kind, FailureKind::ProgramNotFound, "{}", failure.message);
    drop(writer);
    let mut said = String::new();
    std::fs::File::from(reader).read_to_string(&mut said).unwrap();
    // An external runtime complains to the session as well.
    assert!(said.starts_with("out\nerr\n") && (said.len() == 8 || !super::harness::BUILT_IN), "{said}");
    client.release("one");
    sys::pidfd::signal(container[0].as_fd(), 15).unwrap();
    sys::pidfd::signal(container[0].as_fd(), 9).unwrap();
    let exit = client.exit_of(&id);
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
    let failure = client.ask(&session("three", &["/bin/true"]), &[]).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotFound);
}

#[test]
fn many_short_containers_leave_nothing() {
    let keeper = Keeper::new();
    let mut client = keeper.connect();
    client.subscribe();
    let rounds = if super::harness::BUILT_IN { 500 } else { 10 };
    let run = |client: &mut super::harness::Client, round: usize| {
        let id = unique(&format!("short{round}"));
        let bundle = bundle(keeper.directory.path(), "a", &["/bin/true"], false);
        let request = start(&id, bundle, Some(keeper.path("log")), runtime(&keeper));
        client.ask(&Request::Start(Box::new(request)), &[]).unwrap();
        assert_eq!(client.exit_of(&id).code, 0);
        client.release(&id);
    };
    run(&mut client, 0);
    let before = keeper.open_files();
    (1..rounds).for_each(|round| run(&mut client, round));
    wait_for("descriptors to be closed", || (keeper.open_files() <= before).then_some(()));
    assert!(keeper.children().is_empty());
}

#[test]
fn an_upgrade_is_not_noticed() {
    let keeper = Keeper::new();
    let mut client = keeper.connect();
    let id = unique("upgrade");
    let script = "read line; echo one; read line; echo two; exit 4";
    let bundle = bundle(keeper.directory.path(), "a", &["/bin/sh", "-c", script], false);
    let mut request = start(&id, bundle, Some(keeper.path("log")), runtime(&keeper));
    request.stdio.stdin = true;
    let (_, mut fds) = client.ask(&Request::Start(Box::new(request)), &[]).unwrap();
    let mut stdin = std::fs::File::from(fds.remove(1));
    stdin.write_all(b"\n").unwrap();
    assert!(matches!(client.ask(&Request::Upgrade, &[]), Ok((Reply::Done, _))));
    assert!(client.receiver.recv().is_ok_and(|message| message.is_none()));
    let mut client = keeper.connect();
    assert_eq!(client.receiver.keeper_pid(), keeper.child.id());
    client.subscribe();
    stdin.write_all(b"\n").unwrap();
    assert_eq!(client.exit_of(&id).code, 4);
    assert_eq!(lines(&keeper.path("log")), ["stdout F one", "stdout F two"]);
}

#[test]
fn a_log_is_reopened_where_asked_and_not_through_a_link() {
    let keeper = Keeper::new();
    let mut client = keeper.connect();
    client.subscribe();
    let id = unique("reopen");
    let script = "read line; echo $line; read line; echo $line; read line; echo $line";
    let bundle = bundle(keeper.directory.path(), "a", &["/bin/sh", "-c", script], false);
    let (log, moved) = (keeper.path("log"), keeper.path("log.moved"));
    let mut request = start(&id, bundle, Some(log.clone()), runtime(&keeper));
    request.stdio.stdin = true;
    let (_, mut fds) = client.ask(&Request::Start(Box::new(request)), &[]).unwrap();
    let mut stdin = std::fs::File::from(fds.remove(1));
    let written = |path: &Path, count: usize| {
        wait_for("a line", || (path.try_exists().unwrap() && lines(path).len() == count).then_some(()));
    };
    stdin.write_all(b"one\n").unwrap();
    written(&log, 1);
    std::fs::rename(&log, &moved).unwrap();
    std::os::unix::fs::symlink(keeper.path("elsewhere"), &log).unwrap();
    assert!(client.ask(&Request::ReopenLog { id: id.clone() }, &[]).is_err());
    stdin.write_all(b"two\n").unwrap();
    written(&moved, 2);
    std::fs::remove_file(&log).unwrap();
    client.ask(&Request::ReopenLog { id: id.clone() }, &[]).unwrap();
    stdin.write_all(b"three\n").unwrap();
    assert_eq!(client.exit_of(&id).code, 0);
    assert_eq!(lines(&log), ["stdout F three"]);
    assert!(!keeper.path("elsewhere").try_exists().unwrap());
}

#[test]
fn misuse_is_refused_with_a_reason() {
    let keeper = Keeper::new();
    let mut second = spawn(keeper.directory.path());
    assert_eq!(second.wait().unwrap().code(), Some(1));
    let mut client = keeper.connect();
    let failure = client.ask(&Request::ReopenLog { id: "nobody".into() }, &[]).unwrap_err();
    assert_eq!(failure.kind, FailureKind::NotFound);
    let missing = start("x", keeper.path("missing"), None, keeper::protocol::Runtime::BuiltIn);
    assert!(client.ask(&Request::Start(Box::new(missing)), &[]).is_err());
    client.release("nobody");
    let nowhere = connect(&keeper.path("nowhere")).unwrap_err();
    assert!(matches!(nowhere, ConnectError::Connect { .. }));
    assert!(matches!(client.ask(&Request::Shutdown, &[]), Ok((Reply::Done, _))));
    assert!(client.receiver.recv().is_ok_and(|message| message.is_none()));
}

#[test]
fn signals_are_neither_blocked_nor_ignored_in_a_container() {
    let keeper = Keeper::new();
    let mut client = keeper.connect();
    client.subscribe();
    let id = unique("signals");
    let args = ["/bin/busybox", "grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"];
    let bundle = bundle(keeper.directory.path(), "a", &args, false);
    let request = start(&id, bundle, Some(keeper.path("log")), runtime(&keeper));
    client.ask(&Request::Start(Box::new(request)), &[]).unwrap();
    assert_eq!(client.exit_of(&id).code, 0);
    let none = "0000000000000000";
    assert_eq!(
        lines(&keeper.path("log")),
        [format!("stdout F SigBlk:\t{none}"), format!("stdout F SigIgn:\t{none}")]
    );
}

#[test]
fn releasing_what_is_being_started_or_runs() {
    let keeper = Keeper::new();
    let mut client = keeper.connect();
    client.subscribe();
    let id = unique("release");
    let bundle = bundle(keeper.directory.path(), "a", &["/bin/sleep", "1000"], false);
    // A log that can not be opened: the start fails and leaves nothing.
    let request = start(&id, bundle.clone(), Some(keeper.path("missing/log")), runtime(&keeper));
    let failure = client.ask(&Request::Start(Box::new(request)), &[]).unwrap_err();
    assert!(failure.message.contains("log"), "{}", failure.message);
    assert!(keeper.children().is_empty());
    let request = || Request::Start(Box::new(start(&id, bundle.clone(), None, runtime(&keeper))));
    let (_, fds) = client.ask(&request(), &[]).unwrap();
    let failure = client.ask(&request(), &[]).unwrap_err();
    assert_eq!(failure.kind, FailureKind::Exists);
    assert!(client.ask(&Request::Release { id: id.clone() }, &[]).is_err());
    assert!(client.ask(&Request::Shutdown, &[]).is_err());
    sys::pidfd::signal(fds[0].as_fd(), 9).unwrap();
    assert_eq!(client.exit_of(&id).signal, Some(9));
    client.release(&id);
    assert!(keeper.children().is_empty());
}
