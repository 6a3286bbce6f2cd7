//! Looking at containers, signalling and removing them.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use sys::cgroup::{Detail, Stats};

use super::arguments::ListFormat;
use super::hooks;
use super::record::{Record, Root, Status, timestamp};

/// How long a killed container may take to end.
const KILL_TIMEOUT_MS: i32 = 10_000;
const SIGKILL: i32 = 9;

#[allow(clippy::print_stdout)] // what is printed is what the command is for
mod out {
    pub(super) fn line(text: &str) {
        println!("{text}");
    }
}

pub(super) fn state(root: &Root, id: &str) -> Result<()> {
    let state = root.state(&root.load(id)?)?;
    out::line(&serde_json::to_string_pretty(&state)?);
    Ok(())
}

pub(super) fn kill(root: &Root, id: &str, signal: &str, all: bool) -> Result<()> {
    let record = root.load(id)?;
    let signal = parse_signal(signal)?;
    if all {
        return record.group()?.kill(signal).context("signal the processes of the container");
    }
    let process = record.process()?.with_context(|| format!("container {id} does not run"))?;
    sys::pidfd::signal(process.as_fd(), signal).with_context(|| format!("signal container {id}"))?;
    if signal == SIGKILL && root.status(&record)? == Status::Paused {
        record.group()?.thaw().context("let the container go on, so that it can end")?;
    }
    Ok(())
}

pub(super) fn delete(root: &Root, id: &str, force: bool) -> Result<()> {
    let record = match root.load(id) {
        Ok(record) => record,
        Err(_) if force => return root.forget(id),
        Err(error) => return Err(error),
    };
    if let Some(process) = record.process()? {
        let status = root.status(&record)?;
        if !force && status != Status::Created {
            bail!("container {id} is {}: stop it first, or use --force", status.word());
        }
        sys::pidfd::signal(process.as_fd(), SIGKILL).with_context(|| format!("kill container {id}"))?;
        if status == Status::Paused {
            record.group()?.thaw().context("let the container go on, so that it can end")?;
        }
        if !sys::pidfd::wait_readable(process.as_fd(), KILL_TIMEOUT_MS)
            .context("wait for the container to end")?
        {
            bail!("container {id} does not end");
        }
    }
    let group = record.group()?;
    // Without a PID namespace of its own a container's other processes outlive its first.
    if group.procs().is_ok_and(|pids| !pids.is_empty()) {
        group.kill(SIGKILL).context("kill what is left of the container")?;
    }
    group.remove().context("remove the cgroup")?;
    let spec = root.spec(id).ok();
    root.forget(id)?;
    if let Some(spec) = spec {
        hooks::after_stop(root, &record, &spec);
    }
    Ok(())
}

pub(super) fn list(root: &Root, format: ListFormat, quiet: bool) -> Result<()> {
    let records = root.all()?;
    if quiet {
        records.iter().for_each(|record| out::line(&record.id));
        return Ok(());
    }
    if format == ListFormat::Json {
        let states = records.iter().map(|record| root.state(record)).collect::<Result<Vec<_>>>()?;
        out::line(&serde_json::to_string(&states)?);
        return Ok(());
    }
    out::line(&format!("{:<24} {:>8} {:<8} {:<40} CREATED", "ID", "PID", "STATUS", "BUNDLE"));
    for record in records {
        let Record { id, pid, bundle, created_ns, .. } = &record;
        let status = root.status(&record)?;
        let pid = if status == Status::Stopped { 0 } else { *pid };
        let (bundle, created) = (bundle.display().to_string(), timestamp(*created_ns));
        out::line(&format!("{id:<24} {pid:>8} {:<8} {bundle:<40} {created}", status.word()));
    }
    Ok(())
}

pub(super) fn ps(root: &Root, id: &str, format: ListFormat, options: &[String]) -> Result<()> {
    let record = root.load(id)?;
    let pids = record.group()?.procs().context("list the processes of the container")?;
    if format == ListFormat::Json {
        out::line(&serde_json::to_string(&pids)?);
        return Ok(());
    }
    let options = if options.is_empty() { vec!["-ef".to_owned()] } else { options.to_vec() };
    let command = sys::process::Command {
        program: "/bin/ps".into(),
        arguments: options.into_iter().map(Into::into).collect(),
        timeout: Some(Duration::from_secs(10)),
        ..sys::process::Command::default()
    };
    let output = command.run().context("run ps")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut lines = text.lines();
    let header = lines.next().context("ps shows nothing")?;
    let column =
        header.split_whitespace().position(|name| name == "PID").context("ps shows no column PID")?;
    out::line(header);
    let ours = |line: &&str| {
        let pid = line.split_whitespace().nth(column).and_then(|pid| pid.parse::<u32>().ok());
        pid.is_some_and(|pid| pids.contains(&pid))
    };
    lines.filter(ours).for_each(out::line);
    Ok(())
}

