//! Many small files: a hundred GETs at once, of a hundred files of one directory.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use super::{Gathered, Options, settle, tell, warm_up};
use crate::bound;
use crate::cell::Sample;
use crate::client::{self, Fetched};
use crate::contender::Contender;
use crate::scenario::Scenario;
use crate::world::World;

const FILES: u64 = 100;
const FILE_BYTES: u64 = 20_480;

pub(super) fn run(
    world: &mut World,
    contenders: &mut [Box<dyn Contender>],
    options: &Options,
    out: &mut Gathered,
) -> io::Result<()> {
    warm_up(world, contenders)?;
    let bytes = FILES * FILE_BYTES;
    let bound_ms = Some(bound::bound(bytes, 2, &world.set.honest(), world.set.access_mbit) * 1e3);
    for iteration in 0..options.iterations.unwrap_or(if options.quick { 2 } else { 10 }) {
        let (made, hashes) = world.directory(FILES, FILE_BYTES)?;
        for turn in 0..contenders.len() {
            let place = (turn + iteration) % contenders.len();
            let contender = contenders[place].as_mut();
            let Some(host) = contender.host() else { continue };
            let (cpu, duplicates) = (contender.cpu(), contender.duplicates());
            let wire = world.star.emulator.totals().down_bytes();
            let started = Instant::now();
            let fetched = parallel(world, host, &made.content.cid, hashes.len());
            let total = started.elapsed();
            let (ttfb, error) = match fetched {
                Ok(all) if all.iter().zip(&hashes).all(|(one, hash)| one.status == 200 && one.sha256 == *hash) => {
                    (all.iter().map(|one| one.ttfb).min(), None)
                }
                Ok(_) => (None, Some("wrong bytes".to_owned())),
                Err(error) => (None, Some(error.to_string())),
            };
            settle(world);
            let after = contender.duplicates();
            out.samples.push(Sample {
                cid: made.content.cid.clone(),
                total_ms: Sample::ms(total),
                ttfb_ms: ttfb.map(Sample::ms).unwrap_or_default(),
                wire_ratio: Some((world.star.emulator.totals().down_bytes() - wire) as f64 / bytes as f64),
                cpu_ms: contender.cpu().zip(cpu).map(|(after, before)| Sample::ms(after.saturating_sub(before))),
                duplicate_bytes: after.zip(duplicates).map(|(after, before)| after.saturating_sub(before)),
                peak_memory: contender.peak_memory(),
                error,
                bound_ms,
                ..Sample::new(Scenario::Multi, &world.set.name, bytes, contender.name(), iteration)
            });
            contender.check()?;
        }
    }
    tell(out, Scenario::Multi, &world.set.name, bytes, None);
    Ok(())
}

fn parallel(world: &World, host: SocketAddr, cid: &str, files: usize) -> io::Result<Vec<Fetched>> {
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..files)
            .map(|n| {
                let path = format!("/ipfs/{cid}/{n:04}");
                scope.spawn(move || client::get_in(&world.star.gateway, host, &path))
            })
            .collect();
        all.into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a client panicked"))))
            .collect()
    })
}
