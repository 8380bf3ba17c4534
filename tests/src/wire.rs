//! A veth pair between two namespaces: netdext at one end, the kernel's stack at the other.
//!
//! It is made with `ip` and `ethtool`, so that a mistake in netdext's own link code can't hide.

use std::process::Output;

use netdext_host::link::Device;
use netdext_host::xdp::peer_napi::PeerNapi;
use serde_json::Value;

use crate::{Namespace, Netdext};

/// The IPv4 address that netdext answers for.
pub const DRIVER_V4: &str = "198.18.0.1";
/// The IPv6 address that netdext answers for.
pub const DRIVER_V6: &str = "2001:2::1";
/// The kernel's IPv4 address at the host end.
pub const HOST_V4: &str = "198.18.0.2";
/// The kernel's IPv6 address at the host end.
pub const HOST_V6: &str = "2001:2::2";
/// The driver end in its namespace.
pub const DRIVER_IFACE: &str = "veth0";
/// The host end in its namespace.
pub const HOST_IFACE: &str = "veth1";

/// How the wire is made.
#[derive(Clone, Copy, Debug)]
pub struct WireConfig {
    /// Active queues of each end.
    pub queues: u32,
    /// MTU of each end in bytes.
    pub mtu: u32,
}

impl Default for WireConfig {
    fn default() -> Self {
        Self { queues: 1, mtu: 1500 }
    }
}

/// Two namespaces and the pair between them, up and without a word from the kernel at the driver end.
#[derive(Debug)]
pub struct Wire {
    /// Where netdext runs, with [`DRIVER_IFACE`].
    pub driver: Namespace,
    /// Where the kernel answers, with [`HOST_IFACE`].
    pub host: Namespace,
}

impl Wire {
    /// A wire of one queue and an MTU of 1500.
    ///
    /// # Panics
    /// `ip` or `ethtool` fails.
    pub fn new(purpose: &str) -> Self {
        Self::with(purpose, WireConfig::default())
    }

    /// A wire of the given kind.
    ///
    /// # Panics
    /// `ip` or `ethtool` fails.
    pub fn with(purpose: &str, config: WireConfig) -> Self {
        let driver = Namespace::new(&format!("{purpose}, the driver's end"));
        let host = Namespace::new(&format!("{purpose}, the host's end"));
        let (queues, mtu) = (config.queues.to_string(), config.mtu.to_string());
        let shape = ["mtu", &mtu, "numtxqueues", &queues, "numrxqueues", &queues];
        let mut add = vec!["link", "add", "name", DRIVER_IFACE];
        add.extend(shape);
        add.extend(["type", "veth", "peer", "name", HOST_IFACE]);
        add.extend(shape);
        add.extend(["netns", host.name()]);
        driver.ip(&add);
        for (namespace, iface) in [(&driver, DRIVER_IFACE), (&host, HOST_IFACE)] {
            namespace.ip(&["link", "set", "dev", iface, "addrgenmode", "none"]);
        }
        // Frames complete with checksum, tag and in the MTU, as they come from a real wire.
        host.run("ethtool", &["-K", HOST_IFACE, "tx", "off", "tso", "off", "gso", "off", "txvlan", "off"]);
        host.ip(&["address", "add", &format!("{HOST_V4}/24"), "dev", HOST_IFACE]);
        host.ip(&["address", "add", &format!("{HOST_V6}/64"), "dev", HOST_IFACE, "nodad"]);
        driver.ip(&["link", "set", "dev", DRIVER_IFACE, "up"]);
        host.ip(&["link", "set", "dev", HOST_IFACE, "up"]);
        Self { driver, host }
    }

    /// Readies the host end for what an XDP program of the driver end sends, as long as the value lives: netdext does so
    /// itself where both ends are in its namespace.
    ///
    /// # Panics
    /// The interface is gone, or no program can be attached to it.
    pub fn ready_for_answers(&self) -> PeerNapi {
        self.host.block_on(async || {
            let device = Device::query(HOST_IFACE).await.expect("the host's end");
            PeerNapi::attach(&device.name, device.index).expect("a program on the host's end")
        })
    }

    /// The Ethernet address of the driver end.
    ///
    /// # Panics
    /// The interface is gone.
    pub fn driver_mac(&self) -> [u8; 6] {
        mac_of(&self.driver, DRIVER_IFACE)
    }

    /// The Ethernet address of the host end.
    ///
    /// # Panics
    /// The interface is gone.
    pub fn host_mac(&self) -> [u8; 6] {
        mac_of(&self.host, HOST_IFACE)
    }

    /// A frame from the host end to the driver end: UDP from 198.18.0.2 to port 53 of this address, without checksums.
    ///
    /// # Panics
    /// An interface is gone.
    pub fn udp_frame(&self, to: [u8; 4]) -> Vec<u8> {
        let mut frame = [self.driver_mac(), self.host_mac()].concat();
        frame.extend([8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 198, 18, 0, 2]);
        frame.extend(to);
        frame.extend([0x27, 0x10, 0, 53, 0, 26, 0, 0]);
        frame.extend([0; 18]);
        frame
    }

    /// Stops a netdext at the driver end, and returns its summary after it was asserted that it ended with status 0,
    /// that nothing is missing and that no XDP program is left.
    ///
    /// # Panics
    /// Something of that is not so.
    #[track_caller]
    pub fn stop(&self, netdext: Netdext) -> Value {
        let finished = netdext.stop();
        assert!(finished.status.success(), "{finished:#?}");
        self.assert_no_xdp();
        finished.expect_whole().clone()
    }

    /// Runs `ping` at the host end.
    ///
    /// # Panics
    /// It can't be started.
    pub fn ping(&self, arguments: &[&str]) -> Output {
        self.host.command("ping").args(arguments).output().expect("ping can be started")
    }

    /// Runs `ping -q` at the host end with a count, and asserts that each request was answered.
    ///
    /// # Panics
    /// One was not.
    #[track_caller]
    pub fn ping_without_loss(&self, count: u32, arguments: &[&str]) {
        let number = count.to_string();
        let mut all = vec!["-q", "-c", &number];
        all.extend(arguments);
        let output = self.ping(&all);
        let text = String::from_utf8_lossy(&output.stdout);
        let answered = format!("{count} packets transmitted, {count} received, 0% packet loss");
        assert!(output.status.success() && text.contains(&answered), "ping {all:?}: {output:?}");
        // It speaks of errors, duplicates and damaged payloads only where there are some.
        for trouble in ["errors", "duplicates", "corrupted"] {
            assert!(!text.contains(trouble), "ping {all:?}: {text}");
        }
    }

    /// Asserts that no XDP program is left at the driver end.
    ///
    /// # Panics
    /// One is.
    #[track_caller]
    pub fn assert_no_xdp(&self) {
        assert_eq!(self.driver.xdp_programs(DRIVER_IFACE), [0_u64; 0], "XDP programs left on {DRIVER_IFACE}");
    }
}

fn mac_of(namespace: &Namespace, iface: &str) -> [u8; 6] {
    let link = namespace.link(iface).expect("the interface is there");
    let text = link["address"].as_str().expect("ip prints the address");
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hexadecimal")).collect();
    bytes.try_into().expect("six bytes")
}
