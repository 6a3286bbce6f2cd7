//! Sealed anonymous files.
