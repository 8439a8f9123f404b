//! Which voices of a group are passed on where only the loudest few are.
//!
//! Somebody who begins to speak is heard from that very packet on, as long as a place is free or one of those who have
//! one has been silent for a while. Where all speak, a place changes hands as the dominant speaker does: to somebody
//! clearly louder, after a while. Who has a place keeps it through the pauses of speech.

use std::collections::HashMap;
use std::hash::Hash;

use super::speaker::{INTERVAL, MARGIN, ROUNDS, SPEAKING};
use crate::time::{MILLISECOND, Time};

/// Somebody silent for so long may lose the place to whoever begins to speak.
const PAUSE: u64 = 500 * MILLISECOND;
/// How long somebody must be louder than who speaks to take the place.
const LOUDER: u64 = ROUNDS as u64 * INTERVAL;
/// Time in which loudness follows what is said.
const SMOOTHING: u64 = 300 * MILLISECOND;

#[derive(Debug)]
struct Voice {
    loudness: f32,        // smoothed, of speech: pauses do not count
    spoke: Option<Time>,  // last
    louder: Option<Time>, // since when it is louder than the quietest that is heard
}

/// Whether a packet is passed on, and who is not heard any more for its sake.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict<K> {
    /// It is passed on.
    pub heard: bool,
    /// This voice has lost its place.
    pub displaced: Option<K>,
}

/// The voices of one group.
#[derive(Debug)]
pub struct Voices<K> {
    voices: HashMap<K, Voice>,
    heard: Vec<K>,
}

impl<K> Default for Voices<K> {
    fn default() -> Self {
        Self { voices: HashMap::new(), heard: Vec::new() }
    }
}

impl<K: Copy + Eq + Hash + Ord> Voices<K> {
    /// Notes a packet's audio level as it is on the wire: 0 is the loudest, 127 silence; the top bit is the VAD's.
    /// `most` voices are heard at a time, one at least.
    pub fn on_level(&mut self, now: Time, track: K, level: u8, most: usize) -> Verdict<K> {
        let level = f32::from(127 - (level & 0x7f));
        let nobody = Voice { loudness: 0.0, spoke: None, louder: None };
        let voice = self.voices.entry(track).or_insert(nobody);
        let speaks = level >= SPEAKING;
        if speaks {
            let elapsed = voice.spoke.map_or(SMOOTHING, |spoke| now.since(spoke)); // from the first packet on
            voice.loudness += (elapsed as f32 / SMOOTHING as f32).min(1.0) * (level - voice.loudness);
            voice.spoke = Some(now);
        } else {
            voice.louder = None;
        }
        let loudness = voice.loudness;
        let displaced = if self.heard.len() > most {
            self.quietest() // fewer may be heard than before
        } else if self.heard.contains(&track) || !speaks {
            None
        } else {
            let full = self.heard.len() >= most;
            let other = if full { self.silent(now).or_else(|| self.outdone(now, track, loudness)) } else { None };
            if !full || other.is_some() {
                self.heard.push(track);
                self.voices.entry(track).and_modify(|voice| voice.louder = None);
            }
            other
        };
        self.heard.retain(|key| Some(*key) != displaced);
        Verdict { heard: self.heard.contains(&track), displaced }
    }

    /// Who of those heard has been silent the longest, if that is long.
    fn silent(&self, now: Time) -> Option<K> {
        let heard = self.heard.iter().map(|key| (self.voices.get(key).and_then(|voice| voice.spoke), *key));
        let (spoke, key) = heard.min()?;
        spoke.is_none_or(|spoke| now.since(spoke) >= PAUSE).then_some(key)
    }

    /// The quietest of those heard, once this one has been clearly louder for a while.
    fn outdone(&mut self, now: Time, track: K, loudness: f32) -> Option<K> {
        let quietest = self.quietest()?;
        let louder = loudness >= self.voices.get(&quietest)?.loudness + MARGIN;
        let voice = self.voices.get_mut(&track)?;
        voice.louder = voice.louder.or(Some(now)).filter(|_| louder);
        voice.louder.is_some_and(|since| now.since(since) >= LOUDER).then_some(quietest)
    }

