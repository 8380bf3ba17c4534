//! What the XDP program and user space share.
#![no_std]
