//! Whether a queue grows on the way to a peer: the trend of one-way delay over groups of packets.
//!
//! After draft-ietf-rmcat-gcc-02, with a regression line in place of its filter.

use std::collections::VecDeque;

use crate::time::{MILLISECOND, SECOND};

/// Packets that left within this time are one group: a sender's burst says nothing of the way.
const BURST: i64 = 5 * MILLISECOND as i64;
/// The line is laid through so many groups: the fewer where they are far apart.
const WINDOW: (usize, usize) = (10, 20);
/// Groups further back than this, in milliseconds, are left out where there are enough.
const REACH: f64 = 400.0;
/// How much of the smoothed delay stays with each group.
const SMOOTHING: f64 = 0.9;
/// Makes a slope comparable with the threshold.
const GAIN: f64 = 4.0;
/// Groups beyond which the trend weighs no more.
const MAX_WEIGHT: f64 = 60.0;
/// A trend above the threshold must last this long, in milliseconds.
const OVERUSE: f64 = 10.0;
/// The threshold follows the trend slowly, so that a way with jitter, or another flow, is not taken for a queue.
const THRESHOLD: f64 = 12.5;
const THRESHOLD_RANGE: (f64, f64) = (6.0, 600.0);
const THRESHOLD_UP: f64 = 0.0087;
const THRESHOLD_DOWN: f64 = 0.039;
/// A trend further above the threshold than this does not move it.
const THRESHOLD_REACH: f64 = 15.0;
/// The least delay is that of the last one or two such spans.
const BASELINE: i64 = 10 * SECOND as i64;
/// A queue stands that so many groups one after the other have found.
const STANDING: usize = 3;
/// A pause in feedback after which delays are compared anew.
const PAUSE: i64 = 3 * SECOND as i64;

/// How the way to a peer is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Usage {
    /// The queue neither grows nor shrinks.
    #[default]
    Normal,
    /// A queue grows.
    Over,
    /// A queue empties.
    Under,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    first_sent: i64,
    last_sent: i64,
    last_arrival: i64,
}

/// Follows the delay of one peer's packets. All times are microseconds.
#[derive(Debug)]
pub struct Delay {
    group: Option<Group>,
    before: Option<Group>,
    accumulated: f64, // milliseconds
    smoothed: f64,
    line: VecDeque<(f64, f64)>, // arrival, smoothed delay: milliseconds
    origin: i64,
    groups: f64,
    threshold: f64,
    judged: Option<i64>,
    above: f64, // for how long the trend has been above the threshold
    trend: f64,
    usage: Usage,
    least: [i64; 2], // delay: of the present and of the former span of BASELINE
    spanned: i64,
    newest: [i64; STANDING], // delay of the newest groups
}

impl Default for Delay {
    fn default() -> Self {
        Self {
            group: None,
            before: None,
            accumulated: 0.0,
            smoothed: 0.0,
            line: VecDeque::with_capacity(WINDOW.1),
            origin: 0,
            groups: 0.0,
            threshold: THRESHOLD,
            judged: None,
            above: 0.0,
            trend: 0.0,
            usage: Usage::Normal,
            least: [i64::MAX; 2],
            spanned: 0,
            newest: [i64::MAX; STANDING],
        }
    }
}

impl Delay {
    /// Forgets what was seen, but not how much jitter the way has.
    pub fn reset(&mut self) {
        let (least, spanned) = (self.least, self.spanned);
        *self = Self { threshold: self.threshold, least, spanned, ..Self::default() };
    }

    /// How much longer packets take than they did at best lately: all of the newest groups, not only one behind a large frame.
    pub fn queueing(&self) -> u64 {
        let standing = self.newest.into_iter().fold(i64::MAX, i64::min);
        u64::try_from(standing.saturating_sub(self.least[0].min(self.least[1]))).unwrap_or(0)
    }

    /// What was found last.
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Takes a packet that arrived, in the order of sending. The two clocks need not agree.
    pub fn on_packet(&mut self, sent: i64, arrival: i64) {
        let Some(group) = &mut self.group else {
            self.group = Some(Group { first_sent: sent, last_sent: sent, last_arrival: arrival });
            return;
        };
        if sent < group.first_sent {
            return; // out of order
        }
        if arrival < group.last_arrival - PAUSE || arrival > group.last_arrival + PAUSE {
            *self = Self { threshold: self.threshold, ..Self::default() }; // another clock
            return;
        }
        if sent - group.first_sent <= BURST {
            group.last_sent = group.last_sent.max(sent);
            group.last_arrival = group.last_arrival.max(arrival);
            return;
        }
        let complete = *group;
        *group = Group { first_sent: sent, last_sent: sent, last_arrival: arrival };
        if let Some(before) = self.before.replace(complete) {
            self.on_group(before, complete);
        }
    }

