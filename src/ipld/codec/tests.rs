use bytes::Bytes;
use proptest::prelude::*;
use rstest::rstest;
use serde::Serialize;

use super::*;
use crate::ipld::HashCode;
use crate::ipld::dag_pb::PbLink;

fn block(codec: u64, bytes: impl Into<Bytes>) -> Block {
    Block::encode(codec, HashCode::Sha2_256, bytes.into()).unwrap()
}

fn cbor(text: &str) -> Result<Vec<Cid>, CodecError> {
    links(&block(DAG_CBOR, hex::decode(text).unwrap()))
}

fn json(text: &str) -> Result<Vec<Cid>, CodecError> {
    links(&block(DAG_JSON, Bytes::copy_from_slice(text.as_bytes())))
}

/// Runs `work` on a thread whose stack would not bear deep recursion.
fn on_a_small_stack<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    std::thread::Builder::new().stack_size(512 * 1024).spawn(work).unwrap().join().unwrap()
}

const KUBO_LINKS: [&str; 2] =
    ["bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku", "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"];

// `ipfs dag put --store-codec dag-cbor` and `dag-json` of one value with two links, by Kubo 0.43.0.
#[test]
fn the_links_of_kubos_cbor_and_json_are_found() {
    let text = r#"{"a":{"/":"bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"},"b":[1,-2,3.5,null,true,{"/":{"bytes":"aGVsbG8"}},{"c":{"/":"QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH"}}]}"#;
    let cbor = block(DAG_CBOR, hex::decode("a26161d82a58250001551220e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b8556162870121fb400c000000000000f6f54568656c6c6fa16163d82a5823001220bfccda787baba32b59c78450ac3d20b633360b43992c77289f9ed46d843561e6").unwrap());
    assert_eq!(cbor.cid().to_string(), "bafyreiaeg2sll3ohu7wb425vvlkwrmj4tieyeze5d4feyqtcogfyqb7st4");
    let json = block(DAG_JSON, Bytes::from_static(text.as_bytes()));
    assert_eq!(json.cid().to_string(), "baguqeeraxi3iv3sikrit3efb665cqecqarvtzxdvypnhv6b53xwwwxhaes5a");
    for found in [links(&cbor).unwrap(), links(&json).unwrap()] {
        assert_eq!(found.iter().map(Cid::to_string).collect::<Vec<_>>(), KUBO_LINKS);
    }
}

#[test]
fn dag_pb_links_come_in_order_and_raw_has_none() {
    let leaf = *block(RAW, Bytes::from_static(b"a")).cid();
    let link = PbLink { cid: leaf, name: None, tsize: None };
    let node = PbNode { links: vec![link.clone(), link], data: None };
    assert_eq!(links(&block(DAG_PB, node.encode())).unwrap(), [leaf, leaf]);
    for codec in [RAW, CBOR, JSON, LIBP2P_KEY, 0x78] {
        assert_eq!(links(&block(codec, Bytes::from_static(&[0xff]))).unwrap(), []);
    }
    assert!(matches!(links(&block(DAG_PB, Bytes::from_static(&[0xff]))), Err(CodecError::DagPb(_))));
}

// CVE-2026-35480: a head that declares 2^30 items, with nothing behind it.
#[rstest]
#[case("9a40000000")] // list of 2^30
#[case("9b7fffffffffffffff")]
#[case("9bffffffffffffffff")]
#[case("ba40000000")] // map of 2^30
#[case("bbffffffffffffffff")]
#[case("5a40000000")] // bytes
#[case("7bffffffffffffffff")] // text
#[case("d82a5b00000000ffffffff")] // link
#[case("82")]
#[case("a1")]
#[case("a16161")]
#[case("")]
#[case("19ff")]
fn declared_sizes_are_not_believed(#[case] text: &str) {
    assert_eq!(cbor(text), Err(CodecError::Truncated));
}

// CVE-2026-42328, RUSTSEC-2019-0025: nesting that ran off the stack.
#[rstest]
#[case(100, true)]
#[case(128, true)]
#[case(129, false)]
#[case(1_000, false)]
#[case(10_000, false)]
#[case(1_000_000, false)]
fn cbor_nesting_is_bounded(#[case] depth: usize, #[case] fits: bool) {
    for open in [&[0x81][..], &[0xa1, 0x61, 0x61]] {
        let mut bytes: Vec<u8> = open.iter().copied().cycle().take(open.len() * depth.min(600_000)).collect();
        bytes.push(0x01);
        let got = on_a_small_stack(move || links(&block(DAG_CBOR, bytes)));
        assert_eq!(got, if fits { Ok(vec![]) } else { Err(CodecError::TooDeep) });
    }
}

