//! Names of signals.

/// Names without `SIG` and numbers; where a number has two names the first is the usual one.
const NAMES: [(&str, i32); 35] = [
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("IOT", libc::SIGIOT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", libc::SIGSTKFLT),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("POLL", libc::SIGPOLL),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
    ("UNUSED", libc::SIGSYS),
];

/// First real-time signal an application may use, and the last.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// The number of a signal from its number or name, with or without `SIG`, in any case: `9`, `KILL`,
/// `SIGRTMIN+3`, `RTMAX-1`.
#[must_use]
pub fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=*REAL_TIME.end()).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
        return Some(*number);
    }
    let offset = |rest: &str| if rest.is_empty() { Some(0) } else { rest[1..].parse::<i32>().ok() };
    let number = if let Some(rest) = name.strip_prefix("RTMIN").filter(|r| r.is_empty() || r.starts_with('+'))
    {
        REAL_TIME.start() + offset(rest)?
    } else {
        let rest = name.strip_prefix("RTMAX").filter(|r| r.is_empty() || r.starts_with('-'))?;
        REAL_TIME.end() - offset(rest)?
    };
    REAL_TIME.contains(&number).then_some(number)
}

/// The usual name of a signal, with `SIG`.
#[must_use]
pub fn name(number: i32) -> Option<String> {
    if let Some((name, _)) = NAMES.iter().find(|(_, known)| *known == number) {
        return Some(format!("SIG{name}"));
    }
    REAL_TIME.contains(&number).then(|| match number - REAL_TIME.start() {
        0 => "SIGRTMIN".to_owned(),
        offset => format!("SIGRTMIN+{offset}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_agree() {
        for (text, expected) in [
            ("9", Some(9)),
            ("KILL", Some(9)),
            ("sigterm", Some(15)),
            ("SIGRTMIN", Some(34)),
            ("RTMIN+3", Some(37)),
            ("SIGRTMAX-1", Some(63)),
            ("SIGRTMAX", Some(64)),
            ("0", None),
            ("65", None),
            ("SIG", None),
            ("RTMIN+99", None),
            ("RTMIN3", None),
        ] {
            assert_eq!(number(text), expected, "{text}");
        }
        for signal in 1..=31 {
            assert_eq!(number(&name(signal).unwrap()), Some(signal));
        }
        assert_eq!(name(37).unwrap(), "SIGRTMIN+3");
    }
}