    fn on_group(&mut self, before: Group, group: Group) {
        let newest = group.last_arrival - group.last_sent;
        self.newest.rotate_right(1);
        self.newest[0] = newest;
        if group.last_arrival - self.spanned > BASELINE {
            self.spanned = group.last_arrival;
            self.least = [i64::MAX, self.least[0]];
        }
        self.least[0] = self.least[0].min(newest);
        let sent = group.last_sent - before.last_sent;
        let arrived = group.last_arrival - before.last_arrival;
        let variation = (arrived - sent) as f64 / 1000.0;
        self.groups = (self.groups + 1.0).min(1000.0);
        self.accumulated += variation;
        self.smoothed = SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * self.accumulated;
        if self.line.is_empty() {
            self.origin = group.last_arrival;
        }
        let at = (group.last_arrival - self.origin) as f64 / 1000.0;
        self.line.push_back((at, self.smoothed));
        let full = |line: &VecDeque<(f64, f64)>| line.len() > WINDOW.1 || line[0].0 < at - REACH;
        while self.line.len() > WINDOW.0 && full(&self.line) {
            self.line.pop_front();
        }
        let slope = if self.line.len() >= WINDOW.0 { slope(&self.line) } else { 0.0 };
        let trend = self.groups.min(MAX_WEIGHT) * slope * GAIN;
        self.judge(trend, sent as f64 / 1000.0, group.last_arrival);
    }

    fn judge(&mut self, trend: f64, span: f64, arrival: i64) {
        let grows = trend >= self.trend;
        self.trend = trend;
        if trend > self.threshold {
            self.above += span;
            if self.above > OVERUSE && grows {
                self.above = 0.0;
                self.usage = Usage::Over;
            }
        } else {
            self.above = 0.0;
            self.usage = if trend < -self.threshold { Usage::Under } else { Usage::Normal };
        }
        let passed = self.judged.map_or(0, |judged| arrival - judged).clamp(0, 100 * MILLISECOND as i64);
        self.judged = Some(arrival);
        let size = trend.abs();
        if size <= self.threshold + THRESHOLD_REACH {
            let pull = if size < self.threshold { THRESHOLD_DOWN } else { THRESHOLD_UP };
            self.threshold += pull * (size - self.threshold) * passed as f64 / 1000.0;
            self.threshold = self.threshold.clamp(THRESHOLD_RANGE.0, THRESHOLD_RANGE.1);
        }
    }
}

/// Of the line of least squares; zero for points that stand above each other.
fn slope(points: &VecDeque<(f64, f64)>) -> f64 {
    let count = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
    let (x, y) = (x / count, y / count);
    let (up, across) = points
        .iter()
        .fold((0.0, 0.0), |sum, point| (sum.0 + (point.0 - x) * (point.1 - y), sum.1 + (point.0 - x) * (point.0 - x)));
    if across > 0.0 { up / across } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets every 10 ms whose delay is `delay(n)` microseconds; gives the verdicts.
    fn verdicts(delay: &mut Delay, packets: std::ops::Range<i64>, way: impl Fn(i64) -> i64) -> Vec<Usage> {
        packets
            .map(|n| {
                delay.on_packet(n * 10_000, 777_000 + n * 10_000 + way(n));
                delay.usage()
            })
            .collect()
    }

    #[test]
    fn a_steady_way_is_normal_whatever_its_delay() {
        let mut delay = Delay::default();
        assert!(verdicts(&mut delay, 0..200, |_| 150_000).iter().all(|usage| *usage == Usage::Normal));
    }

    #[test]
    fn a_growing_queue_is_noticed_within_half_a_second_and_its_emptying_too() {
        let mut delay = Delay::default();
        verdicts(&mut delay, 0..50, |_| 0);
        let found = verdicts(&mut delay, 50..150, |n| (n - 50) * 2_000); // a fifth more than the way takes
        let after = found.iter().position(|usage| *usage == Usage::Over).unwrap();
        assert!(after < 50, "after {after} packets");
        let found = verdicts(&mut delay, 150..250, |n| 200_000 - (n - 150) * 2_000);
        assert!(found.contains(&Usage::Under));
    }

    #[test]
    fn jitter_without_a_trend_is_no_overuse() {
        let mut delay = Delay::default();
        let jitter = |n: i64| (n * 7919 % 20) * 1000; // up to 20 ms
        let found = verdicts(&mut delay, 0..1000, jitter);
        let over = found[100..].iter().filter(|usage| **usage == Usage::Over).count();
        assert!(over < 20, "{over} of 900");
    }

    #[test]
    fn clocks_that_jump_start_anew() {
        let mut delay = Delay::default();
        verdicts(&mut delay, 0..50, |_| 0);
        assert_eq!(verdicts(&mut delay, 50..60, |_| 3_600_000_000)[9], Usage::Normal);
        assert_eq!(verdicts(&mut delay, 60..160, |_| 0)[99], Usage::Normal);
    }
}
