//! The ICE agent of one leg, lite unless it dials: credentials, the latched address, and the peer's consent (RFC 8445, RFC 7675).

use super::outbox::Path;
use crate::proto::stun::Password;
use crate::time::{SECOND, Time};

/// Without an authenticated request from the latched address for this long, the peer is gone (RFC 7675, section 5.1).
pub const CONSENT: u64 = 30 * SECOND;
/// A leg whose peer asked within this time keeps its address against another leg's nomination.
pub const HOLDS_ADDRESS: u64 = 5 * SECOND;

/// A local ufrag and what verifies requests made with it.
#[derive(Debug)]
pub struct Credentials {
    /// The local ufrag.
    pub ufrag: String,
    /// The local password.
    pub password: Password,
}

impl Credentials {
    /// Local credentials.
    pub fn new(ufrag: String, pwd: &str) -> Self {
        Self { ufrag, password: Password::new(pwd) }
    }
}

/// What a request did to the latched address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Latch {
    /// Nothing.
    Unchanged,
    /// The first one.
    First,
    /// The peer moved away from here.
    Moved(Path),
}

/// The agent's state.
#[derive(Debug)]
pub struct Agent {
    present: Credentials,
    next: Option<Credentials>, // an ICE restart's, until the peer uses them
    path: Option<Path>,
    consented: Time,
}

impl Agent {
    /// An agent that waits for its peer.
    pub fn new(credentials: Credentials) -> Self {
        Self { present: credentials, next: None, path: None, consented: Time::default() }
    }

    /// Every ufrag that the peer may use now.
    pub fn ufrags(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.present).chain(&self.next).map(|credentials| credentials.ufrag.as_str())
    }

    /// Takes an ICE restart's credentials. Gives a ufrag that nobody may use any more: of a restart never taken up.
    pub fn restart(&mut self, credentials: Credentials) -> Option<String> {
        self.next.replace(credentials).map(|unused| unused.ufrag)
    }

    /// The password that belongs to a ufrag.
    pub fn password(&self, ufrag: &str) -> Option<&Password> {
        let mut all = std::iter::once(&self.present).chain(&self.next);
        all.find(|credentials| credentials.ufrag == ufrag).map(|credentials| &credentials.password)
    }

    /// The peer proved that it knows this ufrag's password. Gives the ufrag that ends with it, if this completes a restart.
    pub fn on_used(&mut self, ufrag: &str) -> Option<String> {
        let next = self.next.take_if(|next| next.ufrag == ufrag)?;
        Some(std::mem::replace(&mut self.present, next).ufrag)
    }

    /// An authenticated request, or answer, came over `path`.
    pub fn on_request(&mut self, path: Path, nominated: bool, now: Time) -> Latch {
        if self.path == Some(path) {
            self.consented = now;
            return Latch::Unchanged;
        }
        if !nominated {
            return Latch::Unchanged;
        }
        self.consented = now;
        match self.path.replace(path) {
            None => Latch::First,
            Some(old) => Latch::Moved(old),
        }
    }

    /// The latched path.
    pub fn path(&self) -> Option<Path> {
        self.path
    }

    /// Whether the peer was heard lately on its latched address, so that no other leg may take it over.
    pub fn holds_address(&self, now: Time) -> bool {
        self.path.is_some() && now.since(self.consented) < HOLDS_ADDRESS
    }

    /// Gives the latched path up if consent ran out.
    pub fn expire(&mut self, now: Time) -> Option<Path> {
        if now.since(self.consented) < CONSENT { None } else { self.path.take() }
    }

    /// Another leg took the address over.
    pub fn unlatch(&mut self) {
        self.path = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(port: u16) -> Path {
        Path { socket: 0, peer: ([127, 0, 0, 1], port).into() }
    }

    fn credentials(ufrag: &str) -> Credentials {
        Credentials::new(ufrag.into(), "password")
    }

    #[test]
    fn only_a_nomination_latches_and_the_peer_may_move() {
        let mut agent = Agent::new(credentials("a"));
        let now = Time::default();
        assert_eq!(agent.on_request(path(1), false, now), Latch::Unchanged);
        assert_eq!(agent.path(), None);
        assert_eq!(agent.on_request(path(1), true, now), Latch::First);
        assert_eq!(agent.on_request(path(2), false, now), Latch::Unchanged);
        assert_eq!(agent.on_request(path(2), true, now), Latch::Moved(path(1)));
        assert_eq!(agent.path(), Some(path(2)));
    }

    #[test]
    fn consent_ends_30_seconds_after_the_last_request_on_the_latched_address() {
        let mut agent = Agent::new(credentials("a"));
        let at = |seconds| Time::from_micros(seconds * SECOND);
        agent.on_request(path(1), true, at(0));
        agent.on_request(path(1), false, at(20));
        agent.on_request(path(2), false, at(40));
        assert_eq!(agent.expire(at(49)), None);
        assert_eq!(agent.expire(at(50)), Some(path(1)));
        assert_eq!(agent.expire(at(90)), None, "told once");
        assert_eq!(agent.on_request(path(2), true, at(91)), Latch::First);
    }

    #[test]
    fn old_credentials_hold_until_the_new_ones_are_used() {
        let mut agent = Agent::new(credentials("a"));
        assert_eq!(agent.restart(credentials("b")), None);
        assert_eq!(agent.on_used("a"), None);
        assert!(agent.password("a").is_some() && agent.password("b").is_some());
        assert_eq!(agent.restart(credentials("c")), Some("b".into()), "a restart that was never taken up");
        assert!(agent.password("b").is_none());
        assert_eq!(agent.on_used("c"), Some("a".into()));
        assert_eq!(agent.ufrags().collect::<Vec<_>>(), ["c"]);
    }
}
