//! Numeric budgets of the scheduler, and what must hold in any order of events.

use std::time::Duration;

use proptest::prelude::*;
use tidegate::exchange::{Arrival, ExchangeEvent};
use tidegate::ipld::Block;
use tidegate::record::{Policy, Transport};
use tidegate::retriever::scheduler::{Action, Input, Scheduler, SessionId, Tuning};
use tidegate::retriever::step::Step;

use crate::world::{Manner, World, bound, file};

const MINUTE: Duration = Duration::from_secs(60);
const LEAF: usize = 262_144;
const SET_A: &[(f64, u64)] = &[(100.0, 50)];
const SET_D: &[(f64, u64)] = &[(100.0, 20), (50.0, 60), (20.0, 100), (5.0, 150)];
const SET_E: &[(f64, u64)] = &[(50.0, 40); 4];

/// Fetches twice over the same connections; the second, with known rates, is the measured one (RETRIEVAL.md §5.2).
fn warm_run(links: &[(f64, u64)], leaves: usize) -> (World, f64) {
    let mut world = World::new(7);
    links.iter().for_each(|(mbit, rtt)| {
        world.peer(Manner::Honest, *mbit, *rtt, true);
    });
    let mut factor = 0.0;
    for run in 0..2 {
        let blocks = file(leaves + 1, LEAF, run);
        world.add(&blocks);
        let session = world.open(run, &blocks[0], Policy::Optimized);
        let took = world.download(session, &blocks, MINUTE).expect("the file comes");
        let bytes = ((leaves + 1) * LEAF) as u64;
        factor = took.as_secs_f64() / bound(bytes, links, 2).as_secs_f64();
        assert_eq!(world.done(session).len(), leaves + 1);
        world.on(Input::Close { session });
    }
    assert_eq!(world.twice, 0, "each block once");
    (world, factor)
}

#[test]
fn one_peer_is_used_to_its_bound() {
    for leaves in [4, 20, 80] {
        let (world, factor) = warm_run(SET_A, leaves);
        assert!(factor < 1.06, "{leaves} leaves: {factor:.3} of the bound");
        assert_eq!(world.scheduler.tally().duplicate_bytes, 0);
    }
}

#[test]
fn four_equal_peers_are_all_used() {
    let (world, factor) = warm_run(SET_E, 80);
    assert!(factor < 1.25, "{factor:.3} of the bound");
    assert!(world.duplicate_share() <= 0.05, "{:.3}", world.duplicate_share());
    let (most, least) =
        (world.peers.iter().map(|p| p.sent).max().unwrap(), world.peers.iter().map(|p| p.sent).min().unwrap());
    assert!(least * 2 >= most, "no peer gets under half its share: {least} of {most}");
}

#[test]
fn four_unequal_peers_come_near_the_bound() {
    let (world, factor) = warm_run(SET_D, 80);
    let shares: Vec<u64> = world.peers.iter().map(|p| p.blocks).collect();
    assert!(factor < 1.25, "{factor:.3} of the bound: {shares:?} {:?}", world.scheduler.tally());
    assert!(world.duplicate_share() <= 0.05, "{:.3}", world.duplicate_share());
}

#[test]
fn a_silent_peer_costs_its_window_and_the_patience_for_it() {
    let mut world = World::new(3);
    world.peer(Manner::Honest, 50.0, 40, true);
    world.peer(Manner::Staller(4 * LEAF as u64), 50.0, 40, true);
    let blocks = file(80, LEAF, 1);
    world.add(&blocks);
    let session = world.open(1, &blocks[0], Policy::Optimized);
    let took = world.download(session, &blocks, MINUTE).expect("the file comes");
    let alone = bound((80 * LEAF) as u64, &[(50.0, 40)], 2);
    assert!(took < alone + Duration::from_millis(600), "{took:?} against {alone:?} from the other alone");
    let relieved = |step: &Step| matches!(step, Step::Stalled { .. } | Step::Hedged { .. } | Step::Reassigned { .. });
    assert!(world.steps.iter().any(|(_, _, step)| relieved(step)), "and the trace says so");
    assert!(world.duplicate_share() <= 0.05);
}

