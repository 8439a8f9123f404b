//! Gives each subscriber of a track the layer it should have, and asks for the key frames that this takes.

use super::Engine;
use crate::route::layers;
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
        for (layer, choice) in track.layers.iter_mut().zip(&choices) {
            if paused || !choice.flows || track.subscribers.is_empty() {
                layer.key_frames.settle();
            }
        }
        for &(leg, outgoing) in &track.subscribers {
            if group.is_none() || self.legs[leg].group != group {
                continue;
            }
            let Some(outgoing) = &mut self.legs[leg].outgoing[outgoing] else { continue };
            let Some(target) = layers::choose(&choices, outgoing.size) else { continue };
            outgoing.target = Some(target);
            let layer = &mut track.layers[target];
            if outgoing.current != Some((target, layer.epoch)) && !paused {
                layer.key_frames.want();
            }
        }
        self.legs[key].tracks[index] = Some(track);
    }
}
