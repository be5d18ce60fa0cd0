//! While a transfer runs, packets are taken in batches.
//!
//! QUIC's packets come one by one, and each would wake a thread, its tasks and the tasks behind them: at 100 Mbit/s more than
//! eight thousand times a second. Interrupt moderation does the same for network cards: a thread that has nothing left to
//! do waits a moment before it asks the kernel again, and finds several packets. Only while much is coming: whoever asks for
//! little is answered at once.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long a thread waits. Far below a round trip over the internet, and some packets of a fast link.
const MOMENT: Duration = Duration::from_micros(400);
/// Much is so many bytes within a window: 26 Mbit/s.
const MUCH: u64 = 16 * 1024;
/// Microseconds.
const WINDOW: u64 = 5_000;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
static COMING: Coming = Coming { until: AtomicU64::new(0), since: AtomicU64::new(0), bytes: AtomicU64::new(0) };

/// Whether much is coming, by microseconds since the start. Races between threads lose a count and nothing else.
struct Coming {
    /// So long much is taken to be coming.
    until: AtomicU64,
    /// When the window under way began, and what came in it.
    since: AtomicU64,
    bytes: AtomicU64,
}

impl Coming {
    fn came(&self, bytes: usize, now: u64) {
        if now.saturating_sub(self.since.load(Ordering::Relaxed)) > WINDOW {
            self.since.store(now, Ordering::Relaxed);
            self.bytes.store(0, Ordering::Relaxed);
        }
        if self.bytes.fetch_add(bytes as u64, Ordering::Relaxed) + bytes as u64 >= MUCH {
            self.until.store(now + WINDOW, Ordering::Relaxed);
        }
    }

    fn is_much(&self, now: u64) -> bool {
        now < self.until.load(Ordering::Relaxed)
    }
}

fn now() -> u64 {
    u64::try_from(START.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// Bytes of a transfer over QUIC or TCP came.
pub fn came(bytes: usize) {
    COMING.came(bytes, now());
}

/// For the runtime, whenever one of its threads has nothing to do.
pub fn moment() {
    if COMING.is_much(now()) {
        std::thread::sleep(MOMENT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_is_a_transfer_and_not_an_answer_and_it_ends_with_it() {
        let coming = Coming { until: AtomicU64::new(0), since: AtomicU64::new(0), bytes: AtomicU64::new(0) };
        // 10 Mbit/s in packets, and a block now and then.
        for at in (0..100_000).step_by(1_000) {
            coming.came(1_250, at);
            assert!(!coming.is_much(at), "{at}");
        }
        // 100 Mbit/s.
        for at in (200_000..300_000).step_by(100) {
            coming.came(1_250, at);
        }
        assert!(coming.is_much(300_000));
        assert!(!coming.is_much(300_000 + WINDOW));
    }
}
