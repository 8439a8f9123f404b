//! RTP to subscribers: fan-out, layer switches, rewriting, and repeats.
//!
//! In two steps. As a packet comes it gets its place in each subscriber's stream (`route`); once the batch that it came in
//! is complete, all that is due to one subscriber is written in a row (`finish`), so that it leaves in few sends.

use std::sync::Arc;

use super::Engine;
use super::counters::{Counters, Measured};
use super::inbound::WRAPPING;
use super::incoming::{LayerKey, Track};
use super::leg::Leg;
use super::outbox::{MAX_MESSAGE, MAX_SEGMENTS, Outbox, Path};
use super::outgoing::{Due, Limit, Outgoing};
use super::plan::Kind;
use crate::route::cache::MAX_AGE;
use crate::route::history::CAPACITY;
use crate::route::packet::Packet;
use crate::route::rewrite::Rewritten;
use crate::route::template::Fields;
use crate::time::{Time, ntp_span_in_ticks};

/// Packets of a video layer that are sent after a key frame's first packet if they came before it.
const MAX_OVERTAKEN: u64 = 32;
/// Packets to one subscriber that differ by no more bytes are padded to one size, so that they share a send.
const MAX_PADDING: usize = 32;
/// What one packet of padding alone holds (RFC 3550, section 5.1).
const PROBES: (usize, usize) = (32, 255);
/// What SRTP adds to a packet at most.
const ROOM: usize = 16;
/// Packets that wait to be used anew.
const MAX_SPARE: usize = 1024;

impl Engine {
    /// Hands a packet to all subscribers of its track.
    pub(super) fn route(&mut self, key: usize, place: LayerKey, packet: Packet) {
        if !self.is_heard(key, place.track, &packet) {
            return;
        }
        let group = self.legs[key].group;
        let Some(mut track) = self.legs[key].tracks.get_mut(place.track).and_then(Option::take) else { return };
        let number = self.batch.len();
        let packet = self.share(packet);
        self.batch.push(Arc::clone(&packet));
        for &(to, outgoing) in &track.subscribers {
            let leg = &mut self.legs[to];
            if group.is_none() || leg.group != group {
                self.counters.dropped_group += 1;
                continue;
            }
            let before = leg.due.len();
            deliver(leg, outgoing, &track, place.layer, number, &mut self.batch, &mut self.counters);
            let placed = leg.due.len() - before;
            self.placed += placed as u64;
            if before == 0 && placed > 0 {
                self.touched.push(to);
            }
        }
        if !track.abroad.is_empty() {
            self.cross(self.legs[key].id, &track, place, &packet);
        }
        if packet.codec.is_video() {
            let old = track.layers[place.layer].history.insert(packet);
            if let Some(old) = old {
                self.reuse(old);
            }
        }
        self.legs[key].tracks[place.track] = Some(track);
    }

    /// Writes all that is due to subscribers. Call it when a batch of datagrams was taken.
    pub fn finish(&mut self, now: Time) {
        if self.touched.is_empty() {
            return;
        }
        let mut touched = std::mem::take(&mut self.touched);
        for key in touched.drain(..) {
            if let Some(leg) = self.legs.get_mut(key) {
                let mut due = std::mem::take(&mut leg.due);
                let counters = (&mut self.counters, &mut self.measured);
                write_due(now, leg, &mut due, &self.batch, &mut self.sizes, &mut self.outbox, counters);
                due.clear();
                leg.due = due;
            }
        }
        self.touched = touched;
        let mut batch = std::mem::take(&mut self.batch);
        batch.drain(..).for_each(|packet| self.reuse(packet));
        self.batch = batch;
    }

    /// Puts a packet where it can be shared, in the memory of one that nobody needs any more.
    fn share(&mut self, packet: Packet) -> Arc<Packet> {
        let Some(mut shared) = self.spare.pop() else { return Arc::new(packet) };
        match Arc::get_mut(&mut shared) {
            Some(place) => {
                *place = packet;
                shared
            }
            None => Arc::new(packet),
        }
    }

    /// Keeps the memory of a packet that nobody else has.
    fn reuse(&mut self, mut packet: Arc<Packet>) {
        if self.spare.len() < MAX_SPARE
            && let Some(own) = Arc::get_mut(&mut packet)
        {
            self.spare_payloads.push(std::mem::take(&mut own.payload));
            self.spare.push(packet);
        }
    }

    /// A copy of a payload, in the memory of one that nobody needs any more.
    pub(super) fn keep_payload(&mut self, payload: &[u8]) -> Vec<u8> {
        let mut kept = self.spare_payloads.pop().unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(payload);
        kept
    }

