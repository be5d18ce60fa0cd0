#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::ipld::codec;
use tidegate_fuzz::ipld::dag_pb::MAX_LINKS;

fuzz_target!(|data: &[u8]| {
    for codec in [codec::DAG_PB, codec::DAG_CBOR, codec::DAG_JSON, codec::RAW] {
        if let Some(Ok(links)) = tidegate_fuzz::block(codec, data).map(|block| codec::links(&block)) {
            assert!(links.len() <= MAX_LINKS);
        }
    }
});
