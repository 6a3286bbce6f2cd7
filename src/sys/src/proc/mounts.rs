//! `/proc/<pid>/mountinfo`, see proc(5).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::malformed;

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// Id of the mount.
    pub id: u64,
    /// Id of the mount it is mounted on.
    pub parent: u64,
    /// Major number of the device of its files.
    pub major: u32,
    /// Minor number of the device of its files.
    pub minor: u32,
    /// Which directory of the file system is its root.
    pub root: PathBuf,
    /// Where it is mounted.
    pub mount_point: PathBuf,
    /// Options of the mount.
    pub options: Vec<String>,
    /// Propagation: `shared:N`, `master:N`, `propagate_from:N`, `unbindable`.
    pub propagation: Vec<String>,
    /// Type of the file system, with its subtype.
    pub fs_type: String,
    /// What is mounted.
    pub source: String,
    /// Options of the file system.
    pub super_options: Vec<String>,
}

impl MountInfo {
    /// Reads a whole mount table.
    ///
    /// # Errors
    /// The file cannot be read or has a line of an unknown shape.
    pub fn read(path: &Path) -> io::Result<Vec<MountInfo>> {
        Self::parse(&std::fs::read(path)?)
    }

    /// Parses a whole mount table.
    ///
    /// # Errors
    /// A line has an unknown shape.
    pub fn parse(text: &[u8]) -> io::Result<Vec<MountInfo>> {
        text.split(|&b| b == b'\n')
            .filter(|line| !line.is_empty())
            .map(|line| {
                parse_line(line).ok_or_else(|| malformed("line of mountinfo", &String::from_utf8_lossy(line)))
            })
            .collect()
    }
}

fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|&b| b == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = std::str::from_utf8(fields.next()?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let root = path(fields.next()?);
    let mount_point = path(fields.next()?);
    let options = list(fields.next()?);
    let mut propagation = Vec::new();
    loop {
        match fields.next()? {
            b"-" => break,
            tag => propagation.push(text(tag)),
        }
    }
    Some(MountInfo {
        id,
        parent,
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        root,
        mount_point,
        options,
        propagation,
        fs_type: text(fields.next()?),
        source: text(fields.next()?),
        super_options: fields.next().map(list).unwrap_or_default(),
    })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn list(field: &[u8]) -> Vec<String> {
    text(field).split(',').map(str::to_owned).collect()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

/// The kernel writes space, tab, newline, backslash and hash as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = (first == b'\\').then(|| tail.get(..3)).flatten().and_then(octal);
        match octal {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(first);
                rest = tail;
            }
        }
    }
    out
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}
