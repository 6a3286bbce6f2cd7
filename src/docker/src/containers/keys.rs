//! Every key of the body that makes a container, and what becomes of it.
//!
//! The body is held against this table before it is read: a key that cannot be honoured is refused with its reason
//! unless its value means nothing, and one that nobody knows is told as a warning. A test holds the table against the
//! types that read the body.

use serde_json::{Map, Value};

use crate::http::{ApiError, Result};

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// The container is made so.
    Honoured,
    /// It says something of the client or of other systems; it is given back by inspect.
    Kept,
    /// It is an error unless empty; why.
    Refused(&'static str),
}

use Fate::{Honoured, Kept, Refused};

/// Keys of the configuration itself.
pub(super) const CONFIG: &[(&str, Fate)] = &[
    ("Hostname", Honoured),
    ("Domainname", Honoured),
    ("User", Honoured),
    // Which streams the client will attach to, which it says again when it does.
    ("AttachStdin", Kept),
    ("AttachStdout", Kept),
    ("AttachStderr", Kept),
    ("ExposedPorts", Honoured),
    ("Tty", Honoured),
    ("OpenStdin", Honoured),
    ("StdinOnce", Honoured),
    ("Env", Honoured),
    ("Cmd", Honoured),
    ("Healthcheck", Honoured),
    // About command lines of Windows.
    ("ArgsEscaped", Kept),
    ("Image", Honoured),
    ("Volumes", Honoured),
    ("WorkingDir", Honoured),
    ("Entrypoint", Honoured),
    ("NetworkDisabled", Honoured),
    ("MacAddress", Honoured),
    // About images that are built from this one.
    ("OnBuild", Kept),
    ("Labels", Honoured),
    ("StopSignal", Honoured),
    ("StopTimeout", Honoured),
    ("Shell", Honoured),
    ("HostConfig", Honoured),
    ("NetworkingConfig", Honoured),
];

const RT: &str = "real-time scheduling of groups is not part of this release";
const IO: &str = "weights and limits of block devices are not part of this release";
const WINDOWS: &str = "it is for Windows";

/// Keys of the part about the host.
pub(super) const HOST: &[(&str, Fate)] = &[
    ("Binds", Honoured),
    // Where the client writes the container's id.
    ("ContainerIDFile", Kept),
    ("LogConfig", Honoured),
    ("NetworkMode", Honoured),
    ("PortBindings", Honoured),
    ("RestartPolicy", Honoured),
    ("AutoRemove", Honoured),
    ("VolumeDriver", Honoured),
    ("VolumesFrom", Honoured),
    ("Mounts", Honoured),
    ("ConsoleSize", Honoured),
    ("Annotations", Honoured),
    ("CapAdd", Honoured),
    ("CapDrop", Honoured),
    ("CgroupnsMode", Honoured),
    ("Dns", Honoured),
    ("DnsOptions", Honoured),
    ("DnsSearch", Honoured),
    ("ExtraHosts", Honoured),
    ("GroupAdd", Honoured),
    ("IpcMode", Honoured),
    ("Cgroup", Refused("joining another container's cgroup is not part of this release")),
    ("Links", Honoured),
    ("OomScoreAdj", Honoured),
    ("PidMode", Honoured),
    ("Privileged", Honoured),
    ("PublishAllPorts", Honoured),
    ("ReadonlyRootfs", Honoured),
    ("SecurityOpt", Honoured),
    ("StorageOpt", Refused("limits on the size of a container's files are not part of this release")),
    ("Tmpfs", Honoured),
    ("UTSMode", Honoured),
    ("UsernsMode", Honoured),
    ("ShmSize", Honoured),
    ("Sysctls", Honoured),
    ("Runtime", Honoured),
    ("Isolation", Honoured),
    ("MaskedPaths", Honoured),
    ("ReadonlyPaths", Honoured),
    ("CpuShares", Honoured),
    ("Memory", Honoured),
    ("CgroupParent", Honoured),
    ("BlkioWeight", Refused(IO)),
    ("BlkioWeightDevice", Refused(IO)),
    ("BlkioDeviceReadBps", Refused(IO)),
    ("BlkioDeviceWriteBps", Refused(IO)),
    ("BlkioDeviceReadIOps", Refused(IO)),
    ("BlkioDeviceWriteIOps", Refused(IO)),
    ("CpuPeriod", Honoured),
    ("CpuQuota", Honoured),
    ("CpuRealtimePeriod", Refused(RT)),
    ("CpuRealtimeRuntime", Refused(RT)),
    ("CpusetCpus", Honoured),
    ("CpusetMems", Honoured),
    ("Devices", Honoured),
    ("DeviceCgroupRules", Refused("name the devices themselves (--device)")),
    ("DeviceRequests", Honoured),
    ("KernelMemory", Refused("Linux has no limits on kernel memory any more")),
    ("KernelMemoryTCP", Refused("limits on memory of sockets are not part of this release")),
    ("MemoryReservation", Honoured),
    ("MemorySwap", Honoured),
    ("MemorySwappiness", Refused("the kernel's own weighing of swap is used")),
    ("NanoCpus", Honoured),
    ("OomKillDisable", Refused("a container that cannot be killed for want of memory stands still instead")),
    ("Init", Honoured),
    ("PidsLimit", Honoured),
    ("Ulimits", Honoured),
    ("CpuCount", Refused(WINDOWS)),
    ("CpuPercent", Refused(WINDOWS)),
    ("IOMaximumIOps", Refused(WINDOWS)),
    ("IOMaximumBandwidth", Refused(WINDOWS)),
];