    /// A subscriber asks for a packet again.
    pub(super) fn repeat(&mut self, now: Time, key: usize, index: usize, seq: u16) {
        let Some((packet, rewritten)) = self.sent(now, key, index, seq) else {
            self.counters.nack_unanswered += 1;
            return;
        };
        let leg = &mut self.legs[key];
        let round_trip = leg.round_trip.unwrap_or(0);
        let (Some(path), Some(keys)) = (leg.ice.path(), &leg.keys) else { return };
        let Some(Some(outgoing)) = leg.outgoing.get_mut(index) else { return };
        // What is paused for want of room begins anew with a key frame: nobody needs what was before.
        let held_back = outgoing.current.is_none() && outgoing.limit != Limit::None;
        if held_back
            || !outgoing.repeats.take(rewritten.index, now, round_trip)
            || !leg.bandwidth.may_repeat(now, packet.payload.len() + WRAPPING)
        {
            self.counters.nack_unanswered += 1;
            return;
        }
        let out = &mut self.outbox;
        let start = out.start();
        let kind = Kind::of(packet.codec);
        if let (Some((ssrc, _)), Some(template)) = (outgoing.transmit.rtx, &outgoing.repairs) {
            let repair = outgoing.rtx_next;
            outgoing.rtx_next += 1;
            let fields = Fields { seq: repair as u16, ..Fields::of(&packet, rewritten, false) };
            let transport = leg.transport_seq;
            template.write(&mut out.bytes, &fields, now, &mut leg.transport_seq);
            let header = out.bytes.len() - start;
            out.bytes.extend_from_slice(&seq.to_be_bytes());
            write_payload(&mut out.bytes, &packet, outgoing, rewritten, 0);
            keys.protector.protect_rtp(&mut out.bytes, start, header, ssrc, repair);
            if leg.transport_seq != transport {
                leg.bandwidth.on_sent(now, transport, out.bytes.len() - start);
            }
        } else {
            // The very packet again: another one under the same index would give the key stream away.
            let Some(sent) = outgoing.cache.get(seq, now) else { return };
            out.bytes.extend_from_slice(&sent.header);
            write_payload(&mut out.bytes, &sent.packet, outgoing, rewritten, sent.padding);
            let ssrc = outgoing.transmit.ssrc;
            keys.protector.protect_rtp(&mut out.bytes, start, sent.header.len(), ssrc, rewritten.index);
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

    /// What was sent to a subscriber under a sequence number, if it is still there.
    fn sent(&self, now: Time, key: usize, index: usize, seq: u16) -> Option<(Arc<Packet>, Rewritten)> {
        let outgoing = self.legs[key].outgoing.get(index)?.as_ref()?;
        if outgoing.transmit.rtx.is_none() {
            return outgoing.cache.get(seq, now).map(|sent| (Arc::clone(&sent.packet), sent.rewritten));
        }
        let located = outgoing.rewriter.locate(seq, CAPACITY as u16)?;
        let (source, track) = outgoing.source?;
        let layer = self.legs[source].tracks.get(track)?.as_ref()?.layers.get(located.layer.0)?;
        let packet = layer.history.get(located.source).filter(|_| layer.epoch == located.layer.1)?;
        let fits = !packet.is_padding() && now.since(packet.arrival) <= MAX_AGE;
        fits.then(|| {
            let mut rewritten = located.rewritten(packet);
            rewritten.marker |= outgoing.cut.marks(packet);
            (Arc::clone(packet), rewritten)
        })
    }
}

impl Engine {
    /// Sends so many bytes of padding, on the repair stream of a picture: it is in nobody's way there.
    pub(super) fn pad(&mut self, now: Time, key: usize, bytes: usize) {
        let leg = &mut self.legs[key];
        let (Some(path), Some(keys)) = (leg.ice.path(), &leg.keys) else { return };
        let mut pictures = leg.outgoing.iter_mut().flatten().filter(|outgoing| outgoing.source.is_some());
        let found = pictures.find_map(|outgoing| {
            let timestamp = outgoing.rewriter.newest().map_or(0, |(timestamp, _)| timestamp);
            let (ssrc, _) = outgoing.transmit.rtx?;
            Some((outgoing, timestamp, ssrc))
        });
        let Some((outgoing, timestamp, ssrc)) = found else { return };
        let Some(template) = &outgoing.repairs else { return };
        let mut left = bytes;
        while left > 0 {
            let (index, transport) = (outgoing.rtx_next, leg.transport_seq);
            outgoing.rtx_next += 1;
            let fields = Fields { padding: true, seq: index as u16, timestamp, ..Fields::default() };
            let out = &mut self.outbox;
            let start = out.start();
            template.write(&mut out.bytes, &fields, now, &mut leg.transport_seq);
            let header = out.bytes.len() - start;
            let padding = left.clamp(PROBES.0, PROBES.1) as u8;
            out.bytes.resize(out.bytes.len() + usize::from(padding) - 1, 0);
            out.bytes.push(padding);
            keys.protector.protect_rtp(&mut out.bytes, start, header, ssrc, index);
            let length = out.commit(start, path);
            if leg.transport_seq != transport {
                leg.bandwidth.on_sent(now, transport, length);
            }
            left = left.saturating_sub(length);
            self.counters.probes_out += 1;
        }
    }
}

/// Gives a packet its place in one subscriber's stream, if that gets this layer or can go over to it here.
fn deliver(
    leg: &mut Leg,
    index: usize,
    track: &Track,
    layer: usize,
    number: usize,
    batch: &mut Vec<Arc<Packet>>,
    counters: &mut Counters,
) {
    let Some(Some(outgoing)) = leg.outgoing.get_mut(index) else { return };
    let packet = &batch[number];
    if outgoing.codec != Some(packet.codec) {
        counters.dropped_codec += 1;
        return;
    }
    if leg.keys.is_none() {
        return;
    }
    let epoch = track.layers[layer].epoch;
    let enters = outgoing.current != Some((layer, epoch));
    if enters {
        if !packet.is_entry() || leg.ice.path().is_none() || !may_enter(outgoing, track, layer) {
            return;
        }
        let advance = advance(outgoing, track, layer, packet);
        outgoing.cut.enter();
        outgoing.rewriter.start(packet, (layer, epoch), advance);
        if outgoing.current.is_some() {
            counters.layer_switches += 1;
        }
        outgoing.current = Some((layer, epoch));
    }
    let reader = &track.layers[layer].reader;
    if let Some(rewritten) = outgoing.place(packet, reader) {
        leg.due.push(Due { outgoing: index, packet: number, rewritten });
    }
    if enters {
        // The rest of a key frame may have overtaken its first packet.
        let after = packet.index + 1;
        for overtaken in (after..after + MAX_OVERTAKEN).filter_map(|index| track.layers[layer].history.get(index)) {
            if let Some(rewritten) = outgoing.place(overtaken, reader) {
                leg.due.push(Due { outgoing: index, packet: batch.len(), rewritten });
                batch.push(Arc::clone(overtaken));
            }
        }
    }
}

/// Writes what is due to one subscriber: video, then audio, which is smaller, so that a send may end with it.
fn write_due(
    now: Time,
    leg: &mut Leg,
    due: &mut [Due],
    batch: &[Arc<Packet>],
    sizes: &mut Vec<usize>,
    outbox: &mut Outbox,
    (counters, measured): (&mut Counters, &mut Measured),
) {
    let Some(path) = leg.ice.path().filter(|_| leg.keys.is_some()) else { return };
    if due.iter().any(|due| batch[due.packet].codec != batch[0].codec) {
        due.sort_by_key(|due| !batch[due.packet].codec.is_video());
    }
    sizes.clear();
    sizes.extend(due.iter().map(|due| {
        let packet = &batch[due.packet];
        let Some(outgoing) = &leg.outgoing[due.outgoing] else { return 0 };
        let header = outgoing.template.length(&Fields::of(packet, due.rewritten, false));
        header + if due.rewritten.blank { 1 } else { payload(packet, outgoing.red()).len() }
    }));
    let mut at = 0;
    while at < due.len() {
        let (count, size) = run(&sizes[at..]);
        for place in at..at + count {
            // The last one may be smaller as it is.
            let padding = if place + 1 < at + count { size - sizes[place] } else { 0 };
            let packet = &batch[due[place].packet];
            write(now, leg, due[place], packet, padding, path, outbox, (&mut *counters, &mut *measured));
        }
        at += count;
    }
}

/// How many of the packets that follow can share a send, and the size that all but the last will have.
fn run(sizes: &[usize]) -> (usize, usize) {
    let (mut least, mut most) = (sizes[0], sizes[0]);
    let mut count = 1;
    for &size in &sizes[1..] {
        let (low, high) = (least.min(size), most.max(size));
        if count == MAX_SEGMENTS || (count + 1) * (high + ROOM) > MAX_MESSAGE {
            break;
        }
        if high - low > MAX_PADDING {
            count += usize::from(size < most); // a much smaller one ends it
            break;
        }
        (least, most) = (low, high);
        count += 1;
    }
    (count, most)
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
    let source_newest = newest.wrapping_sub(outgoing.rewriter.timestamp_offset());
    let by_clock = if outgoing.rewriter.layer() == Some((layer, track.layers[layer].epoch)) {
        i64::from(packet.timestamp.wrapping_sub(source_newest) as i32) // it goes on after a pause
    } else {
        let old_clock = outgoing.current.and_then(|(current, epoch)| {
            track.layers.get(current).filter(|layer| layer.epoch == epoch).and_then(|layer| layer.clock)
        });
        let (Some(old), Some(new)) = (old_clock, track.layers[layer].clock) else {
            return by_arrival;
        };
        ntp_span_in_ticks(new.ntp.wrapping_sub(old.ntp) as i64, rate)
            .saturating_add(i64::from(packet.timestamp.wrapping_sub(new.rtp) as i32))
            .saturating_sub(i64::from(source_newest.wrapping_sub(old.rtp) as i32))
    };
    // A sender's word is taken only where it is near what was seen.
    if by_clock.abs_diff(by_arrival) <= u64::from(rate) { by_clock } else { by_arrival }
}

/// Writes, protects and keeps one packet.
#[allow(clippy::too_many_arguments)] // the hot loop's one call
fn write(
    now: Time,
    leg: &mut Leg,
    due: Due,
    packet: &Arc<Packet>,
    padding: usize,
    path: Path,
    outbox: &mut Outbox,
    (counters, measured): (&mut Counters, &mut Measured),
) {
    let (Some(keys), Some(Some(outgoing))) = (&leg.keys, leg.outgoing.get_mut(due.outgoing)) else { return };
    let rewritten = due.rewritten;
    let start = outbox.start();
    let out = &mut outbox.bytes;
    let pads = padding > 0 || rewritten.blank;
    let transport = leg.transport_seq;
    let pt = outgoing.red().filter(|_| packet.redundancy.is_some());
    let fields = Fields { pt, ..Fields::of(packet, rewritten, pads) };
    outgoing.template.write(out, &fields, now, &mut leg.transport_seq);
    let header = out.len() - start;
    if outgoing.transmit.rtx.is_none() && packet.codec.is_video() && !rewritten.blank {
        outgoing.cache.insert(rewritten, Arc::clone(packet), Box::from(&out[start..]), padding, now);
    }
    write_payload(out, packet, outgoing, rewritten, padding);
    outgoing.packets = outgoing.packets.wrapping_add(1);
    outgoing.octets = outgoing.octets.wrapping_add((out.len() - start - header - padding) as u32);
    keys.protector.protect_rtp(out, start, header, outgoing.transmit.ssrc, rewritten.index);
    let length = outbox.commit(start, path);
    if leg.transport_seq != transport {
        leg.bandwidth.on_sent(now, transport, length);
    }
    if packet.key_frame.is_some() {
        leg.bandwidth.on_key_frame(now);
    }
    let length = length as u64;
    counters.forwarded += 1;
    counters.trunk_out += u64::from(outgoing.layer.is_some());
    counters.trunk_out_distinct += u64::from(outgoing.layer.is_some() && !outgoing.doubled);
    counters.rtp_out += 1;
    counters.rtp_out_bytes += length;
    leg.counters.packets_out += 1;
    leg.counters.bytes_out += length;
    let of_kind = &mut measured.kinds[Kind::of(packet.codec)].counters;
    of_kind.packets_out += 1;
    of_kind.bytes_out += length;
}

/// The payload for a subscriber: without copies of earlier ones where no redundant audio is sent.
fn payload(packet: &Packet, red: Option<u8>) -> &[u8] {
    match packet.redundancy {
        Some(redundancy) if red.is_none() => redundancy.primary(&packet.payload),
        _ => &packet.payload,
    }
}

/// The payload with the subscriber's picture ids, and so much padding; of a late padding-only packet the least there is.
fn write_payload(out: &mut Vec<u8>, packet: &Packet, outgoing: &Outgoing, rewritten: Rewritten, padding: usize) {
    if !rewritten.blank {
        let start = out.len();
        out.extend_from_slice(payload(packet, outgoing.red()));
        if let Some(redundancy) = packet.redundancy.filter(|_| outgoing.red().is_some()) {
            redundancy.rename(&mut out[start..], outgoing.transmit.pt);
        }
        packet.counters.rewrite(&mut out[start..], rewritten.indices);
    }
    let padding = padding + usize::from(rewritten.blank);
    if padding > 0 {
        out.resize(out.len() + padding - 1, 0);
        out.push(padding as u8);
    }
}
