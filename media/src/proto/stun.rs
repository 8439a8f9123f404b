//! STUN binding requests and answers, as an ICE-lite agent and the one that dials it need them (RFC 8489, RFC 8445).

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
const PRIORITY: u16 = 0x0024;
const USE_CANDIDATE: u16 = 0x0025;
const FINGERPRINT: u16 = 0x8028;
const ICE_CONTROLLED: u16 = 0x8029;
const ICE_CONTROLLING: u16 = 0x802A;

const FINGERPRINT_XOR: u32 = 0x5354_554e;
const MAC: usize = 20;
/// What a peer-reflexive candidate found by a check would get (RFC 8445, section 5.1.2).
const CHECK_PRIORITY: u32 = 110 << 24 | 0xffff << 8 | 0xff;

/// Tells which question an answer belongs to.
pub type TransactionId = [u8; 12];

/// What is wrong with a STUN message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StunError {
    /// Not STUN by its header, or an attribute runs past the end.
    Malformed,
    /// FINGERPRINT is missing, not last, or wrong.
    Fingerprint,
    /// Another kind of message than the one that is waited for.
    Unexpected,
    /// USERNAME or MESSAGE-INTEGRITY is missing.
    Incomplete,
}

/// A message whose header and FINGERPRINT are right, and the attributes that count.
struct Message<'a> {
    username: Option<&'a [u8]>,
    integrity_at: Option<usize>,
    use_candidate: bool,
    controlled: bool,
}

impl<'a> Message<'a> {
    /// Parses a message of this kind (RFC 8489, section 5) and checks its FINGERPRINT.
    fn parse(bytes: &'a [u8], wanted: u16) -> Result<Self, StunError> {
        let kind = u16_at(bytes, 0).ok_or(StunError::Malformed)?;
        let length = usize::from(u16_at(bytes, 2).ok_or(StunError::Malformed)?);
        if u32_at(bytes, 4) != Some(MAGIC_COOKIE) || bytes.len() != HEADER + length || length % 4 != 0 {
            return Err(StunError::Malformed);
        }
        if kind != wanted {
            let known = [BINDING_REQUEST, BINDING_INDICATION, BINDING_SUCCESS, BINDING_ERROR].contains(&kind);
            return Err(if known { StunError::Unexpected } else { StunError::Malformed });
        }
        let mut message = Self { username: None, integrity_at: None, use_candidate: false, controlled: false };
        let mut fingerprint = false;
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
                _ if message.integrity_at.is_some() => {} // not covered by the integrity: ignored (section 14.5)
                USERNAME => message.username = Some(value),
                MESSAGE_INTEGRITY if length == MAC => message.integrity_at = Some(at),
                USE_CANDIDATE => message.use_candidate = true,
                ICE_CONTROLLED => message.controlled = true,
                _ => {}
            }
            at = next;
        }
        if fingerprint { Ok(message) } else { Err(StunError::Fingerprint) }
    }
}

/// Whether the message's MESSAGE-INTEGRITY was made with this password; compared in constant time.
fn verify(bytes: &[u8], integrity_at: usize, password: &Password) -> bool {
    let mac = &bytes[integrity_at + 4..integrity_at + 4 + MAC];
    let expected = password.mac(&bytes[..integrity_at]);
    constant_time::verify_slices_are_equal(mac, expected.as_ref()).is_ok()
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
    /// Parses a binding request and checks its FINGERPRINT.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, StunError> {
        let message = Message::parse(bytes, BINDING_REQUEST)?;
        let username = message.username.and_then(|name| std::str::from_utf8(name).ok()).ok_or(StunError::Incomplete)?;
        let (local_ufrag, _) = username.split_once(':').ok_or(StunError::Incomplete)?;
        let integrity_at = message.integrity_at.ok_or(StunError::Incomplete)?;
        let Message { use_candidate, controlled, .. } = message;
        Ok(Self { bytes, integrity_at, local_ufrag, use_candidate, controlled })
    }

    /// Whether MESSAGE-INTEGRITY was made with this password.
    pub fn verify(&self, password: &Password) -> bool {
        verify(self.bytes, self.integrity_at, password)
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

/// A success response whose FINGERPRINT is right and whose MESSAGE-INTEGRITY is yet to be verified.
#[derive(Debug)]
pub struct Answer<'a> {
    bytes: &'a [u8],
    integrity_at: usize,
    /// The request that it answers.
    pub id: TransactionId,
}

