//! What the keeper says of itself: lines on standard error, which is the journal's.

use std::io::{self, Write};
use std::str::FromStr;
use std::sync::atomic::{AtomicU8, Ordering};

/// How much is said; each level includes those before it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum LogLevel {
    /// What failed and was to be done.
    Error,
    /// What does not work here but is not needed, and what was coped with.
    #[default]
    Warn,
    /// What starts and ends.
    Info,
    /// Every request.
    Debug,
}

impl FromStr for LogLevel {
    type Err = String;

    fn from_str(text: &str) -> Result<LogLevel, String> {
        Ok(match text {
            "error" => LogLevel::Error,
            "warn" => LogLevel::Warn,
            "info" => LogLevel::Info,
            "debug" => LogLevel::Debug,
            _ => return Err(format!("{text:?} is no log level: give error, warn, info or debug")),
        })
    }
}

/// The level of this process: what is said concerns standard error, of which there is one.
static LEVEL: AtomicU8 = AtomicU8::new(LogLevel::Warn as u8);

pub(super) fn set_level(level: LogLevel) {
    LEVEL.store(level as u8, Ordering::Relaxed);
}

/// Whether something of this level is said: ask before making a message that takes time.
pub(super) fn says(level: LogLevel) -> bool {
    level as u8 <= LEVEL.load(Ordering::Relaxed)
}

/// Says something.
pub(super) fn say(level: LogLevel, message: &str) {
    if says(level) {
        let word = match level {
            LogLevel::Error => "error: ",
            LogLevel::Warn => "",
            LogLevel::Info => "info: ",
            LogLevel::Debug => "debug: ",
        };
        // Nobody reads standard error if this fails.
        let _ = writeln!(io::stderr(), "berth-keeper: {word}{message}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_have_names_and_an_order() {
        assert!("error".parse::<LogLevel>().unwrap() < "debug".parse().unwrap());
        assert_eq!("warn".parse::<LogLevel>().unwrap(), LogLevel::default());
        for wrong in ["", "trace", "INFO", "3"] {
            assert!(wrong.parse::<LogLevel>().unwrap_err().contains("error, warn, info or debug"));
        }
    }
}
