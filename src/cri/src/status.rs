//! Version, status and settings of the runtime.

use std::collections::HashMap;

use cri_api::v1;
use engine::{CgroupDriver, Condition, EngineStatus};

/// Version of the API between kubelet and runtime, which is not that of the interface's package.
const KUBELET_API_VERSION: &str = "0.1.0";
const RUNTIME_NAME: &str = "berth";
const API_VERSION: &str = "v1";

pub(crate) fn version() -> v1::VersionResponse {
    v1::VersionResponse {
        version: KUBELET_API_VERSION.into(),
        runtime_name: RUNTIME_NAME.into(),
        runtime_version: env!("CARGO_PKG_VERSION").into(),
        runtime_api_version: API_VERSION.into(),
    }
}

fn condition(kind: &str, condition: &Condition) -> v1::RuntimeCondition {
    v1::RuntimeCondition {
        r#type: kind.into(),
        status: condition.met,
        reason: condition.reason.clone(),
        message: condition.message.clone(),
    }
}

/// Conditions, handlers and features; `verbose` adds the settings and what is degraded, as JSON.
pub(crate) fn response(status: &EngineStatus, verbose: bool) -> v1::StatusResponse {
    let conditions =
        vec![condition("RuntimeReady", &status.runtime), condition("NetworkReady", &status.network)];
    let handlers = status.handlers.iter().map(|handler| v1::RuntimeHandler {
        name: handler.name.clone(),
        features: Some(v1::RuntimeHandlerFeatures {
            recursive_read_only_mounts: handler.recursive_read_only_mounts,
            user_namespaces: handler.user_namespaces,
        }),
    });
    let info = || {
        let degraded = serde_json::json!(status.degraded).to_string();
        [("config".to_owned(), status.config.to_string()), ("degraded".to_owned(), degraded)].into()
    };
    v1::StatusResponse {
        status: Some(v1::RuntimeStatus { conditions }),
        info: if verbose { info() } else { HashMap::new() },
        runtime_handlers: handlers.collect(),
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: status.features.supplemental_groups_policy,
            user_namespaces_host_network: status.features.user_namespaces_host_network,
            mount_options: status.features.mount_options,
        }),
    }
}

pub(crate) fn runtime_config(driver: CgroupDriver) -> v1::RuntimeConfigResponse {
    let driver = match driver {
        CgroupDriver::Cgroupfs => v1::CgroupDriver::Cgroupfs,
        CgroupDriver::Systemd => v1::CgroupDriver::Systemd,
    };
    v1::RuntimeConfigResponse { linux: Some(v1::LinuxRuntimeConfiguration { cgroup_driver: driver.into() }) }
}

#[cfg(test)]
mod tests {
    use engine::{HandlerFeatures, NodeFeatures};

    use super::*;

    #[test]
    fn conditions_and_settings() {
        let status = EngineStatus {
            runtime: Condition::met(),
            network: Condition::unmet("NoNetwork", "no conflist"),
            handlers: vec![HandlerFeatures::default()],
            features: NodeFeatures { mount_options: true, ..Default::default() },
            degraded: vec!["no CAP_SYS_RESOURCE".into()],
            config: serde_json::json!({"stateDir": "/var/lib/berth/storage"}),
        };
        let brief = response(&status, false);
        let conditions = brief.status.unwrap().conditions;
        assert_eq!((conditions[0].r#type.as_str(), conditions[0].status), ("RuntimeReady", true));
        assert_eq!((conditions[1].r#type.as_str(), conditions[1].status), ("NetworkReady", false));
        assert!(brief.info.is_empty() && brief.features.unwrap().mount_options);
        let info = response(&status, true).info;
        assert_eq!(info["config"], r#"{"stateDir":"/var/lib/berth/storage"}"#);
    }
}
