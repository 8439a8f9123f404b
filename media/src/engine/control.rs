//! Commands: legs come and go, plans are applied as differences, forwards are wired to tracks.

use std::collections::hash_map::Entry;

use super::Engine;
use super::crossing::Home;
use super::ice::{Agent, Credentials};
use super::incoming::{LayerKey, Stream, Track};
use super::leg::{Keys, Leg, PayloadType, place};
use super::outgoing::{Limit, Outgoing, RemoteReport};
use super::plan::{Command, GroupId, Kind, LegId, Payload, Plan, Receive, Transmit};
use crate::proto::extensions::{Extension, ExtensionIds};
use crate::route::cache::{Cache, Repeats};
use crate::route::cut::Cut;
use crate::route::layers::Size;
use crate::route::packet::Codec;
use crate::route::policer::Policer;
use crate::route::rewrite::Rewriter;
use crate::route::template::Template;
use crate::srtp::{Master, PacketIndex, Profile, Protector, Unprotector};
use crate::time::Time;

impl Engine {
    /// Carries a command out.
    pub fn command(&mut self, now: Time, command: Command) {
        self.finish(now); // what came before goes out as things were then
        self.urgent = true;
        match command {
            Command::AddLeg { leg, ufrag, pwd } => self.add_leg(now, leg, ufrag, &pwd, Home::default()),
            Command::Connect { leg, socket, ufrag, pwd, candidates } => {
                self.connect(now, leg, socket, (&ufrag, &pwd), &candidates);
            }
            Command::SetCredentials { leg, ufrag, pwd } => self.restart_ice(leg, Credentials::new(ufrag, &pwd)),
            Command::SetGroup { leg, group } => self.set_group(leg, group),
            Command::SetBitrate { leg, bits_per_second } => self.set_bitrate(now, leg, bits_per_second),
            Command::RemoveLeg { leg } => self.remove_leg(leg),
            Command::SendDtls { leg, datagram } => self.send_dtls(leg, &datagram),
            Command::SetKeys { leg, profile, local, remote } => self.set_keys(now, leg, profile, &local, &remote),
            Command::SetPlan { leg, plan } => self.set_plan(leg, plan),
            Command::DescribeTrack { leg, mid, size, first } => self.describe_track(now, (leg, &mid), size, first),
            Command::SetLoudest { voices } => self.set_loudest(voices),
            Command::Forward { leg, mid, source_leg, source_mid, sizes } => {
                self.forward(now, (leg, &mid), (source_leg, &source_mid), &sizes);
            }
            Command::StopForward { leg, mid } => self.stop_forward(leg, &mid),
        }
    }

    /// Carries out `Command::AddLeg` for a leg that all engines share.
    pub fn add_leg(&mut self, now: Time, id: LegId, ufrag: String, pwd: &str, home: Home) {
        self.finish(now);
        self.urgent = true;
        if self.by_id.contains_key(&id) {
            return;
        }
        let rtcp_ssrc = self.random() as u32;
        if self.legs.is_empty() {
            self.ticked = now;
        }
        let agent = Agent::new(Credentials::new(ufrag.clone(), pwd));
        let key = self.legs.insert(Leg::new(id, agent, rtcp_ssrc, now, home));
        self.by_id.insert(id, key);
        self.by_ufrag.insert(ufrag, key);
    }

    fn restart_ice(&mut self, leg: LegId, credentials: Credentials) {
        let Some(&key) = self.by_id.get(&leg) else { return };
        if self.legs[key].dial.is_some() {
            return; // who dials restarts by connecting anew
        }
        let ufrag = credentials.ufrag.clone();
        if let Some(unused) = self.legs[key].ice.restart(credentials) {
            self.by_ufrag.remove(&unused);
        }
        self.by_ufrag.insert(ufrag, key);
    }

    fn set_group(&mut self, leg: LegId, group: GroupId) {
        let Some(&key) = self.by_id.get(&leg) else { return };
        if self.legs[key].group == Some(group) {
            return;
        }
        for track in 0..self.legs[key].tracks.len() {
            self.forget_voice(key, track);
        }
        self.legs[key].group = Some(group);
    }

