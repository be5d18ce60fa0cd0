//! One stream, read or written, as an async loop. The connection's task drives it, so decoding and hashing never run
//! on the event loop, and a slow consumer of events makes exactly the connections that feed it wait.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use thiserror::Error;
use tokio::time::timeout;

use super::Shared;
use super::message::{Item, Items, MAX_MESSAGE_SIZE, MessageError, Version, verify};
use super::peer::Peer;
use super::server::Change;
use crate::exchange::ExchangeEvent;

/// A message that has begun must go on: a read that waits longer ends its stream.
const READ_STALL: Duration = Duration::from_secs(60);
/// A peer that does not take our bytes for so long loses the stream (DESIGN.md §8: write stall).
const WRITE_STALL: Duration = Duration::from_secs(60);
/// A message that comes quickly is read in steps of this length rather than packet by packet: each read wakes the whole
/// connection. The rest of a message is awaited as it comes.
const PAUSE: Duration = Duration::from_millis(2);
/// What comes in one [`PAUSE`] of a quick message, in bytes: a packet at the least, 6 Mbit/s. Of a message that comes
/// faster than 200 Mbit/s, each read brings much anyway, and a pause could fill its window.
const QUICK: std::ops::Range<f64> = 1_500.0..50_000.0;
/// First buffer of a stream, in bytes: a message of wants fits.
const FIRST_READ: usize = 4 * 1024;
/// First growth for a large message, in bytes: one 256 KiB block with its framing fits.
const BLOCK_READ: usize = 264 * 1024;
/// Messages longer than this are reported while they arrive, in bytes.
const PROGRESS_FROM: usize = 64 * 1024;
/// Bytes that the unfinished messages of one connection may occupy.
const CONNECTION_BUFFERS: usize = 32 * 1024 * 1024;
/// Bytes that the unfinished messages of all connections may occupy.
const TOTAL_BUFFERS: usize = 256 * 1024 * 1024;
/// Wants handed to the server at once while a long wantlist is read.
const CHANGES: usize = 256;

/// Buffer space of unfinished messages, over all connections or of one.
#[derive(Debug, Default, Clone)]
pub struct Budget(Arc<AtomicUsize>);

