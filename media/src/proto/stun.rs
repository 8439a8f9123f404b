//! STUN binding requests and answers as an ICE-lite agent needs them (RFC 8489, RFC 8445).

use std::net::{IpAddr, SocketAddr};

use aws_lc_rs::{constant_time, hmac};

use super::{u16_at, u32_at};

const MAGIC_COOKIE: u32 = 0x2112_A442;
const HEADER: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_INDICATION: u16 = 0x0011;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;

const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const ERROR_CODE: u16 = 0x0009;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLED: u16 = 0x8029;

const FINGERPRINT_XOR: u32 = 0x5354_554e;
const MAC: usize = 20;

/// What is wrong with a STUN message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StunError {
    /// Not STUN by its header, or an attribute runs past the end.
    Malformed,
    /// FINGERPRINT is missing, not last, or wrong.
    Fingerprint,
    /// No binding request: an indication, or an answer to a question that was never asked.
    NotARequest,
    /// USERNAME or MESSAGE-INTEGRITY is missing.
    Incomplete,
}

/// A binding request whose FINGERPRINT is right and whose MESSAGE-INTEGRITY is yet to be verified.
#[derive(Debug)]
pub struct Request<'a> {
    bytes: &'a [u8],
    integrity_at: usize,
    /// The ufrag of the agent that is asked: the first half of USERNAME.
    pub local_ufrag: &'a str,
    /// The asking agent nominates this pair.
    pub use_candidate: bool,
    /// The asking agent believes that it is the controlled one.
    pub controlled: bool,
}

impl<'a> Request<'a> {
    /// Parses a binding request (RFC 8489, section 5) and checks its FINGERPRINT.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, StunError> {
        let kind = u16_at(bytes, 0).ok_or(StunError::Malformed)?;
        let length = usize::from(u16_at(bytes, 2).ok_or(StunError::Malformed)?);
        if u32_at(bytes, 4) != Some(MAGIC_COOKIE) || bytes.len() != HEADER + length || length % 4 != 0 {
            return Err(StunError::Malformed);
        }
        if kind != BINDING_REQUEST {
            let known = matches!(kind, BINDING_INDICATION | BINDING_SUCCESS | BINDING_ERROR);
            return Err(if known { StunError::NotARequest } else { StunError::Malformed });
        }
        let (mut username, mut integrity_at, mut fingerprint) = (None, None, false);
        let (mut use_candidate, mut controlled) = (false, false);
        let mut at = HEADER;
        while at < bytes.len() {
            let kind = u16_at(bytes, at).ok_or(StunError::Malformed)?;
            let length = usize::from(u16_at(bytes, at + 2).ok_or(StunError::Malformed)?);
            let value = bytes.get(at + 4..at + 4 + length).ok_or(StunError::Malformed)?;
            let next = at + 4 + length.next_multiple_of(4);
            match kind {
                FINGERPRINT => {
                    if next != bytes.len() || value != fingerprint_of(&bytes[..at]).to_be_bytes() {
                        return Err(StunError::Fingerprint);
                    }
                    fingerprint = true;
                }
                _ if integrity_at.is_some() => {} // not covered by the integrity: ignored (section 14.5)
                USERNAME => username = Some(value),
                MESSAGE_INTEGRITY if length == MAC => integrity_at = Some(at),
                USE_CANDIDATE => use_candidate = true,
                ICE_CONTROLLED => controlled = true,
                _ => {}
            }
            at = next;
        }
        if !fingerprint {
            return Err(StunError::Fingerprint);
        }
        let username = username.and_then(|name| std::str::from_utf8(name).ok()).ok_or(StunError::Incomplete)?;
        let (local_ufrag, _) = username.split_once(':').ok_or(StunError::Incomplete)?;
        let integrity_at = integrity_at.ok_or(StunError::Incomplete)?;
        Ok(Self { bytes, integrity_at, local_ufrag, use_candidate, controlled })
    }

    /// Whether MESSAGE-INTEGRITY was made with this password; compared in constant time.
    pub fn verify(&self, password: &Password) -> bool {
        let mac = &self.bytes[self.integrity_at + 4..self.integrity_at + 4 + MAC];
        let expected = password.mac(&self.bytes[..self.integrity_at]);
        constant_time::verify_slices_are_equal(mac, expected.as_ref()).is_ok()
    }

    /// Appends the success response: the address that the request came from, as the peer's NAT made it.
    pub fn write_success(&self, from: SocketAddr, password: &Password, out: &mut Vec<u8>) {
        let start = self.write_header(BINDING_SUCCESS, out);
        let port = from.port() ^ (MAGIC_COOKIE >> 16) as u16;
        let mut octets = [0; 16];
        let (family, address) = match from.ip() {
            IpAddr::V4(ip) => {
                octets[..4].copy_from_slice(&ip.octets());
                (1, &octets[..4])
            }
            IpAddr::V6(ip) => {
                octets = ip.octets();
                (2, &octets[..])
            }
        };
        out.extend_from_slice(&XOR_MAPPED_ADDRESS.to_be_bytes());
        out.extend_from_slice(&(4 + address.len() as u16).to_be_bytes());
        out.extend_from_slice(&[0, family]);
        out.extend_from_slice(&port.to_be_bytes());
        out.extend(address.iter().zip(&self.bytes[4..HEADER]).map(|(a, b)| a ^ b)); // cookie and transaction id
        seal(out, start, password);
    }

    /// Appends the error response 487 (Role Conflict): a lite agent is always the controlled one (RFC 8445, 7.3.1.1).
    pub fn write_role_conflict(&self, password: &Password, out: &mut Vec<u8>) {
        let start = self.write_header(BINDING_ERROR, out);
        let reason = b"Role Conflict";
        out.extend_from_slice(&ERROR_CODE.to_be_bytes());
        out.extend_from_slice(&(4 + reason.len() as u16).to_be_bytes());
        out.extend_from_slice(&[0, 0, 4, 87]);
        out.extend_from_slice(reason);
        pad(out, start);
        seal(out, start, password);
    }

    fn write_header(&self, kind: u16, out: &mut Vec<u8>) -> usize {
        let start = out.len();
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&self.bytes[4..HEADER]);
        start
    }
}

