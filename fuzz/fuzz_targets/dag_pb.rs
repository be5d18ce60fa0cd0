#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::ipld::dag_pb::PbNode;

fuzz_target!(|data: &[u8]| {
    if let Ok(node) = PbNode::decode(&Bytes::copy_from_slice(data)) {
        let bytes = node.encode();
        assert_eq!(bytes.len(), node.encoded_len());
        assert_eq!(PbNode::decode(&bytes).as_ref(), Ok(&node));
    }
});
