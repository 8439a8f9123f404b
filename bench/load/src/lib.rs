//! What the load generator and the ceiling share: batches of datagrams, and hexadecimal keys.

#[allow(unsafe_code)]
pub mod net;

use mautrix_sfu_media::srtp::{Master, Profile};

/// Bytes of a hexadecimal text.
pub fn hex(text: &str) -> Option<Vec<u8>> {
    let digit = |at: usize| {
        text.get(at..at + 2)
            .and_then(|pair| u8::from_str_radix(pair, 16).ok())
    };
    (0..text.len()).step_by(2).map(digit).collect()
}

/// Master key and salt, written as one hexadecimal text.
pub fn master(text: &str) -> Option<Master> {
    let bytes = hex(text)?;
    let (key, salt) = bytes.split_at_checked(16)?;
    Some(Master {
        key: key.to_vec(),
        salt: salt.to_vec(),
    })
}

/// A DTLS-SRTP profile by its OpenSSL name.
pub fn profile(name: &str) -> Option<Profile> {
    match name {
        "SRTP_AEAD_AES_128_GCM" => Some(Profile::AeadAes128Gcm),
        "SRTP_AES128_CM_SHA1_80" => Some(Profile::Aes128CmHmacSha1_80),
        _ => None,
    }
}

/// SplitMix64: the same numbers in every run.
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