    fn quietest(&self) -> Option<K> {
        let heard = self.heard.iter().filter_map(|key| Some((self.voices.get(key)?.loudness, *key)));
        heard.min_by(|(x, a), (y, b)| x.total_cmp(y).then(a.cmp(b))).map(|(_, key)| key)
    }

    /// Whether what comes of this track is passed on now.
    pub fn is_heard(&self, track: K) -> bool {
        self.heard.contains(&track) || !self.voices.contains_key(&track)
    }

    /// The track is gone.
    pub fn remove(&mut self, track: K) {
        self.voices.remove(&track);
        self.heard.retain(|key| *key != track);
    }

    /// Nobody is left.
    pub fn is_empty(&self) -> bool {
        self.voices.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::SECOND;

    const QUIET: u8 = 127;

    struct Room {
        voices: Voices<u8>,
        now: Time,
        most: usize,
    }

    impl Room {
        fn new(most: usize) -> Self {
            Self { voices: Voices::default(), now: Time::from_micros(SECOND), most }
        }

        /// Lets these speak at these levels for so long; gives who was heard in each round of 20 ms.
        fn speak(&mut self, millis: u64, levels: &[(u8, u8)]) -> Vec<Vec<u8>> {
            let rounds = (0..millis / 20).map(|_| {
                self.now = self.now + 20 * MILLISECOND;
                let heard = levels
                    .iter()
                    .filter(|(track, level)| self.voices.on_level(self.now, *track, *level, self.most).heard);
                heard.map(|(track, _)| *track).collect()
            });
            rounds.collect()
        }
    }

    #[test]
    fn who_begins_to_speak_is_heard_from_that_packet_on_while_there_is_room() {
        let mut room = Room::new(2);
        assert!(room.speak(500, &[(1, QUIET), (2, QUIET), (3, QUIET)]).iter().all(Vec::is_empty));
        assert!(room.speak(500, &[(1, 30), (2, QUIET), (3, 40)]).iter().all(|heard| *heard == [1, 3]));
        room.speak(1000, &[(1, QUIET), (2, QUIET), (3, 40)]);
        assert!(
            room.speak(500, &[(1, QUIET), (2, 50), (3, 40)]).iter().all(|heard| heard.ends_with(&[2, 3])),
            "1 is silent"
        );
    }

    #[test]
    fn nobody_is_cut_off_in_a_pause_and_equal_voices_do_not_take_turns() {
        let mut room = Room::new(2);
        room.speak(1000, &[(1, 30), (2, 30)]);
        for _ in 0..20 {
            assert!(room.speak(400, &[(1, 30), (2, 30), (3, 28)]).iter().all(|heard| *heard == [1, 2]));
            assert!(room.speak(400, &[(1, QUIET), (2, 30), (3, 30)]).iter().all(|heard| *heard == [1, 2]));
        }
    }

    #[test]
    fn who_is_clearly_louder_for_a_while_takes_the_place_of_the_quietest() {
        let mut room = Room::new(2);
        room.speak(1000, &[(1, 30), (2, 45)]);
        assert!(room.speak(300, &[(1, 30), (2, 45), (3, 20)]).iter().all(|heard| *heard == [1, 2]), "a cough");
        room.speak(1000, &[(1, 30), (2, 45), (3, QUIET)]);
        let rounds = room.speak(2000, &[(1, 30), (2, 45), (3, 20)]);
        assert_eq!(rounds.last().unwrap(), &[1, 3]);
        let first = rounds.iter().position(|heard| heard.contains(&3)).unwrap();
        assert!(rounds[..first].iter().all(|heard| *heard == [1, 2]), "nobody else in between");
        assert!(rounds[first + 1..].iter().all(|heard| *heard == [1, 3]), "once");
    }

    #[test]
    fn never_are_more_heard_than_may_be_also_when_that_changes() {
        let mut room = Room::new(3);
        let all: Vec<(u8, u8)> = (1..10).map(|track| (track, 20 + track)).collect();
        assert!(room.speak(2000, &all).iter().all(|heard| heard.len() == 3));
        room.most = 1;
        let rounds = room.speak(200, &all);
        assert!(rounds[1..].iter().all(|heard| heard.len() == 1), "{rounds:?}");
        room.voices.remove(1);
        assert_eq!(room.speak(20, &all[1..]).concat().len(), 1);
    }
}
