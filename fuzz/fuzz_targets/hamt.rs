#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::ipld::dag_pb::{PbLink, PbNode};
use tidegate_fuzz::ipld::unixfs::{self, Data, DataType, HamtLookup, Node, hamt};
use tidegate_fuzz::ipld::{Cid, cid};

// Fanout, bit field, link names and the depth of the lookup, all hostile.
fuzz_target!(|input: (u64, Vec<u8>, Vec<String>, u8)| {
    let (fanout, field, names, depth) = input;
    let Ok(target): Result<Cid, _> = cid::parse("bafkqaaa") else { return };
    let mut data = Data::new(DataType::HamtShard);
    // Every other input has a fanout that is allowed, so that what lies behind that check is reached.
    data.fanout = Some(if fanout % 2 == 0 { 8 << (fanout % 8) } else { fanout });
    data.hash_type = Some(hamt::MURMUR3_X64_64);
    data.data = Some(Bytes::from(field));
    let links = names.iter().map(|name| PbLink { cid: target, name: Some(name.clone()), tsize: None }).collect();
    let Ok(Node::HamtShard(node)) = unixfs::decode_pb(PbNode { links, data: Some(data.encode()) }) else { return };
    assert!(node.entries.len() <= node.fanout as usize);
    let _ = node.check_position(&[0; 20]);
    for name in &names {
        if let Ok(HamtLookup::Found(entry)) = node.lookup(name, usize::from(depth)) {
            assert_eq!(&entry.name, name);
        }
    }
});
