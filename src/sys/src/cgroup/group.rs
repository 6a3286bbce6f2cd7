//! One group over all hierarchies: making, joining, listing and removing it.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use oci_spec::runtime::LinuxResources;

use super::layout::{Controller, Hierarchy, Layout, Unified};
use super::{Error, Limits, Reader, bpf, device, files, kill, limits, path, plan};

/// How often a directory that is still busy is tried again, the pause doubling from one millisecond.
const REMOVE_ATTEMPTS: u32 = 10;

/// A group: the same path in every hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    path: String,
    /// Directories on v1, with what they control.
    v1: Vec<Hierarchy>,
    /// Directory on v2, with what it controls.
    v2: Option<Unified>,
}

/// Where a controller's files are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place<'a> {
    V1(&'a Path),
    V2(&'a Path),
}

impl Cgroup {
    pub(super) fn open(layout: &Layout, path: &str) -> Result<Self, Error> {
        let path = path::normalized(path)?;
        let below = |root: &Path| root.join(&path[1..]);
        let v1 = layout.v1.iter().map(|h| Hierarchy { root: below(&h.root), ..h.clone() }).collect();
        let v2 = layout.v2.as_ref().map(|u| Unified { root: below(&u.root), ..u.clone() });
        Ok(Cgroup { path, v1, v2 })
    }

    pub(super) fn create(layout: &Layout, path: &str) -> Result<Self, Error> {
        let group = Self::open(layout, path)?;
        let mut made = Vec::new();
        let result = group.make(layout, &mut made);
        if result.is_err() {
            // The failure is what counts; a directory that stays is found by the next removal.
            made.iter().rev().for_each(|dir| _ = std::fs::remove_dir(dir));
        }
        result.map(|()| group)
    }

    fn make(&self, layout: &Layout, made: &mut Vec<PathBuf>) -> Result<(), Error> {
        for (hierarchy, mounted) in self.v1.iter().zip(&layout.v1) {
            make_directories(&mounted.root, &hierarchy.root, made)?;
            if hierarchy.controllers.contains(&Controller::Cpuset) {
                fill_cpuset(&mounted.root, &hierarchy.root)?;
            }
        }
        if let (Some(own), Some(mounted)) = (&self.v2, &layout.v2) {
            make_directories(&mounted.root, &own.root, made)?;
            enable_controllers(mounted, &own.root)?;
        }
        Ok(())
    }

    /// The path, as given to [`Layout::create`] but normalised.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// All directories of the group: a process is in it when its pid was written to the `cgroup.procs` of
    /// each.
    #[must_use]
    pub fn dirs(&self) -> Vec<PathBuf> {
        let v2 = self.v2.iter().map(|u| u.root.clone());
        self.v1.iter().map(|h| h.root.clone()).chain(v2).collect()
    }

    /// The v2 directory, where `CLONE_INTO_CGROUP` can start a process.
    #[must_use]
    pub fn unified_dir(&self) -> Option<&Path> {
        self.v2.as_ref().map(|u| u.root.as_path())
    }

    /// Moves `pid` into the group.
    ///
    /// # Errors
    /// A hierarchy refuses.
    pub fn join(&self, pid: u32) -> Result<(), Error> {
        self.dirs().iter().try_for_each(|dir| files::write(&dir.join("cgroup.procs"), &pid.to_string()))
    }

    /// Sets limits. Fields that are absent, and numbers and strings that stand for "unset" (0, empty), are
    /// left as they are. Devices come last; an absent or empty list leaves them alone.
    ///
    /// # Errors
    /// [`Error::Unsupported`] before anything is written; else what the kernel refuses, after the earlier
    /// writes were taken back.
    pub fn apply(&self, resources: &LinuxResources) -> Result<(), Error> {
        let rules = resources.devices().as_deref().unwrap_or_default();
        let policy = (!rules.is_empty()).then(|| device::DevicePolicy::new(rules)).transpose()?;
        let device_place = match &policy {
            Some(_) => Some(self.require(Controller::Devices, "devices")?),
            None => None,
        };
        let done = plan::Plan::new(self, resources)?.apply()?;
        let result = match (&policy, device_place) {
            (Some(policy), Some(Place::V1(dir))) => device::apply_v1(dir, policy),
            (Some(policy), Some(Place::V2(dir))) => bpf::attach(dir, policy),
            _ => Ok(()),
        };
        if result.is_err() {
            done.undo();
        }
        result
    }

    /// Processes of the group and the groups below it, sorted.
    ///
    /// # Errors
    /// A list cannot be read; a group that does not exist has none.
    pub fn procs(&self) -> io::Result<Vec<u32>> {
        let mut found = BTreeSet::new();
        // All hierarchies hold the same processes unless someone moved them; v2 is asked first.
        for dir in self.dirs().iter().rev() {
            collect_processes(dir, &mut found)?;
            if !found.is_empty() {
                break;
            }
        }
        Ok(found.into_iter().collect())
    }

    /// Processes in any of the hierarchies, sorted.
    pub(super) fn all_procs(&self) -> io::Result<Vec<u32>> {
        let mut found = BTreeSet::new();
        self.dirs().iter().try_for_each(|dir| collect_processes(dir, &mut found))?;
        Ok(found.into_iter().collect())
    }

    /// Sends `signal` to every process of the group and the groups below it. `SIGKILL` returns when none is
    /// left but zombies: by `cgroup.kill` where there is one, else by freezing, killing and thawing.
    ///
    /// # Errors
    /// Processes survive, or a file refuses.
    pub fn kill(&self, signal: i32) -> Result<(), Error> {
        kill::kill(self, signal)
    }

    /// Stops all processes until [`Cgroup::thaw`], and waits for it.
    ///
    /// # Errors
    /// The host cannot freeze, or the group does not stop within seconds.
    pub fn freeze(&self) -> Result<(), Error> {
        kill::freeze(self)
    }

    /// Lets frozen processes run.
    ///
    /// # Errors
    /// The host cannot freeze, or the group does not run again within seconds.
    pub fn thaw(&self) -> Result<(), Error> {
        kill::thaw(self)
    }

    /// Whether its processes are frozen.
    ///
    /// # Errors
    /// The host cannot freeze, or the state cannot be read.
    pub fn is_frozen(&self) -> Result<bool, Error> {
        kill::is_frozen(self)
    }

    /// Removes the group and those below it in every hierarchy. A group that is not there is fine.
    ///
    /// # Errors
    /// A directory stays busy. The others are removed nevertheless.
    pub fn remove(&self) -> Result<(), Error> {
        let mut result = Ok(());
        for dir in self.dirs() {
            if let Err(source) = remove_below(&dir).and_then(|()| remove_directory(&dir)) {
                result = Err(Error::Remove { path: dir, source });
            }
        }
        result
    }

    /// Whether the group is there, in any hierarchy.
    #[must_use]
    pub fn exists(&self) -> bool {
        self.dirs().iter().any(|dir| files::is_there(dir))
    }

    /// How many processes were killed because the group, or one below it, ran out of memory.
    ///
    /// # Errors
    /// The host has no memory controller, or the file cannot be read.
    pub fn oom_kills(&self) -> io::Result<u64> {
        match self.place(Controller::Memory) {
            Some(Place::V1(dir)) => oom_kills_v1(dir),
            Some(Place::V2(dir)) => {
                let text = files::read_io(&dir.join("memory.events"))?;
                Ok(files::keyed(&text, "oom_kill").unwrap_or(0))
            }
            None => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// A reader of statistics that keeps their files open.
    #[must_use]
    pub fn reader(&self) -> Reader {
        Reader::new(self)
    }

    /// Reads limits back.
    ///
    /// # Errors
    /// The group is not there.
    pub fn limits(&self) -> io::Result<Limits> {
        limits::read(self)
    }

    /// Where the files of `controller` are, if the host has it.
    pub(super) fn place(&self, controller: Controller) -> Option<Place<'_>> {
        if let Some(hierarchy) = self.v1.iter().find(|h| h.controllers.contains(&controller)) {
            return Some(Place::V1(&hierarchy.root));
        }
        let v2 = self.v2.as_ref()?;
        let core = match controller {
            Controller::Devices | Controller::Freezer => true,
            Controller::Cpuacct => self.v1.is_empty(),
            _ => v2.controllers.contains(&controller),
        };
        core.then_some(Place::V2(&v2.root))
    }

    /// As [`Cgroup::place`]; a controller the host lacks is an error that names `field`.
    pub(super) fn require(&self, controller: Controller, field: &str) -> Result<Place<'_>, Error> {
        let unsupported = || Error::Unsupported { controller: controller.name(), field: field.to_owned() };
        self.place(controller).ok_or_else(unsupported)
    }
}

fn make_directories(root: &Path, dir: &Path, made: &mut Vec<PathBuf>) -> Result<(), Error> {
    match std::fs::create_dir(dir) {
        Ok(()) => made.push(dir.to_owned()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound && dir != root => {
            if let Some(parent) = dir.parent() {
                make_directories(root, parent, made)?;
            }
            match std::fs::create_dir(dir) {
                Ok(()) => made.push(dir.to_owned()),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(Error::Create { path: dir.to_owned(), source }),
            }
        }
        Err(source) => return Err(Error::Create { path: dir.to_owned(), source }),
    }
    Ok(())
}

/// On v1 a new cpuset is empty and takes no process: it inherits from the nearest group that is not.
fn fill_cpuset(root: &Path, dir: &Path) -> Result<(), Error> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        inherit(root, dir, file)?;
    }
    Ok(())
}

