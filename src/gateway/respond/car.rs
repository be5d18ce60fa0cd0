//! `format=car`: the blocks of a graph, depth first, that a client can verify by itself.

use std::pin::Pin;

use axum::body::Body;
use futures::stream::{Peekable, StreamExt};
use http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, ETAG, HeaderMap, HeaderValue};
use http::{Response, StatusCode};

use super::super::error::GatewayError;
use super::super::format::{CarOptions, Scope};
use super::super::handler::Visit;
use super::super::{headers, size};
use crate::dag::{ByteWindow, CarParams, CarStream, DagScope, Resolved};
use crate::ipld::HashCode;

pub(in super::super) async fn respond(
    visit: &mut Visit<'_>,
    resolved: &Resolved,
    options: CarOptions,
) -> Result<Response<Body>, GatewayError> {
    let etag = etag(visit, resolved, options);
    if let Some(reply) = visit.unchanged(&etag, None) {
        return Ok(reply);
    }
    if options.scope != Scope::Block {
        visit.check_dag(resolved.cid, size::claimed(resolved))?;
    }
    let mut out = HeaderMap::with_capacity(24);
    headers::set_path(&mut out, &visit.ask.path, &resolved.roots);
    out.insert(CONTENT_TYPE, headers::value(&options.content_type()));
    out.insert(ETAG, headers::value(&etag));
    out.insert(CACHE_CONTROL, headers::IMMUTABLE);
    out.insert(ACCEPT_RANGES, HeaderValue::from_static("none"));
    let default_name = format!("{}.car", resolved.cid);
    let name = visit.ask.filename.as_deref().unwrap_or(&default_name);
    out.insert(CONTENT_DISPOSITION, headers::disposition(true, name));

    let params = CarParams {
        scope: match options.scope {
            Scope::Block => DagScope::Block,
            Scope::Entity => DagScope::Entity,
            Scope::All => DagScope::All,
        },
        bytes: options.bytes.map(|(from, to)| ByteWindow { from, to }),
        dups: options.duplicates,
        ..CarParams::default()
    };
    let stream = CarStream::new(visit.session.clone(), resolved, &params).judged(visit.judge.clone());
    let mut stream: Peekable<CarStream> = stream.peekable();
    if !visit.ask.is_head()
        && let Some(Err(error)) = Pin::new(&mut stream).peek().await
    {
        return Err(GatewayError::Car(error.clone()));
    }
    let most = visit.most(false);
    Ok(visit.reply_at_most(StatusCode::OK, out, stream, most))
}

/// Weak: the same graph in another order or with other blocks before it is as good.
fn etag(visit: &Visit<'_>, resolved: &Resolved, options: CarOptions) -> String {
    let path = visit.ask.path.to_url_path();
    let parameters = format!("{path} {:?} {:?} {}", options.scope, options.bytes, options.duplicates);
    let hash = HashCode::Sha2_256.digest(parameters.as_bytes()).map(|hash| hex::encode(&hash.digest()[..8]));
    // sha2-256 has no size that it refuses.
    format!("W/\"{}.car.{}\"", resolved.cid, hash.unwrap_or_default())
}
