//! Users and groups of an image: `/etc/passwd` and `/etc/group` as hostile input.
//!
//! Files are opened below the root file system's descriptor without leaving it, must be regular, and are
//! read with bounds. A number is a number: text that looks like one but does not fit is refused, never looked
//! up as a name.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::BorrowedFd;

use crate::error::{Error, Result};
use crate::model::{GroupsPolicy, ResolvedUser, Security};

const MAX_FILE_BYTES: u64 = 1 << 20;
const MAX_LINE_BYTES: usize = 4 << 10;
const MAX_ENTRIES: usize = 64 << 10;

/// A user, and the home directory the image gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) user: ResolvedUser,
    pub(crate) home: String,
}

#[derive(Debug)]
struct PasswdEntry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

#[derive(Debug)]
struct GroupEntry {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Who a container runs as: the request's user, else the image's, else root. Blocks.
pub(crate) fn resolve(rootfs: BorrowedFd<'_>, security: &Security, image_user: &str) -> Result<Resolved> {
    let no_user = security.run_as_user.is_none() && security.run_as_username.is_empty();
    let (user, group) = match (security.run_as_user, security.run_as_username.as_str()) {
        (Some(uid), _) => (uid.to_string(), String::new()),
        (None, "") => split(image_user),
        (None, name) => split(name),
    };
    if security.run_as_group.is_some() && no_user && image_user.is_empty() {
        return Err(Error::invalid("a group to run as was given without a user"));
    }
    let mut resolved = resolve_text(rootfs, &user, &group, security.run_as_group)?;
    let groups = &mut resolved.user.groups;
    if security.groups_policy == GroupsPolicy::Strict {
        groups.clear();
    }
    groups.extend(&security.supplemental_groups);
    // The primary group is listed, too: files that deny it must stay denied when it is dropped.
    groups.insert(0, resolved.user.gid);
    let mut seen = std::collections::HashSet::new();
    groups.retain(|gid| seen.insert(*gid));
    Ok(resolved)
}

/// `user[:group]` of an exec. Blocks.
pub(crate) fn resolve_exec(rootfs: BorrowedFd<'_>, text: &str) -> Result<Resolved> {
    let (user, group) = split(text);
    let mut resolved = resolve_text(rootfs, &user, &group, None)?;
    if !resolved.user.groups.contains(&resolved.user.gid) {
        resolved.user.groups.insert(0, resolved.user.gid);
    }
    Ok(resolved)
}

fn split(text: &str) -> (String, String) {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    (user.to_owned(), group.to_owned())
}

fn resolve_text(
    rootfs: BorrowedFd<'_>,
    user: &str,
    group: &str,
    run_as_group: Option<u32>,
) -> Result<Resolved> {
    let passwd = read_lines(rootfs, "etc/passwd")?.iter().filter_map(|l| passwd_entry(l)).collect::<Vec<_>>();
    let groups = read_lines(rootfs, "etc/group")?.iter().filter_map(|l| group_entry(l)).collect::<Vec<_>>();
    let entry = match number(user)? {
        None if user.is_empty() => passwd.iter().find(|e| e.uid == 0),
        None => Some(
            passwd
                .iter()
                .find(|e| e.name == user)
                .ok_or_else(|| Error::invalid(format!("user {user:?} is not in the image's /etc/passwd")))?,
        ),
        Some(uid) => passwd.iter().find(|e| e.uid == uid),
    };
    let uid = entry.map(|e| e.uid).or(number(user)?).unwrap_or(0);
    let gid = match (run_as_group, number(group)?) {
        (Some(gid), _) | (None, Some(gid)) => gid,
        (None, None) if group.is_empty() => entry.map_or(0, |e| e.gid),
        (None, None) => groups
            .iter()
            .find(|g| g.name == group)
            .map(|g| g.gid)
            .ok_or_else(|| Error::invalid(format!("group {group:?} is not in the image's /etc/group")))?,
    };
    let name = entry.map(|e| e.name.as_str());
    let member_of = groups
        .iter()
        .filter(|g| name.is_some_and(|n| g.members.iter().any(|m| m == n)))
        .map(|g| g.gid)
        .collect();
    let home = entry.map(|e| e.home.clone()).filter(|h| h.starts_with('/')).unwrap_or_else(|| "/".to_owned());
    Ok(Resolved { user: ResolvedUser { uid, gid, groups: member_of }, home })
}

/// A canonical decimal number that the kernel takes as an id; `None` is a name. What starts like a number
/// and is none is refused: it must not be found as a name in a file the image controls.
fn number(text: &str) -> Result<Option<u32>> {
    let looks_numeric = text.starts_with(|c: char| c.is_ascii_digit() || c == '+' || c == '-');
    if !looks_numeric {
        if text.contains(char::is_whitespace) {
            return Err(Error::invalid(format!("user or group {text:?} has white space in it")));
        }
        return Ok(None);
    }
    let canonical = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    match text.parse::<u32>() {
        // 2^31 and above would be negative as a signed id; the last one means "no change" to the kernel.
        Ok(id) if canonical && i32::try_from(id).is_ok() => Ok(Some(id)),
        _ => Err(Error::invalid(format!("{text:?} is not an id between 0 and 2147483647"))),
    }
}

fn passwd_entry(line: &str) -> Option<PasswdEntry> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let mut fields = fields.skip(1);
    let uid = fields.next()?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    let home = fields.nth(1).unwrap_or("").to_owned();
    Some(PasswdEntry { name, uid, gid, home })
}

