//! The mounts of a container: sources on the host first, then where they go inside.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use oci::runtime::Mount;
use sys::mount::Attributes;
use sys::process::{Fd, FsOption, MountChange, Op, Target};

use super::{Builder, PlanError, ROOT, c_path, inside};
use crate::options::Options;

/// A mount whose source is ready, or is made inside.
#[derive(Debug)]
pub(super) struct Prepared {
    destination: PathBuf,
    how: How,
    /// Propagation that is set once it is attached.
    after: Vec<MountChange>,
}

#[derive(Debug)]
enum How {
    /// Ready to be attached.
    Ready(Fd),
    /// A new file system that belongs to the container's namespaces.
    New { fstype: CString, options: Vec<FsOption>, attributes: u64, change: MountChange },
    /// The control groups.
    Cgroup(Options),
}

/// Files below `/proc` that may be replaced: none of them is trusted by anybody.
const REPLACEABLE: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/kcore",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

impl<'a> Builder<'_, 'a> {
    /// Opens the sources of every mount, with the view and the privileges of the host.
    pub(super) fn prepare_mounts(&mut self) -> Result<Vec<Prepared>, PlanError> {
        let mut extra: VecDeque<(BorrowedFd<'a>, PathBuf)> = self.request.mounts.iter().cloned().collect();
        extra.make_contiguous().sort_by_key(|(_, destination)| inside(destination).components().count());
        let mut prepared = Vec::new();
        for (index, mount) in self.request.spec.mounts().as_deref().unwrap_or_default().iter().enumerate() {
            let one = self.prepare_mount(index, mount)?;
            // One that the specification mounts something below comes first.
            while let Some(position) = extra.iter().position(|(_, place)| {
                let place = inside(place);
                one.destination != place && one.destination.starts_with(&place)
            }) {
                prepared.extend(extra.remove(position).map(|(mount, place)| self.extra(mount, &place)));
            }
            prepared.push(one);
        }
        for (mount, place) in extra {
            prepared.push(self.extra(mount, &place));
        }
        self.prepare_masks();
        Ok(prepared)
    }

    fn extra(&mut self, mount: BorrowedFd<'a>, place: &Path) -> Prepared {
        let how = How::Ready(self.parts.files.borrow(mount));
        Prepared { destination: inside(place), how, after: Vec::new() }
    }

    fn prepare_mount(&mut self, index: usize, mount: &Mount) -> Result<Prepared, PlanError> {
        let destination = inside(mount.destination());
        let options = Options::parse(mount.options().as_deref().unwrap_or_default())?;
        let typ = mount.typ().as_deref().unwrap_or_default();
        check_proc(&destination, typ)?;
        let is_bind = options.bind.is_some() || matches!(typ, "bind" | "rbind");
        check_options(&destination, mount, &options, is_bind)?;
        if is_bind {
            return self.prepare_bind(index, mount, destination, &options);
        }
        let after = propagation_changes(&options);
        let how = match typ {
            "cgroup" | "cgroup2" => How::Cgroup(options),
            "proc" if self.own_user && self.fresh_pid() => {
                // The new PID namespace belongs to our user namespace, so only from here its procfs can be
                // mounted.
                let slot = self.parts.slot();
                let (fstype, fs_options, attributes, change) = self.new_fs(typ, mount, &options)?;
                self.parts.push(Op::NewFs { slot, fstype, options: fs_options, attributes });
                if !change.is_empty() {
                    self.parts.push(Op::SetMount { fd: Fd::Slot(slot), change });
                }
                How::Ready(Fd::Slot(slot))
            }
            "" => {
                return Err(PlanError::Invalid(format!(
                    "the mount on {} has no type",
                    destination.display()
                )));
            }
            _ => {
                let (fstype, options, attributes, change) = self.new_fs(typ, mount, &options)?;
                How::New { fstype, options, attributes, change }
            }
        };
        Ok(Prepared { destination, how, after })
    }

    fn new_fs(&self, typ: &str, mount: &Mount, options: &Options) -> Result<NewFs, PlanError> {
        let mut fs_options = Vec::new();
        let source = mount.source().as_deref().unwrap_or(Path::new(typ));
        fs_options.push(FsOption::Text(c"source".into(), c_path(source)?));
        fs_options.extend(options.data.iter().cloned());
        let label = self.linux.mount_label().as_deref().filter(|label| !label.is_empty());
        if let Some(label) = label.filter(|_| !matches!(typ, "proc" | "sysfs")) {
            fs_options.push(FsOption::Text(c"context".into(), CString::new(label)?));
        }
        // Attributes that only mount_setattr knows are set afterwards.
        let late = options.set & Attributes::NOSYMFOLLOW.0;
        let change = MountChange { set: late | options.set_recursive, ..MountChange::default() };
        Ok((CString::new(typ)?, fs_options, options.set & !late, change))
    }

    fn prepare_bind(
        &mut self,
        index: usize,
        mount: &Mount,
        destination: PathBuf,
        options: &Options,
    ) -> Result<Prepared, PlanError> {
        let source = mount.source().as_deref().unwrap_or(Path::new(""));
        if source.as_os_str().is_empty() {
            return Err(PlanError::Invalid(format!(
                "the bind mount on {} has no source",
                destination.display()
            )));
        }
        let slot = self.parts.slot();
        let path = c_path(&self.request.bundle.join(source))?;
        let recursive = options.bind.unwrap_or(mount.typ().as_deref() == Some("rbind"));
        self.parts.push(Op::CloneTree { slot, directory: Fd::Cwd, path, recursive });
        let mut changes = vec![
            MountChange {
                set: options.set,
                clear: clear(options.set, options.clear),
                ..MountChange::default()
            },
            MountChange {
                set: options.set_recursive,
                clear: clear(options.set_recursive, options.clear_recursive),
                recursive: true,
                ..MountChange::default()
            },
        ];
        changes.extend(self.idmap_of(index, mount, options)?);
        // Before anything is attached below: nothing spreads, unless it is asked for.
        let asked = propagation_changes(options);
        let private = MountChange {
            propagation: sys::mount::Propagation::Private.flag(),
            recursive,
            ..MountChange::default()
        };
        changes.extend(if asked.is_empty() { vec![private] } else { asked });
        for change in changes.into_iter().filter(|change| !change.is_empty()) {
            self.parts.push(Op::SetMount { fd: Fd::Slot(slot), change });
        }
        Ok(Prepared { destination, how: How::Ready(Fd::Slot(slot)), after: Vec::new() })
    }

    fn idmap_of(
        &mut self,
        index: usize,
        mount: &Mount,
        options: &Options,
    ) -> Result<Option<MountChange>, PlanError> {
        let has_maps = mount.uid_mappings().is_some() || mount.gid_mappings().is_some();
        let given = self.request.idmaps.iter().find(|(mount, _)| *mount == index).map(|(_, userns)| *userns);
        let joined = self.joins.iter().find(|(kind, _)| *kind == sys::ns::Kind::User).map(|(_, fd)| *fd);
        let userns = match (given, options.idmap) {
            (Some(userns), _) => self.parts.files.borrow(userns),
            (None, Some(_)) if !has_maps && joined.is_some() => match joined {
                Some(fd) => fd,
                None => return Ok(None),
            },
            (None, None) if !has_maps => return Ok(None),
            (None, _) => {
                let place = mount.destination().display();
                return Err(PlanError::Invalid(format!(
                    "no user namespace is prepared for the idmapped mount on {place}"
                )));
            }
        };
        let recursive = options.idmap.unwrap_or(false);
        Ok(Some(MountChange { idmap: Some(userns), recursive, ..MountChange::default() }))
    }

    /// Attaches everything in order.
    pub(super) fn attach_mounts(&mut self, prepared: Vec<Prepared>) -> Result<(), PlanError> {
        for Prepared { destination, how, after } in prepared {
            match how {
                How::Ready(mount) => {
                    // A root of its own may not be redirected by a link in the image.
                    let target = target(&destination)?;
                    self.parts.push(Op::Attach { mount, root: Fd::Slot(ROOT), target });
                    self.change(mount, &after);
                }
                How::New { fstype, options, attributes, change } => {
                    let slot = self.parts.slot();
                    self.parts.push(Op::NewFs { slot, fstype, options, attributes });
                    if !change.is_empty() {
                        self.parts.push(Op::SetMount { fd: Fd::Slot(slot), change });
                    }
                    let target = target(&destination)?;
                    self.parts.push(Op::Attach { mount: Fd::Slot(slot), root: Fd::Slot(ROOT), target });
                    self.change(Fd::Slot(slot), &after);
                }
                How::Cgroup(options) => self.mount_cgroups(&destination, &options)?,
            }
        }
        self.make_empty_directory();
        Ok(())
    }

    fn change(&mut self, mount: Fd, changes: &[MountChange]) {
        for change in changes {
            self.parts.push(Op::SetMount { fd: mount, change: *change });
        }
    }

    /// `/dev/null` of the host, made sure of, to hide files behind.
    fn prepare_masks(&mut self) {
        if self.linux.masked_paths().as_deref().unwrap_or_default().is_empty() {
            return;
        }
        let (null, empty) = (self.parts.slot(), self.parts.slot());
        self.parts.push(Op::CloneTree {
            slot: null,
            directory: Fd::Cwd,
            path: c"/dev/null".into(),
            recursive: false,
        });
        self.parts.push(super::devices::require(null, super::devices::NULL));
        self.masks = Some((null, empty));
    }

    /// The one empty directory that every masked directory is hidden behind.
    fn make_empty_directory(&mut self) {
        if let Some((_, slot)) = self.masks {
            let attributes = Attributes::RDONLY
                .with(Attributes::NOSUID)
                .with(Attributes::NODEV)
                .with(Attributes::NOEXEC)
                .0;
            self.parts.push(Op::NewFs { slot, fstype: c"tmpfs".into(), options: Vec::new(), attributes });
        }
    }
}