pub(super) fn pause(root: &Root, id: &str) -> Result<()> {
    let record = root.load(id)?;
    if root.status(&record)? != Status::Running {
        bail!("container {id} does not run");
    }
    record.group()?.freeze().with_context(|| format!("pause container {id}"))
}

pub(super) fn resume(root: &Root, id: &str) -> Result<()> {
    let record = root.load(id)?;
    if root.status(&record)? != Status::Paused {
        bail!("container {id} is not paused");
    }
    record.group()?.thaw().with_context(|| format!("resume container {id}"))
}

pub(super) fn events(root: &Root, id: &str, once: bool, interval: Duration) -> Result<()> {
    let record = root.load(id)?;
    let mut reader = record.group()?.reader();
    loop {
        if root.status(&record)? == Status::Stopped {
            if once {
                bail!("container {id} does not run");
            }
            return Ok(());
        }
        let stats = reader.read(Detail::Everything).context("read the statistics of the container")?;
        let event = serde_json::json!({"type": "stats", "id": id, "data": statistics(&stats)});
        out::line(&event.to_string());
        if once {
            return Ok(());
        }
        let process = record.process()?;
        let Some(process) = process else { return Ok(()) };
        let timeout = i32::try_from(interval.as_millis()).unwrap_or(i32::MAX);
        sys::pidfd::wait_readable(process.as_fd(), timeout).context("wait")?;
    }
}

/// In the form that readers of runc's events know.
fn statistics(stats: &Stats) -> serde_json::Value {
    let mut data = serde_json::Map::new();
    if let Some(cpu) = &stats.cpu {
        data.insert(
            "cpu".into(),
            serde_json::json!({
                "usage": {"total": cpu.usage_ns, "user": cpu.user_ns, "kernel": cpu.system_ns},
                "throttling": {"periods": cpu.periods, "throttledPeriods": cpu.throttled_periods,
                               "throttledTime": cpu.throttled_ns},
            }),
        );
    }
    if let Some(memory) = &stats.memory {
        data.insert(
            "memory".into(),
            serde_json::json!({
                "usage": {"usage": memory.usage_bytes, "max": memory.max_usage_bytes.unwrap_or(0)},
                "cache": memory.cache_bytes,
                "raw": {"rss": memory.rss_bytes, "mapped_file": memory.mapped_file_bytes,
                        "inactive_file": memory.inactive_file_bytes},
            }),
        );
    }
    if let Some(pids) = &stats.pids {
        data.insert(
            "pids".into(),
            serde_json::json!({"current": pids.current, "limit": pids.limit.unwrap_or(0)}),
        );
    }
    serde_json::Value::Object(data)
}

/// As `5s`, `100ms` or `1m`.
pub(super) fn parse_interval(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text} is no interval: write it as 5s or 100ms");
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let ms = match unit {
        "ms" => number,
        "s" => number.saturating_mul(1000),
        "m" => number.saturating_mul(60_000),
        _ => return Err(wrong()),
    };
    if ms == 0 { Err(wrong()) } else { Ok(Duration::from_millis(ms)) }
}

const SIGNALS: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

fn parse_signal(text: &str) -> Result<i32> {
    let name = text.to_ascii_uppercase();
    let name = name.strip_prefix("SIG").unwrap_or(&name);
    let known =
        SIGNALS.iter().position(|known| *known == name).and_then(|index| i32::try_from(index + 1).ok());
    let number = text.parse().ok().filter(|number| (1..=64).contains(number));
    known.or(number).with_context(|| format!("{text} is no signal"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [("SIGKILL", 9), ("term", 15), ("SYS", 31), ("34", 34), ("9", 9)] {
            assert_eq!(parse_signal(text).unwrap(), number);
        }
        for text in ["", "SIG", "0", "65", "-9", "NONSENSE"] {
            parse_signal(text).unwrap_err();
        }
    }

    #[test]
    fn intervals_have_units() {
        assert_eq!(parse_interval("5s").unwrap(), Duration::from_secs(5));
        assert_eq!(parse_interval("100ms").unwrap(), Duration::from_millis(100));
        for text in ["", "5", "s", "0s", "5h"] {
            parse_interval(text).unwrap_err();
        }
    }
}
