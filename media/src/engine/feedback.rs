//! RTCP, terminated per leg: what peers report and ask for, and what the focus reports and asks for.

use super::Engine;
use super::leg::Leg;
use super::outgoing::{Outgoing, RemoteReport};
use super::plan::Kind;
use crate::proto::extensions::Extension;
use crate::proto::rtcp::{self, Blocks, MAX_BLOCKS, Packet};
use crate::proto::transport_cc::Feedback;
use crate::route::policer::Policer;
use crate::time::{MILLISECOND, SECOND, Time, WallClock, ntp_span_in_ticks};

/// Sender and receiver reports, and REMB, go out this often.
const REPORTS: u64 = SECOND;
/// Transport-wide feedback goes out this often: Chromium then sends all layers within half a second.
const TRANSPORT_CC: u64 = 100 * MILLISECOND;
/// What REMB grants a publisher without transport-wide feedback: enough that no layer is held back by the focus.
const REMB_BITS_PER_SECOND: u64 = 10_000_000;
/// Round trip to a publisher until one was measured.
const DEFAULT_ROUND_TRIP: u64 = 100 * MILLISECOND;
/// Longer round trips are not believed.
const MAX_ROUND_TRIP: u64 = 5 * SECOND;
/// A compound is sent once it has this many bytes.
const FULL_COMPOUND: usize = 1000;
/// Most packets that one NACK packet is answered for.
const MAX_REPEATS: usize = 128;
/// A publisher's NTP clock that jumps by more than this is read anew.
const NTP_JUMP: u64 = 1 << 32;
/// Packets of a compound that are looked at.
const MAX_PACKETS: usize = 64;

impl Engine {
    pub(super) fn on_rtcp(&mut self, now: Time, key: usize, datagram: &mut [u8]) {
        let Some(keys) = &mut self.legs[key].keys else {
            self.keep_early(key, datagram);
            return;
        };
        let length = match keys.unprotector.unprotect_rtcp(datagram) {
            Ok(length) => length,
            Err(refused) => return self.count_refused(refused),
        };
        self.counters.rtcp_in += 1;
        for packet in rtcp::parse(&datagram[..length]).take(MAX_PACKETS) {
            match packet {
                Packet::SenderReport { ssrc, ntp, rtp, blocks } => {
                    self.on_sender_report(now, key, ssrc, ntp, rtp);
                    self.on_blocks(now, key, blocks);
                }
                Packet::ReceiverReport { blocks } => self.on_blocks(now, key, blocks),
                Packet::Nack { media, lost } => {
                    let Some(&index) = self.legs[key].outgoing_by_ssrc.get(&media) else { continue };
                    for seq in lost.take(MAX_REPEATS) {
                        self.counters.nack_in += 1;
                        self.legs[key].counters.nack_in += 1;
                        self.repeat(now, key, index, seq);
                    }
                }
                Packet::PictureLoss { media } => self.on_picture_loss(key, media),
                Packet::FullIntra { entries } => entries.for_each(|media| self.on_picture_loss(key, media)),
                Packet::TransportCc { body } => {
                    let leg = &mut self.legs[key];
                    let Some(feedback) = Feedback::parse(body) else { continue };
                    leg.bandwidth.on_feedback(now, feedback, leg.round_trip.unwrap_or(DEFAULT_ROUND_TRIP));
                }
                Packet::Remb { bits_per_second } => self.legs[key].bandwidth.on_receiver_estimate(bits_per_second),
                Packet::Goodbye | Packet::Other => {}
            }
        }
    }

    fn on_sender_report(&mut self, now: Time, key: usize, ssrc: u32, ntp: u64, rtp: u32) {
        let offset = ntp.wrapping_sub(self.wall.ntp(now)) as i64;
        let leg = &mut self.legs[key];
        let Some(stream) = leg.streams.get_mut(&ssrc).filter(|stream| !stream.repairs) else { return };
        stream.reception.on_sender_report(ntp, rtp, now);
        let (clock, place) = (stream.reception.sender_clock(), stream.layer);
        if leg.ntp_offset.is_none_or(|known| known.abs_diff(offset) > NTP_JUMP) {
            leg.ntp_offset = Some(offset);
        }
        if let Some(layer) = leg.layer_mut(place) {
            layer.clock = clock;
        }
        self.tell_state(key, place.track);
    }

