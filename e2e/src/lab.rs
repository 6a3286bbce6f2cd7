//! Where the suites find what they need, and the check that all of it is there.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::catalog::{self, Programs};
use crate::registry::Registry;

/// The place suites run in: root, namespaces of their own, the programs under test and the tools.
#[derive(Debug)]
pub struct Lab {
    work: PathBuf,
}

impl Lab {
    /// Checks everything once.
    ///
    /// # Panics
    ///
    /// When something is missing, with what to do about it: a suite must not pass by not running.
    #[track_caller]
    pub fn enter(suite: &str) -> Lab {
        match Lab::check(suite) {
            Ok(lab) => lab,
            Err(error) => panic!("{suite} cannot run: {error:#}"),
        }
    }

    fn check(suite: &str) -> Result<Lab> {
        if std::env::var("E2E_ROOT").as_deref() != Ok("1") {
            bail!("it needs root and a whole daemon: run hack/e2e, which sets E2E_ROOT=1");
        }
        if std::fs::metadata("/proc/self").context("read /proc/self")?.uid() != 0 {
            bail!("it needs root: run it through sudo hack/e2e");
        }
        if std::env::var("BERTH_ISOLATED").as_deref() != Ok("1") {
            bail!("it would change this machine's links and mounts: run hack/e2e, which isolates it");
        }
        Lab::binary("berth")?;
        Lab::binary("berth-keeper")?;
        let work = Lab::scratch().join(suite);
        if work.try_exists()? {
            std::fs::remove_dir_all(&work).with_context(|| format!("clear {}", work.display()))?;
        }
        std::fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
        Ok(Lab { work })
    }

    /// A directory on a disk, for this suite alone, empty at first.
    pub fn work(&self) -> &Path {
        &self.work
    }

    /// A program under test.
    pub fn binary(name: &str) -> Result<PathBuf> {
        let dir = match std::env::var_os("BERTH_BIN_DIR") {
            Some(dir) => PathBuf::from(dir),
            None => target().join("berth"),
        };
        let path = dir.join(name);
        if !path.try_exists()? {
            bail!("{} is not built: hack/e2e builds it", path.display());
        }
        Ok(path)
    }

    /// A program from hack/tools.
    pub fn tool(name: &str) -> Result<PathBuf> {
        let cache = std::env::var_os("BERTH_CACHE").map_or_else(|| checkout().join(".cache"), PathBuf::from);
        let path = cache.join("tools").join(name);
        if !path.try_exists()? {
            bail!("{} is not built: run hack/tools", path.display());
        }
        Ok(path)
    }

    /// A registry with the whole catalog. Its files are kept between suites, for they never change.
    pub fn registry(&self) -> Result<Registry> {
        let dir = Lab::scratch().join("registry");
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let registry = Registry::start(&dir)?;
        let programs = Programs::load(&Lab::tool("busybox")?, &dir)?;
        catalog::publish(&programs, &registry)?;
        Ok(registry)
    }

    fn scratch() -> PathBuf {
        std::env::var_os("E2E_WORK").map_or_else(|| target().join("e2e"), PathBuf::from)
    }
}

/// The root of the checkout.
pub fn checkout() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| checkout().join("target"), PathBuf::from)
}
