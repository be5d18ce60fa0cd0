//! Drawings over time and over size: stacked shares and curves, as numbers that templates write as SVG.

use std::fmt::Write as _;

use super::chart::{Tick, px};

/// The box of every drawing here, 760 wide.
const LEFT: f64 = 44.0;
const RIGHT: f64 = 748.0;
const TOP: f64 = 10.0;
const FLOOR: f64 = 158.0;
pub const HEIGHT: i32 = 184;

/// Shares of a whole by bucket, stacked to 100 %; a bucket with nothing in it stays empty.
#[derive(Debug, Clone, PartialEq)]
pub struct Stack {
    pub layers: Vec<Layer>,
    pub x: Vec<Tick>,
    pub y: Vec<YTick>,
    pub left: f64,
    pub right: f64,
    pub floor: f64,
    pub height: i32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Layer {
    pub class: &'static str,
    pub name: &'static str,
    /// `d` of a path.
    pub d: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct YTick {
    pub y: f64,
    pub label: String,
}

/// `buckets` hold one number a layer; `ticks` are (bucket, label). `None` when every bucket is empty.
pub fn stack<const N: usize>(
    layers: [(&'static str, &'static str); N],
    buckets: &[[u64; N]],
    ticks: &[(usize, String)],
) -> Option<Stack> {
    if buckets.iter().flatten().all(|n| *n == 0) {
        return None;
    }
    let step = (RIGHT - LEFT) / buckets.len() as f64;
    let x = |at: usize| LEFT + at as f64 * step;
    let mut paths = vec![String::new(); N];
    for (at, bucket) in buckets.iter().enumerate() {
        let total: u64 = bucket.iter().sum();
        if total == 0 {
            continue;
        }
        let mut y = FLOOR;
        for (path, value) in paths.iter_mut().zip(bucket) {
            let height = *value as f64 / total as f64 * (FLOOR - TOP);
            if height > 0.0 {
                let (left, right) = (px(x(at)), px(x(at + 1)));
                // Writing to a String does not fail.
                let _ = write!(path, "M{left} {}V{}H{right}V{}Z", px(y), px(y - height), px(y));
            }
            y -= height;
        }
    }
    let layers = layers.into_iter().zip(paths).filter(|(_, d)| !d.is_empty());
    Some(Stack {
        layers: layers.map(|((class, name), d)| Layer { class, name, d }).collect(),
        x: ticks.iter().map(|(at, label)| Tick { x: px(x(*at)), label: label.clone() }).collect(),
        y: shares(),
        left: LEFT,
        right: RIGHT,
        floor: FLOOR,
        height: HEIGHT,
    })
}

fn shares() -> Vec<YTick> {
    let tick = |percent: u32| YTick {
        y: px(FLOOR - f64::from(percent) / 100.0 * (FLOOR - TOP)),
        label: format!("{percent} %"),
    };
    [0, 50, 100].map(tick).into()
}

/// Shares (0..=1) over a logarithmic axis of sizes, with marks.
#[derive(Debug, Clone, PartialEq)]
pub struct Curves {
    pub lines: Vec<Curve>,
    pub marks: Vec<Mark>,
    pub x: Vec<Tick>,
    pub y: Vec<YTick>,
    pub left: f64,
    pub right: f64,
    pub top: f64,
    pub floor: f64,
    pub height: i32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Curve {
    pub class: &'static str,
    pub name: &'static str,
    pub points: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Mark {
    pub x: f64,
    pub text_x: f64,
    pub y: f64,
    pub anchor: &'static str,
    pub label: String,
}

/// One line: class, name, and a share for each of the sizes.
pub type Line<'a> = (&'static str, &'static str, &'a [f64]);

/// `sizes` are ascending bytes over zero, at least two; marks outside of them are left out.
pub fn curves(sizes: &[u64], lines: &[Line<'_>], marks: &[(u64, String)]) -> Option<Curves> {
    let (first, last) = (*sizes.first()?, *sizes.last()?);
    if first == 0 || last <= first {
        return None;
    }
    let (low, high) = ((first as f64).log2(), (last as f64).log2());
    let x = |bytes: u64| px(LEFT + ((bytes as f64).log2() - low) / (high - low) * (RIGHT - LEFT));
    let y = |share: f64| px(FLOOR - share.clamp(0.0, 1.0) * (FLOOR - TOP));
    let lines = lines.iter().map(|(class, name, shares)| Curve {
        class,
        name,
        points: sizes
            .iter()
            .zip(*shares)
            .map(|(s, share)| format!("{},{}", x(*s), y(*share)))
            .collect::<Vec<_>>()
            .join(" "),
    });
    // Every eighth doubling, and finer when there is room.
    let octaves = (high - low).ceil();
    let every = if octaves > 16.0 { 4 } else { 2 };
    let ticks = (low.ceil() as u32..=high.floor() as u32).filter(|power| power % every == 0);
    let mut placed = 0;
    let marks = marks.iter().filter(|(bytes, _)| (first..=last).contains(bytes)).map(|(bytes, label)| {
        let at = x(*bytes);
        let right = at < (LEFT + RIGHT) / 2.0;
        placed += 1;
        Mark {
            x: at,
            text_x: px(if right { at + 6.0 } else { at - 6.0 }),
            y: TOP + 10.0 + 16.0 * f64::from(placed - 1),
            anchor: if right { "start" } else { "end" },
            label: label.clone(),
        }
    });
    Some(Curves {
        lines: lines.collect(),
        marks: marks.collect(),
        x: ticks.map(|power| Tick { x: x(1 << power), label: size(1 << power) }).collect(),
        y: shares(),
        left: LEFT,
        right: RIGHT,
        top: TOP,
        floor: FLOOR,
        height: HEIGHT,
    })
}

/// A power of two without a fraction: `64 MiB`.
fn size(bytes: u64) -> String {
    match bytes.ilog2() {
        0..10 => format!("{bytes} B"),
        10..20 => format!("{} KiB", bytes >> 10),
        20..30 => format!("{} MiB", bytes >> 20),
        30..40 => format!("{} GiB", bytes >> 30),
        _ => format!("{} TiB", bytes >> 40),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_fills_its_bucket_and_leaves_empty_ones_empty() {
        let stack = stack([("a", "A"), ("b", "B"), ("c", "C")], &[[1, 3, 0], [0, 0, 0], [2, 0, 0]], &[(0, "0".into())])
            .unwrap();
        assert_eq!(stack.layers.len(), 2, "a layer without a value is left out");
        assert_eq!(stack.layers[0].d, "M44 158V121H278.7V158ZM513.3 158V10H748V158Z");
        assert_eq!(stack.layers[1].d, "M44 121V10H278.7V121Z");
        assert_eq!(super::stack([("a", "A")], &[[0], [0]], &[]), None);
    }

    #[test]
    fn curves_lie_within_their_box_and_marks_outside_are_left_out() {
        let marks = [(1 << 20, "1 MiB".to_owned()), (1 << 50, "far".to_owned())];
        let drawn = curves(&[1 << 10, 1 << 20, 1 << 30], &[("l", "n", &[0.0, 0.5, 2.0])], &marks).unwrap();
        assert_eq!(drawn.lines[0].points, "44,158 396,84 748,10");
        assert_eq!(drawn.marks.len(), 1);
        assert!(drawn.x.iter().any(|tick| tick.label == "1 MiB"), "{:?}", drawn.x);
        assert_eq!(curves(&[0, 1], &[], &[]), None);
        assert_eq!(curves(&[], &[], &[]), None);
    }
}
