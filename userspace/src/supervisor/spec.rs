//! What a user asked a driver to be, in a form that can be stored and sent.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A driver to run: the flags of `netdext run` and `netdext install`, as plain data. Names that have to be
/// parsed stay text here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DriverSpec {
    /// The interface.
    pub iface: String,
    /// The driver's name: `sample`.
    pub driver: String,
    /// Addresses with prefix length: `198.18.0.1/24`.
    pub addresses: Vec<String>,
    /// `auto`, `native` or `skb`.
    pub mode: String,
    /// `spin`, `adaptive` or `poll`.
    pub wait: String,
    /// How many queues; `None` is all.
    pub queues: Option<u32>,
    /// Steering rules, as `--steer` takes them.
    pub steer: Vec<String>,
    /// Answer ARP, NDP and echo requests inside the XDP program.
    pub answer: bool,
    /// Steer even what cuts the host off.
    pub yes: bool,
    /// Take another XDP program off the interface.
    pub replace: bool,
    /// Make a veth pair of that name where the interface is missing.
    pub lab: bool,
    /// The echo request injector; `None` sends nothing.
    pub injector: Option<InjectorSpec>,
}

/// The injector of a [`DriverSpec`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InjectorSpec {
    /// From enabling to the first batch.
    pub first: Duration,
    /// From one batch to the next.
    pub interval: Duration,
    /// Echo requests in a batch.
    pub batch: usize,
    /// Bytes of ICMP payload.
    pub payload_bytes: usize,
    /// Whom to send to; empty means to learn it.
    pub targets: Vec<IpAddr>,
}
