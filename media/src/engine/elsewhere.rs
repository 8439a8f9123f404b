//! Legs that live in another engine: their packets come from there, what is wished of them goes there.

use super::Engine;
use super::crossing::{Crossing, LayerState, Note, Seat, TrackKey};
use super::ice::{CONSENT, HOLDS_ADDRESS};
use super::incoming::{Layer, LayerKey, Track};
use super::outbox::Path;
use super::plan::LegId;
use super::selection;
use crate::route::packet::Packet;
use crate::route::speaker::{INTERVAL as COMPARISON, Speakers};
use crate::time::Time;

/// An address whose datagrams the kernel gives this engine's thread, of a leg that lives elsewhere: its peer moved there.
#[derive(Clone, Copy, Debug)]
pub struct Stray {
    /// The leg.
    key: usize,
    /// Where it lives.
    host: usize,
    /// When an authenticated request last came from there.
    heard: Time,
}

impl Engine {
    /// Makes it one of several, before it has any leg.
    #[must_use]
    pub fn seated(mut self, seat: Seat) -> Self {
        self.seat = seat;
        self.crossings.resize_with(seat.count, Crossing::default);
        self
    }

    /// What waits to be handed to another engine.
    pub fn crossing(&mut self, other: usize) -> &mut Crossing {
        &mut self.crossings[other]
    }

    /// The engine that a leg lives in, if that is another one.
    pub(super) fn host_of(&self, key: usize) -> Option<usize> {
        self.legs[key].home.get().filter(|host| *host != self.seat.index)
    }

    /// Whether a leg counts here: it lives here, or nowhere yet.
    pub(super) fn counts(&self, key: usize) -> bool {
        self.legs[key].home.get().unwrap_or(0) == self.seat.index
    }

    pub(super) fn tell_all(&mut self, note: &Note) {
        for other in self.seat.others() {
            self.crossings[other].note(note.clone());
        }
    }

    /// The leg lives here from now on, unless it lives elsewhere already. Gives where, in that case.
    pub(super) fn claim(&mut self, key: usize) -> Option<usize> {
        if self.seat == Seat::ALONE {
            return None;
        }
        let leg = &self.legs[key];
        let lived = leg.home.get().is_some();
        let host = leg.home.claim(self.seat.index);
        if host != self.seat.index {
            return Some(host);
        }
        if !lived || leg.dial.is_some() {
            self.tell_all(&Note::Claimed { leg: self.legs[key].id, dials: self.legs[key].dial.is_some() });
        }
        None
    }

    /// Takes what other engines handed over. `sent_on` is told how many subscribers each packet is for.
    pub fn arrive(&mut self, now: Time, crossing: &mut Crossing, mut sent_on: impl FnMut(Option<u64>, u64)) {
        self.finish(now);
        for note in crossing.take_notes() {
            self.on_note(now, note);
        }
        for (path, datagram) in crossing.strays() {
            self.datagram(now, path, datagram);
        }
        for arrived in crossing.packets() {
            let Some(key) = self.known(arrived.track) else { continue };
            let before = self.placed;
            let packet = Packet { payload: self.keep_payload(arrived.payload), ..arrived.packet };
            let place = LayerKey { track: arrived.track.track, layer: arrived.layer };
            self.on_crossed(now, key, place, arrived.epoch, packet);
            sent_on(arrived.received, self.placed - before);
        }
        crossing.forget_packets();
    }

    fn on_crossed(&mut self, now: Time, key: usize, place: LayerKey, epoch: u32, packet: Packet) {
        let away = self.host_of(key).is_some();
        let Some(Some(track)) = self.legs[key].tracks.get_mut(place.track) else { return };
        let wanted = away && !track.subscribers.is_empty();
        let Some(layer) = track.layers.get_mut(place.layer).filter(|_| wanted) else { return };
        layer.follow(epoch);
        layer.reader.follow(&packet);
        self.take_on(now, key, place, packet);
    }

    /// The leg of a track that is still the one that is meant.
    fn known(&self, track: TrackKey) -> Option<usize> {
        let key = *self.by_id.get(&track.leg)?;
        let present = self.legs[key].tracks.get(track.track)?.as_ref()?;
        (present.born == track.born).then_some(key)
    }

