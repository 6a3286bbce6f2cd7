//! Paths of groups, in the file system's way and in systemd's.

use super::Error;

/// `path` with exactly one leading slash and none doubled; components must not climb or hide.
pub(super) fn normalized(path: &str) -> Result<String, Error> {
    let wrong = || Error::Invalid { field: "cgroup path".to_owned(), value: path.to_owned() };
    let mut out = String::with_capacity(path.len() + 1);
    for component in path.split('/').filter(|c| !c.is_empty() && *c != ".") {
        if component == ".." || component.contains(['\n', '\0']) {
            return Err(wrong());
        }
        out.push('/');
        out.push_str(component);
    }
    if out.is_empty() { Err(wrong()) } else { Ok(out) }
}

/// The directory of a systemd slice: `a-b.slice` lives in `/a.slice/a-b.slice`.
///
/// # Errors
/// The name is no slice's.
pub fn slice_path(slice: &str) -> Result<String, Error> {
    let wrong = || Error::Invalid { field: "slice".to_owned(), value: slice.to_owned() };
    if slice == "-.slice" {
        return Ok(String::new());
    }
    let name =
        slice.strip_suffix(".slice").filter(|n| !n.is_empty() && !n.contains('/')).ok_or_else(wrong)?;
    let (mut out, mut prefix) = (String::new(), String::new());
    for part in name.split('-') {
        if part.is_empty() {
            return Err(wrong());
        }
        if !prefix.is_empty() {
            prefix.push('-');
        }
        prefix.push_str(part);
        out.push('/');
        out.push_str(&prefix);
        out.push_str(".slice");
    }
    Ok(out)
}

/// The directory of the scope that `slice:prefix:name` stands for; an empty slice is `system.slice`.
///
/// # Errors
/// There are not three parts, or the first is no slice.
pub fn systemd_path(spec: &str) -> Result<String, Error> {
    let wrong = || Error::Invalid { field: "systemd cgroup path".to_owned(), value: spec.to_owned() };
    let mut parts = spec.splitn(3, ':');
    let (Some(slice), Some(prefix), Some(name)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(wrong());
    };
    if name.is_empty() || name.contains('/') || prefix.contains('/') {
        return Err(wrong());
    }
    let slice = slice_path(if slice.is_empty() { "system.slice" } else { slice })?;
    Ok(match (name.ends_with(".slice"), prefix) {
        (true, _) => format!("{slice}/{name}"),
        (false, "") => format!("{slice}/{name}.scope"),
        (false, prefix) => format!("{slice}/{prefix}-{name}.scope"),
    })
}
