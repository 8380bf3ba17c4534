//! netdext
