//! Networks that containers share by name.

mod document;
mod request;

use std::sync::Arc;

use engine::{NetworkPruneFilter, UserNetworkStatus};
use http::StatusCode;
use serde_json::{Value, json};

use crate::app::{App, named};
use crate::http::{ApiError, Call, Filters, Reply, Result};
use crate::{containers, shape, text};

pub(crate) use request::{EndpointSettings, null_is_empty};

const FILTERS: [&str; 7] = ["dangling", "driver", "id", "label", "name", "scope", "type"];

pub(crate) async fn route(app: Arc<App>, call: Call, rest: &str) -> Result<Reply> {
    match (call.method.as_str(), rest) {
        ("GET", "") => list(&app, &call),
        ("POST", "create") => create(&app, call).await,
        ("POST", "prune") => prune(&app, &call).await,
        ("GET", name) => inspect(&app, &call, name),
        ("DELETE", name) if !name.is_empty() => {
            app.engine.remove_user_network(name).await?;
            Ok(Reply::no_content())
        }
        ("POST", rest) => {
            if let Some(name) = named(rest, "connect") {
                return connect(&app, call, name).await;
            }
            if let Some(name) = named(rest, "disconnect") {
                return disconnect(&app, call, name).await;
            }
            Err(ApiError::page_not_found())
        }
        _ => Err(ApiError::page_not_found()),
    }
}

fn list(app: &App, call: &Call) -> Result<Reply> {
    let filters = Filters::of(&call.params, &FILTERS)?;
    let dangling = filters.truth("dangling")?;
    if let Some(other) = filters.get("type").iter().find(|one| *one != "custom" && *one != "builtin") {
        return Err(ApiError::bad(format!("invalid filter: 'type'='{other}'")));
    }
    let networks = app.engine.user_networks();
    let chosen = networks.iter().filter(|network| selected(network, &filters, dangling));
    let all: Vec<Value> = chosen
        .map(|network| {
            let mut document = document::describe(network);
            shape::network(&mut document, call.version, true);
            document
        })
        .collect();
    Ok(Reply::json(&all))
}

fn selected(network: &UserNetworkStatus, filters: &Filters, dangling: Option<bool>) -> bool {
    let config = &network.config;
    filters.any("driver", |driver| driver == document::driver(config.driver))
        && filters.any("id", |id| network.id.starts_with(id))
        && filters.name("name", &config.name)
        && filters.any("scope", |scope| scope == "local")
        && filters.any("type", |kind| (kind == "builtin") == network.predefined)
        && dangling.is_none_or(|wanted| (!network.predefined && network.members.is_empty()) == wanted)
        && filters.labels(|key| config.labels.get(key).map(String::as_str))
}

fn inspect(app: &App, call: &Call, name: &str) -> Result<Reply> {
    let network = app.engine.user_network(name)?;
    match call.params.get("scope") {
        "" | "local" => {}
        _ => return Err(ApiError::not_found(format!("network {name} not found"))),
    }
    let mut document = document::describe(&network);
    shape::network(&mut document, call.version, false);
    Ok(Reply::json(&document))
}

async fn create(app: &App, mut call: Call) -> Result<Reply> {
    let (config, warning) = call.json::<request::Create>().await?.config(call.version)?;
    let made = app.engine.create_user_network(config).await?;
    Ok(Reply::json_with(StatusCode::CREATED, &json!({"Id": made.id, "Warning": warning})))
}

async fn prune(app: &App, call: &Call) -> Result<Reply> {
    let filters = Filters::of(&call.params, &["label", "label!", "until"])?;
    let created_before_ns = match filters.get("until") {
        [] => None,
        [until] => Some(
            text::moment(until, text::now_ns())
                .ok_or_else(|| ApiError::bad(format!("invalid filter 'until={until}'")))?,
        ),
        _ => return Err(ApiError::bad("more than one until filter specified")),
    };
    let filter = NetworkPruneFilter {
        created_before_ns,
        labels: filters.label_pairs("label"),
        without_labels: filters.label_pairs("label!"),
    };
    let removed = app.engine.prune_user_networks(filter).await?;
    Ok(Reply::json(
        &json!({"NetworksDeleted": if removed.is_empty() { Value::Null } else { json!(removed) }}),
    ))
}

async fn connect(app: &App, mut call: Call, name: &str) -> Result<Reply> {
    let request: request::Connect = call.json().await?;
    let network = app.engine.user_network(name)?;
    let endpoint = request.endpoint_config.unwrap_or_default().config(&network.config.name)?;
    app.engine.check_endpoint(&endpoint)?;
    let container = containers::own(app, &request.container, "connect")?;
    app.engine.connect_durable(container.id.as_str(), endpoint).await?;
    Ok(Reply::empty(StatusCode::OK))
}

async fn disconnect(app: &App, mut call: Call, name: &str) -> Result<Reply> {
    let request: request::Disconnect = call.json().await?;
    let network = app.engine.user_network(name)?;
    let container = containers::own(app, &request.container, "disconnect")?;
    app.engine.disconnect_durable(container.id.as_str(), &network.config.name).await?;
    Ok(Reply::empty(StatusCode::OK))
}
