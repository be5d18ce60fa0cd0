//! One direction of a link as a pure function of time: rate (serialisation), delay, jitter, loss, a queue limit.
//!
//! Packets are served in order, as a wire does. All times are nanoseconds of one monotonic clock.

use std::collections::VecDeque;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const NANOS: f64 = 1e9;

/// Losses of a direction.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Loss {
    None,
    /// Each packet alone, with this probability.
    Bernoulli(f64),
    /// Gilbert-Elliott: bursts. Probability a packet to enter the bad state, to leave it, and to lose a packet in it.
    Burst {
        enter: f64,
        leave: f64,
        lose: f64,
    },
}

/// What a direction is like. It may be changed while packets are in it; those keep their times.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Shape {
    /// Bits a second; 0 stalls the direction: packets queue until it is raised.
    pub rate_bps: f64,
    /// One way.
    pub delay_ns: u64,
    /// Uniform, added to the delay; order is kept.
    pub jitter_ns: u64,
    pub loss: Loss,
    /// Bytes that may wait for the wire; a packet that would wait behind more is dropped.
    pub queue_bytes: u64,
}

/// Totals of a direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub packets: u64,
    pub bytes: u64,
    pub lost: u64,
    pub overflowed: u64,
}

/// A packet in flight.
#[derive(Debug)]
pub struct Packet {
    pub data: Vec<u8>,
    /// When it comes out.
    pub at: u64,
}

/// One direction.
#[derive(Debug)]
pub struct Direction {
    shape: Shape,
    /// When the wire is free again.
    free_at: u64,
    in_flight: VecDeque<Packet>,
    /// Packets that came in while the direction was stalled.
    stalled: VecDeque<Vec<u8>>,
    stalled_bytes: u64,
    bad: bool,
    cut: bool,
    rng: SmallRng,
    pub counts: Counts,
}

impl Direction {
    pub fn new(shape: Shape, seed: u64) -> Self {
        Self {
            shape,
            free_at: 0,
            in_flight: VecDeque::new(),
            stalled: VecDeque::new(),
            stalled_bytes: 0,
            bad: false,
            cut: false,
            rng: SmallRng::seed_from_u64(seed),
            counts: Counts::default(),
        }
    }

    /// Takes a packet in at `now`. Gives the buffer back when the packet is lost.
    pub fn push(&mut self, now: u64, data: Vec<u8>) -> Option<Vec<u8>> {
        if self.cut || self.lose() {
            self.counts.lost += 1;
            return Some(data);
        }
        if self.shape.rate_bps <= 0.0 {
            if self.stalled_bytes + data.len() as u64 > self.shape.queue_bytes {
                self.counts.overflowed += 1;
                return Some(data);
            }
            self.stalled_bytes += data.len() as u64;
            self.stalled.push_back(data);
            return None;
        }
        let start = self.free_at.max(now);
        let waiting = (start - now) as f64 * self.shape.rate_bps / (8.0 * NANOS);
        if waiting > self.shape.queue_bytes as f64 {
            self.counts.overflowed += 1;
            return Some(data);
        }
        self.free_at = start + (data.len() as f64 * 8.0 * NANOS / self.shape.rate_bps) as u64;
        let jitter = if self.shape.jitter_ns == 0 { 0 } else { self.rng.random_range(0..self.shape.jitter_ns) };
        // A wire keeps the order.
        let last = self.in_flight.back().map_or(0, |packet| packet.at);
        let at = (self.free_at + self.shape.delay_ns + jitter).max(last);
        self.in_flight.push_back(Packet { data, at });
        None
    }

    /// The next packet that is out at `now`.
    pub fn pop(&mut self, now: u64) -> Option<Packet> {
        if self.in_flight.front()?.at > now {
            return None;
        }
        let packet = self.in_flight.pop_front()?;
        self.counts.packets += 1;
        self.counts.bytes += packet.data.len() as u64;
        Some(packet)
    }

    /// When the next packet comes out.
    pub fn next_at(&self) -> Option<u64> {
        self.in_flight.front().map(|packet| packet.at)
    }

    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// From now on. Packets that waited for a stalled wire start at `now`.
    pub fn reshape(&mut self, now: u64, shape: Shape) {
        self.shape = shape;
        if shape.rate_bps > 0.0 {
            self.stalled_bytes = 0;
            for data in std::mem::take(&mut self.stalled) {
                self.push(now, data);
            }
        }
    }

    /// A cut direction loses every packet, those in flight too; a mended one starts empty.
    pub fn cut(&mut self, cut: bool) {
        self.cut = cut;
        if cut {
            self.counts.lost += (self.in_flight.len() + self.stalled.len()) as u64;
            self.in_flight.clear();
            self.stalled.clear();
            self.stalled_bytes = 0;
        }
    }

