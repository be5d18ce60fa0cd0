//! HTTP providers: blocks over real sockets from servers that behave, from servers that do not, and beside Bitswap.

mod behaviour;
pub mod cars;
mod ends;
pub mod rig;
mod whole;
