//! Session keys and the two transforms: what seals and opens one packet, given its index.

use aws_lc_rs::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::cipher::{AES_128, EncryptingKey, EncryptionContext, UnboundCipherKey};
use aws_lc_rs::constant_time;
use aws_lc_rs::hmac;
use aws_lc_rs::iv::FixedLength;

use super::{ENCRYPTED, Master, RTCP_HEADER, Refused};
use crate::proto::u32_at;

const KEY: usize = 16;
const GCM_SALT: usize = 12;
const GCM_TAG: usize = 16;
const CM_SALT: usize = 14;
const CM_TAG: usize = 10;
const CM_MAC_KEY: usize = 20;
const INDEX_WORD: usize = 4;
const HOLDS: &str = "AES takes any input of a datagram's size";

/// A DTLS-SRTP protection profile.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Profile {
    /// SRTP_AEAD_AES_128_GCM (RFC 7714).
    AeadAes128Gcm,
    /// SRTP_AES128_CM_HMAC_SHA1_80 (RFC 5764).
    Aes128CmHmacSha1_80,
}

impl Profile {
    /// Bytes of the master salt; the master key has 16.
    pub const fn salt_length(self) -> usize {
        match self {
            Self::AeadAes128Gcm => GCM_SALT,
            Self::Aes128CmHmacSha1_80 => CM_SALT,
        }
    }
}

/// The session keys of RTP or of RTCP in one direction.
pub(super) enum Session {
    Gcm { key: LessSafeKey, salt: [u8; GCM_SALT] },
    CounterMode(Box<CounterMode>), // some 2 kB of expanded keys
}

pub(super) struct CounterMode {
    key: EncryptingKey,
    salt: [u8; CM_SALT],
    mac: hmac::Key,
}

/// Derives the sessions of RTP and RTCP (RFC 3711, section 4.3, with a key derivation rate of zero).
pub(super) fn derive(profile: Profile, master: &Master) -> Option<[Session; 2]> {
    if master.key.len() != KEY || master.salt.len() != profile.salt_length() {
        return None;
    }
    let mut salt = [0; CM_SALT]; // a GCM salt is padded with zeros (RFC 7714, section 11)
    salt[..master.salt.len()].copy_from_slice(&master.salt);
    let session = |first_label: u8| {
        let key: [u8; KEY] = derived(&master.key, salt, first_label)?;
        Some(match profile {
            Profile::AeadAes128Gcm => Session::Gcm {
                key: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).ok()?),
                salt: derived(&master.key, salt, first_label + 2)?,
            },
            Profile::Aes128CmHmacSha1_80 => {
                let mac: [u8; CM_MAC_KEY] = derived(&master.key, salt, first_label + 1)?;
                Session::CounterMode(Box::new(CounterMode {
                    key: counter_mode_key(&key)?,
                    salt: derived(&master.key, salt, first_label + 2)?,
                    mac: hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &mac),
                }))
            }
        })
    };
    Some([session(0)?, session(3)?])
}

/// The pseudo-random function of RFC 3711, section 4.3.3, for one label.
fn derived<const N: usize>(key: &[u8], salt: [u8; CM_SALT], label: u8) -> Option<[u8; N]> {
    let mut iv = [0; 16];
    iv[..CM_SALT].copy_from_slice(&salt);
    iv[7] ^= label;
    let mut out = [0; N];
    apply_keystream(&counter_mode_key(key)?, iv, &mut out);
    Some(out)
}

fn counter_mode_key(key: &[u8]) -> Option<EncryptingKey> {
    EncryptingKey::ctr(UnboundCipherKey::new(&AES_128, key).ok()?).ok()
}

/// AES in counter mode encrypts as it decrypts.
fn apply_keystream(key: &EncryptingKey, iv: [u8; 16], data: &mut [u8]) {
    key.less_safe_encrypt(data, EncryptionContext::Iv128(FixedLength::from(iv))).expect(HOLDS);
}

