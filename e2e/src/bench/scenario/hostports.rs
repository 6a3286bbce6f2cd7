//! Row 8: a pod with a host port on a node that forwards many others.

use std::time::Instant;

use anyhow::Result;
use cri_api::v1 as cri;

use crate::bench::engine::Engine;
use crate::bench::machine::ms;
use crate::bench::turn::{Turn, container, pod, start_pod};

/// Pods in the background, and ports of each.
const PODS: i32 = 10;
const PORTS: i32 = 100;

pub(super) fn run(turn: &mut Turn) -> Result<()> {
    let engine = turn.engine()?;
    for number in 0..PODS {
        let first = 10_000 + number * PORTS;
        let config = with_ports(&engine, first, PORTS)?;
        engine.client.run_pod(&config)?;
    }
    for number in 0..22 {
        let config = with_ports(&engine, 20_000 + number, 1)?;
        let start = Instant::now();
        let (pod, _) = start_pod(&engine.client, &config, &container(&["idle"]))?;
        let took = ms(start.elapsed());
        if number >= 2 {
            turn.sample("8", took);
        }
        engine.client.remove_pod(&pod)?;
    }
    // The pods in the background end with the turn's namespaces: taking their rules away one by one is not
    // what is measured, and peers need minutes for it.
    Ok(())
}

fn with_ports(engine: &Engine, first: i32, count: i32) -> Result<cri::PodSandboxConfig> {
    let port = |number| cri::PortMapping {
        protocol: cri::Protocol::Tcp.into(),
        container_port: 80 + number - first,
        host_port: number,
        host_ip: String::new(),
    };
    let port_mappings = (first..first + count).map(port).collect();
    Ok(cri::PodSandboxConfig { port_mappings, ..pod(engine, "ports")? })
}
