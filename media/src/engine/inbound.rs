//! RTP from a peer: decrypted, assigned to a layer, repaired, measured, and handed to the subscribers.

use super::Engine;
use super::incoming::LayerKey;
use super::leg::{MAX_EARLY, PayloadType};
use super::plan::Kind;
use crate::proto::extensions::{Extension, ExtensionIds, Passed};
use crate::proto::red::Redundancy;
use crate::proto::rtp::Header;
use crate::proto::u16_at;
use crate::route::frame::Read;
use crate::route::missing::Arrival;
use crate::route::packet::{Codec, Packet};
use crate::route::speaker::Speakers;
use crate::srtp::Refused;
use crate::time::Time;

/// Most sources of one leg: twenty cameras in three layers with repairs, and twenty microphones.
const MAX_STREAMS: usize = 256;

/// Around a payload on its way to a subscriber: IP, UDP, RTP with extensions, SRTP's tag.
pub(super) const WRAPPING: usize = 28 + 12 + 24 + 16;

/// The header extensions of one packet.
#[derive(Default)]
struct Scanned<'a> {
    mid: Option<&'a str>,
    rid: Option<&'a str>,
    repaired_rid: Option<&'a str>,
    transport_seq: Option<u16>,
    dependency: Option<&'a [u8]>,
    passed: Passed,
}

fn scan<'a>(header: &Header, packet: &'a [u8], ids: &ExtensionIds) -> Scanned<'a> {
    let mut scanned = Scanned::default();
    let text = |value: &'a [u8]| std::str::from_utf8(value).ok();
    for (id, value) in header.elements(packet) {
        match ids.extension(id) {
            Some(Extension::Mid) => scanned.mid = text(value),
            Some(Extension::Rid) => scanned.rid = text(value),
            Some(Extension::RepairedRid) => scanned.repaired_rid = text(value),
            Some(Extension::TransportCc) => scanned.transport_seq = u16_at(value, 0),
            Some(Extension::Dependency) => scanned.dependency = Some(value),
            Some(Extension::AbsSendTime) | None => {}
            Some(other) => scanned.passed.note(other, value),
        }
    }
    scanned
}

impl Engine {
    pub(super) fn on_rtp(&mut self, now: Time, key: usize, datagram: &mut [u8]) {
        let Some(header) = Header::parse(datagram) else {
            self.counters.dropped_malformed += 1;
            return;
        };
        let leg = &mut self.legs[key];
        let voice = matches!(
            leg.payloads[usize::from(header.pt)],
            Some(PayloadType::Media(Codec::Opus) | PayloadType::Redundant(_))
        );
        let Some(keys) = &leg.keys else {
            self.keep_early(key, datagram);
            return;
        };
        let position = leg.position_of(header.ssrc);
        let opened = keys.unprotector.unprotect_rtp(datagram, header.length, header.ssrc, header.seq, &position);
        let (length, index) = match opened {
            Ok(opened) => opened,
            Err(refused) => return self.count_refused(refused),
        };
        if leg.policer.as_mut().is_some_and(|policer| !policer.allow(datagram.len(), voice, now)) {
            self.counters.dropped_bitrate += 1;
            leg.counters.bytes_refused += datagram.len() as u64;
            if let Some(stream) = leg.streams.get_mut(&header.ssrc) {
                stream.position.accept(index); // SRTP goes on counting
            }
            return;
        }
        self.counters.rtp_in += 1;
        self.counters.rtp_in_bytes += datagram.len() as u64;
        leg.counters.packets_in += 1;
        leg.counters.bytes_in += datagram.len() as u64;
        let datagram_length = datagram.len();
        let packet = &datagram[..length];
        let scanned = scan(&header, packet, &leg.extensions);
        if let Some(seq) = scanned.transport_seq {
            leg.arrivals.record(seq, now);
        }
        let Some(meaning) = leg.payloads[usize::from(header.pt)] else {
            self.counters.dropped_payload_type += 1;
            return;
        };
        let repairs = matches!(meaning, PayloadType::Repair(_));
        let Some(place) = self.place_of(key, header.ssrc, repairs, &scanned) else {
            self.counters.dropped_unknown_source += 1;
            return;
        };
        let Some(payload) = header.payload(packet) else {
            self.counters.dropped_malformed += 1;
            return;
        };
        let Some((codec, kind)) = self.note(now, key, &header, index, meaning, place) else {
            self.counters.dropped_payload_type += 1;
            return;
        };
        let counters = &mut self.measured.kinds[kind].counters;
        counters.packets_in += 1;
        counters.bytes_in += datagram_length as u64;
        let (index, payload) = if repairs {
            match self.unwrap_repair(now, key, place, payload) {
                Some(unwrapped) => unwrapped,
                None => return,
            }
        } else {
            if codec.is_video() && !self.is_wanted(now, key, place, index) {
                return;
            }
            (index, payload)
        };
        let Some(Read { frame, counters, key_frame, dependency }) =
            self.read(key, place, codec, header.timestamp, payload, scanned.dependency)
        else {
            self.counters.dropped_malformed += 1;
            return;
        };
        let redundancy = match meaning {
            PayloadType::Redundant(pt) if !payload.is_empty() => {
                let Some(redundancy) = Redundancy::parse(payload, pt) else {
                    self.counters.dropped_malformed += 1;
                    return;
                };
                Some(redundancy)
            }
            _ => None,
        };
        let packet = Packet {
            index,
            timestamp: header.timestamp,
            marker: header.marker,
            codec,
            arrival: now,
            frame,
            counters,
            dependency,
            key_frame,
            payload: self.keep_payload(payload),
            passed: scanned.passed,
            redundancy,
        };
        self.on_packet(now, key, place, packet);
    }

