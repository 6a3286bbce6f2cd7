//! The local driver: a directory, or a file system that its options name, mounted while somebody uses it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use sys::mount::{Attributes, Change, FsContext, Propagation, Value};

use super::VolumeProblem;
use crate::error::{Error, ErrorKind, Result};

/// What the options of a volume ask to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mounted {
    kind: String,
    device: String,
    bind: Option<Bind>,
    attributes: Attributes,
    options: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bind {
    Plain,
    Recursive,
}

/// Reads options; `None` is a plain directory.
pub(super) fn parse(
    options: &BTreeMap<String, String>,
) -> std::result::Result<Option<Mounted>, VolumeProblem> {
    let bad = |text: String| VolumeProblem::BadOption(text);
    if let Some(name) = options.keys().find(|name| !["type", "device", "o"].contains(&name.as_str())) {
        return Err(bad(match name.as_str() {
            "size" => {
                "volumes of this node cannot be given a size; a tmpfs can: type=tmpfs,device=tmpfs,o=size=…"
                    .into()
            }
            _ => format!("the local driver has no option {name:?}; it has type, device and o"),
        }));
    }
    let get = |name: &str| options.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let (kind, device) = match (get("type"), get("device"), get("o")) {
        (None, None, None) => return Ok(None),
        (Some(kind), Some(device), _) => (kind, device),
        (None, Some(_), _) => return Err(bad("option device needs option type".into())),
        (Some(_), None, _) => return Err(bad("option type needs option device".into())),
        (None, None, Some(_)) => return Err(bad("option o needs options type and device".into())),
    };
    let mut mounted = Mounted {
        kind: kind.to_owned(),
        device: device.to_owned(),
        bind: None,
        attributes: Attributes::EMPTY,
        options: Vec::new(),
    };
    for option in get("o").unwrap_or_default().split(',').filter(|option| !option.is_empty()) {
        mounted.add(option);
    }
    if mounted.bind.is_some() && !Path::new(device).is_absolute() {
        return Err(bad(format!("a bind needs an absolute path as its device, not {device:?}")));
    }
    if mounted.bind.is_none() && kind == "none" {
        return Err(bad("type none is for binds: add o=bind".into()));
    }
    Ok(Some(mounted))
}

impl Mounted {
    fn add(&mut self, option: &str) {
        let attribute = match option {
            "bind" => {
                self.bind = self.bind.or(Some(Bind::Plain));
                return;
            }
            "rbind" => {
                self.bind = Some(Bind::Recursive);
                return;
            }
            "ro" => Attributes::RDONLY,
            "nosuid" => Attributes::NOSUID,
            "nodev" => Attributes::NODEV,
            "noexec" => Attributes::NOEXEC,
            "noatime" => Attributes::NOATIME,
            "nodiratime" => Attributes::NODIRATIME,
            "rw" | "suid" | "dev" | "exec" | "defaults" | "relatime" | "private" | "rprivate" => return,
            _ => {
                self.options.push(option.to_owned());
                return;
            }
        };
        self.attributes = self.attributes.with(attribute);
    }

    /// Mounts it at a directory. Blocks as long as the file system's server lets it.
    pub(super) fn mount(&self, name: &str, target: &Path) -> Result<()> {
        let what = || format!("mount {} of type {} for volume {name}", self.device, self.kind);
        let mount = match self.bind {
            Some(bind) => self.bound(bind).map_err(|error| match error.kind() {
                io::ErrorKind::NotFound => VolumeProblem::NoSource(PathBuf::from(&self.device)).error(what()),
                _ => Error::io(what(), error),
            })?,
            None => self.file_system().map_err(|(error, messages)| {
                let text = if messages.is_empty() { what() } else { format!("{}: {messages}", what()) };
                let kind = match error.raw_os_error() {
                    // EINVAL and ENODEV: options and types are the user's.
                    Some(22 | 19) => ErrorKind::InvalidArgument,
                    _ => ErrorKind::Unavailable,
                };
                Error::caused_by(kind, text, error)
            })?,
        };
        sys::mount::attach_at(mount.as_fd(), target).map_err(|error| Error::io(what(), error))
    }

    fn bound(&self, bind: Bind) -> io::Result<sys::mount::Detached> {
        let source =
            sys::tree::pin_in_root(sys::tree::open_root(Path::new("/"))?.as_fd(), Path::new(&self.device))?;
        let copy = sys::mount::clone_tree(source.as_fd(), Path::new(""), bind == Bind::Recursive)?;
        let change = Change {
            set: self.attributes,
            propagation: Some(Propagation::Private),
            recursive: bind == Bind::Recursive,
            ..Change::default()
        };
        sys::mount::set_attributes(copy.as_fd(), change)?;
        Ok(copy)
    }

    fn file_system(&self) -> std::result::Result<sys::mount::Detached, (io::Error, String)> {
        let context = FsContext::open(&self.kind).map_err(|error| (error, String::new()))?;
        let set = |key: &str, value: Value<'_>| {
            context.set(key, value).map_err(|error| (error, context.messages()))
        };
        set("source", Value::Text(&self.device))?;
        for option in &self.options {
            match option.split_once('=') {
                Some((key, value)) => set(key, Value::Text(value))?,
                None => set(option, Value::Flag)?,
            }
        }
        if self.attributes.contains(Attributes::RDONLY) {
            set("ro", Value::Flag)?;
        }
        // What the kernel logs about a mount that fails is lost with the context; its errno says the most.
        context.mount(self.attributes).map_err(|error| (error, String::new()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &[(&str, &str)]) -> BTreeMap<String, String> {
        list.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn options_come_together_or_not_at_all() {
        assert_eq!(parse(&options(&[])), Ok(None));
        for (list, text) in [
            (&[("type", "tmpfs")][..], "needs option device"),
            (&[("device", "x")], "needs option type"),
            (&[("o", "x")], "needs options type and device"),
            (&[("size", "1")], "cannot be given a size"),
            (&[("colour", "1")], "no option \"colour\""),
            (&[("type", "none"), ("device", "a"), ("o", "bind")], "absolute"),
            (&[("type", "none"), ("device", "/a")], "o=bind"),
        ] {
            assert!(parse(&options(list)).unwrap_err().to_string().contains(text), "{list:?}");
        }
        let nfs = parse(&options(&[("type", "nfs"), ("device", ":/x"), ("o", "addr=10.0.0.1,ro,nodev")]));
        let nfs = nfs.unwrap().unwrap();
        assert_eq!(nfs.options, ["addr=10.0.0.1"]);
        assert!(nfs.attributes.contains(Attributes::RDONLY.with(Attributes::NODEV)));
    }
}
