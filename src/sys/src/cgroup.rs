//! Control groups, v1, v2 and hybrid: create, limit, join, read, remove.
