//! How much a peer may send: a token bucket of bytes. What does not fit is dropped, pictures before voices.

use crate::time::{SECOND, Time};

/// What may come at once, in microseconds of the rate: a key frame is a burst.
const BURST: u64 = SECOND / 2;
/// The smallest burst, in bytes: a few datagrams pass at any rate.
const MIN_BURST: u64 = 16_384;
/// The part of the bucket that pictures leave to voices.
const RESERVE: u64 = 8;

/// Lets a number of bits through per second, in the long run.
#[derive(Debug)]
pub struct Policer {
    bits_per_second: u64,
    burst: u64,
    left: u64, // in millionths of a byte, as time is in millionths of a second
    filled: Time,
}

impl Policer {
    /// A full bucket.
    pub fn new(bits_per_second: u64, now: Time) -> Self {
        let burst = burst_of(bits_per_second);
        Self { bits_per_second, burst, left: burst, filled: now }
    }

    /// Goes on at another rate; what has been earned is kept.
    pub fn set_rate(&mut self, bits_per_second: u64, now: Time) {
        self.fill(now);
        self.bits_per_second = bits_per_second;
        self.burst = burst_of(bits_per_second);
        self.left = self.left.min(self.burst);
    }

    /// Bits that may come per second.
    pub fn bits_per_second(&self) -> u64 {
        self.bits_per_second
    }

    /// Whether so many bytes may pass now; they are used up.
    pub fn allow(&mut self, bytes: usize, voice: bool, now: Time) -> bool {
        self.fill(now);
        let cost = bytes as u64 * SECOND;
        let reserve = if voice { 0 } else { self.burst / RESERVE };
        let allowed = self.left >= cost + reserve;
        if allowed {
            self.left -= cost;
        }
        allowed
    }

    fn fill(&mut self, now: Time) {
        let earned = now.since(self.filled).saturating_mul(self.bits_per_second / 8);
        self.left = self.left.saturating_add(earned).min(self.burst);
        self.filled = now;
    }
}

fn burst_of(bits_per_second: u64) -> u64 {
    (bits_per_second / 8).saturating_mul(BURST).max(MIN_BURST * SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::MILLISECOND;

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * MILLISECOND)
    }

    /// Bytes let through of 1250 each millisecond (10 Mbit/s), for so many seconds.
    fn passed(policer: &mut Policer, seconds: u64, voice: bool) -> u64 {
        (0..seconds * 1000).filter(|millis| policer.allow(1250, voice, at(*millis))).count() as u64 * 1250
    }

    #[test]
    fn in_the_long_run_as_much_passes_as_was_allowed_and_a_burst() {
        let mut policer = Policer::new(2_000_000, at(0));
        let bytes = passed(&mut policer, 20, false);
        assert!((5_000_000..5_125_000).contains(&bytes), "{bytes}");
    }

    #[test]
    fn who_sends_less_loses_nothing() {
        let mut policer = Policer::new(10_100_000, at(0));
        assert_eq!(passed(&mut policer, 20, false), 25_000_000);
    }

    #[test]
    fn where_pictures_fill_the_bucket_a_voice_still_passes() {
        let mut policer = Policer::new(1_000_000, at(0));
        let mut voices = 0;
        for millis in 0..20_000 {
            policer.allow(1250, false, at(millis));
            if millis % 20 == 0 {
                voices += u64::from(policer.allow(100, true, at(millis)));
            }
        }
        assert_eq!(voices, 1000);
    }

    #[test]
    fn another_rate_counts_from_then_on_and_gives_no_burst_anew() {
        let mut policer = Policer::new(8_000_000, at(0));
        assert!(!(0..1000).all(|_| policer.allow(1250, false, at(0))));
        policer.set_rate(80_000_000, at(0));
        assert!(!policer.allow(1250, false, at(0)));
        assert!(policer.allow(1250, false, at(1000)));
        policer.set_rate(8, at(1000));
        let left = (0..100_000).filter(|_| policer.allow(1250, true, at(1000))).count();
        assert_eq!(left, MIN_BURST as usize / 1250);
    }

    #[test]
    fn a_clock_that_stands_for_days_does_not_overflow() {
        let mut policer = Policer::new(u64::MAX, at(0));
        assert!(policer.allow(1250, false, Time::from_micros(u64::MAX)));
    }
}
