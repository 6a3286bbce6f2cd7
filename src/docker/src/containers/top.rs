//! The processes of a container, in the columns of ps(1).

use engine::ProcessRow;
use serde_json::json;

use super::target;
use crate::app::App;
use crate::http::{ApiError, Call, Reply, Result};
use crate::text;

/// A column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    User,
    Pid,
    Parent,
    Cpu,
    Memory,
    Virtual,
    Resident,
    Terminal,
    State,
    Start,
    Time,
    Name,
    Command,
}

use Column as C;

impl Column {
    fn title(self) -> &'static str {
        match self {
            C::User => "UID",
            C::Pid => "PID",
            C::Parent => "PPID",
            C::Cpu => "C",
            C::Memory => "%MEM",
            C::Virtual => "VSZ",
            C::Resident => "RSS",
            C::Terminal => "TTY",
            C::State => "STAT",
            C::Start => "STIME",
            C::Time => "TIME",
            C::Name | C::Command => "CMD",
        }
    }

    fn value(self, row: &ProcessRow, now_ns: i64) -> String {
        let age_ms = u64::try_from((now_ns - row.started_at_ns) / 1_000_000).unwrap_or(1).max(1);
        match self {
            C::User if row.uid == 0 => "root".to_owned(),
            C::User => row.uid.to_string(),
            C::Pid => row.pid.to_string(),
            C::Parent => row.parent.to_string(),
            C::Cpu => (row.cpu_ms * 100 / age_ms).to_string(),
            C::Memory => "-".to_owned(),
            C::Virtual => (row.virtual_bytes / 1024).to_string(),
            C::Resident => (row.rss_bytes / 1024).to_string(),
            C::Terminal => terminal(row.tty),
            C::State => row.state.clone(),
            // The time of the day, in UTC.
            C::Start => text::rfc3339(row.started_at_ns).get(11..16).unwrap_or_default().to_owned(),
            C::Time => {
                let seconds = row.cpu_ms / 1000;
                format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
            }
            C::Name => row.name.clone(),
            C::Command => row.command.clone(),
        }
    }
}

fn terminal(device: u64) -> String {
    // Pseudo terminals have the major numbers from 136 on; the minor number is in two parts.
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xf_ff00));
    if device == 0 {
        "?".to_owned()
    } else if (136..144).contains(&major) {
        format!("pts/{minor}")
    } else {
        format!("{major}:{minor}")
    }
}

/// The columns that arguments of ps ask for.
fn columns(args: &str) -> Result<Vec<Column>> {
    let mut chosen = Vec::new();
    let mut words = args.split_whitespace();
    while let Some(word) = words.next() {
        // `-o list`, `-olist`, `-eo list`, `o list`.
        let list = match word.trim_start_matches('-').split_once('o') {
            Some((flags, "")) if flags.chars().all(|c| c.is_ascii_alphabetic()) => {
                words.next().unwrap_or_default()
            }
            Some(("", list)) => list,
            Some(_) | None => continue,
        };
        for name in list.split(',') {
            // A title of one's own comes behind an equals sign, and is not taken.
            let name = name.split('=').next().unwrap_or_default();
            chosen.push(match name {
                "user" | "uid" | "euser" | "euid" => C::User,
                "pid" => C::Pid,
                "ppid" => C::Parent,
                "c" | "pcpu" | "%cpu" => C::Cpu,
                "vsz" | "vsize" => C::Virtual,
                "rss" | "rssize" => C::Resident,
                "tty" | "tt" | "tname" => C::Terminal,
                "s" | "stat" | "state" => C::State,
                "stime" | "start" | "start_time" | "lstart" => C::Start,
                "time" | "cputime" => C::Time,
                "comm" | "ucmd" => C::Name,
                "cmd" | "args" | "command" => C::Command,
                other => {
                    return Err(ApiError::bad(format!(
                        "ps: unknown user-defined format specifier {other:?}"
                    )));
                }
            });
        }
    }
    if !chosen.is_empty() {
        if !chosen.contains(&C::Pid) {
            return Err(ApiError::bad("Couldn't find PID field in ps output"));
        }
        return Ok(chosen);
    }
    Ok(match args.trim() {
        "aux" | "u" | "-aux" => vec![
            C::User,
            C::Pid,
            C::Cpu,
            C::Memory,
            C::Virtual,
            C::Resident,
            C::Terminal,
            C::State,
            C::Start,
            C::Time,
            C::Command,
        ],
        _ => vec![C::User, C::Pid, C::Parent, C::Cpu, C::Start, C::Terminal, C::Time, C::Command],
    })
}

pub(super) async fn top(app: &App, call: &Call, reference: &str) -> Result<Reply> {
    let columns = columns(call.params.get("ps_args"))?;
    let target = target::find(app, reference)?;
    let rows = app.engine.top(target.id().as_str()).await?;
    let now = text::now_ns();
    let titles: Vec<_> = columns.iter().map(|column| column.title()).collect();
    let processes: Vec<Vec<String>> =
        rows.iter().map(|row| columns.iter().map(|column| column.value(row, now)).collect()).collect();
    Ok(Reply::json(&json!({"Titles": titles, "Processes": processes})))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_can_be_chosen() {
        let titles =
            |args| columns(args).unwrap().iter().map(|one| one.title()).collect::<Vec<_>>().join(" ");
        assert_eq!(titles("-ef"), "UID PID PPID C STIME TTY TIME CMD");
        assert_eq!(titles(""), titles("-ef"));
        assert_eq!(titles("-o pid,comm"), "PID CMD");
        assert_eq!(titles("-eo pid,args"), "PID CMD");
        assert!(columns("-o comm").is_err() && columns("-o pid,nonsense").is_err());
    }

    #[test]
    fn values_are_those_of_ps() {
        let row = ProcessRow {
            pid: 7,
            uid: 1000,
            cpu_ms: 3_725_000,
            tty: (136 << 8) | 3,
            rss_bytes: 4096,
            ..ProcessRow::default()
        };
        let show = |column: Column| column.value(&row, 1_000_000_000_000);
        assert_eq!(
            (show(C::User), show(C::Time), show(C::Terminal)),
            ("1000".into(), "01:02:05".into(), "pts/3".into())
        );
        assert_eq!((show(C::Resident), show(C::Pid)), ("4".into(), "7".into()));
    }
}
