//! The server of an adversary: a libp2p node in its namespace, one task a stream, one writer a peer.
#![expect(clippy::disallowed_methods, reason = "the bench has no supervisor: tasks end with their node's thread")]

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::swarm::{NetworkBehaviour, Stream, SwarmEvent};
use libp2p::{Multiaddr, PeerId, StreamProtocol, SwarmBuilder, identify, noise, ping, tcp, yamux};
use prost::Message as _;
use tokio::sync::{mpsc, watch};

use super::wire::{MAX_MESSAGE, Message};
use super::{Held, Kind, Shared, is_bad};
use crate::net::namespace::Namespace;

pub(super) const BITSWAP: StreamProtocol = StreamProtocol::new("/ipfs/bitswap/1.2.0");
/// Requests of one peer that wait; more are not answered.
const QUEUE: usize = 16_384;
/// Of a block, before a staller is silent.
const STALL_AFTER: usize = 64 << 10;
/// A dripper's pieces and the time between them: 80 kbit/s.
const DRIP: usize = 1_000;
const DRIP_EVERY: Duration = Duration::from_millis(100);
/// What is written at once.
const PIECE: usize = 64 << 10;

#[derive(NetworkBehaviour)]
struct Node {
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    streams: libp2p_stream::Behaviour,
}

/// Its peer id, and where it listens.
type Started = (String, Vec<String>);

/// Starts a node whose sockets are in `namespace`; its thread ends with the process.
pub(super) fn start(namespace: Option<&Namespace>, shared: Arc<Shared>, address: SocketAddr) -> io::Result<Started> {
    let (ready, started) = std::sync::mpsc::sync_channel(1);
    let namespace = namespace.cloned();
    std::thread::Builder::new().name("adversary".to_owned()).spawn(move || {
        let entered = namespace.map_or(Ok(()), |namespace| namespace.enter());
        let runtime = entered.and_then(|()| tokio::runtime::Builder::new_current_thread().enable_all().build());
        match runtime {
            Ok(runtime) => runtime.block_on(async {
                if let Err(error) = serve(shared, address, &ready).await {
                    let _ = ready.try_send(Err(error));
                }
            }),
            Err(error) => drop(ready.try_send(Err(error))),
        }
    })?;
    started.recv().map_err(io::Error::other)?
}

async fn serve(
    shared: Arc<Shared>,
    address: SocketAddr,
    ready: &std::sync::mpsc::SyncSender<io::Result<Started>>,
) -> io::Result<()> {
    let mut swarm = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::default().nodelay(true), noise::Config::new, yamux::Config::default)
        .map_err(io::Error::other)?
        .with_quic()
        .with_behaviour(|key| Node {
            identify: identify::Behaviour::new(identify::Config::new("ipfs/0.1.0".to_owned(), key.public())),
            ping: ping::Behaviour::default(),
            streams: libp2p_stream::Behaviour::new(),
        })
        .map_err(io::Error::other)?
        .with_swarm_config(|config| config.with_idle_connection_timeout(Duration::from_secs(3_600)))
        .build();
    let (ip, port) = (address.ip(), address.port());
    for text in [format!("/ip4/{ip}/udp/{port}/quic-v1"), format!("/ip4/{ip}/tcp/{port}")] {
        let address: Multiaddr = text.parse().map_err(io::Error::other)?;
        swarm.listen_on(address).map_err(io::Error::other)?;
    }
    let control = swarm.behaviour().streams.new_control();
    let mut incoming = control.clone().accept(BITSWAP).map_err(io::Error::other)?;
    let mut listening = Vec::new();
    let writers = Arc::new(Writers { shared, control, queues: Mutex::default() });
    loop {
        tokio::select! {
            event = swarm.select_next_some() => {
                if let SwarmEvent::NewListenAddr { address, .. } = event {
                    listening.push(address.to_string());
                    if listening.len() == 2 {
                        let _ = ready.try_send(Ok((swarm.local_peer_id().to_string(), listening.clone())));
                    }
                }
            }
            Some((peer, stream)) = incoming.next() => {
                let writers = writers.clone();
                tokio::spawn(async move {
                    // A stream that ends or breaks is the peer's business.
                    let _ = read(&writers, peer, stream).await;
                });
            }
        }
    }
}

struct Writers {
    shared: Arc<Shared>,
    control: libp2p_stream::Control,
    queues: Mutex<HashMap<PeerId, mpsc::Sender<Job>>>,
}

enum Job {
    Presence { cid: Vec<u8>, have: bool },
    Block { cid: Vec<u8>, held: Held },
    Cancel { cid: Vec<u8> },
}

impl Writers {
    fn queue(&self, peer: PeerId) -> mpsc::Sender<Job> {
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(queue) = queues.get(&peer).filter(|queue| !queue.is_closed()) {
            return queue.clone();
        }
        let (queue, jobs) = mpsc::channel(QUEUE);
        queues.insert(peer, queue.clone());
        tokio::spawn(write(self.shared.clone(), self.control.clone(), peer, jobs));
        queue
    }
}

