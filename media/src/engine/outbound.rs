//! RTP to subscribers: fan-out, layer switches, rewriting, and repeats out of the cache.

use std::sync::Arc;

use super::Engine;
use super::counters::{Counters, KindCounters};
use super::leg::{LayerKey, Leg, Outgoing, Track};
use super::outbox::{Outbox, Path};
use super::plan::Kind;
use crate::proto::extensions::{Extension, ExtensionIds};
use crate::proto::rtp::{self, FixedHeader};
use crate::route::packet::{Codec, Packet};
use crate::route::rewrite::Rewritten;
use crate::srtp::Protector;
use crate::time::{SECOND, Time, ntp_span_in_ticks};

/// A longer mid is not sent in packets: it would not fit the one-byte form. The ssrc is signalled anyway.
const MAX_MID: usize = 16;

/// Borrowed parts of a leg that sending to it takes.
struct Target<'a> {
    path: Path,
    protector: &'a Protector,
    extensions: ExtensionIds,
    transport_seq: &'a mut u16,
}

impl Engine {
    /// Hands a packet to all subscribers of its track.
    pub(super) fn route(&mut self, now: Time, key: usize, place: LayerKey, packet: &Arc<Packet>) {
        let group = self.legs[key].group;
        let Some(mut track) = self.legs[key].tracks.get_mut(place.track).and_then(Option::take) else { return };
        for &(leg, outgoing) in &track.subscribers {
            let leg = &mut self.legs[leg];
            if group.is_none() || leg.group != group {
                self.counters.dropped_group += 1;
                continue;
            }
            let of_kind = &mut self.measured.kinds[track.kind].counters;
            let counters = (&mut self.counters, of_kind);
            deliver(now, leg, outgoing, &track, place.layer, packet, &mut self.outbox, counters);
        }
        if packet.codec == Codec::Vp8 {
            track.layers[place.layer].remember(Arc::clone(packet));
        }
        self.legs[key].tracks[place.track] = Some(track);
    }

    /// A subscriber asks for a packet again.
    pub(super) fn repeat(&mut self, now: Time, key: usize, index: usize, seq: u16) {
        let leg = &mut self.legs[key];
        let round_trip = leg.round_trip.unwrap_or(0);
        let (Some(path), Some(keys)) = (leg.ice.path(), &leg.keys) else { return };
        let Some(Some(outgoing)) = leg.outgoing.get_mut(index) else { return };
        let Some(sent) = outgoing.cache.repeat(seq, now, round_trip) else {
            self.counters.nack_unanswered += 1;
            return;
        };
        let out = &mut self.outbox;
        let start = out.start();
        let rewritten = sent.rewritten;
        let kind = Kind::of(sent.packet.codec);
        if let Some((ssrc, pt)) = outgoing.transmit.rtx {
            let packet = Arc::clone(&sent.packet);
            let repair = outgoing.rtx_next;
            outgoing.rtx_next += 1;
            let fixed = FixedHeader {
                marker: packet.marker,
                pt,
                seq: repair as u16,
                timestamp: rewritten.timestamp,
                ssrc,
                padding: false,
            };
            let names = outgoing.names(Extension::RepairedRid);
            let header =
                write_header(now, &mut out.bytes, fixed, names, &packet, leg.extensions, &mut leg.transport_seq);
            out.bytes.extend_from_slice(&seq.to_be_bytes());
            write_payload(&mut out.bytes, &packet, rewritten);
            keys.protector.protect_rtp(&mut out.bytes, start, header, ssrc, repair);
        } else {
            // The very packet again: another one under the same index would give the key stream away.
            let Some(header) = &sent.header else { return };
            out.bytes.extend_from_slice(header);
            write_payload(&mut out.bytes, &sent.packet, rewritten);
            let ssrc = outgoing.transmit.ssrc;
            keys.protector.protect_rtp(&mut out.bytes, start, header.len(), ssrc, rewritten.index);
        }
        let length = out.commit(start, path) as u64;
        let of_kind = &mut self.measured.kinds[kind].counters;
        of_kind.packets_out += 1;
        of_kind.bytes_out += length;
        self.counters.rtx_out += 1;
        self.counters.rtp_out += 1;
        self.counters.rtp_out_bytes += length;
        leg.counters.packets_out += 1;
        leg.counters.bytes_out += length;
    }
}

