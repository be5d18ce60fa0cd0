//! Every CID here is Kubo 0.43.0's own, printed by
//! `ipfs add -rQ --cid-version=1 PATH` (kubo-v1), and by `ipfs config profile apply PROFILE; ipfs add -rQ PATH` for the
//! profiles of IPIP-499, over files with the bytes of [`noise`] and directories as the tests make them again here.

use std::collections::HashMap;

use proptest::prelude::*;
use rstest::rstest;

use super::*;
use crate::ipld::unixfs::{self, HamtLookup, Node};

/// `size` bytes of xorshift64* with seed `1 + size`, little-endian words.
fn noise(size: usize) -> impl Iterator<Item = Bytes> {
    let mut x = 1 + size as u64;
    let mut left = size;
    std::iter::from_fn(move || {
        let now = left.min(64 * 1024 * 8);
        left -= now;
        let mut bytes = Vec::with_capacity(now + 8);
        while bytes.len() < now {
            x ^= x >> 12;
            x ^= x << 25;
            x ^= x >> 27;
            bytes.extend_from_slice(&x.wrapping_mul(0x2545_F491_4F6C_DD1D).to_le_bytes());
        }
        bytes.truncate(now);
        (now > 0).then(|| Bytes::from(bytes))
    })
}

fn build(profile: &Profile, parts: impl Iterator<Item = Bytes>, mut on_block: impl FnMut(Block)) -> Built {
    let mut builder = FileBuilder::new(profile);
    for part in parts {
        builder.push(part).into_iter().for_each(&mut on_block);
    }
    let (blocks, built) = builder.finish();
    blocks.into_iter().for_each(on_block);
    built
}

fn file(profile: &Profile, text: &str) -> Built {
    build(profile, std::iter::once(Bytes::copy_from_slice(text.as_bytes())), |_| {})
}

fn directory(profile: &Profile, files: impl Iterator<Item = (String, String)>) -> (Vec<Block>, Built) {
    let mut builder = DirBuilder::new(profile);
    for (name, text) in files {
        let built = file(profile, &text);
        builder.add(&name, built.cid, built.tsize).unwrap();
    }
    builder.finish().unwrap()
}

fn numbered(count: usize, width: usize) -> impl Iterator<Item = (String, String)> {
    (0..count).map(move |i| (format!("file-{i:0width$}.txt"), format!("file {i}\n")))
}

fn one_byte_files(names: impl Iterator<Item = String>) -> impl Iterator<Item = (String, String)> {
    names.map(|name| (name, "x".to_owned()))
}

#[rstest]
#[case(0, "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku")]
#[case(1, "bafkreihhvqdymzuob7ypak3cxucpix7wg36yfw3dweiemaojoxoaaxz2m4")]
#[case(262_143, "bafkreicdw4nttcxotp7c7s6wes4s5xt5h6fweyj6aoi6mi4n5oqqztutka")]
#[case(262_144, "bafkreieimzap5wwxsdaxo56ggwy35spbyzmzheckhcqiehvvydbt6nv5pe")]
#[case(262_145, "bafybeiecu63kwdfc4bydqke5xld32dtrfbpmxt3ezc2r7rlc5ccfiqaufe")]
#[case(1_048_575, "bafybeibanjvr65zbvp5aknaygtrvf6eeitvrka6igtirhgmvazgtsvyxie")]
#[case(1_048_576, "bafybeiezoeqilozaehg4z3tkoseso75dg3mlsm2jqkg55bphybpwkg5tky")]
#[case(1_048_577, "bafybeighebm6vksdha4g75kusr7ivvtwpfoki3oltpa3l2h4cf7qvwhtqe")]
#[case(5_000_000, "bafybeic6sygz5k24mqy4m6gcb7bwbgjfty4776kmtu5skigl7o6zhsya5u")]
#[case(100_000_000, "bafybeicehmi4rb5ypooifks3pfan6p2nxh5lg4ci5fhbh3gzmbzmg6qylu")]
fn files_have_the_cids_of_kubo(#[case] size: usize, #[case] cid: &str) {
    let built = build(&Profile::KUBO_V1, noise(size), |_| {});
    assert_eq!(built.cid.to_string(), cid);
    assert_eq!(built.file_size, size as u64);
}

