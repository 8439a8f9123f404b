//! Binding requests: parsed, verified, answered.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mautrix_sfu_media::proto::stun::{Password, Request};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(request) = Request::parse(bytes) {
        let password = Password::new("password");
        let mut out = Vec::new();
        request.verify(&password);
        request.write_success(([127, 0, 0, 1], 1).into(), &password, &mut out);
        request.write_role_conflict(&password, &mut out);
    }
});