/// Keys of the part about networks.
pub(super) const NETWORKING: &[(&str, Fate)] = &[("EndpointsConfig", Honoured)];

/// Keys of one network there. What the daemon tells about an attachment comes back from clients that copy a
/// container, and means nothing.
pub(super) const ENDPOINT: &[(&str, Fate)] = &[
    ("IPAMConfig", Honoured),
    ("Links", Honoured),
    ("Aliases", Honoured),
    ("MacAddress", Honoured),
    ("DriverOpts", Honoured),
    ("GwPriority", Honoured),
    ("NetworkID", Kept),
    ("EndpointID", Kept),
    ("Gateway", Kept),
    ("IPAddress", Kept),
    ("IPPrefixLen", Kept),
    ("IPv6Gateway", Kept),
    ("GlobalIPv6Address", Kept),
    ("GlobalIPv6PrefixLen", Kept),
    ("DNSNames", Kept),
];

/// Whether a value is what a client sends when it wants nothing.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
        Value::Bool(true) => false,
    }
}

/// Holds a whole body against the tables; the warnings for the client.
pub(super) fn check(body: &Value) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    check_map(body, "", CONFIG, &mut warnings)?;
    check_map(&body["HostConfig"], "HostConfig.", HOST, &mut warnings)?;
    let networking = &body["NetworkingConfig"];
    check_map(networking, "NetworkingConfig.", NETWORKING, &mut warnings)?;
    for (name, endpoint) in networking["EndpointsConfig"].as_object().into_iter().flatten() {
        check_map(endpoint, &format!("NetworkingConfig.EndpointsConfig[{name}]."), ENDPOINT, &mut warnings)?;
    }
    Ok(warnings)
}

/// Holds the body of an update against the table; of what it can say, only limits and the policy are changed.
pub(super) fn check_update(body: &Value) -> Result<Vec<String>> {
    let mut warnings = Vec::new();
    check_map(body, "", HOST, &mut warnings)?;
    for (key, value) in body.as_object().into_iter().flatten() {
        if !UPDATES.contains(&key.as_str())
            && !is_empty(value)
            && HOST.iter().any(|(known, fate)| known == key && *fate == Honoured)
        {
            return Err(ApiError::bad(format!(
                "{key} cannot be changed of a container that is made: make a new one"
            )));
        }
    }
    Ok(warnings)
}

/// What an update changes.
const UPDATES: [&str; 11] = [
    "CpuShares",
    "Memory",
    "CpuPeriod",
    "CpuQuota",
    "CpusetCpus",
    "CpusetMems",
    "MemoryReservation",
    "MemorySwap",
    "NanoCpus",
    "PidsLimit",
    "RestartPolicy",
];

fn check_map(map: &Value, place: &str, table: &[(&str, Fate)], warnings: &mut Vec<String>) -> Result<()> {
    let empty = Map::new();
    for (key, value) in map.as_object().unwrap_or(&empty) {
        // Go's clients and ours read keys in any case of letters; the table has the usual one.
        let fate = table.iter().find(|(known, _)| known.eq_ignore_ascii_case(key)).map(|(_, fate)| *fate);
        match fate {
            Some(Honoured | Kept) => {}
            // A negative number means "leave alone" where 0 is a value.
            Some(Refused(_)) if is_empty(value) || value.as_i64() == Some(-1) => {}
            Some(Refused(why)) => {
                return Err(ApiError::bad(format!("{place}{key} is not supported by this daemon: {why}")));
            }
            None if is_empty(value) => {}
            None => warnings.push(format!("{place}{key} is not known to this daemon and has no effect")),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_cannot_be_had_is_refused_with_its_reason() {
        let body = json!({"Image": "x", "HostConfig": {"BlkioWeight": 300}});
        let error = check(&body).unwrap_err();
        assert_eq!(error.status().as_u16(), 400);
        assert_eq!(
            error.message(),
            "HostConfig.BlkioWeight is not supported by this daemon: weights and limits of block devices are not part of this release"
        );
    }

    #[test]
    fn empty_values_want_nothing() {
        let body = json!({
            "HostConfig": {"BlkioWeight": 0, "BlkioWeightDevice": [], "StorageOpt": null, "OomKillDisable": false, "KernelMemory": -1},
            "Bogus": {"a": ""},
        });
        assert_eq!(check(&body).unwrap(), [""; 0]);
    }

    #[test]
    fn updates_change_limits_and_the_policy() {
        assert!(
            check_update(&json!({"Memory": 1, "RestartPolicy": {"Name": "no"}, "Binds": null}))
                .unwrap()
                .is_empty()
        );
        assert!(
            check_update(&json!({"Privileged": true}))
                .unwrap_err()
                .message()
                .starts_with("Privileged cannot be changed")
        );
    }

    #[test]
    fn unknown_keys_are_told() {
        let body = json!({
            "Bogus": 1,
            "HostConfig": {"Nonsense": "x"},
            "NetworkingConfig": {"EndpointsConfig": {"web": {"Speed": 5, "IPAddress": "10.0.0.1"}}},
        });
        let warnings = check(&body).unwrap();
        assert_eq!(warnings.len(), 3);
        assert_eq!(
            warnings[2],
            "NetworkingConfig.EndpointsConfig[web].Speed is not known to this daemon and has no effect"
        );
    }
}
