//! Statistics of a container, once or as a stream.

use std::sync::Arc;
use std::time::Duration;

use engine::{CgroupStats, ContainerStats, HostCpu, InterfaceStats};
use serde_json::{Map, Value, json};

use super::target::{self, Target};
use crate::app::App;
use crate::http::{ApiError, Call, Reply, Result};
use crate::text;

/// Between two samples.
const PERIOD: Duration = Duration::from_secs(1);

/// What is known at one moment.
struct Sample {
    stats: Option<ContainerStats>,
    interfaces: Vec<InterfaceStats>,
    host: HostCpu,
    at_ns: i64,
}

pub(super) async fn stats(app: Arc<App>, call: &Call, reference: &str) -> Result<Reply> {
    let (stream, once) = (call.params.flag_or("stream", true), call.params.flag("one-shot"));
    if stream && once {
        return Err(ApiError::bad("cannot have stream=true and one-shot=true"));
    }
    let target = target::find(&app, reference)?;
    let id = target.id().to_string();
    let memory = app.engine.node_info().await?.memory_bytes;
    let stop = app.stop.clone();
    Ok(Reply::stream("application/json", move |out| async move {
        let mut before = None;
        if !stream && !once && target.process().is_some() {
            // One answer with the use of CPU in it takes two samples.
            before = sample(&app, &id).await.map(|(_, sample)| sample);
            tokio::time::sleep(PERIOD).await;
        }
        let mut ticks = tokio::time::interval(PERIOD);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = stop.cancelled() => return,
            }
            // A container that is gone ends the stream.
            let Some((target, now)) = sample(&app, &id).await else { return };
            let document = describe(&target, &now, before.as_ref(), memory);
            if out.json(&document, "\n").await.is_err() || !stream {
                return;
            }
            before = now.stats.is_some().then_some(now);
        }
    }))
}

async fn sample(app: &App, id: &str) -> Option<(Target, Sample)> {
    let target = target::find(app, id).ok()?;
    let sandbox = match &target {
        Target::Own(status) => status.run.as_ref().map(|run| run.sandbox.to_string()),
        Target::Pod(sandbox, _) => Some(sandbox.id.to_string()),
    };
    let (mut stats, mut interfaces) = (None, Vec::new());
    if let (Some(sandbox), true) = (sandbox, target.process().is_some()) {
        stats = app.engine.container_stats(id).await.ok();
        interfaces =
            app.engine.sandbox_stats(&sandbox).await.map(|(_, stats)| stats.interfaces).unwrap_or_default();
    }
    let host = app.engine.host_cpu().await.unwrap_or_default();
    Some((target, Sample { stats, interfaces, host, at_ns: text::now_ns() }))
}

fn describe(target: &Target, now: &Sample, before: Option<&Sample>, host_memory: u64) -> Value {
    let cgroup = now.stats.as_ref().and_then(|stats| stats.cgroup.as_ref());
    let mut document = json!({
        "id": target.id().as_str(),
        "name": format!("/{}", target.name()),
        "os_type": "linux",
        "read": text::rfc3339(if cgroup.is_some() { now.at_ns } else { 0 }),
        "preread": text::rfc3339(before.map_or(0, |before| before.at_ns)),
        "pids_stats": {},
        "blkio_stats": {
            "io_service_bytes_recursive": null, "io_serviced_recursive": null, "io_queue_recursive": null,
            "io_service_time_recursive": null, "io_wait_time_recursive": null, "io_merged_recursive": null,
            "io_time_recursive": null, "sectors_recursive": null,
        },
        "num_procs": 0,
        "storage_stats": {},
        "cpu_stats": cpu(cgroup.map(|cgroup| (cgroup, &now.host))),
        "precpu_stats": cpu(before.and_then(|before| {
            Some((before.stats.as_ref()?.cgroup.as_ref()?, &before.host))
        })),
        "memory_stats": {},
    });
    let Some(cgroup) = cgroup else { return document };
    if let Some(memory) = &cgroup.memory {
        document["memory_stats"] = json!({
            "usage": memory.usage_bytes,
            "limit": memory.limit_bytes.map_or(host_memory, |limit| limit.min(host_memory)),
            "failcnt": memory.fail_count,
            "stats": {
                "anon": memory.rss_bytes, "file": memory.cache_bytes, "file_mapped": memory.mapped_file_bytes,
                "inactive_file": memory.inactive_file_bytes, "total_inactive_file": memory.inactive_file_bytes,
                "pgfault": memory.page_faults, "pgmajfault": memory.major_page_faults,
            },
        });
        if let Some(most) = memory.max_usage_bytes {
            document["memory_stats"]["max_usage"] = json!(most);
        }
    }
    if let Some(pids) = &cgroup.pids {
        document["pids_stats"]["current"] = json!(pids.current);
        if let Some(limit) = pids.limit {
            document["pids_stats"]["limit"] = json!(limit);
        }
    }
    if let Some(io) = &cgroup.io {
        let entries = |of: fn(&engine::CgroupDevice) -> [(&'static str, u64); 2]| {
            let of_device = |device: &engine::CgroupDevice| {
                of(device).map(|(op, value)| json!({"major": device.major, "minor": device.minor, "op": op, "value": value}))
            };
            io.devices.iter().flat_map(of_device).collect::<Vec<_>>()
        };
        document["blkio_stats"]["io_service_bytes_recursive"] =
            json!(entries(|device| [("read", device.read_bytes), ("write", device.write_bytes)]));
        document["blkio_stats"]["io_serviced_recursive"] =
            json!(entries(|device| [("read", device.reads), ("write", device.writes)]));
    }
    let interfaces: Map<String, Value> =
        now.interfaces.iter().map(|one| (one.name.clone(), interface(one))).collect();
    if !interfaces.is_empty() {
        document["networks"] = Value::Object(interfaces);
    }
    document
}

fn cpu(at: Option<(&CgroupStats, &HostCpu)>) -> Value {
    let used = at.and_then(|(cgroup, _)| cgroup.cpu).unwrap_or_default();
    let mut cpu = json!({
        "cpu_usage": {
            "total_usage": used.usage_ns, "usage_in_kernelmode": used.system_ns, "usage_in_usermode": used.user_ns,
        },
        "throttling_data": {
            "periods": used.periods, "throttled_periods": used.throttled_periods, "throttled_time": used.throttled_ns,
        },
    });
    if let Some((_, host)) = at {
        cpu["system_cpu_usage"] = json!(host.total_ns);
        cpu["online_cpus"] = json!(host.online);
    }
    cpu
}

fn interface(stats: &InterfaceStats) -> Value {
    json!({
        "rx_bytes": stats.rx_bytes, "rx_packets": stats.rx_packets, "rx_errors": stats.rx_errors, "rx_dropped": stats.rx_dropped,
        "tx_bytes": stats.tx_bytes, "tx_packets": stats.tx_packets, "tx_errors": stats.tx_errors, "tx_dropped": stats.tx_dropped,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_told_beside_the_hosts() {
        let used = engine::CgroupCpu { usage_ns: 30, user_ns: 20, system_ns: 10, ..Default::default() };
        let cgroup = CgroupStats { cpu: Some(used), ..CgroupStats::default() };
        let told = cpu(Some((&cgroup, &HostCpu { total_ns: 1000, online: 2 })));
        assert_eq!(told["cpu_usage"]["total_usage"], 30);
        assert_eq!((&told["system_cpu_usage"], &told["online_cpus"]), (&json!(1000), &json!(2)));
        assert!(cpu(None).get("system_cpu_usage").is_none());
    }
}