impl<'a> Answer<'a> {
    /// Parses a success response and checks its FINGERPRINT.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, StunError> {
        let message = Message::parse(bytes, BINDING_SUCCESS)?;
        let integrity_at = message.integrity_at.ok_or(StunError::Incomplete)?;
        let id = bytes[8..HEADER].try_into().map_err(|_| StunError::Malformed)?;
        Ok(Self { bytes, integrity_at, id })
    }

    /// Whether MESSAGE-INTEGRITY was made with this password: the one that the request was made with.
    pub fn verify(&self, password: &Password) -> bool {
        verify(self.bytes, self.integrity_at, password)
    }
}

/// A connectivity check: the binding request of a full agent (RFC 8445, section 7.1).
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    /// How its answer will be known.
    pub id: TransactionId,
    /// The asked agent's ufrag, a colon, and the asking one's.
    pub username: &'a str,
    /// The pair is to be used.
    pub nominates: bool,
    /// The asking agent controls, rather than being controlled.
    pub controlling: bool,
    /// Settles who controls when both believe it.
    pub tie_breaker: u64,
}

impl Check<'_> {
    /// Appends it, made with the asked agent's password.
    pub fn write(&self, password: &Password, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&BINDING_REQUEST.to_be_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&MAGIC_COOKIE.to_be_bytes());
        out.extend_from_slice(&self.id);
        let mut attribute = |kind: u16, value: &[u8]| {
            out.extend_from_slice(&kind.to_be_bytes());
            out.extend_from_slice(&(value.len() as u16).to_be_bytes());
            out.extend_from_slice(value);
            pad(out, start);
        };
        attribute(USERNAME, self.username.as_bytes());
        attribute(PRIORITY, &CHECK_PRIORITY.to_be_bytes());
        attribute(if self.controlling { ICE_CONTROLLING } else { ICE_CONTROLLED }, &self.tie_breaker.to_be_bytes());
        if self.nominates {
            attribute(USE_CANDIDATE, &[]);
        }
        seal(out, start, password);
    }
}

/// A binding request as a peer's full agent makes it; for tests and tools.
pub fn write_request(
    id: [u8; 12],
    username: &str,
    password: &Password,
    nominates: bool,
    controlling: bool,
    out: &mut Vec<u8>,
) {
    Check { id, username, nominates, controlling, tie_breaker: 1 }.write(password, out);
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

    /// RFC 5769, section 2.2.
    const SAMPLE_ANSWER: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220\
                                 002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d7\
                                 80280004c07d4c96";

    #[test]
    fn the_rfc_5769_sample_answer_is_understood() {
        let bytes = hex(SAMPLE_ANSWER);
        let answer = Answer::parse(&bytes).unwrap();
        assert_eq!(answer.id[..], hex("b7e7a701bc34d686fa87dfae"));
        assert!(answer.verify(&Password::new("VOkJxbRl1RmTxUk/WvJxBt")));
        assert!(!answer.verify(&Password::new("VOkJxbRl1RmTxUk/WvJxBu")));
    }

    #[test]
    fn a_check_is_a_request_and_its_answer_carries_its_id() {
        let password = Password::new("password");
        for (nominates, controlling) in [(false, true), (true, true), (true, false)] {
            let check = Check { id: [7; 12], username: "lite:full", nominates, controlling, tie_breaker: 1 };
            let mut bytes = vec![9; 3]; // a check may be appended at any offset
            check.write(&password, &mut bytes);
            let request = Request::parse(&bytes[3..]).unwrap();
            assert_eq!((request.local_ufrag, request.use_candidate), ("lite", nominates));
            assert_eq!(request.controlled, !controlling);
            assert!(request.verify(&password));
            let mut answer = Vec::new();
            request.write_success("[2001:db8::1]:5".parse().unwrap(), &password, &mut answer);
            assert_eq!(Answer::parse(&answer).unwrap().id, [7; 12]);
            assert_eq!(Answer::parse(&bytes[3..]).unwrap_err(), StunError::Unexpected);
            assert_eq!(Request::parse(&answer).unwrap_err(), StunError::Unexpected);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::parse(&bytes);
            let _ = Answer::parse(&bytes);
        }

        #[test]
        fn a_damaged_answer_is_survived_and_never_verifies(at in 0usize..80, value in any::<u8>()) {
            let mut bytes = hex(SAMPLE_ANSWER);
            let changed = bytes[at] != value;
            bytes[at] = value;
            if let Ok(answer) = Answer::parse(&bytes) {
                prop_assert_eq!(answer.verify(&Password::new("VOkJxbRl1RmTxUk/WvJxBt")), !changed);
            }
        }

        #[test]
        fn any_attributes_are_survived(attributes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let bytes = with_fingerprint(&attributes);
            prop_assert!(!matches!(Request::parse(&bytes), Err(StunError::Unexpected)));
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
