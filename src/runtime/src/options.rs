//! The options of a mount, as mount(8) and the runtime specification name them.

use std::ffi::{CString, NulError};

use sys::mount::{Attributes, Propagation};
use sys::process::FsOption;

/// Parsed options.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// A bind mount; whether with the mounts below.
    pub(crate) bind: Option<bool>,
    /// Attributes of the mount itself.
    pub(crate) set: u64,
    pub(crate) clear: u64,
    /// Attributes of the mount and those below it.
    pub(crate) set_recursive: u64,
    pub(crate) clear_recursive: u64,
    /// Propagation, and whether of the mounts below as well.
    pub(crate) propagation: Vec<(Propagation, bool)>,
    /// Idmapped; whether with the mounts below.
    pub(crate) idmap: Option<bool>,
    /// What the file system itself is told.
    pub(crate) data: Vec<FsOption>,
}

impl Options {
    /// Parses a list; a later option wins over an earlier one.
    pub(crate) fn parse(options: &[String]) -> Result<Options, NulError> {
        let mut parsed = Options::default();
        for option in options {
            if !parsed.word(option) {
                parsed.data.push(match option.split_once('=') {
                    Some((key, value)) => FsOption::Text(CString::new(key)?, CString::new(value)?),
                    None => FsOption::Flag(CString::new(option.as_str())?),
                });
            }
        }
        Ok(parsed)
    }

    /// Takes an option that is not for the file system.
    fn word(&mut self, word: &str) -> bool {
        match word {
            "bind" => self.bind = Some(self.bind.unwrap_or(false)),
            "rbind" => self.bind = Some(true),
            "idmap" => self.idmap = Some(false),
            "ridmap" => self.idmap = Some(true),
            // The first two mean nothing here; the others were superblock flags without effect today.
            "defaults" | "remount" | "async" | "loud" | "silent" | "mand" | "nomand" | "iversion"
            | "noiversion" | "nolazytime" | "" => {}
            _ => {
                if let Some(propagation) = propagation(word) {
                    self.propagation.push(propagation);
                } else if let Some((set, clear)) = attribute(word) {
                    self.set = self.set & !clear | set;
                    self.clear = self.clear & !set | clear;
                } else if let Some((set, clear)) = word.strip_prefix('r').and_then(attribute) {
                    self.set_recursive = self.set_recursive & !clear | set;
                    self.clear_recursive = self.clear_recursive & !set | clear;
                } else {
                    return false;
                }
            }
        }
        true
    }
}

fn propagation(word: &str) -> Option<(Propagation, bool)> {
    Some(match word {
        "private" => (Propagation::Private, false),
        "rprivate" => (Propagation::Private, true),
        "shared" => (Propagation::Shared, false),
        "rshared" => (Propagation::Shared, true),
        "slave" => (Propagation::Slave, false),
        "rslave" => (Propagation::Slave, true),
        "unbindable" => (Propagation::Unbindable, false),
        "runbindable" => (Propagation::Unbindable, true),
        _ => return None,
    })
}

/// The attribute bits a word sets and clears. How access times are kept is one field of several bits.
fn attribute(word: &str) -> Option<(u64, u64)> {
    let on = |attribute: Attributes| (attribute.0, 0);
    let off = |attribute: Attributes| (0, attribute.0);
    let atime = |attribute: Attributes| (attribute.0, Attributes::ATIME_MASK.0 & !attribute.0);
    Some(match word {
        "ro" => on(Attributes::RDONLY),
        "rw" => off(Attributes::RDONLY),
        "nosuid" => on(Attributes::NOSUID),
        "suid" => off(Attributes::NOSUID),
        "nodev" => on(Attributes::NODEV),
        "dev" => off(Attributes::NODEV),
        "noexec" => on(Attributes::NOEXEC),
        "exec" => off(Attributes::NOEXEC),
        "nodiratime" => on(Attributes::NODIRATIME),
        "diratime" => off(Attributes::NODIRATIME),
        "nosymfollow" => on(Attributes::NOSYMFOLLOW),
        "symfollow" => off(Attributes::NOSYMFOLLOW),
        "noatime" => atime(Attributes::NOATIME),
        "strictatime" => atime(Attributes::STRICTATIME),
        "relatime" | "atime" | "nostrictatime" => atime(Attributes::EMPTY),
        "norelatime" => atime(Attributes::STRICTATIME),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Options {
        Options::parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn the_last_word_wins() {
        assert_eq!(parse("ro,rw").set, 0);
        assert_eq!(parse("rw,ro").set, Attributes::RDONLY.0);
        assert_eq!(parse("noatime,relatime").set, 0);
        assert_eq!(parse("bind,rbind").bind, Some(true));
        assert_eq!(parse("rbind,bind").bind, Some(true));
    }

    #[test]
    fn recursive_words_are_kept_apart() {
        let options = parse("rbind,rro,nosuid,rslave");
        assert_eq!((options.set, options.set_recursive), (Attributes::NOSUID.0, Attributes::RDONLY.0));
        assert_eq!(options.propagation, [(Propagation::Slave, true)]);
        // These begin with r and are not recursive.
        assert_eq!(parse("ro,relatime").set_recursive, 0);
    }

    #[test]
    fn the_rest_is_for_the_file_system() {
        let options = parse("nosuid,size=64k,newinstance");
        let text = |s: &str| CString::new(s).unwrap();
        let expected = [FsOption::Text(text("size"), text("64k")), FsOption::Flag(text("newinstance"))];
        assert_eq!(options.data, expected);
    }
}
