//! A client that others wrote, from their own copy of the interface, drives the daemon.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::catalog::BUSYBOX;
use e2e::{Lab, Node, NodeOptions, summarize};
use k8s_cri::v1 as theirs;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use tonic::transport::Endpoint;

#[test]
fn drives_the_daemon() {
    let lab = Lab::enter("k8s-cri");
    let registry = lab.registry().expect("start the registry");
    let node = Node::start(&lab, "node", Some(&registry), NodeOptions::default()).expect("start the node");
    let tokio =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("tokio");
    if let Err(error) = tokio.block_on(drive(&node)) {
        panic!("{error:#}\n{}", node.last_words());
    }
    summarize("k8s-cri's client: 1 passed, 0 failed, 0 skipped");
}

async fn drive(node: &Node) -> Result<()> {
    let endpoint = Endpoint::from_shared(node.endpoint())?.timeout(Duration::from_secs(60));
    let channel = endpoint.connect().await?;
    let mut runtime = RuntimeServiceClient::new(channel.clone());
    let mut images = ImageServiceClient::new(channel);
    let version = runtime.version(theirs::VersionRequest::default()).await?.into_inner();
    ensure!(version.runtime_name == "berth" && version.runtime_api_version == "v1", "{version:?}");
    let image = Some(theirs::ImageSpec { image: BUSYBOX.to_owned(), ..Default::default() });
    let pulled =
        images.pull_image(theirs::PullImageRequest { image: image.clone(), ..Default::default() }).await?;
    let pulled = pulled.into_inner().image_ref;

    let config = theirs::PodSandboxConfig {
        metadata: Some(theirs::PodSandboxMetadata {
            name: "theirs".to_owned(),
            uid: "theirs".to_owned(),
            namespace: "e2e".to_owned(),
            attempt: 0,
        }),
        log_directory: node.logs().display().to_string(),
        ..Default::default()
    };
    let request = theirs::RunPodSandboxRequest { config: Some(config.clone()), ..Default::default() };
    let pod_sandbox_id = runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id;
    let container = theirs::ContainerConfig {
        metadata: Some(theirs::ContainerMetadata { name: "main".to_owned(), attempt: 0 }),
        image,
        command: vec!["sleep".to_owned(), "1000".to_owned()],
        log_path: "main.log".to_owned(),
        ..Default::default()
    };
    let request = theirs::CreateContainerRequest {
        pod_sandbox_id: pod_sandbox_id.clone(),
        config: Some(container),
        sandbox_config: Some(config),
    };
    let container_id = runtime.create_container(request).await?.into_inner().container_id;
    runtime.start_container(theirs::StartContainerRequest { container_id: container_id.clone() }).await?;
    let request = theirs::ContainerStatusRequest { container_id: container_id.clone(), verbose: true };
    let status = runtime.container_status(request).await?.into_inner().status.context("no status")?;
    ensure!(status.state() == theirs::ContainerState::ContainerRunning, "{status:?}");
    ensure!(status.image_id == pulled, "{} is not {pulled}", status.image_id);
    let request = theirs::ExecSyncRequest { container_id, cmd: vec!["id".to_owned()], timeout: 10 };
    let answer = runtime.exec_sync(request).await?.into_inner();
    ensure!(answer.stdout.starts_with(b"uid=0(root)"), "{answer:?}");
    runtime
        .stop_pod_sandbox(theirs::StopPodSandboxRequest { pod_sandbox_id: pod_sandbox_id.clone() })
        .await?;
    runtime.remove_pod_sandbox(theirs::RemovePodSandboxRequest { pod_sandbox_id }).await?;
    Ok(())
}
