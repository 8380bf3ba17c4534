//! Changes of one link, as a stream.
//!
//! The kernel drops notifications when the receiver's buffer is full (`ENOBUFS`). The stream therefore never
//! trusts the messages alone: it keeps the last state that it has reported, asks the kernel again after a
//! loss, and reports the difference. An intermediate state can be skipped that way; the last one can't.

use std::collections::VecDeque;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::netlink::{DeviceError, Netlink};

/// What can happen to a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEvent {
    /// Set administratively up.
    Up,
    /// Set administratively down.
    Down,
    /// The carrier came: of a veth, because the other end was set up.
    CarrierUp,
    /// The carrier went: of a veth, because the other end was set down.
    CarrierDown,
    /// Another MTU.
    MtuChanged {
        /// The new MTU in bytes.
        mtu: u32,
    },
    /// The link is gone: deleted, the other end of its pair deleted, or moved to another namespace.
    /// Nothing follows.
    Deleted,
}

/// The state that the events change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkState {
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// The link is there.
    pub carrier: bool,
    /// The MTU in bytes.
    pub mtu: u32,
}

impl LinkState {
    fn of(message: &LinkMessage) -> Self {
        let flags = message.header.flags;
        let mut state = LinkState {
            up: flags.contains(LinkFlags::Up),
            carrier: flags.contains(LinkFlags::LowerUp),
            mtu: 0,
        };
        for attribute in &message.attributes {
            match attribute {
                LinkAttribute::Mtu(mtu) => state.mtu = *mtu,
                LinkAttribute::Carrier(carrier) => state.carrier = *carrier != 0,
                _ => {}
            }
        }
        state
    }

    /// The events that lead from this state to `next`.
    fn changes_to(self, next: LinkState) -> impl Iterator<Item = LinkEvent> {
        let mtu = (self.mtu != next.mtu).then_some(LinkEvent::MtuChanged { mtu: next.mtu });
        let up = (self.up != next.up).then_some(if next.up { LinkEvent::Up } else { LinkEvent::Down });
        let carrier = (self.carrier != next.carrier).then_some(if next.carrier {
            LinkEvent::CarrierUp
        } else {
            LinkEvent::CarrierDown
        });
        [mtu, up, carrier].into_iter().flatten()
    }
}

/// What one netlink message means for the link that is watched.
enum Notice {
    State(LinkState),
    Deleted,
    /// Messages were lost: ask again.
    Lost,
    Unrelated,
}

/// The events of one link, from the moment of [`LinkEvents::open`] on.
pub struct LinkEvents {
    netlink: Netlink,
    notifications: BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>,
    index: u32,
    /// What has been reported; `None` when the link is gone.
    state: Option<LinkState>,
    pending: VecDeque<LinkEvent>,
    /// Messages were lost, and the kernel is still to be asked.
    lost: bool,
}

impl LinkEvents {
    /// Starts to watch the interface with this index in the namespace of the calling thread.
    ///
    /// # Errors
    /// The socket can't be had or there is no such interface.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub async fn open(index: u32) -> Result<Self, DeviceError> {
        let netlink = Netlink::open()?;
        let notifications = subscribe()?;
        // Subscribed before asked: a change in between is seen twice at worst, never missed.
        let Some(message) = netlink.link_by_index(index).await? else {
            let present = netlink.interface_names().await?;
            return Err(DeviceError::NotFound { name: format!("with index {index}"), present });
        };
        let state = Some(LinkState::of(&message));
        Ok(Self { netlink, notifications, index, state, pending: VecDeque::new(), lost: false })
    }

    /// The state as of the last event returned by [`LinkEvents::next`] or, before the first, of the opening;
    /// `None` when the link is gone.
    pub fn state(&self) -> Option<LinkState> {
        self.state
    }

    /// Waits for the next event; `None` after [`LinkEvent::Deleted`]. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The kernel could not be asked again after messages were lost.
    pub async fn next(&mut self) -> Result<Option<LinkEvent>, DeviceError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Ok(Some(event));
            }
            if self.state.is_none() {
                return Ok(None);
            }
            if self.lost {
                let message = self.netlink.link_by_index(self.index).await?;
                self.apply(message.as_ref().map(LinkState::of));
                self.lost = false;
                continue;
            }
            let notice = match self.notifications.next().await {
                Some(message) => interpret(&message, self.index),
                // The reader gave up on its socket (a message that it could not decode): a new one.
                None => {
                    self.notifications = subscribe()?;
                    Notice::Lost
                }
            };
            match notice {
                Notice::State(state) => self.apply(Some(state)),
                Notice::Deleted => self.apply(None),
                Notice::Lost => self.lost = true,
                Notice::Unrelated => {}
            }
        }
    }

    fn apply(&mut self, next: Option<LinkState>) {
        match (self.state, next) {
            (Some(before), Some(after)) => self.pending.extend(before.changes_to(after)),
            (Some(_), None) => self.pending.push_back(LinkEvent::Deleted),
            (None, _) => return,
        }
        self.state = next;
    }
}

