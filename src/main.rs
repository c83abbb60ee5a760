//! The command line of session-adapter.
fn main() {}
