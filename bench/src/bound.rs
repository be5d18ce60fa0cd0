//! The physical bound T_k of a transfer (RETRIEVAL.md §2.0 and §4), the yardstick of the score η = T_k / T.
//!
//! k round trips pass before data flows (one for a single block or a CAR, one more for each level of a DAG that is
//! fetched by blocks), the extra ones at the nearest peer's round trip; then all links are full at the share of a packet
//! that is payload, and together they are not faster than the access link.

use crate::net::star::LinkSpec;

/// Payload of a full TCP packet with timestamps, of a standard MTU.
pub const GOODPUT: f64 = 1448.0 / 1500.0;
/// Kubo's default leaf, bytes, and links of a node: what the contents of the benchmark are cut into.
pub const LEAF_BYTES: u64 = 256 << 10;
pub const NODE_LINKS: u64 = 174;

/// Round trips of a file that is fetched by blocks.
pub fn levels(bytes: u64) -> u32 {
    let mut levels = 1;
    let mut nodes = bytes.div_ceil(LEAF_BYTES).max(1);
    while nodes > 1 {
        nodes = nodes.div_ceil(NODE_LINKS);
        levels += 1;
    }
    levels
}

/// T_k in seconds. `access_mbit`: what the links may carry together.
pub fn bound(bytes: u64, round_trips: u32, links: &[LinkSpec], access_mbit: Option<f64>) -> f64 {
    let nearest = links.iter().map(|link| link.rtt_ms).fold(f64::INFINITY, f64::min) / 1e3;
    let ahead = f64::from(round_trips.saturating_sub(1)) * nearest;
    // (when data begins to flow, bytes a second), in the order in which they begin
    let mut flows: Vec<(f64, f64)> =
        links.iter().map(|link| (ahead + link.rtt_ms / 1e3, link.mbit * 1e6 / 8.0 * GOODPUT)).collect();
    flows.sort_by(|a, b| a.0.total_cmp(&b.0));
    let access = access_mbit.map_or(f64::INFINITY, |mbit| mbit * 1e6 / 8.0 * GOODPUT);
    let mut left = bytes as f64;
    let mut rate = 0.0;
    for (place, &(start, own)) in flows.iter().enumerate() {
        rate += own;
        let end = flows.get(place + 1).map_or(f64::INFINITY, |next| next.0);
        let time = left / f64::min(rate, access);
        if start + time <= end {
            return start + time;
        }
        left -= f64::min(rate, access) * (end - start);
    }
    f64::INFINITY
}

/// T_1 of one block that no two peers share: that of the best single peer.
pub fn single_block(bytes: u64, links: &[LinkSpec]) -> f64 {
    links.iter().map(|link| bound(bytes, 1, std::slice::from_ref(link), None)).fold(f64::INFINITY, f64::min)
}

/// The bound of a file over Bitswap.
pub fn file(bytes: u64, links: &[LinkSpec], access_mbit: Option<f64>) -> f64 {
    if bytes <= LEAF_BYTES { single_block(bytes, links) } else { bound(bytes, levels(bytes), links, access_mbit) }
}

/// The bound of a transfer whose links change when `share` of it has arrived: T_k of that share, then the rest at the
/// rates of `after`, which flow already.
pub fn changed(bytes: u64, share: f64, before: &[LinkSpec], after: &[LinkSpec], access_mbit: Option<f64>) -> f64 {
    let first = (share * bytes as f64) as u64;
    let rate = after.iter().map(|link| link.mbit).sum::<f64>().min(access_mbit.unwrap_or(f64::INFINITY));
    let rest = (bytes - first) as f64 * 8.0 / (rate * 1e6 * GOODPUT);
    bound(first, levels(bytes), before, access_mbit) + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &[LinkSpec] = &[LinkSpec::new(100.0, 50.0)];
    const W: &[LinkSpec] = &[LinkSpec::new(500.0, 100.0)];
    const D: &[LinkSpec] =
        &[LinkSpec::new(100.0, 20.0), LinkSpec::new(50.0, 60.0), LinkSpec::new(20.0, 100.0), LinkSpec::new(5.0, 150.0)];
    const E: &[LinkSpec] = &[LinkSpec::new(50.0, 40.0); 4];

    fn ms(seconds: f64) -> u64 {
        (seconds * 1e3).round() as u64
    }

    #[test]
    fn the_bounds_are_those_of_the_requirement() {
        // RETRIEVAL.md §2.0, column "bound T_k".
        let table: &[(&[LinkSpec], u64, u64)] = &[
            (A, 100_000, 58),
            (A, 900_000, 175),
            (A, 5_000_000, 514),
            (A, 20_000_000, 1757),
            (A, 50_000_000, 4293),
            (W, 5_000_000, 283),
            (W, 20_000_000, 532),
            (W, 50_000_000, 1129),
            (D, 100_000, 28),
            (D, 900_000, 103),
            (D, 5_000_000, 301),
            (D, 20_000_000, 1011),
            (D, 50_000_000, 2452),
            (E, 100_000, 57),
            (E, 5_000_000, 287),
            (E, 20_000_000, 909),
            (E, 50_000_000, 2192),
        ];
        for &(links, bytes, wanted) in table {
            let got = ms(file(bytes, links, Some(300.0).filter(|_| links.len() > 1)));
            assert!(got.abs_diff(wanted) <= 1, "{bytes} bytes over {links:?}: {got} ms, not {wanted}");
        }
    }

    #[test]
    fn a_link_that_falls_at_a_third_costs_its_rate_from_then_on() {
        // RETRIEVAL.md §5.3: D whose first link falls to 2 Mbit/s at 30 % of 20 MB.
        let mut after = D.to_vec();
        after[0].mbit = 2.0;
        assert!(ms(changed(20_000_000, 0.3, D, &after, Some(300.0))).abs_diff(1855) <= 1);
    }

    #[test]
    fn the_access_link_holds_all_links_together() {
        let free = bound(20_000_000, 1, E, None);
        let held = bound(20_000_000, 1, E, Some(100.0));
        assert_eq!(ms(held), 40 + ms(20_000_000.0 * 8.0 / (100e6 * GOODPUT)));
        assert!(free < held);
    }

    #[test]
    fn a_block_a_leaf_more_is_a_level_more() {
        assert_eq!([0, 1, LEAF_BYTES, LEAF_BYTES + 1].map(levels), [1, 1, 1, 2]);
        assert_eq!([174 * LEAF_BYTES, 174 * LEAF_BYTES + 1].map(levels), [2, 3]);
    }
}
