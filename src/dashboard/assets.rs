//! The embedded files under `/static/`: hashed and compressed once, answered with strong ETags.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::LazyLock;

use axum::extract::{Path, RawQuery};
use axum::http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use include_dir::{Dir, include_dir};
use multihash_codetable::{Code, MultihashDigest};

static FILES: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/static");

/// Files smaller than this are not worth compressing, in bytes.
const COMPRESS_FROM: usize = 512;
/// Characters of the hash in URLs and ETags: 64 bits.
const HASH_CHARS: usize = 16;

struct Asset {
    content_type: String,
    hash: String,
    plain: Bytes,
    gzip: Option<Bytes>,
    brotli: Option<Bytes>,
}

static ASSETS: LazyLock<BTreeMap<String, Asset>> = LazyLock::new(|| {
    let mut assets = BTreeMap::new();
    collect(&FILES, &mut assets);
    assets
});

/// Hashes and compresses the files now rather than at the first request (some 50 ms in a release build).
pub fn prepare() {
    LazyLock::force(&ASSETS);
}

/// `/static/PATH?v=HASH`.
pub fn url(path: &str) -> String {
    match ASSETS.get(path) {
        Some(asset) => format!("/static/{path}?v={}", asset.hash),
        None => format!("/static/{path}"),
    }
}

/// `GET /static/{*path}`. With the right `?v=` the answer may be kept for ever, otherwise it is asked for again.
pub async fn serve(Path(path): Path<String>, RawQuery(query): RawQuery, headers: HeaderMap) -> Response {
    let Some(asset) = ASSETS.get(&path) else { return StatusCode::NOT_FOUND.into_response() };
    let accepted = headers.get(ACCEPT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (body, encoding) = match (&asset.brotli, &asset.gzip) {
        (Some(body), _) if accepts(accepted, "br") => (body, Some("br")),
        (_, Some(body)) if accepts(accepted, "gzip") => (body, Some("gzip")),
        _ => (&asset.plain, None),
    };
    let fixed = query.as_deref().and_then(|query| query.strip_prefix("v=")) == Some(asset.hash.as_str());
    let cache = if fixed { "public, max-age=31536000, immutable" } else { "no-cache" };
    // A strong ETag names the bytes as sent, so each encoding has its own (RFC 9110 §8.8.3.3).
    let etag = match encoding {
        Some(encoding) => format!("\"{}-{encoding}\"", asset.hash),
        None => format!("\"{}\"", asset.hash),
    };
    let known = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let unchanged = known.flat_map(|list| list.split(',')).any(|tag| {
        let tag = tag.trim();
        tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag
    });
    let mut response = if unchanged { StatusCode::NOT_MODIFIED.into_response() } else { body.clone().into_response() };
    let mut set = |name, text: &str| {
        if let Ok(value) = HeaderValue::from_str(text) {
            response.headers_mut().insert(name, value);
        }
    };
    set(ETAG, &etag);
    set(CACHE_CONTROL, cache);
    set(VARY, "accept-encoding");
    if !unchanged {
        set(CONTENT_TYPE, &asset.content_type);
        if let Some(encoding) = encoding {
            set(CONTENT_ENCODING, encoding);
        }
    }
    response
}

fn collect(dir: &'static Dir<'static>, assets: &mut BTreeMap<String, Asset>) {
    for file in dir.files() {
        let path = file.path().to_string_lossy().replace('\\', "/");
        assets.insert(path.clone(), Asset::new(&path, file.contents()));
    }
    for dir in dir.dirs() {
        collect(dir, assets);
    }
}

impl Asset {
    fn new(path: &str, contents: &'static [u8]) -> Self {
        let mime = mime_guess::from_path(path).first_or_octet_stream();
        let is_text = mime.type_() == "text" || matches!(mime.subtype().as_str(), "javascript" | "json" | "svg");
        let content_type = if is_text { format!("{mime}; charset=utf-8") } else { mime.to_string() };
        let mut hash = hex::encode(Code::Blake3_256.digest(contents).digest());
        hash.truncate(HASH_CHARS);
        let smaller = |body: Vec<u8>| (body.len() < contents.len()).then(|| Bytes::from(body));
        let worth = is_text && contents.len() >= COMPRESS_FROM;
        Self {
            content_type,
            hash,
            plain: Bytes::from_static(contents),
            gzip: if worth { smaller(gzip(contents)) } else { None },
            brotli: if worth { smaller(brotli(contents)) } else { None },
        }
    }
}

/// Empty on failure, which is then not smaller and not used; writing to memory does not fail.
fn gzip(contents: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    let written = encoder.write_all(contents).and_then(|()| encoder.finish());
    written.unwrap_or_else(|_| contents.to_vec())
}

fn brotli(contents: &[u8]) -> Vec<u8> {
    let params = brotli::enc::BrotliEncoderParams { quality: 9, ..Default::default() };
    let mut out = Vec::new();
    match brotli::BrotliCompress(&mut &contents[..], &mut out, &params) {
        Ok(_) => out,
        Err(_) => contents.to_vec(),
    }
}

/// Whether an `Accept-Encoding` takes a coding: named, and not with `q=0`.
fn accepts(header: &str, coding: &str) -> bool {
    header.split(',').any(|item| {
        let mut parts = item.split(';').map(str::trim);
        let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case(coding));
        let refused =
            parts.any(|part| part.strip_prefix("q=").is_some_and(|q| q.parse::<f32>().map_or(true, |q| q <= 0.0)));
        named && !refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codings_with_q_zero_are_not_accepted() {
        assert!(accepts("gzip, deflate, br;q=0.5", "br"));
        assert!(!accepts("gzip;q=0, br;q=0.000", "gzip"));
        assert!(!accepts("identity", "gzip"));
    }

    #[test]
    fn embedded_files_have_hashed_urls_and_right_types() {
        assert!(url("app.css").starts_with("/static/app.css?v="));
        assert_eq!(ASSETS["app.js"].content_type, "text/javascript; charset=utf-8");
        assert_eq!(ASSETS["favicon.svg"].content_type, "image/svg+xml; charset=utf-8");
        assert!(ASSETS["vendor/htmx.min.js"].brotli.as_ref().is_some_and(|body| body.len() < 20_000));
    }
}