#[rstest]
#[case(0, "QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH")]
#[case(1, "QmQQuBq3HaJoiQqVkQMHPUwwakJRwVV2XcPZssVkxFUKiF")]
#[case(262_144, "QmSfH6MBmoZPwZyEn2xs1wVA5qSqccvDPLVLEsbUeSmBwL")]
#[case(262_145, "QmadENHX58vZhtUPkzskhhTjXtUpBcavBtxUwevp5psZdP")]
#[case(1_048_577, "QmbwWGSpo8yxHPh3F9gZQp2bCLhbUS3MK654AcrmDBVJ6s")]
#[case(5_000_000, "QmaePd1pD94fyhpSmQxcYXDXU8BCRiPPSnbXzdnN4iMW97")]
#[case(100_000_000, "QmTFbG2bok6To59ws4gbHxv1jF4v5etatgoZQ2NUQunsCH")]
fn files_of_the_2015_profile_have_the_cids_of_kubo(#[case] size: usize, #[case] cid: &str) {
    assert_eq!(build(&Profile::UNIXFS_V0_2015, noise(size), |_| {}).cid.to_string(), cid);
}

#[rstest]
#[case(262_145, "bafkreic32ytmgnqbxsahwmunweewak5joq4ru7gkapmh73jpcukihtsi6a")]
#[case(1_048_576, "bafkreiheygkqfryefff2zsxncstsd4vvbrjj2shdq2v74d4wrxbe27ebcq")]
#[case(1_048_577, "bafybeigvpxhyfecmfzc3b2bxkqvsetf7lkpqxp4aavcn3rywbw6twnr3f4")]
#[case(5_000_000, "bafybeidyzkgaxlyipbqgcmwutgzlcish44geankic2b5mjelret2qevlda")]
fn files_of_the_2025_profile_have_the_cids_of_kubo(#[case] size: usize, #[case] cid: &str) {
    assert_eq!(build(&Profile::UNIXFS_V1_2025, noise(size), |_| {}).cid.to_string(), cid);
}

#[rstest]
#[case(Profile::KUBO_V1, "bafybeibpigia2gf2ya7tzyop4k6vj5q72asuz6al7gv2w5oss656m4xzfq")]
#[case(Profile::UNIXFS_V0_2015, "QmVm513Ym8j6rtCnZnSPBeJw5oY4woinm9tuxrsVSk1WhW")]
#[case(Profile::UNIXFS_V1_2025, "bafybeibpigia2gf2ya7tzyop4k6vj5q72asuz6al7gv2w5oss656m4xzfq")]
fn a_directory_of_1000_files_has_the_cid_of_kubo(#[case] profile: Profile, #[case] cid: &str) {
    let (blocks, built) = directory(&profile, numbered(1000, 4));
    assert_eq!(built.cid.to_string(), cid);
    let Node::Directory(dir) = unixfs::decode(blocks.last().unwrap()).unwrap() else { panic!("not a directory") };
    assert_eq!(dir.entries.len(), 1000);
    assert_eq!(dir.get("file-0999.txt").unwrap().cid, file(&profile, "file 999\n").cid);
    assert_eq!(dir.get("file-1000.txt"), None);
}

#[test]
fn a_hamt_of_20000_files_has_the_cid_of_kubo_and_finds_every_name() {
    let (blocks, built) = directory(&Profile::KUBO_V1, numbered(20_000, 5));
    assert_eq!(built.cid.to_string(), "bafybeideeizkoi3olrb5qwe2bbydwny4aw6oisdvc3mbrzznlhgxmhugfa");
    let nodes: HashMap<Cid, unixfs::HamtNode> = blocks
        .iter()
        .map(|block| match unixfs::decode(block).unwrap() {
            Node::HamtShard(shard) => (*block.cid(), shard),
            other => panic!("not a shard: {other:?}"),
        })
        .collect();
    let find = |name: &str| {
        let mut at = built.cid;
        for depth in 0.. {
            match nodes[&at].lookup(name, depth).unwrap() {
                HamtLookup::Found(entry) => return Some(entry),
                HamtLookup::Descend(next) => at = next,
                HamtLookup::Absent => return None,
            }
        }
        unreachable!("the graph ends")
    };
    for (name, text) in numbered(20_000, 5) {
        let entry = find(&name).unwrap_or_else(|| panic!("{name} is not found"));
        assert_eq!((entry.name, entry.cid), (name, file(&Profile::KUBO_V1, &text).cid));
    }
    assert_eq!(find("file-20000.txt"), None);
    assert_eq!(find(""), None);

    let mut open = vec![(built.cid, Vec::new())];
    let mut names = 0;
    while let Some((cid, path)) = open.pop() {
        let node = &nodes[&cid];
        node.check_position(&path).unwrap();
        for entry in &node.entries {
            match entry {
                unixfs::HamtEntry::Value { .. } => names += 1,
                unixfs::HamtEntry::Child { index, cid } => open.push((*cid, [&path[..], &[*index]].concat())),
            }
        }
    }
    assert_eq!(names, 20_000);
    let misplaced = nodes[&built.cid].entries.iter().find_map(|entry| match entry {
        unixfs::HamtEntry::Child { index, cid } => Some((*index, nodes[cid].clone())),
        unixfs::HamtEntry::Value { .. } => None,
    });
    let (index, child) = misplaced.unwrap();
    assert!(matches!(child.check_position(&[index ^ 1]), Err(UnixFsError::HamtPosition(_))));
}

