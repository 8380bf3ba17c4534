//! netdext

pub mod link;
