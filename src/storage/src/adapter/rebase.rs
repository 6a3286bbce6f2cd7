//! A layer laid out anew on top of the layers below it.
//!
//! A layer may name `lib/x` without an entry for `lib` where a lower layer has a link `lib` to `usr/lib`:
//! whoever extracts one on top of the other follows the link. Unpacked on its own, the layer has a directory
//! that hides the link. Such a layer is replaced by one that has its files, as hard links, where the links
//! lead.
//!
//! What the layer has under its real path is placed first, and wins over what comes to the same place through
//! a link; links that the layer itself has are followed like those below it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use sys::tree::{self, Kind};

use super::make::{Pending, dress, keeping_time, make_directory, too_large};
use super::view::{Found, Node, View, components, join, open_path};
use crate::Limits;
use crate::archive::{clear_implied, is_implied, is_opaque, set_implied, set_opaque_fd};

/// Whether a layer has an implied directory that hides a link of a layer below.
pub(super) fn is_needed(below: &View, layer: BorrowedFd<'_>) -> io::Result<bool> {
    let mut pending = Pending::new();
    pending.push(below.root()?, 0)?;
    while let Some(node) = pending.pop() {
        let directory = open_path(layer, &node.path)?;
        for name in tree::list(directory.as_fd())? {
            if tree::stat(directory.as_fd(), &name)?.kind != Kind::Directory {
                continue;
            }
            let child = tree::open_directory(directory.as_fd(), &name)?;
            match below.look(&node, &name)? {
                Found::Other(_, stat) if stat.kind == Kind::Symlink && is_implied(child.as_fd())? => {
                    return Ok(true);
                }
                Found::Directory(found) if !is_opaque(child.as_fd())? => {
                    let length = found.path.len();
                    pending.push(found, length)?;
                }
                Found::Nothing | Found::Directory(_) | Found::Other(..) => {}
            }
        }
    }
    Ok(false)
}

/// A directory of the layer, and where its content goes.
struct Job {
    from: Vec<u8>,
    to: Vec<u8>,
}

/// The layer, its new place, and what it is seen with.
pub(super) struct Rebase<'a> {
    /// All layers below, and on top of them the new place itself.
    pub(super) view: &'a View,
    pub(super) layer: BorrowedFd<'a>,
    pub(super) place: BorrowedFd<'a>,
    pub(super) limits: Limits,
}

/// An open directory of the layer and its new place.
struct Here<'a> {
    job: &'a Job,
    from: BorrowedFd<'a>,
    to: BorrowedFd<'a>,
}

struct Queues {
    plain: Pending<Job>,
    /// What goes where a link leads waits until everything else has its place.
    redirected: Pending<Job>,
    made: u64,
}