    fn on_note(&mut self, now: Time, note: Note) {
        match note {
            Note::Claimed { leg, dials } => self.on_claimed(leg, dials),
            Note::Used { leg, ufrag } => {
                if let Some(&key) = self.by_id.get(&leg)
                    && let Some(ended) = self.legs[key].ice.on_used(&ufrag)
                {
                    self.by_ufrag.remove(&ended);
                }
            }
            Note::Interest { leg, mid, wanted, engine } => self.on_interest(leg, &mid, wanted, engine),
            Note::KeyFrame { track, layer } => {
                if let Some(key) = self.known(track)
                    && let Some(layer) = self.legs[key].layer_mut(LayerKey { track: track.track, layer })
                {
                    layer.key_frames.want();
                    self.urgent = true;
                    self.send_feedback(now, key);
                }
            }
            Note::State { track, newest, ntp_offset, layers } => {
                if let Some(key) = self.known(track).filter(|key| self.host_of(*key).is_some()) {
                    self.legs[key].ntp_offset = ntp_offset;
                    self.take_state(key, track.track, newest, &layers);
                    self.select(now, key, track.track);
                }
            }
            Note::Levels { track, heard } => {
                if let Some(key) = self.known(track)
                    && let Some(group) = self.legs[key].group
                {
                    let speakers = self.speakers.entry(group).or_insert_with(|| Speakers::new(now));
                    speakers.on_levels((key, track.track), heard.sum, heard.count);
                }
            }
            Note::Unlatched { leg, path } => {
                if let Some(&key) = self.by_id.get(&leg)
                    && self.legs[key].ice.path() == Some(path)
                {
                    self.legs[key].ice.unlatch();
                    self.by_path.remove(&path);
                }
            }
        }
    }

    /// Here the leg is only a publisher from now on.
    fn on_claimed(&mut self, leg: LegId, dials: bool) {
        let Some(&key) = self.by_id.get(&leg) else { return };
        if self.host_of(key).is_none() {
            return;
        }
        for index in 0..self.legs[key].outgoing.len() {
            self.detach(key, index);
            self.legs[key].outgoing[index] = None;
        }
        let leg = &mut self.legs[key];
        leg.outgoing_by_ssrc.clear();
        leg.positions.clear();
        leg.early.clear();
        leg.keys = None;
        leg.policer = None;
        if dials {
            for ufrag in leg.ice.ufrags() {
                self.by_ufrag.remove(ufrag);
            }
        }
        for track in 0..self.legs[key].tracks.len() {
            self.tell_interest(key, track);
        }
    }

    /// Tells where a track comes from whether anybody here is sent it, if that changed.
    pub(super) fn tell_interest(&mut self, key: usize, index: usize) {
        let Some(host) = self.host_of(key) else { return };
        let leg = &mut self.legs[key];
        let Some(Some(track)) = leg.tracks.get_mut(index) else { return };
        let wanted = !track.subscribers.is_empty();
        if std::mem::replace(&mut track.asked, wanted) == wanted {
            return;
        }
        if !wanted {
            track.newest = None;
            track.layers.iter_mut().for_each(|layer| *layer = Layer::default());
        }
        let note = Note::Interest { leg: leg.id, mid: track.mid.clone(), wanted, engine: self.seat.index };
        self.crossings[host].note(note);
    }

    fn on_interest(&mut self, leg: LegId, mid: &str, wanted: bool, engine: usize) {
        let Some(&key) = self.by_id.get(&leg) else { return };
        let Some(index) = self.legs[key].track_on(mid) else { return };
        let Some(track) = &mut self.legs[key].tracks[index] else { return };
        track.abroad.retain(|known| *known != engine);
        if wanted {
            track.abroad.push(engine);
            self.tell_state(key, index);
        }
    }

    /// Tells the engines where a track's packets go what is known of it.
    pub(super) fn tell_state(&mut self, key: usize, index: usize) {
        let leg = &self.legs[key];
        let Some(Some(track)) = leg.tracks.get(index) else { return };
        let state = |layer: &Layer| LayerState {
            epoch: layer.epoch,
            reader: layer.reader.clone(),
            flow: layer.flow,
            meter: layer.meter,
            clock: layer.clock,
        };
        for &engine in &track.abroad {
            self.crossings[engine].note(Note::State {
                track: TrackKey { leg: leg.id, track: index, born: track.born },
                newest: track.newest,
                ntp_offset: leg.ntp_offset,
                layers: track.layers.iter().map(state).collect(),
            });
        }
    }

    fn take_state(&mut self, key: usize, index: usize, newest: Option<Time>, states: &[LayerState]) {
        let Some(Some(track)) = self.legs[key].tracks.get_mut(index) else { return };
        track.newest = track.newest.max(newest);
        for (layer, state) in track.layers.iter_mut().zip(states) {
            layer.follow(state.epoch);
            layer.clock = state.clock;
            if layer.flow.last_packet().is_none() {
                (layer.flow, layer.meter) = (state.flow, state.meter); // later this is seen here
                layer.reader = state.reader.clone();
            }
        }
    }

