//! berth-keeper
fn main() {}
