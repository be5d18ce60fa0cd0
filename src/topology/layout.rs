//! Where peers are drawn: a force layout that gives the same picture for the same network.
//!
//! Peers start on a sunflower spiral (Vogel 1979) in the order in which they are given, so that those named first are
//! nearest to the middle, and evenly spread. Then linked peers draw each other near and all keep apart (Fruchterman,
//! Reingold 1991, with their grid, so that a step costs time in proportion to the peers), while each keeps to its ring.

use std::collections::HashMap;

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// Steps of the simulation; what a step may move shrinks evenly to nothing.
const STEPS: usize = 90;
/// Pull of a tie towards its length, a step.
const PULL: f64 = 0.18;
/// Pull back to the ring on which a peer started, a step.
const KEEP: f64 = 0.06;
/// Share of the frame that is kept free at each side.
const MARGIN: f64 = 0.05;
/// Where the first of a few peers stands: up and to the right, in radians.
const FIRST: f64 = 0.4;
/// Peers under which the innermost ring is left free, so that few peers stand in a circle.
const FEW: usize = 40;

/// In units of the frame; the origin is its upper left corner.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    pub x: f64,
    pub y: f64,
}

/// The size of the drawing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Frame {
    pub width: f64,
    pub height: f64,
}

/// Two peers that draw each other near, by position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tie {
    pub a: usize,
    pub b: usize,
}

/// A place for each of `peers` around the middle, where nobody is placed. Ties that name others are left out.
pub fn layout(peers: usize, ties: &[Tie], frame: Frame, seed: u64) -> Vec<Point> {
    if peers == 0 {
        return Vec::new();
    }
    let mut rng = SmallRng::seed_from_u64(seed);
    let (half_w, half_h) = (frame.width / 2.0, frame.height / 2.0);
    let reach = 1.0 - 2.0 * MARGIN;
    // Around (0, 0), each axis as long as the frame's half.
    let start: Vec<Point> = spiral(peers)
        .map(|(radius, angle)| {
            // A little disorder: forces along one line cannot part two peers.
            let angle = angle + rng.random_range(-0.02..0.02);
            Point { x: reach * radius * angle.cos() * half_w, y: reach * radius * angle.sin() * half_h }
        })
        .collect();
    let room = 0.8 * (std::f64::consts::PI * half_w * half_h / (peers + 1) as f64).sqrt();
    // A few peers do not flee from each other to the edges.
    let spacing = room.min(0.25 * frame.width.min(frame.height));
    let ties: Vec<Tie> = ties.iter().copied().filter(|tie| tie.a != tie.b && tie.a.max(tie.b) < peers).collect();
    let mut degree = vec![0usize; peers];
    for tie in &ties {
        degree[tie.a] += 1;
        degree[tie.b] += 1;
    }
    let mut at = start.clone();
    let mut push = vec![Point { x: 0.0, y: 0.0 }; peers];
    for step in 0..STEPS {
        let heat = spacing * 0.5 * (1.0 - step as f64 / STEPS as f64);
        push.iter_mut().for_each(|push| *push = Point { x: 0.0, y: 0.0 });
        repel(&at, spacing, &mut push);
        for tie in &ties {
            // A hub's many ties share its patience, as in d3-force: strength 1 / the lesser degree.
            let (dx, dy) = (at[tie.b].x - at[tie.a].x, at[tie.b].y - at[tie.a].y);
            let distance = dx.hypot(dy).max(1e-6);
            let strength = PULL / degree[tie.a].min(degree[tie.b]) as f64;
            let pull = strength * (distance - spacing).max(0.0) / distance;
            push[tie.a].x += dx * pull;
            push[tie.a].y += dy * pull;
            push[tie.b].x -= dx * pull;
            push[tie.b].y -= dy * pull;
        }
        for (i, point) in at.iter_mut().enumerate() {
            push[i].x += (start[i].x - point.x) * KEEP;
            push[i].y += (start[i].y - point.y) * KEEP;
            let length = push[i].x.hypot(push[i].y);
            let scale = if length > heat { heat / length } else { 1.0 };
            point.x = (point.x + push[i].x * scale).clamp(-reach * half_w, reach * half_w);
            point.y = (point.y + push[i].y * scale).clamp(-reach * half_h, reach * half_h);
        }
    }
    at.into_iter().map(|point| Point { x: point.x + half_w, y: point.y + half_h }).collect()
}

