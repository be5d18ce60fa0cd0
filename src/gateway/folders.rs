//! Reading ahead of who reads the small files of a folder one after another: a browser that loads a site, a program that
//! loads shards and labels (RETRIEVAL.md T5). Six connections that each wait a round trip for each file use little of a link.
//!
//! The second file of a folder that has to come from the network begins it. As Linux does with the pages of a file, what is
//! asked for ahead begins small and doubles whenever half of it was read, so who stops reading has cost one window.
//! Readers go first: nothing here is urgent. Every batch is a retrieval of its own, with a record and without an HTTP status,
//! so that the bytes that it brought are counted where all bytes are.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use prometheus_client::metrics::counter::Counter;

use super::handler::Visit;
use crate::ipld::path::ContentPath;
use crate::ipld::unixfs::{self, HamtEntry, Node};
use crate::ipld::{Block, Cid};
use crate::record::live::Begun;
use crate::record::{Origin, Outcome, Policy, RetrievalId, RetrievalRecord};
use crate::retriever::{Hint, Session, SessionOptions};
use crate::telemetry::Metrics;

/// Larger files have parts of their own that are read ahead.
const SMALL: u64 = 300 << 10;
/// What the first batch of a folder may bring, in bytes.
const FIRST_WINDOW: u64 = 1 << 20;
/// Files of one folder that are kept in mind.
const MAX_FILES: usize = 1_024;
/// Folders that are kept in mind.
const MAX_FOLDERS: usize = 64;
/// Who has read nothing for so long has gone.
const IDLE: Duration = Duration::from_secs(60);
/// A batch that takes longer is given up.
const BATCH_TIMEOUT: Duration = Duration::from_secs(30);

/// The folders that are being read.
pub(super) struct Folders {
    /// `None`: nothing is read ahead.
    known: Option<Mutex<Known>>,
    asked: Counter,
    used: Counter,
}

/// See the module. A function of what was read and when.
#[derive(Debug, Default)]
struct Known {
    folders: HashMap<Cid, Folder>,
}

#[derive(Debug)]
struct Folder {
    last: Instant,
    /// The file that came from the network first.
    first: Cid,
    ahead: Option<Ahead>,
}

#[derive(Debug)]
struct Ahead {
    /// Not asked for yet, the next one first, with their sizes.
    rest: VecDeque<(Cid, u64)>,
    /// Asked for and not read yet.
    unread: HashMap<Cid, u64>,
    unread_bytes: u64,
    window: u64,
}

/// A file was read.
struct Reading<'a> {
    /// The block that names it: a folder, or the shard of one.
    folder: &'a Block,
    file: Cid,
    /// The network was asked for it.
    cold: bool,
    /// The largest window.
    most: u64,
}

/// What to do about it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Next {
    /// It had been asked for ahead.
    used: bool,
    ask: Vec<(Cid, u64)>,
}

impl Folders {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self {
            known: Some(Mutex::default()),
            asked: metrics.register(
                "gateway_folder_files_ahead",
                "Small files that were asked for because others of their folder were read",
                Counter::default(),
            ),
            used: metrics.register(
                "gateway_folder_files_used",
                "Requests for files that had been asked for because others of their folder were read",
                Counter::default(),
            ),
        }
    }

    /// Reads nothing ahead.
    pub(super) fn off() -> Self {
        Self { known: None, asked: Counter::default(), used: Counter::default() }
    }
}

