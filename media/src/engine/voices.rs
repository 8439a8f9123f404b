//! Where only the loudest voices of a group are passed on: the others end here, before anything is done for a subscriber.

use std::collections::hash_map::Entry;

use super::Engine;
use crate::proto::extensions::Extension;
use crate::route::packet::{Codec, Packet};

impl Engine {
    pub(super) fn set_loudest(&mut self, voices: usize) {
        self.loudest = voices;
        if voices == 0 {
            self.voices.clear();
        }
    }

    /// Whether a packet is passed on. One that does not say how loud it is, is.
    pub(super) fn is_heard(&mut self, key: usize, track: usize, packet: &Packet) -> bool {
        if self.loudest == 0 || packet.codec != Codec::Opus {
            return true;
        }
        let (Some(&[level]), Some(group)) = (packet.passed.get(Extension::AudioLevel), self.legs[key].group) else {
            return true;
        };
        let voices = self.voices.entry(group).or_default();
        let verdict = voices.on_level(packet.arrival, (key, track), level, self.loudest);
        if let Some((key, track)) = verdict.displaced {
            self.silence(key, track);
        }
        self.counters.voices_withheld += u64::from(!verdict.heard);
        verdict.heard
    }

    /// Whether what a track sends is passed on now.
    pub(super) fn has_voice(&self, key: usize, track: usize) -> bool {
        let voices = self.legs[key].group.and_then(|group| self.voices.get(&group));
        voices.is_none_or(|voices| voices.is_heard((key, track)))
    }

    pub(super) fn forget_loudness(&mut self, key: usize, track: usize) {
        if let Some(group) = self.legs[key].group
            && let Entry::Occupied(mut voices) = self.voices.entry(group)
        {
            voices.get_mut().remove((key, track));
            if voices.get().is_empty() {
                voices.remove();
            }
        }
    }

    /// What is sent next of a track follows without a gap on what was sent last.
    fn silence(&mut self, key: usize, track: usize) {
        let Some(Some(track)) = self.legs.get(key).and_then(|leg| leg.tracks.get(track)) else { return };
        for (leg, outgoing) in track.subscribers.clone() {
            if let Some(outgoing) = &mut self.legs[leg].outgoing[outgoing] {
                outgoing.pause();
            }
        }
    }
}
