//! Reads and writes fields of any number of bits, the most significant first.

/// A place among bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// How many bits were read.
    pub fn position(&self) -> usize {
        self.at
    }

    pub fn flag(&mut self) -> Option<bool> {
        let byte = *self.bytes.get(self.at / 8)?;
        let flag = byte >> (7 - self.at % 8) & 1 != 0;
        self.at += 1;
        Some(flag)
    }

    /// A number of `count` bits, at most 32.
    pub fn number(&mut self, count: u32) -> Option<u32> {
        let end = self.at + count as usize;
        if count > 32 || end > self.bytes.len() * 8 {
            return None;
        }
        let mut value = 0u64;
        let (first, last) = (self.at / 8, end.div_ceil(8));
        for byte in &self.bytes[first..last] {
            value = value << 8 | u64::from(*byte);
        }
        value >>= last * 8 - end;
        self.at = end;
        Some((value & ((1 << count) - 1)) as u32)
    }

    /// Passes over so many bits.
    pub fn skip(&mut self, count: usize) -> Option<()> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len() * 8)?;
        self.at = end;
        Some(())
    }

    /// A number below `bound` in the fewest bits, "ns(n)" of AV1, section 4.10.7.
    pub fn below(&mut self, bound: u32) -> Option<u32> {
        let width = u32::BITS - bound.leading_zeros();
        let short = (1u32 << width) - bound;
        let value = self.number(width - 1)?;
        if value < short {
            return Some(value);
        }
        Some((value << 1) + u32::from(self.flag()?) - short)
    }

    /// An Exp-Golomb code, "ue(v)" of H.264, section 9.1; AV1 calls it "uvlc".
    pub fn golomb(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1u32 << zeros) - 1 + self.number(zeros)?)
    }
}

/// Copies bits and adds others.
#[derive(Debug)]
pub(crate) struct BitWriter<'a> {
    bytes: &'a mut Vec<u8>,
    free: u32, // bits of the last byte
}

impl<'a> BitWriter<'a> {
    /// Appends to whole bytes.
    pub fn new(bytes: &'a mut Vec<u8>) -> Self {
        Self { bytes, free: 0 }
    }

    pub fn flag(&mut self, flag: bool) {
        if self.free == 0 {
            self.bytes.push(0);
            self.free = 8;
        }
        self.free -= 1;
        if let Some(last) = self.bytes.last_mut() {
            *last |= u8::from(flag) << self.free;
        }
    }

    pub fn number(&mut self, value: u32, count: u32) {
        for bit in (0..count).rev() {
            self.flag(value >> bit & 1 != 0);
        }
    }

    /// Copies the bits of `bytes` from one position up to another.
    pub fn copy(&mut self, bytes: &[u8], from: usize, to: usize) {
        for at in from..to {
            self.flag(bytes.get(at / 8).is_some_and(|byte| byte >> (7 - at % 8) & 1 != 0));
        }
    }
}

#[cfg(test)]
#[allow(clippy::unusual_byte_groupings)] // by the fields of the formats
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_of_any_width_are_read_until_the_bytes_end() {
        let mut bits = Bits::new(&[0b1010_0110, 0xff, 0x0f, 0xaa, 0x55]);
        assert_eq!((bits.number(3), bits.flag(), bits.number(12)), (Some(5), Some(false), Some(0x6ff)));
        assert_eq!((bits.number(24), bits.position()), (Some(0x0f_aa55), 40));
        assert_eq!((bits.number(0), bits.number(1), bits.flag(), bits.skip(1)), (Some(0), None, None, None));
        assert_eq!(Bits::new(&[0xff; 4]).number(32), Some(u32::MAX));
    }

    #[test]
    fn golomb_and_bounded_codes_are_those_of_the_standards() {
        let mut bits = Bits::new(&[0b1_010_011_0, 0b0100_0010, 0b1_0000000]);
        let read: Vec<_> = (0..5).map(|_| bits.golomb()).collect();
        assert_eq!(read, [Some(0), Some(1), Some(2), Some(3), Some(4)]);
        assert_eq!(Bits::new(&[0; 9]).golomb(), None);
        let mut bits = Bits::new(&[0b00_01_10_11, 0b0_111_0000]); // ns(5): 0, 1, 2 in two bits, 3 and 4 in three
        let read: Vec<_> = (0..5).map(|_| bits.below(5)).collect();
        assert_eq!(read, [Some(0), Some(1), Some(2), Some(3), Some(4)]);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(values in proptest::collection::vec((any::<u32>(), 1u32..33), 0..20)) {
            let mut bytes = Vec::new();
            let mut writer = BitWriter::new(&mut bytes);
            values.iter().for_each(|(value, count)| writer.number(*value, *count));
            let mut copy = Vec::new();
            BitWriter::new(&mut copy).copy(&bytes, 0, bytes.len() * 8);
            let mut bits = Bits::new(&copy);
            for (value, count) in values {
                prop_assert_eq!(bits.number(count), Some((u64::from(value) & ((1 << count) - 1)) as u32));
            }
        }
    }
}
