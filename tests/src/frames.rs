//! Raw Ethernet frames in and out of an interface (packet(7)), independent of netdext.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, bind, recvfrom, send, socket,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::{Namespace, patiently};

/// `PACKET_OUTGOING` (linux/if_packet.h): a frame that this machine sends, seen by its own listeners.
const PACKET_OUTGOING: u8 = 4;
/// Room for the largest frame of a veth.
const LARGEST_FRAME: usize = 65_536 + 64;

/// A packet socket on one interface.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
    iface: String,
    buffer: Vec<u8>,
    refused: AtomicU64,
}

impl PacketSocket {
    /// Opens a socket on the interface of that name in the namespace. It sees what arrives from now on.
    ///
    /// # Panics
    /// There is no such interface, or the socket is refused.
    pub fn open(namespace: &Namespace, iface: &str) -> Self {
        let socket = namespace.enter(|| {
            // The only way to a link address without unsafe code: the kernel's own list has it ready.
            let address = nix::ifaddrs::getifaddrs()
                .expect("the interfaces can be listed")
                .filter(|entry| entry.interface_name == iface)
                .find_map(|entry| entry.address?.as_link_addr().copied())
                .unwrap_or_else(|| panic!("no interface {iface} in {}", namespace.name()));
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                SockProtocol::EthAll,
            )
            .expect("a packet socket can be opened");
            // Its protocol is 0, which leaves that of the socket as it is.
            bind(socket.as_raw_fd(), &address).expect("the socket can be bound");
            socket
        });
        rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 8 << 20).expect("SO_RCVBUFFORCE");
        let buffer = vec![0; LARGEST_FRAME];
        Self { socket, iface: iface.to_owned(), buffer, refused: AtomicU64::new(0) }
    }

    /// Sends one frame, from the Ethernet header on and without the checksum at its end; again, where the kernel tells
    /// that the device has dropped it.
    ///
    /// # Panics
    /// The kernel refuses it, or the device takes none for a second.
    pub fn send(&self, frame: &[u8]) {
        let deadline = Instant::now() + patiently(Duration::from_secs(1));
        loop {
            match send(self.socket.as_raw_fd(), frame, MsgFlags::empty()) {
                Ok(_) => return,
                Err(error @ (Errno::EAGAIN | Errno::ENOBUFS)) if Instant::now() < deadline => {
                    self.refused.fetch_add(u64::from(error == Errno::ENOBUFS), Ordering::Relaxed);
                    std::thread::yield_now();
                }
                Err(error) => panic!("a frame of {} bytes on {}: {error}", frame.len(), self.iface),
            }
        }
    }

    /// How often [`PacketSocket::send`] had to send a frame again: the device has counted each time as a frame dropped.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// The next frame that arrives; `None` if none does until `timeout`, that of a native machine. Frames that this
    /// machine sends don't count. The kernel takes a VLAN tag off before it hands a frame to a packet socket.
    ///
    /// # Panics
    /// The interface is gone or down.
    pub fn receive(&mut self, timeout: Duration) -> Option<Vec<u8>> {
        self.receive_before(Instant::now() + patiently(timeout))
    }

    fn receive_before(&mut self, deadline: Instant) -> Option<Vec<u8>> {
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut self.buffer) {
                Ok((_, Some(from))) if from.pkttype() == PACKET_OUTGOING => {}
                Ok((length, _)) => return Some(self.buffer[..length].to_vec()),
                Err(Errno::EAGAIN) => {
                    let left = deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return None;
                    }
                    self.wait(left);
                }
                Err(error) => panic!("receive on {}: {error}", self.iface),
            }
        }
    }

    /// The next frame for which `wanted` holds; others are passed over.
    ///
    /// # Panics
    /// As [`PacketSocket::receive`].
    pub fn receive_matching(&mut self, timeout: Duration, wanted: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
        let deadline = Instant::now() + patiently(timeout);
        loop {
            let frame = self.receive_before(deadline)?;
            if wanted(&frame) {
                return Some(frame);
            }
        }
    }

    fn wait(&self, timeout: Duration) {
        let timeout = Timespec::try_from(timeout).expect("a test waits for less than centuries");
        let mut readable = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut readable, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("wait for a frame on {}: {error}", self.iface),
        }
    }
}
