//! The list of containers.

use serde_json::{Value, json};

use super::networking::protocol;
use super::target::{self, Target};
use super::{document, networking};
use crate::app::App;
use crate::http::{ApiError, Call, Filters, Reply, Result};
use crate::{shape, text};

const FILTERS: [&str; 15] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];
const STATES: [&str; 7] = ["created", "running", "paused", "restarting", "removing", "exited", "dead"];

pub(super) async fn list(app: &App, call: &Call) -> Result<Reply> {
    let filters = Filters::of(&call.params, &FILTERS)?;
    let selection = Selection::new(app, &filters).await?;
    let limit = call.params.number::<i64>("limit")?.filter(|limit| *limit > 0);
    // Whoever asks for a state, or for a number of the newest ones, means those that do not run, too.
    let all = call.params.flag("all") || limit.is_some() || filters.has("status") || filters.has("exited");
    let mut targets = target::all(app);
    targets.sort_by_key(|target| std::cmp::Reverse(target.created_at_ns()));
    targets.retain(|target| (all || target.is_running()) && selection.fits(app, target, &filters));
    if let Some(limit) = limit {
        targets.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    let sizes = call.params.flag("size");
    let mut documents = Vec::with_capacity(targets.len());
    for target in &targets {
        let mut document = summary(app, target);
        if sizes {
            add_sizes(app, target, &mut document).await;
        }
        shape::container_summary(&mut document, call.version);
        documents.push(document);
    }
    Ok(Reply::json(&documents))
}

async fn add_sizes(app: &App, target: &Target, document: &mut Value) {
    let stats = app.engine.container_stats(target.id().as_str()).await;
    let written = stats.map_or(0, |stats| stats.filesystem.used_bytes);
    let layers: u64 = app.engine.image_layers(target.image_id()).iter().map(|(_, bytes)| bytes).sum();
    if written > 0 {
        document["SizeRw"] = json!(written);
    }
    document["SizeRootFs"] = json!(written + layers);
}

/// A container in the list.
pub(crate) fn summary(app: &App, target: &Target) -> Value {
    let (config, host) = document::words(target);
    let (path, args) = document::command(&config);
    let command = std::iter::once(path).chain(args).collect::<Vec<_>>().join(" ");
    json!({
        "Id": target.id().as_str(),
        "Names": [format!("/{}", target.name())],
        "Image": target.image(),
        "ImageID": target.image_id().as_str(),
        "Command": command,
        "Created": target.created_at_ns() / 1_000_000_000,
        "Ports": ports(target, &config),
        "Labels": target.config().labels,
        "State": target.state(),
        "Status": target.status_text(text::now_ns()),
        "HostConfig": {"NetworkMode": host["NetworkMode"], "Annotations": host["Annotations"]},
        "NetworkSettings": {"Networks": document::networks(target)},
        "Mounts": document::mounts(app, target),
    })
}

fn ports(target: &Target, config: &Value) -> Vec<Value> {
    if target.process().is_none() {
        return Vec::new();
    }
    let bound = target.bound_ports();
    let mut all: Vec<Value> = bound
        .iter()
        .map(|port| {
            json!({
                "IP": port.host_ip.to_string(), "PrivatePort": port.container_port, "PublicPort": port.host_port,
                "Type": protocol(port.protocol),
            })
        })
        .collect();
    for exposed in config["ExposedPorts"].as_object().into_iter().flatten().map(|(port, _)| port) {
        let (number, kind) = exposed.split_once('/').unwrap_or((exposed, "tcp"));
        let is_bound = bound
            .iter()
            .any(|port| port.container_port.to_string() == number && protocol(port.protocol) == kind);
        if let (false, Ok(number)) = (is_bound, number.parse::<u16>()) {
            all.push(json!({"PrivatePort": number, "Type": kind}));
        }
    }
    all
}

/// Filters whose values were looked up once.
struct Selection {
    before: Option<i64>,
    since: Option<i64>,
    /// Ids of images that containers may be made from.
    images: Option<Vec<String>>,
}

impl Selection {
    async fn new(app: &App, filters: &Filters) -> Result<Self> {
        let bound = |key: &str| {
            let named = filters.get(key).last();
            named.map(|name| target::find(app, name).map(|one| one.created_at_ns())).transpose()
        };
        if let Some(other) = filters.get("status").iter().find(|one| !STATES.contains(&one.as_str())) {
            return Err(ApiError::bad(format!("invalid filter 'status={other}'")));
        }
        let healths = ["none", "starting", "healthy", "unhealthy"];
        if let Some(other) = filters.get("health").iter().find(|one| !healths.contains(&one.as_str())) {
            return Err(ApiError::bad(format!("invalid filter 'health={other}'")));
        }
        if let Some(other) = filters.get("exited").iter().find(|one| one.parse::<i32>().is_err()) {
            return Err(ApiError::bad(format!("invalid filter 'exited={other}'")));
        }
        let mut images = filters.has("ancestor").then(Vec::new);
        for name in filters.get("ancestor") {
            if let (Some(images), Some(image)) = (&mut images, app.engine.image(name).await?) {
                images.push(image.id.to_string());
            }
        }
        Ok(Self { before: bound("before")?, since: bound("since")?, images })
    }

    fn fits(&self, app: &App, target: &Target, filters: &Filters) -> bool {
        let created = target.created_at_ns();
        let labels = &target.config().labels;
        self.before.is_none_or(|at| created < at)
            && self.since.is_none_or(|at| created > at)
            && self
                .images
                .as_ref()
                .is_none_or(|images| images.iter().any(|id| id == target.image_id().as_str()))
            && filters.any("id", |id| target.id().as_str().starts_with(id))
            && filters.name("name", &target.name())
            && filters.any("status", |status| status == target.state())
            && filters.any("health", |health| health == target.health().unwrap_or("none"))
            && filters.any("exited", |code| {
                target.exit().is_some_and(|exit| exit.code.to_string() == code) && !target.is_running()
            })
            && filters.any("is-task", |wanted| matches!(wanted, "false" | "0"))
            && filters.any("isolation", |wanted| matches!(wanted, "default" | ""))
            && filters.any("network", |network| {
                let of = |one: &engine::EndpointStatus| {
                    one.network_name == network || one.network_id.starts_with(network)
                };
                target.endpoints().iter().any(of) || document::networks(target).contains_key(network)
            })
            && filters.any("volume", |volume| {
                document::mounts(app, target).iter().any(|mount| {
                    mount["Destination"] == volume || mount["Source"] == volume || mount["Name"] == volume
                })
            })
            && self.fits_ports(target, filters)
            && filters.labels(|key| labels.get(key).map(String::as_str))
    }

    fn fits_ports(&self, target: &Target, filters: &Filters) -> bool {
        if !filters.has("publish") && !filters.has("expose") {
            return true;
        }
        let bound = networking::by_port(&target.bound_ports());
        let (config, _) = document::words(target);
        let wanted = |text: &str, port: &str| {
            let (number, kind) = text.split_once('/').unwrap_or((text, "tcp"));
            let (first, last) = number.split_once('-').unwrap_or((number, number));
            let (own, own_kind) = port.split_once('/').unwrap_or((port, "tcp"));
            let inside =
                |own: u16| Some(first.parse::<u16>().ok()? <= own && own <= last.parse::<u16>().ok()?);
            kind == own_kind && own.parse().ok().and_then(inside).unwrap_or_default()
        };
        filters.any("publish", |text| bound.keys().any(|port| wanted(text, port)))
            && filters.any("expose", |text| {
                let exposed = config["ExposedPorts"].as_object();
                exposed.is_some_and(|all| all.keys().any(|port| wanted(text, port)))
            })
    }
}
