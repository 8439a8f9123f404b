//! Holds what is sent to a leg against what its link carries: which pictures in which layer, and which not at all.

use super::incoming::Track;
use super::outgoing::Limit;
use super::plan::Kind;
use super::{Engine, Event};
use crate::route::frame::Cell;
use crate::route::layers::Choice;
use crate::route::share::{Picture, share, wished};
use crate::time::{MILLISECOND, Time};

/// How often the link of each leg is looked at.
pub const INTERVAL: u64 = 100 * MILLISECOND;
/// A layer of which nothing was measured yet counts as so many bits per second for each pixel of its picture.
const BITS_PER_PIXEL: u64 = 2;
/// ... or as much in all, where its picture is not known either.
const UNKNOWN: u64 = 500_000;
/// What is looked for, in percent of what is wished: room for repairs, and for what `share` leaves free.
const SPARE: u64 = 120;

/// A layer that takes so much more than all that the link carries, in percent, is not sent until the key frame of a smaller
/// one comes: that key frame would wait behind it, or be lost.
const TOO_MUCH: u64 = 125;

/// Redundant audio is sent without its copies on a link that carries less than so many times all voices with them, ...
const COPIES: u64 = 3;
/// ... until it carries so many times as much.
const COPIES_AGAIN: u64 = 4;

/// What voices take without their copies, in percent of what they take with them.
const WITHOUT_COPIES: u64 = 60;

/// A picture's place: the sent stream, the publishing leg and its track, and the choices and temporal layers that the
/// steps stand for.
struct Shown {
    outgoing: usize,
    source: (usize, usize),
    layers: Vec<(usize, u8)>,
    sent: u64, // bits per second of the layer that is sent now
}

impl Engine {
    /// Shares the link of a leg among what it shows, if its peer tells what the link carries.
    pub(super) fn share_link(&mut self, now: Time, key: usize) {
        let budget = self.legs[key].bandwidth.available();
        if budget.is_none() && self.legs[key].outgoing.iter().flatten().all(|outgoing| outgoing.limit == Limit::None) {
            return;
        }
        let (mut voices, mut spared) = (0, 0);
        let (mut shown, mut pictures) = (Vec::new(), Vec::new());
        for (index, outgoing) in self.legs[key].outgoing.iter().enumerate() {
            let Some(outgoing) = outgoing else { continue };
            let Some((leg, place)) = outgoing.source.filter(|_| outgoing.layer.is_none()) else { continue };
            let Some(Some(track)) = self.legs.get(leg).and_then(|leg| leg.tracks.get(place)) else { continue };
            if track.kind == Kind::Audio {
                let all = Choice { spatial: Cell::ALL.spatial, ..Choice::default() };
                let takes = if self.has_voice(leg, place) { bits(track, &all) } else { 0 };
                voices += takes;
                spared += if outgoing.plain { takes * (100 - WITHOUT_COPIES) / 100 } else { 0 };
                continue;
            }
            let choices = track.choices();
            let Some(wish) = outgoing.choose(track, &choices) else { continue };
            let (layers, steps) = steps(track, &choices, wish);
            let cut = outgoing.cut.current();
            let carries = |choice: &Choice| {
                outgoing.current.is_some_and(|(layer, _)| choice.layer == layer) && choice.spatial <= cut.spatial
            };
            let current = choices.iter().position(carries);
            let sent = current.and_then(|now| {
                let reached = |(layer, temporal): &(usize, u8)| {
                    *layer < now || (*layer == now && *temporal >= cut.temporal.min(choices[now].temporal))
                };
                layers.iter().position(reached)
            });
            let widest = outgoing.sizes.iter().map(|size| size.map_or(u64::MAX, |(w, h)| u64::from(w) * u64::from(h)));
            let first = track.first || self.speaks(leg);
            pictures.push(Picture { first, area: widest.max().unwrap_or(0), steps, sent });
            // Whoever leaves a layer within one source needs no key frame for that.
            let takes = current.filter(|_| track.layers.len() > 1).map_or(0, |now| bits(track, &choices[now]));
            shown.push(Shown { outgoing: index, source: (leg, place), layers, sent: takes });
        }
        self.spare_copies(key, budget, voices);
        let left = budget.map(|budget| budget.saturating_sub(voices - spared));
        let granted = share(left, &pictures);
        let complete =
            granted.iter().zip(&pictures).all(|(step, picture)| step.map_or(0, |step| step + 1) == picture.steps.len());
        let wish = if complete { 0 } else { (wished(&pictures) + voices) * SPARE / 100 };
        self.legs[key].bandwidth.want(wish);
        for (step, picture) in granted.iter().zip(shown) {
            let wish = picture.layers.last();
            let limit = match step.map(|step| picture.layers[step]) {
                None => Limit::Suspended,
                Some(layer) if Some(&layer) == wish => Limit::None,
                Some((layer, temporal)) => Limit::Layer(layer, temporal),
            };
            if budget.is_some_and(|budget| picture.sent > budget * TOO_MUCH / 100) && limit != Limit::None {
                self.legs[key].outgoing[picture.outgoing].iter_mut().for_each(|outgoing| outgoing.pause());
            }
            self.limit(now, key, picture.outgoing, limit, picture.source);
        }
    }

