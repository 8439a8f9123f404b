//! What the media thread measures of itself: datagrams, batches, how long a forwarded packet is under way here.

use super::Stats;
use crate::measure::{Histogram, Snapshot};

/// Microseconds from the kernel's receipt of a packet to the end of the system call that sends it on.
const FORWARDING_BOUNDS: &[u64] =
    &[25, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000];
const BATCH_BOUNDS: &[u64] = &[1, 2, 4, 8, 16, 32, 64];

/// Counters and histograms of one media thread.
#[derive(Clone, Copy)]
pub struct Traffic {
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Datagrams that the kernel took.
    pub datagrams_out: u64,
    /// Datagrams that the kernel refused.
    pub send_errors: u64,
    /// Datagrams that did not fit into a socket's buffer.
    pub send_dropped: u64,
    /// Each packet sent to a subscriber, by the microseconds since the kernel received it.
    pub forwarding: Histogram,
    /// Datagrams for each system call that received any.
    pub receive_batches: Histogram,
    /// Datagrams for each system call that sent any.
    pub send_batches: Histogram,
    /// Datagrams for each message that the kernel took in one piece, to cut it (UDP_SEGMENT).
    pub segments: Histogram,
}

impl Default for Traffic {
    fn default() -> Self {
        let batches = Histogram::new(BATCH_BOUNDS);
        Self {
            datagrams_in: 0,
            datagrams_out: 0,
            send_errors: 0,
            send_dropped: 0,
            forwarding: Histogram::new(FORWARDING_BOUNDS),
            receive_batches: batches,
            send_batches: batches,
            segments: batches,
        }
    }
}

impl Traffic {
    fn numbers(&self) -> [(&'static str, &'static str, u64); 4] {
        [
            ("datagrams_in_total", "UDP datagrams received.", self.datagrams_in),
            ("datagrams_out_total", "UDP datagrams sent.", self.datagrams_out),
            ("send_errors_total", "Datagrams that the kernel refused to send.", self.send_errors),
            ("send_dropped_total", "Datagrams dropped because the socket's buffer stayed full.", self.send_dropped),
        ]
    }

    /// The counters by name.
    pub fn list(&self, stats: &mut Stats) {
        stats.extend(self.numbers().map(|(name, _, value)| (name, value)));
        stats.extend([
            ("forwarding_latency_microseconds_total", self.forwarding.sum()),
            ("forwarding_latency_packets_total", self.forwarding.count()),
        ]);
    }

    /// All of it, for `/metrics`.
    pub fn write(&self, snapshot: &mut Snapshot) {
        for (name, help, value) in self.numbers() {
            snapshot.number(name, help, vec![], value);
        }
        let help = "From the kernel's receipt of a packet to its having been sent on, for each packet sent on.";
        snapshot.histogram("forwarding_latency_microseconds", help, vec![], &self.forwarding);
        let help = "Datagrams in each system call that received any.";
        snapshot.histogram("receive_batch_datagrams", help, vec![], &self.receive_batches);
        let help = "Datagrams in each system call that sent any.";
        snapshot.histogram("send_batch_datagrams", help, vec![], &self.send_batches);
        let help = "Datagrams in each message that the kernel took in one piece, to cut it (UDP_SEGMENT).";
        snapshot.histogram("send_segment_datagrams", help, vec![], &self.segments);
    }
}