/// Why a stream is given up.
#[derive(Debug, Error)]
pub enum FrameError {
    #[error(transparent)]
    Message(#[from] MessageError),
    #[error("too many unfinished messages")]
    Buffers,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Cuts a stream into messages.
pub struct FrameReader<S> {
    stream: S,
    /// `buffer[..filled]` was read, the rest is initialised room.
    buffer: BytesMut,
    filled: usize,
    reserved: Reserved,
}

struct Reserved {
    own: Budget,
    all: Budget,
    bytes: usize,
}

impl<S: AsyncRead + Unpin> FrameReader<S> {
    pub fn new(stream: S, connection: Budget, all: Budget) -> Self {
        let reserved = Reserved { own: connection, all, bytes: 0 };
        Self { stream, buffer: BytesMut::new(), filled: 0, reserved }
    }

    /// The next message without its prefix; `None` at a clean end. The length is checked before anything is
    /// allocated for it, and the buffer grows only as bytes arrive. `arriving` is told of each
    /// read, and whether it is part of a long message.
    pub async fn next(&mut self, mut arriving: impl FnMut(usize, bool)) -> Result<Option<Bytes>, FrameError> {
        let mut last = Instant::now();
        loop {
            let header = header(&self.buffer[..self.filled])?;
            let need = header.map_or(FIRST_READ, |(prefix, length)| prefix + length);
            if let Some((prefix, _)) = header
                && self.filled >= need
            {
                let mut frame = self.buffer.split_to(need);
                self.filled -= need;
                if self.filled == 0 {
                    self.buffer = BytesMut::new();
                }
                self.reserved.release();
                return Ok(Some(frame.split_off(prefix).freeze()));
            }
            if self.filled == self.buffer.len() {
                let grow =
                    (need - self.filled).min(self.filled.max(if header.is_some() { BLOCK_READ } else { FIRST_READ }));
                self.reserved.take(grow)?;
                self.buffer.resize(self.filled + grow, 0);
            }
            let read = self.stream.read(&mut self.buffer[self.filled..]);
            let count = if self.filled == 0 {
                read.await?
            } else {
                timeout(READ_STALL, read).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??
            };
            if count == 0 {
                return if self.filled == 0 {
                    Ok(None)
                } else {
                    Err(io::Error::from(io::ErrorKind::UnexpectedEof).into())
                };
            }
            self.filled += count;
            arriving(count, need > PROGRESS_FROM);
            let now = Instant::now();
            let comes = count as f64 / (now - last).max(PAUSE / 4).as_secs_f64() * PAUSE.as_secs_f64();
            last = now;
            if need > PROGRESS_FROM && QUICK.contains(&comes) && (need - self.filled) as f64 > comes * 3.0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

impl Reserved {
    fn take(&mut self, bytes: usize) -> Result<(), FrameError> {
        self.bytes += bytes;
        let own = self.own.0.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let all = self.all.0.fetch_add(bytes, Ordering::Relaxed) + bytes;
        if own > CONNECTION_BUFFERS || all > TOTAL_BUFFERS { Err(FrameError::Buffers) } else { Ok(()) }
    }

    fn release(&mut self) {
        self.own.0.fetch_sub(self.bytes, Ordering::Relaxed);
        self.all.0.fetch_sub(self.bytes, Ordering::Relaxed);
        self.bytes = 0;
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.release();
    }
}

/// Length of the prefix and of the message, once the prefix is complete.
fn header(bytes: &[u8]) -> Result<Option<(usize, usize)>, MessageError> {
    match unsigned_varint::decode::u32(bytes) {
        Ok((length, rest)) if length as usize <= MAX_MESSAGE_SIZE => {
            Ok(Some((bytes.len() - rest.len(), length as usize)))
        }
        Ok(_) => Err(MessageError::MessageTooLarge),
        Err(unsigned_varint::decode::Error::Insufficient) => Ok(None),
        Err(unsigned_varint::decode::Error::Overflow) => Err(MessageError::MessageTooLarge),
        Err(_) => Err(MessageError::Malformed),
    }
}

/// Reads an inbound stream for as many messages as come (litep2p#444: Kubo sends all its wants on one stream, and
/// opens a new one for each block).
pub async fn read<S: AsyncRead + Unpin>(stream: S, connection: Budget, peer: Arc<Peer>, shared: Arc<Shared>) {
    let mut frames = FrameReader::new(stream, connection, shared.budget.clone());
    loop {
        let arriving = |bytes, long| {
            peer.read(bytes);
            if long && let Some(bytes) = peer.progress(bytes, Instant::now()) {
                shared.try_emit(ExchangeEvent::Progress { peer: peer.id, bytes, arrival: peer.arrival() });
            }
        };
        let outcome = match frames.next(arriving).await {
            Ok(Some(frame)) => receive(frame, &peer, &shared).await,
            Ok(None) | Err(FrameError::Io(_)) => return,
            Err(FrameError::Buffers) => {
                shared.metrics.limit_buffers.inc();
                return;
            }
            Err(FrameError::Message(error)) => Err(error),
        };
        if let Err(error) = outcome {
            shared.metrics.invalid.inc();
            tracing::debug!(peer = %peer.id, %error, "bitswap message refused");
            shared.emit(ExchangeEvent::Invalid { peer: peer.id, reason: reason(error) }).await;
            return;
        }
    }
}

async fn receive(frame: Bytes, peer: &Arc<Peer>, shared: &Arc<Shared>) -> Result<(), MessageError> {
    let (length, arrival) = (frame.len(), peer.arrival());
    shared.metrics.messages_received.inc();
    shared.metrics.bytes_received.inc_by(length as u64);
    peer.bytes_in.fetch_add(length as u64, Ordering::Relaxed);
    let mut changes = Vec::new();
    for item in Items::new(frame) {
        match item? {
            Item::Wantlist { full: true } => changes.push(Change::Full),
            Item::Wantlist { full: false } | Item::Unknown => {}
            Item::Want { cid, kind, priority, send_dont_have } => {
                changes.push(Change::Want(cid, kind, priority, send_dont_have));
            }
            Item::Cancel { cid } => changes.push(Change::Cancel(cid)),
            Item::Have { cid } => presence(peer, shared, cid, true).await,
            Item::DontHave { cid } => presence(peer, shared, cid, false).await,
            Item::Block { prefix, data } => {
                let wire_bytes = data.len() + prefix.as_ref().map_or(0, Bytes::len) + 12;
                let block = verify(prefix.as_ref(), data, length)?;
                shared.metrics.blocks_received.inc();
                shared.metrics.block_bytes_received.inc_by(block.len() as u64);
                if !peer.arrived(block.cid()) {
                    shared.metrics.unwanted.inc();
                }
                shared.emit(ExchangeEvent::Block { peer: peer.id, block, wire_bytes, arrival }).await;
            }
        }
        if changes.len() >= CHANGES {
            shared.server.receive(peer, std::mem::take(&mut changes), shared);
        }
    }
    if !changes.is_empty() {
        shared.server.receive(peer, changes, shared);
    }
    Ok(())
}

/// Presences that we did not ask for are counted and dropped.
async fn presence(peer: &Arc<Peer>, shared: &Arc<Shared>, cid: crate::ipld::Cid, have: bool) {
    if !peer.presence(&cid, have) {
        shared.metrics.unwanted_presences.inc();
        return;
    }
    let peer = peer.id;
    shared.emit(if have { ExchangeEvent::Have { peer, cid } } else { ExchangeEvent::DontHave { peer, cid } }).await;
}

fn reason(error: MessageError) -> &'static str {
    match error {
        MessageError::Malformed => "message is not protobuf",
        MessageError::MessageTooLarge => "message over 4 MiB",
        MessageError::BlockTooLarge => "block over 2 MiB",
        MessageError::BadPrefix => "block prefix is malformed",
        MessageError::UnsupportedHash => "hash function is not accepted",
    }
}

/// Writes what the peer's state has ready, message by message, until the stream fails. Nothing is delayed to be
/// packed: what comes while a write is pending goes into the next message (T9). Returns the messages written.
pub async fn write<S: AsyncWrite + Unpin>(
    mut stream: S,
    version: Version,
    peer: Arc<Peer>,
    shared: Arc<Shared>,
) -> usize {
    let mut messages = 0;
    loop {
        let Some((message, cost, inexpressible)) = peer.take_message(version) else {
            peer.wake.notified().await;
            continue;
        };
        let _window = Window { peer: &peer, shared: &shared, cost };
        if !inexpressible.is_empty() {
            shared.emit(ExchangeEvent::SendFailed { peer: peer.id, cids: inexpressible }).await;
        }
        if message.is_empty() {
            continue;
        }
        shared.metrics.wants_sent.inc_by(message.wants.len() as u64);
        shared.metrics.cancels_sent.inc_by(message.cancels.len() as u64);
        let written = match write_all(&mut stream, &message.encode(version)).await {
            Ok(written) => written,
            Err(error) => {
                tracing::debug!(peer = %peer.id, %error, "bitswap stream failed");
                return messages;
            }
        };
        messages += 1;
        peer.bytes_out.fetch_add(written as u64, Ordering::Relaxed);
        shared.metrics.messages_sent.inc();
        shared.metrics.bytes_sent.inc_by(written as u64);
    }
}

/// A message's share of the peer's window, given back also when the stream is dropped in the middle of it.
struct Window<'a> {
    peer: &'a Arc<Peer>,
    shared: &'a Arc<Shared>,
    cost: usize,
}

impl Drop for Window<'_> {
    fn drop(&mut self) {
        self.shared.server.released(self.peer.written(self.cost));
        self.shared.server.schedule(self.peer);
    }
}

async fn write_all<S: AsyncWrite + Unpin>(stream: &mut S, pieces: &[Bytes]) -> io::Result<usize> {
    let mut total = 0;
    for piece in pieces {
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let count = timeout(WRITE_STALL, stream.write(rest)).await.map_err(|_| io::ErrorKind::TimedOut)??;
            if count == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            rest = &rest[count..];
        }
        total += piece.len();
    }
    timeout(WRITE_STALL, stream.flush()).await.map_err(|_| io::ErrorKind::TimedOut)??;
    Ok(total)
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;

    use super::*;

    fn reader(bytes: Vec<u8>) -> FrameReader<Cursor<Vec<u8>>> {
        FrameReader::new(Cursor::new(bytes), Budget::default(), Budget::default())
    }

    fn framed(length: usize) -> Vec<u8> {
        let mut buffer = unsigned_varint::encode::usize_buffer();
        let mut bytes = unsigned_varint::encode::usize(length, &mut buffer).to_vec();
        bytes.extend((0..length).map(|n| n as u8));
        bytes
    }

    #[tokio::test]
    async fn many_messages_are_read_from_one_stream() {
        let lengths = [0, 1, 5000, 300_000, 7, MAX_MESSAGE_SIZE, 3];
        let mut frames = reader(lengths.iter().flat_map(|n| framed(*n)).collect());
        for length in lengths {
            let frame = frames.next(|_, _| ()).await.unwrap().unwrap();
            assert_eq!(frame.len(), length);
            assert!(frame.iter().enumerate().all(|(n, byte)| *byte == n as u8));
        }
        assert!(frames.next(|_, _| ()).await.unwrap().is_none());
        // An idle stream holds its first buffer and no more.
        assert!(frames.reserved.all.0.load(Ordering::Relaxed) <= FIRST_READ);
    }

    #[tokio::test]
    async fn an_oversize_length_is_refused_before_anything_is_allocated_for_it() {
        for prefix in [vec![0x81, 0x80, 0x80, 0x02], vec![0xff; 10], vec![0xff, 0xff, 0xff, 0xff, 0x7f]] {
            let mut frames = reader(prefix);
            assert!(matches!(frames.next(|_, _| ()).await, Err(FrameError::Message(MessageError::MessageTooLarge))));
            assert!(frames.buffer.len() <= FIRST_READ);
        }
    }

    #[tokio::test]
    async fn a_claimed_length_costs_no_memory_until_bytes_arrive() {
        let mut bytes = framed(MAX_MESSAGE_SIZE);
        bytes.truncate(100);
        let mut frames = reader(bytes);
        assert!(matches!(frames.next(|_, _| ()).await, Err(FrameError::Io(_))));
        assert!(frames.buffer.len() <= FIRST_READ + BLOCK_READ);
    }

    #[tokio::test]
    async fn unfinished_messages_of_one_connection_are_bounded() {
        let (own, all) = (Budget::default(), Budget::default());
        let mut held = Vec::new();
        let mut refused = false;
        for _ in 0..10 {
            let mut bytes = framed(MAX_MESSAGE_SIZE);
            bytes.pop();
            let mut frames = FrameReader::new(Cursor::new(bytes), own.clone(), all.clone());
            refused |= matches!(frames.next(|_, _| ()).await, Err(FrameError::Buffers));
            held.push(frames);
        }
        assert!(refused);
        drop(held);
        assert_eq!(all.0.load(Ordering::Relaxed), 0);
    }
}
