//! The dependency descriptor (RTP Payload Format for AV1, appendix A): which layers a frame belongs to, and who needs it.

use super::bits::{BitWriter, Bits};
use super::u16_at;

/// Bytes of what every descriptor has.
const MANDATORY: usize = 3;
/// Longer ones do not fit an element (RFC 8285, section 4.3).
pub const MAX_LENGTH: usize = 255;
/// Most templates that can be told apart (appendix A.8.2).
const MAX_TEMPLATES: usize = 64;
/// Spatial layers that an id has room for.
pub const MAX_SPATIAL: usize = 4;
/// Temporal layers that an id has room for.
pub const MAX_TEMPORAL: usize = 8;
/// References of one frame that are looked at.
const MAX_REFERENCES: usize = 16;

/// What a frame is to each decode target, two bits a target (appendix A.8.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Indications(u64);

impl Indications {
    const SWITCH: u64 = 2;

    /// The target needs the frame, or may have it.
    pub fn is_present(self, target: u8) -> bool {
        self.of(target) != 0
    }

    /// From this frame on, whoever decodes it can decode the target.
    pub fn is_switch(self, target: u8) -> bool {
        self.of(target) == Self::SWITCH
    }

    fn of(self, target: u8) -> u64 {
        self.0 >> (2 * u32::from(target)) & 3
    }

    fn read(bits: &mut Bits<'_>, targets: u8) -> Option<Self> {
        let mut all = 0;
        for target in 0..u32::from(targets) {
            all |= u64::from(bits.number(2)?) << (2 * target);
        }
        Some(Self(all))
    }
}

/// One kind of frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Template {
    /// Its spatial layer.
    pub spatial: u8,
    /// Its temporal layer.
    pub temporal: u8,
    /// Who needs it.
    pub indications: Indications,
    /// How many frames back the farthest one is that it refers to; 0: it refers to none.
    pub reach: u16,
}

/// The template dependency structure that came with a key frame (appendix A.8.2); it holds until the next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Structure {
    offset: u8,
    templates: Vec<Template>,
    targets: Vec<(u8, u8)>, // the highest spatial and temporal layer of each
    chains: u8,
    sizes: [(u16, u16); MAX_SPATIAL], // zero: not told
}

/// A descriptor of one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Descriptor {
    /// First packet of its frame.
    pub starts_frame: bool,
    /// Last packet of its frame.
    pub ends_frame: bool,
    /// Frame number, which counts across layers.
    pub number: u16,
    /// What the frame is.
    pub frame: Template,
    /// The decode targets that are sent at all, lowest bit first, if it tells.
    pub active: Option<u32>,
    /// How many decode targets there are.
    pub targets: u8,
    mask_at: u16, // bit at which `active` stands, or would
}

impl Structure {
    /// How many spatial layers there are.
    pub fn spatial_layers(&self) -> usize {
        self.targets.iter().map(|(spatial, _)| usize::from(*spatial) + 1).max().unwrap_or(1)
    }

    /// The picture size of a spatial layer, if it was told.
    pub fn size(&self, spatial: usize) -> Option<(u16, u16)> {
        self.sizes.get(spatial).copied().filter(|(width, height)| *width > 0 && *height > 0)
    }

    /// The best decode target within these layers; the lowest if none is.
    pub fn target(&self, spatial: u8, temporal: u8) -> u8 {
        let within = |(target, (s, t)): (usize, &(u8, u8))| {
            (*s <= spatial && *t <= temporal).then_some(((*s, *t), std::cmp::Reverse(target)))
        };
        let best = self.targets.iter().enumerate().filter_map(within).max();
        best.map_or(self.lowest(), |(_, std::cmp::Reverse(target))| target as u8)
    }

    /// The decode targets within these layers, lowest bit first.
    pub fn mask(&self, spatial: u8, temporal: u8) -> u32 {
        let within = |(target, (s, t)): (usize, &(u8, u8))| u32::from(*s <= spatial && *t <= temporal) << target;
        self.targets.iter().enumerate().map(within).sum()
    }

