//! One question to a provider, and what its answer says.

use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use http::header::{ACCEPT, HeaderMap, RETRY_AFTER};
use http::{Method, StatusCode};
use reqwest::Response;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::peer::Peer;
use super::{BODY_BUDGET, Inner, dial};
use crate::exchange::car::{ONLY_IF_CACHED, Received, has_not};
use crate::exchange::{Arrival, ExchangeEvent, Want, WantKind};
use crate::ipld::cid::canonical;
use crate::ipld::{Block, Cid, MAX_BLOCK_SIZE};

pub(super) const RAW: &str = "application/vnd.ipld.raw";
/// The pause after a 429 or 503 that names none.
const UNNAMED_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause that is believed.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// What came of one request.
#[derive(Debug)]
pub(super) enum Answer {
    Block(Box<Received>),
    Have,
    DontHave,
    /// Bytes that are not the block.
    Wrong(&'static str),
    /// 429 or 503: nothing for this long.
    Busy(Duration),
    /// A status that says neither yes nor no; a redirect is one.
    Refused(u16),
    /// No whole answer came.
    Broken(String),
}

pub(super) async fn ask(inner: &Inner, peer: &Peer, want: &Want) -> Answer {
    let Ok(url) = peer.base.join(&format!("ipfs/{}?format=raw", canonical(&want.cid))) else {
        return Answer::Refused(0);
    };
    // Where HEAD is not answered, the block is the answer.
    let method = if want.kind == WantKind::Have && peer.heads { Method::HEAD } else { Method::GET };
    let head = method == Method::HEAD;
    let request = peer.client.request(method, url).header(ACCEPT, RAW).header(ONLY_IF_CACHED.0, ONLY_IF_CACHED.1);
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Answer::Broken(dial::cause(&error)),
    };
    match response.status() {
        StatusCode::OK if head => Answer::Have,
        StatusCode::OK => body(inner, peer, want.cid, response).await,
        _ => no_content(&response),
    }
}

/// What an answer other than 200 says.
pub(super) fn no_content(response: &Response) -> Answer {
    match response.status() {
        status if has_not(status) => Answer::DontHave,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
            Answer::Busy(pause(response.headers(), SystemTime::now()))
        }
        status => Answer::Refused(status.as_u16()),
    }
}

async fn body(inner: &Inner, peer: &Peer, cid: Cid, mut response: Response) -> Answer {
    const TOO_LARGE: &str = "a body over the size of a block";
    let declared = response.content_length();
    if declared.is_some_and(|length| length > MAX_BLOCK_SIZE as u64) {
        return Answer::Wrong(TOO_LARGE);
    }
    let room = declared.map_or(MAX_BLOCK_SIZE, |length| length as usize);
    let _permit = reserve(inner, room).await;
    let mut bytes = BytesMut::with_capacity(declared.map_or(0, |length| length as usize));
    let mut arrival = Arrival { at: Instant::now(), received: None };
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => {
                if bytes.len() + chunk.len() > MAX_BLOCK_SIZE {
                    return Answer::Wrong(TOO_LARGE);
                }
                let report;
                (arrival, report) = peer.count(chunk.len(), Instant::now());
                inner.metrics.received.inc_by(chunk.len() as u64);
                bytes.extend_from_slice(&chunk);
                // Of the last part the block itself tells.
                if let Some(bytes) = report {
                    inner.emit(ExchangeEvent::Progress { peer: peer.id, bytes, arrival }).await;
                }
            }
            Ok(None) => break,
            Err(error) => return Answer::Broken(dial::cause(&error)),
        }
    }
    let wire_bytes = bytes.len();
    match Block::verify(cid, bytes.freeze()) {
        Ok(block) => Answer::Block(Box::new(Received { block, wire_bytes, arrival })),
        Err(_) => Answer::Wrong("a body that is not the block"),
    }
}

/// Room in memory for a whole body: taken at once, so that no two bodies wait for each other's rest.
async fn reserve(inner: &Inner, bytes: usize) -> Option<OwnedSemaphorePermit> {
    if let Some(permit) = reserve_at_once(inner, bytes) {
        return Some(permit);
    }
    inner.metrics.limit_bodies.inc();
    inner.budget.clone().acquire_many_owned(kib(bytes)).await.ok()
}

/// The same where there is room now.
pub(super) fn reserve_at_once(inner: &Inner, bytes: usize) -> Option<OwnedSemaphorePermit> {
    inner.budget.clone().try_acquire_many_owned(kib(bytes)).ok()
}

fn kib(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(1024).clamp(1, BODY_BUDGET)).unwrap_or(1)
}

/// `Retry-After`: seconds or a date (RFC 9110 §10.2.3).
fn pause(headers: &HeaderMap, now: SystemTime) -> Duration {
    let Some(text) = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()) else { return UNNAMED_PAUSE };
    let seconds = text.trim().parse().map(Duration::from_secs).ok();
    let until = || httpdate::parse_http_date(text.trim()).ok()?.duration_since(now).ok();
    seconds.or_else(until).unwrap_or(UNNAMED_PAUSE).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_seconds_or_a_date_and_never_without_end() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let read = |text: &str| pause(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]), now);
        assert_eq!(read("7"), Duration::from_secs(7));
        assert_eq!(read(&httpdate::fmt_http_date(now + Duration::from_secs(90))), Duration::from_secs(90));
        assert_eq!(read("99999999999"), LONGEST_PAUSE);
        assert_eq!(read("soon"), UNNAMED_PAUSE);
        assert_eq!(pause(&HeaderMap::new(), now), UNNAMED_PAUSE);
    }
}
