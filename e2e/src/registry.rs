//! A real registry, Debian's `docker-registry`, on a loopback port, and the client that fills it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::http;
use crate::image::{Blob, Image};
use crate::process::Process;

/// Hosts whose images the registry stands in for.
pub const MIRRORED_HOSTS: [&str; 6] =
    ["registry.k8s.io", "gcr.io", "k8s.gcr.io", "docker.io", "quay.io", "public.ecr.aws"];

/// Who may use a private registry.
pub const USER: &str = "kubelet";
/// And by which word.
pub const PASSWORD: &str = "secret";
/// Its bcrypt hash.
const PASSWORD_HASH: &str = "$2y$04$rLJ8fv398T3PZ74YHMS9qeNKOVog1l3yU0LCojRNlFncuqzg0Dnp.";

/// A running registry; dropping it ends it.
#[derive(Debug)]
pub struct Registry {
    address: String,
    storage: PathBuf,
    _process: Process,
}

impl Registry {
    /// Starts a registry whose files are in `dir`, with the images that are there already.
    pub fn start(dir: &Path) -> Result<Registry> {
        let storage = dir.join("storage");
        std::fs::create_dir_all(&storage).with_context(|| format!("create {}", storage.display()))?;
        Registry::serve(dir, storage, "")
    }

    /// Starts another one in `dir` with the same images, for those who know [`USER`] and [`PASSWORD`].
    pub fn private(&self, dir: &Path) -> Result<Registry> {
        let users = dir.join("users");
        std::fs::write(&users, format!("{USER}:{PASSWORD_HASH}\n"))
            .with_context(|| format!("write {}", users.display()))?;
        let auth = format!("auth:\n  htpasswd:\n    realm: e2e\n    path: {}\n", users.display());
        Registry::serve(dir, self.storage.clone(), &auth)
    }

    fn serve(dir: &Path, storage: PathBuf, auth: &str) -> Result<Registry> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let config = dir.join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  \
             filesystem:\n    rootdirectory: {}\n  delete:\n    enabled: true\nhttp:\n  addr: {address}\n{auth}",
            storage.display()
        );
        std::fs::write(&config, text).with_context(|| format!("write {}", config.display()))?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(&config);
        let process = Process::spawn(command, &dir.join("registry.log"))?;
        let url = format!("http://{address}/v2/");
        crate::wait::wait_until("the registry to answer", Duration::from_secs(20), || {
            http::get(&url).is_ok()
        });
        Ok(Registry { address, storage, _process: process })
    }

    /// `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where its blobs are, for tests that damage them.
    pub fn storage(&self) -> &Path {
        &self.storage
    }

    /// Writes `<dir>/<host>/hosts.toml` for every mirrored host.
    pub fn write_hosts(&self, dir: &Path) -> Result<()> {
        for host in MIRRORED_HOSTS {
            write_mirror(dir, host, &format!("http://{}", self.address))?;
        }
        Ok(())
    }

    /// Uploads an image under some tags.
    pub fn push(&self, repository: &str, tags: &[&str], image: &Image) -> Result<()> {
        for blob in image.layers.iter().map(|layer| &layer.blob).chain([&image.config]) {
            self.push_blob(repository, blob)?;
        }
        for tag in tags {
            self.push_manifest(repository, tag, &image.manifest)?;
        }
        Ok(())
    }

    /// Uploads an index and the images in it.
    pub fn push_index(&self, repository: &str, tag: &str, images: &[Image], index: &Blob) -> Result<()> {
        for image in images {
            self.push(repository, &[image.manifest.digest.as_str()], image)?;
        }
        self.push_manifest(repository, tag, index)
    }

    /// Uploads a blob unless it is there.
    pub fn push_blob(&self, repository: &str, blob: &Blob) -> Result<()> {
        let base = format!("http://{}/v2/{repository}/blobs", self.address);
        if http::request("HEAD", &format!("{base}/{}", blob.digest), &[], b"")?.status == 200 {
            return Ok(());
        }
        let started = http::request("POST", &format!("{base}/uploads/"), &[], b"")?;
        let location = started.header("location").context("the registry named no upload")?.to_owned();
        let separator = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{separator}digest={}", blob.digest);
        let done = http::request("PUT", &url, &[("Content-Type", "application/octet-stream")], &blob.bytes)?;
        if done.status != 201 {
            bail!("upload {} to {repository}: {} {}", blob.digest, done.status, done.text());
        }
        Ok(())
    }

    /// Uploads a manifest or index under a tag or its digest.
    pub fn push_manifest(&self, repository: &str, name: &str, manifest: &Blob) -> Result<()> {
        let url = format!("http://{}/v2/{repository}/manifests/{name}", self.address);
        let done = http::request("PUT", &url, &[("Content-Type", &manifest.media_type)], &manifest.bytes)?;
        if done.status != 201 {
            bail!("upload manifest {repository}:{name}: {} {}", done.status, done.text());
        }
        Ok(())
    }
}

/// Writes a `hosts.toml` that sends pulls from `host` to `url`.
pub fn write_mirror(dir: &Path, host: &str, url: &str) -> Result<()> {
    let dir = dir.join(host);
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let text = format!(
        "server = \"https://{host}\"\n\n[host.\"{url}\"]\n  capabilities = [\"pull\", \"resolve\"]\n"
    );
    std::fs::write(dir.join("hosts.toml"), text)
        .with_context(|| format!("write hosts.toml in {}", dir.display()))
}

/// A TCP port that nobody listens on right now.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0").context("find a free port")?.local_addr()?.port())
}