    fn set_bitrate(&mut self, now: Time, leg: LegId, bits_per_second: Option<u64>) {
        let Some(&key) = self.by_id.get(&leg) else { return };
        let policer = &mut self.legs[key].policer;
        match (bits_per_second, policer.as_mut()) {
            (Some(rate), Some(policer)) => policer.set_rate(rate, now),
            (Some(rate), None) => *policer = Some(Policer::new(rate, now)),
            (None, _) => *policer = None,
        }
    }

    fn remove_leg(&mut self, leg: LegId) {
        let Some(key) = self.by_id.remove(&leg) else { return };
        self.forget_strays(key);
        for index in 0..self.legs[key].outgoing.len() {
            self.detach(key, index);
        }
        for track in 0..self.legs[key].tracks.len() {
            self.end_track(key, track);
        }
        let leg = self.legs.remove(key);
        for ufrag in leg.ice.ufrags() {
            if self.by_ufrag.get(ufrag) == Some(&key) {
                self.by_ufrag.remove(ufrag);
            }
        }
        if let Some(path) = leg.ice.path() {
            self.by_path.remove(&path);
        }
        if let Some(dial) = leg.dial {
            self.by_socket.remove(&dial.socket);
            self.released.push(dial.socket);
        }
    }

    fn send_dtls(&mut self, leg: LegId, datagram: &[u8]) {
        let path = self.by_id.get(&leg).and_then(|key| self.legs[*key].ice.path());
        let Some(path) = path else {
            self.counters.dtls_dropped += 1;
            return;
        };
        let start = self.outbox.start();
        self.outbox.bytes.extend_from_slice(datagram);
        self.outbox.commit(start, path);
        self.counters.dtls_out += 1;
    }

    fn set_keys(&mut self, now: Time, leg: LegId, profile: Profile, local: &Master, remote: &Master) {
        let Some(&key) = self.by_id.get(&leg) else { return };
        if self.host_of(key).is_some() {
            return;
        }
        let leg = &mut self.legs[key];
        let (Some(protector), Some(unprotector)) = (Protector::new(profile, local), Unprotector::new(profile, remote))
        else {
            return; // the caller checked the lengths
        };
        leg.keys = Some(Keys { protector, unprotector });
        leg.positions.clear();
        for stream in leg.streams.values_mut() {
            stream.position = PacketIndex::default();
        }
        for former in &mut leg.former {
            former.position = PacketIndex::default();
        }
        let path = leg.ice.path();
        for mut datagram in std::mem::take(&mut leg.early) {
            if let Some(path) = path {
                self.datagram(now, path, &mut datagram);
            }
        }
    }

    fn set_plan(&mut self, leg: LegId, plan: Plan) {
        let Some(&key) = self.by_id.get(&leg) else { return };
        let away = self.host_of(key).is_some();
        let leg = &mut self.legs[key];
        leg.plans = leg.plans.wrapping_add(1);
        leg.payloads = payload_table(&plan.payloads);
        leg.extensions = ExtensionIds::new(plan.extensions.iter().map(|(uri, id)| (uri.as_str(), *id)));

        for index in 0..self.legs[key].tracks.len() {
            let Some(track) = &self.legs[key].tracks[index] else { continue };
            let stays = plan.lines.iter().any(|line| line.mid == track.mid && line.receive.is_some());
            if !stays {
                self.end_track(key, index);
            }
        }
        for index in 0..self.legs[key].outgoing.len() {
            let Some(outgoing) = &self.legs[key].outgoing[index] else { continue };
            let stays = plan.lines.iter().any(|line| {
                let layers = line.send.iter().enumerate();
                line.mid == outgoing.mid && layers.map(place_in_line).any(|layer| layer == outgoing.layer)
            });
            if !stays {
                self.end_outgoing(key, index);
            }
        }
        for line in plan.lines {
            if let Some(receive) = line.receive {
                self.receive_on(key, &line.mid, line.kind, receive);
            }
            for (index, transmit) in line.send.into_iter().enumerate().filter(|_| !away) {
                let layer = place_in_line((index, &transmit));
                self.transmit_on(key, &line.mid, layer, transmit);
            }
        }
        let leg = &mut self.legs[key];
        for outgoing in leg.outgoing.iter_mut().flatten() {
            let transmit = &outgoing.transmit;
            let template = |ssrc, pt, names| {
                let rid = transmit.rid.as_deref().map(|rid| (names, rid));
                Template::new(ssrc, pt, &outgoing.mid, rid, &leg.extensions)
            };
            outgoing.template = template(transmit.ssrc, transmit.pt, Extension::Rid);
            outgoing.repairs = transmit.rtx.map(|(ssrc, pt)| template(ssrc, pt, Extension::RepairedRid));
        }
    }

