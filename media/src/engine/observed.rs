//! What the engine shows of itself: the numbers that `/metrics` has, those of one leg, and a plain list for tests and tools.

use std::net::SocketAddr;

use super::Engine;
use super::counters::{Counters, KindCounters, Measured};
use super::incoming::Track;
use super::leg::Leg;
use super::outgoing::Outgoing;
use super::plan::{Kind, LegId};
use crate::measure::Snapshot;

/// What a stream is among a track's layers, highest first; the last word is for all lower ones.
const RANKS: [&str; 3] = ["high", "medium", "low"];
const KINDS: [(Kind, &str); 2] = [(Kind::Audio, "audio"), (Kind::Video, "video")];
/// Counters that are shown by kind instead.
const BY_KIND: [&str; 4] = ["rtp_in_total", "rtp_in_bytes_total", "rtp_out_total", "rtp_out_bytes_total"];

/// The layer's name: `single` for the only one of its track.
fn layer_name(track: &Track, layer: usize) -> &'static str {
    if track.layers.len() == 1 { "single" } else { RANKS[layer.min(RANKS.len() - 1)] }
}

impl Engine {
    fn tracks(&self) -> impl Iterator<Item = &Track> {
        self.own().flat_map(|leg| leg.tracks.iter().flatten().map(AsRef::as_ref))
    }

    /// The legs that count here: of several engines each leg counts in one.
    fn own(&self) -> impl Iterator<Item = &Leg> {
        self.legs.iter().filter(|(key, _)| self.counts(*key)).map(|(_, leg)| leg)
    }

    fn forwards(&self) -> impl Iterator<Item = &Outgoing> {
        let all = self.own().flat_map(|leg| leg.outgoing.iter().flatten().map(AsRef::as_ref));
        all.filter(|outgoing: &&Outgoing| outgoing.source.is_some())
    }

    fn source_of(&self, outgoing: &Outgoing) -> Option<&Track> {
        let (leg, track) = outgoing.source?;
        self.legs.get(leg)?.tracks.get(track)?.as_deref()
    }

    /// Every counter, and gauges of what there is now.
    pub fn stats(&self) -> Vec<(&'static str, u64)> {
        let flowing =
            self.tracks().flat_map(|track| track.layers.iter().filter(|layer| layer.flow.flows(track.newest)));
        let gauges = [
            ("legs", self.own().count()),
            ("legs_connected", self.by_path.len()),
            ("tracks", self.tracks().count()),
            ("layers_flowing", flowing.count()),
            ("forwards", self.forwards().count()),
            ("forwards_flowing", self.forwards().filter(|outgoing| outgoing.current.is_some()).count()),
        ];
        let counters = self.counters.each().map(|(name, _, value)| (name, value));
        counters.chain(gauges.map(|(name, value)| (name, value as u64))).collect()
    }

    /// All that was measured, and what there is now.
    pub fn measure(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        write_counters(&mut snapshot, &self.counters);
        write_measured(&mut snapshot, &self.measured);
        snapshot.number("legs", "Connections that the media core has.", vec![], self.own().count() as u64);
        let connected = self.by_path.len() as u64;
        snapshot.number("legs_connected", "Connections whose peer's address is known.", vec![], connected);
        for (kind, name) in KINDS {
            let tracks = self.tracks().filter(|track| track.kind == kind).count() as u64;
            snapshot.number("tracks", "Tracks that peers publish.", vec![("kind", name)], tracks);
        }
        self.write_bandwidth(&mut snapshot);
        self.write_layers(&mut snapshot);
        self.write_forwards(&mut snapshot);
        snapshot
    }

    /// What the links of subscribers carry, and what they lack.
    fn write_bandwidth(&self, snapshot: &mut Snapshot) {
        let known: Vec<_> =
            self.own().filter_map(|leg| Some((leg.bandwidth.available()?, leg.bandwidth.wanted()))).collect();
        let narrow = known.iter().filter(|(_, wanted)| *wanted > 0);
        let help = "Subscribers whose links' bandwidth is estimated.";
        snapshot.number("bandwidth_estimates", help, vec![], known.len() as u64);
        let help = "Those of them who would be sent more if there were room.";
        snapshot.number("bandwidth_narrow", help, vec![], narrow.count() as u64);
        let help = "What the links of subscribers carry by estimate, together.";
        let available = known.iter().map(|(available, _)| available / 8).sum();
        snapshot.number("bandwidth_available_bytes_per_second", help, vec![], available);
    }

    fn write_layers(&self, snapshot: &mut Snapshot) {
        let mut flowing = [[0; 4]; 2];
        for track in self.tracks() {
            for (index, layer) in track.layers.iter().enumerate() {
                let name = layer_name(track, index);
                let rank = RANKS.iter().position(|rank| *rank == name).unwrap_or(RANKS.len());
                flowing[track.kind as usize][rank] += u64::from(layer.flow.flows(track.newest));
            }
        }
        for (kind, kind_name) in KINDS {
            for (rank, layer) in RANKS.into_iter().chain(["single"]).enumerate() {
                let labels = vec![("kind", kind_name), ("layer", layer)];
                let help = "Layers of published tracks whose packets arrive.";
                snapshot.number("layers_flowing", help, labels, flowing[kind as usize][rank]);
            }
        }
    }

