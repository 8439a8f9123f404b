//! The sans-IO engine of the media core: told the time, datagrams and commands, it gives datagrams and events.
//!
//! No clock, no sockets, no locks. The caller hands in a batch of datagrams, calls [`Engine::finish`], sends what is in
//! [`Engine::outbox`], takes [`Engine::take_events`], and calls [`Engine::tick`] at [`Engine::deadline`].
//!
//! With several media threads each has an engine of its own; what they have to tell each other is in [`crossing`], which the
//! caller carries from one to the other ([`Engine::crossing`], [`Engine::arrive`]).

mod control;
pub mod counters;
pub mod crossing;
mod dial;
mod elsewhere;
mod feedback;
mod ice;
mod inbound;
mod incoming;
mod leg;
mod observed;
mod outbound;
pub mod outbox;
mod outgoing;
pub mod plan;
mod selection;
mod sharing;
#[cfg(test)]
mod tests;
mod voices;

use std::collections::{HashMap, VecDeque};
use std::mem;
use std::net::SocketAddr;
use std::sync::Arc;

use slab::Slab;

use counters::{Counters, Measured};
use crossing::{Crossing, Note, Seat};
use dial::{Answered, Dial, Due};
use elsewhere::Stray;
use ice::Latch;
use leg::Leg;
pub(crate) use leg::place;
use outbox::{Outbox, Path};
pub use plan::Command;
use plan::{GroupId, LegId};

use crate::proto::demux::{Class, classify};
use crate::proto::stun::{Answer, Password, Request};
use crate::route::packet::Packet;
use crate::route::speaker::Speakers;
use crate::route::voices::Voices;
use crate::time::{MILLISECOND, Time, WallClock};

/// How often periodic work is looked at while something waits that is worth it: NACKs, key-frame requests, dialling.
const TICK: u64 = 10 * MILLISECOND;
/// ... and else: feedback, selection, reports, consent.
const CALM_TICK: u64 = 50 * MILLISECOND;
/// Whoever is awake anyway looks already after this long: waking up for it alone costs more.
const EARLY_TICK: u64 = 30 * MILLISECOND;
/// A published track without a packet for this long does not flow: it may be had from elsewhere.
const SILENCE: u64 = 500 * MILLISECOND;
/// Larger datagrams are not looked at.
pub const MAX_DATAGRAM: usize = 2048;

/// What the control plane is told.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// An authenticated nomination, the peer's or an answered one of ours, latched the leg's first address.
    IceConnected(LegId),
    /// No address of the peer that the leg dials answered in time.
    IceFailed(LegId),
    /// The peer stopped proving its consent.
    IceLost(LegId),
    /// A DTLS datagram from the latched address.
    Dtls(LegId, Vec<u8>),
    /// The line of the group's new dominant speaker.
    Speaker(LegId, String),
    /// Whether what is sent on this line is held back because the link of its leg does not carry it.
    Suspended(LegId, String, bool),
    /// Whether media flows on this published line: it began, or paused.
    Flow(LegId, String, bool),
}

/// The media core's state and rules.
pub struct Engine {
    wall: WallClock,
    random: u64,
    legs: Slab<Leg>,
    by_id: HashMap<LegId, usize>,
    by_ufrag: HashMap<String, usize>,
    by_path: HashMap<Path, usize>,
    by_socket: HashMap<usize, usize>, // sockets of legs that dial
    released: Vec<usize>,
    seat: Seat,
    crossings: Vec<Crossing>, // what waits for each of the engines
    strays: HashMap<Path, Stray>,
    levels_told: Time,
    speakers: HashMap<GroupId, Speakers<(usize, usize)>>,
    loudest: usize, // voices of a group that are passed on; 0: all
    voices: HashMap<GroupId, Voices<(usize, usize)>>,
    events: VecDeque<Event>,
    ticked: Time,
    urgent: bool, // the next tick is worth having soon
    scratch: Vec<u8>,
    batch: Vec<Arc<Packet>>, // what came and is not written to all subscribers yet
    touched: Vec<usize>,     // legs to which something is due
    sizes: Vec<usize>,
    spare: Vec<Arc<Packet>>, // memory of packets that nobody needs any more
    spare_payloads: Vec<Vec<u8>>,
    /// Packets that got their place in a subscriber's stream, one for each subscriber.
    pub placed: u64,
    /// When the kernel received what is handed in now, in the caller's own terms: packets take it along to other engines.
    pub received: Option<u64>,
    /// Datagrams to send, in order.
    pub outbox: Outbox,
    /// What was counted.
    pub counters: Counters,
    /// What was measured besides.
    pub measured: Measured,
}

