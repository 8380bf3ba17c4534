//! Attaching to a veth pair in a network namespace of the test's own.

use std::{
    fs::File,
    os::fd::AsFd as _,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use netdext_host::xdp::{
    attachment::{XdpHook, attached_program},
    peer_napi::PeerNapi,
    program::{ProgramError, SteeringProgram, XdpMode},
    to_device::ToDevice,
};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::{config, skip};

const IFACE: &str = "veth0";

/// A namespace with a veth pair; removed in the end. The thread stays inside, which ends with its test.
struct Namespace {
    name: String,
}

impl Namespace {
    fn enter() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("nxebpf-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        command("ip", &["netns", "add", &name]);
        let namespace = Self { name };
        let file = File::open(format!("/run/netns/{}", namespace.name)).unwrap();
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        command("ip", &["link", "add", IFACE, "type", "veth", "peer", "name", "veth1"]);
        namespace
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        command("ip", &["netns", "del", &self.name]);
    }
}

fn command(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {} failed: {error}", arguments.join(" "));
}

fn ifindex() -> u32 {
    ifindex_of(IFACE)
}

fn ifindex_of(iface: &str) -> u32 {
    // /proc/net follows the thread's namespace, unlike a /sys mounted elsewhere.
    let names = rustix::net::netdevice::name_to_index(
        rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None).unwrap(),
        iface,
    );
    names.unwrap()
}

fn loaded() -> SteeringProgram {
    SteeringProgram::load(&config()).unwrap()
}

#[test]
fn attaching_prefers_native_mode_and_ends_when_the_program_is_detached_or_dropped() {
    if skip() {
        return;
    }
    let _namespace = Namespace::enter();
    let index = ifindex();
    assert_eq!(attached_program(index).unwrap(), None);
    let mut program = loaded();
    let attached = program.attach(IFACE, index, XdpMode::Auto, false).unwrap();
    assert_eq!(attached.mode, XdpHook::Native);
    let there = attached_program(index).unwrap().expect("nothing is attached");
    assert_eq!((there.id, there.name.as_deref()), (program.program_id(), Some("netdext")));
    assert!(matches!(program.attach(IFACE, index, XdpMode::Skb, false), Err(ProgramError::AlreadyAttached)));
    program.detach().unwrap();
    program.detach().unwrap();
    assert_eq!(attached_program(index).unwrap(), None);

    let skb = program.attach(IFACE, index, XdpMode::Skb, false).unwrap();
    assert_eq!(
        (skb.mode, attached_program(index).unwrap().map(|there| there.mode)),
        (XdpHook::Skb, Some(XdpHook::Skb))
    );
    drop(program);
    assert_eq!(attached_program(index).unwrap(), None);
}

#[test]
fn a_device_that_refuses_native_mode_gets_skb_mode_with_the_reason() {
    if skip() {
        return;
    }
    let _namespace = Namespace::enter();
    // Too large a packet for one page: veth refuses native XDP without support for fragments.
    command("ip", &["link", "set", "veth1", "mtu", "9000"]);
    let index = ifindex();
    let mut program = loaded();
    let refused = program.attach(IFACE, index, XdpMode::Native, false).unwrap_err();
    assert_eq!(refused.to_string(), "veth0 refuses an XDP program in native mode");
    let attached = program.attach(IFACE, index, XdpMode::Auto, false).unwrap();
    assert_eq!(attached.mode, XdpHook::Skb);
    assert!(attached.native_refused.is_some());
}

#[test]
fn a_program_held_by_another_is_named_and_never_replaced() {
    if skip() {
        return;
    }
    let _namespace = Namespace::enter();
    let index = ifindex();
    let mut first = loaded();
    first.attach(IFACE, index, XdpMode::Native, false).unwrap();
    let mut second = loaded();
    let error = second.attach(IFACE, index, XdpMode::Auto, false).unwrap_err().to_string();
    let named = format!("netdext (id {}, native mode)", first.program_id());
    assert_eq!(error, format!("veth0 already has the XDP program {named}; take it off, or use --replace"));
    let error = second.attach(IFACE, index, XdpMode::Auto, true).unwrap_err();
    assert!(matches!(error, ProgramError::HeldElsewhere { .. }), "{error}");
    assert_eq!(attached_program(index).unwrap().map(|there| there.id), Some(first.program_id()));
}

#[test]
fn a_program_attached_by_netlink_is_replaced_only_when_asked() {
    if skip() {
        return;
    }
    let _namespace = Namespace::enter();
    let index = ifindex();
    let foreign = loaded();
    let id = foreign.program_id().to_string();
    command("bpftool", &["net", "attach", "xdpdrv", "id", &id, "dev", IFACE]);
    let mut program = loaded();
    let refused = program.attach(IFACE, index, XdpMode::Auto, false);
    assert!(matches!(refused, Err(ProgramError::Foreign { .. })));
    assert_eq!(attached_program(index).unwrap().map(|there| there.id), Some(foreign.program_id()));
    program.attach(IFACE, index, XdpMode::Auto, true).unwrap();
    assert_eq!(attached_program(index).unwrap().map(|there| there.id), Some(program.program_id()));
}

#[test]
fn an_interface_that_vanishes_takes_the_attachment_along() {
    if skip() {
        return;
    }
    let _namespace = Namespace::enter();
    let index = ifindex();
    let mut program = loaded();
    program.attach(IFACE, index, XdpMode::Native, false).unwrap();
    command("ip", &["link", "del", IFACE]);
    program.detach().unwrap();
    assert!(program.attach(IFACE, index, XdpMode::Auto, false).is_err());
}

/// Frames that an interface has received.
fn received(iface: &str) -> u64 {
    let arguments = ["-json", "-s", "link", "show", "dev", iface];
    let output = Command::new("ip").args(arguments).output().unwrap();
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    links[0]["stats64"]["rx"]["packets"].as_u64().expect("a count")
}

#[test]
fn what_is_redirected_to_a_device_leaves_by_it_until_the_program_is_dropped() {
    if skip() {
        return;
    }
    let _namespace = Namespace::enter();
    command("ip", &["link", "add", "veth2", "type", "veth", "peer", "name", "veth3"]);
    for iface in ["veth0", "veth1", "veth2", "veth3"] {
        command("ip", &["link", "set", iface, "addrgenmode", "none"]);
        command("ip", &["link", "set", iface, "up"]);
    }
    command("ip", &["address", "add", "198.18.0.2/24", "dev", "veth0"]);
    command("ip", &["neighbour", "replace", "198.18.0.1", "lladdr", "02:00:00:00:00:01", "dev", "veth0"]);
    // Nobody answers.
    let ask = || {
        Command::new("ping").args(["-q", "-c", "3", "-i", "0.1", "-W", "1", "198.18.0.1"]).output().unwrap()
    };
    let _woken = PeerNapi::attach("veth3", ifindex_of("veth3")).unwrap();
    let redirected = ToDevice::attach("veth1", ifindex_of("veth1"), ifindex_of("veth2")).unwrap();
    ask();
    assert_eq!((received("veth1"), received("veth3")), (3, 3));
    drop(redirected);
    ask();
    assert_eq!((received("veth1"), received("veth3")), (6, 3));
}
