//! The controlling ICE agent of a leg that dials: checks towards an ICE-lite peer, nomination, consent (RFC 8445, RFC 7675).

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

use crate::proto::stun::{Answer, Check, Password, TransactionId};
use crate::time::{MILLISECOND, SECOND, Time};

/// Most addresses of one peer that are tried, whatever it lists.
pub const MAX_CANDIDATES: usize = 8;
/// Least time between two checks (RFC 8445, section 14.2).
const PACE: u64 = 50 * MILLISECOND;
/// Time until a check of one address is repeated; it doubles with each.
const FIRST_REPEAT: u64 = 100 * MILLISECOND;
/// ... up to this.
const MAX_REPEAT: u64 = 800 * MILLISECOND;
/// Without an answered nomination for this long, the peer cannot be reached.
const PATIENCE: u64 = 10 * SECOND;
/// Consent is asked for this often (RFC 7675, section 5.1), and up to `CONSENT_SPREAD` later.
const CONSENT_CHECKS: u64 = 4 * SECOND;
const CONSENT_SPREAD: u64 = SECOND;
/// An answer that takes longer is not waited for.
const MAX_ROUND_TRIP: u64 = 10 * SECOND;

/// An address that is tried.
#[derive(Debug)]
struct Candidate {
    address: SocketAddr,
    due: Time,
    repeat: u64,
}

/// A check that may still be answered.
#[derive(Debug)]
struct Asked {
    id: TransactionId,
    peer: SocketAddr,
    nominates: bool,
    sent: Time,
}

/// How far the agent is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Looks for an address that answers.
    Checking,
    /// This one answered: the peer is to use it.
    Nominating,
    /// The nomination was answered.
    Connected(SocketAddr),
    /// Nothing answered in time, or the peer is gone.
    Over,
}

/// What the agent does now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// It waits.
    Nothing,
    /// It sends a check there.
    Check(SocketAddr),
    /// It gives up; told once.
    Failed,
}

/// What an answer was worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answered {
    /// It belongs to no question, comes from elsewhere, or is forged.
    Refused,
    /// It is right.
    Taken {
        /// Microseconds since the question.
        round_trip: u64,
        /// It completes the nomination.
        connected: bool,
    },
}

/// The agent's state.
#[derive(Debug)]
pub struct Dial {
    /// The leg's own socket.
    pub socket: usize,
    username: String,
    password: Password,
    tie_breaker: u64,
    phase: Phase,
    candidates: Vec<Candidate>,
    asked: VecDeque<Asked>,
    started: Time,
    next: Time,
}

