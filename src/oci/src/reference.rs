//! Image references: `[domain/]path[:tag][@digest]`, in the grammar of the distribution project.
//!
//! Parsing normalises as every Docker client does: a name without a domain is `docker.io`'s, one without a
//! slash there is under `library/`. A reference without tag and digest keeps neither; who needs one calls
//! [`Reference::with_default_tag`].

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Digest;

const MAX_NAME_LEN: usize = 255;
const MAX_TAG_LEN: usize = 128;
const DEFAULT_DOMAIN: &str = "docker.io";

/// A checked, normalised reference.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    domain: Box<str>,
    path: Box<str>,
    tag: Option<Box<str>>,
    digest: Option<Digest>,
}

/// Text that is not a reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid image reference {text:?}: {reason}")]
pub struct InvalidReference {
    /// The text, cut to 300 characters.
    pub text: String,
    /// What is wrong with it.
    pub reason: &'static str,
}

impl Reference {
    /// The registry's host, with its port if it has one: `docker.io`, `localhost:5000`.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository's path below the domain: `library/busybox`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Domain and path: what all tags of a repository share.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// This reference, with tag `latest` if it has neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some("latest".into());
        }
        self
    }

    /// The repository at a digest, without a tag.
    #[must_use]
    pub fn at_digest(&self, digest: &Digest) -> Self {
        Self { domain: self.domain.clone(), path: self.path.clone(), tag: None, digest: Some(digest.clone()) }
    }

    /// As Docker shows it: `docker.io/library/` left out.
    pub fn familiar(&self) -> String {
        let full = self.to_string();
        match full.strip_prefix("docker.io/") {
            Some(rest) => rest.strip_prefix("library/").unwrap_or(rest).to_owned(),
            None => full,
        }
    }
}

impl FromStr for Reference {
    type Err = InvalidReference;

    fn from_str(text: &str) -> Result<Self, InvalidReference> {
        parse(text).map_err(|reason| InvalidReference { text: text.chars().take(300).collect(), reason })
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            (rest, Some(digest.parse::<Digest>().map_err(|_| "the part after @ is not a digest")?))
        }
        None => (text, None),
    };
    let (name, tag) = split_tag(rest);
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    if digest.is_none() && is_bare_digest(name) {
        return Err("64 hexadecimal digits are an image id, not a name");
    }
    let (domain, path) = split_domain(name);
    check_domain(domain)?;
    let path = if domain == DEFAULT_DOMAIN && !path.contains('/') {
        format!("library/{path}")
    } else {
        path.to_owned()
    };
    if domain.len() + 1 + path.len() > MAX_NAME_LEN {
        return Err("the name is longer than 255 characters");
    }
    path.split('/').try_for_each(check_component)?;
    Ok(Reference { domain: domain.into(), path: path.into(), tag: tag.map(Into::into), digest })
}

/// The last colon starts a tag only if no slash follows; else it belongs to a port.
fn split_tag(text: &str) -> (&str, Option<&str>) {
    match text.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (text, None),
    }
}

fn is_bare_digest(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

/// What stands before the first slash is a domain if it has a dot or a colon, is `localhost`, or has an
/// upper-case letter (which a path cannot have).
fn split_domain(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|b| b.is_ascii_uppercase()) =>
        {
            let domain = if first == "index.docker.io" { DEFAULT_DOMAIN } else { first };
            (domain, rest)
        }
        _ => (DEFAULT_DOMAIN, name),
    }
}

fn check_domain(domain: &str) -> Result<(), &'static str> {
    let (host, port) = if let Some(rest) = domain.strip_prefix('[') {
        let (host, after) = rest.split_once(']').ok_or("an IPv6 address lacks its closing bracket")?;
        if host.is_empty() || !host.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
            return Err("the IPv6 address in brackets is malformed");
        }
        return check_port(after.strip_prefix(':').filter(|_| !after.is_empty()), after);
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        }
    };
    let label_is_good = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if !host.split('.').all(label_is_good) {
        return Err("the registry's host name is malformed");
    }
    match port {
        Some(port) => check_port(Some(port), ":"),
        None => Ok(()),
    }
}

fn check_port(port: Option<&str>, after: &str) -> Result<(), &'static str> {
    match port {
        None if after.is_empty() => Ok(()),
        Some(port)
            if !port.is_empty()
                && port.bytes().all(|b| b.is_ascii_digit())
                && port.parse::<u16>().is_ok() =>
        {
            Ok(())
        }
        _ => Err("the registry's port is not a number up to 65535"),
    }
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let first_is_word = tag.bytes().next().is_some_and(word);
    if !first_is_word || tag.len() > MAX_TAG_LEN || !tag.bytes().all(|b| word(b) || b == b'.' || b == b'-') {
        return Err("a tag is up to 128 letters, digits, '_', '.' and '-', not starting with '.' or '-'");
    }
    Ok(())
}

/// `[a-z0-9]+` joined by one `.`, one or two `_`, or any number of `-`.
fn check_component(component: &str) -> Result<(), &'static str> {
    const REASON: &str =
        "a path component is lower-case letters and digits, separated by one '.', one or two '_' or dashes";
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else {
        return Err("a path component is empty");
    };
    if !alphanumeric(*first) || !alphanumeric(*last) {
        return Err(REASON);
    }
    for separator in
        component.split(|c: char| c.is_ascii() && alphanumeric(c as u8)).filter(|s| !s.is_empty())
    {
        let dashes = separator.bytes().all(|b| b == b'-');
        if !dashes && !matches!(separator, "." | "_" | "__") {
            return Err(REASON);
        }
    }
    Ok(())
}

impl TryFrom<String> for Reference {
    type Error = InvalidReference;

    fn try_from(text: String) -> Result<Self, InvalidReference> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests;
