//! Transport-wide congestion control: arrivals in, feedback bodies out (draft-holmer-rmcat-transport-wide-cc-extensions-01).

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

/// Reads a feedback body: (sequence number, arrival in microseconds if it arrived); for tests.
#[cfg(test)]
pub(crate) fn read(body: &[u8]) -> Vec<(u16, Option<u64>)> {
    let word = |at: usize| u16::from_be_bytes([body[at], body[at + 1]]);
    let (base, count) = (word(0), usize::from(word(2)));
    let mut clock = i64::from(u32::from_be_bytes([0, body[4], body[5], body[6]])) * REFERENCE_UNIT as i64;
    let (mut at, mut statuses) = (8, Vec::new());
    while statuses.len() < count {
        let chunk = word(at);
        at += 2;
        if chunk & 0x8000 == 0 {
            statuses.extend(std::iter::repeat_n(chunk >> 13 & 3, usize::from(chunk & 0x1fff)));
        } else {
            assert_eq!(chunk & 0x4000, 0x4000, "two-bit vectors only");
            statuses.extend((0..7).map(|n| chunk >> (12 - 2 * n) & 3));
        }
    }
    statuses.truncate(count);
    let mut read = Vec::new();
    for (n, status) in statuses.into_iter().enumerate() {
        let seq = base.wrapping_add(n as u16);
        let delta = match status {
            0 => None,
            1 => {
                at += 1;
                Some(i64::from(body[at - 1]))
            }
            _ => {
                at += 2;
                Some(i64::from(word(at - 2) as i16))
            }
        };
        read.push((
            seq,
            delta.map(|delta| {
                clock += delta * DELTA_UNIT;
                clock as u64
            }),
        ));
    }
    read
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(recorder: &mut Recorder) -> Vec<(u16, Option<u64>)> {
        let mut all = Vec::new();
        recorder.drain(|body| all.extend(read(body)));
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
}
