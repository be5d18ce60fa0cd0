//! How fast a peer delivers: a windowed maximum of delivery-rate samples (BBR, Cardwell et al. 2016; RETRIEVAL.md T3).

use std::time::Duration;

use super::scheduler::Time;

/// A sample must cover this many bytes before it may stand as a peer's first known rate: a 4 KiB root block over one
/// round trip says nothing about the link.
const MIN_SAMPLE_BYTES: u64 = 64 * 1024;
/// The maximum is kept for ten round trips (BBR), and at least for this long.
const MIN_WINDOW: Duration = Duration::from_secs(1);

/// The shortest time that a sample may cover. Blocks that wait in the process's own queues are counted in one go: over a
/// shorter time a burst of them would read as a rate that no link has, and the other peers would starve (37 Gbit/s was
/// seen on loopback with 200 µs, 20 Gbit/s with 5 ms on a busy machine).
const MIN_SPAN: Duration = Duration::from_millis(20);

/// Where the byte counter stood when a want was sent: the start of that want's sample.
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    delivered: u64,
    from: Time,
    sent: Time,
}

/// Delivery rate of one peer, bytes a second.
///
/// A sample is the bytes that arrived while one want was under way, over the time it was. It is a lower bound of what
/// the peer can do (it includes queueing, and idle time when nothing more was asked), so the largest counts, and a
/// sample that the reader limited may only raise the figure, never age it.
#[derive(Debug, Clone, Default)]
pub struct RateEstimator {
    delivered: u64,
    delivered_when_busy: u64,
    busy_since: Time,
    current: f64,
    previous: f64,
    epoch: Time,
}

impl RateEstimator {
    /// Starts from a figure that was measured earlier.
    pub fn seeded(rate: Option<f64>) -> Self {
        Self { previous: rate.unwrap_or(0.0), ..Self::default() }
    }

    /// The peer had nothing to do and is given work.
    pub fn busy(&mut self, now: Time) {
        self.busy_since = now;
        self.delivered_when_busy = self.delivered;
    }

    pub fn mark(&self, now: Time, min_rtt: Duration) -> Mark {
        // Nothing has come since the peer became busy: the first round trip is delay, not rate.
        let fresh = self.delivered == self.delivered_when_busy;
        let from = if fresh { (self.busy_since + min_rtt).max(now) } else { now };
        Mark { delivered: self.delivered, from, sent: now }
    }

    /// Counts bytes that arrived for the want of `mark`; `limited` when the peer has nothing more to send.
    pub fn arrived(&mut self, now: Time, bytes: u64, mark: Option<Mark>, min_rtt: Duration, limited: bool) {
        self.delivered += bytes;
        let Some(mark) = mark else { return };
        let flown = now.saturating_sub(mark.sent);
        // Half of the flight at least: the round trip may have been over-estimated.
        let span = now.saturating_sub(mark.from).max(flown / 2).max(MIN_SPAN);
        let size = self.delivered - mark.delivered;
        let sample = size as f64 / span.as_secs_f64();
        let known = self.current.max(self.previous);
        if size < MIN_SAMPLE_BYTES && (known == 0.0 || sample <= known) {
            return;
        }
        let window = (min_rtt * 10).max(MIN_WINDOW);
        if !limited && now.saturating_sub(self.epoch) > window / 2 {
            self.previous = self.current;
            self.current = sample;
            self.epoch = now;
        } else {
            self.current = self.current.max(sample);
        }
    }

    /// Bytes a second, `None` until something was measured.
    pub fn rate(&self) -> Option<f64> {
        let rate = self.current.max(self.previous);
        (rate > 0.0).then_some(rate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(50);

    fn ms(ms: u64) -> Time {
        Time::from_millis(ms)
    }

    #[test]
    fn a_deep_queue_is_measured_without_its_first_round_trip() {
        let mut rate = RateEstimator::default();
        rate.busy(ms(0));
        let mark = rate.mark(ms(0), RTT);
        for block in 1..=8u64 {
            rate.arrived(ms(50 + 20 * block), 250_000, Some(mark), RTT, false);
        }
        let rate = rate.rate().unwrap();
        assert!((12.0e6..13.0e6).contains(&rate), "{rate}");
    }

    #[test]
    fn a_burst_out_of_our_own_queue_is_no_rate_of_the_link() {
        let mut rate = RateEstimator::default();
        rate.busy(ms(0));
        let mark = rate.mark(ms(0), Duration::from_micros(200));
        for _ in 0..4 {
            rate.arrived(Duration::from_micros(300), 262_144, Some(mark), Duration::from_micros(200), false);
        }
        let rate = rate.rate().unwrap();
        assert!(rate <= 4.0 * 262_144.0 / 0.02, "{rate}");
    }

    #[test]
    fn small_answers_do_not_make_a_rate() {
        let mut rate = RateEstimator::default();
        rate.busy(ms(0));
        let mark = rate.mark(ms(0), RTT);
        rate.arrived(ms(50), 4_000, Some(mark), RTT, true);
        assert_eq!(rate.rate(), None);
    }

    #[test]
    fn a_reader_that_asks_little_does_not_lower_the_figure() {
        let mut rate = RateEstimator::seeded(Some(10e6));
        for k in 0..100u64 {
            rate.busy(ms(1_000 * k));
            let mark = rate.mark(ms(1_000 * k), RTT);
            rate.arrived(ms(1_000 * k + 100), 100_000, Some(mark), RTT, true);
        }
        assert!(rate.rate().unwrap() >= 10e6);
    }

    #[test]
    fn a_peer_that_becomes_slow_is_known_to_be_within_ten_round_trips_of_work() {
        let mut rate = RateEstimator::seeded(Some(10e6));
        let mut now = ms(0);
        rate.busy(now);
        for _ in 0..6 {
            let mark = rate.mark(now, RTT);
            now += ms(400);
            rate.arrived(now, 100_000, Some(mark), RTT, false);
        }
        assert!(rate.rate().unwrap() < 1e6);
    }
}
