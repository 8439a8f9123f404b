//! When what is due waits a moment, so that packets of several publishers to one subscriber share a send: only in a thread that
//! has much to do anyway.

use crate::time::{MILLISECOND, Time};

/// How long packets wait at most; waking up takes up to 50 microseconds more, which makes 0.3 ms.
pub const LONGEST: u64 = 250;
/// Over which time the load is measured.
const SPAN: u64 = MILLISECOND;
/// Percent of it that a thread works when it begins to hold packets, and below which it ceases.
const BUSY: (u64, u64) = (60, 40);

/// How much a thread works, and since when it holds something.
#[derive(Debug, Default)]
pub struct Hold {
    span: Time,
    slept: u64,
    busy: bool,
    since: Option<Time>,
}

impl Hold {
    /// Takes note of having waited for work from one time to the other.
    pub fn on_wait(&mut self, from: Time, to: Time) {
        self.slept += to.since(from);
        let span = to.since(self.span);
        if span >= SPAN {
            let worked = 100 - (100 * self.slept / span).min(100);
            self.busy = worked >= if self.busy { BUSY.1 } else { BUSY.0 };
            self.span = to;
            self.slept = 0;
        }
    }

    /// Whether what is due now, or since this was first asked, waits for more.
    pub fn waits(&mut self, now: Time) -> bool {
        let since = *self.since.get_or_insert(now);
        self.busy && now.since(since) < LONGEST
    }

    /// When what is held is to be sent, if anything is.
    pub fn deadline(&self) -> Option<Time> {
        self.since.map(|since| since + LONGEST)
    }

    /// All was sent.
    pub fn end(&mut self) {
        self.since = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Time {
        Time::from_micros(micros)
    }

    /// Lets a thread work for so much of each of a few milliseconds.
    fn work(hold: &mut Hold, from: u64, micros: u64) -> u64 {
        for n in 0..3 {
            let start = from + 1000 * n;
            hold.on_wait(at(start + micros), at(start + 1000));
        }
        from + 3000
    }

    #[test]
    fn an_idle_thread_holds_nothing() {
        let mut hold = Hold::default();
        let now = work(&mut hold, 0, 500);
        assert!(!hold.waits(at(now)));
        hold.end();
        assert_eq!(hold.deadline(), None);
    }

    #[test]
    fn a_busy_thread_holds_packets_for_a_quarter_of_a_millisecond_until_it_is_no_longer_busy() {
        let mut hold = Hold::default();
        let now = work(&mut hold, 0, 700);
        assert!(hold.waits(at(now)));
        assert!(hold.waits(at(now + 249)), "and what comes meanwhile");
        assert_eq!(hold.deadline(), Some(at(now + 250)));
        assert!(!hold.waits(at(now + 250)));
        hold.end();
        assert!(hold.waits(at(now + 260)), "again, from the next on");
        hold.end();
        let now = work(&mut hold, now, 500);
        assert!(hold.waits(at(now)), "sends are cheaper while it does");
        hold.end();
        let now = work(&mut hold, now, 300);
        assert!(!hold.waits(at(now)));
    }
}
