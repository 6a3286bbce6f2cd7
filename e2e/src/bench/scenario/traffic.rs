//! Row 36: bytes from pod to pod over the bridge, and to a pod through a host port.

use anyhow::{Context, Result};
use cri_api::v1 as cri;

use crate::bench::engine::Engine;
use crate::bench::images::PROGRAM;
use crate::bench::turn::{Turn, container, pod, start_pod};

const PORT: i32 = 5001;
const HOST_PORT: i32 = 15001;
/// Address of the bridge, which is the host's for pods.
const GATEWAY: &str = "10.77.0.1";

pub(super) fn run(turn: &mut Turn) -> Result<()> {
    let engine = turn.engine()?;
    let mapping = cri::PortMapping {
        protocol: cri::Protocol::Tcp.into(),
        container_port: PORT,
        host_port: HOST_PORT,
        host_ip: String::new(),
    };
    let config = cri::PodSandboxConfig { port_mappings: vec![mapping], ..pod(&engine, "server")? };
    let (server, _) = start_pod(&engine.client, &config, &container(&["serve", &PORT.to_string()]))?;
    let (client, sender) = start_pod(&engine.client, &pod(&engine, "client")?, &container(&["idle"]))?;
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: server.clone(), verbose: false };
    let status = engine.client.pod_sandbox_status(request)?.status.context("no status")?;
    let address = status.network.context("the server has no address")?.ip;
    measure(turn, &engine, &sender, &address, PORT, ["36", "36b"])?;
    measure(turn, &engine, &sender, GATEWAY, HOST_PORT, ["36c", "36d"])?;
    engine.client.remove_pod(&client)?;
    engine.client.remove_pod(&server)
}

fn measure(
    turn: &mut Turn,
    engine: &Engine,
    sender: &str,
    host: &str,
    port: i32,
    keys: [&str; 2],
) -> Result<()> {
    let port = port.to_string();
    let exec = |arguments: &[&str]| engine.client.exec_ok(sender, &[&[PROGRAM], arguments].concat());
    for _ in 0..3 {
        let rate = exec(&["send", host, &port, "2"])?;
        turn.sample(keys[0], rate.trim().parse::<f64>().with_context(|| format!("rate {rate:?}"))? / 1e6);
        let trips = exec(&["ping", host, &port, "5000"])?;
        let slow = trips.split_whitespace().nth(1).and_then(|word| word.parse::<f64>().ok());
        turn.sample(keys[1], slow.with_context(|| format!("round trips {trips:?}"))? / 1e3);
    }
    Ok(())
}