impl Engine {
    /// An engine without legs. `seed` should be unpredictable: ssrcs and first sequence numbers come from it.
    pub fn new(wall: WallClock, seed: u64) -> Self {
        Self {
            wall,
            random: seed,
            legs: Slab::new(),
            by_id: HashMap::new(),
            by_ufrag: HashMap::new(),
            by_path: HashMap::new(),
            by_socket: HashMap::new(),
            released: Vec::new(),
            seat: Seat::ALONE,
            crossings: Vec::new(),
            strays: HashMap::new(),
            levels_told: Time::default(),
            speakers: HashMap::new(),
            loudest: 0,
            voices: HashMap::new(),
            events: VecDeque::new(),
            ticked: Time::default(),
            urgent: false,
            scratch: Vec::new(),
            batch: Vec::new(),
            touched: Vec::new(),
            sizes: Vec::new(),
            spare: Vec::new(),
            spare_payloads: Vec::new(),
            placed: 0,
            received: None,
            outbox: Outbox::default(),
            counters: Counters::default(),
            measured: Measured::default(),
        }
    }

    /// What happened since the last call.
    pub fn take_events(&mut self) -> VecDeque<Event> {
        mem::take(&mut self.events)
    }

    /// Sockets of `Command::Connect` that no leg uses any more, once what waits in the outbox is sent.
    pub fn take_released(&mut self) -> Vec<usize> {
        mem::take(&mut self.released)
    }

    /// When `tick` is to be called next; `None` while there is nothing to do.
    pub fn deadline(&self) -> Option<Time> {
        (!self.legs.is_empty()).then(|| self.ticked + if self.urgent { TICK } else { CALM_TICK })
    }

    /// Whether `tick` is to be called now by somebody who is awake.
    pub fn is_due(&self, now: Time) -> bool {
        let wait = if self.urgent { TICK } else { EARLY_TICK };
        !self.legs.is_empty() && now >= self.ticked + wait
    }

    /// Takes a datagram, decrypting it in place.
    pub fn datagram(&mut self, now: Time, path: Path, datagram: &mut [u8]) {
        let class = if datagram.len() <= MAX_DATAGRAM { classify(datagram) } else { Class::Other };
        match class {
            Class::Stun => match self.by_socket.get(&path.socket) {
                Some(&leg) => self.on_answer(now, leg, path, datagram),
                None => self.on_stun(now, path, datagram),
            },
            Class::Other => self.counters.dropped_unknown_protocol += 1,
            class => match (self.by_path.get(&path).copied(), class) {
                (None, _) => self.hand_over(path, datagram),
                (Some(leg), Class::Dtls) => self.on_dtls(now, leg, datagram),
                (Some(leg), Class::Rtcp) => self.on_rtcp(now, leg, datagram),
                (Some(leg), _) => self.on_rtp(now, leg, datagram),
            },
        }
    }