    fn lowest(&self) -> u8 {
        (0..self.targets.len()).min_by_key(|target| self.targets[*target]).unwrap_or(0) as u8
    }

    fn template(&self, id: u8) -> Option<&Template> {
        self.templates.get(usize::from((id + MAX_TEMPLATES as u8 - self.offset) % MAX_TEMPLATES as u8))
    }

    fn read(bits: &mut Bits<'_>) -> Option<Self> {
        let offset = bits.number(6)? as u8;
        let targets = bits.number(5)? as u8 + 1;
        let mut templates = read_layers(bits)?;
        for template in &mut templates {
            template.indications = Indications::read(bits, targets)?;
        }
        for template in &mut templates {
            let mut references = 0;
            while bits.flag()? {
                template.reach = template.reach.max(bits.number(4)? as u16 + 1);
                references += 1;
                if references > MAX_REFERENCES {
                    return None;
                }
            }
        }
        let chains = bits.below(u32::from(targets) + 1)? as u8;
        if chains > 0 {
            for _ in 0..targets {
                bits.below(u32::from(chains))?;
            }
            bits.skip(templates.len() * usize::from(chains) * 4)?;
        }
        let mut structure = Self { offset, templates, targets: Vec::new(), chains, sizes: Default::default() };
        structure.targets = (0..targets).map(|target| structure.layers_of(target)).collect();
        if bits.flag()? {
            let highest = structure.templates.iter().map(|template| template.spatial).max()?;
            for size in structure.sizes.iter_mut().take(usize::from(highest) + 1) {
                // Of a picture as large as 65536 the size is not told.
                *size = ((bits.number(16)? as u16).wrapping_add(1), (bits.number(16)? as u16).wrapping_add(1));
            }
        }
        Some(structure)
    }

    /// The highest layers that a target has frames of (appendix A.8.2, decode_target_layers).
    fn layers_of(&self, target: u8) -> (u8, u8) {
        let present = self.templates.iter().filter(|template| template.indications.is_present(target));
        present.fold((0, 0), |(s, t), template| (s.max(template.spatial), t.max(template.temporal)))
    }
}

/// The layers of all templates (appendix A.8.2, template_layers).
fn read_layers(bits: &mut Bits<'_>) -> Option<Vec<Template>> {
    let (mut spatial, mut temporal) = (0u8, 0u8);
    let mut templates = Vec::new();
    loop {
        if templates.len() == MAX_TEMPLATES {
            return None;
        }
        templates.push(Template { spatial, temporal, ..Template::default() });
        match bits.number(2)? {
            0 => {}
            1 => temporal += 1,
            2 => (spatial, temporal) = (spatial + 1, 0),
            _ => return Some(templates),
        }
        if usize::from(spatial) >= MAX_SPATIAL || usize::from(temporal) >= MAX_TEMPORAL {
            return None;
        }
    }
}

impl Descriptor {
    /// Frame number and frame borders, which can be read without knowing the structure.
    pub fn borders(bytes: &[u8]) -> Option<(bool, bool, u16)> {
        let first = *bytes.first()?;
        Some((first & 0x80 != 0, first & 0x40 != 0, u16_at(bytes, 1)?))
    }

    /// Whether a structure comes with it, as with a key frame.
    pub fn has_structure(bytes: &[u8]) -> bool {
        bytes.get(MANDATORY).is_some_and(|flags| flags & 0x80 != 0)
    }