type NewFs = (CString, Vec<FsOption>, u64, MountChange);

/// mount_setattr(2) wants the access time field cleared as a whole before it is set.
fn clear(set: u64, clear: u64) -> u64 {
    if (set | clear) & Attributes::ATIME_MASK.0 != 0 { clear | Attributes::ATIME_MASK.0 } else { clear }
}

fn propagation_changes(options: &Options) -> Vec<MountChange> {
    let change = |(propagation, recursive): &(sys::mount::Propagation, bool)| MountChange {
        propagation: propagation.flag(),
        recursive: *recursive,
        ..MountChange::default()
    };
    options.propagation.iter().map(change).collect()
}

/// `/proc` and `/sys` are trusted later on, by the container's own programs at least: no link may lead
/// elsewhere.
fn target(destination: &Path) -> Result<Target, std::ffi::NulError> {
    let fixed = ["/proc", "/sys"].iter().any(|place| destination.starts_with(place));
    if fixed { Target::without_links(destination) } else { Target::new(destination) }
}

/// Options and maps that this kind of mount would not heed.
fn check_options(
    destination: &Path,
    mount: &Mount,
    options: &Options,
    is_bind: bool,
) -> Result<(), PlanError> {
    let place = destination.display();
    if is_bind {
        return match options.data.first() {
            Some(FsOption::Flag(name) | FsOption::Text(name, _)) => Err(PlanError::Invalid(format!(
                "the bind mount on {place} has the option {}, which is one of a file system",
                name.to_string_lossy()
            ))),
            None => Ok(()),
        };
    }
    if mount.uid_mappings().is_some() || mount.gid_mappings().is_some() || options.idmap.is_some() {
        return Err(PlanError::Unsupported(format!(
            "mounts[].uidMappings: the mount on {place} is no bind mount; it"
        )));
    }
    Ok(())
}

fn check_proc(destination: &Path, typ: &str) -> Result<(), PlanError> {
    if !destination.starts_with("/proc") || REPLACEABLE.iter().any(|file| destination == Path::new(file)) {
        return Ok(());
    }
    let whole = destination == Path::new("/proc");
    if whole && typ == "proc" || !whole && matches!(typ, "binfmt_misc") {
        return Ok(());
    }
    Err(PlanError::Invalid(format!("a mount on {} would hide the kernel's files", destination.display())))
}
