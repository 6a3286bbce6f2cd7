//! From a container's pipes to its log file.
//!
//! A [`pump::Pump`] is a thread that owns the reading ends of the pipes of many containers whose logs live on
//! one device, and writes what it reads straight to the files. It holds nothing back but the beginning of a
//! line that is not complete (at most 16 KiB per stream), so a disk that is slow stalls only the containers
//! whose logs live on it: their pipes fill up and their writers wait. The keeper's loop never touches a log.

pub(crate) mod file;
pub(crate) mod format;
pub(crate) mod pump;
pub(crate) mod pumps;
pub(crate) mod split;
mod taps;
#[cfg(test)]
mod tests;
pub(crate) mod timestamp;