fn inherit(root: &Path, dir: &Path, file: &str) -> Result<String, Error> {
    let own = files::read(&dir.join(file))?;
    let Some(parent) = dir.parent().filter(|_| dir != root && own.is_empty()) else {
        return Ok(own);
    };
    let value = inherit(root, parent, file)?;
    files::write(&dir.join(file), &value)?;
    Ok(value)
}

/// Enables what Berth uses in every group above `dir`, top down.
fn enable_controllers(mounted: &Unified, dir: &Path) -> Result<(), Error> {
    let above: Vec<&Path> = dir.ancestors().skip(1).take_while(|d| d.starts_with(&mounted.root)).collect();
    let Some(parent) = above.first() else { return Ok(()) };
    if missing(mounted, parent).is_empty() {
        return Ok(());
    }
    for group in above.into_iter().rev() {
        let file = group.join("cgroup.subtree_control");
        for controller in missing(mounted, group) {
            // One by one: a controller this part of the tree was not given must not keep out the others.
            // What is missing in the end is reported by the limit that needs it.
            match files::write_io(&file, &format!("+{controller}")) {
                Err(e)
                    if !matches!(e.raw_os_error(), Some(libc::ENOENT | libc::EINVAL | libc::EOPNOTSUPP)) =>
                {
                    let value = format!("+{controller}");
                    return Err(Error::Write { path: file, value, source: e });
                }
                _ => {}
            }
        }
    }
    Ok(())
}

