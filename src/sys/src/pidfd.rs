//! Processes by file descriptor: signal, wait, exit status after reaping.