    fn lose(&mut self) -> bool {
        match self.shape.loss {
            Loss::None => false,
            Loss::Bernoulli(share) => self.rng.random_bool(share.clamp(0.0, 1.0)),
            Loss::Burst { enter, leave, lose } => {
                let change = if self.bad { leave } else { enter };
                if self.rng.random_bool(change.clamp(0.0, 1.0)) {
                    self.bad = !self.bad;
                }
                self.bad && self.rng.random_bool(lose.clamp(0.0, 1.0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn shape(mbit: f64, delay_ms: u64) -> Shape {
        Shape { rate_bps: mbit * 1e6, delay_ns: delay_ms * MS, jitter_ns: 0, loss: Loss::None, queue_bytes: 500 << 10 }
    }

    fn drain(direction: &mut Direction) -> Vec<u64> {
        std::iter::from_fn(|| direction.pop(u64::MAX)).map(|packet| packet.at).collect()
    }

    #[test]
    fn packets_come_out_at_the_rate_after_the_delay() {
        let mut direction = Direction::new(shape(12.0, 25), 1);
        for _ in 0..10 {
            assert_eq!(direction.push(0, vec![0; 1500]), None);
        }
        // 1,500 bytes at 12 Mbit/s take 1 ms.
        assert_eq!(drain(&mut direction), (1..=10).map(|n| (n + 25) * MS).collect::<Vec<_>>());
        assert_eq!(direction.counts, Counts { packets: 10, bytes: 15_000, lost: 0, overflowed: 0 });
    }

    #[test]
    fn a_full_queue_drops_the_newest() {
        let mut direction = Direction::new(Shape { queue_bytes: 3_000, ..shape(12.0, 0) }, 1);
        let dropped = (0..10).filter(|_| direction.push(0, vec![0; 1500]).is_some()).count();
        // One on the wire, two waiting, and the one that waits behind exactly 3,000 bytes.
        assert_eq!((dropped, direction.counts.overflowed), (7, 7));
    }

    #[test]
    fn jitter_never_changes_the_order() {
        let mut direction = Direction::new(Shape { jitter_ns: 30 * MS, ..shape(100.0, 10) }, 7);
        for n in 0..200u64 {
            direction.push(n * 100_000, vec![n as u8; 100]);
        }
        let order: Vec<u8> = std::iter::from_fn(|| direction.pop(u64::MAX)).map(|packet| packet.data[0]).collect();
        assert_eq!(order, (0..200).map(|n| n as u8).collect::<Vec<_>>());
    }

    #[test]
    fn losses_have_the_share_that_was_asked_for_and_bursts_come_in_runs() {
        let mut single =
            Direction::new(Shape { loss: Loss::Bernoulli(0.01), queue_bytes: u64::MAX, ..shape(1e6, 0) }, 3);
        let mut burst = Direction::new(
            Shape { loss: Loss::Burst { enter: 0.001, leave: 0.1, lose: 1.0 }, queue_bytes: u64::MAX, ..shape(1e6, 0) },
            3,
        );
        let runs = |direction: &mut Direction| {
            let lost: Vec<bool> = (0..200_000).map(|n| direction.push(n, vec![0; 40]).is_some()).collect();
            let total = lost.iter().filter(|lost| **lost).count();
            let starts = lost.windows(2).filter(|pair| !pair[0] && pair[1]).count();
            (total as f64 / lost.len() as f64, total as f64 / starts as f64)
        };
        let (share, length) = runs(&mut single);
        assert!((0.009..0.011).contains(&share) && length < 1.1, "{share} {length}");
        let (share, length) = runs(&mut burst);
        assert!((0.007..0.013).contains(&share) && (7.0..13.0).contains(&length), "{share} {length}");
    }

    #[test]
    fn a_stalled_wire_keeps_packets_and_a_cut_one_loses_them() {
        let mut direction = Direction::new(shape(12.0, 5), 1);
        direction.push(0, vec![1; 1500]);
        direction.reshape(0, Shape { rate_bps: 0.0, ..direction.shape() });
        direction.push(MS, vec![2; 1500]);
        assert_eq!(direction.pop(10 * MS).map(|packet| packet.data[0]), Some(1), "what was on the wire arrives");
        assert!(direction.pop(u64::MAX).is_none());
        direction.reshape(100 * MS, shape(12.0, 5));
        assert_eq!(drain(&mut direction), vec![106 * MS]);
        direction.push(200 * MS, vec![3; 1500]);
        direction.cut(true);
        assert!(direction.pop(u64::MAX).is_none() && direction.push(201 * MS, vec![4]).is_some());
        direction.cut(false);
        assert!(direction.push(202 * MS, vec![5]).is_none());
    }

    #[test]
    fn the_same_seed_loses_the_same_packets() {
        let run = |seed| {
            let mut direction = Direction::new(Shape { loss: Loss::Bernoulli(0.3), ..shape(1e5, 1) }, seed);
            (0..100).map(|n| direction.push(n, vec![0; 10]).is_some()).collect::<Vec<_>>()
        };
        assert_eq!(run(5), run(5));
        assert_ne!(run(5), run(6));
    }
}
