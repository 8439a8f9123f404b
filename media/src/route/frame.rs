//! What a video packet tells of the frame that it is part of, in whatever codec: where one can enter, and who needs it.

use super::packet::{Codec, Packet};
use crate::proto::dependency::{self, MAX_LENGTH, MAX_SPATIAL, MAX_TEMPORAL};
use crate::proto::indices::Counters;
use crate::proto::{av1, h264, vp8, vp9};

/// A spatial and a temporal layer as one bit of a set: each spatial layer has its row of temporal ones.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Cell {
    /// Spatial layer, below 4.
    pub spatial: u8,
    /// Temporal layer, below 8.
    pub temporal: u8,
}

impl Cell {
    /// All that is sent.
    pub const ALL: Self = Self { spatial: MAX_SPATIAL as u8 - 1, temporal: MAX_TEMPORAL as u8 - 1 };

    /// Layers above the highest that are told apart count as the highest.
    pub fn new(spatial: u8, temporal: u8) -> Self {
        Self { spatial: spatial.min(Self::ALL.spatial), temporal: temporal.min(Self::ALL.temporal) }
    }

    const fn bit(self) -> u32 {
        1 << (self.spatial as u32 * MAX_TEMPORAL as u32 + self.temporal as u32)
    }
}

/// A set of cells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cells(u32);

impl Cells {
    /// All of them.
    pub const ALL: Self = Self(u32::MAX);
    /// None of them.
    pub const NONE: Self = Self(0);
    const ROW: u32 = (1 << MAX_TEMPORAL) - 1;
    const COLUMN: u32 = 0x0101_0101;

    /// Whether a cell is in the set.
    pub const fn has(self, cell: Cell) -> bool {
        self.0 & cell.bit() != 0
    }

    fn row(spatial: u8) -> Self {
        Self(Self::ROW << (u32::from(spatial) * MAX_TEMPORAL as u32))
    }

    /// The cell, and those of higher layers; not of higher spatial ones, if it stands alone in its own.
    fn from(cell: Cell, alone: bool) -> Self {
        let later = (Self::ROW << cell.temporal & Self::ROW) * Self::COLUMN;
        let rows =
            if alone { Self::row(cell.spatial).0 } else { u32::MAX << (u32::from(cell.spatial) * MAX_TEMPORAL as u32) };
        Self(later & rows)
    }

    fn of(wanted: impl Fn(Cell) -> bool) -> Self {
        let mut cells = 0;
        for spatial in 0..MAX_SPATIAL as u8 {
            for temporal in 0..MAX_TEMPORAL as u8 {
                let cell = Cell { spatial, temporal };
                cells |= if wanted(cell) { cell.bit() } else { 0 };
            }
        }
        Self(cells)
    }
}

/// The frame that a packet is part of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frame {
    /// First packet of a layer's frame, as far as the codec tells.
    pub starts: bool,
    /// Last packet of a layer's frame, where a picture has frames of several layers.
    pub ends: bool,
    /// Its layers.
    pub layer: Cell,
    /// It refers to earlier pictures.
    pub predicted: bool,
    /// Who decodes up to one of these cells needs it.
    pub needed: Cells,
    /// Who has it can go on with any of these cells ...
    pub switch: Cells,
    /// ... if it got this temporal layer until now.
    pub switch_from: u8,
}

impl Frame {
    /// A frame that everybody needs.
    const PLAIN: Self = Self {
        starts: false,
        ends: false,
        layer: Cell { spatial: 0, temporal: 0 },
        predicted: true,
        needed: Cells::ALL,
        switch: Cells::NONE,
        switch_from: 0,
    };
}

impl Default for Frame {
    fn default() -> Self {
        Self::PLAIN
    }
}

/// Longest dependency descriptor that is kept beside its packet; only those with a structure are longer.
const SHORT: usize = 24;

/// A dependency descriptor as it came.
#[derive(Clone, Debug, Default)]
pub struct Dependency {
    length: u8,
    short: [u8; SHORT],
    long: Option<Box<[u8]>>,
    /// What it says, if its structure is known.
    pub descriptor: Option<dependency::Descriptor>,
    /// Its frame number.
    pub number: u16,
}

impl Dependency {
    fn keep(bytes: &[u8], number: u16, descriptor: Option<dependency::Descriptor>) -> Self {
        let mut kept = Self { descriptor, number, ..Self::default() };
        match kept.short.get_mut(..bytes.len()) {
            Some(place) => {
                place.copy_from_slice(bytes);
                kept.length = bytes.len() as u8;
            }
            None => kept.long = Some(bytes.into()),
        }
        kept
    }