fn missing(mounted: &Unified, group: &Path) -> Vec<Controller> {
    let enabled = files::read_optional(&group.join("cgroup.subtree_control")).unwrap_or_default();
    let is_on = |c: &Controller| enabled.split_whitespace().any(|name| name == c.name());
    mounted.controllers.iter().copied().filter(|c| !is_on(c)).collect()
}

fn children(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if is_gone(&e) => return Ok(found),
        Err(e) => return Err(e),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

fn collect_processes(dir: &Path, found: &mut BTreeSet<u32>) -> io::Result<()> {
    match std::fs::read_to_string(dir.join("cgroup.procs")) {
        Ok(text) => found.extend(text.lines().filter_map(|line| line.trim().parse::<u32>().ok())),
        // A threaded group lists threads only; its processes stand in the group above.
        Err(e) if is_gone(&e) || e.raw_os_error() == Some(libc::EOPNOTSUPP) => {}
        Err(e) => return Err(e),
    }
    children(dir)?.iter().try_for_each(|child| collect_processes(child, found))
}

fn oom_kills_v1(dir: &Path) -> io::Result<u64> {
    let text = files::read_io(&dir.join("memory.oom_control"))?;
    // On v1 the counter is the group's own.
    let mut sum = files::keyed(&text, "oom_kill").unwrap_or(0);
    for child in children(dir)? {
        match oom_kills_v1(&child) {
            Ok(count) => sum += count,
            Err(e) if is_gone(&e) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(sum)
}

fn remove_below(dir: &Path) -> io::Result<()> {
    for child in children(dir)? {
        remove_below(&child)?;
        remove_directory(&child)?;
    }
    Ok(())
}

fn remove_directory(dir: &Path) -> io::Result<()> {
    let mut pause = Duration::from_millis(1);
    for _ in 1..REMOVE_ATTEMPTS {
        match std::fs::remove_dir(dir) {
            Ok(()) => return Ok(()),
            Err(e) if is_gone(&e) => return Ok(()),
            // The kernel lets go of a killed process a moment after it has become a zombie.
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(pause),
            Err(e) => return Err(e),
        }
        pause = (pause * 2).min(Duration::from_millis(100));
    }
    std::fs::remove_dir(dir)
}

/// The group vanished: before or after its file was opened.
pub(super) fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(libc::ENODEV)
}
