//! Formats on the wire, each parsed from hostile bytes without panics or allocation: STUN, RTP, RTCP, payloads of video,
//! redundant audio.

pub mod av1;
mod bits;
pub mod demux;
pub mod dependency;
pub mod extensions;
pub mod h264;
pub mod indices;
pub mod red;
pub mod rtcp;
pub mod rtp;
pub mod stun;
pub mod transport_cc;
pub mod vp8;
pub mod vp9;

/// The big-endian 16-bit number at `at`, or `None` past the end.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

/// The big-endian 32-bit number at `at`, or `None` past the end.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}