impl Dial {
    /// An agent that begins now. Of the candidates the first `MAX_CANDIDATES` that one may send to count.
    pub fn new(
        socket: usize,
        (local_ufrag, ufrag, pwd): (&str, &str, &str),
        candidates: &[SocketAddr],
        tie_breaker: u64,
        now: Time,
    ) -> Self {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for address in candidates.iter().map(|address| SocketAddr::new(address.ip().to_canonical(), address.port())) {
            if addresses.len() < MAX_CANDIDATES && is_unicast(address) && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        let candidate = |address| Candidate { address, due: now, repeat: FIRST_REPEAT };
        Self {
            socket,
            username: format!("{ufrag}:{local_ufrag}"),
            password: Password::new(pwd),
            tie_breaker,
            phase: Phase::Checking,
            candidates: addresses.into_iter().map(candidate).collect(),
            asked: VecDeque::new(),
            started: now,
            next: now,
        }
    }

    /// It looks for the peer, rather than only keeping its consent.
    pub fn is_busy(&self) -> bool {
        matches!(self.phase, Phase::Checking | Phase::Nominating)
    }

    /// What is to be done now; the time of the next check counts from here.
    pub fn due(&mut self, now: Time, random: u64) -> Due {
        if matches!(self.phase, Phase::Checking | Phase::Nominating)
            && (self.candidates.is_empty() || now.since(self.started) >= PATIENCE)
        {
            self.end();
            return Due::Failed;
        }
        if now < self.next {
            return Due::Nothing;
        }
        match self.phase {
            Phase::Over => Due::Nothing,
            Phase::Connected(peer) => {
                self.next = now + CONSENT_CHECKS + random % CONSENT_SPREAD;
                Due::Check(peer)
            }
            Phase::Checking | Phase::Nominating => {
                let ready = self.candidates.iter_mut().filter(|candidate| candidate.due <= now);
                let Some(candidate) = ready.min_by_key(|candidate| candidate.due) else {
                    return Due::Nothing;
                };
                self.next = now + PACE;
                candidate.due = now + candidate.repeat;
                candidate.repeat = (2 * candidate.repeat).min(MAX_REPEAT);
                Due::Check(candidate.address)
            }
        }
    }

    /// Appends a check to `peer`, whose answer will be known by `id`.
    ///
    /// Consent checks nominate as well: a peer that sees this side at another address, behind a NAT, follows it there.
    pub fn write_check(&mut self, now: Time, peer: SocketAddr, id: TransactionId, out: &mut Vec<u8>) {
        let nominates = self.phase != Phase::Checking;
        let check = Check { id, username: &self.username, nominates, controlling: true, tie_breaker: self.tie_breaker };
        check.write(&self.password, out);
        self.asked.retain(|asked| now.since(asked.sent) < MAX_ROUND_TRIP);
        self.asked.push_back(Asked { id, peer, nominates, sent: now });
    }

    /// Takes the answer to a check. Only what this peer made for a question that went to this very address counts.
    pub fn on_answer(&mut self, now: Time, from: SocketAddr, answer: &Answer<'_>) -> Answered {
        let place = self.asked.iter().position(|asked| asked.id == answer.id && asked.peer == from);
        let Some(asked) = place.filter(|_| answer.verify(&self.password)).and_then(|place| self.asked.remove(place))
        else {
            return Answered::Refused;
        };
        let mut connected = false;
        match self.phase {
            Phase::Checking => {
                self.phase = Phase::Nominating;
                self.candidates.retain(|candidate| candidate.address == from);
                self.candidates.iter_mut().for_each(|it| (it.due, it.repeat) = (now, FIRST_REPEAT));
            }
            Phase::Nominating if asked.nominates => {
                self.phase = Phase::Connected(from);
                self.next = now + CONSENT_CHECKS;
                connected = true;
            }
            Phase::Nominating | Phase::Connected(_) | Phase::Over => {}
        }
        Answered::Taken { round_trip: now.since(asked.sent), connected }
    }

    /// Sends nothing more: the peer is gone.
    pub fn end(&mut self) {
        self.phase = Phase::Over;
        self.asked.clear();
    }
}

/// One may send there at all. Which networks a peer may name is the control plane's to say.
fn is_unicast(address: SocketAddr) -> bool {
    let ip = address.ip();
    let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !broadcast
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::stun::Request;

    fn at(millis: u64) -> Time {
        Time::from_micros(millis * MILLISECOND)
    }

    fn address(host: u8) -> SocketAddr {
        ([192, 0, 2, host], 5000).into()
    }

    fn dial(candidates: &[SocketAddr]) -> Dial {
        Dial::new(1, ("here", "there", "password"), candidates, 7, at(0))
    }

    /// Sends a check and answers it as the peer would.
    fn exchange(dial: &mut Dial, now: Time, peer: SocketAddr, id: u8) -> Answered {
        let asked = check(dial, now, peer, id);
        answer(dial, now, peer, asked)
    }

    fn check(dial: &mut Dial, now: Time, peer: SocketAddr, id: u8) -> Vec<u8> {
        let mut out = Vec::new();
        dial.write_check(now, peer, [id; 12], &mut out);
        out
    }

    fn answer(dial: &mut Dial, now: Time, from: SocketAddr, check: Vec<u8>) -> Answered {
        let mut out = Vec::new();
        Request::parse(&check).unwrap().write_success(address(99), &Password::new("password"), &mut out);
        dial.on_answer(now, from, &Answer::parse(&out).unwrap())
    }

    #[test]
    fn checks_are_paced_over_eight_addresses_at_most_and_end_after_ten_seconds() {
        let list: Vec<_> = (1..100).map(address).collect();
        let mut dial = dial(&list);
        let mut sent = Vec::new();
        let mut failed = Vec::new();
        for millis in 0..20_000 {
            match dial.due(at(millis), 0) {
                Due::Check(peer) => sent.push((millis, peer)),
                Due::Failed => failed.push(millis),
                Due::Nothing => {}
            }
        }
        assert_eq!(failed, [10_000], "told once");
        assert!(sent.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 50));
        assert_eq!(sent[..8].iter().map(|(_, peer)| *peer).collect::<Vec<_>>(), list[..8]);
        let to_first = sent.iter().filter(|(_, peer)| *peer == list[0]).count();
        assert!((14..=15).contains(&to_first), "{to_first} checks of one address");
        assert!(sent.len() <= 8 * 15);
    }

