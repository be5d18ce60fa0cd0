//! Faults in the middle of a transfer, peers that misbehave, a peer that comes late, and fairness.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::{Gathered, Options, lingers, measure, resumed, tell, verify, warm_up};
use crate::cell::Sample;
use crate::client;
use crate::contender::Contender;
use crate::net::emulator::{Change, Emulator};
use crate::net::link::Loss;
use crate::scenario::{DEGRADED_MBIT, Fault, Scenario};
use crate::stats::jain;
use crate::world::World;

/// Bytes on the wire for each of content, at the least: 1500 / 1448.
const WIRE: f64 = 1.036;
/// Between looks at what came down.
const LOOK: Duration = Duration::from_millis(1);
/// A link is used when this much came down it: more than a handshake and questions.
const USED_BYTES: u64 = 64 << 10;
/// Transports find out that a link is whole again.
const HEAL: Duration = Duration::from_secs(2);
const JOIN_SHARE: f64 = 0.1;

/// What is done when a share of the content has come down, by a thread that watches the wire: the same moment for every
/// contender, whatever it has given to its reader by then.
struct Trigger {
    over: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Trigger {
    fn new(emulator: Arc<Emulator>, bytes: u64, strike: impl FnOnce(&AtomicBool) + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let (stop, before) = (over.clone(), emulator.totals().down_bytes());
        let thread = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if (emulator.totals().down_bytes() - before) as f64 >= bytes as f64 * WIRE {
                    return strike(&stop);
                }
                std::thread::sleep(LOOK);
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Trigger {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Our standard policy waits ten seconds for a silent peer: too long for a quick look.
fn left_out(name: &str, world: &World, options: &Options) -> bool {
    options.quick && name == "tidegate-standard" || lingers(name, &world.set, options)
}

/// A fault while a transfer runs.
pub(super) fn fault(
    world: &mut World,
    contenders: &mut [Box<dyn Contender>],
    fault: Fault,
    bytes: u64,
    options: &Options,
    out: &mut Gathered,
) -> io::Result<()> {
    if resumed(out, options, Scenario::Robust, &world.set.name, bytes, Some(fault.as_str())) {
        return Ok(());
    }
    warm_up(world, contenders)?;
    let bound_ms = Some(fault.bound(&world.set, bytes) * 1e3);
    for iteration in 0..options.iterations.unwrap_or(if options.quick { 1 } else { 10 }) {
        let made = world.file(bytes)?;
        for turn in 0..contenders.len() {
            let place = (turn + iteration) % contenders.len();
            let contender = &mut contenders[place];
            if contender.host().is_none() || left_out(contender.name(), world, options) {
                continue;
            }
            let emulator = world.star.emulator.clone();
            if let Some(loss) = fault.loss() {
                (1..world.set.links.len()).for_each(|link| emulator.change(Change::Loss(link, loss)));
            }
            if fault == Fault::Joins {
                emulator.change(Change::Stall(0));
            }
            let fast = world.set.links[0].mbit;
            let change = match fault {
                Fault::Silent => Some(Change::Stall(0)),
                Fault::Dead => Some(Change::Cut(0, true)),
                Fault::Degraded => Some(Change::Rate(0, DEGRADED_MBIT)),
                Fault::Joins => Some(Change::Rate(0, fast)),
                Fault::Lossy | Fault::Bursts => None,
            };
            let trigger = fault.at().zip(change).map(|(share, change)| {
                let wire = emulator.clone();
                Trigger::new(emulator.clone(), (share * bytes as f64) as u64, move |_| wire.change(change))
            });
            let fresh = Sample {
                fault: Some(fault.as_str()),
                bound_ms,
                ..Sample::new(Scenario::Robust, &world.set.name, bytes, contender.name(), iteration)
            };
            let sample = measure(world, contender.as_mut(), &made.content, fresh, options);
            drop(trigger);
            out.samples.push(sample);
            emulator.change(Change::Cut(0, false));
            emulator.change(Change::Rate(0, fast));
            (0..world.set.links.len()).for_each(|link| emulator.change(Change::Loss(link, Loss::None)));
            std::thread::sleep(HEAL);
            contender.check()?;
        }
        world.forget(&made);
        warm_up(world, contenders)?;
    }
    tell(out, Scenario::Robust, &world.set.name, bytes, Some(fault.as_str()));
    Ok(())
}

/// A transfer beside peers that misbehave or come late. Each contender is started afresh for each fetch and warmed on
/// content that all peers serve well: what it learns of a bad peer, it learns in the fetch that is timed.
pub(super) fn adverse(world: &mut World, bytes: u64, options: &Options, out: &mut Gathered) -> io::Result<()> {
    if resumed(out, options, Scenario::Robust, &world.set.name, bytes, None) {
        return Ok(());
    }
    let bound_ms = Some(world.set.bound(bytes) * 1e3);
    for iteration in 0..options.iterations.unwrap_or(if options.quick { 1 } else { 10 }) {
        let made = world.file(bytes)?;
        for turn in 0..options.contenders.len() {
            let name = &options.contenders[(turn + iteration) % options.contenders.len()];
            if left_out(name, world, options) {
                continue;
            }
            let Some(contender) = world.contender(name)? else { continue };
            if contender.host().is_none() {
                continue;
            }
            out.met(contender.as_ref());
            let mut contender = [contender];
            // Forgets what adversaries hold; it is given again.
            warm_up(world, &mut contender)?;
            world.give_adversaries(&made)?;
            let [mut contender] = contender;
            world.adversaries().for_each(|adversary| adversary.reset());
            let fresh = Sample {
                bound_ms,
                ..Sample::new(Scenario::Robust, &world.set.name, bytes, contender.name(), iteration)
            };
            let sample = match contender.swarm().filter(|_| world.late().is_some()) {
                Some(swarm) => late(world, contender.as_mut(), &made.content, fresh, &swarm, options)?,
                None => measure(world, contender.as_mut(), &made.content, fresh, options),
            };
            let asked = world.adversaries().map(|adversary| adversary.ledger()).filter(|ledger| ledger.bad > 0);
            let asked_after_bad = asked.map(|ledger| ledger.asked_after_bad).reduce(|a, b| a + b);
            let total = world.adversaries().map(|adversary| adversary.ledger().asked).reduce(|a, b| a + b);
            out.samples.push(Sample { asked_after_bad, adversary_asked: total, ..sample });
            contender.check()?;
            world.adversaries().for_each(|adversary| adversary.reset());
        }
        world.forget(&made);
    }
    tell(out, Scenario::Robust, &world.set.name, bytes, None);
    Ok(())
}

/// The late provider connects when a tenth has arrived: when is its link used?
fn late(
    world: &World,
    contender: &mut dyn Contender,
    content: &crate::contender::Content,
    fresh: Sample,
    swarm: &str,
    options: &Options,
) -> io::Result<Sample> {
    let Some((place, kubo)) = world.late() else { return Err(io::Error::other("nobody is late")) };
    let emulator = world.star.emulator.clone();
    let connect = kubo.connecting(swarm);
    let used: Arc<std::sync::Mutex<Option<io::Result<Option<Duration>>>>> = Arc::default();
    let told = used.clone();
    let trigger = Trigger::new(emulator.clone(), (JOIN_SHARE * content.bytes as f64) as u64, move |over| {
        let result = connect().map(|()| {
            let (connected, before) = (Instant::now(), emulator.totals().down[place].bytes);
            while emulator.totals().down[place].bytes < before + USED_BYTES {
                if over.load(Ordering::Relaxed) {
                    return None;
                }
                std::thread::sleep(LOOK);
            }
            Some(connected.elapsed())
        });
        *told.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(result);
    });
    let mut sample = measure(world, contender, content, fresh, options);
    drop(trigger);
    // A transfer that ended without it leaves the link unused: there is no figure then, and the row says so.
    let joined = used.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    match joined {
        Some(Ok(time)) => sample.joined_ms = time.map(Sample::ms),
        Some(Err(error)) => return Err(error),
        None => {}
    }
    if let Some(id) = swarm.rsplit('/').next() {
        let _ = kubo.disconnect(id);
    }
    Ok(sample)
}

/// Eight downloads of 20 MB at once: Jain's index of their rates.
pub(super) fn fairness(world: &mut World, contenders: &mut [Box<dyn Contender>], out: &mut Gathered) -> io::Result<()> {
    for contender in contenders {
        let Some(host) = contender.host() else { continue };
        let made: Vec<_> = (0..8).map(|_| world.file(20_000_000)).collect::<io::Result<_>>()?;
        let rates: io::Result<Vec<f64>> = std::thread::scope(|scope| {
            let gateway = &world.star.gateway;
            let all: Vec<_> = made
                .iter()
                .map(|made| {
                    scope.spawn(move || {
                        let path = format!("/ipfs/{}", made.content.cid);
                        let fetched = client::get_in(gateway, host, &path)?;
                        verify(&made.content, fetched).map(|fetched| fetched.bytes as f64 / fetched.total.as_secs_f64())
                    })
                })
                .collect();
            all.into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a client panicked"))))
                .collect()
        });
        made.iter().for_each(|made| world.forget(made));
        let told = match rates.map(|rates| (jain(&rates), rates)) {
            Ok((Some(index), rates)) => {
                let mbit: Vec<String> = rates.iter().map(|rate| format!("{:.1}", rate * 8.0 / 1e6)).collect();
                out.fairness.push((contender.name().to_owned(), index));
                format!("Jain {index:.3} ({} Mbit/s)", mbit.join(", "))
            }
            Ok((None, _)) => "nothing arrived".to_owned(),
            Err(error) => format!("failed: {error}"),
        };
        eprintln!("  fairness {}: {told}", contender.name());
        let name = contender.name();
        out.notes.push(format!("Eight downloads of 20 MB at once on {}, {name}: {told}.", world.set.name));
    }
    Ok(())
}