impl Session {
    pub(super) fn seal_rtp(&self, buffer: &mut Vec<u8>, start: usize, header: usize, ssrc: u32, index: u64) {
        match self {
            Self::Gcm { key, salt } => {
                let nonce = gcm_nonce(salt, ssrc, index);
                let (aad, body) = buffer[start..].split_at_mut(header);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(aad), body).expect(HOLDS);
                buffer.extend_from_slice(tag.as_ref());
            }
            Self::CounterMode(session) => {
                let CounterMode { key, salt, mac } = &**session;
                apply_keystream(key, counter_mode_iv(salt, ssrc, index), &mut buffer[start + header..]);
                let tag = counter_mode_tag(mac, &buffer[start..], roll_over_counter(index));
                buffer.extend_from_slice(&tag.as_ref()[..CM_TAG]);
            }
        }
    }

    pub(super) fn open_rtp(&self, packet: &mut [u8], header: usize, ssrc: u32, index: u64) -> Result<usize, Refused> {
        match self {
            Self::Gcm { key, salt } => {
                let end = packet.len().checked_sub(GCM_TAG).filter(|end| *end >= header).ok_or(Refused::Malformed)?;
                let (aad, body) = packet.split_at_mut(header);
                key.open_in_place(gcm_nonce(salt, ssrc, index), Aad::from(aad), body)
                    .map_err(|_| Refused::Authentication)?;
                Ok(end)
            }
            Self::CounterMode(session) => {
                let CounterMode { key, salt, mac } = &**session;
                let end = packet.len().checked_sub(CM_TAG).filter(|end| *end >= header).ok_or(Refused::Malformed)?;
                let (covered, tag) = packet.split_at_mut(end);
                let expected = counter_mode_tag(mac, covered, roll_over_counter(index));
                constant_time::verify_slices_are_equal(&expected.as_ref()[..CM_TAG], tag)
                    .map_err(|_| Refused::Authentication)?;
                apply_keystream(key, counter_mode_iv(salt, ssrc, index), &mut covered[header..]);
                Ok(end)
            }
        }
    }

    /// `word` is the index with the E bit set.
    pub(super) fn seal_rtcp(&self, buffer: &mut Vec<u8>, start: usize, word: u32) {
        let ssrc = u32_at(buffer, start + 4).unwrap_or_default();
        let index = u64::from(word & !ENCRYPTED);
        match self {
            Self::Gcm { key, salt } => {
                let (header, body) = buffer[start..].split_at_mut(RTCP_HEADER);
                let aad = gcm_rtcp_aad(header, word);
                let nonce = gcm_nonce(salt, ssrc, index);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(aad), body).expect(HOLDS);
                buffer.extend_from_slice(tag.as_ref());
                buffer.extend_from_slice(&word.to_be_bytes());
            }
            Self::CounterMode(session) => {
                let CounterMode { key, salt, mac } = &**session;
                apply_keystream(key, counter_mode_iv(salt, ssrc, index), &mut buffer[start + RTCP_HEADER..]);
                let tag = counter_mode_tag(mac, &buffer[start..], word);
                buffer.extend_from_slice(&word.to_be_bytes());
                buffer.extend_from_slice(&tag.as_ref()[..CM_TAG]);
            }
        }
    }

    /// The E bit and index that an SRTCP packet carries.
    pub(super) fn rtcp_index(&self, packet: &[u8]) -> Result<u32, Refused> {
        let after = match self {
            Self::Gcm { .. } => INDEX_WORD,
            Self::CounterMode(_) => INDEX_WORD + CM_TAG,
        };
        packet.len().checked_sub(after).and_then(|at| u32_at(packet, at)).ok_or(Refused::Malformed)
    }

    /// `word` is what `rtcp_index` gave. Without the E bit the packet is authenticated only (RFC 3711, section 3.4).
    pub(super) fn open_rtcp(&self, packet: &mut [u8], word: u32) -> Result<usize, Refused> {
        let ssrc = u32_at(packet, 4).ok_or(Refused::Malformed)?;
        let index = u64::from(word & !ENCRYPTED);
        let encrypted = word & ENCRYPTED != 0;
        let trailer = match self {
            Self::Gcm { .. } => GCM_TAG + INDEX_WORD,
            Self::CounterMode(_) => INDEX_WORD + CM_TAG,
        };
        let end = packet.len().checked_sub(trailer).filter(|end| *end >= RTCP_HEADER).ok_or(Refused::Malformed)?;
        match self {
            Self::Gcm { key, salt } => {
                let nonce = gcm_nonce(salt, ssrc, index);
                let sealed = packet.len() - INDEX_WORD;
                let opened = if encrypted {
                    let (header, rest) = packet[..sealed].split_at_mut(RTCP_HEADER);
                    key.open_in_place(nonce, Aad::from(gcm_rtcp_aad(header, word)), rest).map(|_| ())
                } else {
                    let aad = [&packet[..end], &word.to_be_bytes()].concat();
                    key.open_in_place(nonce, Aad::from(aad), &mut packet[end..sealed]).map(|_| ())
                };
                opened.map_err(|_| Refused::Authentication)?;
            }
            Self::CounterMode(session) => {
                let CounterMode { key, salt, mac } = &**session;
                let (covered, rest) = packet.split_at_mut(end);
                let expected = counter_mode_tag(mac, covered, word);
                constant_time::verify_slices_are_equal(&expected.as_ref()[..CM_TAG], &rest[INDEX_WORD..])
                    .map_err(|_| Refused::Authentication)?;
                if encrypted {
                    apply_keystream(key, counter_mode_iv(salt, ssrc, index), &mut covered[RTCP_HEADER..]);
                }
            }
        }
        Ok(end)
    }
}

