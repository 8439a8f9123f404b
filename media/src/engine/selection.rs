//! Gives each subscriber of a track the layer it should have, and asks for the key frames that this takes.

use super::Engine;
use super::incoming::Track;
use super::outgoing::{Limit, Outgoing};
use super::plan::Kind;
use crate::time::{MILLISECOND, SECOND, Time};

/// How often the choice is looked at again, besides when something changes.
pub const INTERVAL: u64 = 100 * MILLISECOND;
/// A publisher that sent nothing for this long is not asked for key frames.
const PAUSED: u64 = 5 * SECOND;

impl Engine {
    /// Looks at all tracks that a leg publishes.
    pub(super) fn select_all(&mut self, now: Time, key: usize) {
        for track in 0..self.legs[key].tracks.len() {
            self.select(now, key, track);
        }
    }

    /// Looks at the subscribers of one track.
    pub(super) fn select(&mut self, now: Time, key: usize, index: usize) {
        let group = self.legs[key].group;
        let Some(mut track) = self.legs[key].tracks.get_mut(index).and_then(Option::take) else { return };
        let choices = track.choices();
        let paused = track.newest.is_none_or(|newest| now.since(newest) > PAUSED);
        let (several, watched, counts) = (track.layers.len() > 1, track.is_watched(), self.counts(key));
        let newest = track.newest;
        for (rank, layer) in track.layers.iter_mut().enumerate() {
            let flows = layer.flow.flows(newest);
            let ceased = std::mem::replace(&mut layer.flowed, flows) && !flows;
            if ceased && several && counts {
                self.measured.freezes[rank.min(2)] += 1;
            }
            if paused || !flows || !watched {
                layer.key_frames.settle();
            }
        }
        let mut simulcast = false;
        for &(leg, outgoing) in &track.subscribers {
            if group.is_none() || self.legs[leg].group != group {
                continue;
            }
            let Some(outgoing) = &mut self.legs[leg].outgoing[outgoing] else { continue };
            simulcast |= outgoing.layer.is_some();
            match outgoing.fitting(&track, &choices) {
                Some((target, cut)) => {
                    outgoing.target = Some(target);
                    outgoing.cut.wanted = cut;
                    let waits = !outgoing.has_target(&track) || outgoing.cut.waits();
                    if waits && !paused && track.kind == Kind::Video {
                        track.layers[target].key_frames.want();
                        self.urgent = true;
                    }
                }
                None if outgoing.limit == Limit::Suspended => {
                    outgoing.target = None;
                    outgoing.pause();
                }
                None if outgoing.layer.is_some() => outgoing.target = None,
                None => {}
            }
        }
        if simulcast {
            self.stop_unwanted(&track);
        }
        self.legs[key].tracks[index] = Some(track);
    }

    /// Ends the simulcast layers that nobody takes any more, once those that take their place began.
    fn stop_unwanted(&mut self, track: &Track) {
        let all = track.subscribers.iter();
        let streams: Vec<_> = all.filter_map(|&(leg, index)| Some((leg, index, self.simulcast(leg, index)?))).collect();
        let mut changes = Vec::new();
        for &(leg, index, stream) in &streams {
            let mut siblings = streams.iter().filter(|(other, _, sibling)| *other == leg && sibling.mid == stream.mid);
            let waits = siblings.any(|(_, _, sibling)| sibling.target.is_some() && !sibling.has_target(track));
            let mut before = streams.iter().take_while(|(other, place, _)| (*other, *place) != (leg, index));
            let same = |before: &Outgoing| before.carries().is_some() && before.carries() == stream.carries();
            let doubled = before.any(|(other, _, before)| *other == leg && same(before));
            changes.push((leg, index, stream.target.is_none() && !waits, doubled));
        }
        for (leg, index, stops, doubled) in changes {
            if let Some(outgoing) = &mut self.legs[leg].outgoing[index] {
                outgoing.doubled = doubled;
                if stops && outgoing.current.is_some() {
                    outgoing.pause();
                }
            }
        }
    }

    fn simulcast(&self, leg: usize, index: usize) -> Option<&Outgoing> {
        self.legs[leg].outgoing[index].as_deref().filter(|outgoing| outgoing.layer.is_some())
    }
}
