//! Pulling images, with their progress as clients draw it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use engine::{
    AuthFields, ErrorKind, LayerProgress, LayerState, PullOutcome, PullProgress, PullRequest, PullStage,
    ScopedAuth, Secret,
};
use oci::{Platform, Reference};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::reference::{familiar_repository, join};
use crate::app::App;
use crate::http::{ApiError, Call, Gone, Out, Reply, Result};
use crate::text::human_size;

/// Between two drawings of the same pull.
const REDRAW: Duration = Duration::from_millis(100);
/// Clients end lines of a stream this way.
const LINE: &str = "\r\n";

/// Credentials as clients send them.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct AuthConfig {
    username: String,
    password: String,
    auth: String,
    serveraddress: String,
    identitytoken: String,
    registrytoken: String,
}

/// The credentials of a request. What cannot be read is as if it was not sent, as Docker has it.
pub(crate) fn credentials(call: &Call) -> Option<ScopedAuth> {
    let text = call.header("x-registry-auth")?.trim();
    let decoders = [&URL_SAFE, &URL_SAFE_NO_PAD, &STANDARD, &STANDARD_NO_PAD];
    let bytes = decoders.iter().find_map(|decoder| decoder.decode(text).ok())?;
    let sent: AuthConfig = serde_json::from_slice(&bytes).ok()?;
    let fields = AuthFields {
        username: sent.username,
        password: Secret::new(sent.password),
        auth: Secret::new(sent.auth),
        server_address: sent.serveraddress,
        identity_token: Secret::new(sent.identitytoken),
        registry_token: Secret::new(sent.registrytoken),
    };
    fields.parse().ok().flatten()
}

/// Pulls, or takes in a file system.
pub(super) async fn create(app: Arc<App>, call: &Call) -> Result<Reply> {
    let from = call.params.get("fromImage");
    if from.is_empty() {
        return Err(super::missing(call));
    }
    check_platform(call.params.get("platform"))?;
    let tag = call.params.get("tag");
    let mut reference = join(from, tag)?;
    if reference.tag().is_none() && reference.digest().is_none() {
        if call.params.find("tag").is_none() {
            return Err(ApiError::bad(format!(
                "pulling every tag of {from} is not part of this release: name one, as {from}:latest"
            )));
        }
        reference = reference.with_default_tag();
    }
    let request = PullRequest { reference: reference.clone(), auth: credentials(call) };
    let (report, mut progress) = watch::channel(PullProgress::default());
    let engine = app.engine.clone();
    let mut pull = Box::pin(async move { engine.pull_image(request, Some(report)).await });
    // Until there is something to draw, a failure still has a status of its own.
    let early = tokio::select! {
        ended = &mut pull => Some(ended),
        _ = progress.wait_for(|now| now.stage != PullStage::Resolving) => None,
    };
    let early = early.transpose().map_err(|error| failed(&reference, &error))?;
    let with_bar = !call.version.since(48);
    Ok(Reply::stream("application/json", move |out| async move {
        let drawing = Drawing { reference, with_bar, layers: HashMap::new() };
        // The client going away is no failure of the pull, which goes on.
        drop(drawing.run(&out, progress, pull, early).await);
    }))
}

/// Images of other platforms cannot run here.
pub(crate) fn check_platform(text: &str) -> Result<()> {
    let host = Platform::host();
    let mut parts = text.split('/');
    let (os, architecture) = (parts.next().unwrap_or_default(), parts.next());
    let fits = text.is_empty()
        || (os == host.os && architecture.is_none_or(|one| one == host.architecture))
        || (architecture.is_none() && os == host.architecture);
    if fits {
        return Ok(());
    }
    Err(ApiError::not_found(format!(
        "no matching manifest for {text} in the manifest list entries: this node runs {}/{} only",
        host.os, host.architecture
    )))
}