#[test]
fn silence_after_a_good_time_is_not_taken_for_a_rate_that_fell() {
    for (mbit, rtt, other) in [(100.0, 20, (100.0, 20)), (2_000.0, 1, (1_000.0, 1))] {
        let mut world = World::new(13);
        // Without second copies, so that only the end of patience helps.
        world.scheduler = Scheduler::new(Tuning { duplicate_share: 0.0, ..Tuning::default() });
        world.peer(Manner::Honest, other.0, other.1, true);
        let silent = world.peer(Manner::Staller(60 * LEAF as u64), mbit, rtt, true);
        let blocks = file(140, LEAF, 1);
        world.add(&blocks);
        let session = world.open(1, &blocks[0], Policy::Optimized);
        let took = world.download(session, &blocks, MINUTE).expect("the file comes");
        let rest = bound((140 - world.peers[silent].blocks) * LEAF as u64, &[other], 2);
        println!("{mbit}/{rtt}: {took:?}; the rest alone {rest:?}, {:?}", world.scheduler.tally());
        assert!(took < rest + Duration::from_millis(800), "{mbit}/{rtt}: {took:?}; the rest alone needs {rest:?}");
    }
}

#[test]
fn nothing_is_asked_of_a_corrupt_peer_after_its_first_wrong_block() {
    let mut world = World::new(4);
    SET_D[1..].iter().for_each(|(mbit, rtt)| {
        world.peer(Manner::Honest, *mbit, *rtt, true);
    });
    let corrupt = world.peer(Manner::Corrupt, 100.0, 20, true);
    let blocks = file(80, LEAF, 1);
    world.add(&blocks);
    let session = world.open(1, &blocks[0], Policy::Optimized);
    let took = world.download(session, &blocks, MINUTE).expect("the file comes");
    assert!(world.peers[corrupt].blocks >= 10, "it was used until then");
    assert_eq!(world.peers[corrupt].asked_after_wrong, 0);
    let without = bound((80 * LEAF) as u64, &SET_D[1..], 2);
    assert!(took.as_secs_f64() < 1.3 * without.as_secs_f64(), "{took:?} against {without:?}");
    assert_eq!(world.scheduler.tally().corrupt, 1);
}

#[test]
fn liars_stallers_and_dead_peers_beside_good_ones_cost_little() {
    let run = |adversaries: bool| {
        let mut world = World::new(5);
        SET_D.iter().for_each(|(mbit, rtt)| {
            world.peer(Manner::Honest, *mbit, *rtt, true);
        });
        if adversaries {
            world.peer(Manner::Liar, 100.0, 5, true);
            world.peer(Manner::Staller(65_536), 100.0, 10, true);
            let dead = world.peer(Manner::Dead, 100.0, 10, false);
            world.routed.push((Duration::from_millis(30), dead));
        }
        let blocks = file(80, LEAF, 1);
        world.add(&blocks);
        let session = world.open(1, &blocks[0], Policy::Optimized);
        world.download(session, &blocks, MINUTE).expect("the file comes").as_secs_f64()
    };
    let (clean, dirty) = (run(false), run(true));
    assert!(dirty < clean + 1.5, "{dirty:.2} s against {clean:.2} s");
}

/// 20 MB over D, whose fastest link falls to so many Mbit/s at 30 %, from peers that send so many blocks at once. The bound
/// of the degraded schedule is 1,855 ms for 2 Mbit/s (RETRIEVAL.md §5.3); held to it is issue 6's gate.
fn degraded(fallen: f64, parallel: usize) -> Duration {
    let mut world = World::new(6);
    world.peer(Manner::Degrader(6_000_000, fallen), 100.0, 20, true);
    SET_D[1..].iter().for_each(|(mbit, rtt)| {
        world.peer(Manner::Honest, *mbit, *rtt, true);
    });
    world.peers.iter_mut().for_each(|peer| peer.parallel = parallel);
    let blocks = file(76, LEAF, 1);
    world.add(&blocks);
    let session = world.open(1, &blocks[0], Policy::Optimized);
    world.download(session, &blocks, MINUTE).expect("the file comes")
}

#[test]
fn a_peer_that_degrades_is_relieved() {
    let took = degraded(2.0, 1);
    assert!(took < Duration::from_millis(2_600), "{took:?}");
}