#[test]
fn a_hamt_of_20000_files_in_the_2015_profile_has_the_cid_of_kubo() {
    let (_, built) = directory(&Profile::UNIXFS_V0_2015, numbered(20_000, 5));
    assert_eq!(built.cid.to_string(), "Qmf4GFMXivGfiQ7RcEuj5st2dWRKXjjtUECrPcYZirbQvG");
}

/// Directories of exactly the threshold stay in one block, those a byte over are sharded.
#[rstest]
#[case(Profile::KUBO_V1, 4096, 28, "bafybeihxa436ind63rmoa2vgp2nmt4f5ihowsifr7si3wzofgswy4e7nwm", false)]
#[case(Profile::KUBO_V1, 4096, 29, "bafybeibtvjiskupi2e7cxoabufmuzvcu2avxwbhgq5floh5hcihbegup7m", true)]
#[case(Profile::UNIXFS_V0_2015, 4096, 30, "QmaXVduPXb8MRthXjdr88FLhMnNYQXW2VBurX8941jvA5n", false)]
#[case(Profile::UNIXFS_V0_2015, 4096, 31, "QmWk4EmqgyyTSJn2rL82bPrd9BZ3AfHLbkwVq7HjbF1n9F", true)]
fn the_threshold_is_kubos(
    #[case] profile: Profile,
    #[case] count: usize,
    #[case] last_width: usize,
    #[case] cid: &str,
    #[case] sharded: bool,
) {
    let width = if profile == Profile::KUBO_V1 { 28 } else { 30 };
    let names = (0..count - 1).map(|i| format!("{i:0width$}")).chain([format!("{:0last_width$}", count - 1)]);
    let (blocks, built) = directory(&profile, one_byte_files(names));
    assert_eq!(built.cid.to_string(), cid);
    assert_eq!(blocks.len() > 1, sharded);
}

#[rstest]
#[case(16, "bafybeiaqv2lor6zvj6ewpjlwssp37p3kivpynevthoacnkfh3srmtzl5rq")]
#[case(17, "bafybeigrcz4dfvul6wi3ijkumblsgd42nilzbkmxj456ujo6fgpuwab3r4")]
fn the_2025_profile_shards_by_the_size_of_the_block(#[case] last: usize, #[case] cid: &str) {
    let names = (0..3640).map(|i| format!("{i:028}")).chain(["x".repeat(last)]);
    let (blocks, built) = directory(&Profile::UNIXFS_V1_2025, one_byte_files(names));
    assert_eq!(built.cid.to_string(), cid);
    match last {
        16 => assert_eq!(blocks[0].len(), Profile::UNIXFS_V1_2025.shard_threshold),
        _ => assert!(blocks.len() > 1),
    }
}

#[rstest]
#[case(Profile::KUBO_V1, "bafybeibelkj555fytzhxf6ez7mefgqxzckdopkecaa67olv7esw5fw6gt4")]
#[case(Profile::UNIXFS_V0_2015, "QmdFDX3SuFhLXwBXr7Y538fgSQdb4eLYqhUTVhPJWG3QZW")]
fn a_tree_with_a_symlink_and_an_empty_directory_has_the_cid_of_kubo(#[case] profile: Profile, #[case] cid: &str) {
    let (link_block, link) = symlink(&profile, "../a.txt").unwrap();
    let Node::Symlink(read) = unixfs::decode(&link_block).unwrap() else { panic!("not a symlink") };
    assert_eq!(read.target, "../a.txt");
    let (_, empty) = DirBuilder::new(&profile).finish().unwrap();
    let mut sub = DirBuilder::new(&profile);
    let world = file(&profile, "world\n");
    for (name, built) in [("ü b.txt", world), ("link", link), ("empty", empty)] {
        sub.add(name, built.cid, built.tsize).unwrap();
    }
    let (_, sub) = sub.finish().unwrap();
    let mut root = DirBuilder::new(&profile);
    for (name, built) in [("sub", sub), ("a.txt", file(&profile, "hello\n")), ("Z", file(&profile, ""))] {
        root.add(name, built.cid, built.tsize).unwrap();
    }
    assert_eq!(root.finish().unwrap().1.cid.to_string(), cid);
    if profile == Profile::KUBO_V1 {
        assert_eq!(link.cid.to_string(), "bafybeignpr577tcjunbdm5hcpud4a2xcyd7427uwi4hu52wlml7gfv4yoi");
        assert_eq!(empty.cid.to_string(), "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354");
    }
}

