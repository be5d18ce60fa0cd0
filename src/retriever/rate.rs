//! How fast a peer delivers: a windowed maximum of delivery-rate samples (BBR, Cardwell et al. 2016; RETRIEVAL.md T3).

use std::collections::VecDeque;
use std::time::Duration;

use super::scheduler::Time;

/// A sample must cover this many bytes before it may stand as a peer's first known rate: a 4 KiB root block over one
/// round trip says nothing about the link.
const MIN_SAMPLE_BYTES: u64 = 64 * 1024;
/// The maximum is kept for ten round trips (BBR), and at least for this long.
const MIN_WINDOW: Duration = Duration::from_secs(1);
/// The shortest time that a sample may cover. Bytes that waited in a socket's buffer are read in one go: over a shorter
/// time a burst of them would read as a rate that no link has, and the other peers would starve.
const MIN_SPAN: Duration = Duration::from_millis(20);
/// Samples cover a round trip, within these bounds.
const SPAN: (Duration, Duration) = (Duration::from_millis(30), Duration::from_millis(200));
/// Counts of one busy time are kept so far apart, and so many of them.
const POINT_EVERY: Duration = Duration::from_millis(4);
const MAX_POINTS: usize = 128;

/// Delivery rate of one peer, bytes a second.
///
/// A sample is the bytes that came over the last round trip in which the peer had work, counted as they came from the
/// network. It is a lower bound of what the peer can do (it includes idle time when little was asked), so the largest
/// counts, and a sample that the reader limited may only raise the figure, never age it. The first bytes after an idle
/// time begin a sample and are no part of it: their round trip is delay, not rate.
#[derive(Debug, Clone, Default)]
pub struct RateEstimator {
    delivered: u64,
    /// When how much had come, in this busy time.
    points: VecDeque<(Time, u64)>,
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
    pub fn busy(&mut self) {
        self.points.clear();
    }

    /// All that the peer was asked for has come. What was over before a sample could be taken is one as a whole, with the
    /// shortest time that a sample may cover: less than the link gives, and better than nothing.
    pub fn idle(&mut self) {
        let (Some((start, count)), Some((end, _))) = (self.points.front(), self.points.back()) else { return };
        let size = self.delivered - count;
        if self.rate().is_none() && size >= MIN_SAMPLE_BYTES {
            self.current = size as f64 / end.saturating_sub(*start).max(MIN_SPAN).as_secs_f64();
        }
    }

    /// Counts bytes that arrived; `asked` is when the block that they complete was asked for, `limited` whether the
    /// peer was not given enough to show its rate.
    pub fn arrived(&mut self, now: Time, bytes: u64, asked: Option<Time>, min_rtt: Duration, limited: bool) {
        self.delivered += bytes;
        let span = min_rtt.clamp(SPAN.0, SPAN.1);
        let known = self.current.max(self.previous);
        let old = self.points.iter().rev().find(|(at, _)| now.saturating_sub(*at) >= span).copied();
        // In a busy time that is shorter than a span, all of it; worth less, so only where nothing better is known.
        let first = self.points.front().copied().filter(|(at, _)| now.saturating_sub(*at) >= MIN_SPAN);
        let (size, over, whole) = match (old, first, asked) {
            (Some((at, count)), ..) => (self.delivered - count, now.saturating_sub(at), true),
            (None, Some((at, count)), _) if known == 0.0 => (self.delivered - count, now.saturating_sub(at), false),
            // A block that came in one piece: its flight without the round trip, but at least half of it, as the round
            // trip may have been over-estimated.
            (None, None, Some(asked)) if self.points.is_empty() => {
                let flown = now.saturating_sub(asked);
                (bytes, flown.saturating_sub(min_rtt).max(flown / 2).max(MIN_SPAN), false)
            }
            _ => (0, MIN_SPAN, false),
        };
        if self.points.back().is_none_or(|(at, _)| now.saturating_sub(*at) >= POINT_EVERY) {
            self.points.push_back((now, self.delivered));
            if self.points.len() > MAX_POINTS {
                self.points.pop_front();
            }
        }
        let sample = size as f64 / over.as_secs_f64();
        if size == 0 || (size < MIN_SAMPLE_BYTES && (known == 0.0 || sample <= known)) {
            return;
        }
        let window = (min_rtt * 10).max(MIN_WINDOW);
        if whole && !limited && now.saturating_sub(self.epoch) > window / 2 {
            self.previous = self.current;
            self.current = sample;
            self.epoch = now;
        } else {
            self.current = self.current.max(sample);
        }
    }

