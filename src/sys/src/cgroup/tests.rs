//! Groups in temporary directories and, below groups of our own, in the kernel.
