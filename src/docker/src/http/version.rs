//! Versions of the API, and which of them are served.

use std::fmt;

use super::error::ApiError;

/// A version of the Docker Engine API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ApiVersion {
    major: u16,
    minor: u16,
}

impl ApiVersion {
    /// The oldest version that is served.
    pub(crate) const MIN: Self = Self::v1(24);
    /// The version that is announced, and that paths without a version mean.
    pub(crate) const MAX: Self = Self::v1(51);

    /// `1.minor`.
    pub(crate) const fn v1(minor: u16) -> Self {
        Self { major: 1, minor }
    }

    /// Whether the client speaks `1.minor` or later.
    pub(crate) fn since(self, minor: u16) -> bool {
        self >= Self::v1(minor)
    }

    fn parse(text: &str) -> Option<Self> {
        let (major, minor) = text.split_once('.')?;
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        Some(Self { major: number(major)?, minor: number(minor)? })
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Takes the version off the front of a path. A path without one means the newest version.
pub(crate) fn split(path: &str) -> Result<(ApiVersion, &str), ApiError> {
    let Some((first, rest)) =
        path.strip_prefix("/v").map(|path| path.split_at(path.find('/').unwrap_or(path.len())))
    else {
        return Ok((ApiVersion::MAX, path));
    };
    // `/volumes` begins with a v, too.
    if first.is_empty() || !first.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Ok((ApiVersion::MAX, path));
    }
    let Some(version) = ApiVersion::parse(first) else { return Err(ApiError::page_not_found()) };
    if version < ApiVersion::MIN {
        return Err(ApiError::bad(format!(
            "client version {version} is too old. Minimum supported API version is {}, please upgrade your client to a newer version",
            ApiVersion::MIN
        ))
        .in_plain_text());
    }
    if version > ApiVersion::MAX {
        return Err(ApiError::bad(format!(
            "client version {version} is too new. Maximum supported API version is {}",
            ApiVersion::MAX
        )));
    }
    Ok((version, if rest.is_empty() { "/" } else { rest }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_off_the_path() {
        let ok = |path| split(path).unwrap();
        assert_eq!(ok("/v1.24/containers/json"), (ApiVersion::v1(24), "/containers/json"));
        assert_eq!(ok("/v1.51/_ping"), (ApiVersion::v1(51), "/_ping"));
        assert_eq!(ok("/volumes"), (ApiVersion::MAX, "/volumes"));
        assert_eq!(ok("/volumes/v1.44"), (ApiVersion::MAX, "/volumes/v1.44"));
        assert_eq!(ok("/v1.44"), (ApiVersion::v1(44), "/"));
    }

    #[test]
    fn versions_out_of_range_are_refused_in_the_words_clients_know() {
        let refused = |path| split(path).unwrap_err();
        assert_eq!(
            refused("/v1.20/info").message(),
            "client version 1.20 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"
        );
        assert!(refused("/v1.20/info").is_plain_text());
        assert_eq!(
            refused("/v1.99/info").message(),
            "client version 1.99 is too new. Maximum supported API version is 1.51"
        );
        assert_eq!(refused("/v1/info").message(), "page not found");
        assert_eq!(refused("/v1.4.4/info").message(), "page not found");
        assert_eq!(refused("/v1.99999999/info").message(), "page not found");
    }

    #[test]
    fn versions_compare_by_number() {
        assert!(ApiVersion::v1(44).since(9) && !ApiVersion::v1(44).since(45));
    }
}
