//! Transport-wide congestion control: arrivals in, feedback bodies out (draft-holmer-rmcat-transport-wide-cc-extensions-01).

use super::{u16_at, u32_at};
use crate::time::Time;

/// Most arrivals that wait for a feedback; more than a leg can send in 100 ms.
const MAX_PENDING: usize = 4096;
/// Most packet statuses in one feedback packet: it stays below a datagram even with large deltas only.
const MAX_STATUSES: u64 = 400;
/// Most feedback packets at one time; what does not fit is not reported.
const MAX_FEEDBACKS: usize = 8;
const REFERENCE_UNIT: u64 = 64_000; // microseconds
const DELTA_UNIT: i64 = 250; // microseconds

/// What arrived of one peer's transport since the last feedback.
#[derive(Debug, Default)]
pub struct Recorder {
    highest: Option<u64>,
    next: u64, // first sequence number that no feedback covered yet
    pending: Vec<(u64, Time)>,
    count: u8,
}

impl Recorder {
    /// Notes the arrival of a packet with this transport-wide sequence number.
    pub fn record(&mut self, seq: u16, now: Time) {
        let extended = match self.highest {
            None => {
                let first = 0x1_0000 + u64::from(seq);
                self.next = first;
                first
            }
            Some(highest) => {
                let ahead = i64::from(seq.wrapping_sub(highest as u16) as i16);
                highest.saturating_add_signed(ahead)
            }
        };
        self.highest = self.highest.max(Some(extended));
        if self.pending.len() < MAX_PENDING {
            self.pending.push((extended, now));
        }
    }

    /// Whether there is something to report.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Hands each feedback's body, from its base sequence number on, to `emit`.
    pub fn drain(&mut self, mut emit: impl FnMut(&[u8])) {
        self.pending.sort_unstable_by_key(|(seq, _)| *seq);
        self.pending.dedup_by_key(|(seq, _)| *seq);
        let mut arrivals = &self.pending[..];
        // A late packet is reported again from its place on; a gap too wide to spell out is not reported.
        let mut base = self.next.min(arrivals.first().map_or(self.next, |(seq, _)| *seq));
        for _ in 0..MAX_FEEDBACKS {
            let Some((first, _)) = arrivals.first() else { break };
            if first - base >= MAX_STATUSES {
                base = *first;
            }
            let (body, taken) = feedback(base, arrivals, self.count);
            self.count = self.count.wrapping_add(1);
            emit(&body);
            base = arrivals[taken - 1].0 + 1;
            arrivals = &arrivals[taken..];
        }
        self.next = self.highest.map_or(0, |highest| highest + 1);
        self.pending.clear();
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Missing = 0,
    Small = 1,
    Large = 2,
}

/// One feedback body that starts at `base`, and how many of the (not empty) arrivals it covers.
fn feedback(base: u64, arrivals: &[(u64, Time)], count: u8) -> (Vec<u8>, usize) {
    let reference = arrivals[0].1.micros() / REFERENCE_UNIT;
    let mut clock = (reference * REFERENCE_UNIT) as i64;
    let mut statuses = Vec::new();
    let mut deltas = Vec::new();
    let mut taken = 0;
    for (seq, arrival) in arrivals {
        if seq - base >= MAX_STATUSES {
            break;
        }
        let delta = (arrival.micros() as i64 - clock).div_euclid(DELTA_UNIT);
        let status = if let Ok(small) = u8::try_from(delta) {
            deltas.push(small);
            Status::Small
        } else if let Ok(large) = i16::try_from(delta) {
            deltas.extend_from_slice(&large.to_be_bytes());
            Status::Large
        } else {
            break; // the next feedback has a reference time of its own
        };
        clock += delta * DELTA_UNIT;
        statuses.resize((seq - base) as usize, Status::Missing);
        statuses.push(status);
        taken += 1;
    }
    let mut body = Vec::with_capacity(8 + statuses.len() + deltas.len());
    body.extend_from_slice(&(base as u16).to_be_bytes());
    body.extend_from_slice(&(statuses.len() as u16).to_be_bytes());
    body.extend_from_slice(&(reference as u32).to_be_bytes()[1..]);
    body.push(count);
    write_chunks(&mut body, &statuses);
    body.extend_from_slice(&deltas);
    (body, taken)
}

/// Runs of one status as run-length chunks, the rest as vectors of seven two-bit symbols.
fn write_chunks(body: &mut Vec<u8>, mut statuses: &[Status]) {
    while let Some(first) = statuses.first() {
        let run = statuses.iter().take_while(|status| *status == first).count();
        let (chunk, covered) = if run >= 7 || run == statuses.len() {
            ((*first as u16) << 13 | run as u16, run)
        } else {
            let covered = statuses.len().min(7);
            let symbols = statuses[..covered].iter().enumerate();
            (symbols.fold(0xc000, |chunk, (n, status)| chunk | (*status as u16) << (12 - 2 * n)), covered)
        };
        body.extend_from_slice(&chunk.to_be_bytes());
        statuses = &statuses[covered..];
    }
}

/// What a peer reports of packets sent to it: one packet at a time, in order of their sequence numbers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Feedback<'a> {
    chunks: &'a [u8],
    deltas: &'a [u8],
    chunk: u16,
    symbols: u16, // that are left of the present chunk
    seq: u16,
    left: u16,
    clock: i64,
}

