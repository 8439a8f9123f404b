//! RTCP compounds (RFC 3550, RFC 4585, RFC 5104, REMB): read packet by packet, written one after the other.

use super::{u16_at, u32_at};

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const SOURCE_DESCRIPTION: u8 = 202;
const GOODBYE: u8 = 203;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;

/// Most report blocks in one report: its count has five bits.
pub const MAX_BLOCKS: usize = 31;

/// One packet of a compound, as far as the core acts on it.
#[derive(Debug, PartialEq, Eq)]
pub enum Packet<'a> {
    /// SR: the source's clocks, and what it received of others.
    SenderReport {
        /// The source.
        ssrc: u32,
        /// NTP time, 32.32.
        ntp: u64,
        /// RTP time of the same instant.
        rtp: u32,
        /// Its report blocks.
        blocks: Blocks<'a>,
    },
    /// RR: what a receiver received.
    ReceiverReport {
        /// Its report blocks.
        blocks: Blocks<'a>,
    },
    /// Generic NACK (RFC 4585, section 6.2.1).
    Nack {
        /// The source whose packets are missing.
        media: u32,
        /// The missing sequence numbers.
        lost: Lost<'a>,
    },
    /// PLI (RFC 4585, section 6.3.1).
    PictureLoss {
        /// The source that is to send a key frame.
        media: u32,
    },
    /// FIR (RFC 5104, section 4.3.1).
    FullIntra {
        /// Its entries.
        entries: FullIntraEntries<'a>,
    },
    /// Transport-wide feedback (draft-holmer-rmcat-transport-wide-cc-extensions-01).
    TransportCc {
        /// From its base sequence number on, see [`super::transport_cc::Feedback`].
        body: &'a [u8],
    },
    /// REMB (draft-alvestrand-rmcat-remb).
    Remb {
        /// What the receiver thinks it can take.
        bits_per_second: u64,
    },
    /// BYE.
    Goodbye,
    /// Anything else, or a known one that is too short.
    Other,
}

/// A report block (RFC 3550, section 6.4.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Block {
    /// The source that is reported on.
    pub ssrc: u32,
    /// Fraction lost since the last report, in 256ths.
    pub fraction_lost: u8,
    /// Packets lost in all, 24 bits signed.
    pub lost: i32,
    /// Extended highest sequence number.
    pub highest: u32,
    /// Interarrival jitter in ticks.
    pub jitter: u32,
    /// Middle 32 bits of the last SR's NTP time.
    pub last_sr: u32,
    /// Delay since then, in 65536ths of a second.
    pub delay: u32,
}

/// The packets of a compound; ends at the first that is malformed.
#[derive(Clone, Debug)]
pub struct Compound<'a>(&'a [u8]);

/// Walks a decrypted compound.
pub fn parse(bytes: &[u8]) -> Compound<'_> {
    Compound(bytes)
}

impl<'a> Iterator for Compound<'a> {
    type Item = Packet<'a>;

    fn next(&mut self) -> Option<Packet<'a>> {
        let first = *self.0.first()?;
        let kind = *self.0.get(1)?;
        let length = 4 * (usize::from(u16_at(self.0, 2)?) + 1);
        let (packet, rest) = self.0.split_at_checked(length)?;
        if first >> 6 != 2 {
            return None;
        }
        self.0 = rest;
        Some(parse_packet(first & 0x1f, kind, packet).unwrap_or(Packet::Other))
    }
}

fn parse_packet(count: u8, kind: u8, packet: &[u8]) -> Option<Packet<'_>> {
    Some(match (kind, count) {
        (SENDER_REPORT, _) => Packet::SenderReport {
            ssrc: u32_at(packet, 4)?,
            ntp: u64::from(u32_at(packet, 8)?) << 32 | u64::from(u32_at(packet, 12)?),
            rtp: u32_at(packet, 16)?,
            blocks: Blocks::new(packet.get(28..)?, count),
        },
        (RECEIVER_REPORT, _) => Packet::ReceiverReport { blocks: Blocks::new(packet.get(8..)?, count) },
        (TRANSPORT_FEEDBACK, 1) => Packet::Nack { media: u32_at(packet, 8)?, lost: Lost::new(packet.get(12..)?) },
        (TRANSPORT_FEEDBACK, 15) => Packet::TransportCc { body: packet.get(12..)? },
        (PAYLOAD_FEEDBACK, 1) => Packet::PictureLoss { media: u32_at(packet, 8)? },
        (PAYLOAD_FEEDBACK, 4) => Packet::FullIntra { entries: FullIntraEntries(packet.get(12..)?) },
        (PAYLOAD_FEEDBACK, 15) if packet.get(12..16) == Some(b"REMB") => {
            let rate = u32_at(packet, 16)? & 0xff_ffff;
            Packet::Remb { bits_per_second: u64::from(rate & 0x3_ffff).saturating_mul(1 << (rate >> 18).min(40)) }
        }
        (GOODBYE, _) => Packet::Goodbye,
        _ => Packet::Other,
    })
}

