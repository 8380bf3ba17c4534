//! The prober: echo requests one after the other through a raw socket, each round trip measured in ns.
//!
//! The same for every subject, so that what differs is the subject. It asks again as soon as it has the reply, and
//! never sleeps, on the first processor; the workers of netdext begin at the last one.

use std::net::SocketAddrV4;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use netdext::proto::checksum::checksum;
use netdext_host::cpu;
use netdext_host::link::netns;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, connect, ipproto, recv, send, socket};

use super::cpus;
use super::interrupt;
use super::thread::apart;
use super::wire::{ANSWERER, Wire};

/// How long a reply may take.
const REPLY_WITHIN: Duration = Duration::from_millis(100);
/// How long the first reply may take, from the start of who answers.
const FIRST_WITHIN: Duration = Duration::from_secs(5);
/// From one request to the next while nobody answers yet.
const RETRY: Duration = Duration::from_millis(1);
/// Round trips that are not counted, for the caches.
const WARM_UP: u32 = 200;
const IPV4_LEN: usize = 20;
const ECHO_LEN: usize = 8;
/// As `ping` has it.
const PAYLOAD: usize = 56;
const IDENTIFIER: u16 = 0x6e78;

/// What was measured.
#[derive(Debug, Default)]
pub struct RoundTrips {
    /// In the order of the requests, in ns.
    pub times_ns: Vec<u64>,
    /// Requests without a reply.
    pub lost: u64,
}

/// Runs `measure` on a thread in the namespace of who asks, pinned to the first processor.
///
/// # Errors
/// Those of `measure`, or there is no such socket to be had.
pub fn probe<T: Send>(
    wire: &Wire,
    measure: impl FnOnce(&mut Prober) -> anyhow::Result<T> + Send,
) -> anyhow::Result<T> {
    apart(|| {
        netns::enter(wire.asker())?;
        cpu::pin_to(cpus::first_and_last()?.0).context("pin the prober")?;
        measure(&mut Prober::open()?)
    })
}

/// A raw ICMP socket.
#[derive(Debug)]
pub struct Prober {
    socket: OwnedFd,
    sequence: u16,
}

impl Prober {
    fn open() -> anyhow::Result<Self> {
        let socket =
            socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP)).context("open a raw socket")?;
        let address = SocketAddrV4::new(ANSWERER.parse().context("an address")?, 0);
        connect(&socket, &address).context("connect the raw socket")?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Round trips for so long.
    ///
    /// # Errors
    /// The socket fails, or a signal has come.
    pub fn round_trips(&mut self, time: Duration) -> anyhow::Result<RoundTrips> {
        for _ in 0..WARM_UP {
            self.round_trip(REPLY_WITHIN)?;
        }
        let mut trips = RoundTrips::default();
        let end = Instant::now() + time;
        while Instant::now() < end {
            match self.round_trip(REPLY_WITHIN)? {
                Some(took) => trips.times_ns.push(took.as_nanos() as u64),
                None => trips.lost += 1,
            }
            if trips.times_ns.len().is_multiple_of(1024) {
                interrupt::check()?;
            }
        }
        Ok(trips)
    }

    /// Asks until there is a first reply; how long that was, from `since` on.
    ///
    /// # Errors
    /// None comes in time, the socket fails, or a signal has come.
    pub fn first_reply(&mut self, since: Instant) -> anyhow::Result<Duration> {
        while since.elapsed() < FIRST_WITHIN {
            interrupt::check()?;
            if self.round_trip(RETRY)?.is_some() {
                return Ok(since.elapsed());
            }
        }
        anyhow::bail!("no reply within {} s", FIRST_WITHIN.as_secs())
    }

    fn round_trip(&mut self, within: Duration) -> anyhow::Result<Option<Duration>> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = request(self.sequence);
        let mut reply = [0; IPV4_LEN + ECHO_LEN + PAYLOAD];
        let asked = Instant::now();
        match send(&self.socket, &request, SendFlags::empty()) {
            Ok(_) => {}
            Err(Errno::NOBUFS | Errno::HOSTUNREACH | Errno::NETDOWN) => return Ok(None),
            Err(errno) => return Err(errno).context("send an echo request"),
        }
        while asked.elapsed() < within {
            match recv(&self.socket, &mut reply, RecvFlags::DONTWAIT) {
                Ok((length, _)) if is_reply(&reply[..length], self.sequence) => {
                    return Ok(Some(asked.elapsed()));
                }
                Ok(_) | Err(Errno::AGAIN | Errno::INTR | Errno::HOSTUNREACH | Errno::CONNREFUSED) => {}
                Err(errno) => return Err(errno).context("receive an echo reply"),
            }
        }
        Ok(None)
    }
}

fn request(sequence: u16) -> [u8; ECHO_LEN + PAYLOAD] {
    let mut message = [0; ECHO_LEN + PAYLOAD];
    message[0] = 8;
    message[4..6].copy_from_slice(&IDENTIFIER.to_be_bytes());
    message[6..8].copy_from_slice(&sequence.to_be_bytes());
    let checksum = checksum(&message);
    message[2..4].copy_from_slice(&checksum.to_be_bytes());
    message
}

/// A raw socket gets the IP header too.
fn is_reply(datagram: &[u8], sequence: u16) -> bool {
    datagram.get(IPV4_LEN..IPV4_LEN + ECHO_LEN).is_some_and(|icmp| {
        icmp[0] == 0 && icmp[4..6] == IDENTIFIER.to_be_bytes() && icmp[6..8] == sequence.to_be_bytes()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_sums_to_zero_and_only_its_reply_is_one() {
        let request = request(0x1234);
        assert_eq!(checksum(&request), 0);
        let mut datagram = vec![0x45; IPV4_LEN];
        datagram.extend(request);
        assert!(!is_reply(&datagram, 0x1234), "a request is none");
        datagram[IPV4_LEN] = 0;
        assert!(is_reply(&datagram, 0x1234));
        assert!(!is_reply(&datagram, 0x1235));
        assert!(!is_reply(&datagram[..24], 0x1234));
    }
}
