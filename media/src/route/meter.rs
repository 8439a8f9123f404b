//! How many bits a second something sends, smoothed over about a second.

use crate::time::{MILLISECOND, SECOND, Time};

/// Bytes are gathered for so long before they change the mean.
const SPAN: u64 = 250 * MILLISECOND;
/// The part of the mean that one span makes up.
const WEIGHT: u64 = 3;

/// Counts bytes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Meter {
    since: Option<Time>,
    bytes: u64,
    rate: Option<u64>,
}

impl Meter {
    /// Takes note of bytes that came.
    pub fn on_bytes(&mut self, bytes: usize, now: Time) {
        let since = *self.since.get_or_insert(now);
        let elapsed = now.since(since);
        if elapsed >= SPAN {
            let rate = self.bytes.saturating_mul(8 * SECOND) / elapsed;
            // After a pause the mean says nothing any more.
            let mean = self.rate.filter(|_| elapsed < 4 * SPAN);
            self.rate = Some(mean.map_or(rate, |mean| ((WEIGHT - 1) * mean + rate) / WEIGHT));
            self.since = Some(now);
            self.bytes = 0;
        }
        self.bytes += bytes as u64;
    }

    /// Bits per second; `None` before the first quarter of a second has passed.
    pub fn bits_per_second(&self) -> Option<u64> {
        self.rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_follows_what_comes() {
        let mut meter = Meter::default();
        let mut now = Time::default();
        let mut run = |meter: &mut Meter, bytes: usize| {
            for _ in 0..300 {
                now = now + 10 * MILLISECOND;
                meter.on_bytes(bytes, now);
            }
            meter.bits_per_second().unwrap()
        };
        assert_eq!(run(&mut meter, 1000) / 10_000, 80);
        assert!((395_000..=410_000).contains(&run(&mut meter, 500)));
    }
}
