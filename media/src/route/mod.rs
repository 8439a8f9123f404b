//! The rules of the packet path, one mechanism a module: what the engine applies to tracks and forwards.

pub mod bandwidth;
pub mod cache;
pub mod cut;
pub mod delay;
pub mod frame;
pub mod history;
pub mod key_frames;
pub mod layers;
pub mod meter;
pub mod missing;
pub mod packet;
pub mod policer;
pub mod reception;
pub mod rewrite;
pub mod sent;
pub mod share;
pub mod speaker;
pub mod template;
pub mod voices;
