//! One conference on several media threads: what the engines of the threads tell each other.
//!
//! Each thread has an engine of its own, and each engine knows all legs. A leg *lives* in one of them: where its peer's first
//! nomination came, or where it dials from. There it has its address, its keys, and what it is sent. To the others it is a
//! publisher without an address: where subscribers of its tracks live, its packets come decrypted, once for each engine, and
//! go on as if they had been received there. What subscribers wish of it goes back the other way.
//!
//! Nothing is shared for each packet: an engine gathers what is for another one in a [`Crossing`], which is handed over
//! whenever a batch of datagrams was taken.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::outbox::Path;
use super::plan::LegId;
use crate::route::frame::Reader;
use crate::route::layers::Flow;
use crate::route::meter::Meter;
use crate::route::packet::Packet;
use crate::route::reception::SenderClock;
use crate::time::Time;

/// Most bytes of packets and datagrams that wait for one engine; what is beyond is dropped, as a network may.
pub const MAX_WAITING: usize = 4 << 20;

/// The engine that a leg lives in; known to all of them once one has claimed it.
#[derive(Clone, Debug, Default)]
pub struct Home(Arc<AtomicUsize>); // its place and one; 0: none yet

impl Home {
    /// Its place, if the leg lives somewhere yet.
    pub fn get(&self) -> Option<usize> {
        self.0.load(Ordering::Acquire).checked_sub(1)
    }

    /// The leg lives here from now on, unless it lives elsewhere already. Gives where it lives.
    pub fn claim(&self, engine: usize) -> usize {
        let claimed = self.0.compare_exchange(0, engine + 1, Ordering::AcqRel, Ordering::Acquire);
        claimed.map_or_else(|other| other - 1, |_| engine)
    }
}

/// Which engine this is, of how many.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seat {
    /// Its place.
    pub index: usize,
    /// How many there are.
    pub count: usize,
}

impl Seat {
    /// There is no other one.
    pub const ALONE: Self = Self { index: 0, count: 1 };

    /// The places of the others.
    pub fn others(self) -> impl Iterator<Item = usize> {
        (0..self.count).filter(move |other| *other != self.index)
    }
}

/// A track as all engines know it. Plans are carried out everywhere in the same order, so its place is the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrackKey {
    /// The publishing leg.
    pub leg: LegId,
    /// The track's place in the leg.
    pub track: usize,
    /// Which of the leg's plans made it: another one may have taken its place meanwhile.
    pub born: u32,
}

/// What is known of a layer where its leg lives.
#[derive(Clone, Debug)]
pub struct LayerState {
    /// Counts its sources.
    pub epoch: u32,
    /// What key frames told.
    pub reader: Reader,
    /// Whether it flows.
    pub flow: Flow,
    /// How much it sends.
    pub meter: Meter,
    /// Its source's clocks.
    pub clock: Option<SenderClock>,
}

/// What an engine tells another besides packets.
#[derive(Clone, Debug)]
pub enum Note {
    /// The leg lives here.
    Claimed {
        /// The leg.
        leg: LegId,
        /// It dials: nobody asks for it under its ufrags.
        dials: bool,
    },
    /// The peer took up these credentials of an ICE restart.
    Used {
        /// The leg.
        leg: LegId,
        /// The ufrag.
        ufrag: String,
    },
    /// Subscribers of this track live here, or none any more.
    Interest {
        /// The publishing leg.
        leg: LegId,
        /// Its line.
        mid: String,
        /// Its packets are wanted.
        wanted: bool,
        /// Where: the engine that tells it.
        engine: usize,
    },
    /// A subscriber cannot go on without a key frame of this layer.
    KeyFrame {
        /// The track.
        track: TrackKey,
        /// The layer's place in it.
        layer: usize,
    },
    /// What is known of a track whose packets cross.
    State {
        /// The track.
        track: TrackKey,
        /// When its last packet with media came.
        newest: Option<Time>,
        /// The publisher's NTP clock less ours.
        ntp_offset: Option<i64>,
        /// Its layers.
        layers: Vec<LayerState>,
    },
    /// How loud a voice was lately.
    Levels {
        /// The track.
        track: TrackKey,
        /// The levels of its packets.
        heard: Heard,
    },
    /// Another leg has taken over the address of this one.
    Unlatched {
        /// The leg that loses it.
        leg: LegId,
        /// The address.
        path: Path,
    },
}