/// An ICE password with its HMAC key set up.
#[derive(Debug)]
pub struct Password(hmac::Key);

impl Password {
    /// Short-term credentials: the key is the password itself (RFC 8489, section 9.1.1).
    pub fn new(password: &str) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, password.as_bytes()))
    }

    /// The MAC over a message up to its MESSAGE-INTEGRITY attribute, as if that attribute were the last one.
    fn mac(&self, covered: &[u8]) -> hmac::Tag {
        let length = (covered.len() - HEADER + 4 + MAC) as u16;
        let mut context = hmac::Context::with_key(&self.0);
        context.update(&covered[..2]);
        context.update(&length.to_be_bytes());
        context.update(&covered[4..]);
        context.sign()
    }
}

/// Pads the message that begins at `start` to 32 bits.
fn pad(out: &mut Vec<u8>, start: usize) {
    while (out.len() - start) % 4 != 0 {
        out.push(0);
    }
}

/// Ends the message that begins at `start` with MESSAGE-INTEGRITY and FINGERPRINT.
fn seal(out: &mut Vec<u8>, start: usize, password: &Password) {
    let mac = password.mac(&out[start..]);
    out.extend_from_slice(&MESSAGE_INTEGRITY.to_be_bytes());
    out.extend_from_slice(&(MAC as u16).to_be_bytes());
    out.extend_from_slice(mac.as_ref());
    let length = (out.len() - start - HEADER + 8) as u16;
    out[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
    let fingerprint = fingerprint_of(&out[start..]);
    out.extend_from_slice(&FINGERPRINT.to_be_bytes());
    out.extend_from_slice(&4u16.to_be_bytes());
    out.extend_from_slice(&fingerprint.to_be_bytes());
}

fn fingerprint_of(covered: &[u8]) -> u32 {
    crc32fast::hash(covered) ^ FINGERPRINT_XOR
}

/// Makes a binding request as a full agent does; for tests and tools.
pub fn write_request(
    txid: [u8; 12],
    username: &str,
    password: &Password,
    use_candidate: bool,
    controlling: bool,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.extend_from_slice(&BINDING_REQUEST.to_be_bytes());
    out.extend_from_slice(&[0, 0]);
    out.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
    out.extend_from_slice(&txid);
    out.extend_from_slice(&USERNAME.to_be_bytes());
    out.extend_from_slice(&(username.len() as u16).to_be_bytes());
    out.extend_from_slice(username.as_bytes());
    pad(out, start);
    let role = if controlling { 0x802A } else { ICE_CONTROLLED };
    out.extend_from_slice(&role.to_be_bytes());
    out.extend_from_slice(&[0, 8, 1, 2, 3, 4, 5, 6, 7, 8]);
    if use_candidate {
        out.extend_from_slice(&USE_CANDIDATE.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
    }
    seal(out, start, password);
}

/// Makes a binding request out of these attributes, whatever they are: with header and FINGERPRINT, as fuzzing needs it.
pub fn with_fingerprint(attributes: &[u8]) -> Vec<u8> {
    let length = attributes.len().min(1000) / 4 * 4;
    let mut out = Vec::new();
    out.extend_from_slice(&BINDING_REQUEST.to_be_bytes());
    out.extend_from_slice(&(length as u16 + 8).to_be_bytes());
    out.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
    out.extend_from_slice(&[0; 12]);
    out.extend_from_slice(&attributes[..length]);
    let fingerprint = fingerprint_of(&out);
    out.extend_from_slice(&FINGERPRINT.to_be_bytes());
    out.extend_from_slice(&4u16.to_be_bytes());
    out.extend_from_slice(&fingerprint.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 5769, section 2.1 (its software name and padding included).
    const SAMPLE: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74\
                          002400046e0001ff80290008932ff9b151263b36000600096576746a3a68367659202020000800149a\
                          eaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    #[test]
    fn the_rfc_5769_sample_request_is_understood() {
        let bytes = hex(SAMPLE);
        let request = Request::parse(&bytes).unwrap();
        assert_eq!(request.local_ufrag, "evtj");
        assert!(request.controlled && !request.use_candidate);
        assert!(request.verify(&Password::new("VOkJxbRl1RmTxUk/WvJxBt")));
        assert!(!request.verify(&Password::new("VOkJxbRl1RmTxUk/WvJxBu")));
    }

    #[test]
    fn a_response_carries_the_xored_address_and_verifies_as_rfc_5769_shows() {
        let bytes = hex(SAMPLE);
        let password = Password::new("VOkJxbRl1RmTxUk/WvJxBt");
        let mut out = vec![9; 3]; // an answer may be appended at any offset
        Request::parse(&bytes).unwrap().write_success("192.0.2.1:32853".parse().unwrap(), &password, &mut out);
        let answer = &out[3..];
        assert_eq!(answer[..2], [1, 1]);
        assert_eq!(answer[20..32], hex("002000080001a147e112a643"));
        assert_eq!(password.mac(&answer[..32]).as_ref(), &answer[36..56]);
        assert_eq!(answer[60..], fingerprint_of(&answer[..56]).to_be_bytes());
        assert_eq!(usize::from(u16_at(answer, 2).unwrap()) + 20, answer.len());
    }

    #[test]
    fn role_conflict_is_a_well_formed_487() {
        let bytes = hex(SAMPLE);
        let password = Password::new("x");
        let mut out = vec![1];
        Request::parse(&bytes).unwrap().write_role_conflict(&password, &mut out);
        let answer = &out[1..];
        assert_eq!(answer.len() % 4, 0);
        assert_eq!(answer[20..28], [0, 9, 0, 17, 0, 0, 4, 87]);
        assert_eq!(usize::from(u16_at(answer, 2).unwrap()) + 20, answer.len());
        assert_eq!(answer[answer.len() - 4..], fingerprint_of(&answer[..answer.len() - 8]).to_be_bytes());
    }

    #[test]
    fn a_wrong_fingerprint_or_a_missing_one_is_refused() {
        let mut bytes = hex(SAMPLE);
        *bytes.last_mut().unwrap() ^= 1;
        assert_eq!(Request::parse(&bytes).unwrap_err(), StunError::Fingerprint);
        let mut bytes = hex(SAMPLE);
        bytes.truncate(bytes.len() - 8);
        bytes[3] -= 8;
        assert_eq!(Request::parse(&bytes).unwrap_err(), StunError::Fingerprint);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::parse(&bytes);
        }

        #[test]
        fn any_attributes_are_survived(attributes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = with_fingerprint(&attributes);
            prop_assert!(!matches!(Request::parse(&bytes), Err(StunError::NotARequest)));
        }

        #[test]
        fn a_damaged_request_is_survived_and_never_verifies(at in 0usize..100, value in any::<u8>()) {
            let mut bytes = hex(SAMPLE);
            let at = at % bytes.len();
            let changed = bytes[at] != value;
            bytes[at] = value;
            if let Ok(request) = Request::parse(&bytes) {
                prop_assert_eq!(request.verify(&Password::new("VOkJxbRl1RmTxUk/WvJxBt")), !changed);
            }
        }
    }
}
