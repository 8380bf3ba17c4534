//! Where it is measured: a veth pair between two network namespaces.
//!
//! ```text
//!   namespace nxb-PID-N-a                      namespace nxb-PID-N-b
//!   +---------------------------+              +------------------------------+
//!   |  who asks: prober, flood  |              |  who answers: netdext, a     |
//!   |  198.18.0.2, veth1        |==============|  peer, or the kernel's stack |
//!   +---------------------------+              |  198.18.0.1, veth0           |
//!                                              +------------------------------+
//! ```
//! Each end knows the other's MAC address, so that nothing but what is measured is on the wire.
//!
//! Forwarders are in a third namespace, between the two:
//!
//! ```text
//!   nxb-PID-N-a               nxb-PID-N-f                       nxb-PID-N-b
//!   +---------+       +-----------------------------+       +---------+
//!   |  veth1  |=======|  port0   forwarder   port1  |=======|  veth0  |
//!   +---------+       +-----------------------------+       +---------+
//! ```

use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context;
use serde_json::Value;

use super::program::output_of;
use crate::output::complain;

/// Who answers.
pub const ANSWERER: &str = "198.18.0.1";
/// Who asks.
pub const ASKER: &str = "198.18.0.2";
/// The interface of who answers.
pub const ANSWERER_IFACE: &str = "veth0";
/// The interface of who asks.
pub const ASKER_IFACE: &str = "veth1";
/// The interfaces of the forwarder: to who asks, and to who answers.
pub const FORWARDER_IFACES: [&str; 2] = ["port0", "port1"];

const PREFIX: &str = "nxb-";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// How a wire is made.
#[derive(Clone, Copy, Debug)]
pub struct WireConfig {
    /// Queues of each end.
    pub queues: u32,
    /// The kernel's stack has the address of who answers.
    pub kernel_answers: bool,
    /// GRO at the end of who answers, without which a veth drops live frames unless an XDP program is there.
    pub gro: bool,
    /// It is to be flooded with live frames, by a program at the end of who asks.
    pub flooded: bool,
    /// There is a forwarder's namespace between the ends. Nothing connects them until a forwarder does.
    pub forwarded: bool,
}

impl Default for WireConfig {
    fn default() -> Self {
        Self { queues: 1, kernel_answers: false, gro: false, flooded: false, forwarded: false }
    }
}

/// The namespaces and what is between them. Dropping it removes them.
#[derive(Debug)]
pub struct Wire {
    asker: String,
    answerer: String,
    forwarder: String,
    /// The MAC address of who answers.
    pub answerer_mac: String,
    /// The MAC address of who asks.
    pub asker_mac: String,
    /// As in [`WireConfig`].
    pub flooded: bool,
}

