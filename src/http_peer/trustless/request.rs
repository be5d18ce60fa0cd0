//! One question to a provider, and what its answer says.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, CONTENT_RANGE, HeaderMap, RANGE, RETRY_AFTER};
use http::{Method, StatusCode};
use reqwest::Response;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::joint::{Claim, End, Lead};
use super::peer::Peer;
use super::{BODY_BUDGET, Inner, dial};
use crate::exchange::car::{ONLY_IF_CACHED, Received, has_not};
use crate::exchange::{Arrival, ExchangeEvent, Want, WantKind};
use crate::ipld::cid::canonical;
use crate::ipld::{Block, Cid, MAX_BLOCK_SIZE};

pub(super) const RAW: &str = "application/vnd.ipld.raw";
/// The pause after a 429 or 503 that names none.
const UNNAMED_PAUSE: Duration = Duration::from_secs(1);
const TOO_LARGE: &str = "a body over the size of what was asked for";
/// The longest pause that is believed.
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// What came of one request.
#[derive(Debug)]
pub(super) enum Answer {
    Block(Box<Received>),
    /// The end of a block that another sends the beginning of.
    End(Box<Brought>),
    /// What others brought of the block and what this provider sent of it are not the block.
    Doubtful(Vec<End>),
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

/// Bytes of the end of a block, and where they belong.
#[derive(Debug)]
pub(super) struct Brought {
    pub(super) claim: Claim,
    pub(super) end: End,
    /// The size of the block.
    pub(super) total: usize,
    pub(super) arrival: Arrival,
}

pub(super) async fn ask(inner: &Inner, peer: &Peer, want: &Want) -> Answer {
    if let Some(claim) = want.end.and_then(|bytes| inner.joints.claim(&want.cid, bytes)) {
        return ask_with(inner, peer, want, Some(claim), None).await;
    }
    let lead = (want.kind == WantKind::Block).then(|| inner.joints.lead(want.cid));
    ask_with(inner, peer, want, None, lead.as_ref()).await
}

/// Asks for all of a block, which nobody helps with.
pub(super) async fn ask_alone(inner: &Inner, peer: &Peer, want: &Want) -> Answer {
    ask_with(inner, peer, want, None, None).await
}

async fn ask_with(inner: &Inner, peer: &Peer, want: &Want, claim: Option<Claim>, lead: Option<&Lead<'_>>) -> Answer {
    let Ok(url) = peer.base.join(&format!("ipfs/{}?format=raw", canonical(&want.cid))) else {
        return Answer::Refused(0);
    };
    // Where HEAD is not answered, the block is the answer.
    let method = if want.kind == WantKind::Have && peer.heads { Method::HEAD } else { Method::GET };
    let head = method == Method::HEAD;
    let mut request = peer.client.request(method, url).header(ACCEPT, RAW).header(ONLY_IF_CACHED.0, ONLY_IF_CACHED.1);
    if let Some(claim) = &claim {
        request = request.header(RANGE, claim.range());
    }
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) => return Answer::Broken(dial::cause(&error)),
    };
    match (response.status(), claim) {
        (StatusCode::OK, _) if head => Answer::Have,
        (StatusCode::OK, _) => block(inner, peer, want.cid, response, lead).await,
        (StatusCode::PARTIAL_CONTENT, Some(claim)) => end(inner, peer, claim, response).await,
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

async fn block(inner: &Inner, peer: &Peer, cid: Cid, response: Response, lead: Option<&Lead<'_>>) -> Answer {
    let declared = response.content_length().and_then(|length| usize::try_from(length).ok());
    if declared.is_some_and(|length| length > MAX_BLOCK_SIZE) {
        return Answer::Wrong(TOO_LARGE);
    }
    if let (Some(lead), Some(length)) = (lead, declared) {
        lead.is_of(length);
    }
    let _permit = reserve(inner, declared.unwrap_or(MAX_BLOCK_SIZE)).await;
    let (mut bytes, arrival) = match read(inner, peer, response, MAX_BLOCK_SIZE, lead).await {
        Ok(read) => read,
        Err(answer) => return answer,
    };
    let wire_bytes = bytes.len();
    let ends = lead.map(|lead| lead.complete(&mut bytes)).unwrap_or_default();
    let own = bytes.len() == wire_bytes;
    match Block::verify(cid, bytes.freeze()) {
        Ok(block) => Answer::Block(Box::new(Received { block, wire_bytes, arrival })),
        Err(_) if own => Answer::Wrong("a body that is not the block"),
        Err(_) => Answer::Doubtful(ends),
    }
}

async fn end(inner: &Inner, peer: &Peer, claim: Claim, response: Response) -> Answer {
    let answered = content_range(response.headers()).filter(|(range, total)| claim.is_answered_by(range, *total));
    let Some((range, total)) = answered else { return Answer::Refused(StatusCode::PARTIAL_CONTENT.as_u16()) };
    let _permit = reserve(inner, range.len()).await;
    match read(inner, peer, response, range.len(), None).await {
        Ok((bytes, arrival)) if bytes.len() == range.len() => {
            let end = End { peer: peer.id, start: range.start, bytes: bytes.freeze() };
            Answer::End(Box::new(Brought { claim, end, total, arrival }))
        }
        Ok(_) => Answer::Broken("the answer ended early".to_owned()),
        Err(answer) => answer,
    }
}

/// Reads a body to its end, or until others have brought the rest.
async fn read(
    inner: &Inner,
    peer: &Peer,
    mut response: Response,
    most: usize,
    lead: Option<&Lead<'_>>,
) -> Result<(BytesMut, Arrival), Answer> {
    let declared = response.content_length().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    let mut bytes = BytesMut::with_capacity(declared.min(most));
    let mut arrival = Arrival { at: Instant::now(), received: None };
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = response.chunk() => chunk,
            () = brought(lead) => Ok(Some(Bytes::new())),
        };
        match chunk {
            Ok(Some(chunk)) => {
                if bytes.len() + chunk.len() > most {
                    return Err(Answer::Wrong(TOO_LARGE));
                }
                let report;
                (arrival, report) = peer.count(chunk.len(), Instant::now());
                inner.metrics.received.inc_by(chunk.len() as u64);
                bytes.extend_from_slice(&chunk);
                // Of the last part the block itself tells.
                if let Some(bytes) = report {
                    inner.emit(ExchangeEvent::Progress { peer: peer.id, bytes, arrival }).await;
                }
                if lead.is_some_and(|lead| lead.reached(bytes.len())) {
                    return Ok((bytes, arrival));
                }
            }
            Ok(None) => return Ok((bytes, arrival)),
            Err(error) => return Err(Answer::Broken(dial::cause(&error))),
        }
    }
}

/// Waits until another brings something.
async fn brought(lead: Option<&Lead<'_>>) {
    match lead {
        Some(lead) => lead.changed().await,
        None => std::future::pending().await,
    }
}

/// `Content-Range` of a part: which bytes, and of how many (RFC 9110 §14.4).
fn content_range(headers: &HeaderMap) -> Option<(Range<usize>, usize)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total): (usize, usize, usize) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    (first <= last && last < total && total <= MAX_BLOCK_SIZE).then_some((first..last + 1, total))
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

    #[test]
    fn a_part_says_which_bytes_it_is() {
        let read = |text: &str| content_range(&HeaderMap::from_iter([(CONTENT_RANGE, text.parse().unwrap())]));
        assert_eq!(read("bytes 100-199/300"), Some((100..200, 300)));
        assert_eq!(read("bytes 0-0/1"), Some((0..1, 1)));
        for bad in [
            "bytes 200-100/300",
            "bytes 0-300/300",
            "bytes 0-1/*",
            "bytes */300",
            "items 0-1/2",
            "bytes 0-1/9999999999999",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
