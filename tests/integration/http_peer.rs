//! HTTP providers: blocks over real sockets from servers that behave, from servers that do not, and beside Bitswap.

mod behaviour;
mod cars;
mod rig;
mod whole;
