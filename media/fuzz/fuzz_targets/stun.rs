//! Binding requests and answers: parsed, verified, answered. Magic cookie, length and fingerprint are put right, else
//! nothing passes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mautrix_sfu_media::proto::stun::{Answer, Password, Request, with_fingerprint};

fuzz_target!(|bytes: &[u8]| {
    let repaired = with_fingerprint(bytes);
    for bytes in [bytes, &repaired] {
        let password = Password::new("password");
        if let Ok(answer) = Answer::parse(bytes) {
            answer.verify(&password);
        }
        let Ok(request) = Request::parse(bytes) else { continue };
        let mut out = Vec::new();
        request.verify(&password);
        request.write_success(([127, 0, 0, 1], 1).into(), &password, &mut out);
        request.write_role_conflict(&password, &mut out);
    }
});
