//! Committing transactions, reading the rules back, and being told of other people's changes.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::OnceLock;

use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::netlink::wire::{self, attribute, attributes, read_text};
use crate::netlink::{self, Reply};

use super::SUBSYSTEM;
use super::batch::{self, Batch, DELSETELEM, Element, Family};

const GETTABLE: u16 = 1;
const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;
const GETSETELEM: u16 = 13;
const NEWGEN: u16 = 15;
const GROUP_NFTABLES: u32 = 7;
const DUMP: u16 = 0x300;
const BUFFER_BYTES: usize = 16 << 20;

/// The upper half of this process's sequence numbers. Announcements of a commit repeat its sequence number, and the process
/// id that they carry as well is really a thread's.
fn signature() -> u16 {
    static SIGNATURE: OnceLock<u16> = OnceLock::new();
    *SIGNATURE.get_or_init(|| {
        let random = crate::fs::random_bytes::<2>().map_or(0, u16::from_ne_bytes);
        // Others count from 0, or from the time of day.
        random | 0x8000
    })
}

/// One operation that the kernel refused.
#[derive(Debug)]
pub struct Failure {
    /// What was tried.
    pub operation: &'static str,
    /// On what.
    pub object: String,
    /// The error number.
    pub errno: i32,
    index: usize,
}

/// A transaction that was not committed.
#[derive(Debug, thiserror::Error)]
#[error("{}", describe(.failures))]
pub struct Error {
    /// The refused operations; empty when the transaction as a whole failed.
    pub failures: Vec<Failure>,
    /// The first error.
    #[source]
    pub source: io::Error,
}

impl Error {
    fn whole(source: io::Error) -> Self {
        Self { failures: Vec::new(), source }
    }

    /// The first error number.
    pub fn errno(&self) -> i32 {
        self.source.raw_os_error().unwrap_or(0)
    }
}

fn describe(failures: &[Failure]) -> String {
    failures
        .first()
        .map_or_else(|| "commit nftables transaction".to_owned(), |f| format!("{} {}", f.operation, f.object))
}

/// A rule as found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RuleInfo {
    /// Its chain.
    pub chain: String,
    /// Its comment.
    pub comment: String,
}

/// A socket to nf_tables of the network namespace of the thread that opened it. Keep it: closing one makes the kernel
/// wait for what was deleted to be freed, which takes milliseconds.
#[derive(Debug)]
pub struct Connection {
    inner: netlink::Connection,
}

impl Connection {
    /// Opens a socket.
    pub fn open() -> io::Result<Self> {
        let inner = netlink::Connection::open(NETLINK_NETFILTER)?;
        inner.raise_buffers(BUFFER_BYTES);
        Ok(Self { inner })
    }

    /// Commits a transaction.
    pub fn commit(&mut self, batch: &Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let count = u32::try_from(batch.operations.len()).unwrap_or(u32::MAX - 2);
        self.inner.number_from(u32::from(signature()) << 16 | 1);
        let begin = self.inner.sequence(count + 2);
        let last = begin.wrapping_add(count);
        self.inner.send(&batch.datagram(begin)).map_err(Error::whole)?;
        let stop = |seq| seq == begin || seq == last;
        let answers = self.inner.acknowledgements(begin, u32::MAX, stop).map_err(Error::whole)?;
        let mut failures = Vec::new();
        let mut source = None;
        for answer in answers {
            let errno = answer.source.raw_os_error().unwrap_or(0);
            source.get_or_insert(answer.source);
            let index = answer.seq.wrapping_sub(begin).wrapping_sub(1) as usize;
            if let Some(operation) = batch.operations.get(index) {
                failures.push(Failure {
                    operation: operation.name,
                    object: operation.object.clone(),
                    errno,
                    index,
                });
            }
        }
        source.map_or(Ok(()), |source| Err(Error { failures, source }))
    }

    /// Commits a transaction; elements to delete may be missing, with their set or table.
    pub fn commit_deletions(&mut self, mut batch: Batch) -> Result<(), Error> {
        loop {
            let Err(error) = self.commit(&batch) else { return Ok(()) };
            let is_missing = |f: &Failure| {
                f.errno == libc::ENOENT && batch.operations.get(f.index).is_some_and(|o| o.kind == DELSETELEM)
            };
            if error.failures.is_empty() || !error.failures.iter().all(is_missing) {
                return Err(error);
            }
            let missing: Vec<usize> = error.failures.iter().map(|f| f.index).collect();
            let mut index = 0;
            batch.operations.retain(|_| {
                index += 1;
                !missing.contains(&(index - 1))
            });
        }
    }

