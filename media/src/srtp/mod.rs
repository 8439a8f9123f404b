//! SRTP and SRTCP: AEAD_AES_128_GCM (RFC 7714) and AES128_CM_HMAC_SHA1_80 (RFC 3711), keys set up once per leg.

mod cipher;
mod replay;

use std::collections::HashMap;

pub use cipher::Profile;
use cipher::Session;
pub use replay::PacketIndex;

use crate::proto::u32_at;

/// Most SRTCP sources of one leg whose replay window is kept.
const MAX_RTCP_SOURCES: usize = 1024;
const RTCP_HEADER: usize = 8;
const ENCRYPTED: u32 = 1 << 31;

/// Why a packet was not let in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Too short to be what it says.
    Malformed,
    /// Not made with this key.
    Authentication,
    /// Seen before, or too old to tell.
    Replayed,
    /// No room for another source.
    TooManySources,
}

/// Master key and salt of one direction, as DTLS exported them (RFC 5764, section 4.2).
#[derive(Clone)]
pub struct Master {
    /// 16 bytes.
    pub key: Vec<u8>,
    /// 12 bytes for GCM, 14 for counter mode.
    pub salt: Vec<u8>,
}

/// Protects what is sent to one peer.
pub struct Protector {
    rtp: Session,
    rtcp: Session,
    rtcp_index: u32,
}

impl Protector {
    /// Derives the session keys; `None` if the master's lengths are not the profile's.
    pub fn new(profile: Profile, master: &Master) -> Option<Self> {
        let [rtp, rtcp] = cipher::derive(profile, master)?;
        Some(Self { rtp, rtcp, rtcp_index: 0 })
    }

    /// Encrypts the RTP packet that begins at `start` and has a header of `header` bytes, and appends the tag.
    ///
    /// `index` is the packet's extended sequence number. One index of one ssrc must never protect two different packets.
    pub fn protect_rtp(&self, buffer: &mut Vec<u8>, start: usize, header: usize, ssrc: u32, index: u64) {
        self.rtp.seal_rtp(buffer, start, header, ssrc, index);
    }

    /// Encrypts the RTCP compound that begins at `start`, and appends index and tag.
    pub fn protect_rtcp(&mut self, buffer: &mut Vec<u8>, start: usize) {
        self.rtcp_index = self.rtcp_index.wrapping_add(1) & !ENCRYPTED;
        self.rtcp.seal_rtcp(buffer, start, self.rtcp_index | ENCRYPTED);
    }
}

/// Unprotects what one peer sends.
pub struct Unprotector {
    rtp: Session,
    rtcp: Session,
    rtcp_indices: HashMap<u32, PacketIndex>,
}

impl Unprotector {
    /// Derives the session keys; `None` if the master's lengths are not the profile's.
    pub fn new(profile: Profile, master: &Master) -> Option<Self> {
        let [rtp, rtcp] = cipher::derive(profile, master)?;
        Some(Self { rtp, rtcp, rtcp_indices: HashMap::new() })
    }

    /// Decrypts an RTP packet in place. Gives its length without the tag, and its extended sequence number.
    ///
    /// `position` is its source's; the caller has it accept the number once the packet is taken.
    pub fn unprotect_rtp(
        &self,
        packet: &mut [u8],
        header: usize,
        ssrc: u32,
        seq: u16,
        position: &PacketIndex,
    ) -> Result<(usize, u64), Refused> {
        let index = position.estimate(seq);
        if !position.is_new(index) {
            return Err(Refused::Replayed);
        }
        let length = self.rtp.open_rtp(packet, header, ssrc, index)?;
        Ok((length, index))
    }

