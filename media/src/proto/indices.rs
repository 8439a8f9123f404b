//! The counters in the payload descriptors of VP8 and VP9 that are rewritten for each subscriber.

/// A picture id in its 7- or 15-bit form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PictureId {
    /// Its value.
    pub value: u16,
    /// It has 15 bits, not 7.
    pub wide: bool,
    at: u8,
}

impl PictureId {
    /// Reads one at this place, and gives the place after it.
    pub(super) fn parse(payload: &[u8], at: usize) -> Option<(Self, usize)> {
        let high = *payload.get(at)?;
        let wide = high & 0x80 != 0;
        let value = if wide { u16::from(high & 0x7f) << 8 | u16::from(*payload.get(at + 1)?) } else { u16::from(high) };
        let at_byte = u8::try_from(at).ok()?;
        Some((Self { value, wide, at: at_byte }, at + if wide { 2 } else { 1 }))
    }
}

/// A counter of one byte, and where it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Counter {
    /// Its value.
    pub value: u8,
    pub(super) at: u8,
}

/// The counters that one packet has; places count from the payload's first byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// The picture id.
    pub picture_id: Option<PictureId>,
    /// TL0PICIDX.
    pub tl0: Option<Counter>,
    /// VP8's KEYIDX (5 bits).
    pub key_index: Option<Counter>,
}

/// What is written in their place.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Indices {
    /// Picture id; a 7-bit field takes its low bits.
    pub picture_id: u16,
    /// TL0PICIDX.
    pub tl0: u8,
    /// KEYIDX; the field takes its low 5 bits.
    pub key_index: u8,
    /// The dependency descriptor's frame number: no field of the payload.
    pub frame_number: u16,
}

impl Counters {
    /// Writes these indices. `payload` begins with the descriptor that the counters were read from.
    pub fn rewrite(&self, payload: &mut [u8], indices: Indices) {
        if let Some(id) = self.picture_id {
            let at = usize::from(id.at);
            if id.wide {
                payload[at..at + 2].copy_from_slice(&(indices.picture_id | 0x8000).to_be_bytes());
            } else {
                payload[at] = indices.picture_id as u8 & 0x7f;
            }
        }
        if let Some(tl0) = self.tl0 {
            payload[usize::from(tl0.at)] = indices.tl0;
        }
        if let Some(key_index) = self.key_index {
            let field = &mut payload[usize::from(key_index.at)];
            *field = *field & 0xe0 | indices.key_index & 0x1f;
        }
    }
}
