//! Resources as a list of writes, and the writing that can be taken back.
//!
//! A plan is complete before the first write: a controller or file that is missing is found while nothing
//! has changed yet.

use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;

use super::group::{Cgroup, Place};
use super::layout::Controller;
use super::{Error, files, plan_io, plan_v1, plan_v2};

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) path: PathBuf,
    pub(super) value: String,
    undo: Undo,
}

/// How a write is taken back.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Undo {
    /// By writing what the file held.
    Whole,
    /// By writing the line that began with this key, or the key with a value that stands for "no limit".
    Line { key: String, none: String },
}

/// Writes in their order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
}

/// What was written, with what takes it back.
#[derive(Debug, Default)]
pub(super) struct Done {
    undo: Vec<(PathBuf, String)>,
}

impl Plan {
    /// Plans all of `resources` but the devices.
    pub(super) fn new(group: &Cgroup, resources: &LinuxResources) -> Result<Self, Error> {
        let mut plan = Plan::default();
        if let Some(memory) = resources.memory() {
            match group.place(Controller::Memory) {
                Some(Place::V1(dir)) => plan_v1::memory(&mut plan, dir, memory)?,
                Some(Place::V2(dir)) => plan_v2::memory(&mut plan, dir, memory)?,
                None if plan_v1::memory_is_unset(memory) => {}
                None => _ = group.require(Controller::Memory, "memory")?,
            }
        }
        if let Some(cpu) = resources.cpu() {
            plan.cpu(group, cpu)?;
        }
        if let Some(limit) = resources.pids().as_ref().map(|pids| pids.limit()).filter(|&limit| limit != 0) {
            let dir = group.require(Controller::Pids, "pids.limit")?.dir();
            let value = if limit > 0 { limit.to_string() } else { "max".to_owned() };
            plan.push(Controller::Pids, "pids.limit", dir.join("pids.max"), value)?;
        }
        if let Some(io) = resources.block_io() {
            plan_io::block_io(&mut plan, group, io)?;
        }
        for limit in resources.hugepage_limits().iter().flatten() {
            plan.hugepages(group, limit)?;
        }
        if let Some(network) = resources.network() {
            plan_v1::network(&mut plan, group, network)?;
        }
        for (device, limit) in resources.rdma().iter().flatten() {
            let dir = group.require(Controller::Rdma, "rdma")?.dir();
            let number = |value: Option<u32>| value.map_or_else(|| "max".to_owned(), |n| n.to_string());
            let (handles, objects) = (number(limit.hca_handles()), number(limit.hca_objects()));
            let value = format!("{device} hca_handle={handles} hca_object={objects}");
            let none = format!("{device} hca_handle=max hca_object=max");
            plan.push_line(Controller::Rdma, "rdma", dir.join("rdma.max"), (device, &none), value)?;
        }
        for (file, value) in resources.unified().iter().flatten() {
            plan_v2::unified(&mut plan, group, file, value)?;
        }
        Ok(plan)
    }

    /// Adds a write to a file of one value.
    pub(super) fn push(
        &mut self,
        controller: Controller,
        field: &str,
        path: PathBuf,
        value: impl ToString,
    ) -> Result<(), Error> {
        require_file(controller, field, &path)?;
        self.steps.push(Step { path, value: value.to_string(), undo: Undo::Whole });
        Ok(())
    }

    /// Adds a write to a file with a line per key; `undo` is the key and a line that takes a limit away.
    pub(super) fn push_line(
        &mut self,
        controller: Controller,
        field: &str,
        path: PathBuf,
        undo: (&str, &str),
        value: String,
    ) -> Result<(), Error> {
        require_file(controller, field, &path)?;
        let undo = Undo::Line { key: undo.0.to_owned(), none: undo.1.to_owned() };
        self.steps.push(Step { path, value, undo });
        Ok(())
    }

    /// Writes everything; when a write fails, those before it are taken back.
    pub(super) fn apply(self) -> Result<Done, Error> {
        let mut done = Done::default();
        for step in self.steps {
            let before = step.restoring_value();
            if let Err(error) = files::write(&step.path, &step.value) {
                done.undo();
                return Err(error);
            }
            done.undo.extend(before.map(|value| (step.path, value)));
        }
        Ok(done)
    }

    fn cpu(&mut self, group: &Cgroup, cpu: &oci_spec::runtime::LinuxCpu) -> Result<(), Error> {
        if !plan_v1::cpu_is_unset(cpu) {
            match group.require(Controller::Cpu, "cpu")? {
                Place::V1(dir) => plan_v1::cpu(self, dir, cpu)?,
                Place::V2(dir) => plan_v2::cpu(self, dir, cpu)?,
            }
        }
        for (field, file, value) in
            [("cpu.cpus", "cpuset.cpus", cpu.cpus()), ("cpu.mems", "cpuset.mems", cpu.mems())]
        {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                let dir = group.require(Controller::Cpuset, field)?.dir();
                self.push(Controller::Cpuset, field, dir.join(file), value)?;
            }
        }
        Ok(())
    }

    fn hugepages(
        &mut self,
        group: &Cgroup,
        limit: &oci_spec::runtime::LinuxHugepageLimit,
    ) -> Result<(), Error> {
        let (field, size) = (format!("hugepageLimits[{}]", limit.page_size()), limit.page_size());
        if size.contains('/') {
            return Err(Error::Invalid { field: "hugepageLimits.pageSize".to_owned(), value: size.clone() });
        }
        let place = group.require(Controller::Hugetlb, &field)?;
        let suffix = if matches!(place, Place::V1(_)) { "limit_in_bytes" } else { "max" };
        let value = limit.limit();
        let text = match place {
            Place::V2(_) if value < 0 => "max".to_owned(),
            Place::V1(_) | Place::V2(_) => value.to_string(),
        };
        let path = |kind: &str| place.dir().join(format!("hugetlb.{size}.{kind}{suffix}"));
        self.push(Controller::Hugetlb, &field, path(""), &text)?;
        // Reservations count too where the kernel has them (Linux 5.7).
        if files::is_there(&path("rsvd.")) {
            self.push(Controller::Hugetlb, &field, path("rsvd."), &text)?;
        }
        Ok(())
    }
}

impl Step {
    /// What to write to undo this step; `None` when the file does not tell.
    fn restoring_value(&self) -> Option<String> {
        let text = files::read_optional(&self.path)?;
        match &self.undo {
            Undo::Whole => Some(if text.is_empty() { "\n".to_owned() } else { text }),
            Undo::Line { key, none } => {
                let is_ours = |line: &&str| line.split_whitespace().next() == Some(key.as_str());
                Some(text.lines().find(is_ours).map_or_else(|| none.clone(), str::to_owned))
            }
        }
    }
}

impl Done {
    /// Takes everything back, the last write first. What cannot be restored stays as it is.
    pub(super) fn undo(self) {
        for (path, value) in self.undo.into_iter().rev() {
            _ = files::write_io(&path, &value);
        }
    }
}

impl<'a> Place<'a> {
    pub(super) fn dir(self) -> &'a Path {
        match self {
            Place::V1(dir) | Place::V2(dir) => dir,
        }
    }
}

fn require_file(controller: Controller, field: &str, path: &Path) -> Result<(), Error> {
    if files::is_there(path) || !path.parent().is_some_and(files::is_there) {
        // Without the group itself the write shall fail and say so.
        return Ok(());
    }
    Err(Error::Unsupported { controller: controller.name(), field: field.to_owned() })
}
