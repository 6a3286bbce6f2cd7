//! Changing the limits of a container.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use oci::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use super::arguments::Update;
use super::record::{Root, Status};

pub(super) fn update(root: &Root, arguments: &Update) -> Result<()> {
    let record = root.load(&arguments.id)?;
    if root.status(&record)? == Status::Stopped {
        bail!("container {} does not run", record.id);
    }
    let resources = wanted(arguments)?;
    record.group()?.apply(&resources).context("set the limits of the container")?;
    // What was changed is what the container has from now on.
    let mut spec = serde_json::to_value(root.spec(&record.id)?)?;
    merge(&mut spec["linux"]["resources"], serde_json::to_value(&resources)?);
    root.save(&record, &serde_json::from_value(spec)?)
}

fn wanted(arguments: &Update) -> Result<LinuxResources> {
    if let Some(path) = &arguments.resources {
        return Ok(serde_json::from_str(&read(path)?)?);
    }
    let mut cpu = Map::new();
    let mut put = |name: &str, value: Value| {
        if !value.is_null() {
            cpu.insert(name.to_owned(), value);
        }
    };
    put("shares", json!(arguments.cpu_share));
    put("quota", json!(arguments.cpu_quota));
    put("period", json!(arguments.cpu_period));
    put("burst", json!(arguments.cpu_burst));
    put("realtimePeriod", json!(arguments.cpu_rt_period));
    put("realtimeRuntime", json!(arguments.cpu_rt_runtime));
    put("cpus", json!(arguments.cpuset_cpus));
    put("mems", json!(arguments.cpuset_mems));
    let mut memory = Map::new();
    for (name, text) in [
        ("limit", &arguments.memory),
        ("reservation", &arguments.memory_reservation),
        ("swap", &arguments.memory_swap),
    ] {
        if let Some(text) = text {
            memory.insert(name.to_owned(), json!(bytes(text)?));
        }
    }
    let mut resources = Map::new();
    for (name, part) in [("cpu", cpu), ("memory", memory)] {
        if !part.is_empty() {
            resources.insert(name.to_owned(), Value::Object(part));
        }
    }
    if let Some(limit) = arguments.pids_limit {
        resources.insert("pids".into(), json!({"limit": limit}));
    }
    if let Some(weight) = arguments.blkio_weight {
        resources.insert("blockIO".into(), json!({"weight": weight}));
    }
    if resources.is_empty() {
        bail!("nothing to change is given");
    }
    Ok(serde_json::from_value(Value::Object(resources))?)
}

fn read(path: &Path) -> Result<String> {
    if path == Path::new("-") {
        let mut text = String::new();
        std::io::stdin().read_to_string(&mut text).context("read standard input")?;
        return Ok(text);
    }
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

/// A number of bytes, with k, m, g or t for powers of 1024; -1 is no limit.
fn bytes(text: &str) -> Result<i64> {
    let wrong = || format!("{text} is no size: write it as 64m, or -1 for no limit");
    if text == "-1" {
        return Ok(-1);
    }
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let (number, shift) = match lower.as_bytes().last() {
        Some(b'k') => (&lower[..lower.len() - 1], 10),
        Some(b'm') => (&lower[..lower.len() - 1], 20),
        Some(b'g') => (&lower[..lower.len() - 1], 30),
        Some(b't') => (&lower[..lower.len() - 1], 40),
        _ => (lower, 0),
    };
    let number: i64 = number.parse().ok().filter(|number| *number >= 0).with_context(wrong)?;
    number.checked_mul(1 << shift).with_context(wrong)
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, expected) in
            [("0", 0), ("10", 10), ("64m", 64 << 20), ("1G", 1 << 30), ("2kb", 2048), ("-1", -1)]
        {
            assert_eq!(bytes(text).unwrap(), expected);
        }
        for text in ["", "m", "-2", "1x", "99999999999t"] {
            bytes(text).unwrap_err();
        }
    }
}
