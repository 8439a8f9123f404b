//! RTP headers, their extensions and padding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mautrix_sfu_media::proto::rtp::Header;

fuzz_target!(|bytes: &[u8]| {
    if let Some(header) = Header::parse(bytes) {
        header.elements(bytes).for_each(drop);
        let _ = header.payload(bytes);
    }
});