/// Blocks that are taken back from it come first all the same: the one behind them is far away, however much has come.
#[test]
fn a_peer_that_degrades_with_eight_blocks_in_its_hands_is_relieved() {
    for fallen in [0.5, 1.0, 2.0] {
        let took = degraded(fallen, 8);
        assert!(took < Duration::from_millis(2_600), "{fallen} Mbit/s: {took:?}");
    }
}

/// Of a file that takes 8.7 s without `late`, which comes after one second.
fn late_is_used(world: &mut World, late: usize) {
    let blocks = file(80, LEAF, 1);
    world.add(&blocks);
    let session = world.open(1, &blocks[0], Policy::Optimized);
    let took = world.download(session, &blocks, MINUTE).expect("the file comes");
    let id = world.peers[late].id;
    let first = world.steps.iter().find(|(_, _, s)| matches!(s, Step::Block(b) if b.peer == id)).map(|(at, ..)| *at);
    assert!(first.expect("it delivers") < Duration::from_secs(2), "{first:?}");
    assert!(took < Duration::from_secs(4), "{took:?}: 8.7 s without it");
}

#[test]
fn a_provider_that_joins_midway_is_used_within_a_second() {
    let mut world = World::new(8);
    world.peer(Manner::Honest, 20.0, 50, true);
    let late = world.peer(Manner::Honest, 100.0, 20, false);
    world.routed.push((Duration::from_secs(1), late));
    late_is_used(&mut world, late);
}

#[test]
fn a_provider_that_connects_by_itself_midway_is_used_too() {
    let mut world = World::new(8);
    world.peer(Manner::Honest, 20.0, 50, true);
    let late = world.peer(Manner::Honest, 100.0, 20, false);
    let useless: Vec<usize> = (0..100).map(|_| world.peer(Manner::Liar, 100.0, 10, false)).collect();
    useless.iter().for_each(|peer| world.join_after(*peer, Duration::from_millis(1_100)));
    world.join_after(late, Duration::from_secs(1));
    late_is_used(&mut world, late);
    let asked = useless.iter().filter(|peer| world.peers[**peer].asked > 0).count();
    assert!(asked <= Tuning::default().broadcast, "{asked} strangers were asked");
}

#[test]
fn a_peer_whose_link_comes_to_life_is_used_again_at_once() {
    let mut world = World::new(9);
    SET_D.iter().for_each(|(mbit, rtt)| {
        world.peer(Manner::Honest, *mbit, *rtt, true);
    });
    let warm = file(20, LEAF, 1);
    world.add(&warm);
    let session = world.open(1, &warm[0], Policy::Optimized);
    world.download(session, &warm, MINUTE).expect("the file comes");
    world.on(Input::Close { session });
    // Silent long enough for its wants to be taken from it.
    let asleep = Duration::from_millis(900);
    world.peers[0].asleep = world.now + asleep;
    let blocks = file(76, LEAF, 2);
    world.add(&blocks);
    let session = world.open(2, &blocks[0], Policy::Optimized);
    let took = world.download(session, &blocks, MINUTE).expect("the file comes");
    let others = SET_D[1..].iter().map(|(mbit, _)| mbit * 1e6 / 8.0 * 0.9653).sum::<f64>();
    let rest = (76 * LEAF) as u64 - (others * (asleep.as_secs_f64() - 0.12)) as u64;
    let least = asleep + bound(rest, SET_D, 1);
    println!("{took:?} of {least:?}, {:?}", world.scheduler.tally());
    assert!(took < least.mul_f64(1.25), "{took:?}; at least {least:?}");
}

#[test]
fn connections_to_the_peers_that_deliver_soonest_are_kept() {
    let mut world = World::new(12);
    let links =
        [(20.0, 40), (100.0, 20), (5.0, 150), (50.0, 60), (80.0, 25), (40.0, 30), (60.0, 35), (30.0, 90), (70.0, 45)];
    let good: Vec<usize> = links.iter().map(|(mbit, rtt)| world.peer(Manner::Honest, *mbit, *rtt, true)).collect();
    let wrong = world.peer(Manner::Corrupt, 100.0, 10, true);
    for run in 0..3 {
        let blocks = file(80, LEAF, run);
        world.add(&blocks);
        let session = world.open(run, &blocks[0], Policy::Optimized);
        world.download(session, &blocks, MINUTE).expect("the file comes");
        world.on(Input::Close { session });
        world.settle(Duration::from_secs(2));
    }
    assert_eq!(world.warm.len(), 8, "as many as the setting says");
    assert!(!world.warm.contains(&world.peers[wrong].id), "not the one that sent a wrong block");
    assert!(!world.warm.contains(&world.peers[good[2]].id), "of nine the slowest is left out");
}

