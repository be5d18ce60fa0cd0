//! Issue 5: a list of a million rules is read within 2 s, and a look-up in it takes at most 2 µs. `cargo bench --bench
//! denylist` measures both and fails when either takes longer; `src/denylist/tests.rs` checks the same, smaller, in each run.

use std::hint::black_box;
use std::io::Write as _;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use multihash_codetable::{Code, MultihashDigest};
use tidegate::denylist::{Denylists, Judge, Rules};
use tidegate::ipld::Cid;
use tidegate::ipld::path::ContentPath;

const RULES: u32 = 1_000_000;
const LOADED_WITHIN: Duration = Duration::from_secs(2);
const LOOKED_UP_WITHIN: Duration = Duration::from_micros(2);
/// Look-ups that are timed for the gate, half of them of what is listed.
const LOOK_UPS: u32 = 200_000;

fn cid(n: u32) -> Cid {
    // Local invariant: a SHA-256 fits into 64 bytes.
    Cid::new_v1(0x55, Code::Sha2_256.digest(&n.to_le_bytes()).resize().expect("32 bytes fit"))
}

fn denylist(criterion: &mut Criterion) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    let mut out = std::io::BufWriter::new(file.as_file_mut());
    for n in 0..RULES {
        writeln!(out, "/ipfs/{}", cid(n)).expect("the file can be written");
    }
    out.flush().expect("the file can be written");
    drop(out);
    let files = [file.path().to_owned()];

    let started = Instant::now();
    let lists = Denylists::load(&files).expect("the list is a list");
    let loaded = started.elapsed();
    assert_eq!(lists.rules().len(), RULES as usize);
    let cids: Vec<Cid> = (RULES - LOOK_UPS / 2..RULES + LOOK_UPS / 2).map(cid).collect();
    let started = Instant::now();
    let found = cids.iter().filter(|cid| lists.cid(cid).is_some()).count();
    let each = started.elapsed() / LOOK_UPS;
    assert_eq!(found, (LOOK_UPS / 2) as usize);
    println!(
        "{RULES} rules read in {loaded:?} (at most {LOADED_WITHIN:?}); a look-up takes {each:?} (at most {LOOKED_UP_WITHIN:?})"
    );

    let mut group = criterion.benchmark_group("denylist, a million rules");
    let mut at = cids.iter().cycle();
    group.bench_function("look-up of a CID", |bench| bench.iter(|| lists.cid(black_box(at.next().expect("endless")))));
    let path = ContentPath::of(cid(RULES));
    group.bench_function("verdict about an address", |bench| {
        bench.iter(|| Judge::new(&lists, [black_box(&path).clone()]).verdict().is_ok());
    });
    group.sample_size(10).measurement_time(Duration::from_secs(10));
    group.bench_function("reading", |bench| bench.iter(|| Rules::read(&files).expect("the list is a list").len()));
    group.finish();
    assert!(loaded <= LOADED_WITHIN && each <= LOOKED_UP_WITHIN, "read in {loaded:?}, {each:?} a look-up");
}

criterion_group!(benches, denylist);
criterion_main!(benches);
