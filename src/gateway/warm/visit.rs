//! Which of the answers that are made anew are kept.

use bytes::Bytes;
use futures::stream::Stream;
use http::header::{ETAG, HeaderMap, LAST_MODIFIED, RANGE};
use http::{Method, StatusCode};

use super::super::handler::{self, Ask, Visit};
use super::fill::{Begun, Facts};
use crate::record::CacheState;
use crate::retriever::Session;

impl Ask {
    /// Its address fixes the whole answer for ever.
    pub(in super::super) fn is_keepable(&self) -> bool {
        self.info.slot.is_some()
            && self.method == Method::GET
            && self.mutable.is_none()
            && self.policy.is_none()
            && !self.headers.contains_key(RANGE)
    }
}

impl Visit<'_> {
    /// Keeps the answer if it is one to keep and all of it is in memory; the body stays the same.
    pub(in super::super) fn keep<S, E>(
        &self,
        status: StatusCode,
        out: &HeaderMap,
        stream: S,
        length: Option<u64>,
    ) -> Begun<S, E>
    where
        S: Stream<Item = Result<Bytes, E>> + Unpin,
    {
        let ask = self.ask;
        let Some(slot) = ask.info.slot.as_ref().filter(|_| status == StatusCode::OK && ask.is_keepable()) else {
            return Begun::untouched(stream);
        };
        let from_memory = |session: &Session| session.report().cache_state() == CacheState::Memory;
        if !from_memory(&self.session) {
            self.session.take_reads();
            return Begun::untouched(stream);
        }
        let facts = Facts {
            headers: out,
            modified: out.get(LAST_MODIFIED).and_then(|at| httpdate::parse_http_date(at.to_str().ok()?).ok()),
            length,
            known_at_once: out
                .get(ETAG)
                .is_some_and(|etag| handler::validators(ask).iter().any(|known| etag == known.as_str())),
            root: ask.root,
            path: ask.path.to_string(),
            format: ask.negotiated.format.name(),
        };
        let begun = self
            .gateway
            .warm
            .keep(slot, &facts, stream, || self.session.take_reads().filter(|_| from_memory(&self.session)));
        self.session.take_reads();
        begun
    }
}
