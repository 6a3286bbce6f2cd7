//! Path resolution that cannot leave its root: openat2.