fn group_entry(line: &str) -> Option<GroupEntry> {
    let mut fields = line.split(':');
    let name = fields.next()?.to_owned();
    let gid = fields.nth(1)?.parse().ok()?;
    let members =
        fields.next().unwrap_or("").split(',').filter(|m| !m.is_empty()).map(str::to_owned).collect();
    Some(GroupEntry { name, gid, members })
}

fn read_lines(rootfs: BorrowedFd<'_>, path: &str) -> Result<Vec<String>> {
    let what = |why: &str| Error::invalid(format!("the image's /{path} {why}"));
    // A FIFO must not block us, nor a device react: what is opened is looked at first.
    let file = match sys::path::open_regular_in_root(rootfs, std::path::Path::new(path)) {
        Ok(fd) => File::from(fd),
        Err(error) if is_absent(&error) => return Ok(Vec::new()),
        Err(error) => {
            return Err(Error::caused_by(
                crate::ErrorKind::InvalidArgument,
                format!("open the image's /{path}"),
                error,
            ));
        }
    };
    let metadata =
        file.metadata().map_err(|error| Error::io(format!("examine the image's /{path}"), error))?;
    if !metadata.is_file() {
        return Err(what("is not a regular file"));
    }
    if metadata.len() > MAX_FILE_BYTES {
        return Err(what("is larger than 1 MiB"));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| Error::io(format!("read the image's /{path}"), error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(what("is larger than 1 MiB"));
    }
    let mut lines = Vec::new();
    for line in bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        if line.len() > MAX_LINE_BYTES {
            return Err(what("has a line of more than 4 KiB"));
        }
        if lines.len() == MAX_ENTRIES {
            return Err(what("has more than 65536 entries"));
        }
        lines.push(String::from_utf8_lossy(line).into_owned());
    }
    Ok(lines)
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn rootfs() -> (tempfile::TempDir, File) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/sh\nwww:x:33:33::/var/www:\n2147483648:x:0:0::/:\n";
        std::fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(dir.path().join("etc/group"), "root:x:0:\nwww:x:33:\nextra:x:50:www,root\n").unwrap();
        let fd = File::open(dir.path()).unwrap();
        (dir, fd)
    }

    fn of(text: &str) -> Result<Resolved> {
        let (_dir, fd) = rootfs();
        resolve(fd.as_fd(), &Security::default(), text)
    }

    #[test]
    fn names_and_numbers() {
        let www = of("www").unwrap();
        assert_eq!((www.user.uid, www.user.gid, www.user.groups.as_slice()), (33, 33, &[33, 50][..]));
        assert_eq!(www.home, "/var/www");
        assert_eq!(of("33:0").unwrap().user.gid, 0);
        assert_eq!(of("4711").unwrap().user, ResolvedUser { uid: 4711, gid: 0, groups: vec![0] });
        assert_eq!(of("").unwrap().home, "/root");
        assert_eq!(of("www:extra").unwrap().user.gid, 50);
    }

    #[test]
    fn what_is_not_quite_a_number_is_refused() {
        for bad in
            ["2147483648", "4294967295", "4294967296", "0x0", "00", "+0", "-1", "1000 ", "01", "nobody-here"]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn strict_policy_leaves_the_images_groups_out() {
        let (_dir, fd) = rootfs();
        let security = Security {
            run_as_user: Some(33),
            groups_policy: GroupsPolicy::Strict,
            supplemental_groups: vec![7],
            ..Security::default()
        };
        assert_eq!(resolve(fd.as_fd(), &security, "").unwrap().user.groups, [33, 7]);
        let group_only = Security { run_as_group: Some(5), ..Security::default() };
        assert!(resolve(fd.as_fd(), &group_only, "").is_err());
    }

    #[test]
    fn hostile_files_are_refused() {
        let (dir, fd) = rootfs();
        let passwd = dir.path().join("etc/passwd");
        let user = Security { run_as_username: "www".into(), ..Security::default() };
        std::fs::write(&passwd, "a".repeat(5000)).unwrap();
        assert!(resolve(fd.as_fd(), &user, "").unwrap_err().to_string().contains("4 KiB"));
        File::create(&passwd).unwrap().set_len(8 << 30).unwrap();
        assert!(resolve(fd.as_fd(), &user, "").unwrap_err().to_string().contains("1 MiB"));
        std::fs::remove_file(&passwd).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &passwd).unwrap();
        // The link stays inside the root, where there is no /dev/zero.
        assert!(resolve(fd.as_fd(), &user, "").is_err());
    }
}
