//! What the engine keeps of a leg: its transport, the tracks that it publishes, and what is sent to it.

use std::collections::{HashMap, VecDeque};

use super::dial::Dial;
use super::ice::Agent;
use super::plan::{GroupId, Kind, LegId, Receive, Transmit};
use crate::proto::extensions::ExtensionIds;
use crate::proto::transport_cc::Recorder;
use crate::route::bandwidth::Bandwidth;
use crate::route::cache::{Cache, Repeats};
use crate::route::history::History;
use crate::route::key_frames::KeyFrames;
use crate::route::layers::{Choice, Flow, Size, choose};
use crate::route::meter::Meter;
use crate::route::missing::Missing;
use crate::route::packet::Codec;
use crate::route::policer::Policer;
use crate::route::reception::{Reception, SenderClock};
use crate::route::rewrite::{Rewriter, Rewritten};
use crate::route::template::Template;
use crate::srtp::{PacketIndex, Protector, Unprotector};
use crate::time::{SECOND, Time};

/// Most layers of one track.
const MAX_LAYERS: usize = 8;
/// Sources remembered of a leg's ended tracks; the oldest are forgotten first.
pub const MAX_FORMER: usize = 64;
/// SRTP packets kept per leg until its keys come.
pub const MAX_EARLY: usize = 64;
/// DTLS datagrams of one leg handed up at once, and per second in the long run.
const DTLS_BURST: u64 = 512;

/// What a payload type of a leg stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PayloadType {
    /// Media.
    Media(Codec),
    /// A repair of this payload type (RFC 4588).
    Repair(u8),
}

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

/// One simulcast layer of a track, or its only one.
#[derive(Debug, Default)]
pub struct Layer {
    /// Its source, once learnt or signalled.
    pub ssrc: Option<u32>,
    /// The source of its repairs.
    pub rtx_ssrc: Option<u32>,
    /// Counts its sources: another one starts anew in numbers and time.
    pub epoch: u32,
    /// Whether it flows, and its size.
    pub flow: Flow,
    /// It flowed when that was last looked at.
    pub flowed: bool,
    /// How much it sends.
    pub meter: Meter,
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
    /// Another source takes the layer over.
    pub fn replace_source(&mut self, ssrc: u32) {
        let (rtx_ssrc, epoch) = (self.rtx_ssrc, self.epoch.wrapping_add(1));
        *self = Self { ssrc: Some(ssrc), rtx_ssrc, epoch, key_frames: self.key_frames, ..Self::default() };
    }
}

/// A line of a subscriber, by the leg's and the line's place.
pub type OutgoingKey = (usize, usize);

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
}

impl Track {
    /// A track as negotiated; nothing of it came yet.
    pub fn new(mid: String, kind: Kind, receive: Receive) -> Self {
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
        }
    }

    /// The layer of a rid; a track with one layer needs none.
    pub fn layer_of(&self, rid: Option<&str>) -> Option<usize> {
        let named = rid.and_then(|rid| self.receive.rids.iter().take(MAX_LAYERS).position(|known| known == rid));
        if named.is_none() && self.layers.len() == 1 { Some(0) } else { named }
    }

    /// The layers as a subscriber chooses among them: sizes measured, else halved from the full one step by step.
    pub fn choices(&self) -> Vec<Choice> {
        let choice = |(index, layer): (usize, &Layer)| {
            let described = self.size.map(|(width, height)| (width >> index, height >> index));
            Choice { flows: layer.flow.flows(self.newest), size: layer.flow.measured().or(described) }
        };
        self.layers.iter().enumerate().map(choice).collect()
    }
}

/// What a receiver told of a source that it gets.
#[derive(Clone, Copy, Debug, Default)]
pub struct RemoteReport {
    /// Packets lost in all.
    pub lost: i32,
    /// Fraction lost lately, in 256ths.
    pub fraction_lost: u8,
    /// Packets that had been sent by then.
    pub packets: u32,
}

impl RemoteReport {
    /// How many more packets were lost by a later report: never more than were sent meanwhile.
    pub fn lost_since(self, lost: i32, packets: u32) -> u64 {
        let more = i64::from(lost) - i64::from(self.lost);
        more.clamp(0, i64::from(packets.wrapping_sub(self.packets))) as u64
    }
}

