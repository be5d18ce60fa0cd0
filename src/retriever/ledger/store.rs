//! The ledger in a file, so that a restart does not forget who is fast, far or false. A cache: when it cannot be read, it
//! is empty.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::PeerId;
use serde::{Deserialize, Serialize};

use super::{Ledger, RATE_HALF_LIFE, STRIKE_HALF_LIFE, Standing, decay};
use crate::retriever::scheduler::Time;

/// The layout of the file; another one is not read.
const VERSION: u32 = 1;
/// The largest file that is read, in bytes: some 500 for each of 65,536 peers.
const MAX_FILE: u64 = 32 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(in crate::retriever) struct Saved {
    version: u32,
    /// Seconds since 1970.
    saved_at: u64,
    peers: BTreeMap<String, SavedStanding>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedStanding {
    min_rtt_us: Option<u64>,
    /// Bytes a second, decayed to the time of saving.
    rate: Option<f64>,
    bytes: u64,
    blocks: u64,
    failures: u64,
    hits: Option<f64>,
    strikes: f64,
}

impl Ledger {
    /// Everything, as of now.
    pub(in crate::retriever) fn save(&self, now: Time) -> Saved {
        let peers = self.peers.iter().map(|(peer, standing)| {
            let saved = SavedStanding {
                min_rtt_us: standing.min_rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
                rate: standing.max_rate(now),
                bytes: standing.bytes,
                blocks: standing.blocks,
                failures: standing.failures,
                hits: standing.hits,
                strikes: standing.strikes(now),
            };
            (peer.to_base58(), saved)
        });
        Saved { version: VERSION, saved_at: unix(), peers: peers.collect() }
    }

    /// Takes in what was saved by an earlier process; rates and strikes have decayed meanwhile.
    pub(in crate::retriever) fn restore(&mut self, saved: Saved) {
        if saved.version != VERSION {
            return;
        }
        let away = Duration::from_secs(unix().saturating_sub(saved.saved_at));
        for (peer, saved) in saved.peers.into_iter().take(self.capacity) {
            let Ok(peer) = peer.parse::<PeerId>() else { continue };
            let sound = |value: f64| if value.is_finite() { value.max(0.0) } else { 0.0 };
            let standing = Standing {
                min_rtt: saved.min_rtt_us.map(Duration::from_micros),
                max_rate: sound(saved.rate.unwrap_or(0.0)) * decay(away, RATE_HALF_LIFE),
                bytes: saved.bytes,
                blocks: saved.blocks,
                failures: saved.failures,
                hits: saved.hits.map(|hits| sound(hits).min(1.0)),
                strikes: sound(saved.strikes) * decay(away, STRIKE_HALF_LIFE),
                ..Standing::default()
            };
            self.peers.entry(peer).or_insert(standing);
        }
    }
}

impl Saved {
    /// `None` when there is no such file.
    pub(in crate::retriever) fn read(path: &Path) -> io::Result<Option<Self>> {
        match fs::metadata(path) {
            Ok(file) if file.len() > MAX_FILE => return Err(io::ErrorKind::FileTooLarge.into()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        serde_json::from_slice(&fs::read(path)?).map(Some).map_err(io::Error::other)
    }

    /// Replaces the file at once: a crash leaves the old one or the new one.
    pub(in crate::retriever) fn write(&self, path: &Path) -> io::Result<()> {
        let new = path.with_extension("new");
        fs::write(&new, serde_json::to_vec(self).map_err(io::Error::other)?)?;
        fs::rename(new, path)
    }
}

fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_restart_remembers_rates_round_trips_and_strikes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers.json");
        assert!(Saved::read(&path).unwrap().is_none());
        let (mut before, peer, now) = (Ledger::new(8), PeerId::random(), Time::from_secs(100));
        before.delivered(peer, 1_000, Some(5e6), now);
        before.rtt(peer, Duration::from_millis(20), now);
        before.strike(peer, now);
        before.save(now).write(&path).unwrap();
        let mut after = Ledger::new(8);
        after.restore(Saved::read(&path).unwrap().unwrap());
        let standing = after.get(&peer).unwrap();
        assert_eq!((standing.bytes, standing.blocks), (1_000, 1));
        assert_eq!(standing.min_rtt, Some(Duration::from_millis(20)));
        assert!(standing.max_rate(Time::ZERO).unwrap() > 4.9e6);
        assert!(after.is_struck(&peer, Time::ZERO));
    }

    #[test]
    fn a_broken_file_is_an_error_and_a_larger_one_than_the_ledger_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers.json");
        fs::write(&path, b"{").unwrap();
        assert!(Saved::read(&path).is_err());
        let mut big = Ledger::new(100);
        (0..100).for_each(|_| big.failed(PeerId::random(), Time::ZERO));
        let mut small = Ledger::new(10);
        small.restore(big.save(Time::ZERO));
        assert_eq!(small.iter().count(), 10);
    }
}