    /// Parses a descriptor by the structure that holds, or by its own, which it gives. `None`: it does not fit.
    pub fn parse(bytes: &[u8], known: Option<&Structure>) -> Option<(Self, Option<Structure>)> {
        let (starts_frame, ends_frame, number) = Self::borders(bytes)?;
        if bytes.len() > MAX_LENGTH {
            return None;
        }
        let mut bits = Bits::new(bytes);
        bits.skip(MANDATORY * 8)?;
        let mut flags = 0;
        if bytes.len() > MANDATORY {
            flags = bits.number(5)?;
        }
        let own = if flags & 0x10 != 0 { Some(Structure::read(&mut bits)?) } else { None };
        let structure = own.as_ref().or(known)?;
        let targets = structure.targets.len() as u8;
        let mask_at = if bytes.len() > MANDATORY { bits.position() as u16 } else { MANDATORY as u16 * 8 + 5 };
        let active = if flags & 0x08 != 0 { Some(bits.number(u32::from(targets))?) } else { None };
        let mut frame = *structure.template(bytes[0] & 0x3f)?;
        if flags & 0x04 != 0 {
            frame.indications = Indications::read(&mut bits, targets)?;
        }
        if flags & 0x02 != 0 {
            frame.reach = read_references(&mut bits)?;
        }
        if flags & 0x01 != 0 {
            bits.skip(8 * usize::from(structure.chains))?;
        }
        let descriptor = Self { starts_frame, ends_frame, number, frame, active, targets, mask_at };
        Some((descriptor, own))
    }

    /// Bytes that `write` appends.
    pub fn written(&self, bytes: &[u8], active: Option<u32>) -> usize {
        if active.is_none() || self.active.is_some() {
            return bytes.len();
        }
        let before = usize::from(self.mask_at);
        (before + usize::from(self.targets) + (bytes.len() * 8).saturating_sub(before)).div_ceil(8)
    }

    /// Appends the descriptor with another frame number and, with `active`, only these decode targets marked as sent.
    /// `bytes` is what this was parsed from.
    pub fn write(&self, bytes: &[u8], number: u16, active: Option<u32>, out: &mut Vec<u8>) {
        let start = out.len();
        match active {
            None => out.extend_from_slice(bytes),
            Some(mask) => {
                let at = usize::from(self.mask_at);
                let count = u32::from(self.targets);
                let long = bytes.len() > MANDATORY;
                let mut bits = BitWriter::new(out);
                bits.copy(bytes, 0, MANDATORY * 8);
                bits.copy(if long { &bytes[MANDATORY..] } else { &[0] }, 0, 5);
                bits.copy(bytes, MANDATORY * 8 + 5, at);
                bits.number(mask & self.active.unwrap_or(u32::MAX), count);
                let after = at + if self.active.is_some() { count as usize } else { 0 };
                bits.copy(bytes, after.min(bytes.len() * 8), bytes.len() * 8);
                out[start + MANDATORY] |= 0x40;
            }
        }
        out[start + 1..start + MANDATORY].copy_from_slice(&number.to_be_bytes());
    }
}

/// How far a frame with references of its own reaches back (appendix A.8.3, frame_fdiffs).
fn read_references(bits: &mut Bits<'_>) -> Option<u16> {
    let mut reach = 0;
    for _ in 0..=MAX_REFERENCES {
        match bits.number(2)? {
            0 => return Some(reach),
            size => reach = reach.max(bits.number(4 * size)? as u16 + 1),
        }
    }
    None
}

/// Descriptors for tests.
#[cfg(test)]
#[allow(missing_docs)]
pub mod samples {
    use super::*;

    /// Describes frames of so many spatial and temporal layers as an encoder does: a template for the key frame of each
    /// spatial layer, then one for each layer's other frames. Every (spatial, temporal) pair is a decode target.
    #[derive(Clone, Copy, Debug)]
    pub struct Describer {
        pub spatial: u8,
        pub temporal: u8,
        /// Only key frames refer to lower spatial layers.
        pub key_only: bool,
    }

    /// One frame to describe.
    #[derive(Clone, Copy, Debug, Default)]
    pub struct Described {
        pub number: u16,
        pub layer: (u8, u8),
        pub key: bool,
        pub starts: bool,
        pub ends: bool,
    }

