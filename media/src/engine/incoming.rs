//! What a leg publishes: its tracks, their layers, and the sources that these come from.

use super::crossing::Heard;
use super::outgoing::OutgoingKey;
use super::plan::{Kind, Receive};
use crate::proto::dependency::MAX_SPATIAL;
use crate::route::frame::{Cell, Reader};
use crate::route::history::History;
use crate::route::key_frames::KeyFrames;
use crate::route::layers::{Choice, Flow, Size};
use crate::route::meter::Meter;
use crate::route::missing::Missing;
use crate::route::packet::Packet;
use crate::route::reception::{Reception, SenderClock};
use crate::srtp::PacketIndex;
use crate::time::Time;

/// Most layers of one track.
const MAX_LAYERS: usize = 8;

/// The place of a source among a leg's tracks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LayerKey {
    /// The track's place in the leg.
    pub track: usize,
    /// The layer's place in the track.
    pub layer: usize,
}

/// One source that a leg sends.
#[derive(Debug)]
pub struct Stream {
    /// What it carries.
    pub layer: LayerKey,
    /// It repeats the layer's packets (RTX).
    pub repairs: bool,
    /// Its place in SRTP's packet index.
    pub position: PacketIndex,
    /// Its reception statistics.
    pub reception: Reception,
}

impl Stream {
    /// A source of which nothing came yet.
    pub fn new(layer: LayerKey, repairs: bool) -> Self {
        Self { layer, repairs, position: PacketIndex::default(), reception: Reception::default() }
    }
}

/// A source whose track ended. A peer names a source's line and layer only until the first report on it, and may use
/// line and source again: then this is all that tells where it belongs, and SRTP goes on counting.
#[derive(Debug)]
pub struct FormerSource {
    /// The source.
    pub ssrc: u32,
    /// The line that it was on.
    pub mid: String,
    /// The layer that it was, of a track with several.
    pub rid: Option<String>,
    /// It repeated the layer's packets.
    pub repairs: bool,
    /// Its place in SRTP's packet index.
    pub position: PacketIndex,
}

/// Temporal layers whose bitrate is told apart.
const MAX_METERED: usize = 4;

/// The spatial and temporal layers of one source (SVC).
#[derive(Debug, Default)]
pub struct Within {
    flows: [Flow; MAX_SPATIAL],
    meters: [[Meter; MAX_METERED]; MAX_SPATIAL], // of all that is needed for a spatial and a temporal layer
}

impl Within {
    fn on_packet(&mut self, packet: &Packet, highest: Cell, bytes: usize, now: Time) {
        let own = usize::from(packet.frame.layer.spatial);
        if self.flows[own].on_packet(packet.timestamp, None, now) {
            let others = self.flows.iter_mut().enumerate().filter(|(spatial, _)| *spatial != own);
            others.for_each(|(_, flow)| flow.on_sibling_frame());
        }
        for (spatial, row) in (0..=highest.spatial).zip(&mut self.meters) {
            for (temporal, meter) in (0..=highest.temporal).zip(row) {
                if packet.frame.needed.has(Cell { spatial, temporal }) {
                    meter.on_bytes(bytes, now);
                }
            }
        }
    }
}

/// One simulcast layer of a track, or its only one.
#[derive(Debug, Default)]
pub struct Layer {
    /// Its source, once learnt or signalled.
    pub ssrc: Option<u32>,
    /// The source of its repairs.
    pub rtx_ssrc: Option<u32>,
    /// Counts its sources: another one starts anew in numbers and time.
    pub epoch: u32,
    /// Reads its packets.
    pub reader: Reader,
    /// Whether it flows, and its size.
    pub flow: Flow,
    /// It flowed when that was last looked at.
    pub flowed: bool,
    /// How much it sends.
    pub meter: Meter,
    /// The timestamp of its newest key frame.
    pub key_frame_timestamp: Option<u32>,
    /// What is known of the layers within it, if there are any.
    pub within: Option<Box<Within>>,
    /// Holes in its sequence (video).
    pub missing: Missing,
    /// Wishes for key frames.
    pub key_frames: KeyFrames,
    /// Its source's clocks by the last sender report.
    pub clock: Option<SenderClock>,
    /// Its newest packets (video).
    pub history: History,
}

impl Layer {
    /// Notes a packet that carries media, of so many bytes on the wire. Returns whether a new frame begins with it.
    pub fn on_packet(&mut self, packet: &Packet, bytes: usize, now: Time) -> bool {
        // A key frame is no part of what a layer takes: whoever changes layers is asked for one, and it passes.
        if packet.key_frame.is_some() {
            self.key_frame_timestamp = Some(packet.timestamp);
        }
        let bytes = if self.key_frame_timestamp == Some(packet.timestamp) { 0 } else { bytes };
        self.meter.on_bytes(bytes, now);
        if let Some(highest) = self.reader.highest.filter(|highest| *highest > Cell::new(0, 0)) {
            self.within.get_or_insert_default().on_packet(packet, highest, bytes, now);
        }
        self.flow.on_packet(packet.timestamp, packet.key_frame, now)
    }

