//! Runs one pod over the CRI and shows what its container wrote: `first-pod SOCKET REFERENCE`.
//! `first-pod SOCKET --stop-all` stops and removes every pod instead.

use std::io::Write;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cri_api::v1 as cri;
use e2e::{Client, container, pod, wait_until};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, what] = arguments.as_slice() else { bail!("usage: first-pod SOCKET REFERENCE|--stop-all") };
    let client = Client::connect(Path::new(socket))?;
    if what == "--stop-all" {
        return stop_all(&client);
    }
    let logs = std::env::temp_dir().join(format!("berth-first-pod-{}", std::process::id()));
    std::fs::create_dir_all(&logs).with_context(|| format!("create {}", logs.display()))?;
    let config = pod("first-pod", logs.clone());
    let id = client.run_pod(&config)?;
    let outcome = client.run(&id, &config, &container("hello", what, &[])).and_then(|container| {
        wait_until("the container to end", Duration::from_secs(20), || {
            let state = client.state(&container);
            state.is_ok_and(|status| status.state() == cri::ContainerState::ContainerExited)
        });
        client.state(&container)
    });
    let log = std::fs::read_to_string(logs.join("hello.log")).unwrap_or_default();
    client.remove_pod(&id)?;
    std::fs::remove_dir_all(&logs).with_context(|| format!("remove {}", logs.display()))?;
    let code = outcome?.exit_code;
    ensure!(code == 0 && !log.is_empty(), "the container ended with {code} and wrote {log:?}");
    std::io::stdout().write_all(log.as_bytes()).context("show the log")
}

fn stop_all(client: &Client) -> Result<()> {
    for pod in client.list_pod_sandbox(cri::ListPodSandboxRequest::default())?.items {
        client.remove_pod(&pod.id)?;
    }
    Ok(())
}
