#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_fuzz::ipld::codec;
use tidegate_fuzz::ipld::unixfs::{self, Node};

fuzz_target!(|data: &[u8]| {
    let Some(block) = tidegate_fuzz::block(codec::DAG_PB, data) else { return };
    match unixfs::decode(&block) {
        Ok(Node::File(file)) => {
            let parts = file.children.iter().map(|child| u128::from(child.size)).sum::<u128>();
            assert_eq!(u128::from(file.size), parts + file.data.len() as u128);
        }
        Ok(Node::Directory(dir)) => {
            for entry in dir.entries.iter().take(8) {
                assert_eq!(dir.get(&entry.name), Some(entry));
            }
        }
        Ok(Node::HamtShard(_) | Node::Symlink(_)) | Err(_) => {}
    }
});
