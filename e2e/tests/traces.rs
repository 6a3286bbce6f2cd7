//! Traces: a collector of the suite's own gets the spans of calls and their steps, below the client's span.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cri_api::v1 as cri;
use cri_api::v1::runtime_service_client::RuntimeServiceClient;
use e2e::catalog::BUSYBOX;
use e2e::kubelet::Kubelet;
use e2e::{
    Lab, Node, NodeOptions, Registry, authority, container, free_port, http, pod, summarize, wait_until,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use tonic::transport::{Channel, Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

const PATIENCE: Duration = Duration::from_secs(15);
/// What the client is known by in its trace.
const CLIENT: &str = "00f067aa0ba902b7";
/// The client's trace, and another that it does not want recorded.
const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const UNSAMPLED: &str = "11112222333344445555666677778888";

type Check = fn(&Lab, &Registry) -> Result<()>;

#[test]
fn calls_are_traced() {
    let lab = Lab::enter("traces");
    let registry = lab.registry().expect("start the registry");
    let checks: [(&str, Check); 5] = [
        ("one trace", one_trace),
        ("a kubelet's trace", of_a_kubelet),
        ("TLS", encrypted),
        ("off by default", off_by_default),
        ("a collector that is not there", not_there),
    ];
    let count = checks.len();
    for (name, check) in checks {
        if let Err(error) = check(&lab, &registry) {
            panic!("{name}: {error:#}");
        }
    }
    summarize(&format!("traces: {count} passed, 0 failed, 0 skipped"));
}

/// What the collector was sent.
#[derive(Debug, Clone, Default)]
struct Received {
    spans: Arc<Mutex<Vec<(String, Span)>>>,
    connections: Arc<AtomicUsize>,
}

impl Received {
    /// Spans with the name of the service that sent them.
    fn all(&self) -> MutexGuard<'_, Vec<(String, Span)>> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[tonic::async_trait]
impl TraceService for Received {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for resource in request.into_inner().resource_spans {
            let attributes = resource.resource.map(|resource| resource.attributes).unwrap_or_default();
            let service = attributes.iter().find(|attribute| attribute.key == "service.name");
            let service = service.and_then(|attribute| attribute.value.clone()?.value);
            let Some(Value::StringValue(service)) = service else {
                return Err(Status::invalid_argument("a resource without a service's name"));
            };
            let spans = resource.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.all().extend(spans.map(|span| (service.clone(), span)));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

/// A collector on a port of its own; it ends with its runtime.
struct Collector {
    received: Received,
    address: SocketAddr,
    _tokio: tokio::runtime::Runtime,
}

impl Collector {
    fn start(address: &str, tls: Option<&Path>) -> Result<Self> {
        let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let received = Received::default();
        let listener = TcpListener::bind(address).context("listen for spans")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let mut server = Server::builder();
        if let Some(dir) = tls {
            let read = |name: &str| std::fs::read(dir.join(name)).with_context(|| format!("read {name}"));
            let identity = Identity::from_pem(read("server.pem")?, read("server.key")?);
            server = server.tls_config(ServerTlsConfig::new().identity(identity))?;
        }
        let listener = {
            let _entered = tokio.enter();
            tokio::net::TcpListener::from_std(listener)?
        };
        let connections = Arc::clone(&received.connections);
        let incoming = futures_util::stream::unfold(listener, move |listener| {
            let connections = Arc::clone(&connections);
            async move {
                let accepted = listener.accept().await.map(|(stream, _)| stream);
                connections.fetch_add(1, Ordering::Relaxed);
                Some((accepted, listener))
            }
        });
        let service = TraceServiceServer::new(received.clone());
        tokio.spawn(server.add_service(service).serve_with_incoming(Box::pin(incoming)));
        Ok(Self { received, address, _tokio: tokio })
    }

    fn connections(&self) -> usize {
        self.received.connections.load(Ordering::Relaxed)
    }

    fn spans(&self) -> Vec<Span> {
        self.received.all().iter().map(|(_, span)| span.clone()).collect()
    }

    /// The span of a call, once it is there. There must be one.
    fn call(&self, method: &str) -> Span {
        let name = format!("runtime.v1.RuntimeService/{method}");
        let name = if method == "PullImage" { "runtime.v1.ImageService/PullImage".to_owned() } else { name };
        let find = || self.spans().into_iter().find(|span| span.name == name);
        wait_until(&format!("the span of {method}"), PATIENCE, || find().is_some());
        find().unwrap_or_default()
    }

    fn children(&self, of: &Span) -> Vec<Span> {
        self.spans().into_iter().filter(|span| span.parent_span_id == of.span_id).collect()
    }
}

/// A request that belongs to a trace.
fn traced<T>(message: T, trace: &str, is_sampled: bool) -> Request<T> {
    let mut request = Request::new(message);
    let flags = if is_sampled { "01" } else { "00" };
    let parent = format!("00-{trace}-{CLIENT}-{flags}");
    request.metadata_mut().insert("traceparent", parent.parse().expect("a header"));
    request
}

/// Calls the node's runtime service.
fn call<T, F>(node: &Node, work: impl FnOnce(RuntimeServiceClient<Channel>) -> F) -> Result<T>
where
    F: Future<Output = Result<Response<T>, Status>>,
{
    Ok(node.client.with_runtime(work)?.into_inner())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn text(span: &Span, key: &str) -> String {
    let found = span.attributes.iter().find(|attribute| attribute.key == key);
    match found.and_then(|attribute| attribute.value.clone()?.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        _ => String::new(),
    }
}

fn node(lab: &Lab, registry: &Registry, name: &str, config: String) -> Result<Node> {
    Node::start(lab, name, Some(registry), NodeOptions { config, ..NodeOptions::default() })
}

fn tracing(endpoint: &str) -> String {
    format!("[tracing]\nendpoint = {endpoint:?}\n")
}

/// A pod's life in one trace of the client's.
fn one_trace(lab: &Lab, registry: &Registry) -> Result<()> {
    let collector = Collector::start("127.0.0.1:0", None)?;
    let config = tracing(&format!("http://{}", collector.address)) + "service_name = \"node-7\"\n";
    let node = node(lab, registry, "traced", config)?;
    call(
        &node,
        |mut c| async move { c.version(traced(cri::VersionRequest::default(), UNSAMPLED, false)).await },
    )?;
    node.client.pull(BUSYBOX)?;
    let sandbox = pod("traced", node.logs());
    let request = cri::RunPodSandboxRequest { config: Some(sandbox.clone()), ..Default::default() };
    let pod = call(&node, |mut c| async move { c.run_pod_sandbox(traced(request, TRACE, true)).await })?;
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: pod.pod_sandbox_id.clone(),
        config: Some(container("main", BUSYBOX, &["sleep", "1000"])),
        sandbox_config: Some(sandbox),
    };
    let made = call(&node, |mut c| async move { c.create_container(traced(request, TRACE, true)).await })?;
    let id = made.container_id;
    let request = cri::StartContainerRequest { container_id: id.clone() };
    call(&node, |mut c| async move { c.start_container(traced(request, TRACE, true)).await })?;
    let request = cri::StartContainerRequest { container_id: id.clone() };
    let again = call(&node, |mut c| async move { c.start_container(traced(request, TRACE, true)).await });
    ensure!(again.is_err(), "a container was started twice");
    let request = cri::StopContainerRequest { container_id: id.clone(), timeout: 0 };
    call(&node, |mut c| async move { c.stop_container(traced(request, TRACE, true)).await })?;
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: pod.pod_sandbox_id.clone() };
    call(&node, |mut c| async move { c.remove_pod_sandbox(traced(request, TRACE, true)).await })?;

    let ids = Ids { sandbox: pod.pod_sandbox_id, container: id };
    the_trace_is_continued(&collector, &ids)?;
    the_pull_is_a_trace(&collector)?;
    let strays: Vec<String> = collector
        .spans()
        .into_iter()
        .filter(|span| span.parent_span_id.is_empty() && !span.name.starts_with("runtime.v1."))
        .map(|span| span.name)
        .collect();
    ensure!(strays.is_empty(), "steps without a call: {strays:?}");
    ensure!(
        collector.spans().iter().all(|span| hex(&span.trace_id) != UNSAMPLED),
        "a trace was sent that the client did not want"
    );
    let services: BTreeSet<String> =
        collector.received.all().iter().map(|(service, _)| service.clone()).collect();
    ensure!(services == ["node-7".to_owned()].into(), "the daemon is called {services:?}");
    ensure!(collector.connections() == 1, "{} connections", collector.connections());
    Ok(())
}

struct Ids {
    sandbox: String,
    container: String,
}

fn the_trace_is_continued(collector: &Collector, ids: &Ids) -> Result<()> {
    collector.call("RemovePodSandbox");
    let expected = [
        ("RunPodSandbox", "start sandbox", &["create namespaces", "set up the network", "write files"][..]),
        ("CreateContainer", "create container", &["prepare the root file system"]),
        ("StartContainer", "start container", &["make the cgroup and mounts", "ask the keeper"]),
        ("StopContainer", "stop container", &[]),
        ("RemovePodSandbox", "remove sandbox", &[]),
    ];
    for (method, command, steps) in expected {
        let call = collector.call(method);
        ensure!(hex(&call.trace_id) == TRACE, "{method} is in trace {}", hex(&call.trace_id));
        ensure!(hex(&call.parent_span_id) == CLIENT, "{method} is below {}", hex(&call.parent_span_id));
        ensure!(call.kind() == SpanKind::Server, "{method} is of kind {:?}", call.kind());
        for (key, value) in [
            ("rpc.system", "grpc"),
            ("rpc.service", "runtime.v1.RuntimeService"),
            ("rpc.method", method),
            ("rpc.grpc.status_code", "0"),
        ] {
            ensure!(text(&call, key) == value, "{method}: {key} is {:?}", text(&call, key));
        }
        let below = collector.children(&call);
        let names: Vec<&str> = below.iter().map(|span| span.name.as_str()).collect();
        ensure!(names == [command], "below {method}: {names:?}");
        ensure!(text(&below[0], "sandbox") == ids.sandbox, "{command}: {:?}", below[0].attributes);
        if matches!(method, "StartContainer" | "StopContainer") {
            ensure!(text(&below[0], "container") == ids.container, "{command}: {:?}", below[0].attributes);
        }
        let children = collector.children(&below[0]);
        for step in steps {
            let found = children.iter().find(|span| span.name == *step);
            let found = found.with_context(|| format!("no {step:?} below {command:?}: {children:?}"))?;
            ensure!(hex(&found.trace_id) == TRACE, "{step} is in another trace");
            ensure!(
                found.start_time_unix_nano >= call.start_time_unix_nano
                    && found.end_time_unix_nano <= call.end_time_unix_nano
                    && found.end_time_unix_nano > found.start_time_unix_nano,
                "{step} is not within {method}"
            );
        }
    }
    let refused = collector.spans().into_iter().find(|span| text(span, "rpc.grpc.status_code") == "9");
    let refused = refused.context("the call that was refused is not there")?;
    ensure!(text(&refused, "rpc.method") == "StartContainer", "{refused:?}");
    Ok(())
}

/// The client sent no trace with its pull: one begins here.
fn the_pull_is_a_trace(collector: &Collector) -> Result<()> {
    let call = collector.call("PullImage");
    ensure!(call.parent_span_id.is_empty() && hex(&call.trace_id) != TRACE, "{call:?}");
    let pull = collector.children(&call);
    ensure!(pull.len() == 1 && pull[0].name == "pull image", "below PullImage: {pull:?}");
    ensure!(text(&pull[0], "image").contains("busybox"), "{:?}", pull[0].attributes);
    let steps: BTreeSet<String> = collector.children(&pull[0]).into_iter().map(|span| span.name).collect();
    ensure!(steps == ["fetch and unpack", "record the image"].map(str::to_owned).into(), "{steps:?}");
    Ok(())
}

/// A real kubelet's spans and the daemon's are one trace.
fn of_a_kubelet(lab: &Lab, registry: &Registry) -> Result<()> {
    let collector = Collector::start("127.0.0.1:0", None)?;
    let node = node(lab, registry, "kubelet", tracing(&format!("http://{}", collector.address)))?;
    node.client.pull(BUSYBOX)?;
    let more = serde_json::json!({
        "tracing": {"endpoint": collector.address.to_string(), "samplingRatePerMillion": 1_000_000}
    });
    let kubelet = Kubelet::start_with(lab, &node, more)?;
    kubelet.put(&serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "traced", "namespace": "default", "labels": {"pod": "traced"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": BUSYBOX, "imagePullPolicy": "IfNotPresent", "command": ["sleep", "1000"]
            }],
        },
    }))?;
    for method in ["RunPodSandbox", "CreateContainer", "StartContainer"] {
        let call = collector.call(method);
        let parent = || {
            let all = collector.received.all();
            let is_parent =
                |span: &Span| span.span_id == call.parent_span_id && span.trace_id == call.trace_id;
            all.iter().find(|(_, span)| is_parent(span)).cloned()
        };
        // kubelet sends what it has every five seconds.
        wait_until(&format!("kubelet's span around {method}"), PATIENCE, || parent().is_some());
        let (service, span) = parent().context("no parent")?;
        ensure!(service == "kubelet", "{method} is below {} of {service}", span.name);
        ensure!(collector.children(&call).len() == 1, "{method} has lost its step");
    }
    drop(kubelet);
    drop(node);
    let left = e2e::kubelet::remove_cgroups()?;
    ensure!(left.is_empty(), "left: {left}");
    Ok(())
}

