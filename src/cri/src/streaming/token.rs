//! Single-use tokens: what a URL proves.
//!
//! A token is 192 random bits, valid for a minute and once, and stands for one operation on one object.
//! The table is keyed by the token's SHA-256, so how long a lookup takes says nothing about tokens.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Read};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::backend::{Attach, Exec, PortForward};

const TOKEN_BYTES: usize = 24;
const LIFETIME: Duration = Duration::from_secs(60);
const MAX_OUTSTANDING: usize = 1000;

/// What a token allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Run a process.
    Exec(Exec),
    /// Attach to the main process.
    Attach(Attach),
    /// Forward ports.
    PortForward(PortForward),
}

impl Operation {
    /// First segment of the URL's path.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::PortForward(_) => "portforward",
        }
    }
}

/// Why no token was issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// Clients ask for sessions and do not open them.
    #[error("{MAX_OUTSTANDING} streaming sessions wait for their clients; try again in a minute")]
    TooMany,
    /// The kernel gave no random bytes.
    #[error("read random bytes")]
    Random(#[source] io::Error),
}

type Hash = [u8; 32];

#[derive(Default)]
struct Table {
    operations: HashMap<Hash, (Instant, Operation)>,
    /// In the order of expiry.
    order: VecDeque<(Instant, Hash)>,
}

/// The outstanding tokens.
pub(crate) struct Tokens {
    // Held open, so that issuing needs no descriptor.
    random: File,
    table: Mutex<Table>,
}

impl Tokens {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { random: File::open("/dev/urandom")?, table: Mutex::default() })
    }

    /// A new token for an operation.
    pub(crate) fn issue(&self, operation: Operation) -> Result<String, IssueError> {
        let mut bytes = [0; TOKEN_BYTES];
        (&self.random).read_exact(&mut bytes).map_err(IssueError::Random)?;
        let token = URL_SAFE_NO_PAD.encode(bytes);
        self.insert(&token, operation, Instant::now())?;
        Ok(token)
    }

    fn insert(&self, token: &str, operation: Operation, now: Instant) -> Result<(), IssueError> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.expire(now);
        if table.operations.len() >= MAX_OUTSTANDING {
            return Err(IssueError::TooMany);
        }
        let (expiry, hash) = (now + LIFETIME, hash(token));
        table.order.push_back((expiry, hash));
        table.operations.insert(hash, (expiry, operation));
        Ok(())
    }

    /// Takes what a token stands for. With the wrong operation the token stays as it is.
    pub(crate) fn take(&self, name: &str, token: &str) -> Option<Operation> {
        self.take_at(name, token, Instant::now())
    }

    fn take_at(&self, name: &str, token: &str, now: Instant) -> Option<Operation> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.expire(now);
        let hash = hash(token);
        table.operations.get(&hash).filter(|(_, operation)| operation.name() == name)?;
        table.operations.remove(&hash).map(|(_, operation)| operation)
    }
}

impl Table {
    fn expire(&mut self, now: Instant) {
        while let Some((_, hash)) = self.order.front().filter(|(expiry, _)| *expiry <= now) {
            self.operations.remove(hash);
            self.order.pop_front();
        }
        // Used tokens leave their entry here until it expires; without many of those it stays small.
        if self.order.len() > 2 * MAX_OUTSTANDING {
            let operations = &self.operations;
            self.order.retain(|(_, hash)| operations.contains_key(hash));
        }
    }
}

fn hash(token: &str) -> Hash {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forward(port: u16) -> Operation {
        Operation::PortForward(PortForward { sandbox: "pod".parse().unwrap(), ports: vec![port] })
    }

    #[test]
    fn a_token_works_once_and_for_its_operation() {
        let tokens = Tokens::new().unwrap();
        let token = tokens.issue(forward(80)).unwrap();
        assert_eq!(token.len(), 32);
        assert_eq!(tokens.take("exec", &token), None);
        assert_eq!(tokens.take("portforward", &token[1..]), None);
        assert_eq!(tokens.take("portforward", &token), Some(forward(80)));
        assert_eq!(tokens.take("portforward", &token), None);
    }

    #[test]
    fn a_token_lives_a_minute() {
        let (tokens, now) = (Tokens::new().unwrap(), Instant::now());
        tokens.insert("a", forward(1), now).unwrap();
        tokens.insert("b", forward(2), now).unwrap();
        assert!(tokens.take_at("portforward", "a", now + LIFETIME - Duration::from_millis(1)).is_some());
        assert!(tokens.take_at("portforward", "b", now + LIFETIME).is_none());
    }

    #[test]
    fn tokens_are_bounded() {
        let (tokens, now) = (Tokens::new().unwrap(), Instant::now());
        for i in 0..MAX_OUTSTANDING {
            tokens.insert(&i.to_string(), forward(1), now).unwrap();
        }
        assert!(matches!(tokens.insert("more", forward(1), now), Err(IssueError::TooMany)));
        tokens.take_at("portforward", "7", now).unwrap();
        tokens.insert("more", forward(1), now).unwrap();
        tokens.insert("later", forward(1), now + LIFETIME).unwrap();
        for i in 0..10 * MAX_OUTSTANDING {
            tokens.insert(&i.to_string(), forward(1), now + LIFETIME).unwrap();
            tokens.take_at("portforward", &i.to_string(), now + LIFETIME).unwrap();
        }
        assert!(tokens.table.lock().unwrap().order.len() <= 2 * MAX_OUTSTANDING + 1);
    }
}
