//! Identifiers of sandboxes, containers and exec sessions.
//!
//! They end up as file names, cgroup names and parts of commands, so their alphabet is small.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const MAX_LEN: usize = 128;

/// Text that cannot be an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid id {text:?}: expected 1 to 128 characters of A-Z a-z 0-9 _ . - that do not start with a dot or dash"
)]
pub struct InvalidId {
    /// The text, cut to 160 characters.
    pub text: String,
}

fn check(text: &str) -> Result<(), InvalidId> {
    let alphabet = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    let starts_badly = text.starts_with(['.', '-']);
    if text.is_empty() || text.len() > MAX_LEN || starts_badly || !text.bytes().all(alphabet) {
        return Err(InvalidId { text: text.chars().take(160).collect() });
    }
    Ok(())
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// An id from 32 random bytes: 64 hexadecimal digits.
            pub fn from_random(bytes: [u8; 32]) -> Self {
                Self(crate::Digest::sha256(bytes).hex().into())
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The first 12 characters, for people.
            pub fn short(&self) -> &str {
                self.0.get(..12).unwrap_or(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                check(text).map(|()| Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0.into()
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl AsRef<std::path::Path> for $name {
            fn as_ref(&self) -> &std::path::Path {
                std::path::Path::new(&*self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

id! {
    /// A sandbox: the namespaces and network that one or more containers share.
    SandboxId
}
id! {
    /// A container.
    ContainerId
}
id! {
    /// An exec session: one more process in a container.
    ExecId
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_is_safe_for_files_and_arguments() {
        for good in ["a", "A-b_c.9", &"x".repeat(128)] {
            assert!(good.parse::<ContainerId>().is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".a", "-rf", "a/b", "a b", "ä", "a\0", &"x".repeat(129)] {
            assert!(bad.parse::<ContainerId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn random_ids_are_64_hex_digits() {
        let id = SandboxId::from_random([7; 32]);
        assert_eq!((id.as_str().len(), id.short()), (64, "070707070707"));
    }
}