/// Report blocks of an SR or RR.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Blocks<'a>(&'a [u8]);

impl<'a> Blocks<'a> {
    fn new(bytes: &'a [u8], count: u8) -> Self {
        let length = bytes.len().min(24 * usize::from(count));
        Self(&bytes[..length])
    }
}

impl Iterator for Blocks<'_> {
    type Item = Block;

    fn next(&mut self) -> Option<Block> {
        let (block, rest) = self.0.split_at_checked(24)?;
        self.0 = rest;
        let loss = u32_at(block, 4)?;
        Some(Block {
            ssrc: u32_at(block, 0)?,
            fraction_lost: (loss >> 24) as u8,
            lost: ((loss << 8) as i32) >> 8,
            highest: u32_at(block, 8)?,
            jitter: u32_at(block, 12)?,
            last_sr: u32_at(block, 16)?,
            delay: u32_at(block, 20)?,
        })
    }
}

/// Sequence numbers of a generic NACK.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lost<'a> {
    items: &'a [u8],
    next: u16,
    mask: u32, // bit n: `next + n` is lost
}

impl<'a> Lost<'a> {
    fn new(items: &'a [u8]) -> Self {
        Self { items, next: 0, mask: 0 }
    }
}

impl Iterator for Lost<'_> {
    type Item = u16;

    fn next(&mut self) -> Option<u16> {
        if self.mask == 0 {
            let (item, rest) = self.items.split_at_checked(4)?;
            self.items = rest;
            self.next = u16_at(item, 0)?;
            self.mask = u32::from(u16_at(item, 2)?) << 1 | 1;
        }
        let skip = self.mask.trailing_zeros();
        let lost = self.next.wrapping_add(skip as u16);
        self.mask &= self.mask - 1;
        Some(lost)
    }
}

/// The sources that a FIR asks for a key frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FullIntraEntries<'a>(&'a [u8]);

impl Iterator for FullIntraEntries<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let (entry, rest) = self.0.split_at_checked(8)?;
        self.0 = rest;
        u32_at(entry, 0)
    }
}

fn write(out: &mut Vec<u8>, count: u8, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0x80 | count & 0x1f, kind, 0, 0]);
    body(out);
    while (out.len() - start) % 4 != 0 {
        out.push(0);
    }
    let words = ((out.len() - start) / 4 - 1) as u16;
    out[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
}

/// Appends an SR without report blocks.
pub fn write_sender_report(out: &mut Vec<u8>, ssrc: u32, ntp: u64, rtp: u32, packets: u32, octets: u32) {
    write(out, 0, SENDER_REPORT, |out| {
        out.extend_from_slice(&ssrc.to_be_bytes());
        out.extend_from_slice(&ntp.to_be_bytes());
        for word in [rtp, packets, octets] {
            out.extend_from_slice(&word.to_be_bytes());
        }
    });
}

/// Appends an RR; of `blocks` only the first `MAX_BLOCKS` are written.
pub fn write_receiver_report(out: &mut Vec<u8>, ssrc: u32, blocks: &[Block]) {
    let blocks = &blocks[..blocks.len().min(MAX_BLOCKS)];
    write(out, blocks.len() as u8, RECEIVER_REPORT, |out| {
        out.extend_from_slice(&ssrc.to_be_bytes());
        for block in blocks {
            let lost = block.lost.clamp(-0x80_0000, 0x7f_ffff) as u32 & 0xff_ffff;
            for word in [
                block.ssrc,
                u32::from(block.fraction_lost) << 24 | lost,
                block.highest,
                block.jitter,
                block.last_sr,
                block.delay,
            ] {
                out.extend_from_slice(&word.to_be_bytes());
            }
        }
    });
}

/// Appends an SDES with one chunk: the source's CNAME, cut at 255 bytes.
pub fn write_cname(out: &mut Vec<u8>, ssrc: u32, cname: &str) {
    let cname = &cname.as_bytes()[..cname.len().min(255)];
    write(out, 1, SOURCE_DESCRIPTION, |out| {
        out.extend_from_slice(&ssrc.to_be_bytes());
        out.extend_from_slice(&[1, cname.len() as u8]);
        out.extend_from_slice(cname);
        out.push(0); // ends the items; the padding after it is zero as well
    });
}

