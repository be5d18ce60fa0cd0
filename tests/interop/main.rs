//! Against a real Kubo.
