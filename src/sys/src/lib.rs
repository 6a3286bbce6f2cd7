//! The Linux kernel, typed.
//!
//! Everything here is synchronous, retries `EINTR`, returns owned file descriptors with `O_CLOEXEC`, and
//! takes the roots it works on (cgroup, proc, state directory) as parameters so that tests can hand it a
//! temporary directory. It knows kernel objects, not containers.
//!
//! This is the only crate with `unsafe`; the modules that may use it are marked below.

#[allow(unsafe_code)]
pub mod caps;
pub mod cgroup;
#[allow(unsafe_code)]
pub mod epoll;
pub mod fs;
pub mod host;
#[allow(unsafe_code)]
pub mod memfd;
#[allow(unsafe_code)]
pub mod memory;
#[allow(unsafe_code)]
pub mod mount;
#[allow(unsafe_code)]
pub mod netlink;
pub mod nft;
#[allow(unsafe_code)]
pub mod ns;
#[allow(unsafe_code)]
pub mod path;
#[allow(unsafe_code)]
pub mod pidfd;
pub mod pipe;
pub mod port;
pub mod proc;
#[allow(unsafe_code)]
pub mod process;
#[allow(unsafe_code)]
pub mod pty;
#[allow(unsafe_code)]
pub mod reaper;
#[allow(unsafe_code)]
pub mod seccomp;
pub mod signal;
#[allow(unsafe_code)]
pub mod socket;
pub mod stream;
#[allow(unsafe_code)]
pub mod tree;
pub mod watch;
