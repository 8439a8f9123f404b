//! What the engine counts; each name is one series of `/metrics`.

use std::ops::{Index, IndexMut};

use super::plan::Kind;
use crate::measure::Histogram;

macro_rules! counters {
    ($(#[doc = $about:literal])+ $type:ident: $($name:ident: $doc:literal),+ $(,)?) => {
        $(#[doc = $about])+
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $type {
            $(#[doc = $doc] pub $name: u64,)+
        }

        impl $type {
            /// Every counter with its name and what it means.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
                [$((concat!(stringify!($name), "_total"), $doc, self.$name)),+].into_iter()
            }
        }
    };
}

/// One of something for audio and one for video.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ByKind<T>([T; 2]);

impl<T> ByKind<T> {
    /// Both, with the names of the kinds.
    pub fn each(&self) -> impl Iterator<Item = (&'static str, &T)> {
        ["audio", "video"].into_iter().zip(&self.0)
    }
}

impl<T> Index<Kind> for ByKind<T> {
    type Output = T;

    fn index(&self, kind: Kind) -> &T {
        &self.0[kind as usize]
    }
}

impl<T> IndexMut<Kind> for ByKind<T> {
    fn index_mut(&mut self, kind: Kind) -> &mut T {
        &mut self.0[kind as usize]
    }
}

/// Microseconds: up to what nobody notices, up to what everybody does.
const JITTER_BOUNDS: &[u64] = &[1_000, 2_500, 5_000, 10_000, 20_000, 30_000, 50_000, 100_000, 200_000, 500_000];
/// Microseconds: from one machine room to a satellite.
const ROUND_TRIP_BOUNDS: &[u64] =
    &[1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 150_000, 200_000, 300_000, 500_000, 1_000_000, 2_000_000];

/// What is measured of audio, and of video.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quality {
    /// Packets, bytes, losses.
    pub counters: KindCounters,
    /// Jitter of what publishers send, at each report on it; microseconds.
    pub jitter_in: Histogram,
    /// Jitter that subscribers report; microseconds.
    pub jitter_out: Histogram,
}

impl Default for Quality {
    fn default() -> Self {
        let jitter = Histogram::new(JITTER_BOUNDS);
        Self { counters: KindCounters::default(), jitter_in: jitter, jitter_out: jitter }
    }
}

/// All that an engine measures as it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// By kind.
    pub kinds: ByKind<Quality>,
    /// Layers that ceased while others of their track went on, by their rank.
    pub freezes: [u64; 3],
    /// Round trips, each time that one is measured; microseconds.
    pub round_trips: Histogram,
}

impl Default for Measured {
    fn default() -> Self {
        let round_trips = Histogram::new(ROUND_TRIP_BOUNDS);
        Self { kinds: ByKind::default(), freezes: [0; 3], round_trips }
    }
}

counters! {
/// Counters by kind that only grow.
KindCounters:
    packets_in: "RTP packets of known sources let in, repairs and padding included.",
    bytes_in: "Their bytes on the wire.",
    packets_out: "RTP packets sent, repeats included.",
    bytes_out: "Their bytes on the wire.",
    lost_in: "Packets of publishers that were missing at a report on their source.",
    lost_out: "Packets that subscribers reported lost.",
}

counters! {
/// Counters that only grow.
Counters:
    rtp_in: "RTP packets let in.",
    rtp_in_bytes: "Bytes of RTP packets let in, as on the wire.",
    rtp_out: "RTP packets sent, repeats included.",
    rtp_out_bytes: "Bytes of RTP packets sent, as on the wire.",
    rtcp_in: "RTCP compounds let in.",
    rtcp_out: "RTCP compounds sent.",
    stun_in: "Authenticated STUN binding requests.",
    stun_rejected: "STUN messages that were malformed, unauthenticated or never asked for: dropped.",
    stun_role_conflict: "Binding requests answered with 487.",
    latched: "Times that a leg's address was latched or changed.",
    latch_refused: "Nominations of an address that another live leg has.",
    dtls_in: "DTLS datagrams handed up.",
    dtls_out: "DTLS datagrams sent.",
    dtls_dropped: "DTLS datagrams dropped: too many from one leg, or none to send to.",
    srtp_auth_failed: "SRTP and SRTCP packets with a wrong tag.",
    srtp_replayed: "SRTP and SRTCP packets seen before.",
    srtp_early_kept: "SRTP packets kept because the keys were not there yet.",
    srtp_early_dropped: "SRTP packets before the keys that did not fit any more.",
    dropped_unknown_address: "Datagrams from an address that no leg has latched.",
    dropped_unknown_protocol: "Datagrams that are no STUN, DTLS, RTP or RTCP.",
    dropped_malformed: "RTP packets that could not be parsed.",
    dropped_unknown_source: "RTP packets whose source belongs to no line, or one too many.",
    dropped_payload_type: "RTP packets of a payload type that was not negotiated.",
    dropped_bitrate: "RTP packets of peers that sent more than they may.",
    dropped_repeated: "RTP packets that a repair had brought before, or that were given up.",
    dropped_codec: "Packets not forwarded because the subscriber has another codec.",
    dropped_group: "Packets not forwarded because the subscriber is in another group.",
    padding_in: "Packets that carried padding only.",
    threads_crossed: "Published packets handed to another media thread, whose legs subscribe to them.",
    threads_dropped: "Packets and datagrams that another media thread was too busy to take.",
    threads_handed_over: "Datagrams handed to the media thread where their leg lives: its peer's address has changed.",
    forwarded: "Packets forwarded to a subscriber.",
    nack_in: "Packets that subscribers asked for again.",
    nack_out: "Packets asked of publishers again.",
    nack_unanswered: "Packets asked for again that were gone or asked for too often.",
    rtx_in: "Packets that publishers repeated.",
    rtx_out: "Packets repeated to subscribers.",
    pli_in: "Key frames that subscribers asked for.",
    pli_out: "Key frames asked of publishers.",
    key_frames: "Key frames received.",
    layer_switches: "Forwards that went over to another layer.",
    forwards_suspended: "Forwards held back because a subscriber's link did not carry them.",
    probes_out: "Packets of padding sent to see whether more fits.",
    voices_withheld: "Packets of voices that were not among the loudest of their group.",
    speaker_changes: "Changes of a group's dominant speaker.",
    ice_lost: "Legs whose peer stopped proving its consent.",
    ice_failed: "Legs that dialled a peer none of whose addresses answered.",
    ice_checks_out: "Binding requests sent by legs that dial.",
    ice_answers_in: "Authenticated answers to them.",
    trunk_out: "Packets sent on simulcast lines, repeats not included.",
    trunk_out_distinct: "... without those that another line of the same leg carries as well.",
}
