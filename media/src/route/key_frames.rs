//! When to ask a publisher for a key frame: wishes for one layer are merged and spaced out (RFC 4585, section 6.3).

use crate::time::{MILLISECOND, Time};

/// Least time between two requests for one layer, however many want it.
pub const SPACING: u64 = 500 * MILLISECOND;

/// The wishes for key frames of one layer.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeyFrames {
    wanted: bool,
    asked: Option<Time>,
}

impl KeyFrames {
    /// Somebody cannot go on without a key frame.
    pub fn want(&mut self) {
        self.wanted = true;
    }

    /// A key frame began, or nobody waits any more.
    pub fn settle(&mut self) {
        self.wanted = false;
    }

    /// Whether somebody waits for one.
    pub fn is_wanted(&self) -> bool {
        self.wanted
    }

    /// Whether to ask now; the request counts as made.
    pub fn due(&mut self, now: Time) -> bool {
        let due = self.wanted && self.asked.is_none_or(|asked| now.since(asked) >= SPACING);
        if due {
            self.asked = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_wishes_make_one_request_until_a_key_frame_comes() {
        let mut key_frames = KeyFrames::default();
        let at = |millis| Time::from_micros(millis * MILLISECOND);
        assert!(!key_frames.due(at(0)));
        for millis in 0..100 {
            key_frames.want();
            assert_eq!(key_frames.due(at(millis)), millis == 0);
        }
        assert!(key_frames.due(at(500)), "asked again while it does not come");
        key_frames.settle();
        assert!(!key_frames.due(at(2000)));
        key_frames.want();
        assert!(key_frames.due(at(2000)));
    }
}
