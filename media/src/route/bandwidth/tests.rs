//! The estimate over a simulated link.

use std::collections::HashMap;

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
    shown: Option<usize>,           // of CAMERA
    turning: Option<(usize, Time)>, // to another layer, whose key frame was asked for and comes then
    turns: u32,
    under_way: HashMap<u16, (usize, u8)>, // media that is not reported on yet: bytes, and how often it was sent
    lost: Vec<(usize, u8)>,
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
            shown: None,
            turning: None,
            turns: 0,
            under_way: HashMap::new(),
            lost: Vec::new(),
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

    /// A focus that sends a camera at 15 frames a second, a voice with its copies, and what was lost once more.
    fn show(&mut self, seconds: f64) {
        let end = self.now + (seconds * SECOND as f64) as u64;
        while self.now < end {
            self.now = self.now + TICK;
            let tick = self.now.micros() / TICK;
            let available = self.available_or(f64::MAX);
            let left = available - VOICE;
            let cost = |n: usize| CAMERA[n] * if self.shown.is_some_and(|shown| shown >= n) { 1.0 } else { 1.15 };
            let fits = (0..CAMERA.len()).rev().find(|n| cost(*n) <= left);
            self.bandwidth.want(if fits == Some(2) { 0 } else { ((CAMERA[2] + VOICE) * 1.2) as u64 });
            match fits {
                None => (self.shown, self.turning) = (None, None),
                fits if fits == self.shown => self.turning = None,
                Some(to) if self.turning.is_none_or(|(turning, _)| turning != to) => {
                    self.turning = Some((to, self.now + KEY_FRAME_AFTER));
                    if self.shown.is_some_and(|shown| CAMERA[shown] > 1.25 * left) {
                        self.shown = None;
                    }
                }
                Some(_) => {}
            }
            if tick % 7 == 0 {
                let mut bytes = self.shown.map_or(0.0, |shown| CAMERA[shown] / 15.0 / 8.0);
                if let Some((to, _)) = self.turning.take_if(|(_, at)| *at <= self.now) {
                    self.shown = Some(to);
                    self.turns += 1;
                    self.bandwidth.on_key_frame(self.now);
                    bytes = CAMERA[to] / 8.0 * KEY_FRAME_SIZE;
                }
                while bytes > 0.0 {
                    self.send_media(PACKET.min(bytes as usize + 50), 0);
                    bytes -= PACKET as f64;
                }
            }
            if tick % 2 == 0 {
                self.send_media(VOICE as usize / 8 / 50, u8::MAX);
            }
            for (bytes, times) in std::mem::take(&mut self.lost) {
                if self.shown.is_some() && self.bandwidth.may_repeat(self.now, bytes) {
                    self.send_media(bytes, times + 1);
                }
            }
            let mut padding = self.bandwidth.probe_due(self.now);
            while padding > 0 {
                let bytes = padding.min(PADDING);
                padding -= bytes;
                self.send(bytes);
            }
            if tick % 10 == 0 {
                self.report();
            }
        }
    }

    fn send_media(&mut self, bytes: usize, times: u8) {
        if times < 6 {
            self.under_way.insert(self.seq, (bytes, times));
        }
        self.send(bytes);
    }

    fn available_or(&self, unknown: f64) -> f64 {
        self.bandwidth.available().map_or(unknown, |available| available as f64)
    }

    fn report(&mut self) {
        let now = self.now.micros() as i64 - self.way as i64; // the report needs its time, too
        let mut due: Vec<_> = self.arrivals.extract_if(.., |(_, at)| *at <= now).collect();
        due.sort_unstable_by_key(|(seq, _)| seq.wrapping_sub(self.reported));
        let Some((last, _)) = due.last().copied() else { return };
        let arrivals: HashMap<_, _> = due.iter().copied().collect();
        let mut reports = Vec::new();
        for offset in 0..=last.wrapping_sub(self.reported) {
            let seq = self.reported.wrapping_add(offset);
            let arrival = arrivals.get(&seq).copied();
            let sent = self.under_way.remove(&seq);
            self.lost.extend(sent.filter(|_| arrival.is_none()));
            reports.push((seq, arrival));
        }
        self.reported = last.wrapping_add(1);
        self.bandwidth.on_feedback(self.now, reports.into_iter(), 2 * self.way);
    }

    fn available(&self) -> f64 {
        self.bandwidth.available().unwrap() as f64
    }
}

/// Bits per second of a voice and its copies.
const VOICE: f64 = 80_000.0;
/// From asking for a key frame until it is there.
const KEY_FRAME_AFTER: u64 = 150 * MILLISECOND;
/// A key frame is as large as so many seconds of its layer.
const KEY_FRAME_SIZE: f64 = 0.6;
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

#[test]
fn repairs_and_key_frames_do_not_keep_the_queue_of_a_link_full_that_narrowed() {
    let mut link = Link::new(3_000_000.0);
    link.show(8.0);
    assert_eq!(link.shown, Some(2));
    link.rate = 500_000.0;
    link.show(1.0);
    assert_eq!(link.shown, Some(0), "what fits beside the voice");
    (link.waited, link.turns) = (0, 0);
    link.show(19.0);
    assert!(link.waited < 150 * MILLISECOND, "{} us in the queue", link.waited);
    assert_eq!((link.shown, link.turns), (Some(0), 0));
    link.rate = 3_000_000.0;
    link.show(6.0);
    assert_eq!(link.shown, Some(2));
    link.turns = 0;
    link.show(20.0);
    assert_eq!((link.shown, link.turns), (Some(2), 0));
}

#[test]
fn where_no_picture_fits_the_voice_goes_on() {
    let mut link = Link::new(3_000_000.0);
    link.show(8.0);
    link.rate = 150_000.0;
    link.show(2.0);
    link.waited = 0;
    link.show(18.0);
    assert!(link.waited < 200 * MILLISECOND, "{} us in the queue", link.waited);
    link.rate = 3_000_000.0;
    link.show(10.0);
    assert_eq!(link.shown, Some(2));
}

fn random(n: u64) -> u64 {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33
}

#[test]
fn a_wide_way_that_loses_delays_or_mixes_packets_keeps_the_best_picture() {
    type Way = (&'static str, fn(u64) -> bool, fn(u64) -> u64);
    let ways: [Way; 5] = [
        ("5 %", |n| random(n) % 20 == 0, |_| 0),
        ("10 %", |n| random(n) % 10 == 0, |_| 0),
        ("bursts", |n| random(n / 5) % 33 == 0, |_| 0),
        ("jitter", |_| false, |n| random(n) % 30_000),
        ("overtaken", |_| false, |n| if random(n) % 33 == 0 { 20_000 } else { 0 }),
    ];
    for (name, loses, jitter) in ways {
        for rate in [20_000_000.0, 3_000_000.0] {
            let mut link = Link::new(rate);
            link.show(4.0);
            (link.loses, link.jitter) = (loses, jitter);
            link.turns = 0;
            link.show(20.0);
            assert_eq!((link.shown, link.turns), (Some(2), 0), "{name}, {rate}: {}", link.available());
        }
    }
}