    /// The decode targets to name as active: these, where they can be named.
    pub fn nameable(&self, active: Option<u32>) -> Option<u32> {
        active.filter(|_| {
            let descriptor = self.descriptor.as_ref();
            descriptor.is_some_and(|known| known.written(self.bytes(), active) <= MAX_LENGTH)
        })
    }

    /// Bytes that `write` appends.
    pub fn written(&self, active: Option<u32>) -> usize {
        self.descriptor.as_ref().map_or(self.bytes().len(), |known| known.written(self.bytes(), active))
    }

    /// Appends it under another frame number, with only these decode targets named as active (`nameable`).
    pub fn write(&self, number: u16, active: Option<u32>, out: &mut Vec<u8>) {
        match &self.descriptor {
            Some(descriptor) => descriptor.write(self.bytes(), number, active, out),
            None => {
                let start = out.len();
                out.extend_from_slice(self.bytes());
                out[start + 1..start + 3].copy_from_slice(&number.to_be_bytes());
            }
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        self.long.as_deref().unwrap_or(&self.short[..usize::from(self.length)])
    }
}

/// What was read of a packet.
#[derive(Debug, Default)]
pub struct Read {
    /// Its frame.
    pub frame: Frame,
    /// What its payload descriptor counts.
    pub counters: Counters,
    /// Picture size, if a key frame begins here; zero if it is not told.
    pub key_frame: Option<(u16, u16)>,
    /// Its dependency descriptor.
    pub dependency: Option<Dependency>,
}

/// Reads the packets of one source; remembers what key frames told of those that follow.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    structure: Option<Box<dependency::Structure>>,
    picture: Option<(u32, u16)>, // timestamp and number of the first frame of the newest picture
    parameters: bool,            // H.264's come before each key frame
    /// The sizes of the spatial layers, from the lowest up, where there are several.
    pub sizes: [Option<(u32, u32)>; MAX_SPATIAL],
    /// Highest layers that were seen.
    pub highest: Option<Cell>,
    since_key: Option<Cell>, // ... since the last key frame
}

impl Reader {
    /// Reads a packet of this timestamp; `None` if it cannot be what it is said to be.
    pub fn read(&mut self, codec: Codec, timestamp: u32, payload: &[u8], dependency: Option<&[u8]>) -> Option<Read> {
        let mut read = Read::default();
        match codec {
            Codec::Opus => {}
            Codec::Vp8 => {
                let descriptor = vp8::Descriptor::parse(payload)?;
                read.counters = descriptor.counters;
                read.key_frame = descriptor.key_frame(payload);
                let layer = Cell::new(0, descriptor.temporal.unwrap_or(0));
                let up = |cell: Cell| layer.temporal == 0 || cell.temporal == layer.temporal;
                let switch = if descriptor.sync { Cells::of(up) } else { Cells::NONE };
                let starts = descriptor.starts_frame;
                read.frame = Frame { starts, layer, needed: Cells::from(layer, false), switch, ..Frame::PLAIN };
            }
            Codec::H264 => read.key_frame = self.h264(payload),
            Codec::Vp9 => self.vp9(payload, &mut read)?,
            Codec::Av1 => self.av1(timestamp, payload, dependency, &mut read),
        }
        if read.key_frame.is_some() {
            read.frame.starts = true;
            read.frame.predicted = false;
        }
        if read.key_frame.is_some() {
            self.highest = self.since_key.take(); // what did not come since the last one is not looked for
        }
        let joined = |known: Option<Cell>| {
            let (known, layer) = (known.unwrap_or(read.frame.layer), read.frame.layer);
            Some(Cell::new(known.spatial.max(layer.spatial), known.temporal.max(layer.temporal)))
        };
        (self.highest, self.since_key) = (joined(self.highest), joined(self.since_key));
        Some(read)
    }

    /// Where a key frame begins: with the parameters, if they are sent along, or with the IDR picture.
    fn h264(&mut self, payload: &[u8]) -> Option<(u16, u16)> {
        let content = h264::Content::parse(payload).unwrap_or_default(); // encrypted frames look like anything
        self.parameters |= content.parameters;
        let begins = content.parameters || (content.idr && !self.parameters);
        begins.then(|| content.size.unwrap_or_default())
    }

