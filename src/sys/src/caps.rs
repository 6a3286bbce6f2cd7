//! Capability sets: names, the bounding set, what this process holds.