#[test]
fn names_that_no_path_can_reach_are_refused() {
    let mut dir = DirBuilder::new(&Profile::default());
    let cid = file(&Profile::default(), "").cid;
    for name in ["", ".", "..", "a/b", "a\0"] {
        assert_eq!(dir.add(name, cid, 0), Err(BuildError::Name(name.to_owned())));
    }
    dir.add("a", cid, 0).unwrap();
    assert_eq!(dir.add("a", cid, 0), Err(BuildError::DuplicateName("a".to_owned())));
}

#[test]
fn profiles_are_found_by_name() {
    for profile in Profile::ALL {
        assert_eq!(profile.to_string().parse::<Profile>().unwrap(), profile);
    }
    assert!("kubo-v2".parse::<Profile>().is_err());
    assert_eq!(Profile::default().name(), "kubo-v1");
}

/// A profile small enough that deep trees need few bytes.
fn tiny(chunk_size: usize, width: usize) -> Profile {
    Profile { chunk_size, width, ..Profile::KUBO_V1 }
}

/// The bytes under `root`, read by way of the parser, iteratively.
fn read_back(root: Cid, blocks: &HashMap<Cid, Block>) -> Vec<u8> {
    let mut out = Vec::new();
    let mut open = vec![(root, None)];
    while let Some((cid, expected)) = open.pop() {
        let Node::File(file) = unixfs::decode(&blocks[&cid]).unwrap() else { panic!("not a file") };
        assert!(expected.is_none_or(|size| size == file.size));
        out.extend_from_slice(&file.data);
        open.extend(file.children.iter().rev().map(|child| (child.cid, Some(child.size))));
    }
    out
}

proptest! {
    #[test]
    fn any_file_reads_back_whatever_the_cuts_and_the_profile(
        content in prop::collection::vec(any::<u8>(), 0..400),
        chunk in 1usize..7,
        width in 2usize..5,
        cut in 1usize..50,
    ) {
        let profile = tiny(chunk, width);
        let mut blocks = HashMap::new();
        let mut open = std::collections::HashSet::new();
        let parts = content.chunks(cut).map(Bytes::copy_from_slice).collect::<Vec<_>>();
        let built = build(&profile, parts.into_iter(), |block| {
            for link in crate::ipld::codec::links(&block).unwrap() {
                assert!(blocks.contains_key(&link), "a parent came before its child");
            }
            open.insert(*block.cid());
            blocks.insert(*block.cid(), block);
        });
        prop_assert_eq!(read_back(built.cid, &blocks), &content[..]);
        prop_assert_eq!(built.file_size, content.len() as u64);
        let whole = build(&profile, std::iter::once(Bytes::from(content)), |_| {});
        prop_assert_eq!(whole, built);
    }

    #[test]
    fn any_hamt_lists_exactly_what_was_added(
        names in prop::collection::btree_set("[a-z]{1,6}", 1..200),
        fanout in prop::sample::select(vec![8u32, 16, 64, 256, 1024]),
    ) {
        let profile = Profile { fanout, shard_threshold: 0, ..Profile::KUBO_V1 };
        let (blocks, built) = directory(&profile, one_byte_files(names.iter().cloned()));
        let blocks: HashMap<Cid, Block> = blocks.into_iter().map(|block| (*block.cid(), block)).collect();
        for name in &names {
            let mut at = built.cid;
            for depth in 0..=64 {
                let Node::HamtShard(node) = unixfs::decode(&blocks[&at]).unwrap() else { panic!("not a shard") };
                match node.lookup(name, depth).unwrap() {
                    HamtLookup::Found(_) => break,
                    HamtLookup::Descend(next) => at = next,
                    HamtLookup::Absent => panic!("{name} is absent"),
                }
            }
        }
    }
}

/// rust-unixfs writes what Kubo does: raw leaves of 256 KiB, 174 links.
#[test]
fn another_implementation_makes_the_same_root() {
    let content: Vec<u8> = noise(600_000).flatten().collect();
    let mut adder = rust_unixfs::file::adder::FileAdder::default();
    let mut theirs = Vec::new();
    let mut rest = &content[..];
    while !rest.is_empty() {
        let (blocks, used) = adder.push(rest);
        theirs.extend(blocks.map(|(cid, bytes)| (cid.to_string(), bytes)));
        rest = &rest[used..];
    }
    theirs.extend(adder.finish().map(|(cid, bytes)| (cid.to_string(), bytes)));
    let mut ours = Vec::new();
    build(&Profile::KUBO_V1, std::iter::once(Bytes::from(content)), |block| {
        ours.push((block.cid().to_string(), block.data().to_vec()));
    });
    assert_eq!(ours.last(), theirs.last());
}
