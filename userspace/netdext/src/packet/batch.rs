use std::collections::VecDeque;

use super::Packet;

/// A packet that did not fit: it always comes back to its owner.
#[derive(Debug)]
#[must_use = "dropping the rejected packet returns its frame to the pool"]
pub struct Full(pub Packet);

/// A first-in, first-out batch of packets with a fixed capacity, allocated once.
#[derive(Debug)]
pub struct PacketBatch {
    packets: VecDeque<Packet>,
    capacity: usize,
}

impl PacketBatch {
    /// An empty batch with room for `capacity` packets.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { packets: VecDeque::with_capacity(capacity), capacity }
    }

    /// Appends a packet.
    ///
    /// # Errors
    ///
    /// [`Full`] gives the packet back when there is no room.
    pub fn push(&mut self, packet: Packet) -> Result<(), Full> {
        if self.packets.len() == self.capacity {
            return Err(Full(packet));
        }
        self.packets.push_back(packet);
        Ok(())
    }

    /// Takes the oldest packet.
    pub fn pop(&mut self) -> Option<Packet> {
        self.packets.pop_front()
    }

    /// The packet at this place, counted from the oldest.
    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut Packet> {
        self.packets.get_mut(place)
    }

    /// The packets from the oldest on.
    pub fn iter(&self) -> impl Iterator<Item = &Packet> {
        self.packets.iter()
    }

    /// Puts a packet back at the front: the inverse of [`pop`](Self::pop).
    pub(crate) fn unpop(&mut self, packet: Packet) {
        self.packets.push_front(packet);
    }

    /// How many more packets fit.
    pub fn room(&self) -> usize {
        self.capacity - self.packets.len()
    }

    /// How many packets it holds.
    pub fn len(&self) -> usize {
        self.packets.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Drops every packet, which returns their frames to the pool.
    pub fn clear(&mut self) {
        self.packets.clear();
    }
}
