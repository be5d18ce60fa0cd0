//! Whole files from one peer over its gateway (`/http/1.1`, `/ipfs/gateway`): a round trip instead of one for each level of
//! the graph. Beside Bitswap and never in its way: whoever gives no CAR, or ends one early, is asked for blocks.
//!
//! Only over QUIC: there each stream has room for what a link carries from its first byte. A new stream of yamux begins
//! with 256 KiB and takes round trips to grow, while the one of Bitswap has grown already (RETRIEVAL.md §1.10).

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::StreamExt;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use libp2p::PeerId;

use super::bitswap::Shared;
use super::bitswap::peer::Peer;
use super::client::Client;
use super::http::{HttpMetrics, Opened};
use crate::exchange::car::{self, Car, Carrier, Claim, Received};
use crate::exchange::{Arrival, Below, ExchangeEvent, Want};
use crate::ipld::Cid;
use crate::record::Transport;

/// A stream that was opened ahead is left after this long: before the peer closes it (ours do after 15 s).
const SPARE: Duration = Duration::from_secs(10);

/// What we know of a peer's gateway, and the CAR that is under way there. Lives as long as the peer is connected.
#[derive(Debug, Default)]
pub struct Cars {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    gateway: Gateway,
    car: Option<Car>,
    next: u64,
    /// A stream for the next request, and since when.
    spare: Option<(Instant, Opened)>,
    /// One is being opened.
    opening: bool,
}

#[derive(Debug, Default)]
enum Gateway {
    #[default]
    Unknown,
    /// None, or it is being asked where.
    None,
    /// Under this path, with a slash at its end.
    At(String),
}

/// How a request for a CAR ended.
enum End {
    Car(car::End),
    /// It has not the root.
    DontHave,
    /// It gives none.
    NoCar,
    /// No answer.
    Failed(String),
}

/// The peer that a CAR comes from.
struct Source<'a> {
    shared: &'a Shared,
    metrics: &'a HttpMetrics,
    peer: &'a Peer,
}

impl Carrier for Source<'_> {
    fn peer(&self) -> PeerId {
        self.peer.id
    }

    fn car<T>(&self, number: u64, look: impl FnOnce(&mut Car) -> T) -> Option<T> {
        self.peer.cars.lock().car.as_mut().filter(|car| car.number == number).map(look)
    }

    fn count(&self, bytes: usize) -> (Arrival, Option<usize>) {
        self.metrics.car_bytes.inc_by(bytes as u64);
        self.peer.read(bytes);
        (self.peer.arrival(), self.peer.progress(bytes, Instant::now()))
    }

    fn verified(&self) {
        self.metrics.car_blocks.inc();
    }

    async fn emit(&self, event: ExchangeEvent) {
        self.shared.emit(event).await;
    }
}

impl State {
    fn has_spare(&self) -> bool {
        self.spare.as_ref().is_some_and(|(since, spare)| since.elapsed() < SPARE && spare.is_open())
    }
}

impl Cars {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes wants back. A CAR of which nothing is wanted any more ends.
    pub fn release(&self, cids: &[Cid]) {
        let mut state = self.lock();
        let mut released = false;
        for cid in cids {
            released |= state.car.as_mut().is_some_and(|car| car.release(cid));
        }
        if released && let Some(car) = state.car.take_if(|car| car.attached() == 0) {
            car.end();
        }
    }

    /// The peer is gone.
    pub fn close(&self) {
        if let Some(car) = std::mem::take(&mut *self.lock()).car {
            car.end();
        }
    }

    /// Splits wants into what the CAR under way has, what waits for it, and the rest.
    fn claim(&self, wants: Vec<Want>) -> (Vec<Received>, Vec<Want>) {
        let mut state = self.lock();
        let Some(car) = &mut state.car else { return (Vec::new(), wants) };
        let (mut held, mut rest) = (Vec::new(), Vec::new());
        for want in wants {
            match car.claim(&want) {
                Claim::Held(received) => held.push(*received),
                Claim::Attached => {}
                Claim::None => rest.push(want),
            }
        }
        (held, rest)
    }

    fn take(&self, number: u64) -> Option<Car> {
        self.lock().car.take_if(|car| car.number == number)
    }

    fn gateway(&self, gateway: Gateway) {
        self.lock().gateway = gateway;
    }

    fn take_spare(&self) -> Option<Opened> {
        let mut state = self.lock();
        let fresh = state.has_spare();
        state.spare.take().filter(|_| fresh).map(|(_, spare)| spare)
    }

    /// Forgets a spare that nobody has used in its time.
    fn drop_spare(&self) {
        self.lock().spare.take_if(|(since, _)| since.elapsed() >= SPARE);
    }
}

