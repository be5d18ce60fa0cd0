//! POSIX TAR (ustar) with pax records where the plain header has no room: other letters than ASCII, long names, 8 GiB.

use tar::{EntryType, Header};

use super::{Head, Kind};

/// The unit of a TAR, in bytes.
const BLOCK: usize = 512;
/// Room for a name, or a link's target, in the header.
const NAME: usize = 100;
/// The largest size that eleven octal digits say.
const MAX_SIZE: u64 = 0o777_7777_7777;

/// Everything before the bytes of an entry.
pub(super) fn head(entry: &Head<'_>) -> Vec<u8> {
    let (kind, size, mode, target) = match entry.kind {
        Kind::File(size) => (EntryType::Regular, size, 0o644, ""),
        Kind::Directory => (EntryType::Directory, 0, 0o755, ""),
        Kind::Symlink(target) => (EntryType::Symlink, 0, 0o777, target),
    };
    let path = if kind == EntryType::Directory { format!("{}/", entry.path) } else { entry.path.to_owned() };
    let mut records = Vec::new();
    for (key, text) in [("path", &*path), ("linkpath", target)] {
        if text.len() > NAME || !text.is_ascii() {
            records.extend(record(key, text));
        }
    }
    if size > MAX_SIZE {
        records.extend(record("size", &size.to_string()));
    }
    let mtime = entry.mtime.map_or(0, |mtime| u64::try_from(mtime.secs).unwrap_or(0)).min(MAX_SIZE);
    let mut out = Vec::new();
    if !records.is_empty() {
        let pax = plain(EntryType::XHeader, "pax", "", records.len() as u64, 0o644, 0);
        out.extend_from_slice(pax.as_bytes());
        let padding = padding(records.len() as u64);
        out.extend(records);
        out.extend(padding);
    }
    let mode = entry.mode.map_or(mode, |mode| mode & 0o7777);
    out.extend_from_slice(plain(kind, &path, target, size, mode, mtime).as_bytes());
    out
}

/// What fills the last block of an entry of `size` bytes.
pub(super) fn padding(size: u64) -> Vec<u8> {
    let over = (size % BLOCK as u64) as usize;
    vec![0; if over == 0 { 0 } else { BLOCK - over }]
}

/// The end of the archive.
pub(super) fn end() -> Vec<u8> {
    vec![0; 2 * BLOCK]
}

fn plain(kind: EntryType, path: &str, target: &str, size: u64, mode: u32, mtime: u64) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_size(size.min(MAX_SIZE));
    header.set_mode(mode);
    header.set_mtime(mtime);
    header.set_uid(0);
    header.set_gid(0);
    if let Some(ustar) = header.as_ustar_mut() {
        copy(path, &mut ustar.name);
        copy(target, &mut ustar.linkname);
    }
    header.set_cksum();
    header
}

/// An ASCII copy, as far as there is room: readers that know pax do not look at it.
fn copy(text: &str, into: &mut [u8]) {
    let ascii = text.chars().map(|c| if c.is_ascii() { c as u8 } else { b'_' });
    into.iter_mut().zip(ascii).for_each(|(byte, c)| *byte = c);
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn record(key: &str, value: &str) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    format!("{length} {key}={value}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_records_count_themselves() {
        for n in [1, 80, 90, 91, 92, 93, 980, 990, 991] {
            let record = record("path", &"x".repeat(n));
            let digits: String = record.iter().take_while(|b| **b != b' ').map(|b| *b as char).collect();
            assert_eq!(digits.parse::<usize>().unwrap(), record.len(), "{n}");
        }
    }

    #[test]
    fn names_of_any_length_and_letters_come_back() {
        for path in ["cid/a.txt".to_owned(), format!("cid/{}", "x".repeat(300)), "cid/ą/źł.txt".to_owned()] {
            let mut out = head(&Head { path: &path, kind: Kind::File(3), mode: Some(0o600), mtime: None });
            out.extend_from_slice(b"abc");
            out.extend(padding(3));
            out.extend(end());
            let mut archive = tar::Archive::new(&out[..]);
            let entry = archive.entries().unwrap().next().unwrap().unwrap();
            assert_eq!(&*entry.path_bytes(), path.as_bytes());
            assert_eq!((entry.size(), entry.header().mode().unwrap()), (3, 0o600));
        }
    }
}