    fn on_blocks(&mut self, now: Time, key: usize, blocks: Blocks<'_>) {
        let middle = (self.wall.ntp(now) >> 16) as u32;
        let leg = &mut self.legs[key];
        for block in blocks {
            let Some(&index) = leg.outgoing_by_ssrc.get(&block.ssrc) else { continue };
            let Some(Some(outgoing)) = leg.outgoing.get_mut(index) else { continue };
            if let Some(codec) = outgoing.codec {
                let measured = &mut self.measured.kinds[Kind::of(codec)];
                measured.counters.lost_out += outgoing.report.lost_since(block.lost, outgoing.packets);
                measured.jitter_out.observe(u64::from(block.jitter) * SECOND / u64::from(codec.clock_rate()), 1);
            }
            outgoing.report =
                RemoteReport { lost: block.lost, fraction_lost: block.fraction_lost, packets: outgoing.packets };
            if block.last_sr != 0 {
                let span = middle.wrapping_sub(block.last_sr).wrapping_sub(block.delay);
                let micros = (u64::from(span) * SECOND) >> 16;
                if micros <= MAX_ROUND_TRIP {
                    leg.note_round_trip(micros);
                    self.measured.round_trips.observe(micros, 1);
                }
            }
        }
    }

    /// PLI or FIR of a subscriber: wished of the layer that it gets, whatever others wish meanwhile.
    fn on_picture_loss(&mut self, key: usize, media: u32) {
        self.counters.pli_in += 1;
        let leg = &mut self.legs[key];
        leg.counters.pli_in += 1;
        let group = leg.group;
        let Some(&index) = leg.outgoing_by_ssrc.get(&media) else { return };
        let Some(Some(outgoing)) = leg.outgoing.get(index) else { return };
        let Some(layer) = outgoing.current.map(|(layer, _)| layer).or(outgoing.target) else { return };
        let Some((source, track)) = outgoing.source else { return };
        if group.is_none() || self.legs[source].group != group {
            return;
        }
        if let Some(Some(track)) = self.legs[source].tracks.get_mut(track)
            && track.kind == Kind::Video
            && let Some(layer) = track.layers.get_mut(layer)
        {
            layer.key_frames.want();
            self.urgent = true;
        }
    }

    /// Sends a leg what is due to it.
    pub(super) fn send_feedback(&mut self, now: Time, key: usize) {
        if self.legs[key].keys.is_none() || self.legs[key].ice.path().is_none() {
            return;
        }
        self.ask_publisher(now, key);
        let leg = &mut self.legs[key];
        if now >= leg.timers.transport_cc {
            leg.timers.transport_cc = now + TRANSPORT_CC;
            self.report_arrivals(key);
        }
        let leg = &mut self.legs[key];
        if now >= leg.timers.reports {
            leg.timers.reports = now + REPORTS;
            self.report_reception(now, key);
            self.report_sending(now, key);
        }
    }

    /// NACKs and PLIs.
    fn ask_publisher(&mut self, now: Time, key: usize) {
        let leg = &mut self.legs[key];
        let round_trip = leg.round_trip.unwrap_or(DEFAULT_ROUND_TRIP);
        let mut compound = Vec::new();
        for track in leg.tracks.iter_mut().flatten().filter(|track| track.kind == Kind::Video) {
            for layer in &mut track.layers {
                let Some(ssrc) = layer.ssrc else { continue };
                if !layer.missing.is_empty() {
                    let lost = layer.missing.due(now, round_trip);
                    if !lost.is_empty() {
                        self.counters.nack_out += lost.len() as u64;
                        begin(&mut compound, leg.rtcp_ssrc);
                        rtcp::write_nack(&mut compound, leg.rtcp_ssrc, ssrc, &lost);
                    }
                }
                self.urgent |= !layer.missing.is_empty() || layer.key_frames.is_wanted();
                if layer.key_frames.due(now) {
                    self.counters.pli_out += 1;
                    begin(&mut compound, leg.rtcp_ssrc);
                    rtcp::write_picture_loss(&mut compound, leg.rtcp_ssrc, ssrc);
                }
            }
            if compound.len() >= FULL_COMPOUND {
                break; // the rest at the next tick
            }
        }
        self.send_rtcp(key, &compound);
    }

    fn report_arrivals(&mut self, key: usize) {
        let leg = &mut self.legs[key];
        if leg.arrivals.is_empty() {
            return;
        }
        let ssrc = leg.rtcp_ssrc;
        let media = leg.streams.keys().next().copied().unwrap_or(0);
        let mut arrivals = std::mem::take(&mut leg.arrivals);
        arrivals.drain(|body| {
            let mut compound = std::mem::take(&mut self.scratch);
            compound.clear();
            begin(&mut compound, ssrc);
            rtcp::write_transport_cc(&mut compound, ssrc, media, |out| out.extend_from_slice(body));
            self.send_rtcp(key, &compound);
            self.scratch = compound;
        });
        self.legs[key].arrivals = arrivals;
    }