/// How much of a picture a subscriber's link leaves room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Limit {
    /// What is wished.
    #[default]
    None,
    /// No larger layer than this.
    Layer(usize),
    /// Nothing: it is held back until there is room.
    Suspended,
}

/// One stream that is sent to a leg: all that is sent on a line, or one layer of a simulcast.
#[derive(Debug)]
pub struct Outgoing {
    /// Its line.
    pub mid: String,
    /// Its place among the line's simulcast layers, whose only source layer it carries; `None`: it carries one after the
    /// other, whichever fits.
    pub layer: Option<usize>,
    /// What was negotiated of it.
    pub transmit: Transmit,
    /// The codec of its payload type.
    pub codec: Option<Codec>,
    /// The track that it shows: the publishing leg's and the track's place.
    pub source: Option<(usize, usize)>,
    /// The sizes that are shown beyond the line; `None`: the best.
    pub sizes: Vec<Option<Size>>,
    /// The layer it gets, and that layer's epoch.
    pub current: Option<(usize, u32)>,
    /// What its leg's link leaves room for.
    pub limit: Limit,
    /// The layer it should get.
    pub target: Option<usize>,
    /// Sequence numbers, timestamps and picture ids.
    pub rewriter: Rewriter,
    /// What was sent lately, of video without RTX.
    pub cache: Cache,
    /// What was sent again.
    pub repeats: Repeats,
    /// The RTP header of what is sent, but for what differs from packet to packet.
    pub template: Template,
    /// Next sequence number of repairs, extended.
    pub rtx_next: u64,
    /// Packets sent, for sender reports.
    pub packets: u32,
    /// Payload bytes sent, for sender reports.
    pub octets: u32,
    /// What the peer told of it.
    pub report: RemoteReport,
    /// Another stream to the same leg carries the same layer of the same track.
    pub doubled: bool,
}

impl Outgoing {
    /// The source layer that it should carry now: of a simulcast only its own one, while one of the sizes takes it.
    pub fn choose(&self, track: &Track, choices: &[Choice]) -> Option<usize> {
        let mut chosen = self.sizes.iter().filter_map(|size| choose(choices, *size));
        match self.layer {
            None => chosen.min(), // the highest serves all: `fitting` holds it against the link
            Some(place) => {
                let named = track.receive.rids.iter().position(|rid| Some(rid) == self.transmit.rid.as_ref());
                let own = named.unwrap_or(place);
                chosen.find(|chosen| *chosen == own)
            }
        }
    }

    /// What `choose` gives, as far as the link carries it.
    pub fn fitting(&self, track: &Track, choices: &[Choice]) -> Option<usize> {
        let chosen = self.choose(track, choices)?;
        match self.limit {
            Limit::None => Some(chosen),
            Limit::Suspended => None,
            Limit::Layer(limit) => {
                let least = chosen.max(limit);
                (least..choices.len()).find(|layer| choices[*layer].flows).or(Some(chosen))
            }
        }
    }

    /// The source layer that it carries, or will next.
    pub fn carries(&self) -> Option<usize> {
        self.target.or(self.current.map(|(layer, _)| layer))
    }

    /// It carries the layer that it should.
    pub fn has_target(&self, track: &Track) -> bool {
        self.target.is_some_and(|target| self.current == Some((target, track.layers[target].epoch)))
    }

    /// Sends nothing until the next entry; what was sent can still be repeated.
    pub fn pause(&mut self) {
        self.current = None;
        self.rewriter.stop();
    }

    /// Shows nothing from now on.
    pub fn detach(&mut self) {
        self.source = None;
        self.target = None;
        self.limit = Limit::None;
        self.pause();
        self.rewriter.forget();
        self.cache.clear();
    }
}

/// A packet that is to be sent to a leg once the batch is complete.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// The stream's place in the leg.
    pub outgoing: usize,
    /// The packet's place in the batch.
    pub packet: usize,
    /// Its place in the subscriber's stream.
    pub rewritten: Rewritten,
}

