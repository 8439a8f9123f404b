//! The estimate over a simulated link.

use super::*;

const PACKET: usize = 1100;
const PADDING: usize = 280;

/// A link behind which a peer reports every 50 ms, and a sender that never sends more than it may.
struct Link {
    now: Time,
    bandwidth: Bandwidth,
    rate: f64,  // of the link
    queue: u64, // microseconds that may wait
    free: u64,  // when the link has nothing to send
    way: u64,   // microseconds, one way
    loses: fn(u64) -> bool,
    jitter: fn(u64) -> u64,
    seq: u16,
    sent: u64,
    arrivals: Vec<(u16, i64)>,
    reported: u16,
    waited: u64, // longest in the queue lately
    credit: f64,
}

impl Link {
    fn new(rate: f64) -> Self {
        Self {
            now: Time::from_micros(SECOND),
            bandwidth: Bandwidth::default(),
            rate,
            queue: 200 * MILLISECOND,
            free: 0,
            way: 25 * MILLISECOND,
            loses: |_| false,
            jitter: |_| 0,
            seq: 0,
            sent: 0,
            arrivals: Vec::new(),
            reported: 0,
            waited: 0,
            credit: 0.0,
        }
    }

    fn send(&mut self, bytes: usize) {
        let at = self.now.micros();
        self.bandwidth.on_sent(self.now, self.seq, bytes);
        let waits = self.free.saturating_sub(at);
        if waits <= self.queue && !(self.loses)(self.sent) {
            let takes = (bytes as f64 * 8.0 / self.rate * SECOND as f64) as u64;
            self.free = self.free.max(at) + takes;
            self.waited = self.waited.max(waits);
            let arrival = self.free + self.way + (self.jitter)(self.sent);
            self.arrivals.push((self.seq, arrival as i64));
        }
        self.seq = self.seq.wrapping_add(1);
        self.sent += 1;
    }

    /// Frames at 30 a second of the highest of `layers` that fits, as a focus sends them.
    fn run(&mut self, seconds: f64, layers: &[f64]) {
        let end = self.now + (seconds * SECOND as f64) as u64;
        let best = layers.iter().copied().fold(0.0, f64::max);
        let mut tick = 0u64;
        while self.now < end {
            self.now = self.now + TICK;
            tick += 1;
            let available = self.bandwidth.available().map_or(f64::MAX, |available| available as f64);
            let fitting = layers.iter().copied().filter(|layer| *layer <= available);
            let fits = fitting.reduce(f64::max).unwrap_or(0.0);
            self.bandwidth.want(if fits < best { (best * 1.1) as u64 } else { 0 });
            self.credit += fits * TICK as f64 / SECOND as f64 / 8.0;
            if tick % 3 == 0 {
                while self.credit >= PACKET as f64 {
                    self.credit -= PACKET as f64;
                    self.send(PACKET);
                }
            }
            if tick % 2 == 0 {
                self.send(100); // a voice
            }
            let mut padding = self.bandwidth.probe_due(self.now);
            while padding > 0 {
                let bytes = padding.min(PADDING);
                padding -= bytes;
                self.send(bytes);
            }
            if tick % 5 == 0 {
                self.report();
            }
        }
    }

    fn report(&mut self) {
        let now = self.now.micros() as i64 - self.way as i64; // the report needs its time, too
        let mut due: Vec<_> = self.arrivals.extract_if(.., |(_, at)| *at <= now).collect();
        due.sort_unstable_by_key(|(seq, _)| seq.wrapping_sub(self.reported));
        let Some((last, _)) = due.last().copied() else { return };
        let mut reports = Vec::new();
        for offset in 0..=last.wrapping_sub(self.reported) {
            let seq = self.reported.wrapping_add(offset);
            reports.push((seq, due.iter().find(|(known, _)| *known == seq).map(|(_, at)| *at)));
        }
        self.reported = last.wrapping_add(1);
        self.bandwidth.on_feedback(self.now, reports.into_iter(), 2 * self.way);
    }

    fn available(&self) -> f64 {
        self.bandwidth.available().unwrap() as f64
    }
}