/// The daemon's end sends what waits, and the collector must have the certificate that is trusted.
fn encrypted(lab: &Lab, registry: &Registry) -> Result<()> {
    let dir = authority(lab.work())?;
    let collector = Collector::start("127.0.0.1:0", Some(&dir))?;
    let endpoint = format!("https://{}", collector.address);
    let ca = |name: &str| format!("ca = {:?}\n", dir.join(name).display().to_string());
    let trusting = node(lab, registry, "encrypted", tracing(&endpoint) + &ca("ca.pem"))?;
    trusting.client.version(cri::VersionRequest::default())?;
    drop(trusting);
    wait_until("the last spans", PATIENCE, || !collector.spans().is_empty());
    let before = collector.spans().len();
    let wary = node(lab, registry, "wary", tracing(&endpoint) + &ca("other.pem"))?;
    wary.client.version(cri::VersionRequest::default())?;
    wait_until("a warning", PATIENCE, || wary.last_words().contains("traces could not be sent"));
    ensure!(collector.spans().len() == before, "spans were sent to a collector that is not trusted");
    Ok(())
}

/// Without an endpoint nobody is told anything, not even at the usual port.
fn off_by_default(lab: &Lab, registry: &Registry) -> Result<()> {
    let collector = Collector::start("127.0.0.1:4317", None)?;
    let node = node(lab, registry, "off", String::new())?;
    call(&node, |mut c| async move { c.version(traced(cri::VersionRequest::default(), TRACE, true)).await })?;
    // What is to be sent is sent within a second, and at the end at the latest.
    std::thread::sleep(Duration::from_secs(2));
    drop(node);
    ensure!(collector.connections() == 0, "the daemon connected {} times", collector.connections());
    Ok(())
}

