//! netdext
fn main() {}
