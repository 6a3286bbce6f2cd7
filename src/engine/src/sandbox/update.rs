//! Changing limits of what exists.

use oci::ContainerId;

use super::task::Task;
use crate::blocking::Purpose;
use crate::error::{Error, ErrorKind, Result};
use crate::model::{ContainerState, Resources};
use crate::spec;

impl Task {
    /// Changes a container's limits: all of them, or none. One that has not started gets them when it does.
    pub(super) async fn update(&mut self, id: &ContainerId, asked: &Resources) -> Result<()> {
        let shared = std::sync::Arc::clone(&self.shared);
        let cgroups = shared.cgroups.clone();
        let container = self.container(id)?;
        let wanted = spec::resource_update(&container.config.resources, asked);
        let mut limits = spec::limits(asked)?;
        shared.fit(&mut limits);
        spec::limits(&wanted)?;
        match container.state {
            ContainerState::Created => {}
            ContainerState::Exited(_) => {
                return Err(Error::precondition(format!("container {} has exited", id.short())));
            }
            ContainerState::Running { .. } => {
                let path = container.cgroup_path.clone();
                let work = move || cgroups.open(&path).and_then(|cgroup| cgroup.apply(&limits));
                let what = format!("change the limits of container {}", id.short());
                shared.blocking.run(Purpose::Lifecycle, work).await?.map_err(|error| {
                    let kind = match error {
                        sys::cgroup::Error::Unsupported { .. } => ErrorKind::Unsupported,
                        sys::cgroup::Error::Invalid { .. } | sys::cgroup::Error::BelowUsage { .. } => {
                            ErrorKind::InvalidArgument
                        }
                        _ => ErrorKind::Internal,
                    };
                    Error::caused_by(kind, what, error)
                })?;
            }
        }
        self.container(id)?.config.resources = wanted;
        self.persist().await?;
        self.publish();
        Ok(())
    }

    /// Notes what the client accounts for the sandbox; its cgroup is the client's to write.
    pub(super) async fn update_sandbox(
        &mut self,
        overhead: Option<Box<Resources>>,
        resources: Option<Box<Resources>>,
    ) -> Result<()> {
        if let Some(overhead) = overhead {
            self.record.config.overhead = Some(*overhead);
        }
        if let Some(resources) = resources {
            self.record.config.resources = Some(*resources);
        }
        self.persist().await?;
        self.publish();
        Ok(())
    }
}