    impl Describer {
        pub fn write(&self, frame: Described) -> Vec<u8> {
            let (spatial, temporal) = frame.layer;
            let per_layer = self.temporal + 1; // the key template comes first
            let id = spatial * per_layer + if frame.key { 0 } else { 1 + temporal };
            let mut out = Vec::new();
            let mut bits = BitWriter::new(&mut out);
            bits.flag(frame.starts);
            bits.flag(frame.ends);
            bits.number(u32::from(id), 6);
            bits.number(u32::from(frame.number), 16);
            if frame.key && frame.starts && spatial == 0 {
                bits.number(0b10000, 5);
                self.structure(&mut bits);
            }
            out
        }

        fn structure(&self, bits: &mut BitWriter<'_>) {
            let targets = self.spatial * self.temporal;
            bits.number(0, 6);
            bits.number(u32::from(targets) - 1, 5);
            let templates = self.templates();
            for pair in templates.windows(2) {
                let next = match (pair[1].0 > pair[0].0, pair[1].1 > pair[0].1) {
                    (true, _) => 2,
                    (false, true) => 1,
                    _ => 0,
                };
                bits.number(next, 2);
            }
            bits.number(3, 2);
            for &(s, t, key) in &templates {
                for target in 0..targets {
                    bits.number(self.indication((s, t, key), (target / self.temporal, target % self.temporal)), 2);
                }
            }
            for &(s, t, key) in &templates {
                if s > 0 && (key || !self.key_only) {
                    bits.number(0b1_0000, 5); // the layer below, one frame back
                }
                if !key {
                    let back = if t == 0 { self.spatial << (self.temporal - 1).min(2) } else { self.spatial };
                    bits.number(0b1_0000 | u32::from(back - 1).min(15), 5);
                }
                bits.flag(false);
            }
            bits.number(0, u32::BITS - (u32::from(targets) + 1).leading_zeros() - 1); // no chains
            if (1u32 << (u32::BITS - (u32::from(targets) + 1).leading_zeros())) - (u32::from(targets) + 1) == 0 {
                bits.flag(false);
            }
            bits.flag(true);
            for s in 0..self.spatial {
                bits.number((160 << s) - 1, 16);
                bits.number((90 << s) - 1, 16);
            }
        }

        fn templates(&self) -> Vec<(u8, u8, bool)> {
            let of_layer = |s| std::iter::once((s, 0, true)).chain((0..self.temporal).map(move |t| (s, t, false)));
            (0..self.spatial).flat_map(of_layer).collect()
        }

        fn indication(&self, (s, t, key): (u8, u8, bool), (target_s, target_t): (u8, u8)) -> u32 {
            let lone = self.key_only && !key && s < target_s;
            match () {
                () if s > target_s || t > target_t || lone => 0,
                () if key || (s == target_s && t == 0) => 2,
                () if s == target_s && t == target_t => 1,
                () => 3,
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unusual_byte_groupings)] // by the fields of the formats
mod tests {
    use super::samples::{Described, Describer};
    use super::*;
    use proptest::prelude::*;

    const L3T3: Describer = Describer { spatial: 3, temporal: 3, key_only: false };

    fn key(describer: Describer) -> (Vec<u8>, Structure) {
        let bytes = describer.write(Described { number: 7, key: true, starts: true, ..Described::default() });
        let structure = Descriptor::parse(&bytes, None).unwrap().1.unwrap();
        (bytes, structure)
    }

    #[test]
    fn a_structure_tells_layers_sizes_and_targets() {
        for (spatial, temporal) in [(1, 1), (1, 3), (2, 2), (3, 1), (3, 3), (4, 4)] {
            let (bytes, structure) = key(Describer { spatial, temporal, key_only: false });
            assert!(Descriptor::has_structure(&bytes));
            assert_eq!(structure.spatial_layers(), usize::from(spatial));
            let top = usize::from(spatial) - 1;
            assert_eq!(structure.size(top), Some((160 << top, 90 << top)));
            assert_eq!(structure.size(top + 1), None);
            for s in 0..spatial {
                for t in 0..temporal {
                    assert_eq!(structure.target(s, t), s * temporal + t);
                }
            }
            assert_eq!(structure.target(7, 7), spatial * temporal - 1);
        }
    }