/// Sends a packet to one subscriber, if it gets this layer or can go over to it here.
#[allow(clippy::too_many_arguments)] // the hot loop's one call
fn deliver(
    now: Time,
    leg: &mut Leg,
    index: usize,
    track: &Track,
    layer: usize,
    packet: &Arc<Packet>,
    outbox: &mut Outbox,
    (counters, of_kind): (&mut Counters, &mut KindCounters),
) {
    let (Some(path), Some(keys)) = (leg.ice.path(), &leg.keys) else { return };
    let Some(Some(outgoing)) = leg.outgoing.get_mut(index) else { return };
    if outgoing.codec != Some(packet.codec) {
        counters.dropped_codec += 1;
        return;
    }
    let epoch = track.layers[layer].epoch;
    let enters = outgoing.current != Some((layer, epoch));
    if enters {
        if !packet.is_entry() || !may_enter(outgoing, track, layer) {
            return;
        }
        let advance = advance(outgoing, track, layer, packet);
        outgoing.rewriter.start(packet, advance);
        if outgoing.current.is_some() {
            counters.layer_switches += 1;
        }
        outgoing.current = Some((layer, epoch));
    }
    let mut target =
        Target { path, protector: &keys.protector, extensions: leg.extensions, transport_seq: &mut leg.transport_seq };
    let mut send = |packet: &Arc<Packet>| {
        if let Some(length) = send(now, &mut target, outgoing, packet, outbox) {
            counters.forwarded += 1;
            counters.trunk_out += u64::from(outgoing.layer.is_some());
            counters.trunk_out_distinct += u64::from(outgoing.layer.is_some() && !outgoing.doubled);
            counters.rtp_out += 1;
            counters.rtp_out_bytes += length as u64;
            of_kind.packets_out += 1;
            of_kind.bytes_out += length as u64;
            leg.counters.packets_out += 1;
            leg.counters.bytes_out += length as u64;
        }
    };
    send(packet);
    if enters {
        // The rest of a key frame may have overtaken its first packet.
        track.layers[layer].recent.iter().filter(|recent| recent.index > packet.index).for_each(send);
    }
}

/// Whether a stream goes over to a layer at its entry: its target, or while it shows nothing, something smaller first.
///
/// A simulcast layer waits for its own.
fn may_enter(outgoing: &Outgoing, track: &Track, layer: usize) -> bool {
    let Some(target) = outgoing.target else {
        return false;
    };
    let has_picture = outgoing.current.is_some_and(|(current, epoch)| {
        track.layers.get(current).is_some_and(|layer| layer.epoch == epoch && layer.flow.flows(track.newest))
    });
    layer == target || (!has_picture && layer > target && outgoing.layer.is_none())
}

/// Ticks from the newest packet sent to this one, the first of another layer or source.
///
/// Layers have unrelated timestamps: both are put on the sender's clock by its reports, else arrival must do.
fn advance(outgoing: &Outgoing, track: &Track, layer: usize, packet: &Packet) -> i64 {
    let Some((newest, arrival)) = outgoing.rewriter.newest() else {
        return 0;
    };
    let rate = packet.codec.clock_rate();
    let by_arrival = i64::from(packet.arrival.ticks_since(arrival, rate));
    let old_clock = outgoing.current.and_then(|(current, epoch)| {
        track.layers.get(current).filter(|layer| layer.epoch == epoch).and_then(|layer| layer.clock)
    });
    let (Some(old), Some(new)) = (old_clock, track.layers[layer].clock) else {
        return by_arrival;
    };
    let source_newest = newest.wrapping_sub(outgoing.rewriter.timestamp_offset());
    let by_clock = ntp_span_in_ticks(new.ntp.wrapping_sub(old.ntp) as i64, rate)
        .saturating_add(i64::from(packet.timestamp.wrapping_sub(new.rtp) as i32))
        .saturating_sub(i64::from(source_newest.wrapping_sub(old.rtp) as i32));
    // A sender's word is taken only where it is near what was seen.
    if by_clock.abs_diff(by_arrival) <= u64::from(rate) { by_clock } else { by_arrival }
}

