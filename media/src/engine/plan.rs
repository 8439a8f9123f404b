//! What the control plane tells the engine: a leg's negotiated session, and commands.

use std::net::SocketAddr;

use crate::route::layers::Size;
use crate::route::packet::Codec;
use crate::srtp::{Master, Profile};

/// A leg, by the number that the control plane gave it.
pub type LegId = u64;
/// A conference, by the number that the control plane gave it: packets never leave it.
pub type GroupId = u64;

/// What a line carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Audio.
    Audio,
    /// Video.
    Video,
}

impl Kind {
    /// What a codec is for.
    pub const fn of(codec: Codec) -> Self {
        if codec.is_video() { Self::Video } else { Self::Audio }
    }
}

/// One payload type; it means the same on every line of the leg (RFC 8843).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Payload {
    /// Payload type, 0 to 127.
    pub pt: u8,
    /// Encoding name.
    pub codec: String,
    /// Ticks per second.
    pub clock_rate: u32,
    /// For `rtx` and `red`: the payload type that it repeats (RFC 4588, RFC 2198).
    pub apt: Option<u8>,
}

/// What the peer sends on a line.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Receive {
    /// Simulcast layers, highest first; empty: one layer.
    pub rids: Vec<String>,
    /// Signalled (ssrc, rtx ssrc); empty: learnt from header extensions.
    pub ssrcs: Vec<(u32, Option<u32>)>,
}

/// One stream that is sent to the peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transmit {
    /// Source of the media.
    pub ssrc: u32,
    /// Source of repairs and their payload type, if RTX was negotiated.
    pub rtx: Option<(u32, u8)>,
    /// Payload type of the media.
    pub pt: u8,
    /// Payload type of the media with copies of earlier packets, if that was negotiated (RFC 2198).
    pub red: Option<u8>,
    /// CNAME of the source.
    pub cname: String,
    /// It is this layer of a simulcast (RFC 8851).
    pub rid: Option<String>,
}

/// One m-line with media.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// Its identification tag.
    pub mid: String,
    /// What it carries.
    pub kind: Kind,
    /// The peer sends on it.
    pub receive: Option<Receive>,
    /// The focus sends on it: one stream, or each layer of a simulcast as its own, highest first (RFC 8853).
    pub send: Vec<Transmit>,
}

/// A leg's negotiated session; always the whole of it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// Payload types.
    pub payloads: Vec<Payload>,
    /// Header extensions: (URI, id).
    pub extensions: Vec<(String, u8)>,
    /// Lines with media.
    pub lines: Vec<Line>,
}

/// What may be asked of the engine. Unknown legs and lines are ignored: they may just have ended.
#[derive(Clone)]
pub enum Command {
    /// A peer will ask under this ufrag.
    AddLeg {
        /// The new leg.
        leg: LegId,
        /// Its local ufrag.
        ufrag: String,
        /// Its local password.
        pwd: String,
    },
    /// The leg's peer is an ICE-lite agent that this side is to reach, over a socket of the leg's own.
    Connect {
        /// The leg, added before.
        leg: LegId,
        /// The socket's place; it belongs to the leg until the engine releases it.
        socket: usize,
        /// The peer's ufrag.
        ufrag: String,
        /// The peer's password.
        pwd: String,
        /// Where the peer says it is, best first.
        candidates: Vec<SocketAddr>,
    },
    /// ICE restart: the old credentials hold until the new ones are used (RFC 8445, section 9).
    SetCredentials {
        /// The leg.
        leg: LegId,
        /// Its next local ufrag.
        ufrag: String,
        /// Its next local password.
        pwd: String,
    },
    /// The leg belongs to this group from now on.
    SetGroup {
        /// The leg.
        leg: LegId,
        /// Its group.
        group: GroupId,
    },
    /// What the leg may send, in the long run; `None`: anything.
    SetBitrate {
        /// The leg.
        leg: LegId,
        /// Bits per second, as on the wire.
        bits_per_second: Option<u64>,
    },
    /// The leg ends; nothing is sent to it any more.
    RemoveLeg {
        /// The leg.
        leg: LegId,
    },
    /// Sends a DTLS datagram to the leg's latched address.
    SendDtls {
        /// The leg.
        leg: LegId,
        /// The datagram.
        datagram: Vec<u8>,
    },
    /// The DTLS handshake gave these SRTP keys.
    SetKeys {
        /// The leg.
        leg: LegId,
        /// The negotiated profile.
        profile: Profile,
        /// What the focus protects with.
        local: Master,
        /// What the peer protects with.
        remote: Master,
    },
    /// The negotiated session changed.
    SetPlan {
        /// The leg.
        leg: LegId,
        /// The whole new plan.
        plan: Plan,
    },
    /// The publisher's metadata tells the picture's size.
    DescribeTrack {
        /// The publishing leg.
        leg: LegId,
        /// Its line.
        mid: String,
        /// Full size of the picture.
        size: Option<Size>,
        /// It comes before others where a link is narrow.
        first: bool,
    },
    /// Passes on only the voices of so many of each group, the loudest; 0: of all.
    SetLoudest {
        /// How many.
        voices: usize,
    },
    /// Sends a published line on a subscriber's line; repeated, it changes the sizes only.
    Forward {
        /// The subscribing leg.
        leg: LegId,
        /// Its line.
        mid: String,
        /// The publishing leg.
        source_leg: LegId,
        /// Its line.
        source_mid: String,
        /// The sizes that are shown beyond this line; `None`: the best. A participant's line has one, a simulcast line
        /// carries the layer of each, and without any nothing is sent.
        sizes: Vec<Option<Size>>,
    },
    /// Ends a forward.
    StopForward {
        /// The subscribing leg.
        leg: LegId,
        /// Its line.
        mid: String,
    },
}
