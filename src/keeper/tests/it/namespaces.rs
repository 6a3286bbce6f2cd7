//! Namespaces that outlive whoever asked for them.

use std::os::fd::AsFd;

use keeper::protocol::{Event, NamespaceKind, NamespaceSpec, Reply, Request};

use super::harness::{Keeper, bundle, lines, runtime, start, unique};

fn spec(pid: bool) -> NamespaceSpec {
    NamespaceSpec {
        net: true,
        ipc: true,
        uts: true,
        pid,
        hostname: Some("berth-test-host".into()),
        sysctls: [("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned())].into(),
        ..NamespaceSpec::default()
    }
}

fn create(key: &str, pid: bool) -> Request {
    Request::CreateNamespaces { key: key.into(), spec: spec(pid) }
}

#[test]
fn namespaces_are_kept_without_a_process() {
    let keeper = Keeper::new();
    let mut client = keeper.connect();
    let (reply, fds) = client.ask(&create("a", false), &[]).unwrap();
    let Reply::Namespaces { kinds, init_pid: None } = reply else { panic!("{reply:?}") };
    assert_eq!(kinds.len(), fds.len());
    assert!(kinds.contains(&NamespaceKind::Net) && !kinds.contains(&NamespaceKind::Pid));
    let (again, _) = client.ask(&create("a", false), &[]).unwrap();
    assert!(matches!(again, Reply::Namespaces { .. }));
    let net = fds[kinds.iter().position(|kind| *kind == NamespaceKind::Net).unwrap()].as_fd();
    let value =
        sys::ns::in_netns(net, || std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start"));
    assert_eq!(value.unwrap().unwrap().trim(), "0");
    super::harness::wait_for("the maker to end", || keeper.children().is_empty().then_some(()));
    client.ask(&Request::DropNamespaces { key: "a".into() }, &[]).unwrap();
    client.ask(&Request::DropNamespaces { key: "a".into() }, &[]).unwrap();
    let (reply, fds) = client.ask(&Request::List, &[]).unwrap();
    assert!(matches!(reply, Reply::List { namespaces, .. } if namespaces.is_empty()) && fds.is_empty());
}

#[test]
fn containers_share_a_pid_namespace_with_its_init() {
    let keeper = Keeper::new();
    let mut client = keeper.connect();
    client.subscribe();
    let (reply, fds) = client.ask(&create("a", true), &[]).unwrap();
    let Reply::Namespaces { kinds, init_pid: Some(_) } = reply else { panic!("{reply:?}") };
    let id = unique("joins");
    let script =
        "echo $$; read name </proc/1/comm; echo $name; read host </proc/sys/kernel/hostname; echo $host";
    let bundle = bundle(keeper.directory.path(), "a", &["/bin/sh", "-c", script], false);
    let mut request = start(&id, bundle, Some(keeper.path("log")), runtime(&keeper));
    request.join = kinds.iter().copied().zip(0..).collect();
    let attached: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    client.ask(&Request::Start(Box::new(request)), &attached).unwrap();
    assert_eq!(client.exit_of(&id).code, 0);
    let logged = lines(&keeper.path("log"));
    assert_ne!(logged[0], "stdout F 1");
    assert_eq!(logged[2], "stdout F berth-test-host");
    client.ask(&Request::DropNamespaces { key: "a".into() }, &[]).unwrap();
    assert!(keeper.children().is_empty());
}

#[test]
fn the_end_of_an_init_is_told() {
    let keeper = Keeper::new();
    let mut client = keeper.connect();
    client.subscribe();
    let (reply, _) = client.ask(&create("a", true), &[]).unwrap();
    let Reply::Namespaces { init_pid: Some(pid), .. } = reply else { panic!("{reply:?}") };
    sys::pidfd::signal(sys::pidfd::open(pid).unwrap().as_fd(), 9).unwrap();
    let event = client.next_event();
    assert!(matches!(&event, Event::InitExited { key } if key == "a"), "{event:?}");
}
