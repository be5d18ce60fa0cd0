//! Scheduler simulations in virtual time.