#[test]
fn peers_whose_rates_fall_together_are_known_to_share_a_bottleneck() {
    let mut world = World::new(22);
    let peers: Vec<usize> = (0..3).map(|_| world.peer(Manner::Honest, 40.0, 40, true)).collect();
    let mut shared = Vec::new();
    for run in 0..6 {
        // In each second run the link before two of them loses most of what it gave.
        for peer in &mut world.peers[..2] {
            let falls = Manner::Degrader(peer.sent + 12 * LEAF as u64, 8.0);
            peer.manner = if run % 2 == 1 { falls } else { Manner::Honest };
        }
        let blocks = file(120, LEAF, run);
        world.add(&blocks);
        let session = world.open(run, &blocks[0], Policy::Optimized);
        world.download(session, &blocks, MINUTE).expect("the file comes");
        world.on(Input::Close { session });
        world.settle(Duration::from_secs(5));
        let of = |peer: &usize| {
            let id = world.peers[*peer].id;
            world.scheduler.snapshot(world.now).into_iter().find(|known| known.peer == id).unwrap().shares_with
        };
        shared.push(peers.iter().map(of).collect::<Vec<_>>());
    }
    let ids: Vec<_> = peers.iter().map(|peer| world.peers[*peer].id).collect();
    assert_eq!(shared[2], [vec![], vec![], vec![]], "once is chance");
    assert_eq!(shared[5], [vec![ids[1]], vec![ids[0]], vec![]]);
    assert!(world.duplicate_share() <= 0.05, "{}", world.duplicate_share());
}

#[test]
fn a_peer_that_nobody_measured_shows_what_it_can_do() {
    let mut world = World::new(21);
    world.peer(Manner::Honest, 100.0, 20, true);
    let large = file(80, LEAF, 1);
    world.add(&large);
    let session = world.open(1, &large[0], Policy::Optimized);
    world.download(session, &large, MINUTE).expect("the file comes");
    world.on(Input::Close { session });
    // Farther away: of files of one block it is never asked for one, it only says that it has them.
    let stranger = world.peer(Manner::Honest, 50.0, 60, true);
    let mut longest = Duration::ZERO;
    for run in 2..60 {
        let small = file(1, LEAF, run);
        world.add(&small);
        let session = world.open(run, &small[0], Policy::Optimized);
        longest = longest.max(world.download(session, &small, MINUTE).expect("the block comes"));
        world.on(Input::Close { session });
    }
    while world.turn() {}
    let id = world.peers[stranger].id;
    let known = world.scheduler.snapshot(world.now).into_iter().find(|peer| peer.peer == id).unwrap();
    let (rate, link) = (known.rate.expect("it was measured"), 50.0e6 / 8.0);
    assert!((0.5 * link..1.1 * link).contains(&rate), "{rate} of {link}");
    assert_eq!(known.max_rate, Some(rate));
    let tally = world.scheduler.tally();
    assert_eq!((tally.probes, tally.hedges, world.peers[stranger].blocks), (1, 0, 1), "once is enough");
    assert_eq!(tally.duplicate_bytes, LEAF as u64);
    assert!(longest < Duration::from_millis(45), "{longest:?}: nobody waits for a probe");
}

/// A file of a root and a few large leaves from two providers that are equally good, after another of the same kind.
fn large_leaves(http: bool, leaves: usize) -> (World, Duration) {
    let mut world = World::new(11);
    world.check = true;
    for _ in 0..2 {
        if http {
            world.http(20.0, 40)
        } else {
            world.kubo(20.0, 40, true)
        };
    }
    let mut took = Duration::ZERO;
    for (run, leaves) in [(0, 12), (1, leaves)] {
        let mut blocks = file(1, 4_000, 900 + run);
        blocks.extend(file(leaves, 1 << 20, 1_000 + run));
        world.add(&blocks);
        let session = world.open(run, &blocks[0], Policy::Optimized);
        took = world.download(session, &blocks, MINUTE).expect("the file comes");
        world.on(Input::Close { session });
        world.settle(Duration::from_secs(1));
    }
    assert_eq!(world.twice, 0, "each block once");
    (world, took)
}