    /// What a packet tells of its frame; `None` if it cannot be what it is said to be.
    fn read(
        &mut self,
        key: usize,
        place: LayerKey,
        codec: Codec,
        timestamp: u32,
        payload: &[u8],
        dependency: Option<&[u8]>,
    ) -> Option<Read> {
        if !codec.is_video() || payload.is_empty() {
            return Some(Read::default());
        }
        self.legs[key].layer_mut(place)?.reader.read(codec, timestamp, payload, dependency)
    }

    /// Keeps a packet that came before the keys.
    pub(super) fn keep_early(&mut self, key: usize, datagram: &[u8]) {
        let early = &mut self.legs[key].early;
        if early.len() < MAX_EARLY {
            early.push(datagram.to_vec());
            self.counters.srtp_early_kept += 1;
        } else {
            self.counters.srtp_early_dropped += 1;
        }
    }

    pub(super) fn count_refused(&mut self, refused: Refused) {
        match refused {
            Refused::Malformed => self.counters.dropped_malformed += 1,
            Refused::Authentication => self.counters.srtp_auth_failed += 1,
            Refused::Replayed => self.counters.srtp_replayed += 1,
            Refused::TooManySources => self.counters.dropped_unknown_source += 1,
        }
    }

    /// The layer that a source belongs to: known, or learnt now from mid and rid (RFC 8843, section 9.2; RFC 8853).
    fn place_of(&mut self, key: usize, ssrc: u32, repairs: bool, scanned: &Scanned<'_>) -> Option<LayerKey> {
        let leg = &self.legs[key];
        let known = leg.streams.get(&ssrc);
        let Some(mid) = scanned.mid else {
            return known.filter(|stream| stream.repairs == repairs).map(|stream| stream.layer);
        };
        let index = leg.track_on(mid)?;
        let track = leg.tracks[index].as_ref()?;
        let rid = if repairs { scanned.repaired_rid } else { scanned.rid };
        if let Some(known) = known.filter(|known| known.layer.track == index && known.repairs == repairs)
            && (rid.is_none() || track.layer_of(rid) == Some(known.layer.layer))
        {
            return Some(known.layer);
        }
        if known.is_none() && leg.streams.len() >= MAX_STREAMS {
            return None;
        }
        let place = LayerKey { track: index, layer: track.layer_of(rid)? };
        self.assign(key, ssrc, place, repairs);
        Some(place)
    }

