//! The daemon: runs the drivers that were installed.
