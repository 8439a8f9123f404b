//! What the engine counts; each name is one series of `/metrics`.

macro_rules! counters {
    ($($name:ident: $doc:literal),+ $(,)?) => {
        /// Counters that only grow.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Counters {
            $(#[doc = $doc] pub $name: u64,)+
        }

        impl Counters {
            /// Every counter with its name.
            pub fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((concat!(stringify!($name), "_total"), self.$name)),+].into_iter()
            }
        }
    };
}

counters! {
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
    speaker_changes: "Changes of a group's dominant speaker.",
    ice_lost: "Legs whose peer stopped proving its consent.",
    ice_failed: "Legs that dialled a peer none of whose addresses answered.",
    ice_checks_out: "Binding requests sent by legs that dial.",
    ice_answers_in: "Authenticated answers to them.",
    trunk_out: "Packets sent on simulcast lines, repeats not included.",
    trunk_out_distinct: "... without those that another line of the same leg carries as well.",
}
