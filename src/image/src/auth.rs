//! Credentials, as configuration files and clients give them.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use crate::Secret;

/// What to show a registry, or the token server it names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Auth {
    /// A user and a password.
    Basic {
        /// The user.
        username: String,
        /// The password, or a personal access token.
        password: Secret<String>,
    },
    /// A refresh token that a token server turns into access tokens.
    IdentityToken(Secret<String>),
    /// An access token for the registry itself.
    RegistryToken(Secret<String>),
}

/// The fields that CRI's `AuthConfig`, Docker's `X-Registry-Auth` header and `config.json` share.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct AuthFields {
    /// The user.
    pub username: String,
    /// The password.
    pub password: Secret<String>,
    /// `user:password` in base64, in place of the two.
    pub auth: Secret<String>,
    /// The registry these credentials are for; empty: the one of the reference they come with.
    pub server_address: String,
    /// A refresh token.
    pub identity_token: Secret<String>,
    /// An access token.
    pub registry_token: Secret<String>,
}

/// Fields that make no credentials.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed credentials: {reason}")]
pub struct InvalidAuth {
    /// What is wrong with them.
    pub reason: &'static str,
}

/// Credentials and the registry they may go to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ScopedAuth {
    /// The credentials.
    pub auth: Auth,
    /// The only registry they may go to (`host[:port]`); `None`: the registry of the reference they come with.
    /// They never go to a mirror unless it is named here.
    pub server: Option<String>,
}

impl From<Auth> for ScopedAuth {
    fn from(auth: Auth) -> Self {
        Self { auth, server: None }
    }
}

impl AuthFields {
    /// Reads the fields; `None` if all are empty, which means anonymous.
    pub fn parse(&self) -> Result<Option<ScopedAuth>, InvalidAuth> {
        let Some(auth) = self.credentials()? else { return Ok(None) };
        let server = server_host(&self.server_address);
        Ok(Some(ScopedAuth { auth, server }))
    }

    fn credentials(&self) -> Result<Option<Auth>, InvalidAuth> {
        if !self.registry_token.expose().is_empty() {
            return Ok(Some(Auth::RegistryToken(self.registry_token.clone())));
        }
        if !self.identity_token.expose().is_empty() {
            return Ok(Some(Auth::IdentityToken(self.identity_token.clone())));
        }
        if !self.username.is_empty() {
            return Ok(Some(Auth::Basic {
                username: self.username.clone(),
                password: self.password.clone(),
            }));
        }
        if !self.auth.expose().is_empty() {
            return decode_basic(self.auth.expose()).map(Some);
        }
        Ok(None)
    }
}

/// Decodes `base64(user:password)`; Docker pads it with NUL bytes at times.
pub(crate) fn decode_basic(text: &str) -> Result<Auth, InvalidAuth> {
    let text = text.trim();
    let bytes = STANDARD.decode(text).or_else(|_| STANDARD_NO_PAD.decode(text));
    let bytes = bytes.map_err(|_| InvalidAuth { reason: "auth is not base64" })?;
    let text = String::from_utf8(bytes).map_err(|_| InvalidAuth { reason: "auth is not UTF-8" })?;
    let (user, password) = text.split_once(':').ok_or(InvalidAuth { reason: "auth is not user:password" })?;
    let password = password.trim_matches('\0').to_owned();
    Ok(Auth::Basic { username: user.to_owned(), password: Secret::new(password) })
}

/// The `host[:port]` in what people write as a server address: with a scheme, a path, or neither.
pub(crate) fn server_host(address: &str) -> Option<String> {
    let address = address.trim();
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    (!host.is_empty()).then(|| canonical_host(host))
}

/// One name for the several that Docker Hub goes by.
pub(crate) fn canonical_host(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".into(),
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(user: &str, password: &str) -> Auth {
        Auth::Basic { username: user.into(), password: Secret::new(password.into()) }
    }

    #[test]
    fn fields_become_credentials_in_order_of_strength() {
        let mut fields = AuthFields::default();
        assert_eq!(fields.parse(), Ok(None));
        fields.auth = Secret::new(STANDARD.encode("a:b:c\0\0"));
        assert_eq!(fields.parse().unwrap().unwrap().auth, basic("a", "b:c"));
        fields.username = "user".into();
        fields.password = Secret::new("pass".into());
        assert_eq!(fields.parse().unwrap().unwrap().auth, basic("user", "pass"));
        fields.identity_token = Secret::new("i".into());
        assert_eq!(fields.parse().unwrap().unwrap().auth, Auth::IdentityToken(Secret::new("i".into())));
        fields.registry_token = Secret::new("r".into());
        assert_eq!(fields.parse().unwrap().unwrap().auth, Auth::RegistryToken(Secret::new("r".into())));
        for bad in ["%", "bm9jb2xvbg==", "//4="] {
            let fields = AuthFields { auth: Secret::new(bad.into()), ..AuthFields::default() };
            assert!(fields.parse().is_err(), "{bad}");
        }
    }

    #[test]
    fn servers_are_hosts_however_they_are_written() {
        for (address, host) in [
            ("https://index.docker.io/v1/", Some("docker.io")),
            ("Registry.Example:5000", Some("registry.example:5000")),
            ("http://user:pw@r.test/v2/", Some("r.test")),
            ("r.test/team", Some("r.test")),
            ("", None),
            ("https://", None),
        ] {
            assert_eq!(server_host(address).as_deref(), host, "{address}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let fields = AuthFields { auth: Secret::new("c2VjcmV0".into()), ..AuthFields::default() };
        let scoped = ScopedAuth::from(basic("user", "hunter2"));
        assert!(!format!("{fields:?} {scoped:?}").contains("c2VjcmV0"));
        assert!(!format!("{scoped:?}").contains("hunter2"));
    }
}
