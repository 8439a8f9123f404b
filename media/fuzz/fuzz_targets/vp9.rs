//! See `mautrix_sfu_media_fuzz::vp9`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| mautrix_sfu_media_fuzz::vp9(bytes));