    /// What a choice among layers depends on: whether it flows, its size, and which spatial layers flow.
    pub fn seen(&self, newest: Option<Time>) -> (bool, Option<Size>, [bool; MAX_SPATIAL]) {
        let flows = self.flow.flows(newest);
        let spatial = match &self.within {
            None => [flows; MAX_SPATIAL],
            Some(_) => std::array::from_fn(|spatial| self.flows_up_to(spatial as u8, newest)),
        };
        (flows, self.flow.measured(), spatial)
    }

    /// Whether this spatial layer flows.
    fn flows_up_to(&self, spatial: u8, newest: Option<Time>) -> bool {
        let Some(within) = &self.within else { return self.flow.flows(newest) };
        let highest = self.reader.highest.map_or(0, |highest| highest.spatial);
        let newest = self.flow.last_packet().filter(|_| self.flow.flows(newest));
        spatial <= highest && (highest == 0 || within.flows[usize::from(spatial)].flows(newest)) && newest.is_some()
    }

    /// Bits per second of what is needed for a spatial and a temporal layer; `None` if that was not measured yet.
    pub fn bits_per_second(&self, cell: Cell) -> Option<u64> {
        let Some(within) = &self.within else { return self.meter.bits_per_second() };
        let highest = self.reader.highest.unwrap_or(Cell::new(0, 0));
        let row = &within.meters[usize::from(cell.spatial.min(highest.spatial))];
        row[usize::from(cell.temporal.min(highest.temporal)).min(MAX_METERED - 1)].bits_per_second()
    }

    /// Another source takes the layer over.
    pub fn replace_source(&mut self, ssrc: u32) {
        let (rtx_ssrc, epoch) = (self.rtx_ssrc, self.epoch.wrapping_add(1));
        *self = Self { ssrc: Some(ssrc), rtx_ssrc, epoch, key_frames: self.key_frames, ..Self::default() };
    }

    /// Another source took the layer over in the engine where it comes from, unless this is the present one's epoch.
    pub fn follow(&mut self, epoch: u32) {
        if self.epoch != epoch {
            *self = Self { epoch, key_frames: self.key_frames, ..Self::default() };
        }
    }
}

/// What a leg publishes on one line.
#[derive(Debug)]
pub struct Track {
    /// Its line.
    pub mid: String,
    /// What it carries.
    pub kind: Kind,
    /// What was negotiated of it.
    pub receive: Receive,
    /// Its layers, highest first.
    pub layers: Vec<Layer>,
    /// It comes before others where a link is narrow: a screen share.
    pub first: bool,
    /// Full size of the picture by the publisher's metadata.
    pub size: Option<Size>,
    /// When the last packet with media came.
    pub newest: Option<Time>,
    /// The control plane was told that it flows.
    pub flows: bool,
    /// Who gets it.
    pub subscribers: Vec<OutgoingKey>,
    /// Which of the leg's plans made it.
    pub born: u32,
    /// The other engines where subscribers of it live.
    pub abroad: Vec<usize>,
    /// The engine where it comes from was told that subscribers of it live here.
    pub asked: bool,
    /// Levels that the other engines were not told of yet.
    pub heard: Heard,
}

impl Track {
    /// A track as negotiated; nothing of it came yet.
    pub fn new(mid: String, kind: Kind, receive: Receive, born: u32) -> Self {
        let count = receive.rids.len().clamp(1, MAX_LAYERS);
        let layers = std::iter::repeat_with(Layer::default).take(count).collect();
        Self {
            mid,
            kind,
            receive,
            layers,
            first: false,
            size: None,
            newest: None,
            flows: false,
            subscribers: Vec::new(),
            born,
            abroad: Vec::new(),
            asked: false,
            heard: Heard::default(),
        }
    }

    /// Somebody gets it, here or elsewhere.
    pub fn is_watched(&self) -> bool {
        !self.subscribers.is_empty() || !self.abroad.is_empty()
    }

    /// The layer of a rid; a track with one layer needs none.
    pub fn layer_of(&self, rid: Option<&str>) -> Option<usize> {
        let named = rid.and_then(|rid| self.receive.rids.iter().take(MAX_LAYERS).position(|known| known == rid));
        if named.is_none() && self.layers.len() == 1 { Some(0) } else { named }
    }

    /// The layers as a subscriber chooses among them, those within one source included: sizes measured, else halved from
    /// the full one step by step.
    pub fn choices(&self) -> Vec<Choice> {
        let mut choices = Vec::with_capacity(self.layers.len());
        for (index, layer) in self.layers.iter().enumerate() {
            let halved = |times: usize| self.size.map(|(width, height)| (width >> times, height >> times));
            let highest = layer.reader.highest.unwrap_or(Cell::new(0, 0));
            let (temporal, flows) = (highest.temporal, |spatial| layer.flows_up_to(spatial, self.newest));
            let choice = |spatial, size| Choice { layer: index, spatial, temporal, flows: flows(spatial), size };
            if highest.spatial == 0 {
                let size = layer.flow.measured().or_else(|| halved(index));
                choices.push(Choice { spatial: Cell::ALL.spatial, ..choice(0, size) });
                continue;
            }
            for spatial in (0..=highest.spatial).rev() {
                let told = layer.reader.sizes[usize::from(spatial)];
                choices.push(choice(spatial, told.or_else(|| halved(index + usize::from(highest.spatial - spatial)))));
            }
        }
        choices
    }
}
