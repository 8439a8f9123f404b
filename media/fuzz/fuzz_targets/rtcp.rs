//! RTCP compounds with all that hangs on their packets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mautrix_sfu_media::proto::rtcp::{Packet, parse};

fuzz_target!(|bytes: &[u8]| {
    for packet in parse(bytes) {
        match packet {
            Packet::SenderReport { blocks, .. } | Packet::ReceiverReport { blocks } => blocks.for_each(drop),
            Packet::Nack { lost, .. } => lost.for_each(drop),
            Packet::FullIntra { entries } => entries.for_each(drop),
            _ => {}
        }
    }
});
