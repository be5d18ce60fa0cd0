use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::ipld::HashCode;
use crate::ipld::cid::codec;

/// `ipfs dag export bafybeibelkj555fytzhxf6ez7mefgqxzckdopkecaa67olv7esw5fw6gt4` by Kubo 0.43.0: the tree of the
/// builder's tests, seven blocks.
const KUBO_CAR: &str = "3aa265726f6f747381d82a58250001701220245a93def4b89e4f72f899fb085342f91286e7a882003df72ebf24add2dbc69f6776657273696f6e01b60101701220245a93def4b89e4f72f899fb085342f91286e7a882003df72ebf24add2dbc69f122b0a2401551220e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b85512015a1800122f0a24015512205891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be031205612e7478741806122e0a240170122047a0aad67461f23302c738eb56bede88e6587ead17f54ca41a77ab5e90eecbde120373756218b1010a0208012401551220e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b8552a015512205891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be0368656c6c6f0abd010170122047a0aad67461f23302c738eb56bede88e6587ead17f54ca41a77ab5e90eecbde122f0a240170122059948439065f29619ef41280cbb932be52c56d99c5966b65e0111239f098bbef1205656d7074791804122e0a2401701220cd7c7bffcc49a3423674e27d07c06ae2c0ffcd7e96470f4eeacb62fe62d7987212046c696e6b180e12320a2401551220e258d248fda94c63753607f7c4494ee0fcbe92f1a76bfdac795c9d84101eb3171208c3bc20622e74787418060a020801280170122059948439065f29619ef41280cbb932be52c56d99c5966b65e0111239f098bbef0a0208013201701220cd7c7bffcc49a3423674e27d07c06ae2c0ffcd7e96470f4eeacb62fe62d798720a0c080412082e2e2f612e7478742a01551220e258d248fda94c63753607f7c4494ee0fcbe92f1a76bfdac795c9d84101eb317776f726c640a";

fn raw(text: &[u8]) -> Block {
    Block::encode(codec::RAW, HashCode::Sha2_256, Bytes::copy_from_slice(text)).unwrap()
}

fn car(roots: &[Cid], blocks: &[Block]) -> Vec<u8> {
    let sections = blocks.iter().flat_map(frame);
    std::iter::once(header(roots)).chain(sections).flat_map(|part| part.to_vec()).collect()
}

/// A CARv2 around `payload`, with `padding` bytes before it and `index` after.
fn car_v2(payload: &[u8], padding: usize, index: &[u8]) -> Vec<u8> {
    let offset = 51 + padding as u64;
    v2_with(offset, payload.len() as u64, if index.is_empty() { 0 } else { offset + payload.len() as u64 })
        .into_iter()
        .chain(std::iter::repeat_n(0, padding))
        .chain(payload.iter().copied())
        .chain(index.iter().copied())
        .collect()
}

fn v2_with(data: u64, size: u64, index: u64) -> Vec<u8> {
    let mut out = hex::decode("0aa16776657273696f6e02").unwrap();
    out.extend_from_slice(&[0; 16]);
    for number in [data, size, index] {
        out.extend_from_slice(&number.to_le_bytes());
    }
    out
}

fn read_in(bytes: &[u8], piece: usize) -> Result<Vec<CarItem>, CarError> {
    let mut reader = CarReader::new(Limits::default());
    let mut items = Vec::new();
    for part in bytes.chunks(piece.max(1)) {
        reader.push(Bytes::copy_from_slice(part));
        while let Some(item) = reader.next()? {
            items.push(item);
        }
    }
    reader.finish().map(|()| items)
}

fn read(bytes: &[u8]) -> Result<Vec<CarItem>, CarError> {
    read_in(bytes, usize::MAX)
}

fn with_length(length: u64, rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_varint(&mut out, length);
    out.extend_from_slice(rest);
    out
}

#[test]
fn a_car_of_kubo_is_read_and_written_byte_for_byte() {
    let bytes = hex::decode(KUBO_CAR).unwrap();
    let items = read(&bytes).unwrap();
    let [CarItem::Header { roots }, sections @ ..] = &items[..] else { panic!("no header first") };
    assert_eq!(roots[0].to_string(), "bafybeibelkj555fytzhxf6ez7mefgqxzckdopkecaa67olv7esw5fw6gt4");
    let blocks: Vec<Block> = sections
        .iter()
        .map(|item| match item {
            CarItem::Block(block) => block.clone(),
            CarItem::Header { .. } => panic!("two headers"),
        })
        .collect();
    assert_eq!(blocks.len(), 7);
    assert_eq!(car(roots, &blocks), bytes);
    assert_eq!(read_in(&bytes, 1).unwrap(), items);
}

