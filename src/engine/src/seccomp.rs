//! Which system call filter a container gets.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use oci::runtime::LinuxSeccomp;
use sys::seccomp::{Arch, KernelVersion, Profile};

use crate::error::{Error, ErrorKind, Result};
use crate::model::{Seccomp, Security};

/// Largest profile that is read.
const MAX_BYTES: u64 = 4 << 20;

/// The default profile, and its forms for the capability sets seen so far.
#[derive(Debug)]
pub(crate) struct Profiles {
    default: Profile,
    dir: PathBuf,
    resolved: Mutex<HashMap<Vec<String>, LinuxSeccomp>>,
}

/// Capability sets whose form of the default profile is kept; a node has a handful.
const KEPT: usize = 64;

impl Profiles {
    /// Reads the default profile from `path`, or takes the built-in one.
    pub(crate) fn load(path: Option<&Path>, dir: &Path) -> Result<Self> {
        let default = match path {
            None => Profile::parse(sys::seccomp::DEFAULT_PROFILE),
            Some(path) => Profile::parse(&read(path)?),
        }
        .map_err(|error| {
            Error::caused_by(ErrorKind::FailedPrecondition, "read the default seccomp profile", error)
        })?;
        Ok(Self { default, dir: dir.to_owned(), resolved: Mutex::new(HashMap::new()) })
    }

    /// The filter of a container; `None` is no filter. Blocks when it reads a file.
    pub(crate) fn resolve(
        &self,
        security: &Security,
        capabilities: &BTreeSet<String>,
        kernel: (u32, u32),
    ) -> Result<Option<LinuxSeccomp>> {
        match &security.seccomp {
            Seccomp::Unconfined => Ok(None),
            Seccomp::RuntimeDefault | Seccomp::File(_) if security.privileged => Ok(None),
            Seccomp::RuntimeDefault => self.default_for(capabilities, kernel).map(Some),
            Seccomp::File(path) => self.file(path, capabilities, kernel).map(Some),
        }
    }

    fn default_for(&self, capabilities: &BTreeSet<String>, kernel: (u32, u32)) -> Result<LinuxSeccomp> {
        let key: Vec<String> = capabilities.iter().cloned().collect();
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = resolved.get(&key) {
            return Ok(known.clone());
        }
        let filter = resolve(&self.default, capabilities, kernel)?;
        if resolved.len() >= KEPT {
            resolved.clear();
        }
        resolved.insert(key, filter.clone());
        Ok(filter)
    }

    fn file(&self, path: &Path, capabilities: &BTreeSet<String>, kernel: (u32, u32)) -> Result<LinuxSeccomp> {
        let path = if path.is_absolute() { path.to_owned() } else { self.dir.join(path) };
        let invalid = |error: sys::seccomp::Error| {
            Error::caused_by(
                ErrorKind::InvalidArgument,
                format!("read seccomp profile {}", path.display()),
                error,
            )
        };
        let profile = Profile::parse(&read(&path)?).map_err(invalid)?;
        resolve(&profile, capabilities, kernel)
    }
}

fn resolve(profile: &Profile, capabilities: &BTreeSet<String>, kernel: (u32, u32)) -> Result<LinuxSeccomp> {
    let names: Vec<&str> = capabilities.iter().map(String::as_str).collect();
    let arch = Arch::native()
        .ok_or_else(|| Error::unsupported("seccomp filters are not known for this architecture"))?;
    let kernel = KernelVersion { major: kernel.0, minor: kernel.1 };
    profile
        .resolve(&names, kernel, arch)
        .map_err(|error| Error::caused_by(ErrorKind::InvalidArgument, "resolve the seccomp profile", error))
}

fn read(path: &Path) -> Result<String> {
    let what = || format!("read seccomp profile {}", path.display());
    let metadata = std::fs::metadata(path)
        .map_err(|error| Error::caused_by(ErrorKind::InvalidArgument, what(), error))?;
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err(Error::invalid(format!(
            "seccomp profile {} is not a file of at most 4 MiB",
            path.display()
        )));
    }
    std::fs::read_to_string(path).map_err(|error| Error::caused_by(ErrorKind::InvalidArgument, what(), error))
}
