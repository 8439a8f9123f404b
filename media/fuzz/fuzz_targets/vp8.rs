//! VP8's payload descriptor: parsed and rewritten in place.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mautrix_sfu_media::proto::vp8::{Descriptor, Indices};

fuzz_target!(|bytes: &[u8]| {
    if let Some(descriptor) = Descriptor::parse(bytes) {
        let mut copy = bytes.to_vec();
        descriptor.rewrite(&mut copy, Indices { picture_id: 0x7fff, tl0: 255, key_index: 31 });
        assert_eq!(copy[descriptor.length..], bytes[descriptor.length..]);
        let _ = descriptor.key_frame(bytes);
    }
});