    /// Notes the packet in its source's statistics. Gives the codec and its kind, if it fits the line.
    fn note(
        &mut self,
        now: Time,
        key: usize,
        header: &Header,
        index: u64,
        meaning: PayloadType,
        place: LayerKey,
    ) -> Option<(Codec, Kind)> {
        let leg = &mut self.legs[key];
        let codec = match meaning {
            PayloadType::Media(codec) => codec,
            PayloadType::Repair(apt) | PayloadType::Redundant(apt) => leg.codec(apt)?,
        };
        let stream = leg.streams.get_mut(&header.ssrc)?;
        stream.position.accept(index);
        stream.reception.on_packet(index, header.timestamp, now, codec.clock_rate());
        let kind = leg.tracks.get(place.track)?.as_ref()?.kind;
        (kind == Kind::of(codec)).then_some((codec, kind))
    }

    /// Whether a video packet fills a hole or goes on; a gap too wide to repair asks for a key frame.
    fn is_wanted(&mut self, now: Time, key: usize, place: LayerKey, index: u64) -> bool {
        let Some(layer) = self.legs[key].layer_mut(place) else { return false };
        match layer.missing.on_packet(index, now) {
            Arrival::Wanted => {
                self.urgent |= !layer.missing.is_empty();
                true
            }
            Arrival::AfterGap => {
                layer.key_frames.want();
                self.urgent = true;
                true
            }
            Arrival::Unwanted => {
                self.counters.dropped_repeated += 1;
                false
            }
        }
    }

    /// RFC 4588, section 4: the original sequence number, then the original payload.
    fn unwrap_repair<'a>(
        &mut self,
        now: Time,
        key: usize,
        place: LayerKey,
        payload: &'a [u8],
    ) -> Option<(u64, &'a [u8])> {
        let Some((original, payload)) = payload.split_at_checked(2).filter(|(_, payload)| !payload.is_empty()) else {
            self.counters.padding_in += 1; // Chromium probes the bandwidth with these
            return None;
        };
        self.counters.rtx_in += 1;
        let layer = self.legs[key].layer_mut(place)?;
        let index = layer.missing.estimate(u16_at(original, 0)?)?;
        self.is_wanted(now, key, place, index).then_some((index, payload))
    }

    /// A packet of a leg that lives here.
    fn on_packet(&mut self, now: Time, key: usize, place: LayerKey, packet: Packet) {
        let group = self.legs[key].group;
        let Some(Some(track)) = self.legs[key].tracks.get_mut(place.track) else { return };
        self.counters.padding_in += u64::from(packet.is_padding());
        self.counters.key_frames += u64::from(packet.key_frame.is_some());
        if let (Some(&[level]), Some(group)) = (packet.passed.get(Extension::AudioLevel), group)
            && packet.codec == Codec::Opus
        {
            let speakers = self.speakers.entry(group).or_insert_with(|| Speakers::new(now));
            speakers.on_level((key, place.track), level);
            track.heard.add(level);
        }
        self.take_on(now, key, place, packet);
    }

    /// A packet of a leg, wherever that lives, goes to its subscribers who live here.
    pub(super) fn take_on(&mut self, now: Time, key: usize, place: LayerKey, packet: Packet) {
        let Some(Some(track)) = self.legs[key].tracks.get_mut(place.track) else { return };
        let mut reselect = false;
        if !packet.is_padding() {
            let newest = track.newest.replace(now);
            let layer = &mut track.layers[place.layer];
            let before = layer.seen(newest);
            let begins = layer.on_packet(&packet, packet.payload.len() + WRAPPING, now);
            reselect = before != layer.seen(Some(now));
            if begins {
                let siblings = track.layers.iter_mut().enumerate().filter(|(index, _)| *index != place.layer);
                siblings.for_each(|(_, sibling)| sibling.flow.on_sibling_frame());
            }
        }
        if reselect {
            self.select(now, key, place.track);
        }
        if packet.key_frame.is_some()
            && let Some(layer) = self.legs[key].layer_mut(place)
        {
            layer.key_frames.settle(); // whoever just chose this layer gets it with this very packet
        }
        self.route(key, place, packet);
    }
}
