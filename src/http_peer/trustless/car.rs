//! A file from one answer: `GET /ipfs/{cid}?format=car&dag-scope=entity` (IPIP-402) saves a round trip for each level of
//! the graph and a request for each block. What becomes of the blocks is [`crate::exchange::car`]'s.

use std::sync::Arc;

use futures::StreamExt;
use http::StatusCode;
use http::header::{ACCEPT, CONTENT_TYPE};
use libp2p::PeerId;
use reqwest::Response;
use tokio::time::Instant;

use super::peer::{self, Peer, Waiting};
use super::request::{self, Answer};
use super::{Inner, dial};
use crate::exchange::car::{self, Car, Carrier};
use crate::exchange::{Arrival, Below, ExchangeEvent, Want};
use crate::record::Transport;

/// How a request for a CAR ended.
enum End {
    Car(car::End),
    /// The provider gives none.
    NoCar,
    /// Too much is in memory.
    NoRoom,
    Answer(Answer),
}

/// A provider that a CAR comes from.
pub(super) struct Provider<'a> {
    pub(super) inner: &'a Inner,
    pub(super) peer: &'a Peer,
}

impl Carrier for Provider<'_> {
    fn peer(&self) -> PeerId {
        self.peer.id
    }

    fn car<T>(&self, number: u64, look: impl FnOnce(&mut Car) -> T) -> Option<T> {
        self.peer.state().car(number).map(look)
    }

    fn count(&self, bytes: usize) -> (Arrival, Option<usize>) {
        self.inner.metrics.received.inc_by(bytes as u64);
        self.peer.count(bytes, Instant::now())
    }

    fn verified(&self) {
        self.inner.metrics.blocks.inc();
        self.peer.answered();
    }

    async fn emit(&self, event: ExchangeEvent) {
        self.inner.emit(event).await;
    }
}

/// Asks for a CAR; see the module.
pub(super) async fn fly(inner: Arc<Inner>, peer: Arc<Peer>, waiting: Waiting, number: u64) {
    let end = ask(&inner, &peer, &waiting.want, number).await;
    // Taken back, or the rest is nobody's.
    let Some(car) = peer.state().take_car(number) else { return peer::pump(&inner, &peer) };
    let (root, rest): (Vec<Want>, Vec<Want>) = car.into_wants().into_iter().partition(|w| w.cid == waiting.want.cid);
    let rootless = !root.is_empty();
    {
        let mut state = peer.state();
        rest.into_iter().for_each(|want| state.put(Waiting { want, failures: 0 }));
    }
    let answer = match end {
        End::Car(car::End::Whole) if rootless => Answer::Wrong("a CAR without the block that was asked for"),
        End::Car(car::End::Wrong(reason)) => Answer::Wrong(reason),
        End::Car(car::End::Broken(cause)) => Answer::Broken(cause),
        End::Answer(answer) => answer,
        End::NoCar | End::NoRoom | End::Car(_) => {
            if matches!(end, End::NoCar) {
                tracing::debug!(address = %peer.address, "HTTP provider gives no CARs");
                peer.gives_no_cars();
            }
            if rootless {
                let want = Want { below: Below::Nothing, ..waiting.want };
                peer.state().put(Waiting { want, ..waiting });
            }
            return peer::pump(&inner, &peer);
        }
    };
    match answer {
        answer if rootless => return peer::settle(inner, peer, waiting, answer).await,
        Answer::Wrong(reason) => return peer::wrong(inner, peer, waiting.want.cid, reason).await,
        Answer::Broken(cause) if peer::broken(&inner, &peer, waiting.want.cid, &cause) => {
            return inner.leave(&peer).await;
        }
        _ => {}
    }
    peer::pump(&inner, &peer);
}

async fn ask(inner: &Inner, peer: &Peer, want: &Want, number: u64) -> End {
    let Ok(url) = peer.base.join(&car::target(want)) else { return End::Answer(Answer::Refused(0)) };
    let Some(_permit) = request::reserve_at_once(inner, car::MEMORY) else { return End::NoRoom };
    let request =
        peer.client.get(url).header(ACCEPT, car::ACCEPTED).header(car::ONLY_IF_CACHED.0, car::ONLY_IF_CACHED.1);
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return End::Answer(Answer::Broken(dial::cause(&error))),
    };
    let is_car = |response: &Response| {
        let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        kind.is_some_and(|kind| kind.starts_with(car::MEDIA_TYPE))
    };
    match response.status() {
        StatusCode::OK if is_car(&response) => {
            inner.metrics.cars.inc();
            inner.emit(ExchangeEvent::Whole { peer: peer.id, root: want.cid, transport: Transport::Http }).await;
            let body = response.bytes_stream().map(|chunk| chunk.map_err(|error| dial::cause(&error)));
            End::Car(car::read(&Provider { inner, peer }, number, body.boxed()).await)
        }
        StatusCode::OK
        | StatusCode::BAD_REQUEST
        | StatusCode::NOT_ACCEPTABLE
        | StatusCode::UNSUPPORTED_MEDIA_TYPE
        | StatusCode::NOT_IMPLEMENTED => End::NoCar,
        _ => End::Answer(request::no_content(&response)),
    }
}