/// Both directions of SRTP.
pub struct Keys {
    /// Towards the peer.
    pub protector: Protector,
    /// From the peer.
    pub unprotector: Unprotector,
}

/// How many DTLS datagrams a leg may hand up.
#[derive(Debug)]
pub struct DtlsBudget {
    left: u64,
    filled: Time,
}

impl DtlsBudget {
    fn new(now: Time) -> Self {
        Self { left: DTLS_BURST, filled: now }
    }

    /// Whether one more may pass now.
    pub fn take(&mut self, now: Time) -> bool {
        let earned = now.since(self.filled) * DTLS_BURST / SECOND;
        if earned > 0 {
            self.left = (self.left + earned).min(DTLS_BURST);
            self.filled = now;
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}

/// What is counted per leg.
#[derive(Clone, Copy, Debug, Default)]
pub struct LegCounters {
    /// RTP packets let in.
    pub packets_in: u64,
    /// Their bytes on the wire.
    pub bytes_in: u64,
    /// Bytes of RTP packets that were dropped because the peer sends more than it may.
    pub bytes_refused: u64,
    /// RTP packets sent.
    pub packets_out: u64,
    /// Their bytes on the wire.
    pub bytes_out: u64,
    /// Packets that the peer asked for again.
    pub nack_in: u64,
    /// Key frames that the peer asked for.
    pub pli_in: u64,
}

/// When a leg's periodic work is due next.
#[derive(Debug)]
pub struct Timers {
    /// Sender and receiver reports, REMB.
    pub reports: Time,
    /// Transport-wide feedback.
    pub transport_cc: Time,
    /// Sharing its link among what it is sent.
    pub sharing: Time,
    /// Layer selection for its subscribers.
    pub selection: Time,
}

/// One connection.
pub struct Leg {
    /// Its number.
    pub id: LegId,
    /// Its conference.
    pub group: Option<GroupId>,
    /// Its ICE agent.
    pub ice: Agent,
    /// The part of the agent that asks, of a leg that dials.
    pub dial: Option<Dial>,
    /// Its SRTP keys.
    pub keys: Option<Keys>,
    /// What its peer may send.
    pub policer: Option<Policer>,
    /// SRTP packets that came before the keys.
    pub early: Vec<Vec<u8>>,
    /// DTLS that may still be handed up.
    pub dtls: DtlsBudget,
    /// What its payload types stand for.
    pub payloads: [Option<PayloadType>; 128],
    /// Its header extensions.
    pub extensions: ExtensionIds,
    /// Sources that it sends.
    pub streams: HashMap<u32, Stream>,
    /// Sources that it may send again, oldest first.
    pub former: VecDeque<FormerSource>,
    /// What it publishes; a place stays empty once its track ended, until the next takes it.
    pub tracks: Vec<Option<Box<Track>>>,
    /// What is sent to it; likewise.
    pub outgoing: Vec<Option<Box<Outgoing>>>,
    /// Packets of the present batch that go to it.
    pub due: Vec<Due>,
    /// Sent source → place in `outgoing`.
    pub outgoing_by_ssrc: HashMap<u32, usize>,
    /// Where sources went on that were sent under the present keys: an index must never come twice.
    pub positions: HashMap<u32, u64>,
    /// The source of RTCP that belongs to no sent media.
    pub rtcp_ssrc: u32,
    /// Arrivals for transport-wide feedback.
    pub arrivals: Recorder,
    /// What the way to the peer carries.
    pub bandwidth: Bandwidth,
    /// Next transport-wide sequence number towards the peer.
    pub transport_seq: u16,
    /// The publisher's NTP clock less ours, 32.32.
    pub ntp_offset: Option<i64>,
    /// Round trip in microseconds, once known.
    pub round_trip: Option<u64>,
    /// Periodic work.
    pub timers: Timers,
    /// Counters.
    pub counters: LegCounters,
}

impl Leg {
    /// A leg that waits for its peer.
    pub fn new(id: LegId, ice: Agent, rtcp_ssrc: u32, now: Time) -> Self {
        Self {
            id,
            group: None,
            ice,
            dial: None,
            keys: None,
            policer: None,
            early: Vec::new(),
            dtls: DtlsBudget::new(now),
            payloads: [None; 128],
            extensions: ExtensionIds::default(),
            streams: HashMap::new(),
            former: VecDeque::new(),
            tracks: Vec::new(),
            outgoing: Vec::new(),
            due: Vec::new(),
            outgoing_by_ssrc: HashMap::new(),
            positions: HashMap::new(),
            rtcp_ssrc,
            arrivals: Recorder::default(),
            bandwidth: Bandwidth::default(),
            transport_seq: 0,
            ntp_offset: None,
            round_trip: None,
            timers: Timers { reports: now, transport_cc: now, sharing: now, selection: now },
            counters: LegCounters::default(),
        }
    }

    /// The codec of a payload type.
    pub fn codec(&self, pt: u8) -> Option<Codec> {
        match self.payloads.get(usize::from(pt)) {
            Some(Some(PayloadType::Media(codec))) => Some(*codec),
            _ => None,
        }
    }

    /// The place of the track on a line.
    pub fn track_on(&self, mid: &str) -> Option<usize> {
        self.tracks.iter().position(|track| track.as_ref().is_some_and(|track| track.mid == mid))
    }

    /// The places of what is sent on a line.
    pub fn outgoing_on(&self, mid: &str) -> Vec<usize> {
        let outgoing = self.outgoing.iter().enumerate();
        let on_line = outgoing.filter(|(_, outgoing)| outgoing.as_ref().is_some_and(|outgoing| outgoing.mid == mid));
        on_line.map(|(index, _)| index).collect()
    }

    /// Takes a measured round trip into the mean.
    pub fn note_round_trip(&mut self, micros: u64) {
        self.round_trip = Some(self.round_trip.map_or(micros, |known| (7 * known + micros) / 8));
    }

    /// A source's place in SRTP's packet index.
    pub fn position_of(&self, ssrc: u32) -> PacketIndex {
        let former = || self.former.iter().find(|former| former.ssrc == ssrc).map(|former| former.position);
        self.streams.get(&ssrc).map(|stream| stream.position).or_else(former).unwrap_or_default()
    }

    /// The track that was at this place has ended: its sources are remembered for a return.
    pub fn retire_sources(&mut self, index: usize, track: &Track) {
        for (&ssrc, stream) in self.streams.iter().filter(|(_, stream)| stream.layer.track == index) {
            self.former.retain(|former| former.ssrc != ssrc);
            if self.former.len() == MAX_FORMER {
                self.former.pop_front();
            }
            let rid = track.receive.rids.get(stream.layer.layer).cloned();
            let (repairs, position) = (stream.repairs, stream.position);
            self.former.push_back(FormerSource { ssrc, mid: track.mid.clone(), rid, repairs, position });
        }
        self.streams.retain(|_, stream| stream.layer.track != index);
    }

    /// Takes the sources out of memory that were on the line and in the layers of the track at this place.
    pub fn returning_sources(&mut self, index: usize) -> Vec<(LayerKey, FormerSource)> {
        let Some(Some(track)) = self.tracks.get(index) else { return Vec::new() };
        let (mut returning, mut still_away) = (Vec::new(), VecDeque::new());
        for source in self.former.drain(..) {
            let rid = source.rid.as_deref();
            let layer = track.layer_of(rid).filter(|layer| track.receive.rids.get(*layer).map(String::as_str) == rid);
            match layer.filter(|_| source.mid == track.mid) {
                Some(layer) => returning.push((LayerKey { track: index, layer }, source)),
                None => still_away.push_back(source),
            }
        }
        self.former = still_away;
        returning
    }

    /// A layer, unless its track ended.
    pub fn layer_mut(&mut self, key: LayerKey) -> Option<&mut Layer> {
        self.tracks.get_mut(key.track)?.as_mut()?.layers.get_mut(key.layer)
    }
}

/// Puts a value in the first empty place, and gives that.
pub fn place<T>(places: &mut Vec<Option<T>>, value: T) -> usize {
    match places.iter().position(Option::is_none) {
        Some(index) => {
            places[index] = Some(value);
            index
        }
        None => {
            places.push(Some(value));
            places.len() - 1
        }
    }
}
