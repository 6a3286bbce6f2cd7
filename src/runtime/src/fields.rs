//! Every member of a runtime specification, and what becomes of it: nothing is ignored without a word.
//!
//! The specification demands that unknown members are ignored; they are, with a warning. What it knows is either
//! honoured or refused with an error that names it. [`check_members`] looks at the JSON as it is, so that a
//! member that no type of ours has is found as well.

use serde_json::Value;

use crate::PlanError;
use table::MEMBERS;

mod table;
#[cfg(test)]
mod tests;

/// Who heeds a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handling {
    /// The plan: it becomes operations of the child.
    Plan,
    /// The plan of one more process in a container.
    Exec,
    /// The cgroup's limits, which whoever makes the cgroup sets.
    Cgroup,
    /// Whoever calls the library: the commands of `berth-runtime`, or the keeper.
    Caller,
    /// Nobody: an error, with what to do instead.
    Refused(&'static str),
}

/// A member: its path, with `[]` for each of a list and `{}` for each of a map, and who heeds it.
pub type Member = (&'static str, Handling);

/// The table.
#[must_use]
pub fn members() -> &'static [Member] {
    MEMBERS
}

/// Refuses members of a specification that are not honoured, and names those that are unknown, with their path.
pub fn check_members(specification: &Value) -> Result<Vec<String>, PlanError> {
    let version = specification.get("ociVersion").and_then(Value::as_str).unwrap_or_default();
    if version.split('.').next() != Some("1") {
        return Err(PlanError::Invalid(format!("ociVersion {version:?} is not 1.something")));
    }
    let mut unknown = Vec::new();
    walk(specification, "", &mut unknown)?;
    Ok(unknown)
}

/// [`check_members`] of a `process` object that stands alone.
pub fn check_process_members(process: &Value) -> Result<Vec<String>, PlanError> {
    let mut unknown = Vec::new();
    walk(process, "process", &mut unknown)?;
    Ok(unknown)
}

/// Gives the members of a specification, or of a `process` in it, the names that the types expect where those
/// differ from the specification's.
pub fn correct_names(specification: &mut Value) {
    for process in ["/process/scheduler/flags", "/scheduler/flags"] {
        let flags = specification.pointer_mut(process).and_then(Value::as_array_mut);
        for flag in flags.into_iter().flatten() {
            match flag.as_str() {
                Some("SCHED_FLAG_RESET_ON_FORK") => *flag = "SCHED_RESET_ON_FORK".into(),
                Some("SCHED_FLAG_DL_OVERRUN") => *flag = "SCHED_FLAG_D_L_OVERRUN".into(),
                _ => {}
            }
        }
    }
}

fn walk(value: &Value, path: &str, unknown: &mut Vec<String>) -> Result<(), PlanError> {
    match MEMBERS.iter().find(|(member, _)| *member == path) {
        Some((_, Handling::Refused(instead))) if is_set(value) => {
            let name = path.trim_end_matches("[]");
            return Err(PlanError::Unsupported(format!("{name} ({instead})")));
        }
        Some(_) => return Ok(()),
        None => {}
    }
    let below = |member: &str| member.strip_prefix(path).is_some_and(|rest| rest.starts_with(['.', '[']));
    if !path.is_empty() && !MEMBERS.iter().any(|(member, _)| below(member)) {
        unknown.push(path.to_owned());
        return Ok(());
    }
    match value {
        Value::Object(object) => {
            let is_map = MEMBERS.iter().any(|(member, _)| member.starts_with(&format!("{path}.{{}}")));
            for (name, value) in object {
                let name = if is_map { "{}" } else { name };
                let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
                walk(value, &path, unknown)?;
            }
        }
        Value::Array(list) => {
            for value in list {
                walk(value, &format!("{path}[]"), unknown)?;
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    Ok(())
}

/// Whether a member says something.
fn is_set(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => true,
    }
}
