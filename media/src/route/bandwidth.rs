//! What the way to one peer can carry, by the peer's feedback: delay, loss, what arrives, and probes.

#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use super::delay::{Delay, Usage};
use super::sent::{Sent, SentPackets};
use crate::time::{MILLISECOND, SECOND, Time};

/// What is assumed of a peer whose feedback begins, if no more has arrived already. Bits per second, as all rates here.
const START: f64 = 2_000_000.0;
/// So long after the first feedback what arrives counts fully.
const STARTUP: u64 = 2 * SECOND;
/// An estimate is never below: a voice.
const FLOOR: f64 = 40_000.0;
/// Nor above.
const CEILING: f64 = 200_000_000.0;
/// Of what arrives, after a queue grew.
const BACK_OFF: f64 = 0.85;
/// The estimate grows by so much in a second, as long as it is used.
const GROWTH: f64 = 1.08;
/// An estimate grows by itself only to so many times what arrives.
const REACH: f64 = 1.5;
/// Of lost packets, above which the way is taken to be too narrow: less is what radio does.
const LOSS: f64 = 0.15;
/// Loss is that of so many packets, or so many seconds where they are few.
const LOSS_SPAN: (f64, f64) = (150.0, 3.0);
/// With packets that wait so much longer than at best, less loss says the same: the queue is full.
const FULL: (u64, f64) = (60 * MILLISECOND, 0.05);
/// A queue in which packets wait no longer does not grow, whatever the trend says.
const EMPTY: u64 = 20 * MILLISECOND;
/// So long, and a round trip, the queue that a key frame makes is its own.
const KEY_FRAME: u64 = 500 * MILLISECOND;
/// What arrived in this time says how much arrives.
const ARRIVALS: i64 = 300 * MILLISECOND as i64;
/// What is lost is sent again with at most this part of the estimate, so that repairs do not keep a queue full, ...
const REPAIRS: f64 = 0.25;
/// ... and as much of the estimate at once as so many seconds of it carry.
const REPAIRS_AT_ONCE: f64 = 0.15;
/// IP and UDP around each packet.
const OVERHEAD: u16 = 28;
/// How often `probe_due` is asked.
const TICK: u64 = 10 * MILLISECOND;
/// A probe lasts so long.
const PROBE: u64 = 50 * MILLISECOND;
/// A probe that is not reported on within this time has failed.
const PROBE_PATIENCE: u64 = 2 * SECOND;
/// Least and longest pause between two probes: doubled with each that failed.
const PROBE_PAUSE: (u64, u64) = (500 * MILLISECOND, 5 * SECOND);
/// After a queue grew, no probe for so long.
const PROBE_CALM: u64 = 2 * SECOND;
/// A probe sends up to so many times the estimate.
const PROBE_STEP: f64 = 2.0;

/// More than is known to fit, sent for a moment.
#[derive(Debug)]
struct Probe {
    number: u8,
    rate: f64,
    since: Time,
    newest: Time,               // when its last packet left
    sent: u64,                  // bytes, as are those below
    total: u64,                 // that arrived
    first: Option<(Time, i64)>, // its first chunk: when sent, when all of it had arrived
    later: u64,                 // that arrived of the other chunks
    last: Option<(Time, i64)>,
    last_chunk: u64,
}

/// The estimate for one peer.
#[derive(Default)]
pub struct Bandwidth {
    sent: Option<SentPackets>,
    delay: Delay,
    estimate: Option<f64>,
    since: Time, // the first feedback
    updated: Time,
    decreased: Option<Time>,
    arrivals: VecDeque<(i64, u32)>,
    arrived: u64, // bytes in `arrivals`
    loss: f64,
    receiver: Option<u64>, // its own word: REMB
    wanted: f64,
    key_frame: Option<Time>,
    repairs: f64, // bytes that may be sent again now
    repaired: Time,
    probe: Option<Probe>,
    probes: u8,
    probe_next: Time,
    probe_pause: u64,
}

