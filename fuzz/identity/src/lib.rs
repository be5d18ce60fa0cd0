//! `libp2p::identity` and `libp2p::PeerId`, and nothing else of libp2p.

pub use libp2p_identity as identity;
pub use libp2p_identity::PeerId;
