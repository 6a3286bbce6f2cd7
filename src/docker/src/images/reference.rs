//! References as clients write them, and as they are shown to them.

use oci::Reference;

use crate::http::{ApiError, Result};

/// A repository with a tag or digest beside it.
pub(super) fn join(repository: &str, tag: &str) -> Result<Reference> {
    let text = match tag {
        "" => repository.to_owned(),
        digest if digest.contains(':') => format!("{repository}@{digest}"),
        tag => format!("{repository}:{tag}"),
    };
    parse(&text)
}

/// A reference in the words of Docker's errors.
pub(super) fn parse(text: &str) -> Result<Reference> {
    text.parse().map_err(|error: oci::InvalidReference| {
        if text.to_lowercase() == *text {
            ApiError::bad(format!("invalid reference format: {}", error.reason))
        } else {
            ApiError::bad("invalid reference format: repository name must be lowercase")
        }
    })
}

/// A repository as it is shown: without the registry and directory that are meant when none is named.
pub(super) fn familiar_repository(reference: &Reference) -> String {
    let full = reference.repository();
    match full.strip_prefix("docker.io/") {
        Some(rest) => rest.strip_prefix("library/").unwrap_or(rest).to_owned(),
        None => full,
    }
}

/// Whether a pattern with `*`, `?` and `[…]` fits a text; none of them stands for a slash.
pub(super) fn glob(pattern: &str, text: &str) -> bool {
    matches(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>())
}

fn matches(pattern: &[char], text: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['*', rest @ ..] => {
            let reach = text.iter().position(|c| *c == '/').unwrap_or(text.len());
            (0..=reach).any(|taken| matches(rest, &text[taken..]))
        }
        ['?', rest @ ..] => matches!(text, [c, behind @ ..] if *c != '/' && matches(rest, behind)),
        ['[', rest @ ..] => {
            let Some(end) = rest.iter().position(|c| *c == ']') else { return false };
            let ([c, behind @ ..], (set, rest)) = (text, rest.split_at(end)) else { return false };
            let (negated, set) = match set {
                ['^', set @ ..] => (true, set),
                set => (false, set),
            };
            in_set(set, *c) != negated && *c != '/' && matches(&rest[1..], behind)
        }
        ['\\', escaped, rest @ ..] | [escaped, rest @ ..] => {
            matches!(text, [c, behind @ ..] if c == escaped && matches(rest, behind))
        }
    }
}

fn in_set(set: &[char], c: char) -> bool {
    match set {
        [] => false,
        [from, '-', to, rest @ ..] => (*from..=*to).contains(&c) || in_set(rest, c),
        [one, rest @ ..] => *one == c || in_set(rest, c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_and_tags_are_joined() {
        assert_eq!(join("busybox", "1").unwrap().to_string(), "docker.io/library/busybox:1");
        let digest = format!("sha256:{}", "a".repeat(64));
        assert_eq!(join("x/y", &digest).unwrap().to_string(), format!("docker.io/x/y@{digest}"));
        assert_eq!(
            join("Big", "").unwrap_err().message(),
            "invalid reference format: repository name must be lowercase"
        );
        assert!(join("", "").unwrap_err().message().starts_with("invalid reference format"));
    }

    #[test]
    fn patterns_stop_at_slashes() {
        assert!(
            glob("busy*", "busybox") && glob("*/app:v?", "quay.io/app:v1") && glob("b[a-v]sy*", "busybox")
        );
        assert!(!glob("*", "quay.io/app") && !glob("busy", "busybox") && !glob("b[^u]sybox", "busybox"));
        assert!(glob("a\\*", "a*") && !glob("a\\*", "ab") && !glob("[", "a"));
    }

    #[test]
    fn familiar_names_leave_out_what_is_meant() {
        let familiar = |text: &str| familiar_repository(&text.parse().unwrap());
        assert_eq!(familiar("busybox:1"), "busybox");
        assert_eq!(familiar("docker.io/x/y"), "x/y");
        assert_eq!(familiar("quay.io/x/y:1"), "quay.io/x/y");
    }
}
