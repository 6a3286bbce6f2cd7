//! The calls about pods and containers.

use std::sync::Arc;
use std::time::Duration;

use cri_api::v1::runtime_service_server::RuntimeService;
use cri_api::v1::{self, *};
use engine::{ContainerState, Detail, ExecSyncConfig};
use oci::{ContainerId, SandboxId};
use tonic::{Request, Response, Status};

use crate::batch::{self, BoxStream};
use crate::error::{Invalid, status as error_status};
use crate::patience::patience;
use crate::streaming::{Attach, Exec, Operation, PortForward, StreamSet};
use crate::{Service, container, convert, events, metrics, sandbox, stats, status};

/// Output of ExecSync beyond this is dropped, per stream.
const MAX_OUTPUT_BYTES: usize = 16 * 1024 * 1024;

type Answer<T> = Result<Response<T>, Status>;

fn answer<T>(message: T) -> Answer<T> {
    Ok(Response::new(message))
}

/// Durations come as whole seconds; 0 and less is none.
fn seconds(seconds: i64) -> Option<Duration> {
    u64::try_from(seconds).ok().filter(|s| *s > 0).map(Duration::from_secs)
}

fn not_implemented(what: &str) -> Status {
    Status::unimplemented(format!("{what} is not implemented: containers cannot be checkpointed or restored"))
}

impl Service {
    fn pods(&self, filter: Option<&PodSandboxFilter>) -> Vec<v1::PodSandbox> {
        let all = self.engine.sandboxes();
        all.iter()
            .filter(|status| sandbox::passes(filter, status))
            .map(|status| sandbox::item(status))
            .collect()
    }

    fn containers(&self, filter: Option<&ContainerFilter>) -> Vec<v1::Container> {
        let all = self.engine.sandboxes();
        let containers = all.iter().flat_map(|sandbox| &sandbox.containers);
        containers.filter(|status| container::passes(filter, status)).map(container::item).collect()
    }

    async fn container_usage(
        &self,
        filter: Option<ContainerStatsFilter>,
    ) -> Result<Vec<v1::ContainerStats>, Status> {
        let wanted = move |status: &engine::ContainerStatus| container::passes_stats(filter.as_ref(), status);
        self.engine.list_container_stats(wanted, stats::container).await.map_err(|e| error_status(&e))
    }

    async fn pod_usage(
        &self,
        filter: Option<PodSandboxStatsFilter>,
    ) -> Result<Vec<v1::PodSandboxStats>, Status> {
        let wanted = move |status: &engine::SandboxStatus| sandbox::passes_stats(filter.as_ref(), status);
        let make = |status: &Arc<_>, figures| stats::sandbox(status, &figures);
        self.engine.list_sandbox_stats(Detail::Counts, wanted, make).await.map_err(|e| error_status(&e))
    }

    async fn pod_metrics(&self) -> Result<Vec<PodSandboxMetrics>, Status> {
        let wanted = |status: &engine::SandboxStatus| sandbox::passes_stats(None, status);
        let make = |status: &Arc<_>, figures| metrics::sandbox(status, &figures);
        self.engine.list_sandbox_stats(Detail::Processes, wanted, make).await.map_err(|e| error_status(&e))
    }

    /// The full id of a container that runs: sessions fail here, where the client sees why.
    fn running(&self, id: &str) -> Result<ContainerId, Status> {
        let status = self.engine.container_status(id).map_err(|e| error_status(&e))?;
        match status.state {
            ContainerState::Running { .. } => Ok(status.id),
            ContainerState::Created | ContainerState::Exited(_) => {
                Err(Status::failed_precondition(format!("container {} does not run", status.id.short())))
            }
        }
    }

    fn ready(&self, id: &str) -> Result<SandboxId, Status> {
        let status = self.engine.sandbox_status(id).map_err(|e| error_status(&e))?;
        match status.state {
            engine::SandboxState::Ready => Ok(status.id.clone()),
            engine::SandboxState::NotReady => {
                Err(Status::failed_precondition(format!("pod {} is not ready", status.id.short())))
            }
        }
    }

    fn url(&self, operation: Operation) -> Result<String, Status> {
        self.streaming.issue(operation).map_err(|error| Status::resource_exhausted(error.to_string()))
    }
}

fn check_streams(streams: StreamSet) -> Result<StreamSet, Invalid> {
    if streams.tty && streams.stderr {
        return Err(Invalid::new(
            "with a terminal there is no separate stderr: tty and stderr exclude each other",
        ));
    }
    if !(streams.stdin || streams.stdout || streams.stderr) {
        return Err(Invalid::new("a session needs at least one of stdin, stdout and stderr"));
    }
    Ok(streams)
}

fn check_command(command: Vec<String>) -> Result<Vec<String>, Invalid> {
    if command.first().is_none_or(String::is_empty) {
        return Err(Invalid::new("the command is empty"));
    }
    Ok(command)
}