/// Audio levels of some packets, as on the wire: 0 is the loudest.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Heard {
    /// Their sum, without the VAD's bit.
    pub sum: u32,
    /// How many there were.
    pub count: u32,
}

impl Heard {
    /// Takes a packet's level.
    pub fn add(&mut self, level: u8) {
        self.sum += u32::from(level & 0x7f);
        self.count += 1;
    }
}

/// A published packet on its way to another engine; its payload lies in the crossing's bytes.
#[derive(Debug)]
struct Crossed {
    track: TrackKey,
    layer: usize,
    epoch: u32,
    received: Option<u64>,
    length: usize,
    packet: Packet,
}

/// A published packet that came from another engine.
pub struct Arrived<'a> {
    /// Its track.
    pub track: TrackKey,
    /// The layer's place in it.
    pub layer: usize,
    /// Which of the layer's sources it is from.
    pub epoch: u32,
    /// When the kernel received it, in the caller's own terms.
    pub received: Option<u64>,
    /// The packet, whose payload is still to be put in.
    pub packet: Packet,
    /// Its payload.
    pub payload: &'a [u8],
}

/// What waits to be handed to one engine.
#[derive(Debug, Default)]
pub struct Crossing {
    packets: Vec<Crossed>,
    payloads: Vec<u8>,
    strays: Vec<(Path, usize)>,
    datagrams: Vec<u8>,
    notes: Vec<Note>,
}

impl Crossing {
    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty() && self.strays.is_empty() && self.notes.is_empty()
    }

    /// A copy of a packet crosses.
    pub fn packet(&mut self, track: TrackKey, (layer, epoch): (usize, u32), packet: &Packet, received: Option<u64>) {
        self.payloads.extend_from_slice(&packet.payload);
        let (length, packet) = (packet.payload.len(), packet.without_payload());
        self.packets.push(Crossed { track, layer, epoch, received, length, packet });
    }

    /// A datagram crosses as it came, to the engine where its leg lives.
    pub fn stray(&mut self, path: Path, datagram: &[u8]) {
        self.datagrams.extend_from_slice(datagram);
        self.strays.push((path, datagram.len()));
    }

    /// Something is told.
    pub fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// Puts what waits in `other` behind what waits here; `other` is empty then and keeps its memory. What does not fit is
    /// dropped, but for notes. Gives how many packets and datagrams were.
    pub fn append(&mut self, other: &mut Self) -> usize {
        let mut dropped = 0;
        if self.payloads.len() + self.datagrams.len() > MAX_WAITING {
            dropped = other.packets.len() + other.strays.len();
            other.forget_packets();
        }
        self.packets.append(&mut other.packets);
        self.payloads.append(&mut other.payloads);
        self.strays.append(&mut other.strays);
        self.datagrams.append(&mut other.datagrams);
        self.notes.append(&mut other.notes);
        dropped
    }

    /// What was told, in order; it is gone then.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// The datagrams that came elsewhere, in order.
    pub fn strays(&mut self) -> impl Iterator<Item = (Path, &mut [u8])> {
        let mut rest = &mut self.datagrams[..];
        self.strays.drain(..).map(move |(path, length)| {
            let (datagram, after) = std::mem::take(&mut rest).split_at_mut(length);
            rest = after;
            (path, datagram)
        })
    }

    /// The published packets, in order.
    pub fn packets(&mut self) -> impl Iterator<Item = Arrived<'_>> {
        let mut rest = &self.payloads[..];
        self.packets.drain(..).map(move |crossed| {
            let Crossed { track, layer, epoch, received, length, packet } = crossed;
            let (payload, after) = rest.split_at(length);
            rest = after;
            Arrived { track, layer, epoch, received, packet, payload }
        })
    }

    /// Drops what waits but for the notes; the memory is kept.
    pub fn forget_packets(&mut self) {
        self.packets.clear();
        self.payloads.clear();
        self.strays.clear();
        self.datagrams.clear();
    }
}
