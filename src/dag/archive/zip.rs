//! ZIP (APPNOTE 6.3.10), stored and not compressed: most of what is large is compressed already, and a server's time is dear.
//! Written here because async_zip's streamed entries have 32-bit descriptors where Zip64 wants 64.

use crc32fast::Hasher;

use super::{Head, Kind};

/// Files of up to so many bytes are written in one piece, their checksum first.
pub(super) const WHOLE: u64 = 1 << 20;
/// What does not fit into a field says so, and the Zip64 field has it.
const IN_ZIP64: u32 = u32::MAX;
/// Names are UTF-8.
const UTF8: u16 = 1 << 11;
/// Checksum and sizes follow the data.
const DESCRIPTOR: u16 = 1 << 3;
/// 1980-01-01, as DOS writes it; the true time is in its own field.
const DOS_DATE: u16 = 0x21;
const UNIX: u16 = 3 << 8;

/// An archive being written. Every method gives the bytes to send.
#[derive(Default)]
pub(super) struct Zip {
    offset: u64,
    entries: u64,
    central: Vec<u8>,
    current: Option<Entry>,
}

struct Entry {
    name: String,
    /// Unix mode with the kind, for the upper half of the external attributes.
    mode: u32,
    mtime: Option<i32>,
    offset: u64,
    size: u64,
    flags: u16,
    crc: Hasher,
    large: bool,
}

impl Zip {
    /// A whole entry.
    pub(super) fn small(&mut self, head: &Head<'_>, data: &[u8]) -> Vec<u8> {
        let mut entry = self.entry(head, UTF8, data.len() as u64);
        entry.crc.update(data);
        let mut out = entry.local(entry.crc.clone().finalize());
        out.extend_from_slice(data);
        self.offset += out.len() as u64;
        self.close(&entry);
        out
    }

    /// The beginning of a file, whose bytes are told to [`data`](Self::data).
    pub(super) fn begin(&mut self, head: &Head<'_>) -> Vec<u8> {
        let size = if let Kind::File(size) = head.kind { size } else { 0 };
        let entry = self.entry(head, UTF8 | DESCRIPTOR, size);
        let out = entry.local(0);
        self.offset += out.len() as u64;
        self.current = Some(entry);
        out
    }

    pub(super) fn data(&mut self, data: &[u8]) {
        self.offset += data.len() as u64;
        if let Some(entry) = &mut self.current {
            entry.crc.update(data);
        }
    }

    pub(super) fn finish(&mut self) -> Vec<u8> {
        let Some(entry) = self.current.take() else { return Vec::new() };
        let mut out = Vec::new();
        put32(&mut out, 0x0807_4b50);
        put32(&mut out, entry.crc.clone().finalize());
        for _ in 0..2 {
            if entry.large { put64(&mut out, entry.size) } else { put32(&mut out, entry.size as u32) }
        }
        self.offset += out.len() as u64;
        self.close(&entry);
        out
    }

    /// The directory at the end.
    pub(super) fn directory(&mut self) -> Vec<u8> {
        let mut out = std::mem::take(&mut self.central);
        let (start, size) = (self.offset, out.len() as u64);
        let large = start >= IN_ZIP64.into() || size >= IN_ZIP64.into() || self.entries >= u16::MAX.into();
        if large {
            put32(&mut out, 0x0606_4b50);
            put64(&mut out, 44);
            put16(&mut out, UNIX | 45);
            put16(&mut out, 45);
            put32(&mut out, 0);
            put32(&mut out, 0);
            for number in [self.entries, self.entries, size, start] {
                put64(&mut out, number);
            }
            put32(&mut out, 0x0706_4b50);
            put32(&mut out, 0);
            put64(&mut out, start + size);
            put32(&mut out, 1);
        }
        put32(&mut out, 0x0605_4b50);
        put32(&mut out, 0);
        for _ in 0..2 {
            put16(&mut out, if large { u16::MAX } else { self.entries as u16 });
        }
        put32(&mut out, if large { IN_ZIP64 } else { size as u32 });
        put32(&mut out, if large { IN_ZIP64 } else { start as u32 });
        put16(&mut out, 0);
        out
    }

