//! netdext
fn main(){}