    fn write_forwards(&self, snapshot: &mut Snapshot) {
        const LAYERS: [&str; 5] = ["high", "medium", "low", "single", "none"];
        let mut counts = [[0; LAYERS.len()]; 2];
        for outgoing in self.forwards() {
            let Some(track) = self.source_of(outgoing) else { continue };
            let name = outgoing.current.map_or("none", |(layer, _)| layer_name(track, layer));
            let place = LAYERS.iter().position(|layer| *layer == name).unwrap_or(LAYERS.len() - 1);
            counts[track.kind as usize][place] += 1;
        }
        for (kind, kind_name) in KINDS {
            for (place, layer) in LAYERS.into_iter().enumerate() {
                let labels = vec![("kind", kind_name), ("layer", layer)];
                let help = "Tracks sent to subscribers, by the layer that they get; none: they wait for a key frame.";
                snapshot.number("forwards", help, labels, counts[kind as usize][place]);
            }
        }
    }

    /// Of each leg, bytes of RTP that came, those that were refused included, and bytes that were sent to it.
    pub fn traffic(&self) -> Vec<(LegId, u64, u64)> {
        let of = |leg: &Leg| (leg.id, leg.counters.bytes_in + leg.counters.bytes_refused, leg.counters.bytes_out);
        self.own().map(of).collect()
    }

    /// What is known of one leg.
    pub fn leg_stats(&self, leg: LegId) -> Option<Vec<(&'static str, u64)>> {
        Some(leg_numbers(&self.legs[*self.by_id.get(&leg)?]))
    }
}

fn leg_numbers(leg: &Leg) -> Vec<(&'static str, u64)> {
    let reports = || leg.outgoing.iter().flatten().map(|outgoing| outgoing.report);
    let counters = leg.counters;
    let (address, port) = match leg.ice.path().map(|path| path.peer) {
        Some(SocketAddr::V4(peer)) => (u64::from(u32::from(*peer.ip())), u64::from(peer.port())),
        _ => (0, 0),
    };
    vec![
        ("peer_address", address), // IPv4, as a number; 0: none
        ("peer_port", port),
        ("thread", leg.home.get().unwrap_or(0) as u64),
        ("connected", u64::from(leg.ice.path().is_some())),
        ("keyed", u64::from(leg.keys.is_some())),
        ("packets_in_total", counters.packets_in),
        ("bytes_in_total", counters.bytes_in),
        ("bytes_refused_total", counters.bytes_refused),
        ("packets_out_total", counters.packets_out),
        ("bytes_out_total", counters.bytes_out),
        ("nack_in_total", counters.nack_in),
        ("pli_in_total", counters.pli_in),
        ("sources", leg.streams.len() as u64),
        ("tracks", leg.tracks.iter().flatten().count() as u64),
        ("forwards", leg.outgoing.iter().flatten().filter(|outgoing| outgoing.source.is_some()).count() as u64),
        ("lost_total", reports().map(|report| u64::try_from(report.lost).unwrap_or(0)).sum()),
        ("fraction_lost_max", reports().map(|report| u64::from(report.fraction_lost)).max().unwrap_or(0)),
        ("round_trip_microseconds", leg.round_trip.unwrap_or(0)),
        ("bandwidth_bits_per_second", leg.bandwidth.available().unwrap_or(0)), // 0: not known
        ("bandwidth_wanted_bits_per_second", leg.bandwidth.wanted()),
    ]
}

fn write_counters(snapshot: &mut Snapshot, counters: &Counters) {
    for (name, help, value) in counters.each().filter(|(name, ..)| !BY_KIND.contains(name)) {
        snapshot.number(name, help, vec![], value);
    }
}

fn write_measured(snapshot: &mut Snapshot, measured: &Measured) {
    for (kind, quality) in measured.kinds.each() {
        let KindCounters { packets_in, bytes_in, packets_out, bytes_out, lost_in, lost_out } = quality.counters;
        let jitter =
            "Interarrival jitter, at each report on a source: in, of publishers; out, as subscribers report it.";
        for (direction, packets, bytes, lost, histogram) in [
            ("in", packets_in, bytes_in, lost_in, &quality.jitter_in),
            ("out", packets_out, bytes_out, lost_out, &quality.jitter_out),
        ] {
            let labels = vec![("direction", direction), ("kind", kind)];
            let repairs = "RTP packets of known sources, repairs and padding included.";
            snapshot.number("rtp_packets_total", repairs, labels.clone(), packets);
            snapshot.number("rtp_bytes_total", "Their bytes on the wire, without UDP and IP.", labels.clone(), bytes);
            let missing = "RTP packets that were missing when a report was due; some come later, or are repaired.";
            snapshot.number("rtp_lost_packets_total", missing, labels.clone(), lost);
            snapshot.histogram("jitter_microseconds", jitter, labels, histogram);
        }
    }
    for (layer, count) in RANKS.into_iter().zip(measured.freezes) {
        let help = "Times that a simulcast layer ceased while others of its track went on.";
        snapshot.number("layer_freezes_total", help, vec![("layer", layer)], count);
    }
    let help = "Round trips to peers, each time that one is measured.";
    snapshot.histogram("round_trip_microseconds", help, vec![], &measured.round_trips);
}
