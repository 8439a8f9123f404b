//! Two engines, `NEAR` and `FAR`, their people, and a network that delays and loses, in one thread under a fake clock.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::people::{Ear, Person};
use crate::engine::outbox::Path;
use crate::engine::plan::{Kind, LegId, Line, Payload, Plan, Receive, Transmit};
use crate::engine::{Command, Engine, Event};
use crate::proto::rtp::Header;
use crate::route::layers::Size;
use crate::srtp::{Master, Profile};
use crate::time::{MILLISECOND, Time, WallClock};

/// The focus that dials.
pub const NEAR: usize = 0;
/// The focus that is called.
pub const FAR: usize = 1;
/// The trunk's leg, in both.
pub const TRUNK: LegId = 100;
/// The near engine's socket for the trunk, by its place.
pub const DIALLED: usize = 7;
pub const VP8: u8 = 96;
pub const RTX: u8 = 97;
pub const OPUS: u8 = 111;
pub const FIRST_SSRC: u32 = 5000;

const STEP: u64 = 5 * MILLISECOND;
const DELAY: u64 = 5 * MILLISECOND;
const GROUP: u64 = 1;

/// A datagram on its way.
#[derive(Clone, Debug)]
pub struct Flying {
    pub at: Time,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

pub struct World {
    pub now: Time,
    pub foci: [Engine; 2],
    pub people: Vec<Person>,
    /// What happened in each focus, without DTLS.
    pub events: [Vec<Event>; 2],
    pub dtls: [Vec<Vec<u8>>; 2],
    /// Every datagram that was sent, lost ones included.
    pub sent: Vec<Flying>,
    /// Decides which datagrams are lost.
    pub loses: Box<dyn FnMut(&Flying) -> bool>,
    /// Where the near engine's trunk socket is seen.
    pub dialled_from: SocketAddr,
    flying: VecDeque<Flying>,
}

pub fn address(side: usize, socket: usize) -> SocketAddr {
    ([10, 0, 0, 1 + side as u8], 1000 + socket as u16).into()
}

/// The master that protects from one side of a leg.
pub fn master(leg: LegId, from_focus: bool) -> Master {
    let byte = leg as u8 ^ if from_focus { 0x80 } else { 0 };
    Master { key: vec![byte; 16], salt: vec![byte; 12] }
}

pub fn keys(leg: LegId, local: Master, remote: Master) -> Command {
    Command::SetKeys { leg, profile: Profile::AeadAes128Gcm, local, remote }
}

pub fn plan(lines: Vec<Line>) -> Plan {
    let payload = |pt, codec: &str, clock_rate, apt| Payload { pt, codec: codec.into(), clock_rate, apt };
    let extension = |name: &str, id| (name.to_owned(), id);
    Plan {
        payloads: vec![
            payload(VP8, "VP8", 90_000, None),
            payload(RTX, "rtx", 90_000, Some(VP8)),
            payload(OPUS, "opus", 48_000, None),
        ],
        extensions: vec![
            extension("urn:ietf:params:rtp-hdrext:sdes:mid", 1),
            extension("urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id", 2),
            extension("urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id", 3),
            extension("http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time", 4),
        ],
        lines,
    }
}

pub fn receives(mid: &str, rids: &[&str]) -> Line {
    let receive = Receive { rids: rids.iter().map(|rid| (*rid).to_owned()).collect(), ssrcs: Vec::new() };
    Line { mid: mid.into(), kind: Kind::Video, receive: Some(receive), send: Vec::new() }
}

/// A line that sends: without rids one stream, else a simulcast whose ssrcs count up from `ssrc`, repairs 100 above.
pub fn sends(mid: &str, ssrc: u32, rids: &[&str]) -> Line {
    let transmit = |ssrc: u32, rid: Option<&str>| Transmit {
        ssrc,
        rtx: Some((ssrc + 100, RTX)),
        pt: VP8,
        red: None,
        cname: "focus".into(),
        rid: rid.map(str::to_owned),
    };
    let layers = rids.iter().zip(ssrc..).map(|(rid, ssrc)| transmit(ssrc, Some(rid)));
    let send = if rids.is_empty() { vec![transmit(ssrc, None)] } else { layers.collect() };
    Line { mid: mid.into(), kind: Kind::Video, receive: None, send }
}

impl World {
    pub fn new() -> Self {
        let engine = |seed| Engine::new(WallClock::new(seed << 40), seed);
        Self {
            now: Time::from_micros(1_000_000),
            foci: [engine(1), engine(2)],
            people: Vec::new(),
            events: [Vec::new(), Vec::new()],
            dtls: [Vec::new(), Vec::new()],
            sent: Vec::new(),
            loses: Box::new(|_| false),
            dialled_from: address(NEAR, DIALLED),
            flying: VecDeque::new(),
        }
    }

    pub fn command(&mut self, side: usize, command: Command) {
        self.foci[side].command(self.now, command);
    }

