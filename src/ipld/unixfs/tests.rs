use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::ipld::HashCode;
use crate::ipld::dag_pb::PbLink;
use crate::ipld::wire::put_varint_field;

fn leaf(text: &str) -> Cid {
    *Block::encode(codec::RAW, HashCode::Sha2_256, Bytes::copy_from_slice(text.as_bytes())).unwrap().cid()
}

fn link(name: &str) -> PbLink {
    PbLink { cid: leaf(name), name: Some(name.to_owned()), tsize: Some(1) }
}

fn pb(links: Vec<PbLink>, data: Bytes) -> Result<Node, UnixFsError> {
    let block =
        Block::encode(codec::DAG_PB, HashCode::Sha2_256, PbNode { links, data: Some(data) }.encode()).expect("small");
    decode(&block)
}

fn file(blocksizes: &[u64], filesize: u64, inline: &'static [u8]) -> Bytes {
    Data {
        data: Some(Bytes::from_static(inline)),
        filesize: Some(filesize),
        blocksizes: blocksizes.to_vec(),
        ..Data::new(DataType::File)
    }
    .encode()
}

fn hamt(fanout: u64, field: &[u8]) -> Bytes {
    Data {
        data: Some(Bytes::copy_from_slice(field)),
        hash_type: Some(hamt::MURMUR3_X64_64),
        fanout: Some(fanout),
        ..Data::new(DataType::HamtShard)
    }
    .encode()
}

#[test]
fn a_raw_block_is_a_file_that_shares_its_memory() {
    let block = Block::encode(codec::RAW, HashCode::Sha2_256, Bytes::from(vec![1u8; 64])).unwrap();
    let Node::File(file) = decode(&block).unwrap() else { panic!("not a file") };
    assert_eq!((file.size, file.children.len(), file.mode, file.mtime), (64, 0, None, None));
    assert_eq!(file.data.as_ptr(), block.data().as_ptr());
}

#[test]
fn a_files_sizes_must_be_those_of_its_parts() {
    let parts = || vec![link(""), link("")];
    let Node::File(read) = pb(parts(), file(&[5, 6], 13, b"ab")).unwrap() else { panic!("not a file") };
    assert_eq!(read.size, 13);
    assert_eq!(read.data, Bytes::from_static(b"ab"));
    assert_eq!(read.children[1], FileChild { cid: leaf(""), size: 6 });
    assert_eq!(pb(parts(), file(&[5], 7, b"ab")), Err(UnixFsError::BlockSizes { links: 2, sizes: 1 }));
    assert_eq!(pb(vec![], file(&[5], 7, b"ab")), Err(UnixFsError::BlockSizes { links: 0, sizes: 1 }));
    assert_eq!(pb(parts(), file(&[5, 6], 12, b"ab")), Err(UnixFsError::FileSize { claimed: 12, computed: 13 }));
    assert_eq!(pb(parts(), file(&[u64::MAX, 1], 0, b"")), Err(UnixFsError::SizeOverflow));
    assert_eq!(pb(parts(), file(&[u64::MAX, 0], 0, b"a")), Err(UnixFsError::SizeOverflow));
}

#[test]
fn a_files_parts_have_no_names() {
    assert_eq!(pb(vec![link("x")], file(&[1], 1, b"")), Err(UnixFsError::NamedChunk));
    let nameless = PbLink { name: None, ..link("") };
    assert!(pb(vec![nameless], file(&[1], 1, b"")).is_ok());
}

#[test]
fn packed_block_sizes_are_read_too() {
    let data = Bytes::from_static(&[0x08, 0x02, 0x18, 0x0b, 0x22, 0x02, 0x05, 0x06]);
    let Node::File(read) = pb(vec![link(""), link("")], data).unwrap() else { panic!("not a file") };
    assert_eq!(read.children.iter().map(|child| child.size).collect::<Vec<_>>(), [5, 6]);
}

// `ipfs add --cid-version=1 --raw-leaves=false --mode=0644 --mtime=1234567890 --mtime-nsecs=42` of `hello\n`, and a
// directory with `--mode=0755 --mtime=-5`, by Kubo 0.43.0.
#[test]
fn mode_and_mtime_are_read_as_kubo_writes_them() {
    let block =
        |text| Block::encode(codec::DAG_PB, HashCode::Sha2_256, Bytes::from(hex::decode(text).unwrap())).unwrap();
    let one = block("0a1c0802120668656c6c6f0a180638a403420b08d285d8cc04152a000000");
    assert_eq!(one.cid().to_string(), "bafybeicasjgrhvwcpfvb24yy5vlxzq2gnnwapaog4njmlmdsp7rbkpjt7i");
    let Node::File(read) = decode(&one).unwrap() else { panic!("not a file") };
    assert_eq!((read.mode, read.mtime), (Some(0o644), Some(Mtime { secs: 1_234_567_890, nanos: 42 })));
    assert_eq!(read.data, Bytes::from_static(b"hello\n"));
    let dir = block("0a12080138ed03420b08fbffffffffffffffff01");
    assert_eq!(dir.cid().to_string(), "bafybeibrqaopkvjdml5gxry2vuhg7ivpcmx7zecwatfvxnsqltxgd4sdnq");
    let Node::Directory(read) = decode(&dir).unwrap() else { panic!("not a directory") };
    assert_eq!((read.mode, read.mtime), (Some(0o755), Some(Mtime { secs: -5, nanos: 0 })));
}

