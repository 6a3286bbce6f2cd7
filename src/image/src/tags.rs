//! The list of a repository's tags.

use oci::Reference;
use reqwest::header::LINK;
use reqwest::{Method, Response, Url};
use serde::Deserialize;

use crate::auth::ScopedAuth;
use crate::error::{Error, Fault};
use crate::fallback::{Attempts, named};
use crate::registry::{Purpose, Registry, with_capability};
use crate::transport::Remote;
use crate::types::MANIFEST_LIMIT;

const MAX_TAGS: usize = 100_000;
const MAX_PAGES: usize = 1_000;

#[derive(Deserialize)]
struct Page {
    tags: Option<Vec<String>>,
}

/// Lists all tags, page by page.
pub(crate) async fn list(
    registry: &Registry,
    repository: &Reference,
    auth: Option<&ScopedAuth>,
) -> Result<Vec<String>, Error> {
    let remotes = registry.remotes(repository, auth, Purpose::Pull).await?;
    let usable = with_capability(&remotes, |capabilities| capabilities.resolve);
    let mut attempts = Attempts::new(&usable, &registry.config);
    loop {
        let remote = attempts.next().await.map_err(named("list tags of", repository.repository()))?;
        match pages(registry, remote).await {
            Ok(tags) => return Ok(tags),
            Err(fault) => attempts.failed(fault),
        }
    }
}

async fn pages(registry: &Registry, remote: &Remote) -> Result<Vec<String>, Fault> {
    let mut url = remote.url("tags/list");
    let mut tags = Vec::new();
    for _ in 0..MAX_PAGES {
        let call = registry.transport.call(Method::GET, url.clone());
        let response = registry.transport.send_ok(remote, &call).await?;
        let next = next_page(&response, &url);
        let body = registry.transport.read(response, MANIFEST_LIMIT).await?;
        let page: Page =
            serde_json::from_slice(&body).map_err(|_| Fault::invalid("the list of tags is malformed"))?;
        tags.extend(page.tags.unwrap_or_default());
        if tags.len() > MAX_TAGS {
            break;
        }
        match next {
            Some(next) => url = next,
            None => return Ok(tags),
        }
    }
    Err(Fault::invalid(format!("the list of tags does not end after {MAX_TAGS} tags or {MAX_PAGES} pages")))
}

/// `Link: </v2/…?last=x&n=100>; rel="next"`, on the same host only.
fn next_page(response: &Response, current: &Url) -> Option<Url> {
    let link = response.headers().get(LINK)?.to_str().ok()?;
    let (target, relation) = link.strip_prefix('<')?.split_once('>')?;
    if !relation.contains("next") {
        return None;
    }
    let next = current.join(target).ok()?;
    (next.origin() == current.origin()).then_some(next)
}