    pub fn add_leg(&mut self, side: usize, leg: LegId) {
        self.command(side, Command::AddLeg { leg, ufrag: format!("ufrag{leg}"), pwd: format!("password{leg}") });
        self.command(side, Command::SetGroup { leg, group: GROUP });
    }

    pub fn set_plan(&mut self, side: usize, leg: LegId, lines: Vec<Line>) {
        self.command(side, Command::SetPlan { leg, plan: plan(lines) });
    }

    /// Somebody joins; gives their place in `people`.
    pub fn join(&mut self, side: usize, leg: LegId, lines: Vec<Line>) -> usize {
        self.add_leg(side, leg);
        self.command(side, keys(leg, master(leg, true), master(leg, false)));
        self.set_plan(side, leg, lines);
        self.people.push(Person::new(side, leg));
        self.people.len() - 1
    }

    pub fn connect(&mut self, candidates: Vec<SocketAddr>) {
        let (ufrag, pwd) = (format!("ufrag{TRUNK}"), format!("password{TRUNK}"));
        self.command(NEAR, Command::Connect { leg: TRUNK, socket: DIALLED, ufrag, pwd, candidates });
    }

    /// Near dials far; the trunk has keys and a group when this returns, and is connected.
    pub fn dial(&mut self) {
        for side in [NEAR, FAR] {
            self.add_leg(side, TRUNK);
            self.command(side, keys(TRUNK, master(TRUNK, side == NEAR), master(TRUNK, side == FAR)));
        }
        self.connect(vec![address(FAR, 0)]);
        self.run(300);
    }

    pub fn forward(&mut self, side: usize, to: (LegId, &str), from: (LegId, &str), sizes: &[Option<Size>]) {
        let ((leg, mid), (source_leg, source_mid)) = ((to.0, to.1.into()), (from.0, from.1.into()));
        self.command(side, Command::Forward { leg, mid, source_leg, source_mid, sizes: sizes.to_vec() });
    }

    /// Lets so many milliseconds pass.
    pub fn run(&mut self, millis: u64) {
        let end = self.now + millis * MILLISECOND;
        while self.now < end {
            self.now = self.now + STEP;
            for n in 0..self.people.len() {
                for bytes in self.people[n].act(self.now) {
                    let (from, to) = (self.people[n].address, address(self.people[n].side, 0));
                    self.fly(from, to, bytes);
                }
            }
            while self.flying.front().is_some_and(|flying| flying.at <= self.now) {
                let flying = self.flying.pop_front().unwrap();
                self.arrive(flying);
            }
            for side in [NEAR, FAR] {
                if self.foci[side].deadline().is_some_and(|deadline| deadline <= self.now) {
                    self.foci[side].tick(self.now);
                }
                self.drain(side);
            }
        }
    }

    /// Puts a datagram on the wire.
    pub fn fly(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let flying = Flying { at: self.now + DELAY, from, to, bytes };
        self.sent.push(flying.clone());
        if !(self.loses)(&flying) {
            self.flying.push_back(flying);
        }
    }

    fn arrive(&mut self, mut flying: Flying) {
        let now = self.now;
        let place = |to: SocketAddr| [NEAR, FAR].into_iter().find(|side| to == address(*side, 0)).map(|side| (side, 0));
        let place = place(flying.to).or((flying.to == self.dialled_from).then_some((NEAR, DIALLED)));
        if let Some((side, socket)) = place {
            self.foci[side].datagram(now, Path { socket, peer: flying.from }, &mut flying.bytes);
            self.drain(side);
        } else if let Some(person) = self.people.iter_mut().find(|person| person.address == flying.to) {
            person.take(now, &mut flying.bytes);
        }
    }

    fn drain(&mut self, side: usize) {
        self.foci[side].finish(self.now);
        let outgoing: Vec<_> = self.foci[side].outbox.iter().map(|(path, bytes)| (path, bytes.to_vec())).collect();
        self.foci[side].outbox.clear();
        for (path, bytes) in outgoing {
            let from = if path.socket == DIALLED { self.dialled_from } else { address(side, path.socket) };
            self.fly(from, path.peer, bytes);
        }
        for event in self.foci[side].take_events() {
            match event {
                Event::Dtls(_, datagram) => self.dtls[side].push(datagram),
                event => self.events[side].push(event),
            }
        }
    }

    /// What went from near to far over the trunk since place `since` in `sent`: datagrams that are RTP, by their headers.
    pub fn crossings(&self, since: usize) -> Vec<(&Flying, Header)> {
        let near = self.sent[since..].iter().filter(|flying| flying.from == self.dialled_from && is_rtp(&flying.bytes));
        near.map(|flying| (flying, Header::parse(&flying.bytes).unwrap())).collect()
    }

    /// Who overhears the trunk.
    pub fn ear() -> Ear {
        Ear::new(&master(TRUNK, true))
    }
}

pub fn is_rtp(bytes: &[u8]) -> bool {
    matches!(bytes, [128..=191, second, ..] if !(192..=223).contains(second))
}

pub fn is_stun(bytes: &[u8]) -> bool {
    matches!(bytes, [0..=3, ..])
}