impl Client {
    /// Takes the wants that a CAR of the peer answers, and asks for one where that helps. What is left is Bitswap's.
    pub(super) fn by_car(&self, peer: &Arc<Peer>, wants: Vec<Want>) -> Vec<Want> {
        let (held, mut rest) = peer.cars.claim(wants);
        let supervisor = &self.inner.http.supervisor;
        if !held.is_empty() {
            let (client, peer) = (self.clone(), peer.clone());
            supervisor.spawn_short(async move {
                let source = client.source(&peer);
                for received in held {
                    car::hand_over(&source, received).await;
                }
            });
        }
        let Some(at) = rest.iter().position(car::may_answer) else { return rest };
        if !self.gives_cars(&peer.id) {
            return rest;
        }
        let mut state = peer.cars.lock();
        match &state.gateway {
            // Where others help, the beginning of a file is worth no second round trip.
            Gateway::At(_) if matches!(rest[at].below, Below::First(_)) && !state.has_spare() => {
                drop(state);
                self.open_spare(peer);
            }
            Gateway::At(path) if state.car.is_none() => {
                let path = path.clone();
                let Ok(place) = self.inner.http.cars.clone().try_acquire_owned() else {
                    self.inner.http.metrics.limit_cars.inc();
                    return rest;
                };
                let want = rest.swap_remove(at);
                let number = state.next;
                state.next += 1;
                let (client, peer) = (self.clone(), peer.clone());
                let reading = supervisor.spawn_short(async move {
                    client.fetch_car(&peer, want, &path, number).await;
                    drop(place);
                });
                state.car = Some(Car::new(number, want, reading.abort_handle()));
            }
            Gateway::Unknown => {
                state.gateway = Gateway::None;
                let (client, peer) = (self.clone(), peer.clone());
                supervisor.spawn_short(async move {
                    if let Ok(path) = client.gateway_path(peer.id, Vec::new(), false).await {
                        peer.cars.gateway(Gateway::At(path));
                        client.open_spare(&peer);
                    }
                });
            }
            _ => {}
        }
        rest
    }

    fn gives_cars(&self, peer: &PeerId) -> bool {
        self.serves_http(peer)
            && self.view(|v| v.peers.get(peer).is_some_and(|p| p.transport == Transport::BitswapQuic))
    }

    /// Opens a stream for the next CAR, which then costs no round trip for it. It is left after a time without use.
    fn open_spare(&self, peer: &Arc<Peer>) {
        if std::mem::replace(&mut peer.cars.lock().opening, true) {
            return;
        }
        let (client, peer) = (self.clone(), Arc::downgrade(peer));
        let stop = self.inner.http.supervisor.token();
        self.inner.http.supervisor.spawn_short(async move {
            let Some(id) = peer.upgrade().map(|peer| peer.id) else { return };
            let opened = tokio::select! {
                opened = client.http_open(id, Vec::new(), false) => opened,
                () = stop.cancelled() => return,
            };
            let Some(known) = peer.upgrade() else { return };
            {
                let mut state = known.cars.lock();
                state.opening = false;
                let Ok(opened) = opened else { return };
                state.spare = Some((Instant::now(), opened));
            }
            drop(known);
            tokio::select! {
                () = tokio::time::sleep(SPARE) => {}
                () = stop.cancelled() => {}
            }
            if let Some(known) = peer.upgrade() {
                known.cars.drop_spare();
            }
        });
    }

    fn source<'a>(&'a self, peer: &'a Peer) -> Source<'a> {
        Source { shared: &self.inner.shared, metrics: &self.inner.http.metrics, peer }
    }

    async fn fetch_car(&self, peer: &Arc<Peer>, root: Want, path: &str, number: u64) {
        let end = self.ask_for_car(peer, &root, path, number).await;
        // Whoever took the wants back has taken the CAR too.
        let Some(car) = peer.cars.take(number) else { return };
        let shared = &self.inner.shared;
        let rootless = car.waits_for(&root.cid);
        let wrong = match end {
            End::Car(car::End::Wrong(reason)) => Some(reason),
            End::Car(car::End::Whole) if rootless => Some("a CAR without the block that was asked for"),
            End::DontHave => {
                return shared.emit(ExchangeEvent::DontHave { peer: peer.id, cid: root.cid }).await;
            }
            End::NoCar => {
                tracing::debug!(peer = %peer.id, "peer gives no CARs");
                peer.cars.gateway(Gateway::None);
                None
            }
            End::Car(car::End::Broken(cause)) | End::Failed(cause) => {
                tracing::debug!(peer = %peer.id, root = %root.cid, cause, "CAR over libp2p");
                None
            }
            End::Car(_) => None,
        };
        if let Some(reason) = wrong {
            tracing::debug!(peer = %peer.id, root = %root.cid, reason, "CAR over libp2p");
            peer.cars.gateway(Gateway::None);
            // Whoever hears of it takes all wants back.
            return shared.emit(ExchangeEvent::Invalid { peer: peer.id, reason }).await;
        }
        let rest = car.into_wants();
        if !rest.is_empty() && peer.want(&rest).is_err() {
            let cids = rest.iter().map(|want| want.cid).collect();
            shared.emit(ExchangeEvent::SendFailed { peer: peer.id, cids }).await;
        }
    }

    async fn ask_for_car(&self, peer: &Arc<Peer>, root: &Want, path: &str, number: u64) -> End {
        let request = Request::get(format!("{path}{}", car::target(root)))
            .header(ACCEPT, car::ACCEPTED)
            .header(car::ONLY_IF_CACHED.0, car::ONLY_IF_CACHED.1)
            .body(());
        let Ok(request) = request else { return End::NoCar };
        let answer = match peer.cars.take_spare() {
            Some(stream) => self.http_over(stream, request).await,
            None => self.http(peer.id, Vec::new(), false, request).await,
        };
        self.open_spare(peer);
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => return End::Failed(error.to_string()),
        };
        let kind = answer.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        match answer.status() {
            StatusCode::OK if kind.starts_with(car::MEDIA_TYPE) => {
                self.inner.http.metrics.cars.inc();
                let (peer_id, transport) = (peer.id, Transport::HttpLibp2p);
                self.inner.shared.emit(ExchangeEvent::Whole { peer: peer_id, root: root.cid, transport }).await;
                let body = answer.into_body().into_data_stream();
                let body = body.map(|chunk| chunk.map_err(|error| error.to_string()));
                End::Car(car::read(&self.source(peer), number, body).await)
            }
            status if car::has_not(status) => End::DontHave,
            status if status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error() => {
                End::Failed(format!("status {status}"))
            }
            _ => End::NoCar,
        }
    }
}
