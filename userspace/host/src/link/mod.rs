//! The network device and what surrounds it: facts, settings, events, namespaces, the lab pair.
//!
//! Everything here is control path: rtnetlink and ethtool netlink, asynchronous, on a current-thread tokio
//! runtime. A netlink socket belongs to the network namespace of the thread that opened it, so
//! [`netns`] has to be settled before the first call of any other module.

pub mod alias;
pub mod attachment;
pub mod counters;
pub mod device;
pub mod events;
pub mod kernel;
pub mod lab;
mod near;
pub mod netlink;
pub mod netns;
pub mod offload;
pub mod peer_napi;
pub mod program;
mod program_error;
pub mod route;
mod rules;
pub mod run_time;
mod spare_loader;
pub mod steering;
pub mod sysfs;
pub mod threaded;
pub mod traffic;
pub mod tuning;
pub mod verifier;
pub mod xdp_features;

pub use attachment::XdpAttachment;
pub use counters::{LinkCounters, PairCounters};
pub use device::{ActiveQueues, Device, Peer, PeerLocation, QueueSource};
pub use events::{LinkEvent, LinkEvents, LinkState};
pub use lab::{Lab, LabConfig, LabError, LabStatus};
pub use netlink::{DeviceError, Netlink};
pub use netns::{NamespaceGuard, NetnsError};
pub use route::{Neighbor, Route};
