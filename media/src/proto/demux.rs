//! Tells apart what shares one UDP port by the first byte (RFC 7983, and RFC 5761 for RTCP).

/// What a datagram is, by its first two bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// STUN: 0 to 3.
    Stun,
    /// DTLS: 20 to 63.
    Dtls,
    /// RTP: 128 to 191, and a payload type outside RTCP's range.
    Rtp,
    /// RTCP: 128 to 191, and a packet type of 192 to 223.
    Rtcp,
    /// Nothing that is spoken here.
    Other,
}

/// Classifies a datagram; it may still turn out malformed.
pub fn classify(datagram: &[u8]) -> Class {
    match datagram {
        [0..=3, ..] => Class::Stun,
        [20..=63, ..] => Class::Dtls,
        [128..=191, 192..=223, ..] => Class::Rtcp,
        [128..=191, _, ..] => Class::Rtp,
        _ => Class::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_protocols_apart() {
        assert_eq!(classify(&[0, 1]), Class::Stun);
        assert_eq!(classify(&[22, 254, 253]), Class::Dtls);
        assert_eq!(classify(&[0x80, 111]), Class::Rtp);
        assert_eq!(classify(&[0x80, 0x80 | 96]), Class::Rtp, "the marker bit makes no RTCP");
        assert_eq!(classify(&[0x81, 200]), Class::Rtcp);
        assert_eq!(classify(&[0x8f, 205]), Class::Rtcp);
        assert_eq!(classify(&[64, 0]), Class::Other);
        assert_eq!(classify(&[0x80]), Class::Other);
        assert_eq!(classify(&[]), Class::Other);
    }
}
