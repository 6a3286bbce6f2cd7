//! A keeper that is lost, and another that takes over with what the client has kept.

use std::os::fd::{AsFd, OwnedFd};

use keeper::protocol::{
    Adopt, AdoptNamespaces, Exec, FailureKind, NamespaceKind, NamespaceSpec, Origin, Reply, Request,
};

use super::harness::{Client, Keeper, bundle, lines, runtime, start, unique, wait_for};

/// What a client keeps of a container: the request to adopt it, and descriptors.
fn kept(client: &mut Client, id: &str) -> (Adopt, Vec<OwnedFd>) {
    let (reply, fds) = client.ask(&Request::List, &[]).unwrap();
    let Reply::List { processes, .. } = reply else { panic!("{reply:?}") };
    let held = processes.into_iter().find(|held| held.id == id).unwrap();
    let Origin { bundle, runtime, cgroups, log } = held.origin.unwrap();
    let (pidfd, stdin, terminal) = (held.pidfd, held.stdin, held.terminal);
    let adopt = Adopt {
        id: held.id,
        sandbox: held.sandbox,
        bundle,
        runtime,
        cgroups,
        log,
        pid: held.pid,
        start_time: held.start_time,
        started_at_ns: held.started_at_ns,
        pidfd,
        stdin,
        terminal,
        stdout: held.stdout,
        stderr: held.stderr,
    };
    (adopt, fds)
}

fn adopt(client: &mut Client, (adopt, fds): &(Adopt, Vec<OwnedFd>)) -> Result<Reply, FailureKind> {
    let fds: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let result = client.ask(&Request::Adopt(Box::new(adopt.clone())), &fds);
    result.map(|(reply, _)| reply).map_err(|failure| failure.kind)
}

#[test]
fn an_adopted_container_goes_on_with_its_log_and_ends_with_its_code() {
    let mut keeper = Keeper::new();
    let mut client = keeper.connect();
    let id = unique("adopt");
    // It waits for a line between the numbers, so that the keeper can be lost at a known place.
    let script = "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done; read x; \
                  echo after; echo err >&2; read x; exit 7";
    let bundle = bundle(keeper.directory.path(), "a", &["/bin/sh", "-c", script], false);
    let mut request = start(&id, bundle, Some(keeper.path("log")), runtime(&keeper));
    request.stdio.stdin = true;
    client.ask(&Request::Start(Box::new(request)), &[]).unwrap();
    let log = keeper.path("log");
    wait_for("the first lines", || (lines(&log).len() == 2000).then_some(()));
    let kept = kept(&mut client, &id);
    keeper.crash();
    let stdin = &kept.1[kept.0.stdin.unwrap()];
    // What is written while there is no keeper waits in the pipe.
    sys::pipe::write(stdin.as_fd(), b"go\n").unwrap();
    keeper.restart();
    let mut client = keeper.connect();
    client.subscribe();
    assert!(matches!(adopt(&mut client, &kept), Ok(Reply::Done)));
    assert_eq!(adopt(&mut client, &kept).unwrap_err(), FailureKind::Exists);
    wait_for("the lines after", || (lines(&log).len() == 2002).then_some(()));
    // It is a container like any other: a process can be run in it, and it is still there after an upgrade.
    let null = std::fs::File::open("/dev/null").unwrap();
    let exec = Exec {
        id: unique("adopt-exec"),
        container: id.clone(),
        process: serde_json::json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/bin/sh", "-c", "exit 5"]}),
        env_bytes: Vec::new(),
        terminal: None,
        cgroups: Vec::new(),
    };
    client.ask(&Request::Exec(Box::new(exec)), &[null.as_fd(), null.as_fd(), null.as_fd()]).unwrap();
    assert_eq!(client.exit_of(&unique("adopt-exec")).code, 5);
    client.release(&unique("adopt-exec"));
    client.ask(&Request::Upgrade, &[]).unwrap();
    let mut client = keeper.connect();
    client.subscribe();
    sys::pipe::write(stdin.as_fd(), b"end\n").unwrap();
    let exit = client.exit_of(&id);
    assert_eq!((exit.code, exit.unknown), (7, false));
    client.release(&id);
    let logged = lines(&log);
    let expected: Vec<String> = (0..2000).map(|i| format!("stdout F {i}")).collect();
    assert_eq!(logged[..2000], expected);
    let mut rest = logged[2000..].to_vec();
    rest.sort();
    assert_eq!(rest, ["stderr F err", "stdout F after"]);
}

#[test]
fn a_container_that_ended_without_a_keeper_is_known_to_have() {
    let mut keeper = Keeper::new();
    let mut client = keeper.connect();
    let id = unique("adopt-late");
    let script = "read x; echo last; kill -9 $$";
    let bundle = bundle(keeper.directory.path(), "a", &["/bin/sh", "-c", script], false);
    let mut request = start(&id, bundle, Some(keeper.path("log")), runtime(&keeper));
    request.stdio.stdin = true;
    client.ask(&Request::Start(Box::new(request)), &[]).unwrap();
    let kept = kept(&mut client, &id);
    keeper.crash();
    sys::pipe::write(kept.1[kept.0.stdin.unwrap()].as_fd(), b"go\n").unwrap();
    assert!(sys::pidfd::wait_readable(kept.1[kept.0.pidfd].as_fd(), 10_000).unwrap());
    keeper.restart();
    let mut client = keeper.connect();
    client.subscribe();
    assert!(matches!(adopt(&mut client, &kept), Ok(Reply::Done)));
    let exit = client.exit_of(&id);
    // As pid 1 of its namespace it cannot kill itself; the shell goes on to its end.
    assert_eq!((exit.code, exit.unknown), (0, false));
    assert_eq!(lines(&keeper.path("log")), ["stdout F last"]);
    client.release(&id);
}

#[test]
fn namespaces_and_their_init_are_adopted() {
    let mut keeper = Keeper::new();
    let mut client = keeper.connect();
    let spec = NamespaceSpec { ipc: true, pid: true, ..NamespaceSpec::default() };
    let request = Request::CreateNamespaces { key: "a".into(), spec };
    let (reply, fds) = client.ask(&request, &[]).unwrap();
    let Reply::Namespaces { kinds, init_pid: Some(pid) } = reply else { panic!("{reply:?}") };
    keeper.crash();
    keeper.restart();
    let mut client = keeper.connect();
    client.subscribe();
    let attached: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let namespaces: Vec<(NamespaceKind, usize)> = kinds.iter().copied().zip(0..).collect();
    let mut ask = |key: &str, init_pid| {
        let adopt = AdoptNamespaces { key: key.into(), namespaces: namespaces.clone(), init_pid };
        client.ask(&Request::AdoptNamespaces(adopt), &attached).map(drop)
    };
    ask("a", Some(pid)).unwrap();
    assert_eq!(ask("a", Some(pid)).unwrap_err().kind, FailureKind::Exists);
    // A number that belongs to somebody else is nobody's init.
    ask("b", Some(std::process::id())).unwrap();
    let (reply, _) = client.ask(&Request::List, &[]).unwrap();
    let Reply::List { namespaces, .. } = reply else { panic!("{reply:?}") };
    let inits: Vec<Option<u32>> = namespaces.iter().map(|held| held.init_pid).collect();
    assert_eq!(inits, [Some(pid), None]);
    let init = sys::pidfd::open(pid).unwrap();
    client.ask(&Request::DropNamespaces { key: "a".into() }, &[]).unwrap();
    assert!(!sys::pidfd::is_running(init.as_fd()).unwrap());
    client.ask(&Request::DropNamespaces { key: "b".into() }, &[]).unwrap();
}