fn roll_over_counter(index: u64) -> u32 {
    (index >> 16) as u32
}

/// RFC 7714, sections 8.1 and 9.1: zeros, ssrc and the 48-bit index, mixed with the salt.
fn gcm_nonce(salt: &[u8; GCM_SALT], ssrc: u32, index: u64) -> Nonce {
    let mut nonce = *salt;
    let ssrc = ssrc.to_be_bytes();
    let index = index.to_be_bytes();
    for (byte, value) in nonce[2..].iter_mut().zip(ssrc.iter().chain(&index[2..])) {
        *byte ^= value;
    }
    Nonce::assume_unique_for_key(nonce)
}

/// RFC 7714, section 9.2: the RTCP header, then the word with E bit and index.
fn gcm_rtcp_aad(header: &[u8], word: u32) -> [u8; RTCP_HEADER + INDEX_WORD] {
    let mut aad = [0; RTCP_HEADER + INDEX_WORD];
    aad[..RTCP_HEADER].copy_from_slice(header);
    aad[RTCP_HEADER..].copy_from_slice(&word.to_be_bytes());
    aad
}

/// RFC 3711, section 4.1.1.
fn counter_mode_iv(salt: &[u8; CM_SALT], ssrc: u32, index: u64) -> [u8; 16] {
    let mut iv = [0; 16];
    iv[..CM_SALT].copy_from_slice(salt);
    let ssrc = ssrc.to_be_bytes();
    let index = index.to_be_bytes();
    for (byte, value) in iv[4..CM_SALT].iter_mut().zip(ssrc.iter().chain(&index[2..])) {
        *byte ^= value;
    }
    iv
}