    /// Voices come before pictures, and what they say now before what they said.
    fn spare_copies(&mut self, key: usize, budget: Option<u64>, voices: u64) {
        let budget = budget.unwrap_or(u64::MAX);
        for outgoing in self.legs[key].outgoing.iter_mut().flatten().filter(|outgoing| outgoing.transmit.red.is_some())
        {
            outgoing.plain = budget / voices.max(1) < if outgoing.plain { COPIES_AGAIN } else { COPIES };
        }
    }

    fn limit(&mut self, now: Time, key: usize, index: usize, limit: Limit, (leg, track): (usize, usize)) {
        let subscriber = &mut self.legs[key];
        let Some(Some(outgoing)) = subscriber.outgoing.get_mut(index) else { return };
        let before = std::mem::replace(&mut outgoing.limit, limit);
        if before == limit {
            return;
        }
        if (before == Limit::Suspended) != (limit == Limit::Suspended) {
            let suspended = limit == Limit::Suspended;
            self.events.push_back(Event::Suspended(subscriber.id, outgoing.mid.clone(), suspended));
            self.counters.forwards_suspended += u64::from(suspended);
        }
        self.select(now, leg, track);
    }

    /// Whether this leg is the dominant speaker of its group.
    fn speaks(&self, key: usize) -> bool {
        let speakers = self.legs[key].group.and_then(|group| self.speakers.get(&group));
        speakers.and_then(|speakers| speakers.dominant()).is_some_and(|(leg, _)| leg == key)
    }
}

/// From the least to what is wished: choices with their temporal layers, and what they cost. Something better that costs
/// no more than what is worse takes its place: a picture is shown with fewer frames before it is shown smaller.
fn steps(track: &Track, choices: &[Choice], wish: usize) -> (Vec<(usize, u8)>, Vec<u64>) {
    let (mut layers, mut steps) = (Vec::new(), Vec::new());
    for (place, choice) in choices.iter().enumerate().skip(wish).rev().filter(|(_, choice)| choice.flows) {
        for temporal in 0..=choice.temporal {
            let cost = bits(track, &Choice { temporal, ..*choice });
            while steps.last().is_some_and(|last| *last >= cost) {
                steps.pop();
                layers.pop();
            }
            steps.push(cost);
            layers.push((place, temporal));
        }
    }
    (layers, steps)
}

/// Bits per second of a choice, measured or guessed.
fn bits(track: &Track, choice: &Choice) -> u64 {
    let cell = Cell { spatial: choice.spatial, temporal: choice.temporal };
    let measured = track.layers[choice.layer].bits_per_second(cell);
    measured.unwrap_or_else(|| match choice.size {
        Some((width, height)) => u64::from(width) * u64::from(height) * BITS_PER_PIXEL,
        None => UNKNOWN,
    })
}