#[test]
fn a_v2_car_gives_the_payload_and_not_the_index() {
    let inner = car(&[*raw(b"a").cid()], &[raw(b"a"), raw(b"b")]);
    let expected = read(&inner).unwrap();
    for padding in [0, 1, 1413] {
        for piece in [1, 7, usize::MAX] {
            assert_eq!(read_in(&car_v2(&inner, padding, b""), piece).unwrap(), expected);
            assert_eq!(read_in(&car_v2(&inner, padding, b"index, not read"), piece).unwrap(), expected);
        }
    }
}

#[rstest]
#[case(0, 100, 0)]
#[case(50, 100, 0)] // inside its own header
#[case(u64::MAX, 100, 0)]
#[case(51, u64::MAX, 0)]
#[case(51, 0, 0)]
#[case(51, 100, 60)] // index inside the payload
#[case(51 + (2 << 20), 100, 0)] // 2 MiB of padding
fn v2_offsets_that_lie_are_refused(#[case] data: u64, #[case] size: u64, #[case] index: u64) {
    assert_eq!(read(&v2_with(data, size, index)), Err(CarError::Offsets));
}

#[test]
fn a_v2_payload_that_ends_inside_a_section_is_refused() {
    let inner = car(&[], &[raw(b"abc")]);
    let mut bytes = v2_with(51, inner.len() as u64 - 1, 0);
    bytes.extend_from_slice(&inner);
    assert_eq!(read(&bytes), Err(CarError::Offsets));
    let short = car_v2(&inner, 0, b"");
    assert_eq!(read(&short[..short.len() - 1]), Err(CarError::Truncated));
}

#[test]
fn a_v2_car_inside_a_v2_car_is_refused() {
    let nested = car_v2(&car_v2(&car(&[], &[]), 0, b""), 0, b"");
    assert_eq!(read(&nested), Err(CarError::Header("not the pragma of version 2")));
}

// GHSA-9x4h-8wgm-8xfg, GHSA-f2gr-7299-487h: lengths that took memory before there were bytes.
#[rstest]
#[case(1 << 63)]
#[case(1 << 30)]
#[case(u64::MAX)]
#[case(1024 * 1024 + 1)]
fn a_header_over_the_limit_is_refused_before_it_arrives(#[case] size: u64) {
    let expected = CarError::HeaderTooLarge { size, limit: 1024 * 1024 };
    assert_eq!(read(&with_length(size, &[0xa2])), Err(expected));
}

#[rstest]
#[case(1 << 63)]
#[case(u64::MAX)]
#[case(2 * 1024 * 1024 + 161)]
fn a_section_over_the_limit_is_refused_before_it_arrives(#[case] size: u64) {
    let bytes = [car(&[], &[]), with_length(size, &[1])].concat();
    assert!(matches!(read(&bytes), Err(CarError::SectionTooLarge { .. })));
}

#[test]
fn the_largest_block_is_read() {
    let block = raw(&vec![7; MAX_BLOCK_SIZE]);
    assert_eq!(read_in(&car(&[], std::slice::from_ref(&block)), 100_000).unwrap()[1], CarItem::Block(block));
}

#[test]
fn a_length_that_is_no_varint_is_refused() {
    assert_eq!(read(&[0xff; 11]), Err(CarError::Varint));
    assert_eq!(read(&[0]), Err(CarError::Empty));
    assert_eq!(read(&[car(&[], &[]), vec![0]].concat()), Err(CarError::Empty));
}

#[test]
fn ten_thousand_roots_are_read_and_one_more_is_refused() {
    let roots = vec![*raw(b"a").cid(); 10_001];
    let read_roots = |count: usize| read(&car(&roots[..count], &[]));
    assert_eq!(read_roots(10_000).unwrap(), [CarItem::Header { roots: roots[..10_000].to_vec() }]);
    assert_eq!(read_roots(10_001), Err(CarError::TooManyRoots(10_000)));
}

#[test]
fn a_declared_count_of_roots_takes_no_memory() {
    // {"roots": <list of 2^30 items>
    let body = [&[0xa2, 0x65][..], b"roots", &[0x9a, 0x40, 0, 0, 0]].concat();
    assert_eq!(read(&with_length(body.len() as u64, &body)), Err(CarError::TooManyRoots(10_000)));
}