/// Appends a generic NACK of these ascending sequence numbers.
pub fn write_nack(out: &mut Vec<u8>, sender: u32, media: u32, lost: &[u16]) {
    write(out, 1, TRANSPORT_FEEDBACK, |out| {
        out.extend_from_slice(&sender.to_be_bytes());
        out.extend_from_slice(&media.to_be_bytes());
        let mut rest = lost;
        while let [first, others @ ..] = rest {
            let mut mask = 0u16;
            let covered = others.iter().take_while(|seq| (1..=16).contains(&seq.wrapping_sub(*first))).count();
            for seq in &others[..covered] {
                mask |= 1 << (seq.wrapping_sub(*first) - 1);
            }
            out.extend_from_slice(&first.to_be_bytes());
            out.extend_from_slice(&mask.to_be_bytes());
            rest = &others[covered..];
        }
    });
}

/// Appends a PLI.
pub fn write_picture_loss(out: &mut Vec<u8>, sender: u32, media: u32) {
    write(out, 1, PAYLOAD_FEEDBACK, |out| {
        out.extend_from_slice(&sender.to_be_bytes());
        out.extend_from_slice(&media.to_be_bytes());
    });
}

/// Appends a REMB that grants these sources together `bits_per_second`.
pub fn write_remb(out: &mut Vec<u8>, sender: u32, bits_per_second: u64, sources: &[u32]) {
    let sources = &sources[..sources.len().min(255)];
    write(out, 15, PAYLOAD_FEEDBACK, |out| {
        out.extend_from_slice(&sender.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(b"REMB");
        let exponent = (64 - bits_per_second.leading_zeros()).saturating_sub(18);
        let mantissa = (bits_per_second >> exponent) as u32;
        let word = (sources.len() as u32) << 24 | exponent << 18 | mantissa;
        out.extend_from_slice(&word.to_be_bytes());
        for ssrc in sources {
            out.extend_from_slice(&ssrc.to_be_bytes());
        }
    });
}

/// Appends transport-wide feedback around a body that `transport_cc` made (from the base sequence number on).
pub fn write_transport_cc(out: &mut Vec<u8>, sender: u32, media: u32, body: impl FnOnce(&mut Vec<u8>)) {
    write(out, 15, TRANSPORT_FEEDBACK, |out| {
        out.extend_from_slice(&sender.to_be_bytes());
        out.extend_from_slice(&media.to_be_bytes());
        body(out);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_compound_is_read_back_packet_by_packet() {
        let block = Block { ssrc: 5, fraction_lost: 9, lost: -3, highest: 70_000, jitter: 4, last_sr: 8, delay: 6 };
        let mut out = Vec::new();
        write_sender_report(&mut out, 1, 2 << 32 | 3, 4, 5, 6);
        write_cname(&mut out, 1, "focus");
        write_receiver_report(&mut out, 1, &[block, block]);
        write_picture_loss(&mut out, 1, 77);
        write_remb(&mut out, 1, 5_000_000, &[7, 8]);
        let packets: Vec<_> = parse(&out).collect();
        let [sr, Packet::Other, rr, pli, Packet::Remb { .. }] = &packets[..] else { panic!("{packets:?}") };
        assert_eq!(*pli, Packet::PictureLoss { media: 77 });
        let Packet::SenderReport { ssrc: 1, ntp, rtp: 4, blocks } = sr else { panic!("{sr:?}") };
        assert_eq!((*ntp, blocks.clone().count()), (2 << 32 | 3, 0));
        let Packet::ReceiverReport { blocks } = rr else { panic!("{rr:?}") };
        assert_eq!(blocks.clone().collect::<Vec<_>>(), [block, block]);
    }

    #[test]
    fn nacks_pack_and_unpack_across_the_wrap() {
        let lost = [65_530, 65_531, 65_535, 3, 10, 11, 200];
        let mut out = Vec::new();
        write_nack(&mut out, 1, 2, &lost);
        let Some(Packet::Nack { media: 2, lost: read }) = parse(&out).next() else { panic!() };
        assert_eq!(read.collect::<Vec<_>>(), lost);
        assert_eq!(out.len(), 12 + 3 * 4, "three items: 65530+16, 10+16, 200");
    }

    #[test]
    fn remb_has_the_drafts_exponent_and_mantissa() {
        let mut out = Vec::new();
        write_remb(&mut out, 1, 5_000_000, &[7]);
        let word = u32_at(&out, 16).unwrap();
        let value = u64::from(word & 0x3_ffff) << (word >> 18 & 0x3f);
        assert!((4_999_900..=5_000_000).contains(&value), "{value}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), kind in 200u8..207) {
            if bytes.len() > 3 {
                bytes[0] |= 0x80;
                bytes[1] = kind;
                bytes[2] = 0;
                bytes[3] %= 50;
            }
            for packet in parse(&bytes) {
                match packet {
                    Packet::SenderReport { blocks, .. } | Packet::ReceiverReport { blocks } => {
                        prop_assert!(blocks.count() <= MAX_BLOCKS);
                    }
                    Packet::Nack { lost, .. } => prop_assert!(lost.count() <= 17 * 50),
                    Packet::FullIntra { entries } => prop_assert!(entries.count() <= 50),
                    _ => {}
                }
            }
        }
    }
}