const CAMERA: [f64; 3] = [120_000.0, 450_000.0, 1_700_000.0];

#[test]
fn a_wide_way_never_holds_a_camera_back() {
    let mut link = Link::new(20_000_000.0);
    for _ in 0..30 {
        link.run(1.0, &CAMERA);
        assert!(link.available() >= CAMERA[2], "{}", link.available());
    }
}

#[test]
fn a_link_that_narrows_is_noticed_and_one_that_widens_used_again() {
    let mut link = Link::new(3_000_000.0);
    link.run(10.0, &CAMERA);
    assert!(link.available() >= CAMERA[2]);
    link.rate = 500_000.0;
    link.run(2.0, &CAMERA);
    assert!((200_000.0..=520_000.0).contains(&link.available()), "{}", link.available());
    link.run(3.0, &CAMERA);
    link.waited = 0;
    link.run(10.0, &CAMERA);
    assert!((CAMERA[0]..=REACH * 550_000.0).contains(&link.available()), "{}", link.available());
    link.rate = 3_000_000.0;
    link.run(10.0, &CAMERA);
    assert!(link.available() >= CAMERA[2], "{}", link.available());
}

#[test]
fn a_very_narrow_link_keeps_its_voice() {
    let mut link = Link::new(3_000_000.0);
    link.run(5.0, &CAMERA);
    link.rate = 150_000.0;
    link.run(5.0, &CAMERA);
    let mut held = 0;
    for _ in 0..20 {
        link.run(1.0, &CAMERA);
        held += u32::from(link.available() <= 180_000.0);
    }
    assert!(held >= 16, "{held} of 20 s");
    link.rate = 3_000_000.0;
    link.run(10.0, &CAMERA);
    assert!(link.available() >= CAMERA[2], "{}", link.available());
}

#[test]
fn loss_that_no_queue_explains_holds_nothing_back() {
    for (loses, percent) in [(five as fn(u64) -> bool, 5), (ten, 10)] {
        let mut link = Link::new(20_000_000.0);
        link.loses = loses;
        link.run(30.0, &CAMERA);
        assert!(link.available() >= CAMERA[2], "{percent} %: {}", link.available());
    }
    fn random(n: u64) -> u64 {
        (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33
    }
    fn five(n: u64) -> bool {
        random(n) % 20 == 0
    }
    fn ten(n: u64) -> bool {
        random(n) % 10 == 0
    }
}

#[test]
fn jitter_holds_nothing_back() {
    let mut link = Link::new(20_000_000.0);
    link.jitter = |n| n * 7919 % 15 * MILLISECOND;
    link.run(30.0, &CAMERA);
    assert!(link.available() >= CAMERA[2], "{}", link.available());
}

#[test]
fn an_overloaded_link_is_left_within_a_second() {
    let mut link = Link::new(1_000_000.0);
    link.run(1.5, &CAMERA);
    assert!(link.available() < 1_000_000.0, "{}", link.available());
    link.run(5.0, &CAMERA);
    link.waited = 0;
    link.run(10.0, &CAMERA);
    assert!(link.waited < 150 * MILLISECOND, "{} us in the queue", link.waited);
}

#[test]
fn a_receivers_own_word_counts_while_there_is_no_better() {
    let mut bandwidth = Bandwidth::default();
    assert_eq!(bandwidth.available(), None);
    bandwidth.on_receiver_estimate(700_000);
    assert_eq!(bandwidth.available(), Some(700_000));
}

#[test]
fn lies_stay_within_bounds() {
    let mut bandwidth = Bandwidth::default();
    for round in 0..1000u64 {
        let now = Time::from_micros(round * 50_000);
        bandwidth.on_sent(now, round as u16, usize::MAX);
        let lies = (0..500u16).map(|n| (n, Some(i64::MAX / 2 - round as i64 * 77_777 * i64::from(n))));
        bandwidth.on_feedback(now, lies, u64::MAX / 4);
        bandwidth.want(u64::MAX);
        assert!(bandwidth.probe_due(now) < 20_000_000);
    }
    assert!(bandwidth.available().is_none_or(|available| available as f64 <= CEILING));
    assert!(bandwidth.arrivals.len() < 2048);
}