    fn vp9(&mut self, payload: &[u8], read: &mut Read) -> Option<()> {
        let (descriptor, structure) = vp9::Descriptor::parse(payload)?;
        let layer = Cell::new(descriptor.spatial, descriptor.temporal);
        read.counters = descriptor.counters;
        read.key_frame = descriptor.key_frame(payload);
        if let Some(structure) = structure {
            self.sizes = [None; MAX_SPATIAL];
            for (size, told) in self.sizes.iter_mut().zip(structure.sizes).take(usize::from(structure.count)) {
                *size = known(told);
            }
        }
        let sync = descriptor.sync;
        let below = self.highest.is_some_and(|highest| layer.spatial < highest.spatial);
        let own =
            |cell: Cell| cell.spatial >= layer.spatial && (layer.temporal == 0 || cell.temporal == layer.temporal);
        read.frame = Frame {
            starts: descriptor.starts_frame,
            ends: descriptor.ends_frame,
            layer,
            predicted: descriptor.predicted,
            // Z says nothing of the highest layer: there is none that could refer to it.
            needed: Cells::from(layer, descriptor.unreferenced && below),
            switch: if sync { Cells::of(own) } else { Cells::NONE },
            // Encoders set U where a frame refers to lower temporal layers, to any of them.
            switch_from: layer.temporal.saturating_sub(1),
        };
        Some(())
    }

    fn av1(&mut self, timestamp: u32, payload: &[u8], dependency: Option<&[u8]>, read: &mut Read) {
        let content = av1::Content::parse(payload).unwrap_or_default(); // encrypted frames look like anything
        let Some((bytes, (starts, ends, number))) =
            dependency.and_then(|bytes| Some((bytes, dependency::Descriptor::borders(bytes)?)))
        else {
            read.key_frame = content.begins.then(|| content.size.unwrap_or_default());
            return;
        };
        let parsed = dependency::Descriptor::parse(bytes, self.structure.as_deref());
        let descriptor = parsed.as_ref().map(|(descriptor, _)| *descriptor);
        let own = parsed.and_then(|(_, own)| own);
        read.dependency = Some(Dependency::keep(bytes, number, descriptor));
        let first = match self.picture {
            Some((newest, first)) if newest == timestamp => {
                if (number.wrapping_sub(first) as i16) < 0 {
                    number
                } else {
                    first
                }
            }
            _ => number,
        };
        self.picture = Some((timestamp, first));
        if let Some(own) = own {
            for (spatial, size) in self.sizes.iter_mut().enumerate() {
                *size = own.size(spatial).and_then(known);
            }
            if starts {
                read.key_frame = Some(own.size(own.spatial_layers() - 1).or(content.size).unwrap_or_default());
            }
            self.structure = Some(Box::new(own));
        }
        read.frame.starts = starts;
        read.frame.ends = ends;
        let (Some(descriptor), Some(structure)) = (descriptor, self.structure.as_deref()) else { return };
        let frame = descriptor.frame;
        let target = |cell: Cell| structure.target(cell.spatial, cell.temporal);
        read.frame = Frame {
            starts,
            ends,
            layer: Cell::new(frame.spatial, frame.temporal),
            predicted: frame.reach > number.wrapping_sub(first),
            needed: Cells::of(|cell| frame.indications.is_present(target(cell))),
            switch: Cells::of(|cell| frame.indications.is_switch(target(cell))),
            switch_from: 0,
        };
    }

    /// Keeps up with a packet that was read elsewhere.
    pub fn follow(&mut self, packet: &Packet) {
        if packet.codec.is_video() && !packet.is_padding() {
            let dependency = packet.dependency.as_ref().map(Dependency::bytes);
            let _ = self.read(packet.codec, packet.timestamp, &packet.payload, dependency);
        }
    }

    /// The decode targets within a cell, of a source that describes its dependencies.
    pub fn mask(&self, cell: Cell) -> Option<u32> {
        self.structure.as_deref().map(|structure| structure.mask(cell.spatial, cell.temporal))
    }
}