    #[test]
    fn a_frame_is_what_its_template_says() {
        let (_, structure) = key(L3T3);
        let frame = Described { number: 65_535, layer: (1, 2), ends: true, ..Described::default() };
        let bytes = L3T3.write(frame);
        assert_eq!((bytes.len(), Descriptor::borders(&bytes)), (3, Some((false, true, 65_535))));
        let (descriptor, none) = Descriptor::parse(&bytes, Some(&structure)).unwrap();
        assert_eq!((none, descriptor.frame.spatial, descriptor.frame.temporal), (None, 1, 2));
        let needed: Vec<_> = (0..9).filter(|target| descriptor.frame.indications.is_present(*target)).collect();
        assert_eq!(needed, [5, 8], "S1T2 and S2T2");
        assert!(!descriptor.frame.indications.is_switch(5));
        assert!(descriptor.frame.reach > 1);
        assert_eq!(Descriptor::parse(&bytes, None), None, "nothing can be told without a structure");
        assert_eq!(Descriptor::parse(&[0x3f, 0, 1], Some(&structure)), None, "there is no such template");
    }

    #[test]
    fn number_and_active_targets_are_rewritten_and_all_else_stays() {
        let (bytes, structure) = key(L3T3);
        let plain = L3T3.write(Described { number: 9, layer: (2, 1), starts: true, ..Described::default() });
        let custom = [0xc5, 0, 9, 0b0_0_1_1_0_000, 0, 0, 0b0_01_0011_0, 0b0_0000000]; // its own indications and references
        for bytes in [bytes, plain, custom.to_vec()] {
            let (before, own) = Descriptor::parse(&bytes, Some(&structure)).unwrap();
            let mut out = vec![1, 2];
            before.write(&bytes, 0xabcd, Some(0b1_0110_0111), &mut out);
            assert_eq!(out.len() - 2, before.written(&bytes, Some(1)));
            let (after, own_after) = Descriptor::parse(&out[2..], Some(&structure)).unwrap();
            assert_eq!((after.number, after.active), (0xabcd, Some(0b1_0110_0111)));
            assert_eq!(own, own_after);
            assert_eq!(Descriptor { number: 9, active: None, ..after }, Descriptor { number: 9, ..before });
            // Once more: nothing is ever active that the publisher does not send.
            let mut again = Vec::new();
            after.write(&out[2..], 5, Some(0b0_0011_1111), &mut again);
            let (again, _) = Descriptor::parse(&again, Some(&structure)).unwrap();
            assert_eq!((again.number, again.active, again.frame), (5, Some(0b0_0010_0111), before.frame));
            let mut same = Vec::new();
            before.write(&bytes, before.number, None, &mut same);
            assert_eq!(same, bytes);
        }
    }

    #[test]
    fn what_is_cut_off_or_has_no_end_is_refused() {
        let (bytes, _) = key(L3T3);
        for length in 0..bytes.len() {
            assert_eq!(Descriptor::parse(&bytes[..length], None), None, "{length} bytes");
        }
        assert_eq!(Descriptor::parse(&[&[0x80, 0, 0, 0x80, 0, 0x20][..], &[0; 60]].concat(), None), None);
        assert_eq!(Descriptor::parse(&[0; MAX_LENGTH + 1], None), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..80), mask in any::<u32>()) {
            let (_, structure) = key(L3T3);
            for flags in [None, Some(0x80), Some(0x07), Some(0xf8)] {
                if let (Some(flags), Some(byte)) = (flags, bytes.get_mut(3)) {
                    *byte = flags;
                }
                if let Some((before, own)) = Descriptor::parse(&bytes, Some(&structure)) {
                    let mut out = Vec::new();
                    before.write(&bytes, 1, Some(mask), &mut out);
                    if out.len() <= MAX_LENGTH {
                        let (after, own_after) = Descriptor::parse(&out, Some(&structure)).unwrap();
                        prop_assert_eq!(own, own_after);
                        prop_assert_eq!((after.number, after.frame), (1, before.frame));
                    }
                }
            }
        }
    }
}
