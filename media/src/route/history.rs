//! The newest packets of one published layer, for subscribers who ask for one again and for key frames that come in disorder.
//!
//! Kept once for all subscribers: each finds a packet by where it stood in its own stream (`Rewriter::locate`).

use std::sync::Arc;

use super::packet::Packet;

/// Packets kept: some two seconds of the highest layer.
pub const CAPACITY: usize = 512;

/// A bounded ring of packets.
#[derive(Debug, Default)]
pub struct History {
    slots: Vec<Option<Arc<Packet>>>,
}

impl History {
    /// Keeps a packet in place of the one `CAPACITY` before it, which it gives.
    pub fn insert(&mut self, packet: Arc<Packet>) -> Option<Arc<Packet>> {
        if self.slots.is_empty() {
            self.slots.resize(CAPACITY, None);
        }
        self.slots[(packet.index % CAPACITY as u64) as usize].replace(packet)
    }

    /// The packet of this extended sequence number of the publisher's.
    pub fn get(&self, index: u64) -> Option<&Arc<Packet>> {
        let slot = self.slots.get((index % CAPACITY as u64) as usize)?;
        slot.as_ref().filter(|packet| packet.index == index)
    }
}