fn known((width, height): (u16, u16)) -> Option<(u32, u32)> {
    (width > 0 && height > 0).then_some((u32::from(width), u32::from(height)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::dependency::samples::{Described, Describer};

    const KEY: Option<(u16, u16)> = Some((0, 0));

    fn cell(spatial: u8, temporal: u8) -> Cell {
        Cell::new(spatial, temporal)
    }

    #[test]
    fn vp8s_temporal_layers_are_needed_by_themselves_and_those_above() {
        let mut reader = Reader::default();
        let read = reader.read(Codec::Vp8, 0, &[0x90, 0xe0, 0x80, 1, 7, 0x60, 1], None).unwrap(); // TID 1, Y
        assert_eq!((read.frame.layer, read.key_frame), (cell(0, 1), None));
        assert!(!read.frame.needed.has(cell(0, 0)) && read.frame.needed.has(cell(0, 1)));
        assert!(read.frame.needed.has(Cell::ALL));
        assert!(read.frame.switch.has(cell(0, 1)) && !read.frame.switch.has(cell(0, 2)));
        assert_eq!(reader.highest, Some(cell(0, 1)));
        assert!(reader.read(Codec::Vp8, 0, &[0x90], None).is_none());
    }

    #[test]
    fn vp9s_spatial_layers_are_needed_by_those_above_unless_nothing_refers_to_them() {
        let mut reader = Reader::default();
        let key = reader.read(Codec::Vp9, 0, &[0x2a, 0x00, 7, 0x30, 1, 64, 0, 180, 2, 128, 1, 104, 9], None).unwrap();
        assert_eq!(key.key_frame, KEY);
        assert_eq!(reader.sizes[..2], [Some((320, 180)), Some((640, 360))]);
        let lower = reader.read(Codec::Vp9, 1, &[0xe8, 1, 0x00, 7, 9], None).unwrap().frame;
        assert!(lower.needed.has(cell(0, 0)) && lower.needed.has(cell(1, 0)) && lower.predicted);
        let only = reader.read(Codec::Vp9, 2, &[0xe9, 2, 0x00, 7, 9], None).unwrap().frame;
        assert!(only.needed.has(Cell::ALL), "there is no higher layer (yet)");
        let upper = reader.read(Codec::Vp9, 2, &[0xec, 2, 0x52, 7, 9], None).unwrap().frame; // SID 1, TID 2, U
        assert_eq!((upper.layer, upper.starts, upper.ends), (cell(1, 2), true, true));
        assert!(!upper.needed.has(cell(0, 2)) && !upper.needed.has(cell(1, 1)) && upper.needed.has(cell(3, 7)));
        assert!(upper.switch.has(cell(1, 2)) && !upper.switch.has(cell(1, 1)) && !upper.switch.has(cell(0, 2)));
        assert_eq!(reader.highest, Some(cell(1, 2)));
        let alone = reader.read(Codec::Vp9, 3, &[0xe9, 2, 0x00, 7, 9], None).unwrap().frame;
        assert!(alone.needed.has(cell(0, 2)) && !alone.needed.has(cell(1, 0)));
    }

    #[test]
    fn h264_is_entered_at_its_parameters_or_at_an_idr_picture_that_comes_without() {
        let mut reader = Reader::default();
        assert_eq!(reader.read(Codec::H264, 0, &[0x65, 1], None).unwrap().key_frame, KEY);
        assert_eq!(reader.read(Codec::H264, 0, &[0x67, 0x42], None).unwrap().key_frame, KEY);
        assert_eq!(reader.read(Codec::H264, 0, &[0x65, 1], None).unwrap().key_frame, None, "it began before");
        assert_eq!(reader.read(Codec::H264, 0, &[0x61, 1], None).unwrap().key_frame, None);
    }

    #[test]
    fn av1_tells_by_its_descriptor_who_needs_a_frame() {
        for key_only in [false, true] {
            let mut reader = Reader::default();
            let describer = Describer { spatial: 2, temporal: 2, key_only };
            let mut number = 100;
            let mut read = |reader: &mut Reader, timestamp, layer, key| {
                number += 1;
                let bytes = describer.write(Described { number, layer, key, starts: true, ends: true });
                reader.read(Codec::Av1, timestamp, &[0x10, 1], Some(&bytes)).unwrap()
            };
            let first = read(&mut reader, 0, (0, 0), true);
            assert_eq!(first.key_frame, Some((320, 180)), "the size of the highest layer");
            assert_eq!(reader.sizes, [Some((160, 90)), Some((320, 180)), None, None]);
            assert!(first.frame.needed.has(Cell::ALL) && first.frame.switch.has(Cell::ALL) && !first.frame.predicted);
            let above = read(&mut reader, 0, (1, 0), true);
            assert!(above.key_frame.is_none() && !above.frame.predicted, "it refers to its own picture only");
            assert!(!above.frame.needed.has(cell(0, 1)));
            let lower = read(&mut reader, 9, (0, 1), false).frame;
            assert!(lower.predicted && lower.needed.has(cell(0, 1)) && !lower.needed.has(cell(0, 0)));
            assert_eq!(lower.needed.has(Cell::ALL), !key_only);
            let upper = read(&mut reader, 9, (1, 1), false).frame;
            assert!(upper.predicted);
            assert_eq!((reader.mask(cell(0, 7)), reader.mask(Cell::ALL)), (Some(0b0011), Some(0b1111)));
        }
    }

    #[test]
    fn av1_without_descriptors_or_structure_passes_whole() {
        let mut reader = Reader::default();
        assert_eq!(reader.read(Codec::Av1, 0, &[0x18, 0xff], None).unwrap().key_frame, KEY);
        let read = reader.read(Codec::Av1, 0, &[0x10, 1], Some(&[0x80, 1, 2])).unwrap();
        let dependency = read.dependency.unwrap();
        assert_eq!((dependency.number, dependency.bytes()), (0x102, &[0x80, 1, 2][..]));
        assert_eq!((read.frame.needed, read.frame.starts), (Cells::ALL, true));
    }
}