impl Visit<'_> {
    /// The request is for `file`, which `folder` names.
    pub(super) fn reads_of(&self, folder: &Block, file: &Cid) {
        let folders = &self.gateway.folders;
        let Some(known) = &folders.known else { return };
        let ask = self.ask;
        if ask.is_head() || ask.path.segments.is_empty() || self.session.policy() != Policy::Optimized {
            return;
        }
        let reading =
            Reading { folder, file: *file, cold: self.session.is_networked(), most: self.session.read_ahead() / 2 };
        let mut judge = self.judge.clone();
        judge.leave();
        let allowed = |name: &str| judge.verdict_below(name).is_ok();
        let next = known.lock().unwrap_or_else(PoisonError::into_inner).read(&reading, Instant::now(), allowed);
        folders.used.inc_by(u64::from(next.used));
        if !next.ask.is_empty() {
            folders.asked.inc_by(next.ask.len() as u64);
            self.fetch_ahead(next.ask);
        }
    }

    fn fetch_ahead(&self, files: Vec<(Cid, u64)>) {
        let segments = self.ask.path.segments.split_last().map(|(_, above)| above.to_vec()).unwrap_or_default();
        let path = ContentPath { segments, trailing_slash: true, ..self.ask.path.clone() }.to_string();
        self.retrieve_ahead(path, move |session| async move {
            session.prefetch(files.into_iter().map(|(cid, size)| Hint { cid, size: Some(size) }));
            session.caught_up().await;
        });
    }

    /// Retrieves what nobody has asked for yet, below the root of this request, as a retrieval of its own.
    pub(super) fn retrieve_ahead<F>(&self, path: String, work: impl FnOnce(Session) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send,
    {
        let state = &self.gateway.state;
        let (root, sink) = (self.ask.root, state.sink.clone());
        let options = SessionOptions { policy: Some(Policy::Optimized), local_only: false };
        let session = state.retriever.session(root, options);
        let stop = state.retriever.supervisor().token();
        state.retriever.supervisor().spawn_short(async move {
            let (id, started, started_at) = (RetrievalId::next(), Instant::now(), SystemTime::now());
            sink.started(Begun { id, cid: root, path: path.clone() });
            let (outcome, error_kind) = tokio::select! {
                () = work(session.clone()) => (Outcome::Complete, None),
                () = tokio::time::sleep(BATCH_TIMEOUT) => (Outcome::Timeout, Some("timeout")),
                () = stop.cancelled() => (Outcome::Error, Some("stopping")),
            };
            let (report, load_time) = (session.report(), started.elapsed());
            drop(session);
            sink.record(RetrievalRecord {
                id,
                cid: root,
                path,
                origin: Origin::Live,
                started_at,
                finished_at: started_at + load_time,
                load_time,
                ttfb: None,
                bytes: 0,
                outcome,
                error_kind: error_kind.map(str::to_owned),
                http_status: None,
                session: report,
            });
        });
    }
}

impl Known {
    fn read(&mut self, reading: &Reading<'_>, now: Instant, allowed: impl Fn(&str) -> bool) -> Next {
        let key = *reading.folder.cid();
        if self.folders.get(&key).is_some_and(|folder| now.saturating_duration_since(folder.last) > IDLE) {
            self.folders.remove(&key);
        }
        let Some(folder) = self.folders.get_mut(&key) else {
            if reading.cold {
                self.make_room();
                self.folders.insert(key, Folder { last: now, first: reading.file, ahead: None });
            }
            return Next::default();
        };
        folder.last = now;
        if folder.ahead.is_none() && reading.cold && folder.first != reading.file {
            folder.ahead = Some(Ahead::of(reading, folder.first, allowed));
        }
        folder.ahead.as_mut().map(|ahead| ahead.read(reading)).unwrap_or_default()
    }

    fn make_room(&mut self) {
        while self.folders.len() >= MAX_FOLDERS {
            let oldest = self.folders.iter().min_by_key(|(_, folder)| folder.last).map(|(cid, _)| *cid);
            let Some(oldest) = oldest else { return };
            self.folders.remove(&oldest);
        }
    }
}

impl Ahead {
    /// What comes after the file that was read, then what stands before it.
    fn of(reading: &Reading<'_>, first: Cid, allowed: impl Fn(&str) -> bool) -> Self {
        let mut files = files(reading.folder);
        let at = files.iter().position(|(_, cid, _)| *cid == reading.file).map_or(0, |at| at + 1);
        files.rotate_left(at);
        let rest = files
            .into_iter()
            .filter(|(name, cid, size)| *size <= SMALL && *cid != reading.file && *cid != first && allowed(name))
            .map(|(_, cid, size)| (cid, size))
            .take(MAX_FILES)
            .collect();
        Self { rest, unread: HashMap::new(), unread_bytes: 0, window: 0 }
    }

    fn read(&mut self, reading: &Reading<'_>) -> Next {
        let used = self.unread.remove(&reading.file);
        self.unread_bytes -= used.unwrap_or(0);
        let mut ask = Vec::new();
        let begins = self.window == 0;
        if begins || (used.is_some() && self.unread_bytes <= self.window / 2) {
            self.window = if begins { FIRST_WINDOW } else { self.window * 2 }.min(reading.most);
            while let Some((cid, size)) = self.rest.pop_front_if(|(_, size)| self.unread_bytes + *size <= self.window) {
                if self.unread.insert(cid, size).is_none() {
                    self.unread_bytes += size;
                    ask.push((cid, size));
                }
            }
        }
        Next { used: used.is_some(), ask }
    }
}