    /// Receiver reports, and REMB where nothing better was negotiated, or the peer may send little.
    fn report_reception(&mut self, now: Time, key: usize) {
        let leg = &mut self.legs[key];
        let mut blocks = Vec::new();
        for (&ssrc, stream) in leg.streams.iter_mut().filter(|(_, stream)| !stream.repairs) {
            let Some(block) = stream.reception.report(ssrc, now) else { continue };
            blocks.push(block);
            let lately = stream.reception.lately();
            if let Some(Some(track)) = leg.tracks.get(stream.layer.track)
                && lately.received > 0
            {
                let measured = &mut self.measured.kinds[track.kind];
                measured.counters.lost_in += lately.lost;
                measured.jitter_in.observe(lately.jitter, 1);
            }
        }
        if blocks.is_empty() {
            return;
        }
        let ssrc = leg.rtcp_ssrc;
        let mut compound = Vec::new();
        let allowed = leg.policer.as_ref().map_or(u64::MAX, Policer::bits_per_second);
        if leg.extensions.id(Extension::TransportCc).is_none() || allowed < REMB_BITS_PER_SECOND {
            let video = leg.tracks.iter().flatten().filter(|track| track.kind == Kind::Video);
            let sources: Vec<u32> =
                video.flat_map(|track| track.layers.iter().filter_map(|layer| layer.ssrc)).take(60).collect();
            if !sources.is_empty() {
                begin(&mut compound, ssrc);
                rtcp::write_remb(&mut compound, ssrc, allowed.min(REMB_BITS_PER_SECOND), &sources);
            }
        }
        self.send_rtcp(key, &compound);
        for blocks in blocks.chunks(MAX_BLOCKS) {
            compound.clear();
            rtcp::write_receiver_report(&mut compound, ssrc, blocks);
            self.send_rtcp(key, &compound);
        }
    }

    /// A sender report and a CNAME for each source that is sent.
    fn report_sending(&mut self, now: Time, key: usize) {
        let mut compound = Vec::new();
        for index in 0..self.legs[key].outgoing.len() {
            let Some(Some(outgoing)) = self.legs[key].outgoing.get(index) else { continue };
            let publisher = outgoing.source.map(|(leg, track)| (&self.legs[leg], track));
            let Some(rtp) = mapped_timestamp(now, self.wall, outgoing, publisher) else { continue };
            let (ssrc, packets, octets) = (outgoing.transmit.ssrc, outgoing.packets, outgoing.octets);
            rtcp::write_sender_report(&mut compound, ssrc, self.wall.ntp(now), rtp, packets, octets);
            rtcp::write_cname(&mut compound, ssrc, &outgoing.transmit.cname);
            if compound.len() >= FULL_COMPOUND {
                self.send_rtcp(key, &compound);
                compound.clear();
            }
        }
        self.send_rtcp(key, &compound);
    }

    /// Protects and queues a compound; an empty one is nothing.
    fn send_rtcp(&mut self, key: usize, compound: &[u8]) {
        let leg = &mut self.legs[key];
        let (Some(path), Some(keys)) = (leg.ice.path(), &mut leg.keys) else { return };
        if compound.is_empty() {
            return;
        }
        let start = self.outbox.start();
        self.outbox.bytes.extend_from_slice(compound);
        keys.protector.protect_rtcp(&mut self.outbox.bytes, start);
        self.outbox.commit(start, path);
        self.counters.rtcp_out += 1;
    }
}

/// A compound begins with a report (RFC 3550, section 6.1), an empty one if need be.
fn begin(compound: &mut Vec<u8>, ssrc: u32) {
    if compound.is_empty() {
        rtcp::write_receiver_report(compound, ssrc, &[]);
    }
}

/// The RTP timestamp, in the subscriber's stream, of this very moment.
///
/// By the publisher's sender reports, so that its voice and picture keep together; else by when packets arrived.
fn mapped_timestamp(now: Time, wall: WallClock, outgoing: &Outgoing, publisher: Option<(&Leg, usize)>) -> Option<u32> {
    let (newest, arrival) = outgoing.rewriter.newest()?;
    let rate = outgoing.codec?.clock_rate();
    let by_arrival = newest.wrapping_add(now.ticks_since(arrival, rate));
    let by_reports = || {
        let (leg, track) = publisher?;
        let (current, epoch) = outgoing.current?;
        let layer = leg.tracks.get(track)?.as_ref()?.layers.get(current).filter(|layer| layer.epoch == epoch)?;
        let clock = layer.clock?;
        let publisher_now = wall.ntp(now).wrapping_add_signed(leg.ntp_offset?);
        let ticks = ntp_span_in_ticks(publisher_now.wrapping_sub(clock.ntp) as i64, rate);
        Some(clock.rtp.wrapping_add(ticks as u32).wrapping_add(outgoing.rewriter.timestamp_offset()))
    };
    let near = |timestamp: &u32| (timestamp.wrapping_sub(by_arrival) as i32).unsigned_abs() <= rate;
    Some(by_reports().filter(near).unwrap_or(by_arrival))
}