#[test]
fn over_http_two_providers_share_the_last_block() {
    for leaves in [1, 3] {
        let (world, shared) = large_leaves(true, leaves);
        let (_, alone) = large_leaves(false, leaves);
        // The last leaf takes one of them 434 ms, and both 217 and a round trip.
        assert!(shared + Duration::from_millis(120) < alone, "{leaves} leaves: {shared:?}, by blocks {alone:?}");
        let ends: Vec<u64> = world
            .steps
            .iter()
            .filter_map(|(_, _, step)| if let Step::End { bytes, .. } = step { Some(*bytes) } else { None })
            .collect();
        assert!(!ends.is_empty());
        // Every byte is put down to whoever sent it.
        let tally = world.scheduler.tally();
        assert_eq!(tally.bytes, world.delivered.keys().map(|(_, cid)| world.content[cid].len() as u64).sum::<u64>());
        let put_down: u64 = world.peers.iter().map(|p| world.scheduler.ledger().get(&p.id).unwrap().bytes).sum();
        assert_eq!(put_down, tally.bytes, "{ends:?}");
        assert!(world.duplicate_share() <= 0.05, "{:.3}", world.duplicate_share());
        assert!(world.received() as f64 <= 1.05 * tally.bytes as f64, "{} of {}", world.received(), tally.bytes);
    }
}

#[test]
fn the_standard_policy_uses_one_provider_and_still_gets_past_a_silent_one() {
    let mut world = World::new(9);
    world.peer(Manner::Staller(2 * LEAF as u64), 50.0, 40, true);
    world.peer(Manner::Honest, 50.0, 40, true);
    let blocks = file(20, LEAF, 1);
    world.add(&blocks);
    let session = world.open(1, &blocks[0], Policy::Standard);
    let took = world.download(session, &blocks, MINUTE).expect("the file comes");
    assert!(took < Duration::from_secs(14), "{took:?}");
}

#[test]
fn concurrent_downloads_share_a_peer() {
    let mut world = World::new(10);
    world.peer(Manner::Honest, 100.0, 20, true);
    world.peer(Manner::Honest, 50.0, 40, true);
    let files: Vec<_> = (0..4).map(|k| file(30, LEAF, k)).collect();
    for (k, blocks) in files.iter().enumerate() {
        world.add(blocks);
        let session = world.open(k as u64, &blocks[0], Policy::Optimized);
        for block in blocks {
            world.on(Input::Want { session, cid: *block.cid(), size: Some(LEAF as u64), urgent: false });
        }
    }
    while world.delivered.len() < 120 {
        assert!(world.turn() && world.now < MINUTE);
    }
    let ends: Vec<f64> = (0..4)
        .map(|k| {
            world.delivered.iter().filter(|((s, _), _)| s.0 == k).map(|(_, at)| at.as_secs_f64()).fold(0.0, f64::max)
        })
        .collect();
    let jain = ends.iter().sum::<f64>().powi(2) / (4.0 * ends.iter().map(|t| t * t).sum::<f64>());
    assert!(jain > 0.95, "{jain:.3} of {ends:?}");
}