#[tonic::async_trait]
impl RuntimeService for Service {
    async fn version(&self, _: Request<VersionRequest>) -> Answer<VersionResponse> {
        answer(status::version())
    }

    async fn status(&self, request: Request<StatusRequest>) -> Answer<StatusResponse> {
        answer(status::response(&self.engine.status().await, request.into_inner().verbose))
    }

    async fn runtime_config(&self, _: Request<RuntimeConfigRequest>) -> Answer<RuntimeConfigResponse> {
        answer(status::runtime_config(self.engine.cgroup_driver()))
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Answer<UpdateRuntimeConfigResponse> {
        let network = request.into_inner().runtime_config.and_then(|config| config.network_config);
        if let Some(cidr) = network.map(|network| network.pod_cidr).filter(|cidr| !cidr.is_empty()) {
            self.engine.set_pod_ranges(&cidr).await.map_err(|e| error_status(&e))?;
        }
        answer(UpdateRuntimeConfigResponse {})
    }

    async fn run_pod_sandbox(&self, request: Request<RunPodSandboxRequest>) -> Answer<RunPodSandboxResponse> {
        let patience = patience(request.metadata());
        let config = sandbox::config(request.into_inner())?;
        let id = self.engine.run_sandbox(config, patience).await.map_err(|e| error_status(&e))?;
        answer(RunPodSandboxResponse { pod_sandbox_id: id.to_string() })
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Answer<StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.engine.stop_sandbox(&id).await.map_err(|e| error_status(&e))?;
        answer(StopPodSandboxResponse {})
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Answer<RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        self.engine.remove_sandbox(&id).await.map_err(|e| error_status(&e))?;
        answer(RemovePodSandboxResponse {})
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Answer<PodSandboxStatusResponse> {
        let request = request.into_inner();
        let status = self.engine.sandbox_status(&request.pod_sandbox_id).map_err(|e| error_status(&e))?;
        answer(sandbox::response(&status, request.verbose))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Answer<ListPodSandboxResponse> {
        answer(ListPodSandboxResponse { items: self.pods(request.into_inner().filter.as_ref()) })
    }

    type StreamPodSandboxesStream = BoxStream<StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let items = self.pods(request.into_inner().filter.as_ref());
        answer(batch::stream(items, |pod_sandboxes| StreamPodSandboxesResponse { pod_sandboxes }))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Answer<UpdatePodSandboxResourcesResponse> {
        let request = request.into_inner();
        let overhead = request.overhead.map(convert::resources).transpose()?;
        let resources = request.resources.map(convert::resources).transpose()?;
        let update = self.engine.update_sandbox(&request.pod_sandbox_id, overhead, resources);
        update.await.map_err(|e| error_status(&e))?;
        answer(UpdatePodSandboxResourcesResponse {})
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Answer<CreateContainerResponse> {
        let patience = patience(request.metadata());
        let request = request.into_inner();
        let config = request.config.ok_or_else(|| Invalid::new("a container needs a config"))?;
        let sandbox = self.engine.sandbox_status(&request.pod_sandbox_id).map_err(|e| error_status(&e))?;
        let config = container::config(config, &sandbox.config.namespaces)?;
        let create = self.engine.create_container(&request.pod_sandbox_id, config, patience);
        let id = create.await.map_err(|e| error_status(&e))?;
        answer(CreateContainerResponse { container_id: id.to_string() })
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Answer<StartContainerResponse> {
        let id = request.into_inner().container_id;
        self.engine.start_container(&id).await.map_err(|e| error_status(&e))?;
        answer(StartContainerResponse {})
    }

    async fn stop_container(&self, request: Request<StopContainerRequest>) -> Answer<StopContainerResponse> {
        let request = request.into_inner();
        let grace = seconds(request.timeout).unwrap_or_default();
        self.engine.stop_container(&request.container_id, grace).await.map_err(|e| error_status(&e))?;
        answer(StopContainerResponse {})
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Answer<RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        self.engine.remove_container(&id).await.map_err(|e| error_status(&e))?;
        answer(RemoveContainerResponse {})
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Answer<ListContainersResponse> {
        answer(ListContainersResponse { containers: self.containers(request.into_inner().filter.as_ref()) })
    }

    type StreamContainersStream = BoxStream<StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let items = self.containers(request.into_inner().filter.as_ref());
        answer(batch::stream(items, |containers| StreamContainersResponse { containers }))
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Answer<ContainerStatusResponse> {
        let request = request.into_inner();
        let status = self.engine.container_status(&request.container_id).map_err(|e| error_status(&e))?;
        answer(container::response(&status, request.verbose))
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Answer<UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        if request.windows.is_some() {
            return Err(Invalid::new("windows: this node runs Linux containers").into());
        }
        let limits = convert::changed_resources(request.linux.unwrap_or_default())?;
        self.engine.update_container(&request.container_id, limits).await.map_err(|e| error_status(&e))?;
        answer(UpdateContainerResourcesResponse {})
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Answer<ReopenContainerLogResponse> {
        self.engine.reopen_log(&request.into_inner().container_id).await.map_err(|e| error_status(&e))?;
        answer(ReopenContainerLogResponse {})
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Answer<ExecSyncResponse> {
        let request = request.into_inner();
        let container = self.running(&request.container_id)?;
        let config = ExecSyncConfig {
            command: check_command(request.cmd)?,
            timeout: seconds(request.timeout),
            max_output_bytes: MAX_OUTPUT_BYTES,
        };
        let output = self.engine.exec_sync(&container, config).await.map_err(|e| error_status(&e))?;
        answer(ExecSyncResponse { stdout: output.stdout, stderr: output.stderr, exit_code: output.exit_code })
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Answer<ExecResponse> {
        let ExecRequest { container_id, cmd, tty, stdin, stdout, stderr } = request.into_inner();
        let streams = check_streams(StreamSet { stdin, stdout, stderr, tty })?;
        let command = check_command(cmd)?;
        let exec = Exec { container: self.running(&container_id)?, command, streams };
        answer(ExecResponse { url: self.url(Operation::Exec(exec))? })
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Answer<AttachResponse> {
        let AttachRequest { container_id, stdin, tty, stdout, stderr } = request.into_inner();
        let streams = check_streams(StreamSet { stdin, stdout, stderr, tty })?;
        let attach = Attach { container: self.running(&container_id)?, streams };
        answer(AttachResponse { url: self.url(Operation::Attach(attach))? })
    }

    async fn port_forward(&self, request: Request<PortForwardRequest>) -> Answer<PortForwardResponse> {
        let request = request.into_inner();
        let port = |port: &i32| {
            let number = u16::try_from(*port).ok().filter(|port| *port != 0);
            number.ok_or_else(|| Invalid::new(format!("{port} is not a port")))
        };
        let ports = request.port.iter().map(port).collect::<Result<_, _>>()?;
        let forward = PortForward { sandbox: self.ready(&request.pod_sandbox_id)?, ports };
        answer(PortForwardResponse { url: self.url(Operation::PortForward(forward))? })
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Answer<ContainerStatsResponse> {
        let id = request.into_inner().container_id;
        let status = self.engine.container_status(&id).map_err(|e| error_status(&e))?;
        let figures = self.engine.container_stats(status.id.as_str()).await.map_err(|e| error_status(&e))?;
        answer(ContainerStatsResponse { stats: Some(stats::container(&status, &figures)) })
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Answer<ListContainerStatsResponse> {
        answer(ListContainerStatsResponse { stats: self.container_usage(request.into_inner().filter).await? })
    }

    type StreamContainerStatsStream = BoxStream<StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let items = self.container_usage(request.into_inner().filter).await?;
        answer(batch::stream(items, |container_stats| StreamContainerStatsResponse { container_stats }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> Answer<PodSandboxStatsResponse> {
        let id = request.into_inner().pod_sandbox_id;
        let (status, figures) = self.engine.sandbox_stats(&id).await.map_err(|e| error_status(&e))?;
        answer(PodSandboxStatsResponse { stats: Some(stats::sandbox(&status, &figures)) })
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Answer<ListPodSandboxStatsResponse> {
        answer(ListPodSandboxStatsResponse { stats: self.pod_usage(request.into_inner().filter).await? })
    }

    type StreamPodSandboxStatsStream = BoxStream<StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let items = self.pod_usage(request.into_inner().filter).await?;
        answer(batch::stream(items, |pod_sandbox_stats| StreamPodSandboxStatsResponse { pod_sandbox_stats }))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Answer<ListMetricDescriptorsResponse> {
        answer(ListMetricDescriptorsResponse { descriptors: metrics::descriptors() })
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Answer<ListPodSandboxMetricsResponse> {
        answer(ListPodSandboxMetricsResponse { pod_metrics: self.pod_metrics().await? })
    }

    type StreamPodSandboxMetricsStream = BoxStream<StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        let items = self.pod_metrics().await?;
        answer(batch::stream(items, |pod_sandbox_metrics| StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        }))
    }

    type GetContainerEventsStream = BoxStream<ContainerEventResponse>;

    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Answer<Self::GetContainerEventsStream> {
        answer(events::stream(self.engine.subscribe(), self.stop.clone()))
    }

    async fn checkpoint_container(
        &self,
        _: Request<CheckpointContainerRequest>,
    ) -> Answer<CheckpointContainerResponse> {
        Err(not_implemented("CheckpointContainer"))
    }

    async fn checkpoint_pod(&self, _: Request<CheckpointPodRequest>) -> Answer<CheckpointPodResponse> {
        Err(not_implemented("CheckpointPod"))
    }

    async fn restore_pod(&self, _: Request<RestorePodRequest>) -> Answer<RestorePodResponse> {
        Err(not_implemented("RestorePod"))
    }
}