impl Bandwidth {
    /// Bits per second that may be sent; `None` while nothing is known.
    pub fn available(&self) -> Option<u64> {
        let receiver = self.receiver.map(|receiver| receiver as f64);
        let known = self.estimate.into_iter().chain(receiver.filter(|_| self.estimate.is_none()));
        known.reduce(f64::min).map(|estimate| estimate as u64)
    }

    /// What a peer that gives no better feedback says that it can take.
    pub fn on_receiver_estimate(&mut self, bits_per_second: u64) {
        self.receiver = Some(bits_per_second.max(FLOOR as u64));
    }

    /// What was wanted last.
    pub fn wanted(&self) -> u64 {
        self.wanted as u64
    }

    /// What would be sent if there were room for all of it, in bits per second; zero: all of it is.
    pub fn want(&mut self, bits_per_second: u64) {
        self.wanted = bits_per_second as f64;
    }

    /// Takes note of a packet that leaves now.
    pub fn on_sent(&mut self, now: Time, seq: u16, bytes: usize) {
        let Some(sent) = &mut self.sent else { return };
        let probe = self.probe.as_mut().filter(|probe| now.since(probe.since) < PROBE);
        let number = probe.map_or(0, |probe| {
            probe.sent += bytes as u64;
            probe.newest = now;
            probe.number
        });
        let bytes = u16::try_from(bytes).unwrap_or(u16::MAX).saturating_add(OVERHEAD);
        sent.push(seq, Sent { at: now, bytes, probe: number });
    }

    /// Whether so many bytes may be sent once more; then they count as sent.
    pub fn may_repeat(&mut self, now: Time, bytes: usize) -> bool {
        let Some(estimate) = self.estimate else { return true };
        let passed = now.since(self.repaired) as f64 / SECOND as f64;
        self.repaired = now;
        self.repairs = (self.repairs + passed * REPAIRS * estimate / 8.0).min(REPAIRS_AT_ONCE * estimate / 8.0);
        let granted = self.repairs >= bytes as f64;
        if granted {
            self.repairs -= bytes as f64;
        }
        granted
    }

    /// Takes a feedback: for each packet its number and, if it arrived, when on the peer's clock.
    pub fn on_feedback(&mut self, now: Time, reports: impl Iterator<Item = (u16, Option<i64>)>, round_trip: u64) {
        let Some(sent) = &mut self.sent else {
            // From now on there is something to hold its feedback against.
            self.sent = Some(SentPackets::default());
            (self.since, self.updated) = (now, now);
            self.probe_pause = PROBE_PAUSE.0;
            return;
        };
        let (mut arrived, mut lost) = (0u32, 0u32);
        for (seq, arrival) in reports {
            let Some(arrival) = arrival else {
                lost += u32::from(sent.peek(seq).is_some());
                continue;
            };
            let Some(packet) = sent.take(seq) else { continue };
            arrived += 1;
            self.arrivals.push_back((arrival, u32::from(packet.bytes)));
            self.arrived += u64::from(packet.bytes);
            match &mut self.probe {
                Some(probe) if packet.probe == probe.number => probe.on_arrival(packet, arrival),
                _ if packet.probe == 0 => self.delay.on_packet(packet.at.micros() as i64, arrival),
                _ => {}
            }
        }
        self.trim();
        let passed = now.since(self.updated).min(SECOND) as f64 / SECOND as f64;
        self.updated = now;
        let reported = arrived + lost;
        if reported > 0 {
            let weight = (f64::from(reported) / LOSS_SPAN.0).max(passed / LOSS_SPAN.1).min(0.5);
            self.loss += weight * (f64::from(lost) / f64::from(reported) - self.loss);
        }
        self.update(now, passed, round_trip);
        self.finish_probe(now);
    }