/// Neither a port where nobody listens nor a collector that never answers costs a call anything.
fn not_there(lab: &Lab, registry: &Registry) -> Result<()> {
    let silent = TcpListener::bind("127.0.0.1:0")?;
    for (name, port) in [("nobody", free_port()?), ("silent", silent.local_addr()?.port())] {
        let metrics = free_port()?;
        let config = tracing(&format!("http://127.0.0.1:{port}"))
            + &format!("[metrics]\naddress = \"127.0.0.1:{metrics}\"\n");
        let node = node(lab, registry, name, config)?;
        node.client.pull(BUSYBOX)?;
        let mut slowest = Duration::ZERO;
        // More than a queue holds.
        for _ in 0..5000 {
            let start = Instant::now();
            node.client.version(cri::VersionRequest::default())?;
            slowest = slowest.max(start.elapsed());
        }
        ensure!(slowest < Duration::from_secs(1), "{name}: a call took {slowest:?}");
        let start = Instant::now();
        let config = pod("traced", node.logs());
        let pod = node.client.run_pod(&config)?;
        node.client.run(&pod, &config, &container("main", BUSYBOX, &["sleep", "1000"]))?;
        ensure!(start.elapsed() < Duration::from_secs(5), "{name}: a pod took {:?}", start.elapsed());
        let lost = if name == "nobody" { "failed" } else { "dropped" };
        let url = format!("http://127.0.0.1:{metrics}/metrics");
        wait_until("lost spans to be counted", PATIENCE, || {
            let text = http::get(&url).map(|answer| answer.text().to_owned()).unwrap_or_default();
            let count = text
                .lines()
                .find_map(|line| line.strip_prefix(&format!("berth_trace_spans_total{{fate=\"{lost}\"}} ")));
            count.and_then(|count| count.parse::<u64>().ok()).is_some_and(|count| count > 0)
        });
        if name == "nobody" {
            let said = node.last_words();
            ensure!(said.contains("traces could not be sent"), "no warning: {said}");
            ensure!(said.matches("traces could not be sent").count() == 1, "too many warnings: {said}");
        }
        let start = Instant::now();
        drop(node);
        ensure!(start.elapsed() < Duration::from_secs(10), "{name}: the end took {:?}", start.elapsed());
    }
    Ok(())
}
