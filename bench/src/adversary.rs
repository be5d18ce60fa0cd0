//! Peers that misbehave, which no real program does on purpose: small Bitswap servers of our own, over QUIC and TCP.
//!
//! They know the warm-up content and serve it well, so that they are trusted and known to be fast; on content that is
//! measured they do what their [`Kind`] says, and keep a [`Ledger`] of what they were asked.

mod server;
mod wire;

#[cfg(test)]
mod server_tests;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::car;
use crate::net::namespace::Namespace;
use crate::net::star::LinkSpec;

/// What a peer does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Flips a byte in a tenth of all blocks.
    Corrupt,
    /// Says HAVE, sends 64 KiB of a block, and then nothing, for ever.
    Staller,
    /// Says HAVE to every question, and DONT_HAVE to every request.
    Liar,
    /// Says HAVE, and sends at 80 kbit/s.
    Dripper,
    /// Sends every block three times.
    Duplicator,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Corrupt, Self::Staller, Self::Liar, Self::Dripper, Self::Duplicator];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Corrupt => "corrupt",
            Self::Staller => "staller",
            Self::Liar => "liar",
            Self::Dripper => "dripper",
            Self::Duplicator => "duplicator",
        }
    }
}

/// A share of 10 % of all hashes: blocks that `Corrupt` damages, the same ones each time.
const BAD_BELOW: u8 = 26;
/// Beyond a round trip and the queue: scheduling of both ends.
const GRACE: Duration = Duration::from_millis(20);

/// What a peer was asked and what it sent since the last [`Adversary::reset`].
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger {
    /// Blocks asked for, cancelled ones too.
    pub asked: u64,
    /// Blocks written in full, bad ones too.
    pub sent: u64,
    pub bad: u64,
    /// Blocks asked for when the first bad block must have been seen: a round trip and the drain of the link after it.
    pub asked_after_bad: u64,
}

/// The ledger's clockwork, pure: when did the other end have to know?
#[derive(Debug)]
struct Account {
    ledger: Ledger,
    link: LinkSpec,
    /// When all that was written is through the link.
    drained: Option<Instant>,
    /// When wants that were sent before the first bad block was seen are all here.
    known: Option<Instant>,
}

impl Account {
    fn new(link: LinkSpec) -> Self {
        Self { ledger: Ledger::default(), link, drained: None, known: None }
    }

    fn asked(&mut self, now: Instant) {
        self.ledger.asked += 1;
        if self.known.is_some_and(|known| now > known) {
            self.ledger.asked_after_bad += 1;
        }
    }

    fn wrote(&mut self, now: Instant, bytes: usize) {
        // 5 % of headers.
        let time = Duration::from_secs_f64(bytes as f64 * 8.0 * 1.05 / (self.link.mbit * 1e6));
        self.drained = Some(self.drained.map_or(now, |drained| drained.max(now)) + time);
    }

    /// A whole block was written.
    fn sent(&mut self, bad: bool) {
        self.ledger.sent += 1;
        if bad {
            self.ledger.bad += 1;
            let round_trip = Duration::from_secs_f64((self.link.rtt_ms + self.link.jitter_ms) / 1e3);
            self.known = self.known.or(self.drained.map(|drained| drained + round_trip + GRACE));
        }
    }
}

/// What a server and its owner share.
struct Shared {
    kind: Kind,
    /// By the bytes of their CID.
    blocks: Mutex<HashMap<Vec<u8>, Held>>,
    account: Mutex<Account>,
    /// Raised by a reset: what stalls or drips ends.
    generation: tokio::sync::watch::Sender<u64>,
}

#[derive(Clone)]
struct Held {
    data: Arc<[u8]>,
    /// Served well, whatever the kind.
    honest: bool,
}

impl Shared {
    fn blocks(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Held>> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running server. It ends with the process.
pub struct Adversary {
    shared: Arc<Shared>,
    pub peer_id: String,
    /// Where it listens: QUIC and TCP.
    #[cfg_attr(not(test), expect(dead_code, reason = "contenders know the star's addresses"))]
    pub listens: Vec<String>,
}

impl Adversary {
    /// Listens on `address` in `namespace`, or where this process is.
    pub fn start(namespace: Option<&Namespace>, kind: Kind, address: SocketAddr, link: LinkSpec) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            kind,
            blocks: Mutex::default(),
            account: Mutex::new(Account::new(link)),
            generation: tokio::sync::watch::Sender::new(0),
        });
        let (peer_id, listens) = server::start(namespace, shared.clone(), address)?;
        Ok(Self { shared, peer_id, listens })
    }

    /// Takes the blocks of a CAR in. `honest`: it will serve these as a good peer does.
    pub fn load(&self, archive: &[u8], honest: bool) -> io::Result<()> {
        let mut blocks = self.shared.blocks();
        for (cid, data) in car::blocks(archive)? {
            blocks.insert(cid.to_vec(), Held { data: data.into(), honest });
        }
        Ok(())
    }

    /// Forgets all blocks, so that long runs do not fill memory.
    pub fn clear(&self) {
        self.shared.blocks().clear();
    }

    /// A new sample begins.
    pub fn reset(&self) {
        let mut account = self.shared.account();
        *account = Account::new(account.link);
        drop(account);
        self.shared.generation.send_modify(|generation| *generation += 1);
    }

    pub fn ledger(&self) -> Ledger {
        self.shared.account().ledger.clone()
    }
}

/// Whether a corrupt peer damages the block of this CID.
fn is_bad(cid: &[u8]) -> bool {
    cid.last().is_some_and(|last| *last < BAD_BELOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_after_the_bad_block_was_there_counts_as_asked_after() {
        let mut account = Account::new(LinkSpec::new(100.0, 20.0));
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        account.asked(at(0));
        // 1.19 MB take 100 ms with headers; the bad block behind them another 21 ms.
        account.wrote(at(0), 1_190_476);
        account.sent(false);
        account.wrote(at(1), 250_000);
        account.sent(true);
        // Written at 1 ms, through the link at 121 ms, known at the other end by 131 ms, its last want here by 141 ms.
        account.asked(at(130));
        account.asked(at(160));
        assert_eq!(account.ledger.asked_after_bad, 0);
        account.asked(at(165));
        assert_eq!(account.ledger, Ledger { asked: 4, sent: 2, bad: 1, asked_after_bad: 1 });
    }

    #[test]
    fn a_tenth_of_hashes_is_bad() {
        let bad = (0..=255u8).filter(|last| is_bad(&[1, 2, *last])).count();
        assert_eq!(bad, 26);
    }
}
