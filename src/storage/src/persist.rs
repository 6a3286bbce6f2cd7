//! Records as they lie on disk. Each version has a module of its own, and is converted by hand.

pub(crate) mod v1;