/// RFC 3711, section 4.2: over the packet and the roll-over counter (for RTCP: the word with E bit and index).
fn counter_mode_tag(mac: &hmac::Key, covered: &[u8], word: u32) -> hmac::Tag {
    let mut context = hmac::Context::with_key(mac);
    context.update(covered);
    context.update(&word.to_be_bytes());
    context.sign()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(value: u128) -> [u8; N] {
        value.to_be_bytes()[16 - N..].try_into().unwrap()
    }

    /// RFC 3711, appendix B.3.
    #[test]
    fn session_keys_are_derived_as_the_rfc_shows() {
        let key = bytes::<16>(0xE1F9_7A0D_3E01_8BE0_D64F_A32C_06DE_4139);
        let salt = bytes::<14>(0x0EC6_75AD_498A_FEEB_B696_0B3A_ABE6);
        assert_eq!(derived(&key, salt, 0), Some(bytes::<16>(0xC61E_7A93_744F_39EE_1073_4AFE_3FF7_A087)));
        assert_eq!(derived(&key, salt, 2), Some(bytes::<14>(0x30CB_BC08_863D_8C85_D49D_B34A_9AE1)));
        let mac: [u8; 20] = derived(&key, salt, 1).unwrap();
        assert_eq!(mac[..16], bytes::<16>(0xCEBE_321F_6FF7_716B_6FD4_AB49_AF25_6A15));
        assert_eq!(mac[16..], [0x6D, 0x38, 0xBA, 0xA4]);
    }

    /// RFC 3711, appendix B.2.
    #[test]
    fn the_counter_mode_keystream_is_the_rfcs() {
        let key = counter_mode_key(&bytes::<16>(0x2B7E_1516_28AE_D2A6_ABF7_1588_09CF_4F3C)).unwrap();
        let salt = bytes::<14>(0xF0F1_F2F3_F4F5_F6F7_F8F9_FAFB_FCFD);
        let mut stream = [0; 32];
        apply_keystream(&key, counter_mode_iv(&salt, 0, 0), &mut stream);
        assert_eq!(stream[..16], bytes::<16>(0xE03E_AD09_35C9_5E80_E166_B16D_D92B_4EB4));
        assert_eq!(stream[16..], bytes::<16>(0xD235_1316_2B02_D0F7_2A43_A2FE_4A5F_97AB));
    }

    /// RFC 7714, section 16.1.1: session keys, not master keys.
    #[test]
    fn gcm_seals_rtp_as_the_rfc_shows() {
        let key = bytes::<16>(0x0001_0203_0405_0607_0809_0a0b_0c0d_0e0f);
        let session = Session::Gcm {
            key: LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &key).unwrap()),
            salt: *b"Quid pro quo",
        };
        let mut packet = vec![0x80, 0x40, 0xf1, 0x7b, 0x80, 0x41, 0xf8, 0xd3, 0x55, 0x01, 0xa0, 0xb2];
        packet.extend_from_slice(b"Gallia est omnis divisa in partes tres");
        let plain = packet.clone();
        session.seal_rtp(&mut packet, 0, 12, 0x5501_a0b2, 0xf17b);
        assert_eq!(packet[12..28], bytes::<16>(0xf24d_e3a3_fb34_de6c_acba_861c_9d7e_4bca));
        assert_eq!(packet[28..44], bytes::<16>(0xbe63_3bd5_0d29_4e6f_42a5_f47a_51c7_d19b));
        assert_eq!(packet[44..60], bytes::<16>(0x36de_3adf_8833_899d_7f27_beb1_6a91_52cf));
        assert_eq!(packet[60..], [0x76, 0x5e, 0xe4, 0x39, 0x0c, 0xce]);
        assert_eq!(session.open_rtp(&mut packet, 12, 0x5501_a0b2, 0xf17b), Ok(plain.len()));
        assert_eq!(packet[..plain.len()], plain);
    }

    #[test]
    fn rtcp_without_the_e_bit_is_authenticated_and_left_as_it_is() {
        let mac = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, &[3; 20]);
        let tag = counter_mode_tag(&mac, &[0x80, 201, 0, 1, 0, 0, 0, 9], 5);
        let keys = CounterMode { key: counter_mode_key(&[1; 16]).unwrap(), salt: [2; 14], mac };
        let session = Session::CounterMode(Box::new(keys));
        let mut packet = [&[0x80, 201, 0, 1, 0, 0, 0, 9, 0, 0, 0, 5], &tag.as_ref()[..CM_TAG]].concat();
        let word = session.rtcp_index(&packet).unwrap();
        assert_eq!((word, session.open_rtcp(&mut packet, word)), (5, Ok(8)));
        assert_eq!(packet[..8], [0x80, 201, 0, 1, 0, 0, 0, 9]);
        packet[1] = 200;
        assert_eq!(session.open_rtcp(&mut packet, word), Err(Refused::Authentication));
    }
}