    #[test]
    fn addresses_that_nobody_has_are_not_tried_and_none_at_all_fail_at_once() {
        let none =
            ["0.0.0.0:5", "224.0.0.1:5", "255.255.255.255:5", "[ff02::1]:5", "192.0.2.1:0", "[::ffff:0.0.0.0]:5"];
        let mut dial = dial(&none.map(|text| text.parse().unwrap()));
        assert_eq!(dial.due(at(0), 0), Due::Failed);
        assert_eq!(dial.due(at(1), 0), Due::Nothing);
    }

    #[test]
    fn the_first_that_answers_is_nominated_and_then_asked_for_its_consent() {
        let mut dial = dial(&[address(1), address(2)]);
        assert_eq!(dial.due(at(0), 0), Due::Check(address(1)));
        let unanswered = check(&mut dial, at(0), address(1), 1);
        assert!(!Request::parse(&unanswered).unwrap().use_candidate);
        assert_eq!(dial.due(at(50), 0), Due::Check(address(2)));
        let taken = exchange(&mut dial, at(50), address(2), 2);
        assert_eq!(taken, Answered::Taken { round_trip: 0, connected: false });
        assert_eq!(dial.due(at(60), 0), Due::Nothing, "nominations are paced too");
        assert_eq!(dial.due(at(100), 0), Due::Check(address(2)));
        let lost = check(&mut dial, at(100), address(2), 3);
        assert!(Request::parse(&lost).unwrap().use_candidate);
        assert!(matches!(answer(&mut dial, at(110), address(1), unanswered), Answered::Taken { connected: false, .. }));
        assert_eq!(dial.due(at(200), 0), Due::Check(address(2)), "a lost nomination is repeated");
        let taken = exchange(&mut dial, at(200), address(2), 4);
        assert_eq!(taken, Answered::Taken { round_trip: 0, connected: true });
        assert_eq!(dial.due(at(4199), 0), Due::Nothing);
        assert_eq!(dial.due(at(4200), SECOND - 1), Due::Check(address(2)));
        assert_eq!(dial.due(at(9199), 0), Due::Nothing);
        assert_eq!(dial.due(at(9200), 0), Due::Check(address(2)));
        dial.end();
        assert_eq!(dial.due(at(90_000), 0), Due::Nothing);
    }

    #[test]
    fn answers_that_were_forged_replayed_or_come_from_elsewhere_count_nothing() {
        let mut dial = dial(&[address(1)]);
        let asked = check(&mut dial, at(0), address(1), 1);
        assert_eq!(answer(&mut dial, at(1), address(2), asked.clone()), Answered::Refused, "from elsewhere");
        let mut forged = Vec::new();
        let request = Request::parse(&asked).unwrap();
        request.write_success(address(9), &Password::new("guessed"), &mut forged);
        assert_eq!(dial.on_answer(at(1), address(1), &Answer::parse(&forged).unwrap()), Answered::Refused);
        assert!(matches!(answer(&mut dial, at(2), address(1), asked.clone()), Answered::Taken { .. }));
        assert_eq!(answer(&mut dial, at(3), address(1), asked), Answered::Refused, "replayed");
        let mut other = Dial::new(2, ("here", "there", "password"), &[address(1)], 7, at(0));
        let never_asked = check(&mut other, at(3), address(1), 9);
        assert_eq!(answer(&mut dial, at(4), address(1), never_asked), Answered::Refused);
    }
}
