//! How long an attachment takes. Printed, not asserted: `cargo test --release -p network bench -- --nocapture`.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use network::{Attachment, Capabilities, Detachment, Protocol};
use oci::SandboxId;

use crate::host::*;

const ROUNDS: usize = 100;

fn median(mut times: Vec<Duration>) -> (Duration, Duration) {
    times.sort();
    (times[times.len() / 2], times[times.len() * 99 / 100])
}

#[test]
fn bench_attach_and_detach() {
    on_host(|host| {
        let network = host.network();
        let conflist = network.default_conflist().unwrap();
        let ports = [port(Protocol::Tcp, 8080, 80, None)];
        for (name, ports) in
            [("bridge, addresses, masquerade", &[][..]), ("the same with a port", &ports[..])]
        {
            let (mut up, mut down) = (Vec::new(), Vec::new());
            for round in 0..ROUNDS {
                let id: SandboxId = format!("bench-{round}").parse().unwrap();
                let netns = sys::ns::new_netns().unwrap();
                let started = Instant::now();
                network
                    .attach(&Attachment {
                        sandbox: &id,
                        netns: netns.as_fd(),
                        netns_path: None,
                        conflist: &conflist,
                        ifname: "eth0",
                        ports,
                        cni_args: &[],
                        capabilities: &Capabilities::default(),
                    })
                    .unwrap();
                up.push(started.elapsed());
                let started = Instant::now();
                let (netns, netns_survives) = (Some(netns.as_fd()), false);
                network
                    .detach(&Detachment {
                        sandbox: &id,
                        ifname: "eth0",
                        netns,
                        netns_path: None,
                        netns_survives,
                    })
                    .unwrap();
                down.push(started.elapsed());
            }
            let least = (up.iter().min().copied(), down.iter().min().copied());
            let ((up, up99), (down, down99)) = (median(up), median(down));
            println!(
                "{name}: attach p50 {up:?} p99 {up99:?}, detach p50 {down:?} p99 {down99:?}, least {least:?}"
            );
        }
    });
}
