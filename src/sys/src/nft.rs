//! nf_tables transactions over netlink.