#[test]
fn mode_keeps_its_low_twelve_bits_only() {
    let mut data = Vec::from(Data::new(DataType::Directory).encode());
    put_varint_field(&mut data, 7, 0o100_755 | 1 << 40);
    let Node::Directory(dir) = pb(vec![], data.into()).unwrap() else { panic!("not a directory") };
    assert_eq!((dir.mode, dir.mtime), (Some(0o755), None));
}

#[rstest]
#[case(&[0x42, 0x00])] // no seconds
#[case(&[0x42, 0x07, 0x08, 0x01, 0x15, 0x00, 0xca, 0x9a, 0x3b])] // 1,000,000,000 ns
#[case(&[0x42, 0x04, 0x08, 0x01, 0x10, 0x01])] // nanoseconds as a varint
fn a_bad_mtime_is_refused(#[case] field: &[u8]) {
    assert_eq!(pb(vec![], Bytes::from([&[0x08, 0x01], field].concat())), Err(UnixFsError::Mtime));
}

#[test]
fn a_directory_has_each_name_once() {
    let data = Data::new(DataType::Directory).encode();
    let Node::Directory(dir) = pb(vec![link("b"), link("a")], data.clone()).unwrap() else { panic!("not a directory") };
    assert_eq!(dir.entries.iter().map(|entry| &entry.name[..]).collect::<Vec<_>>(), ["b", "a"]);
    assert_eq!(pb(vec![link("a"), link("b"), link("a")], data), Err(UnixFsError::DuplicateName("a".to_owned())));
}

#[test]
fn a_symlink_has_a_target_and_no_children() {
    let data = Data { data: Some(Bytes::from_static(b"../x")), ..Data::new(DataType::Symlink) }.encode();
    let Node::Symlink(symlink) = pb(vec![], data.clone()).unwrap() else { panic!("not a symlink") };
    assert_eq!(symlink.target, "../x");
    assert_eq!(pb(vec![link("a")], data), Err(UnixFsError::SymlinkChildren));
    let data = Data { data: Some(Bytes::from_static(b"\xff")), ..Data::new(DataType::Symlink) }.encode();
    assert_eq!(pb(vec![], data), Err(UnixFsError::SymlinkTarget));
}

#[rstest]
#[case(&[], UnixFsError::NoType)]
#[case(&[0x08, 0x06], UnixFsError::UnknownType(6))]
#[case(&[0x08, 0x03], UnixFsError::UnknownType(3))]
#[case(&[0x08, 0x01, 0x08, 0x01], UnixFsError::Field(1))]
#[case(&[0x0a, 0x00], UnixFsError::Field(1))]
#[case(&[0x08, 0x02, 0x12, 0x05, 0x00], UnixFsError::Wire(WireError::Truncated))]
fn data_that_is_not_unixfs_is_refused(#[case] data: &[u8], #[case] error: UnixFsError) {
    assert_eq!(pb(vec![], Bytes::copy_from_slice(data)), Err(error));
}

#[test]
fn other_codecs_and_bare_nodes_are_not_unixfs() {
    let cbor = Block::encode(codec::DAG_CBOR, HashCode::Sha2_256, Bytes::from_static(&[0xa0])).unwrap();
    assert_eq!(decode(&cbor), Err(UnixFsError::Codec(codec::DAG_CBOR)));
    let bare = Block::encode(codec::DAG_PB, HashCode::Sha2_256, Bytes::new()).unwrap();
    assert_eq!(decode(&bare), Err(UnixFsError::NoData));
}

// CVE-2023-23625, CVE-2023-23631: a fanout from the wire sized memory.
#[rstest]
#[case(0)]
#[case(1)]
#[case(3)]
#[case(4)]
#[case(7)]
#[case(24)]
#[case(2048)]
#[case(1 << 20)]
#[case(1 << 32)]
#[case(1 << 63)]
#[case(u64::MAX)] // -1 as it travels
fn a_hamt_fanout_that_the_format_does_not_have_is_refused(#[case] fanout: u64) {
    assert_eq!(pb(vec![], hamt(fanout, &[])), Err(UnixFsError::Fanout(fanout)));
}

// CVE-2023-23626: a bit field that does not fit its fanout.
#[test]
fn a_hamt_bit_field_must_fit_the_fanout_and_the_links() {
    assert_eq!(pb(vec![], hamt(8, &[0, 0])), Err(UnixFsError::BitfieldLength { bytes: 2, fanout: 8 }));
    assert_eq!(pb(vec![], hamt(8, &[1])), Err(UnixFsError::BitfieldMismatch));
    assert_eq!(pb(vec![link("1a")], hamt(8, &[1])), Err(UnixFsError::BitfieldMismatch));
    assert_eq!(pb(vec![link("0a"), link("0b")], hamt(8, &[1])), Err(UnixFsError::BitfieldMismatch));
    assert!(pb(vec![link("3a"), link("0b")], hamt(8, &[0b1001])).is_ok(), "any order is read");
    assert!(pb(vec![link("FFa")], hamt(256, &[[0x80].as_slice(), &[0; 31]].concat())).is_ok());
}