    /// Does what is due: feedback, reports, repairs, key frames, selection, consent, speakers.
    pub fn tick(&mut self, now: Time) {
        self.finish(now);
        self.ticked = now;
        self.urgent = false;
        for key in 0..self.legs.capacity() {
            if !self.legs.contains(key) {
                continue;
            }
            if let Some(host) = self.host_of(key) {
                self.tick_elsewhere(now, key, host);
                continue;
            }
            if let Some(path) = self.legs[key].ice.expire(now) {
                self.by_path.remove(&path);
                self.counters.ice_lost += 1;
                let leg = &mut self.legs[key];
                self.events.push_back(Event::IceLost(leg.id));
                leg.dial.iter_mut().for_each(Dial::end);
            }
            self.check_connectivity(now, key);
            self.watch_flow(now, key);
            if now >= self.legs[key].timers.selection {
                self.legs[key].timers.selection = now + selection::INTERVAL;
                self.select_all(now, key);
            }
            if now >= self.legs[key].timers.sharing {
                self.legs[key].timers.sharing = now + sharing::INTERVAL;
                self.share_link(now, key);
            }
            let padding = self.legs[key].bandwidth.probe_due(now);
            if padding > 0 {
                self.pad(now, key, padding);
            }
            self.urgent |= self.legs[key].bandwidth.probes(now);
            self.send_feedback(now, key);
        }
        if self.seat != Seat::ALONE {
            self.tick_seat(now);
        }
        for (group, speakers) in &mut self.speakers {
            // Every engine hears all voices; one of them tells.
            if let Some((leg, track)) = speakers.compare(now)
                && group % self.seat.count as u64 == self.seat.index as u64
                && let Some(leg) = self.legs.get(leg)
                && let Some(Some(track)) = leg.tracks.get(track)
            {
                self.counters.speaker_changes += 1;
                self.events.push_back(Event::Speaker(leg.id, track.mid.clone()));
            }
        }
    }

    /// RFC 8445, section 7.3: answers an authenticated binding request. All else is dropped without a word.
    fn on_stun(&mut self, now: Time, path: Path, datagram: &[u8]) {
        let Ok(request) = Request::parse(datagram) else {
            self.counters.stun_rejected += 1;
            return;
        };
        let Some(&key) = self.by_ufrag.get(request.local_ufrag) else {
            self.counters.stun_rejected += 1;
            return;
        };
        let verifies = |password: &&Password| request.verify(password);
        if self.legs[key].ice.password(request.local_ufrag).filter(verifies).is_none() {
            self.counters.stun_rejected += 1;
            return;
        }
        if self.hands_over_check(now, key, path, request.use_candidate && !request.controlled, datagram) {
            return;
        }
        let Some(password) = self.legs[key].ice.password(request.local_ufrag) else { return };
        self.counters.stun_in += 1;
        let start = self.outbox.start();
        if request.controlled {
            self.counters.stun_role_conflict += 1;
            request.write_role_conflict(password, &mut self.outbox.bytes);
            self.outbox.commit(start, path);
            return;
        }
        let holder = self.by_path.get(&path).copied().filter(|holder| *holder != key);
        let holder = holder.filter(|_| request.use_candidate);
        if holder.is_some_and(|holder| self.legs[holder].ice.holds_address(now)) {
            self.counters.latch_refused += 1;
            return;
        }
        request.write_success(path.peer, password, &mut self.outbox.bytes);
        self.outbox.commit(start, path);
        if let Some(holder) = holder {
            self.legs[holder].ice.unlatch();
            self.by_path.remove(&path);
        }
        let ufrag = request.local_ufrag;
        if let Some(ended) = self.legs[key].ice.on_used(ufrag) {
            self.by_ufrag.remove(&ended);
            self.tell_all(&Note::Used { leg: self.legs[key].id, ufrag: ufrag.to_owned() });
        }
        self.latch(now, key, path, request.use_candidate);
    }