/// Why a pull failed, in words that clients know.
fn failed(reference: &Reference, error: &engine::Error) -> ApiError {
    match error.kind() {
        ErrorKind::NotFound => ApiError::not_found(format!(
            "manifest for {} not found: manifest unknown: {}",
            reference.familiar(),
            error.chain()
        )),
        ErrorKind::Denied => ApiError::not_found(format!(
            "pull access denied for {}, repository does not exist or may require 'docker login': {}",
            familiar_repository(reference),
            error.chain()
        )),
        _ => ApiError::internal(error.chain()),
    }
}

/// What a client has been told of a pull.
struct Drawing {
    reference: Reference,
    /// Whether the client wants bars of text.
    with_bar: bool,
    layers: HashMap<String, (LayerState, u64)>,
}

impl Drawing {
    async fn run(
        mut self,
        out: &Out,
        mut progress: watch::Receiver<PullProgress>,
        mut pull: impl Future<Output = engine::Result<PullOutcome>> + Unpin,
        early: Option<PullOutcome>,
    ) -> std::result::Result<(), Gone> {
        let (what, from) = match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => (digest.to_string(), self.reference.path()),
            (None, tag) => (tag.unwrap_or("latest").to_owned(), self.reference.path()),
        };
        out.json(&json!({"status": format!("Pulling from {from}"), "id": what}), LINE).await?;
        let outcome = match early {
            Some(outcome) => Ok(outcome),
            None => loop {
                let now = progress.borrow_and_update().clone();
                self.draw(out, &now.layers).await?;
                tokio::select! {
                    ended = &mut pull => break ended,
                    () = async {
                        tokio::time::sleep(REDRAW).await;
                        if progress.changed().await.is_err() {
                            std::future::pending::<()>().await;
                        }
                    } => {}
                }
            },
        };
        let mut layers = progress.borrow().layers.clone();
        if outcome.is_ok() {
            // The last report may be from before the last layer was complete.
            for layer in layers.iter_mut().filter(|layer| layer.state != LayerState::Present) {
                (layer.state, layer.bytes) = (LayerState::Done, layer.size);
            }
        }
        self.draw(out, &layers).await?;
        match outcome {
            Ok(outcome) => self.finish(out, &outcome).await,
            Err(error) => {
                let error = failed(&self.reference, &error);
                let line = json!({"errorDetail": {"message": error.message()}, "error": error.message()});
                out.json(&line, LINE).await
            }
        }
    }

    async fn finish(&self, out: &Out, outcome: &PullOutcome) -> std::result::Result<(), Gone> {
        out.json(&json!({"status": format!("Digest: {}", outcome.digest)}), LINE).await?;
        let name = self.reference.familiar();
        let status = if outcome.was_present {
            format!("Status: Image is up to date for {name}")
        } else {
            format!("Status: Downloaded newer image for {name}")
        };
        out.json(&json!({"status": status}), LINE).await
    }

    /// Tells what changed since the last time.
    async fn draw(&mut self, out: &Out, layers: &[LayerProgress]) -> std::result::Result<(), Gone> {
        for layer in layers {
            let id: String = layer.digest.hex().chars().take(12).collect();
            let before = self.layers.insert(id.clone(), (layer.state, layer.bytes));
            for line in lines(&id, before, layer, self.with_bar) {
                out.json(&line, LINE).await?;
            }
        }
        Ok(())
    }
}

/// The lines that lead from one state of a layer to another.
fn lines(id: &str, before: Option<(LayerState, u64)>, layer: &LayerProgress, with_bar: bool) -> Vec<Value> {
    use LayerState as S;
    let plain = |status: &str| json!({"status": status, "progressDetail": {}, "id": id});
    let mut lines = Vec::new();
    let was = before.map(|(state, _)| state);
    if was.is_none() && layer.state != S::Present {
        lines.push(plain("Pulling fs layer"));
    }
    let changed = was != Some(layer.state);
    let loaded = matches!(was, Some(S::Unpacking | S::Done));
    match layer.state {
        S::Present if changed => lines.push(plain("Already exists")),
        S::Waiting if changed => lines.push(plain("Waiting")),
        S::Retrying if changed => lines.push(plain("Retrying in 1 second")),
        S::Transferring if changed || before.is_some_and(|(_, bytes)| bytes != layer.bytes) => {
            let mut line = plain("Downloading");
            line["progressDetail"] = json!({"current": layer.bytes, "total": layer.size});
            if with_bar {
                line["progress"] = json!(bar(layer.bytes, layer.size));
            }
            lines.push(line);
        }
        S::Unpacking if changed => lines.extend([plain("Download complete"), plain("Extracting")]),
        S::Done | S::Mounted if changed => {
            if !loaded {
                lines.push(plain("Download complete"));
            }
            lines.push(plain("Pull complete"));
        }
        S::Present | S::Waiting | S::Retrying | S::Transferring | S::Unpacking | S::Done | S::Mounted => {}
    }
    lines
}

