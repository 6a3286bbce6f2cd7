//! The runtime as a command.
fn main() {}