    /// Carries out `Command::Connect`: from now on nobody reaches the leg but over its own socket.
    fn connect(&mut self, now: Time, leg: LegId, socket: usize, (ufrag, pwd): (&str, &str), candidates: &[SocketAddr]) {
        let tie_breaker = self.random();
        let Some(&key) = self.by_id.get(&leg) else {
            self.released.push(socket);
            return;
        };
        let leg = &mut self.legs[key];
        for ufrag in leg.ice.ufrags() {
            self.by_ufrag.remove(ufrag);
        }
        if let Some(path) = leg.ice.path() {
            leg.ice.unlatch();
            self.by_path.remove(&path);
        }
        let local = leg.ice.ufrags().next().unwrap_or_default();
        let dial = Dial::new(socket, (local, ufrag, pwd), candidates, tie_breaker, now);
        if let Some(before) = leg.dial.replace(dial) {
            self.by_socket.remove(&before.socket);
            self.released.push(before.socket);
        }
        self.by_socket.insert(socket, key);
        self.claim(key);
    }

    /// Sends the check that a leg which dials is to send now, if any.
    fn check_connectivity(&mut self, now: Time, key: usize) {
        if self.legs[key].dial.is_none() {
            return;
        }
        let mut id = [0; 12];
        id[..8].copy_from_slice(&self.random().to_be_bytes());
        id[8..].copy_from_slice(&(self.random() as u32).to_be_bytes());
        let jitter = self.random();
        let leg = &mut self.legs[key];
        let Some(dial) = &mut leg.dial else { return };
        self.urgent |= dial.is_busy();
        match dial.due(now, jitter) {
            Due::Nothing => {}
            Due::Check(peer) => {
                let start = self.outbox.start();
                dial.write_check(now, peer, id, &mut self.outbox.bytes);
                self.outbox.commit(start, Path { socket: dial.socket, peer });
                self.counters.ice_checks_out += 1;
            }
            Due::Failed => {
                self.counters.ice_failed += 1;
                self.events.push_back(Event::IceFailed(leg.id));
            }
        }
    }

    /// A leg that dials takes answers to its checks, nothing else: its peer is a lite agent, which asks nothing.
    fn on_answer(&mut self, now: Time, key: usize, path: Path, datagram: &[u8]) {
        let leg = &mut self.legs[key];
        let answer = Answer::parse(datagram).ok();
        let answered = answer.zip(leg.dial.as_mut()).map(|(answer, dial)| dial.on_answer(now, path.peer, &answer));
        match answered {
            None | Some(Answered::Refused) => self.counters.stun_rejected += 1,
            Some(Answered::Taken { round_trip, connected }) => {
                self.counters.ice_answers_in += 1;
                leg.note_round_trip(round_trip);
                self.measured.round_trips.observe(round_trip, 1);
                self.latch(now, key, path, connected);
            }
        }
    }

    /// Tells which published tracks began or ceased to flow.
    fn watch_flow(&mut self, now: Time, key: usize) {
        let leg = &mut self.legs[key];
        for track in leg.tracks.iter_mut().flatten() {
            let flows = track.newest.is_some_and(|newest| now.since(newest) < SILENCE);
            if flows != track.flows {
                track.flows = flows;
                self.events.push_back(Event::Flow(leg.id, track.mid.clone(), flows));
            }
        }
    }

    fn latch(&mut self, now: Time, key: usize, path: Path, nominated: bool) {
        let leg = &mut self.legs[key];
        let latch = leg.ice.on_request(path, nominated, now);
        match latch {
            Latch::Unchanged => return,
            Latch::First => self.events.push_back(Event::IceConnected(leg.id)),
            Latch::Moved(old) => drop(self.by_path.remove(&old)),
        }
        self.counters.latched += 1;
        self.by_path.insert(path, key);
    }

    fn on_dtls(&mut self, now: Time, key: usize, datagram: &[u8]) {
        let leg = &mut self.legs[key];
        if leg.dtls.take(now) {
            self.counters.dtls_in += 1;
            self.events.push_back(Event::Dtls(leg.id, datagram.to_vec()));
        } else {
            self.counters.dtls_dropped += 1;
        }
    }

    /// SplitMix64: not for keys, only for numbers that should not be guessed at a glance.
    fn random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
