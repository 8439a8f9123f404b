//! Which header extensions a leg negotiated, and under which ids (RFC 8285).

/// The header extensions that the core understands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extension {
    /// The m-line a packet belongs to (RFC 8843, section 15).
    Mid,
    /// The simulcast layer (RFC 8852).
    Rid,
    /// The simulcast layer that an RTX stream repairs (RFC 8852).
    RepairedRid,
    /// When the packet left its sender, 6.18 fixed-point seconds.
    AbsSendTime,
    /// Transport-wide sequence number (draft-holmer-rmcat-transport-wide-cc-extensions-01).
    TransportCc,
    /// Loudness of the audio in the packet (RFC 6464).
    AudioLevel,
    /// How the picture is to be turned (3GPP TS 26.114).
    VideoOrientation,
    /// Within what delay the receiver is to show the picture.
    PlayoutDelay,
    /// Which layers the frame belongs to, and who needs it (RTP Payload Format for AV1, appendix A).
    Dependency,
}

const URIS: [(&str, Extension); 9] = [
    ("urn:ietf:params:rtp-hdrext:sdes:mid", Extension::Mid),
    ("urn:ietf:params:rtp-hdrext:sdes:rtp-stream-id", Extension::Rid),
    ("urn:ietf:params:rtp-hdrext:sdes:repaired-rtp-stream-id", Extension::RepairedRid),
    ("http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time", Extension::AbsSendTime),
    ("http://www.ietf.org/id/draft-holmer-rmcat-transport-wide-cc-extensions-01", Extension::TransportCc),
    ("urn:ietf:params:rtp-hdrext:ssrc-audio-level", Extension::AudioLevel),
    ("urn:3gpp:video-orientation", Extension::VideoOrientation),
    ("http://www.webrtc.org/experiments/rtp-hdrext/playout-delay", Extension::PlayoutDelay),
    ("https://aomediacodec.github.io/av1-rtp-spec/#dependency-descriptor-rtp-header-extension", Extension::Dependency),
];

/// What a publisher says to its subscribers, who get it as it is under ids of their own; and how many bytes it has.
pub const PASSED: [(Extension, usize); 3] =
    [(Extension::AudioLevel, 1), (Extension::VideoOrientation, 1), (Extension::PlayoutDelay, LONGEST)];
/// Longest value that is passed.
pub const LONGEST: usize = 3;

/// Extension ↔ id of one leg. Id 0 means "not negotiated".
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ExtensionIds {
    ids: [u8; URIS.len()],
}

impl ExtensionIds {
    /// From (URI, id) pairs; URIs that the core does not know are left out.
    pub fn new<'a>(pairs: impl IntoIterator<Item = (&'a str, u8)>) -> Self {
        let mut ids = Self::default();
        for (uri, id) in pairs {
            if let Some((_, extension)) = URIS.iter().find(|(known, _)| *known == uri) {
                ids.ids[*extension as usize] = id;
            }
        }
        ids
    }

    /// The id under which the leg negotiated it.
    pub fn id(&self, extension: Extension) -> Option<u8> {
        Some(self.ids[extension as usize]).filter(|id| *id != 0)
    }

    /// What an id means on this leg.
    pub fn extension(&self, id: u8) -> Option<Extension> {
        if id == 0 {
            return None;
        }
        self.ids.iter().position(|known| *known == id).map(|index| URIS[index].1)
    }
}

/// The values of one packet that are passed to its subscribers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Passed {
    present: [bool; PASSED.len()],
    values: [[u8; LONGEST]; PASSED.len()],
}

impl Passed {
    /// Notes an extension of the packet. One that is not passed, or of another length, is left out.
    pub fn note(&mut self, extension: Extension, value: &[u8]) {
        if let Some(place) = PASSED.iter().position(|known| *known == (extension, value.len())) {
            self.present[place] = true;
            self.values[place][..value.len()].copy_from_slice(value);
        }
    }

    /// The values that the packet has, with their places in `PASSED`.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &[u8])> {
        let all = self.values.iter().zip(PASSED).zip(self.present).enumerate();
        all.filter(|(_, (_, present))| *present).map(|(place, ((value, (_, length)), _))| (place, &value[..length]))
    }

    /// The value of an extension.
    pub fn get(&self, extension: Extension) -> Option<&[u8]> {
        self.iter().find(|(place, _)| PASSED[*place].0 == extension).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_is_what_was_noted_in_its_length() {
        let mut passed = Passed::default();
        assert_eq!(passed.iter().count(), 0);
        passed.note(Extension::AudioLevel, &[7, 8]);
        passed.note(Extension::Mid, b"a");
        assert_eq!(passed, Passed::default(), "nothing that is passed");
        passed.note(Extension::PlayoutDelay, &[1, 2, 3]);
        passed.note(Extension::AudioLevel, &[9]);
        assert_eq!(passed.get(Extension::AudioLevel), Some(&[9][..]));
        assert_eq!(passed.get(Extension::VideoOrientation), None);
        let found: Vec<_> = passed.iter().map(|(place, value)| (PASSED[place].0, value)).collect();
        assert_eq!(found, [(Extension::AudioLevel, &[9][..]), (Extension::PlayoutDelay, &[1, 2, 3])]);
    }

    #[test]
    fn ids_and_extensions_find_each_other() {
        for (index, (_, extension)) in URIS.iter().enumerate() {
            assert_eq!(*extension as usize, index, "the table is in the enum's order");
        }
        let ids = ExtensionIds::new([("urn:ietf:params:rtp-hdrext:sdes:mid", 4), ("urn:unknown", 5)]);
        assert_eq!(ids.id(Extension::Mid), Some(4));
        assert_eq!(ids.extension(4), Some(Extension::Mid));
        assert_eq!(ids.extension(5), None);
        assert_eq!(ids.extension(0), None);
        assert_eq!(ids.id(Extension::Rid), None);
    }
}