async fn read(writers: &Writers, peer: PeerId, mut stream: Stream) -> io::Result<()> {
    loop {
        let length = length(&mut stream).await?;
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).await?;
        let message = Message::decode(&bytes[..]).map_err(io::Error::other)?;
        let queue = writers.queue(peer);
        for entry in message.wantlist.into_iter().flat_map(|list| list.entries) {
            let held = writers.shared.blocks().get(&entry.cid).cloned();
            let wants_block = entry.want_type == 0;
            if wants_block && !entry.cancel && held.as_ref().is_some_and(|held| !held.honest) {
                writers.shared.account().asked(Instant::now());
            }
            let lies = writers.shared.kind == Kind::Liar && held.as_ref().is_some_and(|held| !held.honest);
            let job = match held {
                _ if entry.cancel => Job::Cancel { cid: entry.cid },
                Some(held) if wants_block && !lies => Job::Block { cid: entry.cid, held },
                Some(_) => Job::Presence { cid: entry.cid, have: !wants_block },
                None if entry.send_dont_have => Job::Presence { cid: entry.cid, have: false },
                None => continue,
            };
            let _ = queue.try_send(job);
        }
    }
}

pub(super) async fn length(stream: &mut Stream) -> io::Result<usize> {
    let mut value = 0usize;
    for shift in [0, 7, 14, 21] {
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        value |= usize::from(byte[0] & 0x7f) << shift;
        if byte[0] < 0x80 {
            return if value <= MAX_MESSAGE { Ok(value) } else { Err(io::Error::other("a message over the limit")) };
        }
    }
    Err(io::Error::other("a message over the limit"))
}

/// Answers one peer, one thing after another, on one stream that is opened again when it was given up.
async fn write(shared: Arc<Shared>, mut control: libp2p_stream::Control, peer: PeerId, mut jobs: mpsc::Receiver<Job>) {
    let mut stream: Option<Stream> = None;
    let mut cancelled = HashSet::new();
    let mut waiting = std::collections::VecDeque::new();
    loop {
        if waiting.is_empty() {
            match jobs.recv().await {
                Some(job) => waiting.push_back(job),
                None => return,
            }
        }
        // What was cancelled meanwhile is not sent.
        while let Ok(job) = jobs.try_recv() {
            waiting.push_back(job);
        }
        for job in &waiting {
            match job {
                Job::Cancel { cid } => drop(cancelled.insert(cid.clone())),
                Job::Block { cid, .. } | Job::Presence { cid, .. } => drop(cancelled.remove(cid)),
            }
        }
        let Some(job) = waiting.pop_front() else { continue };
        if matches!(&job, Job::Block { cid, .. } if cancelled.contains(cid)) {
            continue;
        }
        if stream.is_none() {
            match control.open_stream(peer, BITSWAP).await {
                Ok(opened) => stream = Some(opened),
                // The peer is gone, and with it what it asked for.
                Err(_) => return,
            }
        }
        let Some(open) = stream.as_mut() else { return };
        let done = match job {
            Job::Cancel { .. } => Ok(true),
            Job::Presence { cid, have } => plain(&shared, open, &Message::presence(&cid, have)).await.map(|()| true),
            Job::Block { cid, held } => block(&shared, open, &cid, &held).await,
        };
        // Given up in the middle of a message: the stream cannot go on.
        if !matches!(done, Ok(true)) {
            stream = None;
        }
    }
}

async fn plain(shared: &Shared, stream: &mut Stream, message: &Message) -> io::Result<()> {
    for piece in message.frame().chunks(PIECE) {
        stream.write_all(piece).await?;
        shared.account().wrote(Instant::now(), piece.len());
    }
    stream.flush().await
}

/// Sends a block in this peer's manner. `false`: not to its end.
async fn block(shared: &Shared, stream: &mut Stream, cid: &[u8], held: &Held) -> io::Result<bool> {
    let bad = shared.kind == Kind::Corrupt && !held.honest && is_bad(cid);
    let mut data = held.data.to_vec();
    let middle = data.len() / 2;
    if let Some(byte) = data.get_mut(middle).filter(|_| bad) {
        *byte ^= 0x20;
    }
    let message = Message::block(cid, data)?;
    let kind = if held.honest { None } else { Some(shared.kind) };
    let mut generation = shared.generation.subscribe();
    match kind {
        Some(Kind::Staller) => {
            let frame = message.frame();
            stream.write_all(&frame[..frame.len().min(STALL_AFTER)]).await?;
            stream.flush().await?;
            let _ = generation.changed().await;
            return Ok(false);
        }
        Some(Kind::Dripper) => {
            for piece in message.frame().chunks(DRIP) {
                stream.write_all(piece).await?;
                stream.flush().await?;
                if over(&mut generation, DRIP_EVERY).await {
                    return Ok(false);
                }
            }
        }
        Some(Kind::Duplicator) => {
            for _ in 0..3 {
                plain(shared, stream, &message).await?;
            }
        }
        Some(Kind::Corrupt | Kind::Liar) | None => plain(shared, stream, &message).await?,
    }
    if !held.honest {
        shared.account().sent(bad);
    }
    Ok(true)
}

/// Waits, or not to the end when a new sample begins: true.
async fn over(generation: &mut watch::Receiver<u64>, time: Duration) -> bool {
    tokio::time::timeout(time, generation.changed()).await.is_ok()
}