    fn receive_on(&mut self, key: usize, mid: &str, kind: Kind, receive: Receive) {
        let leg = &mut self.legs[key];
        let born = leg.plans;
        let index = leg.track_on(mid);
        let present = index.and_then(|index| leg.tracks[index].as_deref_mut());
        if present.as_ref().is_some_and(|track| track.kind == kind && track.receive == receive) {
            return;
        }
        let signalled = receive.ssrcs.clone();
        let index = match (index, present) {
            (Some(index), Some(track)) if track.kind == kind && track.receive.rids == receive.rids => {
                track.receive = receive; // other ssrcs only: what was learnt stays
                index
            }
            (Some(index), Some(track)) => {
                let mut fresh = Track::new(mid.to_owned(), kind, receive, born);
                fresh.size = track.size;
                fresh.first = track.first;
                fresh.flows = track.flows;
                fresh.subscribers = std::mem::take(&mut track.subscribers);
                fresh.abroad = std::mem::take(&mut track.abroad);
                fresh.asked = track.asked;
                let subscribers = fresh.subscribers.clone();
                if let Some(former) = leg.tracks[index].replace(Box::new(fresh)) {
                    leg.retire_sources(index, &former);
                }
                for (leg, outgoing) in subscribers {
                    if let Some(outgoing) = &mut self.legs[leg].outgoing[outgoing] {
                        outgoing.pause();
                    }
                }
                self.recall_sources(key, index);
                index
            }
            _ => {
                let index = place(&mut leg.tracks, Box::new(Track::new(mid.to_owned(), kind, receive, born)));
                self.recall_sources(key, index);
                index
            }
        };
        let simple = self.legs[key].tracks[index].as_ref().is_some_and(|track| track.layers.len() == 1);
        if let (Some((ssrc, rtx)), true) = (signalled.first(), simple) {
            let layer = LayerKey { track: index, layer: 0 };
            self.assign(key, *ssrc, layer, false);
            if let Some(rtx) = rtx {
                self.assign(key, *rtx, layer, true);
            }
        }
    }

    /// Sources that were on the line of this new track before belong to it again.
    fn recall_sources(&mut self, key: usize, index: usize) {
        for (place, source) in self.legs[key].returning_sources(index) {
            if self.legs[key].streams.contains_key(&source.ssrc) {
                continue; // it went on elsewhere
            }
            self.assign(key, source.ssrc, place, source.repairs);
            if let Some(stream) = self.legs[key].streams.get_mut(&source.ssrc) {
                stream.position = source.position;
            }
        }
    }