/// A bar of text for clients that do not draw their own.
fn bar(current: u64, total: u64) -> String {
    const WIDTH: u64 = 50;
    let filled = current.saturating_mul(WIDTH).checked_div(total).unwrap_or(0).min(WIDTH);
    let (filled, width) = (usize::try_from(filled).unwrap_or(0), 50);
    let head = if filled < width { ">" } else { "" };
    let left = " ".repeat(width.saturating_sub(filled + head.len()));
    format!("[{}{head}{left}]  {}/{}", "=".repeat(filled), human_size(current), human_size(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(before: Option<(LayerState, u64)>, state: LayerState, bytes: u64) -> Vec<String> {
        let digest = format!("sha256:{}", "a".repeat(64)).parse().unwrap();
        let layer = LayerProgress { digest, size: 100, bytes, state };
        lines("aaaa", before, &layer, true)
            .into_iter()
            .map(|line| format!("{} {}", line["status"].as_str().unwrap(), line["progressDetail"]))
            .collect()
    }

    #[test]
    fn layers_go_through_the_words_clients_know() {
        use LayerState as S;
        assert_eq!(told(None, S::Waiting, 0), ["Pulling fs layer {}", "Waiting {}"]);
        assert_eq!(told(None, S::Present, 100), ["Already exists {}"]);
        assert_eq!(
            told(Some((S::Waiting, 0)), S::Transferring, 5),
            ["Downloading {\"current\":5,\"total\":100}"]
        );
        assert_eq!(told(Some((S::Transferring, 5)), S::Transferring, 5), [""; 0]);
        assert_eq!(
            told(Some((S::Transferring, 5)), S::Unpacking, 100),
            ["Download complete {}", "Extracting {}"]
        );
        assert_eq!(told(Some((S::Unpacking, 100)), S::Done, 100), ["Pull complete {}"]);
        assert_eq!(
            told(None, S::Done, 100),
            ["Pulling fs layer {}", "Download complete {}", "Pull complete {}"]
        );
    }

    #[test]
    fn bars_fill_up() {
        assert_eq!(bar(0, 100), format!("[>{}]  0B/100B", " ".repeat(49)));
        assert_eq!(bar(50, 100), format!("[{}>{}]  50B/100B", "=".repeat(25), " ".repeat(24)));
        assert_eq!(bar(100, 100), format!("[{}]  100B/100B", "=".repeat(50)));
        assert!(bar(1, 0).starts_with("[>"));
    }

    #[test]
    fn other_platforms_are_refused() {
        let host = Platform::host();
        for fine in ["", "linux", host.architecture.as_str(), &format!("linux/{}", host.architecture)] {
            assert!(check_platform(fine).is_ok(), "{fine}");
        }
        let error = check_platform("linux/s390x").unwrap_err();
        assert!(
            error.message().starts_with("no matching manifest for linux/s390x in the manifest list entries")
        );
    }

    #[test]
    fn failures_are_told_apart() {
        let reference: Reference = "busybox:9".parse().unwrap();
        let of = |kind| failed(&reference, &engine::Error::new(kind, "x"));
        assert!(
            of(ErrorKind::Denied)
                .message()
                .contains("repository does not exist or may require 'docker login'")
        );
        assert!(of(ErrorKind::NotFound).message().starts_with("manifest for busybox:9 not found"));
        assert_eq!(of(ErrorKind::Unavailable).status().as_u16(), 500);
    }
}
