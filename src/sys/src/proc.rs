//! Readers for procfs and sysfs.
