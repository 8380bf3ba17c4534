//! What a long-running netdext has to do with the machine around it: the service manager and sleep.

pub mod notify;
pub mod suspend;
