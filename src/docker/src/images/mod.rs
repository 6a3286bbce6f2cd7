//! Images.

mod document;
mod list;
mod pull;
mod reference;
mod remove;

use std::sync::Arc;

use engine::ImageInfo;
use http::StatusCode;

use crate::app::{App, named};
use crate::http::{ApiError, Call, Reply, Result};

pub(crate) use list::summaries;
pub(crate) use pull::check_platform;

pub(crate) async fn route(app: Arc<App>, call: Call, rest: &str) -> Result<Reply> {
    if !call.path.starts_with("images") {
        return Err(missing(&call));
    }
    // What has a path of its own wins over images of that name.
    match (call.method.as_str(), rest) {
        ("GET", "json") => list::list(&app, &call).await,
        ("POST", "create") => pull::create(app, &call).await,
        ("GET", "search") => Err(ApiError::not_implemented(
            "this daemon does not search registries: use the registry's own web page or API",
        )),
        ("GET", "get") | ("POST", "load" | "prune") => Err(missing(&call)),
        ("GET", rest) => {
            if let Some(name) = named(rest, "json") {
                return document::inspect(&app, &call, name).await;
            }
            if let Some(name) = named(rest, "history") {
                return document::history(&app, name).await;
            }
            if named(rest, "get").is_some() || named(rest, "attestations").is_some() {
                return Err(missing(&call));
            }
            Err(ApiError::page_not_found())
        }
        ("POST", rest) => {
            if let Some(name) = named(rest, "tag") {
                return tag(&app, &call, name).await;
            }
            if named(rest, "push").is_some() {
                return Err(missing(&call));
            }
            Err(ApiError::page_not_found())
        }
        ("DELETE", name) if !name.is_empty() => remove::remove(&app, &call, name).await,
        _ => Err(ApiError::page_not_found()),
    }
}

/// What the API has and this release does not.
fn missing(call: &Call) -> ApiError {
    ApiError::not_implemented(format!(
        "{} /{} is not part of this release: use skopeo, or `berth image load` for archives",
        call.method, call.path
    ))
}

/// The image that a client's text stands for.
pub(crate) async fn find(app: &App, name: &str) -> Result<ImageInfo> {
    app.engine.image(name).await?.ok_or_else(|| ApiError::no_image(name))
}

async fn tag(app: &App, call: &Call, name: &str) -> Result<Reply> {
    let target = reference::join(call.params.get("repo"), call.params.get("tag"))?;
    if target.digest().is_some() {
        return Err(ApiError::bad("refusing to create a tag with a digest reference"));
    }
    let image = find(app, name).await?;
    app.engine.tag_image(image.id.as_str(), &target).await?;
    Ok(Reply::empty(StatusCode::CREATED))
}
