//! A host made of a network namespace, with a neighbour outside and sandboxes inside.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use network::{
    Attached, Attachment, Capabilities, Conflist, Detachment, Error, Network, Options, PortMapping, Protocol,
};
use oci::SandboxId;
use sys::netlink::{AddressFlags, Batch, LinkChange, LinkRef, Route, RouteSpec, Veth};

pub(crate) const HOST_IP: &str = "192.0.2.1";
pub(crate) const OUTSIDE_IP: &str = "192.0.2.2";
pub(crate) const HOST_IP6: &str = "2001:db8::1";

/// The host of one test.
pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) outside: OwnedFd,
}

/// Runs a test in a fresh namespace that is the host.
pub(crate) fn on_host(test: impl FnOnce(&Host) + Send) {
    let netns = sys::ns::new_netns().expect("a network namespace can be made (root is needed)");
    let body = || {
        let outside = sys::ns::new_netns().unwrap();
        connect_outside(outside.as_fd());
        let dir = tempfile::Builder::new().prefix("berth-test-net").tempdir().unwrap();
        test(&Host { dir, outside });
    };
    sys::ns::in_netns(netns.as_fd(), body).unwrap();
}

fn connect_outside(outside: BorrowedFd<'_>) {
    let mut route = Route::open().unwrap();
    let mut batch = Batch::new();
    batch.change(LinkRef::Name("lo"), LinkChange { up: true, ..LinkChange::default() });
    batch.veth(&Veth {
        name: "uplink",
        peer_name: "eth0",
        peer_netns: outside,
        peer_mac: None,
        master: None,
        mtu: None,
    });
    route.apply(batch).unwrap();
    let configure = |name: &str, v4: &str, v6: &str| {
        let mut route = Route::open().unwrap();
        let index = route.link(name).unwrap().unwrap().index;
        let flags = AddressFlags { skip_detection: true, may_exist: false };
        let mut batch = Batch::new();
        batch.change(LinkRef::Name("lo"), LinkChange { up: true, ..LinkChange::default() });
        batch.change(LinkRef::Index(index), LinkChange { up: true, ..LinkChange::default() });
        batch.address(index, (v4.parse().unwrap(), 24), flags);
        batch.address(index, (v6.parse().unwrap(), 64), flags);
        route.apply(batch).unwrap();
    };
    configure("uplink", HOST_IP, HOST_IP6);
    sys::ns::in_netns(outside, || configure("eth0", OUTSIDE_IP, "2001:db8::2")).unwrap();
}

impl Host {
    pub(crate) fn options(&self) -> Options {
        Options {
            conf_dir: self.dir.path().join("net.d"),
            bin_dirs: vec![self.dir.path().join("bin"), PathBuf::from("/usr/lib/cni")],
            state_dir: self.dir.path().join("state"),
            table: "berth".to_owned(),
            bridge: "berth0".to_owned(),
            subnet: "10.88.0.0/16".parse().unwrap(),
            subnet6: Some("fd88::/64".parse().unwrap()),
            plugin_timeout: Duration::from_secs(20),
            exec_builtin: false,
        }
    }

    pub(crate) fn network(&self) -> Network {
        Network::open(self.options()).unwrap()
    }

    /// Installs a shell script as a plugin.
    pub(crate) fn plugin(&self, name: &str, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let bin = self.dir.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::write(bin.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(bin.join(name), std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub(crate) fn conflist(&self, file: &str, text: &str) {
        let dir = self.dir.path().join("net.d");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(file), text).unwrap();
    }

    /// Gives the neighbour outside a route to the sandboxes, as a router of the site would.
    pub(crate) fn route_from_outside(&self, net: &str) {
        let (ip, len) = net.split_once('/').unwrap();
        let destination: (IpAddr, u8) = (ip.parse().unwrap(), len.parse().unwrap());
        let gateway: IpAddr = if destination.0.is_ipv6() { HOST_IP6 } else { HOST_IP }.parse().unwrap();
        let work = || {
            let mut route = Route::open().unwrap();
            let link = route.link("eth0").unwrap().unwrap().index;
            let mut batch = Batch::new();
            batch.route(&RouteSpec {
                destination,
                gateway: Some(gateway),
                link,
                mtu: None,
                advmss: None,
                priority: None,
                table: None,
                scope: None,
            });
            route.apply(batch).unwrap();
        };
        sys::ns::in_netns(self.outside.as_fd(), work).unwrap();
    }
}

/// A sandbox: an id and a namespace.
pub(crate) struct Pod {
    pub(crate) id: SandboxId,
    pub(crate) netns: OwnedFd,
    pub(crate) attached: Attached,
}

impl Pod {
    pub(crate) fn ip(&self, is_v6: bool) -> IpAddr {
        self.attached
            .ips
            .iter()
            .map(|i| i.address.addr())
            .find(|ip| ip.is_ipv6() == is_v6)
            .expect("address of family")
    }

    pub(crate) fn detachment(&self) -> Detachment<'_> {
        Detachment {
            sandbox: &self.id,
            ifname: "eth0",
            netns: Some(self.netns.as_fd()),
            netns_path: None,
            netns_survives: false,
        }
    }

    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        sys::ns::in_netns(self.netns.as_fd(), work).unwrap()
    }
}

