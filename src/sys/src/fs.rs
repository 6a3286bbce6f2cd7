//! Crash-safe files: atomic replacement, locks, directory syncs, recursive removal, file system statistics.
