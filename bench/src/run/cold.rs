//! Fresh programs, no connections, no rates; the router is asked when the request comes.

use std::io;

use super::{Gathered, Options, measure, tell};
use crate::cell::Sample;
use crate::scenario::Scenario;
use crate::world::{ROUTER_DELAY, World};

/// Of the S5 bound: a fresh QUIC connection takes two round trips to its first byte, of which T_k has none.
const DIAL_ROUND_TRIPS: f64 = 2.0;

pub(super) fn run(world: &mut World, sizes: &[u64], options: &Options, out: &mut Gathered) -> io::Result<()> {
    let router = world.router()?;
    let nearest = world.set.links.iter().map(|link| link.rtt_ms).fold(f64::INFINITY, f64::min) / 1e3;
    for &bytes in sizes {
        let ahead = ROUTER_DELAY.as_secs_f64() + DIAL_ROUND_TRIPS * nearest;
        let bound_ms = Some((ahead + world.set.bound(bytes)) * 1e3);
        for iteration in 0..options.iterations.unwrap_or(if options.quick { 2 } else { 10 }) {
            let made = world.file(bytes)?;
            for turn in 0..options.contenders.len() {
                let name = &options.contenders[(turn + iteration) % options.contenders.len()];
                let Some(mut contender) = world.cold_contender(name, router)? else { continue };
                out.met(&contender);
                let fresh = Sample { bound_ms, ..Sample::new(Scenario::Cold, &world.set.name, bytes, name, iteration) };
                let sample = measure(world, &mut contender, &made.content, fresh, options);
                out.samples.push(sample);
            }
        }
        tell(out, Scenario::Cold, &world.set.name, bytes, None);
    }
    Ok(())
}