    fn entry(&mut self, head: &Head<'_>, flags: u16, size: u64) -> Entry {
        let (kind, mode, end) = match head.kind {
            Kind::File(_) => (0o100_000, 0o644, ""),
            Kind::Directory => (0o040_000, 0o755, "/"),
            Kind::Symlink(_) => (0o120_000, 0o777, ""),
        };
        Entry {
            name: format!("{}{end}", head.path),
            mode: kind | head.mode.map_or(mode, |mode| mode & 0o7777),
            mtime: head.mtime.and_then(|mtime| i32::try_from(mtime.secs).ok()),
            offset: self.offset,
            size,
            flags,
            crc: Hasher::new(),
            large: size >= IN_ZIP64.into(),
        }
    }

    fn close(&mut self, entry: &Entry) {
        self.entries += 1;
        let far = entry.offset >= IN_ZIP64.into();
        let mut extra = entry.time();
        if entry.large || far {
            let numbers: Vec<u64> = [(entry.large, entry.size), (entry.large, entry.size), (far, entry.offset)]
                .into_iter()
                .filter_map(|(is, number)| is.then_some(number))
                .collect();
            put16(&mut extra, 1);
            put16(&mut extra, numbers.len() as u16 * 8);
            numbers.into_iter().for_each(|number| put64(&mut extra, number));
        }
        let size = if entry.large { IN_ZIP64 } else { entry.size as u32 };
        let out = &mut self.central;
        put32(out, 0x0201_4b50);
        put16(out, UNIX | 63);
        put16(out, if entry.large || far { 45 } else { 20 });
        put16(out, entry.flags);
        put16(out, 0);
        put16(out, 0);
        put16(out, DOS_DATE);
        put32(out, entry.crc.clone().finalize());
        put32(out, size);
        put32(out, size);
        put16(out, entry.name.len() as u16);
        put16(out, extra.len() as u16);
        put16(out, 0);
        put16(out, 0);
        put16(out, 0);
        put32(out, entry.mode << 16 | if entry.name.ends_with('/') { 0x10 } else { 0 });
        put32(out, if far { IN_ZIP64 } else { entry.offset as u32 });
        out.extend_from_slice(entry.name.as_bytes());
        out.extend(extra);
    }
}

impl Entry {
    fn local(&self, crc: u32) -> Vec<u8> {
        let later = self.flags & DESCRIPTOR != 0;
        let mut extra = self.time();
        if self.large {
            put16(&mut extra, 1);
            put16(&mut extra, 16);
            put64(&mut extra, if later { 0 } else { self.size });
            put64(&mut extra, if later { 0 } else { self.size });
        }
        let size = match (self.large, later) {
            (true, _) => IN_ZIP64,
            (false, true) => 0,
            (false, false) => self.size as u32,
        };
        let mut out = Vec::with_capacity(64 + self.name.len());
        put32(&mut out, 0x0403_4b50);
        put16(&mut out, if self.large { 45 } else { 20 });
        put16(&mut out, self.flags);
        put16(&mut out, 0);
        put16(&mut out, 0);
        put16(&mut out, DOS_DATE);
        put32(&mut out, crc);
        put32(&mut out, size);
        put32(&mut out, size);
        put16(&mut out, self.name.len() as u16);
        put16(&mut out, extra.len() as u16);
        out.extend_from_slice(self.name.as_bytes());
        out.extend(extra);
        out
    }

    /// The extended timestamp field: seconds since 1970.
    fn time(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Some(mtime) = self.mtime {
            put16(&mut out, 0x5455);
            put16(&mut out, 5);
            out.push(1);
            out.extend_from_slice(&mtime.to_le_bytes());
        }
        out
    }
}

fn put16(out: &mut Vec<u8>, number: u16) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put32(out: &mut Vec<u8>, number: u32) {
    out.extend_from_slice(&number.to_le_bytes());
}

fn put64(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}