    fn trim(&mut self) {
        let newest = self.arrivals.iter().map(|(at, _)| *at).max().unwrap_or(0);
        while let Some(&(at, bytes)) = self.arrivals.front().filter(|(at, _)| newest - at > ARRIVALS) {
            debug_assert!(at <= newest);
            self.arrived -= u64::from(bytes);
            self.arrivals.pop_front();
        }
    }

    /// Bits per second that arrive.
    fn arriving(&self) -> Option<f64> {
        let (oldest, first) = *self.arrivals.front()?;
        let span = (self.arrivals.back()?.0 - oldest) as f64;
        let bytes = self.arrived - u64::from(first);
        (span >= ARRIVALS as f64 / 3.0).then(|| bytes as f64 * 8.0 * SECOND as f64 / span)
    }

    /// Bits per second that arrived in the last third of that time.
    fn arriving_now(&self) -> Option<f64> {
        let newest = self.arrivals.back()?.0;
        let lately = self.arrivals.iter().rev().take_while(|(at, _)| newest - at <= ARRIVALS / 3);
        let (bytes, first, oldest) =
            lately.fold((0, 0, newest), |(bytes, _, _), (at, size)| (bytes + u64::from(*size), *size, *at));
        let span = (newest - oldest) as f64;
        let bytes = (bytes - u64::from(first)) as f64;
        (span >= ARRIVALS as f64 / 6.0).then(|| bytes * 8.0 * SECOND as f64 / span)
    }

    /// A key frame leaves now: for a moment its packets queue, whatever the way carries.
    pub fn on_key_frame(&mut self, now: Time) {
        self.key_frame = Some(now);
    }

    fn update(&mut self, now: Time, passed: f64, round_trip: u64) {
        let arriving = self.arriving();
        let reach = arriving.map_or(0.0, |arriving| arriving * REACH);
        let Some(estimate) = self.estimate else {
            if arriving.is_some() {
                self.estimate = Some(START.max(reach));
            }
            return;
        };
        let calm = self.decreased.is_none_or(|at| now.since(at) > round_trip + 200 * MILLISECOND);
        let probing = self.probe.is_some();
        let queueing = self.delay.queueing();
        let usage = match self.delay.usage() {
            _ if queueing > FULL.0 && self.loss > FULL.1 => Usage::Over,
            Usage::Over if queueing < EMPTY => Usage::Under, // jitter, or repairs in a row: nothing stands there
            Usage::Over if self.key_frame.is_some_and(|at| now.since(at) < KEY_FRAME + round_trip) => Usage::Under,
            usage => usage,
        };
        let estimate = match (usage, arriving) {
            (Usage::Over, Some(arriving)) if calm && !probing => {
                // While a queue stands, what arrives is what the way carries; else what was sent may be less.
                let lately = self.arriving_now().unwrap_or(arriving);
                self.back_off(now);
                estimate.min(BACK_OFF * if queueing > FULL.0 { lately } else { lately.max(arriving) })
            }
            (Usage::Normal, Some(arriving)) if self.loss > LOSS && calm && !probing => {
                self.back_off(now);
                estimate.min((estimate * (1.0 - self.loss / 2.0)).max(arriving))
            }
            (Usage::Normal, _) if now.since(self.since) < STARTUP && self.decreased.is_none() => estimate.max(reach),
            (Usage::Normal, _) if self.loss < LOSS / 2.0 && estimate < reach => {
                (estimate * GROWTH.powf(passed)).min(reach)
            }
            _ => estimate,
        };
        self.estimate = Some(estimate.clamp(FLOOR, CEILING));
    }

    fn back_off(&mut self, now: Time) {
        self.decreased = Some(now);
        self.loss /= 2.0; // what is lost from here on counts
        self.repairs = 0.0;
        self.probe_next = self.probe_next.max(now + PROBE_CALM);
    }

    // ------------------------------------------------------------ probes