impl Rebase<'_> {
    /// Fills the new place, which is empty. Says how many directories were made.
    pub(super) fn run(&self) -> io::Result<u64> {
        dress(self.place, self.layer)?;
        if is_implied(self.layer)? {
            set_implied(self.place)?;
        }
        let mut queues = Queues { plain: Pending::new(), redirected: Pending::new(), made: 0 };
        queues.push(false, Job { from: Vec::new(), to: Vec::new() })?;
        while let Some(job) = queues.plain.pop().or_else(|| queues.redirected.pop()) {
            let from = open_path(self.layer, &job.from)?;
            let to = open_path(self.place, &job.to)?;
            let here = Here { job: &job, from: from.as_fd(), to: to.as_fd() };
            keeping_time(to.as_fd(), || self.fill(&here, &mut queues))?;
            if queues.made > self.limits.entries {
                return Err(too_large());
            }
        }
        Ok(queues.made)
    }

    fn fill(&self, here: &Here<'_>, queues: &mut Queues) -> io::Result<()> {
        // Needed only where a directory is implied.
        let mut seen: Option<Option<Node>> = None;
        for name in tree::list(here.from)? {
            let stat = tree::stat(here.from, &name)?;
            if stat.kind != Kind::Directory {
                place_leaf(here, &name, stat.is_whiteout())?;
                continue;
            }
            let child = tree::open_directory(here.from, &name)?;
            let implied = is_implied(child.as_fd())?;
            if implied {
                if seen.is_none() {
                    seen = Some(self.view.at(&here.job.to)?);
                }
                let node = seen.as_ref().and_then(Option::as_ref);
                if let Some(target) = self.redirection(here, node, &name)? {
                    self.ensure(&target, is_opaque(child.as_fd())?, queues)?;
                    queues.push(true, Job { from: join(&here.job.from, &name), to: target })?;
                    continue;
                }
            }
            if place_directory(here, &name, child.as_fd(), queues)? {
                let job = Job { from: join(&here.job.from, &name), to: join(&here.job.to, &name) };
                queues.push(false, job)?;
            }
        }
        Ok(())
    }

    /// Where the link leads that an implied directory would hide.
    fn redirection(&self, here: &Here<'_>, node: Option<&Node>, name: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let Some(node) = node else { return Ok(None) };
        match self.view.look(node, name)? {
            Found::Other(layer, stat) if stat.kind == Kind::Symlink => {
                let directory = self.view.open(layer, &node.path)?;
                let target = tree::read_link(directory.as_fd(), name)?;
                self.view.follow(&here.job.to, &target, self.limits.depth)
            }
            Found::Nothing | Found::Directory(_) | Found::Other(..) => Ok(None),
        }
    }

    /// Makes a directory in the new place with those above it, as far as they are missing.
    fn ensure(&self, path: &[u8], opaque: bool, queues: &mut Queues) -> io::Result<()> {
        let mut directory = open_path(self.place, b"")?;
        for name in components(path) {
            let found = tree::stat_optional(directory.as_fd(), name)?;
            directory = match found {
                Some(stat) if stat.kind == Kind::Directory => tree::open_directory(directory.as_fd(), name)?,
                Some(stat) if !stat.is_whiteout() => return Err(io::ErrorKind::NotADirectory.into()),
                hidden => keeping_time(directory.as_fd(), || {
                    queues.made += 1;
                    if hidden.is_some() {
                        tree::unlink(directory.as_fd(), name)?;
                    }
                    let made = make_directory(directory.as_fd(), name)?;
                    match hidden {
                        Some(_) => set_opaque_fd(made.as_fd())?,
                        None => set_implied(made.as_fd())?,
                    }
                    Ok(made)
                })?,
            };
        }
        if opaque { set_opaque_fd(directory.as_fd()) } else { Ok(()) }
    }
}

impl Queues {
    fn push(&mut self, redirected: bool, job: Job) -> io::Result<()> {
        let length = job.from.len() + job.to.len();
        if redirected { self.redirected.push(job, length) } else { self.plain.push(job, length) }
    }
}

/// Gives a file its second name. A name that is taken stays, unless it is a whiteout's.
fn place_leaf(here: &Here<'_>, name: &[u8], whiteout: bool) -> io::Result<()> {
    match tree::stat_optional(here.to, name)? {
        None => {}
        Some(taken) if taken.is_whiteout() && !whiteout => tree::unlink(here.to, name)?,
        // The layer removes what is below and has a directory there: that one hides what is below.
        Some(taken) if taken.kind == Kind::Directory && whiteout => {
            let directory = tree::open_directory(here.to, name)?;
            clear_implied(directory.as_fd())?;
            return set_opaque_fd(directory.as_fd());
        }
        Some(_) => return Ok(()),
    }
    crate::fail::point()?;
    tree::make_hard_link(here.from, name, here.to, name)
}

/// Makes a directory like that of the layer. Says whether what is in it can go there.
fn place_directory(
    here: &Here<'_>,
    name: &[u8],
    like: BorrowedFd<'_>,
    queues: &mut Queues,
) -> io::Result<bool> {
    let implied = is_implied(like)?;
    let taken = tree::stat_optional(here.to, name)?;
    let directory = match taken {
        Some(stat) if stat.kind == Kind::Directory => {
            let directory = tree::open_directory(here.to, name)?;
            if !implied {
                clear_implied(directory.as_fd())?;
                dress(directory.as_fd(), like)?;
            }
            directory
        }
        Some(stat) if !stat.is_whiteout() => return Ok(false),
        hidden => {
            queues.made += 1;
            if hidden.is_some() {
                tree::unlink(here.to, name)?;
            }
            let directory = make_directory(here.to, name)?;
            dress(directory.as_fd(), like)?;
            match hidden {
                Some(_) => set_opaque_fd(directory.as_fd())?,
                None if implied => set_implied(directory.as_fd())?,
                None => {}
            }
            directory
        }
    };
    if is_opaque(like)? {
        set_opaque_fd(directory.as_fd())?;
    }
    Ok(true)
}