fn subscribe() -> Result<BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>, DeviceError> {
    let (connection, handle, messages) =
        rtnetlink::new_multicast_connection(&[MulticastGroup::Link]).map_err(|source| {
            DeviceError::Netlink { operation: "subscribe to link events".to_owned(), source }
        })?;
    tokio::spawn(connection);
    // The reader task ends when the handle is gone and the receiver is: both live in the stream.
    Ok(messages
        .map(move |(message, _)| {
            let _keeps_the_connection = &handle;
            message
        })
        .boxed())
}

fn interpret(message: &NetlinkMessage<RouteNetlinkMessage>, index: u32) -> Notice {
    // A bridge announces its ports in messages of the same types, with a family of their own.
    let ours = |link: &LinkMessage| {
        link.header.index == index && link.header.interface_family == AddressFamily::Unspec
    };
    match &message.payload {
        NetlinkPayload::Overrun(_) => Notice::Lost,
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) if ours(link) => {
            Notice::State(LinkState::of(link))
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link)) if ours(link) => Notice::Deleted,
        _ => Notice::Unrelated,
    }
}

#[cfg(test)]
mod tests {
    use super::super::netlink::blocking;
    use super::*;
    use rtnetlink::packet_core::NetlinkHeader;

    const DOWN: LinkState = LinkState { up: false, carrier: false, mtu: 1500 };

    fn link(index: u32) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message
    }

    fn wrap(inner: RouteNetlinkMessage) -> NetlinkMessage<RouteNetlinkMessage> {
        NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::InnerMessage(inner))
    }

    #[test]
    fn the_difference_of_two_states_names_every_change_once() {
        let next = LinkState { up: true, carrier: true, mtu: 9000 };
        let events: Vec<_> = DOWN.changes_to(next).collect();
        assert_eq!(events, [LinkEvent::MtuChanged { mtu: 9000 }, LinkEvent::Up, LinkEvent::CarrierUp]);
        assert_eq!(next.changes_to(DOWN).count(), 3);
        assert_eq!(DOWN.changes_to(DOWN).count(), 0);
    }

    #[test]
    fn messages_of_other_links_and_of_bridges_are_not_ours() {
        assert!(matches!(interpret(&wrap(RouteNetlinkMessage::DelLink(link(8))), 7), Notice::Unrelated));
        let mut port = link(7);
        port.header.interface_family = AddressFamily::Bridge;
        assert!(matches!(interpret(&wrap(RouteNetlinkMessage::DelLink(port)), 7), Notice::Unrelated));
        assert!(matches!(interpret(&wrap(RouteNetlinkMessage::DelLink(link(7))), 7), Notice::Deleted));
    }

    #[test]
    fn a_lost_deletion_is_found_by_asking_again() {
        blocking(async || {
            let overrun = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::Overrun(Vec::new()));
            let mut events = LinkEvents {
                netlink: Netlink::open().unwrap(),
                notifications: futures_util::stream::iter([overrun]).boxed(),
                // No interface has the largest index there is.
                index: i32::MAX as u32,
                state: Some(DOWN),
                pending: VecDeque::new(),
                lost: false,
            };
            assert_eq!(events.next().await.unwrap(), Some(LinkEvent::Deleted));
            assert_eq!(events.next().await.unwrap(), None);
        })
        .unwrap();
    }

    #[test]
    fn a_lost_change_of_the_loopback_is_found_by_asking_again() {
        blocking(async || {
            let mut events = LinkEvents::open(1).await.unwrap();
            let now = events.state().unwrap();
            // As if the last report had been another MTU, and the message about the change was lost.
            events.state = Some(LinkState { mtu: now.mtu + 1, ..now });
            let overrun = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::Overrun(Vec::new()));
            events.notifications = futures_util::stream::iter([overrun]).boxed();
            assert_eq!(events.next().await.unwrap(), Some(LinkEvent::MtuChanged { mtu: now.mtu }));
        })
        .unwrap();
    }
}
