//! Signals by name and number.

use crate::http::{ApiError, Result};

/// Names without `SIG`, from number 1 on; the numbers are those of x86 and ARM.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];
/// The first and last real-time signals that programs can use.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

/// The number of a signal as clients write it: `15`, `TERM`, `SIGTERM`, `sigrtmin+3`.
pub(crate) fn parse(text: &str) -> Result<i32> {
    number(text).ok_or_else(|| ApiError::bad(format!("invalid signal: {text}")))
}

fn number(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=RTMAX).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some(index) = NAMES.iter().position(|known| *known == name) {
        return i32::try_from(index + 1).ok();
    }
    let number = match name {
        "IOT" => 6,
        "CLD" => 17,
        "POLL" => 29,
        "RTMIN" => RTMIN,
        "RTMAX" => RTMAX,
        _ => match (name.strip_prefix("RTMIN+"), name.strip_prefix("RTMAX-")) {
            (Some(more), _) => {
                RTMIN + more.parse::<i32>().ok().filter(|n| (0..=RTMAX - RTMIN).contains(n))?
            }
            (None, Some(less)) => {
                RTMAX - less.parse::<i32>().ok().filter(|n| (0..=RTMAX - RTMIN).contains(n))?
            }
            (None, None) => return None,
        },
    };
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, expected) in [
            ("9", 9),
            ("KILL", 9),
            ("sigterm", 15),
            ("SIGSYS", 31),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("POLL", 29),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text}");
        }
        for text in ["", "0", "65", "SIGNOPE", "-1", "RTMIN+99"] {
            assert_eq!(parse(text).unwrap_err().message(), format!("invalid signal: {text}"));
        }
    }
}