#[rstest]
#[case(100, true)]
#[case(127, true)]
#[case(129, false)]
#[case(1_000, false)]
#[case(1_000_000, false)]
fn json_nesting_is_bounded(#[case] depth: usize, #[case] fits: bool) {
    let list = format!("{}1{}", "[".repeat(depth), "]".repeat(depth));
    let depth = depth.min(250_000);
    let map = format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    for text in [list, map] {
        let got = on_a_small_stack(move || json(&text));
        assert_eq!(got, if fits { Ok(vec![]) } else { Err(CodecError::TooDeep) });
    }
}

#[rstest]
#[case("9f01ff", CodecError::Cbor("indefinite lengths are not allowed"))]
#[case("c101", CodecError::Cbor("tag is not the link tag"))]
#[case("d82a01", CodecError::Cbor("link tag without a byte string"))]
#[case("d82a40", CodecError::Cbor("link without its zero byte"))]
#[case("d82a4101", CodecError::Cbor("link without its zero byte"))]
#[case("a10101", CodecError::Cbor("map key is not text"))]
#[case("61ff", CodecError::Cbor("text is not UTF-8"))]
#[case("f800", CodecError::Cbor("simple value is not known"))]
#[case("1c", CodecError::Cbor("reserved additional information"))]
#[case("0000", CodecError::TrailingBytes(1))]
fn cbor_that_is_not_dag_cbor_is_refused(#[case] text: &str, #[case] error: CodecError) {
    assert_eq!(cbor(text), Err(error));
}

#[test]
fn a_cbor_link_to_what_is_not_a_cid_is_refused() {
    assert!(matches!(cbor("d82a420001"), Err(CodecError::Cid(_))));
    assert!(matches!(json(r#"{"/":"not a cid"}"#), Err(CodecError::Cid(_))));
}

#[rstest]
#[case(r#"{"/":{"bytes":"aGk","x":1}}"#)]
#[case(r#"{"/":1}"#)]
#[case(r#"{"/":"bafkqaaa","a":1}"#)]
#[case(r#"{"a":1,"/":"bafkqaaa"}"#)]
#[case("[1")]
#[case("[1] 2")]
#[case("")]
fn json_that_is_not_dag_json_is_refused(#[case] text: &str) {
    assert!(matches!(json(text), Err(CodecError::Json(_))), "{text}");
}

#[test]
fn more_links_than_the_limit_are_refused() {
    let mut bytes = vec![0x9a];
    bytes.extend_from_slice(&(MAX_LINKS as u32 + 1).to_be_bytes());
    for _ in 0..=MAX_LINKS {
        bytes.extend_from_slice(&[0xd8, 0x2a, 0x45, 0x00, 0x01, 0x55, 0x00, 0x00]);
    }
    assert_eq!(links(&block(DAG_CBOR, bytes)), Err(CodecError::TooManyLinks));
}

/// A value with links in it, for the round trip through an encoder that is not ours.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
enum Tree {
    Link(ipld_core::cid::Cid),
    Number(i64),
    Text(String),
    List(Vec<Tree>),
    Map(std::collections::BTreeMap<String, Tree>),
}

impl Tree {
    fn links(&self, out: &mut Vec<String>) {
        match self {
            Self::Link(cid) => out.push(cid.to_string()),
            Self::List(items) => items.iter().for_each(|item| item.links(out)),
            Self::Map(map) => map.values().for_each(|item| item.links(out)),
            Self::Number(_) | Self::Text(_) => {}
        }
    }
}

fn any_tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![
        any::<[u8; 4]>().prop_map(|text| {
            let cid = *block(RAW, Bytes::copy_from_slice(&text)).cid();
            Tree::Link(ipld_core::cid::Cid::try_from(cid.to_bytes()).unwrap())
        }),
        any::<i64>().prop_map(Tree::Number),
        ".{0,30}".prop_map(Tree::Text),
    ];
    leaf.prop_recursive(6, 64, 8, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..8).prop_map(Tree::List),
            prop::collection::btree_map("[a-z]{0,30}", inner, 0..8).prop_map(Tree::Map),
        ]
    })
}

proptest! {
    #[test]
    fn every_link_of_a_cbor_tree_is_found(tree in any_tree()) {
        let bytes = serde_ipld_dagcbor::to_vec(&tree).unwrap();
        let mut expected = Vec::new();
        tree.links(&mut expected);
        let mut found: Vec<String> = links(&block(DAG_CBOR, bytes)).unwrap().iter().map(Cid::to_string).collect();
        // The encoder sorts maps by the length of the key, the test by its bytes.
        expected.sort();
        found.sort();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn any_bytes_are_read_or_refused_without_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for codec in [DAG_PB, DAG_CBOR, DAG_JSON] {
            let _ = links(&block(codec, bytes.clone()));
        }
    }

    #[test]
    fn any_json_text_is_read_or_refused_without_panic(text in r#"[\[\]{}":,/a1. ]{0,60}"#) {
        let _ = json(&text);
    }
}