    /// Decrypts an RTCP compound in place and gives its length without index and tag.
    pub fn unprotect_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, Refused> {
        if packet.len() < RTCP_HEADER {
            return Err(Refused::Malformed);
        }
        let ssrc = u32_at(packet, 4).ok_or(Refused::Malformed)?;
        let word = self.rtcp.rtcp_index(packet)?;
        let index = u64::from(word & !ENCRYPTED);
        if self.rtcp_indices.get(&ssrc).is_some_and(|seen| !seen.is_new(index)) {
            return Err(Refused::Replayed);
        }
        let length = self.rtcp.open_rtcp(packet, word)?;
        if self.rtcp_indices.len() >= MAX_RTCP_SOURCES && !self.rtcp_indices.contains_key(&ssrc) {
            return Err(Refused::TooManySources);
        }
        self.rtcp_indices.entry(ssrc).or_default().accept(index);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn counter_mode() -> (Profile, Master) {
        let key = hex("e1f97a0d3e018be0d64fa32c06de4139");
        let salt = hex("0ec675ad498afeebb6960b3aabe6");
        (Profile::Aes128CmHmacSha1_80, Master { key, salt })
    }

    fn gcm() -> (Profile, Master) {
        let key = hex("000102030405060708090a0b0c0d0e0f");
        let salt = hex("a0a1a2a3a4a5a6a7a8a9aaab");
        (Profile::AeadAes128Gcm, Master { key, salt })
    }

    /// libsrtp's test vectors (srtp_driver.c): the same plain packets under both profiles.
    #[test]
    fn packets_are_protected_as_libsrtp_does() {
        let plain_rtp = hex("800f1234decafbadcafebabe abababababababababababababababab");
        let plain_rtcp = hex("81c8000bcafebabe abababababababababababababababab");
        let cases = [
            (
                counter_mode(),
                "800f1234decafbadcafebabe 4e55dc4ce79978d88ca4d215949d2402 b78d6acc99ea179b8dbb",
                "81c8000bcafebabe 7128035be487b9bdbef89041f977a5a8 80000001 993e08cd54d6c1230798",
            ),
            (
                gcm(),
                "800f1234decafbadcafebabe c5002ede04cfdd2eb91159e0880aa06e d2976826f796b201df3131a127e8a392",
                "81c8000bcafebabe c98b8b5df0392a55852b6c21ac8e7025 c52c6fbea2b3b446ea31123ba88ce61e 80000001",
            ),
        ];
        for ((profile, master), rtp, rtcp) in cases {
            let mut protector = Protector::new(profile, &master).unwrap();
            let mut unprotector = Unprotector::new(profile, &master).unwrap();
            let mut buffer = [b"before".to_vec(), plain_rtp.clone()].concat();
            protector.protect_rtp(&mut buffer, 6, 12, 0xcafe_babe, 0x1234);
            let packet = &mut buffer[6..];
            assert_eq!(packet, hex(rtp), "{profile:?}");
            let (length, index) =
                unprotector.unprotect_rtp(packet, 12, 0xcafe_babe, 0x1234, &PacketIndex::default()).unwrap();
            assert_eq!((&packet[..length], index), (&plain_rtp[..], 0x1234));

            let mut buffer = [b"before".to_vec(), plain_rtcp.clone()].concat();
            protector.protect_rtcp(&mut buffer, 6);
            let packet = &mut buffer[6..];
            assert_eq!(packet, hex(rtcp), "{profile:?}");
            let sealed = packet.to_vec();
            let length = unprotector.unprotect_rtcp(packet).unwrap();
            assert_eq!(packet[..length], plain_rtcp);
            assert_eq!(unprotector.unprotect_rtcp(&mut sealed.clone()), Err(Refused::Replayed));
        }
    }

    #[test]
    fn one_flipped_bit_anywhere_is_refused() {
        for (profile, master) in [counter_mode(), gcm()] {
            let mut protector = Protector::new(profile, &master).unwrap();
            let mut rtp = hex("800f1234decafbadcafebabe 0102030405");
            protector.protect_rtp(&mut rtp, 0, 12, 0xcafe_babe, 0x1234);
            let mut rtcp = hex("81c90001cafebabe");
            protector.protect_rtcp(&mut rtcp, 0);
            for bit in 0..8 * rtp.len() {
                let mut damaged = rtp.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let unprotector = Unprotector::new(profile, &master).unwrap();
                let got = unprotector.unprotect_rtp(&mut damaged, 12, 0xcafe_babe, 0x1234, &PacketIndex::default());
                assert_eq!(got, Err(Refused::Authentication));
            }
            for bit in 0..8 * rtcp.len() {
                let mut damaged = rtcp.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                let mut unprotector = Unprotector::new(profile, &master).unwrap();
                assert_eq!(unprotector.unprotect_rtcp(&mut damaged), Err(Refused::Authentication));
            }
        }
    }

    #[test]
    fn short_packets_and_wrong_key_lengths_are_refused() {
        for (profile, master) in [counter_mode(), gcm()] {
            let mut unprotector = Unprotector::new(profile, &master).unwrap();
            for length in 0..24 {
                let mut packet = vec![0x80; length];
                assert!(unprotector.unprotect_rtcp(&mut packet).is_err());
                if length >= 12 {
                    let got = unprotector.unprotect_rtp(&mut packet, 12, 1, 1, &PacketIndex::default());
                    assert!(got.is_err());
                }
            }
            let short = Master { key: vec![0; 15], salt: master.salt.clone() };
            assert!(Protector::new(profile, &short).is_none());
            let long = Master { key: master.key.clone(), salt: vec![0; 13] };
            assert!(Unprotector::new(profile, &long).is_none());
        }
    }
}
