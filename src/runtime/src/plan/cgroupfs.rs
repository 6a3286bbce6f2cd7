//! The control groups as a container sees them.
//!
//! On v2 one mount. On v1 a small tmpfs with a directory for each hierarchy: with a cgroup namespace the
//! hierarchy itself, whose root is then the container's group, otherwise a copy of the container's group.

use std::ffi::CString;
use std::path::Path;

use sys::mount::Attributes;
use sys::ns::Kind;
use sys::process::{Fd, FsOption, MountChange, Op, Target};

use super::{Builder, PlanError, ROOT};
use crate::host::CgroupMount;
use crate::options::Options;

impl Builder<'_, '_> {
    pub(super) fn mount_cgroups(&mut self, destination: &Path, options: &Options) -> Result<(), PlanError> {
        let host = self.request.host;
        if host.is_unified() {
            let unified = CgroupMount { path: "/sys/fs/cgroup".into(), controllers: Vec::new() };
            return self.mount_hierarchy(&unified, destination, options.set);
        }
        let slot = self.parts.slot();
        let root = Fd::Slot(ROOT);
        let text = |key: &std::ffi::CStr, value: &std::ffi::CStr| FsOption::Text(key.into(), value.into());
        self.parts.push(Op::NewFs {
            slot,
            fstype: c"tmpfs".into(),
            options: vec![text(c"mode", c"755"), text(c"size", c"64k")],
            attributes: options.set & !Attributes::RDONLY.0,
        });
        let target = Target::without_links(destination)?;
        self.parts.push(Op::Attach { mount: Fd::Slot(slot), root, target });
        for hierarchy in &host.cgroups {
            let Some(name) = hierarchy.path.file_name() else { continue };
            self.mount_hierarchy(hierarchy, &destination.join(name), options.set)?;
            if hierarchy.controllers.len() > 1 {
                for controller in &hierarchy.controllers {
                    let target = Target::without_links(&destination.join(controller))?;
                    self.parts.push(Op::MakeLink { root, target, to: super::c_path(Path::new(name))? });
                }
            }
        }
        if options.set & Attributes::RDONLY.0 != 0 {
            let change = MountChange { set: Attributes::RDONLY.0, ..MountChange::default() };
            self.parts.push(Op::SetMount { fd: Fd::Slot(slot), change });
        }
        Ok(())
    }

    fn mount_hierarchy(
        &mut self,
        hierarchy: &CgroupMount,
        place: &Path,
        attributes: u64,
    ) -> Result<(), PlanError> {
        let slot = self.parts.slot();
        if self.fresh.contains(&Kind::Cgroup) || self.request.cgroups.is_empty() && hierarchy.is_v2() {
            let mut options = Vec::new();
            for controller in &hierarchy.controllers {
                options.push(match controller.split_once('=') {
                    Some((key, value)) => FsOption::Text(CString::new(key)?, CString::new(value)?),
                    None => FsOption::Flag(CString::new(controller.as_str())?),
                });
            }
            let fstype = if hierarchy.is_v2() { c"cgroup2" } else { c"cgroup" };
            self.parts.push(Op::NewFs { slot, fstype: fstype.into(), options, attributes });
        } else {
            // Without a namespace: the container's own group, or for a hierarchy it is in no group of, nothing.
            let Some(own) = self.request.cgroups.iter().find(|own| own.starts_with(&hierarchy.path)) else {
                return Ok(());
            };
            let path = super::c_path(own)?;
            self.parts.push(Op::CloneTree { slot, directory: Fd::Cwd, path, recursive: false });
            let change = MountChange { set: attributes, ..MountChange::default() };
            self.parts.push(Op::SetMount { fd: Fd::Slot(slot), change });
        }
        let target = Target::without_links(place)?;
        self.parts.push(Op::Attach { mount: Fd::Slot(slot), root: Fd::Slot(ROOT), target });
        Ok(())
    }
}
