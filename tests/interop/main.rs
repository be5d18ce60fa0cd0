//! Against a real Kubo. Where its binary is absent the tests say so and do nothing; `.ci/run` builds it.

mod bitswap;
mod kubo;
mod names;
mod over_libp2p;
