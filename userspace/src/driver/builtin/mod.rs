//! The drivers that come with netdext.