    /// A source belongs to this layer from now on, in place of the one before it.
    pub(super) fn assign(&mut self, key: usize, ssrc: u32, place: LayerKey, repairs: bool) {
        let leg = &mut self.legs[key];
        let Some(layer) = leg.layer_mut(place) else { return };
        let before = if repairs { layer.rtx_ssrc.replace(ssrc) } else { layer.ssrc };
        if !repairs && before != Some(ssrc) {
            layer.replace_source(ssrc);
        }
        if let Some(before) = before.filter(|before| *before != ssrc) {
            leg.streams.remove(&before);
        }
        match leg.streams.entry(ssrc) {
            Entry::Vacant(entry) => drop(entry.insert(Stream::new(place, repairs))),
            Entry::Occupied(mut entry) => {
                // SRTP goes on counting for this source wherever it belongs; the rest starts anew.
                let stream = entry.get_mut();
                let (left, repaired) = (stream.layer, stream.repairs);
                if left != place || repaired != repairs {
                    let position = stream.position;
                    *stream = Stream { position, ..Stream::new(place, repairs) };
                    if let Some(left) = leg.layer_mut(left) {
                        let left = if repaired { &mut left.rtx_ssrc } else { &mut left.ssrc };
                        left.take_if(|left| *left == ssrc);
                    }
                }
            }
        }
    }

    fn transmit_on(&mut self, key: usize, mid: &str, layer: Option<usize>, transmit: Transmit) {
        let first_index = self.random() & 0x7fff; // below 2^15: room to reorder before the first wrap (RFC 3711, 3.3.1)
        let first_repair = self.random() & 0x7fff;
        let timestamp_offset = self.random() as u32;
        let leg = &mut self.legs[key];
        let codec = leg.codec(transmit.pt);
        let has_layer = |index: &usize| leg.outgoing[*index].as_ref().is_some_and(|outgoing| outgoing.layer == layer);
        let index = leg.outgoing_on(mid).into_iter().find(has_layer);
        if let Some(index) = index
            && let Some(outgoing) = &mut leg.outgoing[index]
            && outgoing.transmit.ssrc == transmit.ssrc
            && outgoing.transmit.rtx == transmit.rtx
        {
            outgoing.transmit = transmit;
            outgoing.codec = codec;
            return;
        }
        let before = index.and_then(|index| leg.outgoing[index].take());
        if let Some(before) = &before {
            retire(leg, before);
        }
        let resumed = |ssrc: u32, first: u64| leg.positions.get(&ssrc).copied().unwrap_or(first);
        let outgoing = Box::new(Outgoing {
            mid: mid.to_owned(),
            layer,
            codec,
            source: before.as_ref().and_then(|before| before.source),
            sizes: before.as_ref().map_or_else(Vec::new, |before| before.sizes.clone()),
            current: None,
            limit: before.as_ref().map_or(Limit::None, |before| before.limit),
            target: before.as_ref().and_then(|before| before.target),
            cut: before.as_ref().map_or_else(Cut::default, |before| before.cut),
            rewriter: Rewriter::new(resumed(transmit.ssrc, first_index), timestamp_offset),
            cache: Cache::default(),
            repeats: Repeats::default(),
            template: Template::default(),
            repairs: None,
            rtx_next: transmit.rtx.map_or(0, |(ssrc, _)| resumed(ssrc, first_repair)),
            packets: 0,
            octets: 0,
            report: RemoteReport::default(),
            doubled: false,
            plain: false,
            transmit,
        });
        let ssrc = outgoing.transmit.ssrc;
        let index = match index {
            Some(index) => {
                leg.outgoing[index] = Some(outgoing);
                index
            }
            None => place(&mut leg.outgoing, outgoing),
        };
        leg.outgoing_by_ssrc.insert(ssrc, index);
    }

    fn end_outgoing(&mut self, key: usize, index: usize) {
        self.detach(key, index);
        let leg = &mut self.legs[key];
        if let Some(outgoing) = leg.outgoing[index].take() {
            retire(leg, &outgoing);
        }
    }

    fn end_track(&mut self, key: usize, index: usize) {
        self.forget_voice(key, index);
        let leg = &mut self.legs[key];
        let Some(track) = leg.tracks.get_mut(index).and_then(Option::take) else { return };
        leg.retire_sources(index, &track);
        for (leg, outgoing) in track.subscribers {
            if let Some(outgoing) = &mut self.legs[leg].outgoing[outgoing] {
                outgoing.detach();
            }
        }
    }

