//! rtnetlink: links, addresses, routes, in one message where the kernel allows it.
