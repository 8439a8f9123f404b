//! Which simulcast layer a subscriber gets: the smallest that flows and covers what it shows, else the best that flows.

use crate::time::{MILLISECOND, Time};

/// A layer this long behind its siblings has stopped. With the time until that is looked at it is left within half a second.
const STALL: u64 = 350 * MILLISECOND;
/// ... but only once the siblings began this many frames meanwhile: a still screen sends one a second.
const STALL_FRAMES: u32 = 5;

/// A picture size in pixels.
pub type Size = (u32, u32);

/// What is known of one layer's flow and size.
#[derive(Clone, Copy, Debug, Default)]
pub struct Flow {
    last_packet: Option<Time>,
    last_timestamp: Option<u32>,
    missed: u32, // frames that siblings began since this layer's last packet
    measured: Option<Size>,
}

/// A layer as a subscriber chooses among them; the list is ordered from the highest down.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Choice {
    /// Its source, by its place in the track.
    pub layer: usize,
    /// Of that source, everything up to this spatial layer; beyond all where there is but one.
    pub spatial: u8,
    /// The highest temporal layer that there is.
    pub temporal: u8,
    /// Packets of it arrive.
    pub flows: bool,
    /// Its picture size, if known.
    pub size: Option<Size>,
}

impl Flow {
    /// Notes a packet that carries media. Returns whether a new frame begins with it.
    pub fn on_packet(&mut self, timestamp: u32, key_frame: Option<(u16, u16)>, now: Time) -> bool {
        self.last_packet = Some(now);
        self.missed = 0;
        if let Some((width, height)) = key_frame.filter(|(width, height)| *width > 0 && *height > 0) {
            self.measured = Some((u32::from(width), u32::from(height)));
        }
        let newer = self.last_timestamp.is_none_or(|last| (timestamp.wrapping_sub(last) as i32) > 0);
        if newer {
            self.last_timestamp = Some(timestamp);
        }
        newer
    }

    /// A sibling began a frame.
    pub fn on_sibling_frame(&mut self) {
        self.missed = self.missed.saturating_add(1);
    }

    /// Whether the layer flows, given when the last packet of any layer of its track came.
    ///
    /// Compared with its siblings, not with the clock: a track that pauses as a whole has no reason to switch.
    pub fn flows(&self, newest: Option<Time>) -> bool {
        match (self.last_packet, newest) {
            (Some(last), Some(newest)) => newest.since(last) <= STALL || self.missed < STALL_FRAMES,
            _ => false,
        }
    }

    /// When the last packet came.
    pub fn last_packet(&self) -> Option<Time> {
        self.last_packet
    }

    /// The size that its last key frame told.
    pub fn measured(&self) -> Option<Size> {
        self.measured
    }
}

/// The layer to send, by its place in the list. `wanted` is what the subscriber shows; `None` means the best.
pub fn choose(layers: &[Choice], wanted: Option<Size>) -> Option<usize> {
    let best = layers.iter().position(|layer| layer.flows)?;
    let Some((width, height)) = wanted else {
        return Some(best);
    };
    let covering = layers.iter().enumerate().filter(|(_, layer)| {
        layer.flows && layer.size.is_some_and(|(has_width, has_height)| has_width >= width && has_height >= height)
    });
    let smallest = covering.min_by_key(|(index, layer)| {
        let area = layer.size.map_or(u64::MAX, |(width, height)| u64::from(width) * u64::from(height));
        (area, std::cmp::Reverse(*index))
    });
    Some(smallest.map_or(best, |(index, _)| index))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(flows: [bool; 3]) -> [Choice; 3] {
        let sizes = [(1280, 720), (640, 360), (320, 180)];
        std::array::from_fn(|n| Choice { flows: flows[n], size: Some(sizes[n]), layer: n, ..Choice::default() })
    }

    #[test]
    fn the_smallest_covering_layer_that_flows_is_chosen() {
        let all = layers([true; 3]);
        assert_eq!(choose(&all, Some((320, 180))), Some(2));
        assert_eq!(choose(&all, Some((321, 180))), Some(1));
        assert_eq!(choose(&all, Some((100, 400))), Some(0));
        assert_eq!(choose(&all, Some((1920, 1080))), Some(0), "nothing covers: the best");
        assert_eq!(choose(&all, None), Some(0));
        assert_eq!(choose(&layers([true, false, true]), Some((640, 360))), Some(0));
        assert_eq!(choose(&layers([false, false, true]), Some((640, 360))), Some(2));
        assert_eq!(choose(&layers([false, true, true]), None), Some(1));
        assert_eq!(choose(&layers([false; 3]), None), None);
    }

    #[test]
    fn unknown_sizes_cover_nothing() {
        let layers = [Choice { flows: true, ..Choice::default() }; 2];
        assert_eq!(choose(&layers, Some((10, 10))), Some(0));
    }

    #[test]
    fn a_layer_that_falls_behind_its_siblings_stops_flowing_and_resumes_at_once() {
        let (mut high, mut low) = (Flow::default(), Flow::default());
        assert!(!high.flows(None));
        let mut newest = Time::default();
        for n in 0..30 {
            newest = Time::from_micros(n * 33 * MILLISECOND);
            assert!(low.on_packet(n as u32 * 3000, None, newest));
            high.on_sibling_frame();
            if n == 0 {
                high.on_packet(0, None, newest);
            }
        }
        assert!(low.flows(Some(newest)) && !high.flows(Some(newest)));
        high.on_packet(9000, Some((640, 360)), newest);
        assert!(high.flows(Some(newest)));
        assert_eq!(high.measured(), Some((640, 360)));
    }

    #[test]
    fn a_still_screen_of_one_frame_a_second_keeps_its_layers() {
        let (mut high, mut low) = (Flow::default(), Flow::default());
        for n in 0..10u64 {
            let now = Time::from_micros(n * 1000 * MILLISECOND);
            low.on_packet(n as u32 * 90_000, None, now);
            high.on_sibling_frame();
            assert!(n == 0 || high.flows(Some(now)));
            high.on_packet(n as u32 * 90_000, None, now + 5 * MILLISECOND);
            low.on_sibling_frame();
        }
    }
}