pub(crate) fn try_attach(
    network: &Network,
    id: &str,
    conflist: &Conflist,
    ports: &[PortMapping],
) -> Result<Pod, Error> {
    try_attach_with(network, id, conflist, ports, &[], &Capabilities::default())
}

pub(crate) fn try_attach_with(
    network: &Network,
    id: &str,
    conflist: &Conflist,
    ports: &[PortMapping],
    cni_args: &[(String, String)],
    capabilities: &Capabilities,
) -> Result<Pod, Error> {
    let netns = sys::ns::new_netns().unwrap();
    let id: SandboxId = id.parse().unwrap();
    let attached = network.attach(&Attachment {
        sandbox: &id,
        netns: netns.as_fd(),
        netns_path: None,
        conflist,
        ifname: "eth0",
        ports,
        cni_args,
        capabilities,
    })?;
    Ok(Pod { id, netns, attached })
}

pub(crate) fn attach(network: &Network, id: &str, ports: &[PortMapping]) -> Pod {
    let conflist = network.default_conflist().unwrap();
    try_attach(network, id, &conflist, ports).unwrap_or_else(|e| panic!("{}", chain(&e)))
}

/// An error with its sources.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

pub(crate) fn port(
    protocol: Protocol,
    host_port: u16,
    container_port: u16,
    host_ip: Option<&str>,
) -> PortMapping {
    PortMapping { host_port, container_port, protocol, host_ip: host_ip.map(|ip| ip.parse().unwrap()) }
}

/// Serves TCP in a namespace: every connection is told the address it came from.
pub(crate) fn serve_tcp(netns: BorrowedFd<'_>, port: u16) {
    let listener = sys::ns::in_netns(netns, || TcpListener::bind(("::", port))).unwrap().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let peer = stream.peer_addr().unwrap().ip().to_canonical();
            let _ = stream.write_all(peer.to_string().as_bytes());
        }
    });
}

/// Serves UDP in a namespace: every datagram is answered with the address it came from.
pub(crate) fn serve_udp(netns: BorrowedFd<'_>, address: &str) {
    let address: SocketAddr = address.parse().unwrap();
    let socket = sys::ns::in_netns(netns, || UdpSocket::bind(address)).unwrap().unwrap();
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(peer.ip().to_canonical().to_string().as_bytes(), peer);
        }
    });
}

/// Connects from the namespace of the calling thread; what the server said our address is.
pub(crate) fn ask_tcp(to: IpAddr, port: u16) -> Result<String, std::io::Error> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(to, port), Duration::from_millis(1500))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

pub(crate) fn ask_udp(to: IpAddr, port: u16) -> Result<String, std::io::Error> {
    let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(Duration::from_millis(1500)))?;
    socket.connect(SocketAddr::new(to, port))?;
    socket.send(b"hello")?;
    let mut buffer = [0; 64];
    let n = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..n]).into_owned())
}

pub(crate) fn ask_from(netns: BorrowedFd<'_>, to: &str, port: u16) -> Result<String, std::io::Error> {
    let to: IpAddr = to.parse().unwrap();
    sys::ns::in_netns(netns, || ask_tcp(to, port)).unwrap()
}

/// Runs a program in the namespace of the calling thread.
pub(crate) fn command(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {stderr}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until a condition holds.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Names of the links of the host.
pub(crate) fn links() -> Vec<String> {
    Route::open().unwrap().links().unwrap().into_iter().map(|l| l.name).collect()
}
