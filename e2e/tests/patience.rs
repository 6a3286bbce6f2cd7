//! A client that gives up does not stop the work: it learns where the work is, and its retry gets the result.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cri_api::v1 as cri;
use e2e::{Lab, Node, NodeOptions, pod, summarize};
use tonic::{Code, Request};

/// How long the network of this suite takes to come up.
const SLOW: &str = "2";

/// A network whose plugin does nothing but take its time.
fn slow_network(lab: &Lab) -> Result<NodeOptions> {
    let (configurations, programs) = (lab.work().join("net.d"), lab.work().join("plugins"));
    for dir in [&configurations, &programs] {
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    let program = programs.join("slow");
    let script = format!(
        "#!/bin/sh\n[ \"$CNI_COMMAND\" = ADD ] || exit 0\nsleep {SLOW}\n\
         echo '{{\"cniVersion\":\"1.0.0\",\"ips\":[{{\"address\":\"10.89.0.2/24\"}}]}}'\n"
    );
    std::fs::write(&program, script).context("write the plugin")?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))
        .context("make it a program")?;
    let list = r#"{"cniVersion": "1.0.0", "name": "slow", "plugins": [{"type": "slow"}]}"#;
    std::fs::write(configurations.join("10-slow.conflist"), list).context("write the network")?;
    let config = format!(
        "[network]\nconf_dir = {:?}\nbin_dirs = [{:?}]\n",
        configurations.display().to_string(),
        programs.display().to_string()
    );
    Ok(NodeOptions { config, ..NodeOptions::default() })
}

#[test]
fn a_retry_gets_what_was_begun() {
    let lab = Lab::enter("patience");
    let options = slow_network(&lab).expect("write the network");
    let node = Node::start(&lab, "node", None, options).expect("start the node");
    if let Err(error) = retry(&node) {
        panic!("{error:#}\n{}", node.last_words());
    }
    summarize("clients that give up: 1 passed, 0 failed, 0 skipped");
}

fn retry(node: &Node) -> Result<()> {
    let config = pod("patience", node.logs());
    let request = cri::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let hasty = request.clone();
    let refused = node.client.with_runtime(|mut client| async move {
        let mut hasty = Request::new(hasty);
        hasty.set_timeout(Duration::from_millis(800));
        client.run_pod_sandbox(hasty).await.expect_err("it cannot be up yet")
    });
    ensure!(refused.code() == Code::DeadlineExceeded, "{refused}");
    ensure!(refused.message().contains("set up the network"), "the stage is not named: {refused}");
    ensure!(refused.message().contains(" after 0."), "the age is not named: {refused}");
    let id = node.client.run_pod_sandbox(request.clone()).context("the retry")?.pod_sandbox_id;
    let list = node.client.list_pod_sandbox(cri::ListPodSandboxRequest::default())?.items;
    ensure!(list.len() == 1 && list[0].id == id, "not one sandbox: {list:?}");
    let again = node.client.run_pod_sandbox(request).expect_err("the name is taken now");
    ensure!(again.code() == Code::AlreadyExists && again.message().contains(&id), "{again}");
    node.client.remove_pod(&id)?;
    ensure!(node.client.list_pod_sandbox(cri::ListPodSandboxRequest::default())?.items.is_empty());
    Ok(())
}