/// Name, CID and claimed size of what a folder, or a shard of one, names itself.
fn files(folder: &Block) -> Vec<(String, Cid, u64)> {
    let sized = |name, cid, tsize: Option<u64>| tsize.map(|size| (name, cid, size));
    match unixfs::decode(folder) {
        Ok(Node::Directory(node)) => {
            node.entries.into_iter().filter_map(|entry| sized(entry.name, entry.cid, entry.tsize)).collect()
        }
        Ok(Node::HamtShard(node)) => node
            .entries
            .into_iter()
            .filter_map(|slot| match slot {
                HamtEntry::Value { name, cid, tsize, .. } => sized(name, cid, tsize),
                HamtEntry::Child { .. } => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipld::builder::{DirBuilder, Profile};
    use crate::ipld::{HashCode, codec};
    use bytes::Bytes;

    const MOST: u64 = 8 << 20;

    fn file(n: u64) -> Cid {
        let data = Bytes::copy_from_slice(&n.to_be_bytes());
        *Block::encode(codec::RAW, HashCode::Sha2_256, data).unwrap().cid()
    }

    /// A folder of `count` files of `size` bytes, `0000` and so on.
    fn folder(count: u64, size: u64) -> Block {
        let mut builder = DirBuilder::new(&Profile::KUBO_V1);
        (0..count).for_each(|n| builder.add(&format!("{n:04}"), file(n), size).unwrap());
        builder.finish().unwrap().0.pop().unwrap()
    }

    fn read(known: &mut Known, folder: &Block, n: u64, cold: bool, now: Instant) -> Next {
        known.read(&Reading { folder, file: file(n), cold, most: MOST }, now, |_| true)
    }

    fn names(next: &Next, count: u64) -> Vec<u64> {
        next.ask.iter().map(|(cid, _)| (0..count).find(|n| file(*n) == *cid).unwrap()).collect()
    }

    #[test]
    fn the_second_cold_file_begins_and_reading_doubles_what_is_asked_for() {
        let (mut known, folder, now) = (Known::default(), folder(400, 20_480), Instant::now());
        assert_eq!(read(&mut known, &folder, 0, true, now), Next::default());
        assert_eq!(read(&mut known, &folder, 0, true, now), Next::default(), "the same one again");
        let window = FIRST_WINDOW / 20_480;
        let first = read(&mut known, &folder, 1, true, now);
        assert_eq!(names(&first, 400), (2..2 + window).collect::<Vec<_>>());
        assert_eq!(read(&mut known, &folder, 300, true, now), Next::default(), "another place: no window more");
        let mut asked = Vec::new();
        for n in 2..2 + window.div_ceil(2) {
            assert!(asked.is_empty(), "before half of it was read");
            let next = read(&mut known, &folder, n, false, now);
            assert!(next.used);
            asked = names(&next, 400);
        }
        assert!(asked.len() as u64 > window && asked.first() == Some(&(2 + window)), "{asked:?}");
    }

    #[test]
    fn what_is_asked_for_and_not_read_stays_within_the_window_and_ends_with_the_folder() {
        let (mut known, folder, now) = (Known::default(), folder(300, 20_480), Instant::now());
        read(&mut known, &folder, 0, true, now);
        let mut waiting = VecDeque::from(read(&mut known, &folder, 1, true, now).ask);
        let mut seen: Vec<Cid> = vec![file(0), file(1)];
        while let Some((cid, _)) = waiting.pop_front() {
            seen.push(cid);
            let next = known.read(&Reading { folder: &folder, file: cid, cold: false, most: MOST }, now, |_| true);
            waiting.extend(next.ask);
            assert!(waiting.iter().map(|(_, size)| size).sum::<u64>() <= MOST);
        }
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len(), 300, "each once");
    }

    #[test]
    fn local_files_large_ones_and_denied_names_begin_nothing() {
        let now = Instant::now();
        let (mut known, small) = (Known::default(), folder(9, 1_000));
        for n in 0..9 {
            assert_eq!(read(&mut known, &small, n, false, now), Next::default());
        }
        let (mut known, large) = (Known::default(), folder(9, SMALL + 1));
        (0..9).for_each(|n| assert_eq!(read(&mut known, &large, n, true, now), Next::default()));
        let mut known = Known::default();
        let ask = |known: &mut Known, n| {
            let reading = Reading { folder: &small, file: file(n), cold: true, most: MOST };
            known.read(&reading, now, |name| name != "0005")
        };
        ask(&mut known, 0);
        assert_eq!(names(&ask(&mut known, 7), 9), [8, 1, 2, 3, 4, 6]);
    }

    #[test]
    fn folders_are_forgotten_when_nobody_reads_them_and_when_there_are_too_many() {
        let (mut known, now) = (Known::default(), Instant::now());
        let old = folder(3, 1_000);
        read(&mut known, &old, 0, true, now);
        assert_eq!(read(&mut known, &old, 1, true, now + IDLE + Duration::from_secs(1)), Next::default());
        for n in 0..2 * MAX_FOLDERS as u64 {
            read(&mut known, &folder(3, 2_000 + n), 0, true, now + Duration::from_secs(2));
        }
        assert_eq!(known.folders.len(), MAX_FOLDERS);
    }

    #[test]
    fn blocks_that_are_no_folders_name_nothing() {
        let block = Block::encode(codec::RAW, HashCode::Sha2_256, Bytes::from_static(b"text")).unwrap();
        assert!(files(&block).is_empty());
    }
}
