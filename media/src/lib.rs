//! The media core of mautrix-sfu: ICE-lite, SRTP and the packet path of a selective forwarding unit.
//!
//! Sans-IO inside: [`engine`] is told the time, datagrams and commands, and gives datagrams and events;
//! [`io`] owns sockets and threads; the Python extension is a thin shell around both.

pub mod engine;
pub mod io;
pub mod measure;
pub mod proto;
#[cfg(feature = "python")]
mod python;
pub mod route;
pub mod srtp;
pub mod time;

/// Hash of the crate's sources at build time, in the form that `mautrix_sfu/media.py` computes.
pub const BUILD: &str = env!("MEDIA_BUILD");
