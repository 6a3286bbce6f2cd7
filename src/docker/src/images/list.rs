//! The list of images.

use std::collections::{BTreeMap, HashMap};

use engine::ImageInfo;
use oci::{Digest, Reference};
use serde_json::{Value, json};

use super::reference::{familiar_repository, glob};
use super::{document, find};
use crate::app::App;
use crate::http::{ApiError, ApiVersion, Call, Filters, Reply, Result};
use crate::{shape, text};

const FILTERS: [&str; 8] =
    ["before", "dangling", "label", "label!", "reference", "since", "until", "intermediate"];

pub(super) async fn list(app: &App, call: &Call) -> Result<Reply> {
    let mut filters = call.params.get("filters").to_owned();
    // The oldest clients had a parameter of its own for a name.
    if filters.is_empty() && !call.params.get("filter").is_empty() {
        filters = json!({"reference": [call.params.get("filter")]}).to_string();
    }
    let filters = Filters::parse(&filters)?;
    filters.check(&FILTERS)?;
    let selection = Selection::new(app, &filters).await?;
    let mut chosen = Vec::new();
    for image in app.engine.images().await? {
        if let Some(image) = selection.apply(image, &filters) {
            chosen.push(image);
        }
    }
    let shared = call.params.flag("shared-size");
    Ok(Reply::json(&describe(app, chosen, call.version, shared).await?))
}

/// All images as the list has them; with the bytes they share and the containers that use them, if wanted.
pub(crate) async fn summaries(app: &App, version: ApiVersion, counted: bool) -> Result<Vec<Value>> {
    let images = app.engine.images().await?;
    let mut all = describe(app, images, version, counted).await?;
    if counted {
        let mut users: HashMap<String, u64> = HashMap::new();
        for container in crate::containers::all(app) {
            *users.entry(container.image_id().to_string()).or_default() += 1;
        }
        for image in &mut all {
            let count = image["Id"].as_str().and_then(|id| users.get(id)).copied().unwrap_or_default();
            image["Containers"] = json!(count);
        }
    }
    Ok(all)
}

async fn describe(
    app: &App,
    images: Vec<ImageInfo>,
    version: ApiVersion,
    shared: bool,
) -> Result<Vec<Value>> {
    let layers: Vec<_> = images.iter().map(|image| app.engine.image_layers(&image.id)).collect();
    let mut uses: BTreeMap<Digest, u32> = BTreeMap::new();
    for (layer, _) in layers.iter().flatten() {
        *uses.entry(layer.clone()).or_default() += 1;
    }
    let mut all = Vec::with_capacity(images.len());
    for (image, layers) in images.iter().zip(&layers) {
        let document = app.engine.image_document(&image.id).await?;
        let size: u64 = layers.iter().map(|(_, bytes)| bytes).sum();
        let common: u64 = layers
            .iter()
            .filter(|(id, _)| uses.get(id).is_some_and(|count| *count > 1))
            .map(|(_, bytes)| bytes)
            .sum();
        let mut summary = json!({
            "Id": image.id.as_str(),
            "ParentId": "",
            "RepoTags": image.tags.iter().map(Reference::familiar).collect::<Vec<_>>(),
            "RepoDigests": image.digests.iter().map(Reference::familiar).collect::<Vec<_>>(),
            "Created": text::unix_seconds(document["created"].as_str().unwrap_or_default()),
            "Size": size,
            "SharedSize": if shared { i64::try_from(common).unwrap_or(i64::MAX) } else { -1 },
            "Labels": document["config"]["Labels"],
            "Containers": -1,
        });
        shape::image_summary(&mut summary, version);
        all.push(summary);
    }
    // Newest first.
    all.sort_by_key(|image| std::cmp::Reverse(image["Created"].as_i64()));
    Ok(all)
}

/// Filters whose values were looked up once.
struct Selection {
    before: Option<i64>,
    since: Option<i64>,
    until: Option<i64>,
    dangling: Option<bool>,
}

impl Selection {
    async fn new(app: &App, filters: &Filters) -> Result<Self> {
        let mut bounds = [None, None];
        for (bound, key) in bounds.iter_mut().zip(["before", "since"]) {
            for name in filters.get(key) {
                let image = find(app, name).await?;
                *bound = Some(document::created(&image));
            }
        }
        let now = text::now_ns();
        let until = match filters.get("until") {
            [] => None,
            [one] => Some(
                text::moment(one, now)
                    .ok_or_else(|| ApiError::bad(format!("invalid filter 'until={one}'")))?
                    / 1_000_000_000,
            ),
            _ => return Err(ApiError::bad("more than one until filter specified")),
        };
        Ok(Self { before: bounds[0], since: bounds[1], until, dangling: filters.truth("dangling")? })
    }

    /// The image with the names that were asked for; `None` if it was not.
    fn apply(&self, mut image: ImageInfo, filters: &Filters) -> Option<ImageInfo> {
        let created = document::created(&image);
        let fits = self.before.is_none_or(|at| created < at)
            && self.since.is_none_or(|at| created > at)
            && self.until.is_none_or(|at| created <= at)
            && self.dangling.is_none_or(|wanted| image.tags.is_empty() == wanted);
        let labels =
            image.config.config().as_ref().and_then(|config| config.labels().clone()).unwrap_or_default();
        if !fits || !filters.labels(|key| labels.get(key).map(String::as_str)) {
            return None;
        }
        if filters.has("reference") {
            let named = |name: &Reference| filters.any("reference", |pattern| fits_pattern(pattern, name));
            image.tags.retain(named);
            image.digests.retain(named);
            if image.tags.is_empty() && image.digests.is_empty() {
                return None;
            }
        }
        Some(image)
    }
}

/// Whether a pattern fits a name as it is shown, or its repository.
fn fits_pattern(pattern: &str, name: &Reference) -> bool {
    let pattern =
        pattern.strip_prefix("docker.io/library/").or(pattern.strip_prefix("docker.io/")).unwrap_or(pattern);
    glob(pattern, &name.familiar()) || glob(pattern, &familiar_repository(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_with_and_without_their_tag() {
        let name: Reference = "docker.io/library/busybox:1.36".parse().unwrap();
        for pattern in ["busybox", "busybox:1.36", "busy*", "busybox:1.*", "docker.io/library/busybox"] {
            assert!(fits_pattern(pattern, &name), "{pattern}");
        }
        for pattern in ["busy", "busybox:1", "*/busybox"] {
            assert!(!fits_pattern(pattern, &name), "{pattern}");
        }
    }
}