impl Wire {
    /// Makes one.
    ///
    /// # Errors
    /// `ip` or `ethtool` fails.
    pub fn new(config: WireConfig) -> anyhow::Result<Self> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = |end| format!("{PREFIX}{}-{number}-{end}", std::process::id());
        // The guard is there before what it removes.
        let mut wire = Self {
            asker: name("a"),
            answerer: name("b"),
            forwarder: name("f"),
            answerer_mac: String::new(),
            asker_mac: String::new(),
            flooded: config.flooded,
        };
        wire.make(config)?;
        Ok(wire)
    }

    fn make(&mut self, config: WireConfig) -> anyhow::Result<()> {
        let (a, b) = (self.asker.clone(), self.answerer.clone());
        ip(&format!("netns add {a}"))?;
        ip(&format!("netns add {b}"))?;
        let queues = format!("numtxqueues {0} numrxqueues {0}", config.queues);
        let pair = |one: (&str, &str), other: (&str, &str)| {
            let ((namespace, iface), (peer_namespace, peer)) = (one, other);
            ip(&format!(
                "-n {namespace} link add {iface} {queues} type veth peer name {peer} {queues} netns {peer_namespace}"
            ))?;
            for (namespace, iface) in [one, other] {
                ip(&format!("-n {namespace} link set dev {iface} addrgenmode none"))?;
                ip(&format!("-n {namespace} link set dev {iface} up"))?;
            }
            anyhow::Ok(())
        };
        let (asker, answerer) = ((&*a, ASKER_IFACE), (&*b, ANSWERER_IFACE));
        if config.forwarded {
            let f = &*self.forwarder;
            ip(&format!("netns add {f}"))?;
            pair((f, FORWARDER_IFACES[0]), asker)?;
            pair((f, FORWARDER_IFACES[1]), answerer)?;
        } else {
            pair(answerer, asker)?;
        }
        (self.answerer_mac, _) = mac_and_index(&b, ANSWERER_IFACE)?;
        (self.asker_mac, _) = mac_and_index(&a, ASKER_IFACE)?;
        ip(&format!("-n {a} address add {ASKER}/24 dev {ASKER_IFACE}"))?;
        ip(&format!(
            "-n {a} neighbour replace {ANSWERER} lladdr {} dev {ASKER_IFACE} nud permanent",
            self.answerer_mac
        ))?;
        if config.kernel_answers {
            ip(&format!("-n {b} address add {ANSWERER}/24 dev {ANSWERER_IFACE}"))?;
            ip(&format!(
                "-n {b} neighbour replace {ASKER} lladdr {} dev {ANSWERER_IFACE} nud permanent",
                self.asker_mac
            ))?;
        }
        if config.gro {
            output_of(self.at_answerer("ethtool").args(["-K", ANSWERER_IFACE, "gro", "on"]))?;
        }
        Ok(())
    }

    /// The namespace of who asks.
    pub fn asker(&self) -> &str {
        &self.asker
    }

    /// The namespace of who answers.
    pub fn answerer(&self) -> &str {
        &self.answerer
    }

    /// The namespace of the forwarder, if there is one.
    pub fn forwarder(&self) -> &str {
        &self.forwarder
    }

    /// A command in the namespace of who asks.
    pub fn at_asker(&self, program: &str) -> Command {
        within(&self.asker, program)
    }

    /// A command in the namespace of who answers.
    pub fn at_answerer(&self, program: &str) -> Command {
        within(&self.answerer, program)
    }

    /// Gives NAPI of who asks a thread of its own, as `netdext run --tune` does where both ends are in one namespace. It has
    /// to have an XDP program.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn thread_asker_napi(&self) -> anyhow::Result<()> {
        let write = format!("echo 1 > /sys/class/net/{ASKER_IFACE}/threaded");
        output_of(self.at_asker("sh").args(["-c", &write])).map(drop)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        for name in [&self.asker, &self.answerer, &self.forwarder] {
            if Path::new("/run/netns").join(name).exists()
                && let Err(error) = ip(&format!("netns delete {name}"))
            {
                complain!("the network namespace {name} stays behind: {error:#}");
            }
        }
    }
}

/// A command in a namespace.
pub fn within(namespace: &str, program: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]);
    command
}

/// Runs `ip` with words that have no blanks in them.
///
/// # Errors
/// It fails.
pub fn ip(words: &str) -> anyhow::Result<String> {
    output_of(Command::new("ip").args(words.split(' ')))
}

/// What `ip` says of an interface, its counts included.
///
/// # Errors
/// `ip` fails.
pub fn link(namespace: &str, iface: &str) -> anyhow::Result<Value> {
    let text = ip(&format!("-json -s -n {namespace} link show dev {iface}"))?;
    let mut links: Value = serde_json::from_str(&text).context("read what ip says")?;
    Ok(links[0].take())
}

/// The index of an interface.
///
/// # Errors
/// There is none of that name, or `ip` fails.
pub fn index(namespace: &str, iface: &str) -> anyhow::Result<u32> {
    mac_and_index(namespace, iface).map(|(_, index)| index)
}

fn mac_and_index(namespace: &str, iface: &str) -> anyhow::Result<(String, u32)> {
    let link = link(namespace, iface)?;
    let mac = link["address"].as_str().with_context(|| format!("{iface} has no address"))?;
    let index = link["ifindex"].as_u64().with_context(|| format!("{iface} has no index"))?;
    Ok((mac.to_owned(), u32::try_from(index).context("an index")?))
}

/// Removes the namespaces of benchmarks that were killed.
pub fn remove_orphans() {
    for entry in std::fs::read_dir("/run/netns").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next());
        let Some(owner) = owner.and_then(|id| id.parse::<u32>().ok()) else { continue };
        if !Path::new("/proc").join(owner.to_string()).exists() {
            // What can't be removed is in nobody's way.
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}
