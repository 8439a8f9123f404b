//! Who speaks in a group: audio levels in, the dominant speaker out, with hysteresis against coughs and cross-talk.
//!
//! Each track's loudness is smoothed over some 300 ms. A challenger becomes the speaker once it was clearly louder than
//! the present one for a while; in a silent room a shorter while is enough. Nobody speaking changes nothing.

use std::collections::HashMap;
use std::hash::Hash;

use crate::time::{MILLISECOND, Time};

/// How often loudness is compared.
pub const INTERVAL: u64 = 100 * MILLISECOND;
/// Smoothed loudness (0 silent to 127 full scale) above which somebody speaks: -55 dBov.
pub const SPEAKING: f32 = 72.0;
/// How much louder a challenger must be than who speaks, in dB.
pub const MARGIN: f32 = 6.0;
/// Rounds of `INTERVAL` that a challenger must keep it up against somebody who speaks.
pub const ROUNDS: u8 = 5;
/// Rounds against somebody who is silent.
const ROUNDS_IN_SILENCE: u8 = 2;
/// Share of the new loudness in each round.
const WEIGHT: f32 = 0.3;

#[derive(Debug, Default)]
struct Voice {
    sum: f32,
    count: f32,
    loudness: f32,
    rounds: u8,
}

/// The voices of one group.
#[derive(Debug)]
pub struct Speakers<K> {
    voices: HashMap<K, Voice>,
    dominant: Option<K>,
    compared: Time,
}

impl<K: Copy + Eq + Hash + Ord> Speakers<K> {
    /// A group in which nobody has spoken.
    pub fn new(now: Time) -> Self {
        Self { voices: HashMap::new(), dominant: None, compared: now }
    }

    /// Notes a packet's audio level as it is on the wire: 0 is the loudest, 127 silence; the top bit is the VAD's.
    pub fn on_level(&mut self, track: K, level: u8) {
        let voice = self.voices.entry(track).or_default();
        voice.sum += f32::from(127 - (level & 0x7f));
        voice.count += 1.0;
    }

    /// Notes the levels of several packets by their sum, without the VAD's bits.
    pub fn on_levels(&mut self, track: K, sum: u32, count: u32) {
        let voice = self.voices.entry(track).or_default();
        voice.sum += (127 * count).saturating_sub(sum) as f32;
        voice.count += count as f32;
    }

    /// The track is gone.
    pub fn remove(&mut self, track: K) {
        self.voices.remove(&track);
        self.dominant = self.dominant.filter(|dominant| *dominant != track);
    }

    /// Who spoke last.
    pub fn dominant(&self) -> Option<K> {
        self.dominant
    }

    /// Nobody is left.
    pub fn is_empty(&self) -> bool {
        self.voices.is_empty()
    }

    /// Compares voices, at most every `INTERVAL`; gives the new dominant speaker if there is another one.
    pub fn compare(&mut self, now: Time) -> Option<K> {
        if now.since(self.compared) < INTERVAL {
            return None;
        }
        self.compared = now;
        for voice in self.voices.values_mut() {
            let level = if voice.count > 0.0 { voice.sum / voice.count } else { 0.0 };
            voice.loudness += WEIGHT * (level - voice.loudness);
            (voice.sum, voice.count) = (0.0, 0.0);
        }
        let present = self.dominant.and_then(|key| self.voices.get(&key)).map_or(0.0, |voice| voice.loudness);
        let (threshold, rounds) =
            if present >= SPEAKING { (present + MARGIN, ROUNDS) } else { (SPEAKING, ROUNDS_IN_SILENCE) };
        for (key, voice) in &mut self.voices {
            let challenges = Some(*key) != self.dominant && voice.loudness >= threshold;
            voice.rounds = if challenges { voice.rounds.saturating_add(1) } else { 0 };
        }
        let ready = self.voices.iter().filter(|(_, voice)| voice.rounds >= rounds);
        let (winner, _) = ready.max_by(|(a, x), (b, y)| x.loudness.total_cmp(&y.loudness).then(b.cmp(a)))?;
        self.dominant = Some(*winner);
        self.dominant
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets voices with these levels speak for so long; gives who became dominant, in order.
    fn speak(speakers: &mut Speakers<u8>, now: &mut Time, millis: u64, levels: &[(u8, u8)]) -> Vec<u8> {
        let mut changes = Vec::new();
        for _ in 0..millis / 20 {
            for (track, level) in levels {
                speakers.on_level(*track, *level);
            }
            *now = *now + 20 * MILLISECOND;
            changes.extend(speakers.compare(*now));
        }
        changes
    }

    #[test]
    fn who_speaks_becomes_dominant_and_stays_it_in_silence() {
        let (mut speakers, mut now) = (Speakers::new(Time::default()), Time::default());
        assert_eq!(speak(&mut speakers, &mut now, 2000, &[(1, 127), (2, 90)]), []);
        assert_eq!(speak(&mut speakers, &mut now, 2000, &[(1, 127), (2, 30)]), [2]);
        assert_eq!(speak(&mut speakers, &mut now, 5000, &[(1, 127), (2, 127)]), []);
        assert_eq!(speak(&mut speakers, &mut now, 2000, &[(1, 35), (2, 127)]), [1]);
    }

    #[test]
    fn a_cough_does_not_take_the_floor_and_equal_voices_do_not_flap() {
        let (mut speakers, mut now) = (Speakers::new(Time::default()), Time::default());
        speak(&mut speakers, &mut now, 2000, &[(1, 30), (2, 127)]);
        assert_eq!(speak(&mut speakers, &mut now, 300, &[(1, 30), (2, 5)]), []);
        assert_eq!(speak(&mut speakers, &mut now, 5000, &[(1, 30), (2, 29)]), []);
        assert_eq!(speak(&mut speakers, &mut now, 2000, &[(1, 30), (2, 10)]), [2]);
    }

    #[test]
    fn a_track_that_goes_is_no_longer_dominant() {
        let (mut speakers, mut now) = (Speakers::new(Time::default()), Time::default());
        speak(&mut speakers, &mut now, 1000, &[(1, 20), (2, 40)]);
        speakers.remove(1);
        assert_eq!(speak(&mut speakers, &mut now, 1000, &[(2, 40)]), [2]);
        speakers.remove(2);
        assert!(speakers.is_empty());
    }
}