/// Fetches of `leaves` leaves from Kubos: two to learn from (5 MB each, RETRIEVAL.md §5.2), then the measured one.
/// The factor over the bound, and the share of payload bytes that came twice in the measured one.
fn kubo_run(links: &[(f64, u64)], leaves: usize, seed: u64) -> (World, f64, f64) {
    let mut world = World::new(seed);
    links.iter().for_each(|(mbit, rtt)| {
        world.kubo(*mbit, *rtt, true);
    });
    let (mut factor, mut twice) = (0.0, 0.0);
    for run in 0..3 {
        let leaves = if run < 2 { 19 } else { leaves };
        let mut blocks = file(1, 1_024, seed * 10 + run + 1_000_000);
        blocks.extend(file(leaves, LEAF, seed * 10 + run));
        world.add(&blocks);
        let before = world.received();
        let (start, blocks_before): (Duration, Vec<u64>) = (world.now, world.peers.iter().map(|p| p.blocks).collect());
        let session = world.open(run, &blocks[0], Policy::Optimized);
        let took = world.download(session, &blocks, MINUTE).expect("the file comes");
        world.on(Input::Close { session });
        world.settle(Duration::from_secs(5));
        if run == 2 && seed == 1 {
            for (peer, before) in world.peers.iter().zip(blocks_before) {
                let known =
                    world.scheduler.snapshot(world.now).into_iter().find(|s| s.peer == peer.id).and_then(|s| s.rate);
                println!(
                    "  {} Mbit {:?}: {} blocks, last at {:?}, rate {:.1} Mbit",
                    peer.mbit,
                    peer.rtt,
                    peer.blocks - before,
                    peer.last.saturating_sub(start),
                    known.unwrap_or(0.0) * 8e-6
                );
            }
        }
        let bytes = (leaves * LEAF) as u64;
        factor = took.as_secs_f64() / bound(bytes, links, 2).as_secs_f64();
        twice = (world.received() - before) as f64 / bytes as f64 - 1.0;
    }
    (world, factor, twice)
}

