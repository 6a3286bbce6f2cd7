//! Which credentials an endpoint gets.

use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::AsyncWriteExt;

use crate::Secret;
use crate::auth::{Auth, ScopedAuth, canonical_host};
use crate::config::Config;
use crate::error::{ErrorKind, Fault};
use crate::hosts::Endpoint;

const HELPER_TIMEOUT: Duration = Duration::from_secs(30);
/// What credential programs answer instead of a user name if the secret is a refresh token.
const TOKEN_USER: &str = "<token>";

/// The credentials for an endpoint of a registry: those of the request if they are meant for this host, then
/// the configuration's, then a credential program's.
pub(crate) async fn for_endpoint(
    config: &Config,
    domain: &str,
    endpoint: &Endpoint,
    asked: Option<&ScopedAuth>,
) -> Result<Option<Auth>, Fault> {
    if let Some(scoped) = asked
        && is_meant_for(scoped, domain, endpoint)
    {
        return Ok(Some(scoped.auth.clone()));
    }
    for host in names(domain, endpoint) {
        if let Some(auth) = lookup(&config.credentials, &host) {
            return Ok(Some(auth.clone()));
        }
        if let Some(helper) = lookup(&config.credential_helpers, &host) {
            return from_helper(helper, &host).await;
        }
    }
    Ok(None)
}

/// A mirror gets a request's credentials only if they name it.
fn is_meant_for(scoped: &ScopedAuth, domain: &str, endpoint: &Endpoint) -> bool {
    match &scoped.server {
        None => endpoint.is_origin,
        Some(server) => {
            let server = canonical_host(server);
            server == canonical_host(&endpoint.host)
                || (endpoint.is_origin && server == canonical_host(domain))
        }
    }
}

fn names(domain: &str, endpoint: &Endpoint) -> Vec<String> {
    let mut names = vec![canonical_host(&endpoint.host)];
    let domain = canonical_host(domain);
    if endpoint.is_origin && !names.contains(&domain) {
        names.push(domain);
    }
    names
}

fn lookup<'a, T>(map: &'a std::collections::BTreeMap<String, T>, host: &str) -> Option<&'a T> {
    map.iter().find(|(name, _)| canonical_host(name) == host).map(|(_, value)| value)
}

#[derive(Deserialize)]
struct HelperAnswer {
    #[serde(rename = "Username", default)]
    username: String,
    #[serde(rename = "Secret", default)]
    secret: Secret<String>,
}

/// Asks `docker-credential-<name>`: the host on its input, JSON on its output.
async fn from_helper(name: &str, host: &str) -> Result<Option<Auth>, Fault> {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.is_empty() || !name.bytes().all(is_plain) {
        return Err(Fault::new(ErrorKind::Config, format!("{name:?} cannot name a credential program")));
    }
    let program = format!("docker-credential-{name}");
    let failed = |what: &str| Fault::new(ErrorKind::Config, format!("{program} {what}"));
    let server = if host == "docker.io" { "https://index.docker.io/v1/" } else { host };
    let run = async {
        let mut child = tokio::process::Command::new(&program)
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(server.as_bytes()).await?;
        }
        child.wait_with_output().await
    };
    let output =
        tokio::time::timeout(HELPER_TIMEOUT, run).await.map_err(|_| failed("did not end in time"))?;
    let output = output.map_err(|error| failed("cannot be run").with_source(error))?;
    if !output.status.success() {
        // The protocol's one error that is an answer.
        if output.stdout.starts_with(b"credentials not found") {
            return Ok(None);
        }
        return Err(failed("failed"));
    }
    let answer: HelperAnswer =
        serde_json::from_slice(&output.stdout).map_err(|_| failed("gave a malformed answer"))?;
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Auth::IdentityToken(answer.secret),
        _ => Auth::Basic { username: answer.username, password: answer.secret },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts;

    fn basic(user: &str) -> Auth {
        Auth::Basic { username: user.into(), password: Secret::new("p".into()) }
    }

    async fn users(config: &Config, domain: &str, asked: Option<ScopedAuth>, toml: &str) -> Vec<String> {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join(domain);
        std::fs::create_dir(&directory).unwrap();
        std::fs::write(directory.join("hosts.toml"), toml).unwrap();
        let mut users = Vec::new();
        for endpoint in hosts::load(Some(root.path()), domain).unwrap() {
            let auth = for_endpoint(config, domain, &endpoint, asked.as_ref()).await.unwrap();
            users.push(match auth {
                Some(Auth::Basic { username, .. }) => format!("{}={username}", endpoint.host),
                _ => format!("{}=-", endpoint.host),
            });
        }
        users
    }

    #[tokio::test]
    async fn a_mirror_gets_only_what_names_it() {
        let toml = "[host.\"https://mirror.test\"]\n";
        let mut config = Config::new("test");
        let asked = |server: Option<&str>| {
            Some(ScopedAuth { auth: basic("asked"), server: server.map(str::to_owned) })
        };
        let got = users(&config, "docker.io", asked(None), toml).await;
        assert_eq!(got, ["mirror.test=-", "registry-1.docker.io=asked"]);
        let got = users(&config, "docker.io", asked(Some("index.docker.io")), toml).await;
        assert_eq!(got, ["mirror.test=-", "registry-1.docker.io=asked"]);
        let got = users(&config, "docker.io", asked(Some("mirror.test")), toml).await;
        assert_eq!(got, ["mirror.test=asked", "registry-1.docker.io=-"]);
        let got = users(&config, "docker.io", asked(Some("other.test")), toml).await;
        assert_eq!(got, ["mirror.test=-", "registry-1.docker.io=-"]);
        config.credentials.insert("mirror.test".into(), basic("m"));
        config.credentials.insert("docker.io".into(), basic("d"));
        let got = users(&config, "docker.io", None, toml).await;
        assert_eq!(got, ["mirror.test=m", "registry-1.docker.io=d"]);
    }

    #[tokio::test]
    async fn credential_programs_are_named_plainly() {
        for name in ["", "../evil", "a b", "x;y"] {
            assert_eq!(from_helper(name, "h").await.unwrap_err().kind, ErrorKind::Config, "{name}");
        }
        let error = from_helper("berth-test-missing", "h").await.unwrap_err();
        assert!(error.detail.contains("docker-credential-berth-test-missing"), "{}", error.detail);
    }
}