    /// Bytes of padding that should leave now, because more might fit than is known. Asked at every tick.
    pub fn probe_due(&mut self, now: Time) -> usize {
        let Some(estimate) = self.estimate else { return 0 };
        if let Some(probe) = &mut self.probe {
            let elapsed = now.since(probe.since);
            if elapsed >= PROBE {
                if elapsed > PROBE_PATIENCE {
                    self.probe = None;
                    self.probe_failed(now);
                }
                return 0;
            }
            return probe.due(now);
        }
        let recent = now.since(self.updated) < SECOND; // what was found when something was still sent
        let narrow = recent && (self.delay.usage() != Usage::Normal || self.loss > LOSS);
        if self.wanted <= estimate || now < self.probe_next || narrow {
            return 0;
        }
        self.probes = self.probes % u8::MAX + 1;
        let rate = (PROBE_STEP * estimate).min(1.2 * self.wanted).max(1.2 * estimate);
        let (first, last) = (None, None);
        let probe = Probe {
            number: self.probes,
            rate,
            since: now,
            newest: now,
            sent: 0,
            total: 0,
            first,
            later: 0,
            last,
            last_chunk: 0,
        };
        self.probe.insert(probe).due(now)
    }

    /// Whether a probe goes on, so that `probe_due` wants to be asked again soon.
    pub fn probes(&self, now: Time) -> bool {
        self.probe.as_ref().is_some_and(|probe| now.since(probe.since) < PROBE)
    }

    fn finish_probe(&mut self, now: Time) {
        let done = |probe: &mut Probe| now.since(probe.since) >= PROBE && probe.is_reported();
        let Some(probe) = self.probe.take_if(done) else { return };
        let (Some(estimate), Some(rate)) = (self.estimate, probe.result()) else { return self.probe_failed(now) };
        // The queue that it made says nothing of the queue that there is without it.
        self.delay.reset();
        if rate < 1.1 * estimate {
            return self.probe_failed(now);
        }
        self.estimate = Some((0.95 * rate).clamp(estimate, CEILING));
        self.probe_pause = PROBE_PAUSE.0;
        self.probe_next = now + self.probe_pause;
    }

    fn probe_failed(&mut self, now: Time) {
        self.probe_pause = (2 * self.probe_pause).clamp(PROBE_PAUSE.0, PROBE_PAUSE.1);
        self.probe_next = now + self.probe_pause;
    }
}

impl Probe {
    /// Bytes that are to leave now, at a tick: those up to the next.
    fn due(&self, now: Time) -> usize {
        let until = now.since(self.since) + TICK;
        let bytes = self.rate * until as f64 / SECOND as f64 / 8.0;
        (bytes as u64).saturating_sub(self.sent) as usize
    }

    fn on_arrival(&mut self, packet: Sent, arrival: i64) {
        self.total += u64::from(packet.bytes);
        let (first, _) = *self.first.get_or_insert((packet.at, arrival));
        if packet.at == first {
            self.first = Some((first, arrival)); // the end of the first chunk
        } else {
            self.later += u64::from(packet.bytes);
        }
        if self.last.is_none_or(|(last, _)| packet.at > last) {
            self.last_chunk = 0;
        }
        self.last_chunk += u64::from(packet.bytes);
        self.last = Some((packet.at, self.last.map_or(arrival, |(_, last)| last.max(arrival))));
    }

    fn is_reported(&self) -> bool {
        self.last.is_some_and(|(last, _)| last >= self.newest)
    }

    /// Bits per second that got through, at most what was sent.
    fn result(&self) -> Option<f64> {
        let ((first_sent, first_arrival), (last_sent, last_arrival)) = (self.first?, self.last?);
        let sending = last_sent.since(first_sent) as f64;
        let arriving = (last_arrival - first_arrival) as f64;
        if sending <= 0.0 || arriving <= 0.0 || self.total * 10 < self.sent * 8 {
            return None;
        }
        let rate = |bytes: u64, span: f64| bytes as f64 * 8.0 * SECOND as f64 / span;
        let sent = rate(self.total - self.last_chunk, sending);
        Some(sent.min(rate(self.later, arriving)))
    }
}
