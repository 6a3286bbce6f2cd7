//! Access tokens: fetched from the server a challenge names, kept until they end.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use reqwest::header::HeaderValue;
use serde::Deserialize;

use crate::Secret;
use crate::auth::Auth;
use crate::error::{ErrorKind, Fault};

/// A token is fetched anew this long before it ends.
const MARGIN: Duration = Duration::from_secs(10);
/// What the specification says if a token server does not.
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);
const MAX_SLOTS: usize = 4096;

/// What a grant is good for: one endpoint, one set of credentials, one scope.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct GrantKey {
    pub(crate) endpoint: String,
    pub(crate) auth: Option<Auth>,
    pub(crate) scope: String,
}

/// A value for the `Authorization` header that the registry takes.
#[derive(Debug, Clone)]
pub(crate) struct Grant {
    pub(crate) header: HeaderValue,
    pub(crate) ends: Option<Instant>,
}

impl Grant {
    pub(crate) fn is_fresh(&self) -> bool {
        self.ends.is_none_or(|ends| Instant::now() < ends)
    }
}

/// Holds a grant; its lock makes sure that one of many requests fetches it.
pub(crate) type Slot = Arc<tokio::sync::Mutex<Option<Grant>>>;

/// All grants.
#[derive(Debug, Default)]
pub(crate) struct Grants(Mutex<HashMap<GrantKey, Slot>>);

impl Grants {
    pub(crate) fn slot(&self, key: &GrantKey) -> Slot {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slots.len() >= MAX_SLOTS {
            slots.retain(|_, slot| match slot.try_lock() {
                Ok(grant) => grant.as_ref().is_some_and(Grant::is_fresh),
                Err(_) => true,
            });
            if slots.len() >= MAX_SLOTS {
                slots.clear();
            }
        }
        slots.entry(key.clone()).or_default().clone()
    }
}

/// A token server's answer.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    token: Secret<String>,
    #[serde(default)]
    access_token: Secret<String>,
    #[serde(default)]
    expires_in: Option<f64>,
}

/// Reads a token server's answer.
pub(crate) fn parse_answer(body: &[u8]) -> Result<Grant, Fault> {
    let malformed = || Fault::invalid("the token server's answer is malformed");
    let answer: Answer = serde_json::from_slice(body).map_err(|_| malformed())?;
    let token = [&answer.token, &answer.access_token].into_iter().find(|token| !token.expose().is_empty());
    let token = token.ok_or_else(|| Fault::invalid("the token server's answer holds no token"))?;
    let life = answer.expires_in.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    let life = life.filter(|life| !life.is_zero()).unwrap_or(DEFAULT_LIFE).min(MAX_LIFE);
    let ends = Instant::now() + life.saturating_sub(MARGIN.min(life / 2));
    Ok(Grant { header: bearer(token)?, ends: Some(ends) })
}

/// The header for an access token.
pub(crate) fn bearer(token: &Secret<String>) -> Result<HeaderValue, Fault> {
    sensitive(format!("Bearer {}", token.expose()))
}

/// The header for a user and a password.
pub(crate) fn basic(username: &str, password: &Secret<String>) -> Result<HeaderValue, Fault> {
    let pair = format!("{username}:{}", password.expose());
    sensitive(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
}

fn sensitive(text: String) -> Result<HeaderValue, Fault> {
    let malformed = |_| Fault::new(ErrorKind::Unauthorized, "the credentials hold characters no header can");
    let mut value = HeaderValue::try_from(text).map_err(malformed)?;
    value.set_sensitive(true);
    Ok(value)
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Secret<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Self::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_in_both_spellings() {
        let grant = parse_answer(br#"{"token":"t1","expires_in":300}"#).unwrap();
        assert_eq!(grant.header, "Bearer t1");
        let life = grant.ends.unwrap() - Instant::now();
        assert!(life > Duration::from_secs(280) && life <= Duration::from_secs(290), "{life:?}");
        assert_eq!(parse_answer(br#"{"access_token":"t2","token":""}"#).unwrap().header, "Bearer t2");
        for expires in ["-1", "0", "1e300"] {
            let grant =
                parse_answer(format!(r#"{{"token":"t","expires_in":{expires}}}"#).as_bytes()).unwrap();
            assert!(grant.is_fresh(), "{expires}");
        }
        for bad in ["", "{}", "[]", r#"{"token":7}"#, r#"{"token":"a\nb"}"#] {
            assert!(parse_answer(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