/// Writes, protects and keeps one packet. Gives its length on the wire, if it was sent.
fn send(
    now: Time,
    target: &mut Target<'_>,
    outgoing: &mut Outgoing,
    packet: &Arc<Packet>,
    outbox: &mut Outbox,
) -> Option<usize> {
    let rewritten = outgoing.rewriter.rewrite(packet)?;
    let start = outbox.start();
    let out = &mut outbox.bytes;
    let transmit = &outgoing.transmit;
    let fixed = FixedHeader {
        marker: packet.marker,
        pt: transmit.pt,
        seq: rewritten.index as u16,
        timestamp: rewritten.timestamp,
        ssrc: transmit.ssrc,
        padding: packet.is_padding(),
    };
    let names = outgoing.names(Extension::Rid);
    let header = write_header(now, out, fixed, names, packet, target.extensions, target.transport_seq);
    let kept = transmit.rtx.is_none().then(|| Box::from(&out[start..]));
    write_payload(out, packet, rewritten);
    outgoing.packets = outgoing.packets.wrapping_add(1);
    outgoing.octets = outgoing.octets.wrapping_add((out.len() - start - header) as u32);
    target.protector.protect_rtp(out, start, header, transmit.ssrc, rewritten.index);
    if packet.codec == Codec::Vp8 && !packet.is_padding() {
        outgoing.cache.insert(rewritten, Arc::clone(packet), kept, now);
    }
    Some(outbox.commit(start, target.path))
}

/// What a packet says of where it belongs: the line, and the simulcast layer by one of RFC 8852's two extensions.
#[derive(Clone, Copy)]
struct Names<'a> {
    mid: &'a str,
    rid: Option<(Extension, &'a str)>,
}

impl Outgoing {
    fn names(&self, layer: Extension) -> Names<'_> {
        Names { mid: &self.mid, rid: self.transmit.rid.as_deref().map(|rid| (layer, rid)) }
    }
}

/// Writes the header with this subscriber's extensions. Gives its length.
fn write_header(
    now: Time,
    out: &mut Vec<u8>,
    fixed: FixedHeader,
    names: Names<'_>,
    packet: &Packet,
    ids: ExtensionIds,
    transport_seq: &mut u16,
) -> usize {
    let start = out.len();
    let send_time = abs_send_time(now);
    let transport = transport_seq.to_be_bytes();
    let level = [packet.audio_level.unwrap_or(0)];
    let orientation = [packet.orientation.unwrap_or(0)];
    let (rid_extension, rid) = names.rid.unzip();
    let wanted: [(Extension, Option<&[u8]>); 6] = [
        (Extension::Mid, Some(names.mid.as_bytes()).filter(|mid| (1..=MAX_MID).contains(&mid.len()))),
        (rid_extension.unwrap_or(Extension::Rid), rid.map(str::as_bytes)),
        (Extension::AbsSendTime, Some(&send_time)),
        (Extension::TransportCc, Some(&transport)),
        (Extension::AudioLevel, packet.audio_level.map(|_| &level[..])),
        (Extension::VideoOrientation, packet.orientation.map(|_| &orientation[..])),
    ];
    let mut elements: [(u8, &[u8]); 6] = [(0, &[]); 6];
    let mut count = 0;
    for (extension, value) in wanted {
        if let (Some(id), Some(value)) = (ids.id(extension), value) {
            elements[count] = (id, value);
            count += 1;
            if extension == Extension::TransportCc {
                *transport_seq = transport_seq.wrapping_add(1);
            }
        }
    }
    fixed.write(out, count > 0);
    if count > 0 {
        rtp::write_extension(out, &elements[..count]);
    }
    out.len() - start
}

/// The payload with the subscriber's picture ids; a late padding-only packet becomes the least padding.
fn write_payload(out: &mut Vec<u8>, packet: &Packet, rewritten: Rewritten) {
    let start = out.len();
    if packet.is_padding() {
        out.push(1);
        return;
    }
    out.extend_from_slice(&packet.payload);
    if let Some(descriptor) = packet.descriptor {
        descriptor.rewrite(&mut out[start..], rewritten.indices);
    }
}

/// Seconds in 6.18 fixed point, modulo 64 s.
fn abs_send_time(now: Time) -> [u8; 3] {
    let fixed = (u128::from(now.micros()) << 18) / u128::from(SECOND);
    let [.., a, b, c] = (fixed as u32).to_be_bytes();
    [a, b, c]
}
