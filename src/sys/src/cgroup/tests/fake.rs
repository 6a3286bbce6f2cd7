//! A host whose control groups are plain files.

use std::fs;
use std::path::PathBuf;

use super::super::{Cgroup, Layout};

pub(super) struct Host {
    root: tempfile::TempDir,
    pub(super) layout: Layout,
}

impl Host {
    /// v1 with one hierarchy per item; an item may hold several controllers.
    pub(super) fn v1(hierarchies: &[&str]) -> Host {
        Self::new(hierarchies, None)
    }

    /// v2 with these controllers.
    pub(super) fn v2(controllers: &str) -> Host {
        Self::new(&[], Some(controllers))
    }

    pub(super) fn new(hierarchies: &[&str], v2: Option<&str>) -> Host {
        let root = tempfile::tempdir().unwrap();
        let cgroup = root.path().join("cgroup");
        let mut table = String::new();
        for options in hierarchies {
            let dir = cgroup.join(options.trim_start_matches("name="));
            fs::create_dir_all(&dir).unwrap();
            table += &format!("1 1 0:1 / {} rw - cgroup cgroup rw,{options}\n", dir.display());
        }
        if let Some(controllers) = v2 {
            let dir = if hierarchies.is_empty() { cgroup.clone() } else { cgroup.join("unified") };
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cgroup.controllers"), controllers).unwrap();
            fs::write(dir.join("cgroup.subtree_control"), "").unwrap();
            table += &format!("2 1 0:2 / {} rw - cgroup2 cgroup2 rw\n", dir.display());
        }
        let proc_root = root.path().join("proc");
        fs::create_dir_all(proc_root.join("self")).unwrap();
        fs::write(proc_root.join("self/mountinfo"), table).unwrap();
        let layout = Layout::detect(&cgroup, &proc_root).unwrap();
        Host { root, layout }
    }

    pub(super) fn path(&self, relative: &str) -> PathBuf {
        self.root.path().join("cgroup").join(relative)
    }

    /// Opens `path` after making files in it, each `hierarchy/file` (v1) or `file` (v2) with its content.
    pub(super) fn group(&self, path: &str, content: &[(&str, &str)]) -> Cgroup {
        for (name, text) in content {
            let (hierarchy, file) = name.split_once('/').unwrap_or(("", name));
            let dir = self.path(hierarchy).join(path.trim_start_matches('/'));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join(file), text).unwrap();
        }
        let group = self.layout.open(path).unwrap();
        group.dirs().iter().for_each(|dir| fs::create_dir_all(dir).unwrap());
        group
    }

    pub(super) fn read(&self, relative: &str) -> String {
        fs::read_to_string(self.path(relative)).unwrap()
    }
}
