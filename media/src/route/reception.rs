//! What a receiver report says of one source: loss, jitter, and the last sender report (RFC 3550, A.3 and A.8).

use crate::proto::rtcp::Block;
use crate::time::{SECOND, Time};

/// A sender report as it was received: the source's clocks at one instant, and ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SenderClock {
    /// The sender's NTP time, 32.32.
    pub ntp: u64,
    /// The same instant in the source's RTP ticks.
    pub rtp: u32,
    /// When the report arrived.
    pub arrival: Time,
}

/// What came, and what did not, between the last two reports on a source.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lately {
    /// Packets received.
    pub received: u64,
    /// Packets missing.
    pub lost: u64,
    /// Interarrival jitter at the last report, in microseconds.
    pub jitter: u64,
}

/// Reception statistics of one source.
#[derive(Clone, Debug, Default)]
pub struct Reception {
    first: Option<u64>,
    highest: u64,
    received: u64,
    expected_before: u64,
    received_before: u64,
    transit: Option<u32>,
    jitter: u32, // in sixteenths of a tick
    rate: u32,
    lately: Lately,
    clock: Option<SenderClock>,
}

impl Reception {
    /// Notes a packet by its extended sequence number.
    pub fn on_packet(&mut self, index: u64, timestamp: u32, now: Time, rate: u32) {
        self.first = Some(self.first.map_or(index, |first| first.min(index)));
        self.highest = self.highest.max(index);
        self.received += 1;
        self.rate = rate;
        let transit = now.ticks_since(Time::default(), rate).wrapping_sub(timestamp);
        if let Some(before) = self.transit.replace(transit) {
            let difference = (transit.wrapping_sub(before) as i32).unsigned_abs();
            let jitter = i64::from(self.jitter);
            self.jitter = (jitter + i64::from(difference) - ((jitter + 8) >> 4)).clamp(0, i64::from(u32::MAX)) as u32;
        }
    }

    /// Notes a sender report.
    pub fn on_sender_report(&mut self, ntp: u64, rtp: u32, now: Time) {
        self.clock = Some(SenderClock { ntp, rtp, arrival: now });
    }

    /// The last sender report.
    pub fn sender_clock(&self) -> Option<SenderClock> {
        self.clock
    }

    /// What the last report was about.
    pub fn lately(&self) -> Lately {
        self.lately
    }

    /// The report block for the time since the last one; `None` if nothing was ever received.
    pub fn report(&mut self, ssrc: u32, now: Time) -> Option<Block> {
        let expected = self.highest - self.first? + 1;
        let lost = expected as i64 - self.received as i64;
        let expected_now = expected - self.expected_before;
        let lost_now = expected_now as i64 - (self.received - self.received_before) as i64;
        self.expected_before = expected;
        self.lately = Lately {
            received: self.received - self.received_before,
            lost: lost_now.max(0) as u64,
            jitter: u64::from(self.jitter >> 4) * SECOND / u64::from(self.rate.max(1)),
        };
        self.received_before = self.received;
        let fraction_lost =
            if expected_now == 0 || lost_now <= 0 { 0 } else { ((lost_now << 8) / expected_now as i64).min(255) as u8 };
        let (last_sr, delay) =
            self.clock.map_or((0, 0), |clock| ((clock.ntp >> 16) as u32, now.ticks_since(clock.arrival, 65_536)));
        Some(Block {
            ssrc,
            fraction_lost,
            lost: lost.clamp(-0x80_0000, 0x7f_ffff) as i32,
            highest: self.highest as u32,
            jitter: self.jitter >> 4,
            last_sr,
            delay,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MILLISECOND;

    #[test]
    fn loss_is_counted_per_report_and_in_all() {
        let mut reception = Reception::default();
        assert_eq!(reception.report(1, Time::default()), None);
        for index in (65_530..65_630).filter(|index| index % 4 != 0) {
            reception.on_packet(index, 0, Time::default(), 90_000);
        }
        let block = reception.report(1, Time::default()).unwrap();
        assert_eq!((block.lost, block.highest), (25, 65_629));
        assert_eq!(block.fraction_lost, 64);
        assert_eq!((reception.lately().received, reception.lately().lost), (75, 25));
        for index in 65_630..65_730 {
            reception.on_packet(index, 0, Time::default(), 90_000);
        }
        let block = reception.report(1, Time::default()).unwrap();
        assert_eq!((block.lost, block.fraction_lost), (25, 0));
        assert_eq!((reception.lately().received, reception.lately().lost), (100, 0));
    }

    #[test]
    fn duplicates_make_no_underflow() {
        let mut reception = Reception::default();
        for _ in 0..5 {
            reception.on_packet(7, 0, Time::default(), 90_000);
        }
        let block = reception.report(1, Time::default()).unwrap();
        assert_eq!((block.lost, block.fraction_lost), (-4, 0));
    }

    #[test]
    fn jitter_is_zero_for_a_steady_source_and_grows_with_unsteady_arrivals() {
        let (mut steady, mut unsteady) = (Reception::default(), Reception::default());
        for n in 0..200u64 {
            let timestamp = (n * 1800) as u32;
            steady.on_packet(n, timestamp, Time::from_micros(n * 20 * MILLISECOND), 90_000);
            let late = n % 2 * 5 * MILLISECOND;
            unsteady.on_packet(n, timestamp, Time::from_micros(n * 20 * MILLISECOND + late), 90_000);
        }
        assert_eq!(steady.report(1, Time::default()).unwrap().jitter, 0);
        let jitter = unsteady.report(1, Time::default()).unwrap().jitter;
        assert!((440..=451).contains(&jitter), "5 ms are 450 ticks, not {jitter}");
        assert_eq!(unsteady.lately(), Lately { received: 200, lost: 0, jitter: u64::from(jitter) * SECOND / 90_000 });
    }

    #[test]
    fn the_last_sender_report_and_its_age_are_told() {
        let mut reception = Reception::default();
        reception.on_packet(1, 0, Time::default(), 90_000);
        reception.on_sender_report(0x1234_5678_9abc_def0, 5, Time::from_micros(SECOND));
        let block = reception.report(1, Time::from_micros(3 * SECOND / 2)).unwrap();
        assert_eq!((block.last_sr, block.delay), (0x5678_9abc, 32_768));
    }
}