    /// A packet goes to the other engines where subscribers of its track live.
    pub(super) fn cross(&mut self, leg: LegId, track: &Track, place: LayerKey, packet: &Packet) {
        let name = TrackKey { leg, track: place.track, born: track.born };
        let epoch = track.layers[place.layer].epoch;
        for &engine in &track.abroad {
            self.crossings[engine].packet(name, (place.layer, epoch), packet, self.received);
        }
        self.counters.threads_crossed += track.abroad.len() as u64;
    }

    /// What is due of a leg that lives elsewhere.
    pub(super) fn tick_elsewhere(&mut self, now: Time, key: usize, host: usize) {
        if now >= self.legs[key].timers.selection {
            self.legs[key].timers.selection = now + selection::INTERVAL;
            self.select_all(now, key);
        }
        let leg = &mut self.legs[key];
        for (index, track) in leg.tracks.iter_mut().enumerate() {
            let Some(track) = track else { continue };
            for (layer, state) in track.layers.iter_mut().enumerate() {
                self.urgent |= state.key_frames.is_wanted();
                if state.key_frames.due(now) {
                    let track = TrackKey { leg: leg.id, track: index, born: track.born };
                    self.crossings[host].note(Note::KeyFrame { track, layer });
                }
            }
        }
    }

    /// Tells the others how loud the voices were that live here, and forgets addresses that are not used any more.
    pub(super) fn tick_seat(&mut self, now: Time) {
        if !self.strays.is_empty() {
            self.strays.retain(|_, stray| now.since(stray.heard) < CONSENT);
        }
        if now.since(self.levels_told) < COMPARISON {
            return;
        }
        self.levels_told = now;
        for (_, leg) in &mut self.legs {
            for (index, track) in leg.tracks.iter_mut().enumerate() {
                let Some(track) = track.as_mut().filter(|track| track.heard.count > 0) else { continue };
                let heard = std::mem::take(&mut track.heard);
                let track = TrackKey { leg: leg.id, track: index, born: track.born };
                for other in self.seat.others() {
                    self.crossings[other].note(Note::Levels { track, heard });
                }
            }
        }
    }

    /// Whether an authenticated request is not this engine's to answer: its leg lives elsewhere, and it was handed over, or
    /// its address belongs to such a leg.
    pub(super) fn hands_over_check(
        &mut self,
        now: Time,
        key: usize,
        path: Path,
        nominates: bool,
        check: &[u8],
    ) -> bool {
        if self.seat == Seat::ALONE {
            return false;
        }
        let host = if nominates { self.claim(key) } else { self.host_of(key) };
        match self.strays.get_mut(&path) {
            Some(stray) if stray.key == key => stray.heard = now,
            Some(stray) if nominates => {
                if now.since(stray.heard) < HOLDS_ADDRESS {
                    self.counters.latch_refused += 1;
                    return true;
                }
                let (leg, host) = (self.legs[stray.key].id, stray.host);
                self.crossings[host].note(Note::Unlatched { leg, path });
                self.strays.remove(&path);
            }
            _ => {}
        }
        let Some(host) = host else { return false };
        if nominates && !self.strays.contains_key(&path) {
            if let Some(&holder) = self.by_path.get(&path) {
                if self.legs[holder].ice.holds_address(now) {
                    self.counters.latch_refused += 1;
                    return true;
                }
                self.legs[holder].ice.unlatch();
                self.by_path.remove(&path);
            }
            self.strays.retain(|_, stray| stray.key != key); // one address for each leg
            self.strays.insert(path, Stray { key, host, heard: now });
        }
        self.crossings[host].stray(path, check);
        self.counters.threads_handed_over += 1;
        true
    }

    /// A datagram from an address that no leg here has.
    pub(super) fn hand_over(&mut self, path: Path, datagram: &[u8]) {
        match self.strays.get(&path) {
            Some(stray) => {
                self.crossings[stray.host].stray(path, datagram);
                self.counters.threads_handed_over += 1;
            }
            None => self.counters.dropped_unknown_address += 1,
        }
    }

    /// Forgets the addresses of a leg that ends.
    pub(super) fn forget_strays(&mut self, key: usize) {
        self.strays.retain(|_, stray| stray.key != key);
    }
}
