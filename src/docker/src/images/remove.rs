//! Removing images and names of images.

use engine::ImageInfo;
use oci::Reference;
use serde_json::{Value, json};

use super::find;
use super::reference::familiar_repository;
use crate::app::App;
use crate::http::{ApiError, Call, Reply, Result};

pub(super) async fn remove(app: &App, call: &Call, name: &str) -> Result<Reply> {
    let force = call.params.flag("force");
    let image = find(app, name).await?;
    let named = named(&image, name);
    let others = |reference: &Reference| image.tags.iter().any(|tag| tag != reference);
    let mut gone: Vec<Value> = Vec::new();
    match &named {
        // One name of several: the image stays.
        Some(reference) if reference.digest().is_none() && others(reference) => {
            app.engine.untag_image(reference).await?;
            gone.push(json!({"Untagged": reference.familiar()}));
            if !image.tags.iter().any(|tag| tag != reference && tag.repository() == reference.repository()) {
                for digest in image.digests.iter().filter(|one| one.repository() == reference.repository()) {
                    app.engine.untag_image(digest).await?;
                    gone.push(json!({"Untagged": digest.familiar()}));
                }
            }
        }
        Some(reference) if reference.digest().is_some() && !image.tags.is_empty() => {
            app.engine.untag_image(reference).await?;
            gone.push(json!({"Untagged": reference.familiar()}));
        }
        _ => {
            check_names(&image, named.is_some(), force)?;
            check_users(app, &image, named.as_ref(), force)?;
            for removed in app.engine.remove_image(image.id.as_str()).await? {
                gone.push(json!({"Untagged": removed.familiar()}));
            }
            gone.push(json!({"Deleted": image.id.as_str()}));
        }
    }
    Ok(Reply::json(&gone))
}

/// The name of the image that the client wrote; `None` if it was an id.
fn named(image: &ImageInfo, text: &str) -> Option<Reference> {
    let reference = text.parse::<Reference>().ok()?.with_default_tag();
    image.tags.iter().chain(&image.digests).find(|one| **one == reference).cloned()
}

/// By its id, an image with names in several repositories goes only when forced.
fn check_names(image: &ImageInfo, by_name: bool, force: bool) -> Result<()> {
    let mut repositories: Vec<String> = image.tags.iter().map(familiar_repository).collect();
    repositories.sort();
    repositories.dedup();
    if by_name || force || repositories.len() < 2 {
        return Ok(());
    }
    Err(ApiError::conflict(format!(
        "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories",
        short(image)
    )))
}

/// An image that containers use stays: of running ones in any case, of others unless forced.
fn check_users(app: &App, image: &ImageInfo, named: Option<&Reference>, force: bool) -> Result<()> {
    let containers = crate::containers::all(app);
    let mut users = containers.iter().filter(|one| *one.image_id() == image.id);
    let running = users.clone().find(|one| one.is_running());
    match (running, users.next(), named) {
        (Some(user), _, None) => Err(ApiError::conflict(format!(
            "conflict: unable to delete {} (cannot be forced) - image is being used by running container {}",
            short(image),
            user.id().short()
        ))),
        (Some(user), _, Some(name)) | (None, Some(user), Some(name)) if !force => {
            Err(ApiError::conflict(format!(
                "conflict: unable to remove repository reference \"{}\" (must force) - container {} is using its referenced image {}",
                name.familiar(),
                user.id().short(),
                short(image)
            )))
        }
        (Some(user), _, Some(_)) => Err(ApiError::conflict(format!(
            "conflict: unable to delete {} (cannot be forced) - image is being used by running container {}",
            short(image),
            user.id().short()
        ))),
        (None, Some(user), None) if !force => Err(ApiError::conflict(format!(
            "conflict: unable to delete {} (must be forced) - image is being used by stopped container {}",
            short(image),
            user.id().short()
        ))),
        _ => Ok(()),
    }
}

fn short(image: &ImageInfo) -> &str {
    image.id.hex().get(..12).unwrap_or_default()
}