#[test]
fn kubos_come_near_the_bound_on_every_link_set() {
    let set_w: &[(f64, u64)] = &[(500.0, 100)];
    // (links, leaves, most of the bound, most bytes twice): the gates of RETRIEVAL.md §5.3 are 1/0.9 (A), 1/0.8 (D, E at
    // 5 MB), 1/0.87 (20 MB) and 1/0.6 (W).
    let rows = [
        ("A 5 MB", SET_A, 19, 1.05, 0.0),
        ("A 20 MB", SET_A, 76, 1.03, 0.0),
        ("D 5 MB", SET_D, 19, 1.25, 0.11),
        ("D 20 MB", SET_D, 76, 1.13, 0.03),
        ("D 50 MB", SET_D, 190, 1.10, 0.03),
        ("E 5 MB", SET_E, 19, 1.25, 0.11),
        ("E 20 MB", SET_E, 76, 1.12, 0.03),
        ("W 5 MB", set_w, 19, 1.10, 0.0),
        ("W 20 MB", set_w, 76, 1.10, 0.0),
    ];
    let mut wrong = Vec::new();
    for (name, links, leaves, most, most_twice) in rows {
        for seed in 1..4 {
            let (world, factor, twice) = kubo_run(links, leaves, seed);
            let line = format!(
                "{name}: {factor:.3} of the bound, {:.1} % twice, {:?}",
                twice * 100.0,
                world.scheduler.tally()
            );
            println!("{line}");
            if factor > most || twice > most_twice + 0.001 {
                wrong.push(line);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn young_connections_of_unknown_rate_cost_little() {
    // RETRIEVAL.md S5: a router that answers in 30 ms, a dial of two round trips, slow start; at most 1.5 of the bound.
    for (leaves, most) in [(3usize, 1.9), (19, 1.6), (76, 1.35)] {
        let mut world = World::new(leaves as u64);
        for (mbit, rtt) in SET_D {
            let index = world.kubo(*mbit, *rtt, false);
            world.peers[index].flight = crate::world::FIRST_FLIGHT;
            world.routed.push((Duration::from_millis(30), index));
        }
        let mut blocks = file(1, 1_024, 77);
        blocks.extend(file(leaves, LEAF, leaves as u64));
        world.add(&blocks);
        let session = world.open(1, &blocks[0], Policy::Optimized);
        let took = world.download(session, &blocks, MINUTE).expect("the file comes");
        world.on(Input::Close { session });
        world.settle(Duration::from_secs(10));
        for peer in &world.peers {
            println!("  {} Mbit {:?}: {} blocks, last at {:?}", peer.mbit, peer.rtt, peer.blocks, peer.last);
        }
        let bytes = (leaves * LEAF) as u64;
        let bound = bound(bytes, SET_D, 2) + Duration::from_millis(30 + 40);
        let factor = took.as_secs_f64() / bound.as_secs_f64();
        let twice = world.received() as f64 / bytes as f64 - 1.0;
        println!("{leaves} leaves cold: {factor:.3} of {bound:?}, {:.1} % twice", twice * 100.0);
        assert!(factor < most, "{leaves} leaves: {factor:.3} of {bound:?}");
    }
}

#[test]
fn eight_downloads_share_fairly() {
    let mut world = World::new(11);
    SET_D.iter().for_each(|(mbit, rtt)| {
        world.kubo(*mbit, *rtt, true);
    });
    let files: Vec<_> = (0..8).map(|k| file(76, LEAF, 100 + k)).collect();
    let roots: Vec<_> = (0..8).map(|k| file(1, 4_000, 200 + k)).collect();
    let want = |session, block: &Block, urgent| {
        let size = Some(block.len() as u64);
        Input::Want { session, cid: *block.cid(), size, urgent }
    };
    for (k, blocks) in files.iter().enumerate() {
        world.add(blocks);
        world.add(&roots[k]);
        let session = world.open(k as u64, &roots[k][0], Policy::Optimized);
        world.on(want(session, &roots[k][0], true));
    }
    let mut begun = [false; 8];
    while world.delivered.len() < 8 * 77 {
        assert!(world.turn() && world.now < MINUTE);
        for (k, begun) in begun.iter_mut().enumerate() {
            let session = SessionId(k as u64);
            if !*begun && world.delivered.contains_key(&(session, *roots[k][0].cid())) {
                *begun = true;
                for block in &files[k] {
                    world.on(want(session, block, false));
                }
            }
        }
    }
    let mut ends = [0.0f64; 8];
    for ((session, _), at) in &world.delivered {
        let end = &mut ends[session.0 as usize];
        *end = end.max(at.as_secs_f64());
    }
    let jain = ends.iter().sum::<f64>().powi(2) / (8.0 * ends.iter().map(|t| t * t).sum::<f64>());
    assert!(jain >= 0.95, "{jain:.3} of {ends:?}");
    let least = bound((8 * 76 * LEAF) as u64, SET_D, 1).as_secs_f64();
    assert!(ends.iter().fold(0.0f64, |a, b| a.max(*b)) < 1.1 * least, "{ends:?} against {least:.2}");
}

#[derive(Debug, Clone)]
enum Op {
    Open(u64, bool),
    Close(u64),
    Want(u64, usize, bool),
    Unwant(u64, usize),
    Demote(u64, usize),
    Connect(usize),
    Disconnect(usize),
    Have(usize, usize),
    DontHave(usize, usize),
    Block(usize, usize),
    End(usize, usize, usize),
    Invalid(usize),
    Progress(usize),
    SendFailed(usize, usize),
    Wait(u64),
}

fn op() -> impl Strategy<Value = Op> {
    let (s, b, p) = (0..4u64, 0..12usize, 0..4usize);
    prop_oneof![
        1 => (s.clone(), any::<bool>()).prop_map(|(s, o)| Op::Open(s, o)),
        1 => s.clone().prop_map(Op::Close),
        4 => (s.clone(), b.clone(), any::<bool>()).prop_map(|(s, b, u)| Op::Want(s, b, u)),
        1 => (s.clone(), b.clone()).prop_map(|(s, b)| Op::Unwant(s, b)),
        1 => (s, b.clone()).prop_map(|(s, b)| Op::Demote(s, b)),
        2 => p.clone().prop_map(Op::Connect),
        1 => p.clone().prop_map(Op::Disconnect),
        2 => (p.clone(), b.clone()).prop_map(|(p, b)| Op::Have(p, b)),
        2 => (p.clone(), b.clone()).prop_map(|(p, b)| Op::DontHave(p, b)),
        4 => (p.clone(), b.clone()).prop_map(|(p, b)| Op::Block(p, b)),
        2 => (p.clone(), b.clone(), 1..300_000usize).prop_map(|(p, b, n)| Op::End(p, b, n)),
        1 => p.clone().prop_map(Op::Invalid),
        1 => p.clone().prop_map(Op::Progress),
        1 => (p, b).prop_map(|(p, b)| Op::SendFailed(p, b)),
        3 => (1..3_000u64).prop_map(Op::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn books_balance_and_every_want_ends_whatever_the_order_of_events(ops in proptest::collection::vec(op(), 1..120)) {
        let blocks = file(12, 600, 1);
        let world = { let mut w = World::new(1); (0..4).for_each(|_| { w.peer(Manner::Honest, 10.0, 10, false); }); w };
        let ids: Vec<_> = world.peers.iter().map(|p| p.id).collect();
        let mut scheduler = Scheduler::new(Tuning { timeout: Duration::from_secs(5), ..Tuning::default() });
        let mut now = Duration::ZERO;
        let mut open = std::collections::BTreeMap::<(u64, usize), ()>::new();
        let mut live = std::collections::BTreeSet::new();
        let number = |cid: &tidegate::ipld::Cid| blocks.iter().position(|b| b.cid() == cid).unwrap();
        let mut actions = Vec::new();
        let ends = [Op::Wait(6_000), Op::Wait(6_000), Op::Wait(6_000)];
        for op in ops.into_iter().chain(ends) {
            let exchange = |event| Input::Exchange(event);
            let input = match op {
                Op::Open(s, optimized) => {
                    live.insert(s);
                    let policy = if optimized { Policy::Optimized } else { Policy::Standard };
                    Input::Open { session: SessionId(s), root: *blocks[0].cid(), policy }
                }
                Op::Close(s) => {
                    live.remove(&s);
                    open.retain(|(session, _), ()| *session != s);
                    Input::Close { session: SessionId(s) }
                }
                Op::Want(s, b, urgent) => {
                    if live.contains(&s) && urgent { open.insert((s, b), ()); }
                    Input::Want { session: SessionId(s), cid: *blocks[b].cid(), size: None, urgent }
                }
                Op::Unwant(s, b) => { open.remove(&(s, b)); Input::Unwant { session: SessionId(s), cid: *blocks[b].cid() } }
                Op::Demote(s, b) => { open.remove(&(s, b)); Input::Demote { session: SessionId(s), cid: *blocks[b].cid() } }
                Op::Connect(p) => exchange(ExchangeEvent::Connected {
                    peer: ids[p], transport: if p % 2 == 0 { Transport::Http } else { Transport::BitswapTcp }, address: libp2p::Multiaddr::empty(), dial: None }),
                Op::Disconnect(p) => exchange(ExchangeEvent::Disconnected { peer: ids[p] }),
                Op::Have(p, b) => exchange(ExchangeEvent::Have { peer: ids[p], cid: *blocks[b].cid() }),
                Op::DontHave(p, b) => exchange(ExchangeEvent::DontHave { peer: ids[p], cid: *blocks[b].cid() }),
                Op::Block(p, b) => exchange(ExchangeEvent::Block { peer: ids[p], block: blocks[b].clone(), wire_bytes: 640, arrival: Arrival::now() }),
                Op::End(p, b, bytes) => exchange(ExchangeEvent::End { peer: ids[p], cid: *blocks[b].cid(), bytes, arrival: Arrival::now() }),
                Op::Invalid(p) => exchange(ExchangeEvent::Invalid { peer: ids[p], reason: "test" }),
                Op::Progress(p) => exchange(ExchangeEvent::Progress { peer: ids[p], bytes: 5_000, arrival: Arrival::now() }),
                Op::SendFailed(p, b) => exchange(ExchangeEvent::SendFailed { peer: ids[p], cids: vec![*blocks[b].cid()] }),
                Op::Wait(ms) => {
                    let until = now + Duration::from_millis(ms);
                    while let Some(next) = scheduler.next_deadline().filter(|next| *next <= until) {
                        now = now.max(next);
                        scheduler.poll(now, &mut actions);
                        scheduler.check_invariants();
                    }
                    now = until;
                    Input::Unwant { session: SessionId(99), cid: *blocks[0].cid() }
                }
            };
            scheduler.on(input, now);
            scheduler.check_invariants();
            scheduler.poll(now, &mut actions);
            scheduler.check_invariants();
            let mut routes = Vec::new();
            for action in actions.drain(..) {
                match action {
                    Action::Deliver { sessions, block } => {
                        for session in sessions { open.remove(&(session.0, number(block.cid()))); }
                    }
                    Action::Fail { session, cid, .. } => { open.remove(&(session.0, number(&cid))); }
                    Action::StartRoute { route, .. } => routes.push(route),
                    _ => {}
                }
            }
            for route in routes {
                scheduler.on(Input::RouteEnded { route }, now);
                scheduler.check_invariants();
            }
        }
        prop_assert!(open.is_empty(), "waits that never ended: {:?}", open.keys());
    }
}