#[rstest]
#[case("a1657665727369", CarError::HeaderCbor(CodecError::Truncated))]
#[case("01", CarError::Header("not a map"))]
#[case("a16776657273696f6e01", CarError::Header("no roots"))]
#[case("a16776657273696f6e03", CarError::Version(3))]
#[case("a165726f6f747380", CarError::Header("no version"))]
#[case("a365726f6f74738065726f6f7473806776657273696f6e01", CarError::Header("roots occur twice"))]
#[case("a265726f6f747381016776657273696f6e01", CarError::Header("root is not a link"))]
#[case("a265726f6f7473806776657273696f6e0100", CarError::Header("bytes after the map"))]
#[case("a265726f6f7473806776657273696f6e20", CarError::Header("version is not one number"))]
#[case("bf", CarError::HeaderCbor(CodecError::Cbor("indefinite lengths are not allowed")))]
fn malformed_headers_are_refused(#[case] text: &str, #[case] error: CarError) {
    let body = hex::decode(text).unwrap();
    assert_eq!(read(&with_length(body.len() as u64, &body)), Err(error));
}

#[test]
fn keys_of_the_header_that_are_not_known_are_passed_over() {
    // {"x": [{"y": 1}], "roots": [], "version": 1}
    let body = hex::decode("a3617881a1617901 65726f6f747380 6776657273696f6e01".replace(' ', "")).unwrap();
    assert_eq!(read(&with_length(body.len() as u64, &body)).unwrap(), [CarItem::Header { roots: vec![] }]);
}

#[test]
fn a_block_that_does_not_hash_to_its_cid_ends_the_reader() {
    let mut bytes = car(&[], &[raw(b"good"), raw(b"good"), raw(b"more")]);
    let at = bytes.len() - raw(b"more").data().len() - 1 - raw(b"more").cid().encoded_len() - 1;
    bytes[at] ^= 1;
    let mut reader = CarReader::new(Limits::default());
    reader.push(Bytes::from(bytes));
    assert!(matches!(reader.next(), Ok(Some(CarItem::Header { .. }))));
    assert_eq!(reader.next(), Ok(Some(CarItem::Block(raw(b"good")))));
    assert!(matches!(reader.next(), Err(CarError::Block { index: 1, error: BlockError::Mismatch { .. } })));
    assert_eq!(reader.next(), Err(CarError::Failed));
    assert_eq!(reader.finish(), Err(CarError::Failed));
}

#[test]
fn a_car_cut_anywhere_is_truncated_unless_it_ends_between_sections() {
    let blocks = [raw(b"abc"), raw(b"d")];
    let bytes = car(&[*blocks[0].cid()], &blocks);
    let mut ends = vec![header(&[*blocks[0].cid()]).len()];
    for block in &blocks {
        ends.push(ends[ends.len() - 1] + frame(block).iter().map(Bytes::len).sum::<usize>());
    }
    for end in 0..=bytes.len() {
        assert_eq!(read(&bytes[..end]).is_ok(), ends.contains(&end), "cut at {end}");
    }
}

#[test]
fn a_read_block_does_not_keep_the_whole_input_in_memory() {
    let bytes = Bytes::from(car(&[], &[raw(b"abc"), raw(&[0; 10_000])]));
    let mut reader = CarReader::new(Limits::default());
    reader.push(bytes);
    reader.next().unwrap();
    let Some(CarItem::Block(block)) = reader.next().unwrap() else { panic!("no block") };
    drop(reader);
    assert!(block.into_data().try_into_mut().is_ok_and(|memory| memory.capacity() < 100));
}

proptest! {
    #[test]
    fn cars_round_trip(
        texts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..8),
        roots in 0usize..4,
        piece in 1usize..300,
        padding in prop::option::of(0usize..50),
    ) {
        let blocks: Vec<Block> = texts.iter().map(|text| raw(text)).collect();
        let roots: Vec<Cid> = blocks.iter().take(roots).map(|block| *block.cid()).collect();
        let mut bytes = car(&roots, &blocks);
        if let Some(padding) = padding {
            bytes = car_v2(&bytes, padding, b"index");
        }
        let mut expected = vec![CarItem::Header { roots }];
        expected.extend(blocks.into_iter().map(CarItem::Block));
        prop_assert_eq!(read_in(&bytes, piece).unwrap(), expected);
    }

    #[test]
    fn any_bytes_are_read_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), piece in 1usize..50) {
        let _ = read_in(&bytes, piece);
        let _ = read_in(&[header(&[]).to_vec(), bytes.clone()].concat(), piece);
        let _ = read_in(&[hex::decode("0aa16776657273696f6e02").unwrap(), bytes].concat(), piece);
    }

    #[test]
    fn a_damaged_car_is_read_or_refused_without_panic(at: prop::sample::Index, byte: u8, piece in 1usize..200) {
        let mut bytes = hex::decode(KUBO_CAR).unwrap();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = read_in(&bytes, piece);
    }
}
