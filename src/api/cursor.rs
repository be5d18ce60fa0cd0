//! Cursors of lists: opaque to clients, the same after a restart, refused when they are not ours.
//!
//! A cursor is base64url of: one byte for the list that it belongs to, the key of the last item, four bytes of a hash
//! over both. The hash keeps a cut, altered or foreign text from silently starting somewhere; it is no secret and need
//! not be one, because a cursor gives nothing that the list does not.

use multihash_codetable::{Code, MultihashDigest};

use super::problem::Problem;

const CHECK: usize = 4;
/// Longer texts are refused unread: a key is a CID (at most 132 bytes) or a number.
const MAX_TEXT: usize = 512;

/// The list that a cursor belongs to; add one with the next number; none is used again for another list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum List {
    Pins = 1,
    Retrievals = 2,
    Tokens = 3,
    Tests = 4,
    Names = 5,
}

/// The cursor that follows the item with this key.
pub fn write(list: List, key: &[u8]) -> String {
    let mut bytes = vec![list as u8];
    bytes.extend_from_slice(key);
    let check = check(&bytes);
    bytes.extend_from_slice(&check);
    multibase::Base::Base64Url.encode(bytes)
}

/// The key in a cursor of this list.
pub fn read(list: List, text: &str) -> Result<Vec<u8>, Problem> {
    let wrong = || {
        Problem::parameter(
            "cursor",
            "this is no cursor of this list: give the next_cursor of the part before, unchanged",
        )
    };
    if text.len() > MAX_TEXT {
        return Err(wrong());
    }
    let mut bytes = multibase::Base::Base64Url.decode(text).map_err(|_| wrong())?;
    // One spelling for each cursor: stray bits at the end would otherwise be ignored.
    if bytes.len() <= CHECK || bytes[0] != list as u8 || multibase::Base::Base64Url.encode(&bytes) != text {
        return Err(wrong());
    }
    let given = bytes.split_off(bytes.len() - CHECK);
    if given != check(&bytes) {
        return Err(wrong());
    }
    bytes.remove(0);
    Ok(bytes)
}

/// For lists whose key is a number.
pub fn write_number(list: List, key: i64) -> String {
    write(list, &key.to_be_bytes())
}

pub fn read_number(list: List, text: &str) -> Result<i64, Problem> {
    let bytes: [u8; 8] =
        read(list, text)?.try_into().map_err(|_| Problem::parameter("cursor", "this is no cursor of this list"))?;
    Ok(i64::from_be_bytes(bytes))
}

fn check(bytes: &[u8]) -> [u8; CHECK] {
    let mut check = [0; CHECK];
    check.copy_from_slice(&Code::Blake3_256.digest(bytes).digest()[..CHECK]);
    check
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cursor_is_the_same_in_every_release() {
        assert_eq!(write_number(List::Retrievals, 1_795_472_654_440_758), "AgAGYPkNxZk2pmyVNQ");
    }

    #[test]
    fn a_cursor_of_another_list_a_cut_one_and_free_text_are_refused() {
        let cursor = write(List::Pins, b"some key");
        assert!(read(List::Tokens, &cursor).is_err());
        assert!(read(List::Pins, &cursor[..cursor.len() - 1]).is_err());
        for text in ["", "1", "bafkqaaa", "AQ", "ü", "====", &"A".repeat(10_000)] {
            assert!(read(List::Pins, text).is_err(), "{text:.20}");
        }
        assert!(read_number(List::Pins, &cursor).is_ok(), "eight bytes are a number");
        assert!(read_number(List::Pins, &write(List::Pins, b"seven..")).is_err());
    }

    proptest! {
        #[test]
        fn every_key_comes_back_and_no_altered_cursor_is_taken(key in prop::collection::vec(any::<u8>(), 0..140), at in any::<prop::sample::Index>(), to in "[A-Za-z0-9_-]") {
            let cursor = write(List::Tokens, &key);
            prop_assert_eq!(read(List::Tokens, &cursor).unwrap(), key);
            let at = at.index(cursor.len());
            let mut altered = cursor.clone();
            altered.replace_range(at..=at, &to);
            prop_assert!(altered == cursor || read(List::Tokens, &altered).is_err());
        }
    }
}
