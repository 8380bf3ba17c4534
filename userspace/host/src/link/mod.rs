//! The network device and what surrounds it: facts, settings, events, namespaces, the lab pair.
//!
//! Everything here is control path: rtnetlink and ethtool netlink, asynchronous, on a current-thread tokio
//! runtime. A netlink socket belongs to the network namespace of the thread that opened it, so
//! [`netns`] has to be settled before the first call of any other module.

pub mod alias;
pub mod counters;
pub mod device;
pub mod events;
pub mod lab;
pub mod netlink;
pub mod netns;
pub mod offload;
pub mod route;
pub mod sysfs;
pub mod threaded;
pub mod tuning;
pub mod xdp_features;

pub use counters::{LinkCounters, PairCounters};
pub use device::{ActiveQueues, Device, Peer, PeerLocation, QueueSource};
pub use events::{LinkEvent, LinkEvents, LinkState};
pub use lab::{Lab, LabConfig, LabError, LabStatus};
pub use netlink::{DeviceError, Netlink};
pub use netns::{NamespaceGuard, NetnsError};
pub use route::{Neighbor, Route};