/// Radius (0..1) and angle of each place of a sunflower with as many seeds.
fn spiral(peers: usize) -> impl Iterator<Item = (f64, f64)> {
    let golden = std::f64::consts::PI * (3.0 - 5f64.sqrt());
    (0..peers).map(move |i| {
        let rank = (i as f64 + 0.5) / peers as f64;
        if peers < FEW {
            // Evenly around, alternating between two rings when one would be crowded.
            let angle = std::f64::consts::TAU * i as f64 / peers as f64 - FIRST;
            let crowded = peers > 12 && i % 2 == 1;
            return (if crowded { 0.95 } else { 0.62 } * (0.72 + 0.28 * rank), angle);
        }
        ((0.04 + 0.96 * rank).sqrt(), golden * i as f64)
    })
}

/// Pushes apart what is nearer than twice the spacing: k² / d, from the peers of the nine cells around only.
fn repel(at: &[Point], spacing: f64, push: &mut [Point]) {
    let cell = 2.0 * spacing;
    let key = |point: &Point| ((point.x / cell).floor() as i64, (point.y / cell).floor() as i64);
    let mut cells: HashMap<(i64, i64), Vec<usize>> = HashMap::new();
    for (i, point) in at.iter().enumerate() {
        cells.entry(key(point)).or_default().push(i);
    }
    // The middle, where the node itself stands, pushes too.
    let mut from = |i: usize, other: Point| {
        let (dx, dy) = (at[i].x - other.x, at[i].y - other.y);
        let distance = dx.hypot(dy).max(0.01);
        if distance < cell {
            let force = spacing * spacing / distance * (1.0 - distance / cell) * 0.5;
            push[i].x += dx / distance * force;
            push[i].y += dy / distance * force;
        }
    };
    for (i, point) in at.iter().enumerate() {
        let (column, row) = key(point);
        for near in (column - 1..=column + 1).flat_map(|c| (row - 1..=row + 1).map(move |r| (c, r))) {
            for other in cells.get(&near).into_iter().flatten().filter(|other| **other != i) {
                from(i, at[*other]);
            }
        }
        from(i, Point { x: 0.0, y: 0.0 });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME: Frame = Frame { width: 960.0, height: 600.0 };

    fn distance(a: Point, b: Point) -> f64 {
        (a.x - b.x).hypot(a.y - b.y)
    }

    fn least(points: &[Point]) -> f64 {
        let pairs = points.iter().enumerate().flat_map(|(i, a)| points[i + 1..].iter().map(|b| distance(*a, *b)));
        pairs.fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn the_same_network_and_seed_give_the_same_picture() {
        let ties: Vec<_> = (0..59).map(|n| Tie { a: n, b: n + 1 }).collect();
        assert_eq!(layout(60, &ties, FRAME, 7), layout(60, &ties, FRAME, 7));
        assert_ne!(layout(60, &ties, FRAME, 7), layout(60, &ties, FRAME, 8));
        assert_eq!(layout(0, &[], FRAME, 7), []);
    }

    #[test]
    fn everybody_is_inside_apart_from_each_other_and_off_the_middle() {
        let middle = Point { x: 480.0, y: 300.0 };
        for peers in [1, 2, 7, 30, 120, 500] {
            let points = layout(peers, &[], FRAME, 1);
            assert_eq!(points.len(), peers);
            assert!(points.iter().all(|p| (20.0..=940.0).contains(&p.x) && (20.0..=580.0).contains(&p.y)), "{peers}");
            assert!(least(&points) > 10.0, "{peers}: {}", least(&points));
            assert!(points.iter().all(|p| distance(*p, middle) > 20.0), "{peers}");
        }
    }

    #[test]
    fn linked_peers_come_nearer_and_those_named_first_are_nearer_to_the_middle() {
        let tie = Tie { a: 3, b: 77 };
        let (apart, tied) =
            (layout(100, &[], FRAME, 1), layout(100, &[tie, Tie { a: 5, b: 5 }, Tie { a: 1, b: 900 }], FRAME, 1));
        assert!(distance(tied[3], tied[77]) < distance(apart[3], apart[77]) * 0.8);
        let radius = |p: &Point| ((p.x - 480.0) / 480.0).hypot((p.y - 300.0) / 300.0);
        let mean = |points: &[Point]| points.iter().map(radius).sum::<f64>() / points.len() as f64;
        assert!(mean(&apart[..25]) < 0.6 * mean(&apart[75..]));
    }
}
