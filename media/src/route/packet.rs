//! A published packet after decryption: what all of its subscribers share.

use super::frame::{Dependency, Frame};
use crate::proto::extensions::Passed;
use crate::proto::indices::Counters;
use crate::proto::red::Redundancy;
use crate::time::Time;

/// What a payload type stands for, as far as the core can forward it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Codec {
    /// Opus (RFC 7587).
    Opus,
    /// VP8 (RFC 7741).
    Vp8,
    /// H.264 (RFC 6184).
    H264,
    /// VP9 (RFC 9628).
    Vp9,
    /// AV1 (RTP Payload Format for AV1).
    Av1,
}

/// Encoding names.
const NAMES: [(&str, Codec); 5] =
    [("opus", Codec::Opus), ("VP8", Codec::Vp8), ("H264", Codec::H264), ("VP9", Codec::Vp9), ("AV1", Codec::Av1)];

impl Codec {
    /// By the encoding name of SDP, which has no case (RFC 8866, section 6.6).
    pub fn by_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, codec)| *codec)
    }

    /// Ticks per second of its RTP timestamps.
    pub const fn clock_rate(self) -> u32 {
        match self {
            Self::Opus => 48_000,
            Self::Vp8 | Self::H264 | Self::Vp9 | Self::Av1 => 90_000,
        }
    }

    /// It is for pictures.
    pub const fn is_video(self) -> bool {
        !matches!(self, Self::Opus)
    }
}

/// One RTP packet of a published layer. The payload is never looked at beyond descriptor and key-frame header.
#[derive(Debug)]
pub struct Packet {
    /// Extended sequence number of the publisher's source.
    pub index: u64,
    /// RTP timestamp of the publisher's source.
    pub timestamp: u32,
    /// RTP marker.
    pub marker: bool,
    /// What the payload is.
    pub codec: Codec,
    /// When it arrived.
    pub arrival: Time,
    /// Payload without padding; empty for a packet that only pads.
    pub payload: Vec<u8>,
    /// The frame that it is part of.
    pub frame: Frame,
    /// What the payload descriptor counts.
    pub counters: Counters,
    /// Its dependency descriptor.
    pub dependency: Option<Dependency>,
    /// Picture size, if a key frame begins here; zero if it is not told.
    pub key_frame: Option<(u16, u16)>,
    /// Header extensions that the subscribers get as they are.
    pub passed: Passed,
    /// The payload has copies of earlier ones before it.
    pub redundancy: Option<Redundancy>,
}

impl Packet {
    /// All but the payload.
    pub fn without_payload(&self) -> Self {
        Self { payload: Vec::new(), dependency: self.dependency.clone(), ..*self }
    }

    /// It carries nothing but padding.
    pub fn is_padding(&self) -> bool {
        self.payload.is_empty()
    }

    /// A subscriber may start here: anywhere in audio, at a key frame in video.
    pub fn is_entry(&self) -> bool {
        if self.codec.is_video() { self.key_frame.is_some() } else { !self.is_padding() }
    }
}
