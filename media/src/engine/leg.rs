//! What the engine keeps of a leg: its transport, and what it publishes and is sent.

use std::collections::{HashMap, VecDeque};

use super::crossing::Home;
use super::dial::Dial;
use super::ice::Agent;
use super::incoming::{FormerSource, Layer, LayerKey, Stream, Track};
use super::outgoing::{Due, Outgoing};
use super::plan::{GroupId, LegId};
use crate::proto::extensions::ExtensionIds;
use crate::proto::transport_cc::Recorder;
use crate::route::bandwidth::Bandwidth;
use crate::route::packet::Codec;
use crate::route::policer::Policer;
use crate::srtp::{PacketIndex, Protector, Unprotector};
use crate::time::{SECOND, Time};

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
    /// This payload type, with copies of earlier packets (RFC 2198).
    Redundant(u8),
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
    /// The engine that it lives in.
    pub home: Home,
    /// Counts its plans.
    pub plans: u32,
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
    pub fn new(id: LegId, ice: Agent, rtcp_ssrc: u32, now: Time, home: Home) -> Self {
        Self {
            id,
            group: None,
            home,
            plans: 0,
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