#[rstest]
#[case(8, "8a")] // over the fanout
#[case(8, "")]
#[case(256, "0")]
#[case(256, "0a")] // lower case
#[case(256, "+1x")]
#[case(1024, "400a")]
#[case(256, "éa")]
#[case(16, "é")] // the prefix would end inside a character
fn a_hamt_link_without_an_honest_prefix_is_refused(#[case] fanout: u64, #[case] name: &str) {
    assert_eq!(pb(vec![link(name)], hamt(fanout, &[0xff])), Err(UnixFsError::HamtPrefix));
}

#[test]
fn only_murmur3_hashes_hamts() {
    let data = Data { hash_type: Some(0x12), fanout: Some(256), ..Data::new(DataType::HamtShard) }.encode();
    assert_eq!(pb(vec![], data), Err(UnixFsError::HamtHash(0x12)));
}

#[test]
fn a_hamt_is_not_deeper_than_its_hash() {
    let Node::HamtShard(node) = pb(vec![], hamt(256, &[])).unwrap() else { panic!("not a shard") };
    assert_eq!(node.lookup("a", 7), Ok(HamtLookup::Absent));
    assert_eq!(node.lookup("a", 8), Err(UnixFsError::HamtDepth));
    assert_eq!(node.lookup("a", usize::MAX), Err(UnixFsError::HamtDepth));
    assert!(hamt::index_at(0, 1024, 5).is_ok());
    assert_eq!(hamt::index_at(0, 1024, 6), Err(UnixFsError::HamtDepth));
}

#[rstest]
#[case(8, 1)]
#[case(16, 1)]
#[case(32, 2)]
#[case(256, 2)]
#[case(512, 3)]
#[case(1024, 3)]
fn the_prefix_is_as_wide_as_the_last_index(#[case] fanout: u32, #[case] width: usize) {
    assert_eq!(hamt::prefix_width(fanout), width);
    assert_eq!(format!("{:X}", fanout - 1).len(), width);
}

prop_compose! {
    fn any_data()(
        kind in 0u64..6,
        data in prop::option::of(prop::collection::vec(any::<u8>(), 0..40)),
        filesize: Option<u64>,
        blocksizes: Vec<u64>,
        hash_type: Option<u64>,
        fanout: Option<u64>,
        mode in prop::option::of(0u32..0o10000),
        mtime in prop::option::of((any::<i64>(), 0u32..1_000_000_000)),
    ) -> Data {
        Data {
            kind: DataType::try_from(kind).unwrap(),
            data: data.map(Bytes::from),
            filesize, blocksizes, hash_type, fanout, mode,
            mtime: mtime.map(|(secs, nanos)| Mtime { secs, nanos }),
        }
    }
}

proptest! {
    #[test]
    fn messages_round_trip(data in any_data()) {
        prop_assert_eq!(Data::decode(&data.encode()).unwrap(), data);
    }

    #[test]
    fn any_node_is_read_or_refused_without_panic(
        data in any_data(),
        names in prop::collection::vec("[0-9A-F]{0,3}[a-z]{0,2}", 0..6),
    ) {
        let _ = pb(names.iter().map(|name| link(name)).collect(), data.encode());
    }

    #[test]
    fn any_bytes_are_read_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let _ = pb(vec![], Bytes::from(bytes.clone()));
        let _ = decode(&Block::encode(codec::DAG_PB, HashCode::Sha2_256, Bytes::from(bytes)).unwrap());
    }

    #[test]
    fn any_hamt_node_is_read_or_refused_without_panic(
        fanout in prop::sample::select(vec![8u64, 16, 32, 64, 128, 256, 512, 1024]),
        field in prop::collection::vec(any::<u8>(), 0..40),
        names in prop::collection::vec("[0-9A-F]{1,3}[a-z]{0,2}", 0..6),
        depth in 0usize..30,
    ) {
        if let Ok(Node::HamtShard(node)) = pb(names.iter().map(|name| link(name)).collect(), hamt(fanout, &field)) {
            let _ = node.lookup("name", depth);
            let _ = node.check_position(&[0; 9]);
        }
    }

    #[test]
    fn the_bit_field_of_the_indexes_is_read_as_those_indexes(indexes in prop::collection::btree_set(0u32..256, 0..40)) {
        let links = indexes.iter().map(|index| link(&format!("{index:02X}x"))).collect();
        let field = hamt::bitfield(indexes.iter().copied(), 256);
        let Node::HamtShard(node) = pb(links, hamt(256, &field)).unwrap() else { panic!("not a shard") };
        prop_assert_eq!(node.entries.iter().map(HamtEntry::index).collect::<Vec<_>>(), Vec::from_iter(indexes));
    }
}
