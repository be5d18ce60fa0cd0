//! Scheduler simulations in virtual time.

mod scheduler;
mod world;
