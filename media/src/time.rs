//! The engine's notion of time: microseconds on a monotonic clock that somebody else reads, and its NTP image.

use std::ops::Add;

/// Microseconds in a millisecond.
pub const MILLISECOND: u64 = 1_000;
/// Microseconds in a second.
pub const SECOND: u64 = 1_000_000;

/// A point on the monotonic clock, in microseconds since the engine was made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(u64);

impl Time {
    /// The point that many microseconds after the engine was made.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the engine was made.
    pub const fn micros(self) -> u64 {
        self.0
    }

    /// Microseconds from `earlier` to this point; zero if it lies ahead.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// How many ticks of a clock of `rate` Hz pass from `earlier` to this point, modulo 2^32.
    pub fn ticks_since(self, earlier: Self, rate: u32) -> u32 {
        (u128::from(self.since(earlier)) * u128::from(rate) / u128::from(SECOND)) as u32
    }
}

impl Add<u64> for Time {
    type Output = Self;

    fn add(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }
}

/// Wall-clock time as RTCP speaks of it: NTP's 32.32 fixed point (RFC 3550, section 4).
#[derive(Clone, Copy, Debug)]
pub struct WallClock {
    ntp_at_zero: u64,
}

impl WallClock {
    /// A wall clock that showed `ntp_at_zero` at `Time` zero and runs with the monotonic clock.
    pub const fn new(ntp_at_zero: u64) -> Self {
        Self { ntp_at_zero }
    }

    /// The NTP timestamp of `now`.
    pub fn ntp(self, now: Time) -> u64 {
        let elapsed = (u128::from(now.micros()) << 32) / u128::from(SECOND);
        self.ntp_at_zero.wrapping_add(elapsed as u64)
    }
}

/// Ticks of a clock of `rate` Hz in a signed 32.32 span of seconds.
pub fn ntp_span_in_ticks(span: i64, rate: u32) -> i64 {
    ((i128::from(span) * i128::from(rate)) >> 32) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ntp_runs_with_the_monotonic_clock_past_an_hour() {
        let clock = WallClock::new(5 << 32);
        assert_eq!(clock.ntp(Time::from_micros(7200 * SECOND)), 7205 << 32);
        assert_eq!(clock.ntp(Time::from_micros(SECOND / 2)), (5 << 32) + (1 << 31));
    }

    #[test]
    fn spans_convert_to_ticks_in_both_directions() {
        assert_eq!(ntp_span_in_ticks(1 << 32, 90_000), 90_000);
        assert_eq!(ntp_span_in_ticks(-(1 << 31), 90_000), -45_000);
    }
}
