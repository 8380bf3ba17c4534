//! What the XDP program takes for one frame, without a device.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use anyhow::Context as _;
use netdext::dispatch::Timestamp;
use netdext::driver::RxTimestamps;
use netdext::proto::probe::{EchoRequest, Path, Stamp};
use netdext::proto::{arp, ndp};
use netdext_host::xdp::program::{ProgramConfig, SteeringProgram};
use netdext_host::xdp::run_time::Baseline;
use rustix::net::{AddressFamily, SocketType, socket, sockopt};

use super::Bench;
use crate::runner::{Entry, Group, Head, Sample};
use crate::schema::{Better, Unit};

static COST: [Head; 1] = [Head {
    id: "xdp_cost",
    title: "Time of the XDP program for one frame, above that of a program that passes it",
    unit: Unit::Ns,
    better: Better::Lower,
}];

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OWN_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const OTHER_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
const OWN_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1);
const OTHER_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 2);
/// Of the type of an ICMP message.
const ICMP4_AT: usize = 34;
/// Of the protocol in an IPv4 header.
const PROTOCOL_AT: usize = 23;
const TCP: u8 = 6;
const ECHO_REPLY: u8 = 0;

/// The frames by name, each once to the driver or, TCP, to the kernel.
fn frames() -> [(&'static str, Vec<u8>); 6] {
    let echo4 = echo(Path::V4 { source: OTHER_V4, destination: OWN_V4 });
    let mut reply = echo4.clone();
    reply[ICMP4_AT] = ECHO_REPLY;
    let mut tcp = echo4.clone();
    tcp[PROTOCOL_AT] = TCP;
    let mut request = vec![0; arp::Request::LEN];
    arp::Request { source_mac: OTHER_MAC, source: OTHER_V4, target: OWN_V4, to: None }.write(&mut request);
    let mut solicitation = vec![0; ndp::Request::LEN];
    ndp::Request { source_mac: OTHER_MAC, source: OTHER_V6, target: OWN_V6, to: None }
        .write(&mut solicitation);
    [
        ("IPv4 echo request", echo4),
        ("IPv4 echo reply", reply),
        ("IPv6 echo request", echo(Path::V6 { source: OTHER_V6, destination: OWN_V6 })),
        ("TCP to the kernel", tcp),
        ("ARP request", request),
        ("neighbour solicitation", solicitation),
    ]
}

fn echo(path: Path) -> Vec<u8> {
    let request =
        EchoRequest { source_mac: OTHER_MAC, destination_mac: MAC, path, identifier: 1, payload_len: 32 };
    let mut frame = vec![0; request.frame_len()];
    request.write(&Stamp { token: 1, counter: 1, sent: Timestamp::default() }, &mut frame);
    frame
}

/// An AF_XDP socket that has a ring, which is all that an XSKMAP asks for.
fn xdp_socket() -> anyhow::Result<OwnedFd> {
    let socket = socket(AddressFamily::XDP, SocketType::RAW, None).context("open an AF_XDP socket")?;
    sockopt::set_xdp_rx_ring_size(&socket, 64).context("give it an rx ring")?;
    Ok(socket)
}

fn program(socket: &OwnedFd, rules: &[&str]) -> anyhow::Result<SteeringProgram> {
    let rules = rules.iter().map(|rule| rule.parse()).collect::<Result<_, _>>()?;
    let mut program = SteeringProgram::load(&ProgramConfig {
        mac: MAC,
        addresses: vec![OWN_V4.into(), OWN_V6.into()],
        rules,
        timestamps: RxTimestamps::Some,
        latency: true,
        queues: 1,
        ..ProgramConfig::default()
    })?;
    program.insert_socket(0, socket.as_fd())?;
    Ok(program)
}

/// As often as it takes for the time of a sample, which is shared with the program that passes.
fn runs(bench: &Bench<'_>) -> u32 {
    // Some 50 ns a run.
    u32::try_from(bench.plan.time.as_nanos() / 100).unwrap_or(u32::MAX)
}

fn above(time: Duration, pass: Duration) -> Sample {
    Sample::of(&[time.as_nanos() as f64 - pass.as_nanos() as f64])
}

/// By what the frame is, without rules and with one that it doesn't match.
pub fn costs<'a>(bench: &'a Bench<'a>) -> Group<'a> {
    let [(_, echo4), ..] = frames();
    let mut entries = vec![Entry::new("bare redirect to an XSKMAP", move || {
        let socket = xdp_socket()?;
        let mut baseline = Baseline::load(socket.as_fd())?;
        let pass = baseline.pass(&echo4, runs(bench))?;
        Ok(above(baseline.redirect(&echo4, runs(bench))?, pass))
    })];
    for (subject, rules) in [("netdext", &[][..]), ("netdext, one rule", &["drop proto=udp dport=53"][..])] {
        for (name, frame) in frames() {
            let entry = Entry::new(subject, move || {
                let socket = xdp_socket()?;
                let mut baseline = Baseline::load(socket.as_fd())?;
                let mut program = program(&socket, rules)?;
                let pass = baseline.pass(&frame, runs(bench))?;
                Ok(above(program.run_time(&frame, runs(bench))?, pass))
            });
            entries.push(entry.with("frame", name));
        }
    }
    Group { heads: &COST, entries }
}

#[cfg(test)]
mod tests {
    use netdext_abi::{Kind, parse};

    use super::*;

    #[test]
    fn each_frame_is_what_its_name_says() {
        let kinds = frames().map(|(_, frame)| parse(&*frame).expect("well-formed").kind);
        assert_eq!(
            kinds,
            [
                Kind::Echo4Request,
                Kind::Echo4Reply,
                Kind::Echo6Request,
                Kind::Other,
                Kind::ArpRequest,
                Kind::NeighborSolicitation
            ]
        );
    }
}