impl<'a> Feedback<'a> {
    /// Reads a feedback body, from its base sequence number on; `None` if it is cut short.
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let (seq, left) = (u16_at(body, 0)?, u16_at(body, 2)?);
        let reference = u32_at(body, 4)? >> 8;
        let chunks = body.get(8..)?;
        let (mut covered, mut length) = (0u32, 0);
        while covered < u32::from(left) {
            covered += match u16_at(chunks, length)? {
                run if run & 0x8000 == 0 => u32::from(run & 0x1fff),
                vector if vector & 0x4000 == 0 => 14,
                _ => 7,
            };
            length += 2;
        }
        let (chunks, deltas) = chunks.split_at_checked(length)?;
        let clock = i64::from(reference) * REFERENCE_UNIT as i64;
        Some(Self { chunks, deltas, chunk: 0, symbols: 0, seq, left, clock })
    }

    fn symbol(&mut self) -> Option<u16> {
        while self.symbols == 0 {
            self.chunk = u16_at(self.chunks, 0)?;
            self.chunks = &self.chunks[2..];
            self.symbols = match self.chunk {
                run if run & 0x8000 == 0 => run & 0x1fff,
                vector if vector & 0x4000 == 0 => 14,
                _ => 7,
            };
        }
        self.symbols -= 1;
        Some(match self.chunk {
            run if run & 0x8000 == 0 => run >> 13 & 3,
            vector if vector & 0x4000 == 0 => vector >> self.symbols & 1,
            vector => vector >> (2 * self.symbols) & 3,
        })
    }
}

impl Iterator for Feedback<'_> {
    /// Sequence number; microseconds on a clock of the peer's, if it arrived.
    type Item = (u16, Option<i64>);

    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let seq = self.seq;
        self.seq = seq.wrapping_add(1);
        let (delta, length) = match self.symbol()? {
            1 => (i64::from(*self.deltas.first()?), 1),
            2 => (i64::from(u16_at(self.deltas, 0)? as i16), 2),
            _ => return Some((seq, None)),
        };
        self.deltas = &self.deltas[length..];
        self.clock += delta * DELTA_UNIT;
        Some((seq, Some(self.clock)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(recorder: &mut Recorder) -> Vec<(u16, Option<i64>)> {
        let mut all = Vec::new();
        recorder.drain(|body| all.extend(Feedback::parse(body).unwrap()));
        all
    }

    #[test]
    fn arrivals_and_gaps_are_reported_across_the_wrap() {
        let mut recorder = Recorder::default();
        for (seq, at) in [(65_534, 1_000_000), (65_535, 1_000_500), (1, 1_200_000), (2, 1_199_000)] {
            recorder.record(seq, Time::from_micros(at));
        }
        let expected = [
            (65_534, Some(1_000_000)),
            (65_535, Some(1_000_500)),
            (0, None),
            (1, Some(1_200_000)),
            (2, Some(1_199_000)),
        ];
        assert_eq!(drain(&mut recorder), expected);
        recorder.record(5, Time::from_micros(1_300_000));
        assert_eq!(drain(&mut recorder), [(3, None), (4, None), (5, Some(1_300_000))], "goes on where it stopped");
    }

    #[test]
    fn a_late_packet_is_reported_from_its_place_on() {
        let mut recorder = Recorder::default();
        recorder.record(10, Time::from_micros(0));
        recorder.record(12, Time::from_micros(250));
        drain(&mut recorder);
        recorder.record(11, Time::from_micros(500));
        assert_eq!(drain(&mut recorder), [(11, Some(500))]);
    }

    #[test]
    fn long_runs_and_pauses_split_into_several_feedbacks() {
        let mut recorder = Recorder::default();
        for seq in 0..1000u16 {
            recorder.record(seq, Time::from_micros(u64::from(seq) * 1000));
        }
        recorder.record(1000, Time::from_micros(60_000_000));
        let all = drain(&mut recorder);
        assert_eq!(all.len(), 1001);
        assert!(all.iter().enumerate().all(|(n, (seq, at))| usize::from(*seq) == n && at.is_some()));
    }

    #[test]
    fn hostile_sequence_numbers_cost_a_bounded_report() {
        let mut recorder = Recorder::default();
        for n in 0..100_000u64 {
            recorder.record((n * 30_011) as u16, Time::from_micros(n));
        }
        let mut bytes = 0;
        recorder.drain(|body| bytes += body.len());
        assert!(bytes <= MAX_FEEDBACKS * 1200);
    }

    #[test]
    fn short_vectors_of_one_bit_are_read() {
        let body = [0, 9, 0, 5, 0, 0, 1, 0, 0xa8 | 0x80, 0, 4, 8, 12];
        let read: Vec<_> = Feedback::parse(&body).unwrap().collect();
        assert_eq!(read, [(9, Some(65_000)), (10, None), (11, Some(67_000)), (12, None), (13, None)]);
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_peer_reports_is_bounded_by_its_count(body in proptest::collection::vec(0u8.., 0..200)) {
            if let Some(feedback) = Feedback::parse(&body) {
                proptest::prop_assert!(feedback.count() <= usize::from(u16::MAX));
            }
        }
    }
}
