//! The fd-based mount API: open_tree, fsopen, mount_setattr, move_mount.