    /// Whether a table exists.
    pub fn has_table(&mut self, family: Family, table: &str) -> io::Result<bool> {
        let kind = SUBSYSTEM << 8 | GETTABLE;
        let reply = self.inner.request(kind, 0, |w| {
            batch::header(w, family as u8, 0);
            w.attr_str(1, table);
        });
        match reply {
            Ok(_) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Names of the chains of a table; empty if there is no such table.
    pub fn chains(&mut self, family: Family, table: &str) -> io::Result<Vec<String>> {
        let replies =
            self.inner.request(SUBSYSTEM << 8 | GETCHAIN, DUMP, |w| batch::header(w, family as u8, 0))?;
        let name = |body: &[u8]| {
            let of_table = attribute(body, 1).is_some_and(|t| read_text(t) == table);
            attribute(body, 3).filter(|_| of_table).map(read_text)
        };
        Ok(replies.iter().filter_map(|r| name(body_of(r))).collect())
    }

    /// The rules of a table in order; empty if there is no such table.
    pub fn rules(&mut self, family: Family, table: &str) -> io::Result<Vec<RuleInfo>> {
        let kind = SUBSYSTEM << 8 | GETRULE;
        let replies = self.inner.request(kind, DUMP, |w| {
            batch::header(w, family as u8, 0);
            w.attr_str(1, table);
        })?;
        let info = |body: &[u8]| {
            attribute(body, 1).filter(|t| read_text(t) == table)?;
            let comment = attribute(body, 7).map(batch::read_comment).unwrap_or_default();
            Some(RuleInfo { chain: read_text(attribute(body, 2)?), comment })
        };
        Ok(replies.iter().filter_map(|r| info(body_of(r))).collect())
    }

    /// The elements of a set or map; `None` if there is no such set.
    pub fn elements(&mut self, family: Family, table: &str, set: &str) -> io::Result<Option<Vec<Element>>> {
        let kind = SUBSYSTEM << 8 | GETSETELEM;
        let replies = self.inner.request(kind, DUMP, |w| {
            batch::header(w, family as u8, 0);
            w.attr_str(1, table);
            w.attr_str(2, set);
        });
        let replies = match replies {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            other => other?,
        };
        let lists = replies.iter().filter_map(|r| attribute(body_of(r), 3));
        Ok(Some(lists.flat_map(attributes).filter_map(|(_, value)| element(value)).collect()))
    }
}

fn body_of(reply: &Reply) -> &[u8] {
    reply.payload.get(4..).unwrap_or_default()
}

fn element(value: &[u8]) -> Option<Element> {
    let key = attribute(attribute(value, 1)?, 1)?.to_vec();
    let data = attribute(value, 2).and_then(|d| attribute(d, 1)).map(<[u8]>::to_vec);
    let comment = attribute(value, 6).map(batch::read_comment).unwrap_or_default();
    Some(Element { key, data, comment })
}

/// Tells when another process changed the rules.
#[derive(Debug)]
pub struct Monitor {
    inner: netlink::Connection,
}

impl Monitor {
    /// Starts to listen in the network namespace of the calling thread.
    pub fn open() -> io::Result<Self> {
        Ok(Self { inner: netlink::Connection::subscribe(NETLINK_NETFILTER, GROUP_NFTABLES)? })
    }

    /// Reads all that has arrived; whether another process committed a transaction.
    pub fn drain(&mut self) -> io::Result<bool> {
        let own = u32::from(signature());
        let mut changed = false;
        loop {
            match self.inner.receive() {
                Ok(bytes) => {
                    let commits = wire::messages(bytes).filter(|m| m.kind == SUBSYSTEM << 8 | NEWGEN);
                    changed |= commits.into_iter().any(|m| m.seq >> 16 != own);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(changed),
                // The queue overflowed: something happened that we could not see.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => changed = true,
                Err(e) => return Err(e),
            }
        }
    }
}

impl AsFd for Monitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.inner.as_fd()
    }
}
