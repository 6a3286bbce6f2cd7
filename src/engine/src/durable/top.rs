//! The processes of a container, as the host sees them.

use std::path::Path;

use super::DurableProblem;
use crate::blocking::Purpose;
use crate::engine::Engine;
use crate::error::{Error, ErrorKind, Result};
use crate::happenings::Action;

/// A process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessRow {
    /// Its id in the host.
    pub pid: u32,
    /// That of its parent.
    pub parent: u32,
    /// Its effective user in the host.
    pub uid: u32,
    /// Its state, as `ps` has it: one letter.
    pub state: String,
    /// Device number of its terminal; 0 without one.
    pub tty: u64,
    /// CPU time it used, in milliseconds.
    pub cpu_ms: u64,
    /// When it started, nanoseconds since the Unix epoch.
    pub started_at_ns: i64,
    /// Memory it has in RAM, in bytes.
    pub rss_bytes: u64,
    /// Memory it has mapped, in bytes.
    pub virtual_bytes: u64,
    /// Its name.
    pub name: String,
    /// Its command line, or its name in brackets without one.
    pub command: String,
}

impl Engine {
    /// The processes of a durable container, or of one of a pod, by pid.
    pub async fn top(&self, container: &str) -> Result<Vec<ProcessRow>> {
        let what = format!("list the processes of container {container}");
        let durable = self.shared().durables.find(container);
        let id = match &durable {
            Ok(durable) => durable.id.clone(),
            Err(error) => match self.find_container(container)? {
                Some((_, id)) => id,
                None => return Err(error.clone()),
            },
        };
        let running = self.container_status(id.as_str()).ok();
        let running = running.filter(|s| matches!(s.state, crate::ContainerState::Running { .. }));
        let Some(status) = running else { return Err(DurableProblem::NotRunning(id).error(what)) };
        let cgroups = self.shared().cgroups.clone();
        let work = move || {
            let cgroup = cgroups.open(&status.cgroup_path).map_err(std::io::Error::other)?;
            Ok(cgroup.procs()?.into_iter().filter_map(|pid| row(Path::new("/proc"), pid)).collect())
        };
        let rows: std::io::Result<Vec<ProcessRow>> =
            self.shared().blocking.run(Purpose::Reading, work).await?;
        let rows = rows.map_err(|error| Error::caused_by(ErrorKind::Internal, what, error))?;
        if let Ok(durable) = durable {
            let subject = super::supervisor::subject_of(&durable.status());
            self.shared().happenings.publish(subject, Action::Top);
        }
        Ok(rows)
    }
}

/// What `/proc` says of a process; `None` if it is gone.
fn row(proc: &Path, pid: u32) -> Option<ProcessRow> {
    let dir = proc.join(pid.to_string());
    let read = |name: &str| std::fs::read(dir.join(name)).ok();
    let stat = String::from_utf8_lossy(&read("stat")?).into_owned();
    let (name, rest) = stat.split_once('(')?.1.rsplit_once(')')?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    // Numbered from 3 in proc_pid_stat(5).
    let number = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let ticks = sys::host::clock_ticks();
    let boot_ns = sys::fs::now_ns().saturating_sub(sys::host::uptime_ns());
    let since_boot_ns = i64::try_from(number(22).saturating_mul(1_000_000_000) / ticks).unwrap_or(i64::MAX);
    let status = String::from_utf8_lossy(&read("status")?).into_owned();
    let uid =
        status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse().ok());
    let line = read("cmdline").unwrap_or_default();
    let words: Vec<_> =
        line.split(|b| *b == 0).filter(|w| !w.is_empty()).map(String::from_utf8_lossy).collect();
    let command = if words.is_empty() { format!("[{name}]") } else { words.join(" ") };
    Some(ProcessRow {
        pid,
        parent: u32::try_from(number(4)).unwrap_or(0),
        uid: uid?,
        state: fields.first().copied().unwrap_or_default().to_owned(),
        tty: number(7),
        cpu_ms: (number(14) + number(15)).saturating_mul(1000) / ticks,
        started_at_ns: boot_ns.saturating_add(since_boot_ns),
        rss_bytes: number(24).saturating_mul(sys::host::page_size()),
        virtual_bytes: number(23),
        name: name.to_owned(),
        command,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found() {
        let found = row(Path::new("/proc"), std::process::id()).unwrap();
        assert!(found.command.contains("engine") && found.rss_bytes > 0, "{found:?}");
        let age_ns = sys::fs::now_ns() - found.started_at_ns;
        assert!((-1_000_000_000..3_600_000_000_000).contains(&age_ns), "{age_ns}");
        assert!(row(Path::new("/proc"), u32::MAX).is_none());
    }
}