    fn forget_voice(&mut self, key: usize, track: usize) {
        self.forget_loudness(key, track);
        if let Some(group) = self.legs[key].group
            && let Entry::Occupied(mut speakers) = self.speakers.entry(group)
        {
            speakers.get_mut().remove((key, track));
            if speakers.get().is_empty() {
                speakers.remove();
            }
        }
    }

    fn describe_track(&mut self, now: Time, (leg, mid): (LegId, &str), size: Option<Size>, first: bool) {
        let Some(&key) = self.by_id.get(&leg) else { return };
        let Some(index) = self.legs[key].track_on(mid) else { return };
        if let Some(track) = &mut self.legs[key].tracks[index] {
            track.size = size;
            track.first = first;
        }
        self.select(now, key, index);
    }

    fn forward(&mut self, now: Time, to: (LegId, &str), from: (LegId, &str), sizes: &[Option<Size>]) {
        let (Some(&key), Some(&source)) = (self.by_id.get(&to.0), self.by_id.get(&from.0)) else { return };
        let Some(track) = self.legs[source].track_on(from.1) else { return };
        if self.host_of(key).is_some() {
            return;
        }
        if sizes.is_empty() {
            return self.stop_forward(to.0, to.1);
        }
        for index in self.legs[key].outgoing_on(to.1) {
            let Some(outgoing) = &mut self.legs[key].outgoing[index] else { continue };
            outgoing.sizes = sizes.to_vec();
            if outgoing.source == Some((source, track)) {
                continue;
            }
            self.detach(key, index);
            if let Some(outgoing) = &mut self.legs[key].outgoing[index] {
                outgoing.source = Some((source, track));
            }
            if let Some(track) = &mut self.legs[source].tracks[track] {
                track.subscribers.push((key, index));
            }
        }
        self.tell_interest(source, track);
        self.select(now, source, track);
    }

    fn stop_forward(&mut self, leg: LegId, mid: &str) {
        let Some(&key) = self.by_id.get(&leg) else { return };
        for index in self.legs[key].outgoing_on(mid) {
            self.detach(key, index);
        }
    }

    /// Ends what is sent on a line; the line stays.
    pub(super) fn detach(&mut self, key: usize, index: usize) {
        let Some(outgoing) = self.legs[key].outgoing.get_mut(index).and_then(Option::as_mut) else { return };
        let source = outgoing.source;
        outgoing.detach();
        if let Some((leg, place)) = source
            && let Some(Some(track)) = self.legs[leg].tracks.get_mut(place)
        {
            track.subscribers.retain(|subscriber| *subscriber != (key, index));
            self.tell_interest(leg, place);
        }
    }
}

/// The place of a stream among its line's simulcast layers, if it is one.
fn place_in_line((index, transmit): (usize, &Transmit)) -> Option<usize> {
    transmit.rid.as_ref().map(|_| index)
}

/// Remembers where a sent source stopped: should it come back under the same keys, it goes on from there.
fn retire(leg: &mut Leg, outgoing: &Outgoing) {
    leg.outgoing_by_ssrc.remove(&outgoing.transmit.ssrc);
    leg.positions.insert(outgoing.transmit.ssrc, outgoing.rewriter.next_index());
    if let Some((ssrc, _)) = outgoing.transmit.rtx {
        leg.positions.insert(ssrc, outgoing.rtx_next);
    }
}

fn payload_table(payloads: &[Payload]) -> [Option<PayloadType>; 128] {
    let mut table = [None; 128];
    for payload in payloads {
        let meaning = if payload.codec.eq_ignore_ascii_case("rtx") {
            payload.apt.map(PayloadType::Repair)
        } else if payload.codec.eq_ignore_ascii_case("red") {
            payload.apt.map(PayloadType::Redundant)
        } else {
            let codec = Codec::by_name(&payload.codec).filter(|codec| codec.clock_rate() == payload.clock_rate);
            codec.map(PayloadType::Media)
        };
        if let Some(slot) = table.get_mut(usize::from(payload.pt)) {
            *slot = meaning;
        }
    }
    table
}
