//! Compiler from an OCI seccomp profile to BPF.
