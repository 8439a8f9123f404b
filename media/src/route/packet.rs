//! A published packet after decryption: what all of its subscribers share.

use crate::proto::extensions::Passed;
use crate::proto::red::Redundancy;
use crate::proto::vp8::Descriptor;
use crate::time::Time;

/// What a payload type stands for, as far as the core can forward it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Codec {
    /// Opus (RFC 7587).
    Opus,
    /// VP8 (RFC 7741).
    Vp8,
}

impl Codec {
    /// By the encoding name of SDP, which has no case (RFC 8866, section 6.6).
    pub fn by_name(name: &str) -> Option<Self> {
        if name.eq_ignore_ascii_case("opus") {
            Some(Self::Opus)
        } else if name.eq_ignore_ascii_case("VP8") {
            Some(Self::Vp8)
        } else {
            None
        }
    }

    /// Ticks per second of its RTP timestamps.
    pub const fn clock_rate(self) -> u32 {
        match self {
            Self::Opus => 48_000,
            Self::Vp8 => 90_000,
        }
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
    /// VP8's payload descriptor.
    pub descriptor: Option<Descriptor>,
    /// Picture size, if a key frame begins here.
    pub key_frame: Option<(u16, u16)>,
    /// Header extensions that the subscribers get as they are.
    pub passed: Passed,
    /// The payload has copies of earlier ones before it.
    pub redundancy: Option<Redundancy>,
}

impl Packet {
    /// All but the payload.
    pub fn without_payload(&self) -> Self {
        Self { payload: Vec::new(), ..*self }
    }

    /// It carries nothing but padding.
    pub fn is_padding(&self) -> bool {
        self.payload.is_empty()
    }

    /// A subscriber may start here: anywhere in audio, at a key frame in video.
    pub fn is_entry(&self) -> bool {
        match self.codec {
            Codec::Opus => !self.is_padding(),
            Codec::Vp8 => self.key_frame.is_some(),
        }
    }
}
