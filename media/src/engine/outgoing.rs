//! What is sent to a leg: each stream with what was negotiated of it, what it shows, and where it stands.

use super::incoming::Track;
use super::plan::Transmit;
use crate::route::cache::{Cache, Repeats};
use crate::route::cut::Cut;
use crate::route::frame::{Cell, Reader};
use crate::route::layers::{Choice, Size, choose};
use crate::route::packet::{Codec, Packet};
use crate::route::rewrite::{Rewriter, Rewritten};
use crate::route::template::Template;

/// A line of a subscriber, by the leg's and the line's place.
pub type OutgoingKey = (usize, usize);

/// What a receiver told of a source that it gets.
#[derive(Clone, Copy, Debug, Default)]
pub struct RemoteReport {
    /// Packets lost in all.
    pub lost: i32,
    /// Fraction lost lately, in 256ths.
    pub fraction_lost: u8,
    /// Packets that had been sent by then.
    pub packets: u32,
}

impl RemoteReport {
    /// How many more packets were lost by a later report: never more than were sent meanwhile.
    pub fn lost_since(self, lost: i32, packets: u32) -> u64 {
        let more = i64::from(lost) - i64::from(self.lost);
        more.clamp(0, i64::from(packets.wrapping_sub(self.packets))) as u64
    }
}

/// How much of a picture a subscriber's link leaves room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Limit {
    /// What is wished.
    #[default]
    None,
    /// No larger choice than this, and no higher temporal layer.
    Layer(usize, u8),
    /// Nothing: it is held back until there is room.
    Suspended,
}

/// One stream that is sent to a leg: all that is sent on a line, or one layer of a simulcast.
#[derive(Debug)]
pub struct Outgoing {
    /// Its line.
    pub mid: String,
    /// Its place among the line's simulcast layers, whose only source layer it carries; `None`: it carries one after the
    /// other, whichever fits.
    pub layer: Option<usize>,
    /// What was negotiated of it.
    pub transmit: Transmit,
    /// The codec of its payload type.
    pub codec: Option<Codec>,
    /// The track that it shows: the publishing leg's and the track's place.
    pub source: Option<(usize, usize)>,
    /// The sizes that are shown beyond the line; `None`: the best.
    pub sizes: Vec<Option<Size>>,
    /// The layer it gets, and that layer's epoch.
    pub current: Option<(usize, u32)>,
    /// What its leg's link leaves room for.
    pub limit: Limit,
    /// The layer it should get.
    pub target: Option<usize>,
    /// What it gets of the layers within that.
    pub cut: Cut,
    /// Sequence numbers, timestamps and picture ids.
    pub rewriter: Rewriter,
    /// What was sent lately, of video without RTX.
    pub cache: Cache,
    /// What was sent again.
    pub repeats: Repeats,
    /// The RTP header of what is sent, but for what differs from packet to packet.
    pub template: Template,
    /// That of repairs, if RTX was negotiated.
    pub repairs: Option<Template>,
    /// Next sequence number of repairs, extended.
    pub rtx_next: u64,
    /// Packets sent, for sender reports.
    pub packets: u32,
    /// Payload bytes sent, for sender reports.
    pub octets: u32,
    /// What the peer told of it.
    pub report: RemoteReport,
    /// Another stream to the same leg carries the same layer of the same track.
    pub doubled: bool,
    /// Its leg's link is too narrow for copies of what a voice said before.
    pub plain: bool,
}

impl Outgoing {
    /// The choice that it should carry now: of a simulcast only its own layer, while one of the sizes takes it.
    pub fn choose(&self, track: &Track, choices: &[Choice]) -> Option<usize> {
        let mut chosen = self.sizes.iter().filter_map(|size| choose(choices, *size));
        match self.layer {
            None => chosen.min(), // the highest serves all: `fitting` holds it against the link
            Some(place) => {
                let named = track.receive.rids.iter().position(|rid| Some(rid) == self.transmit.rid.as_ref());
                let own = named.unwrap_or(place);
                chosen.find(|chosen| choices[*chosen].layer == own)
            }
        }
    }

    /// What `choose` gives, as far as the link carries it: the layer, and the cut through it.
    pub fn fitting(&self, track: &Track, choices: &[Choice]) -> Option<(usize, Cell)> {
        let chosen = self.choose(track, choices)?;
        let (place, temporal) = match self.limit {
            Limit::None => (chosen, Cell::ALL.temporal),
            Limit::Suspended => return None,
            Limit::Layer(limit, temporal) => {
                let least = chosen.max(limit);
                let place = (least..choices.len()).find(|place| choices[*place].flows).unwrap_or(chosen);
                (place, if place == limit { temporal } else { Cell::ALL.temporal })
            }
        };
        let Choice { layer, spatial, .. } = choices[place];
        Some((layer, Cell { spatial, temporal }))
    }

    /// Gives a packet of the present layer its place, unless it is left out.
    pub fn place(&mut self, packet: &Packet, reader: &Reader) -> Option<Rewritten> {
        if !packet.codec.is_video() || packet.is_padding() {
            return self.rewriter.rewrite(packet, true);
        }
        let passes = self.cut.passes(packet);
        let mut rewritten = self.rewriter.rewrite(packet, passes)?;
        if passes {
            self.cut.apply(&mut rewritten, packet, reader);
        }
        Some(rewritten)
    }

    /// The payload type of redundant audio, where that is sent.
    pub fn red(&self) -> Option<u8> {
        self.transmit.red.filter(|_| !self.plain)
    }

    /// The source layer that it carries, or will next.
    pub fn carries(&self) -> Option<usize> {
        self.target.or(self.current.map(|(layer, _)| layer))
    }

    /// It carries the layer that it should.
    pub fn has_target(&self, track: &Track) -> bool {
        self.target.is_some_and(|target| self.current == Some((target, track.layers[target].epoch)))
    }

    /// Sends nothing until the next entry; what was sent can still be repeated.
    pub fn pause(&mut self) {
        self.current = None;
        self.rewriter.stop();
    }

    /// Shows nothing from now on.
    pub fn detach(&mut self) {
        self.source = None;
        self.target = None;
        self.limit = Limit::None;
        self.pause();
        self.rewriter.forget();
        self.cache.clear();
    }
}

/// A packet that is to be sent to a leg once the batch is complete.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// The stream's place in the leg.
    pub outgoing: usize,
    /// The packet's place in the batch.
    pub packet: usize,
    /// Its place in the subscriber's stream.
    pub rewritten: Rewritten,
}
