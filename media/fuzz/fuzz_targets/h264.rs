//! See `mautrix_sfu_media_fuzz::h264`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mautrix_sfu_media_fuzz::h264(bytes));