    /// The peer had enough to do for longer than a sample and gave no more than this: the maximum is of the past.
    pub fn fell(&mut self, now: Time, rate: f64) {
        self.current = rate;
        self.previous = 0.0;
        self.epoch = now;
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
        rate.busy();
        for block in 1..=8u64 {
            rate.arrived(ms(50 + 20 * block), 250_000, Some(ms(0)), RTT, false);
        }
        let rate = rate.rate().unwrap();
        assert!((12.0e6..13.0e6).contains(&rate), "{rate}");
    }

    #[test]
    fn blocks_that_come_side_by_side_are_counted_as_they_come() {
        // Eight blocks share a link of 10 MB/s and end together: nothing of it is faster than the link.
        let mut rate = RateEstimator::default();
        rate.busy();
        for step in 0..200u64 {
            rate.arrived(ms(50 + step), 10_000, (step % 25 == 24).then_some(ms(0)), RTT, false);
        }
        let rate = rate.rate().unwrap();
        assert!((9.5e6..10.5e6).contains(&rate), "{rate}");
    }

    #[test]
    fn a_burst_out_of_a_buffer_is_no_rate_of_the_link() {
        let mut rate = RateEstimator::default();
        rate.busy();
        for k in 0..4 {
            rate.arrived(Duration::from_micros(300 + k), 262_144, Some(ms(0)), Duration::from_micros(200), false);
        }
        let rate = rate.rate().unwrap();
        assert!(rate <= 4.0 * 262_144.0 / 0.02, "{rate}");
    }

    #[test]
    fn a_transfer_that_is_over_before_a_sample_could_be_taken_is_one() {
        let mut rate = RateEstimator::default();
        rate.busy();
        for k in 0..12 {
            rate.arrived(ms(50 + k / 4), if k == 0 { 4_000 } else { 250_000 }, Some(ms(49)), RTT / 50, false);
        }
        assert_eq!(rate.rate(), None, "while it runs a burst is no rate");
        rate.idle();
        assert_eq!(rate.rate(), Some(11.0 * 250_000.0 / 0.02));
        // What is known is better.
        rate.busy();
        rate.arrived(ms(900), 100_000, Some(ms(899)), RTT / 50, true);
        rate.arrived(ms(901), 100_000, Some(ms(899)), RTT / 50, true);
        rate.idle();
        assert_eq!(rate.rate(), Some(11.0 * 250_000.0 / 0.02));
    }

    #[test]
    fn small_answers_do_not_make_a_rate() {
        let mut rate = RateEstimator::default();
        rate.busy();
        rate.arrived(ms(50), 4_000, Some(ms(0)), RTT, true);
        assert_eq!(rate.rate(), None);
    }

    #[test]
    fn a_reader_that_asks_little_does_not_lower_the_figure() {
        let mut rate = RateEstimator::seeded(Some(10e6));
        for k in 0..100u64 {
            rate.busy();
            rate.arrived(ms(1_000 * k + 100), 100_000, Some(ms(1_000 * k)), RTT, true);
        }
        assert!(rate.rate().unwrap() >= 10e6);
    }

    #[test]
    fn a_peer_that_becomes_slow_is_known_to_be_within_ten_round_trips_of_work() {
        let mut rate = RateEstimator::seeded(Some(10e6));
        let mut now = ms(0);
        rate.busy();
        for _ in 0..6 {
            let asked = now;
            now += ms(400);
            rate.arrived(now, 100_000, Some(asked), RTT, false);
        }
        assert!(rate.rate().unwrap() < 1e6);
    }
}
