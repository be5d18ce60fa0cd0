//! The OpenAPI 3.1 document: what the handlers' annotations say, and what holds for every operation.
//!
//! An annotation names what is particular to its operation. `finish` adds the rest: operation ids, the problem schema of
//! every 4xx and 5xx, the errors that any request may meet, ETag and 304 on JSON reads, and the scope a token needs.

use std::sync::OnceLock;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Method};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use utoipa::PartialSchema;
use utoipa::ToSchema;
use utoipa::openapi::header::Header;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::response::Response as Described;
use utoipa::openapi::schema::{Object, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::Tag;
use utoipa::openapi::{ComponentsBuilder, Content, Info, License, OpenApi, OpenApiBuilder, Ref, RefOr, Server};

use super::problem::{Document, Problem};
use super::scope;

/// Bytes as they are.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
pub struct Binary(#[allow(dead_code)] Vec<u8>);

/// The entries of a tree, each under its relative path as `filename`.
#[derive(ToSchema)]
pub struct Tree {
    #[allow(dead_code)]
    file: Vec<Binary>,
}

/// Tags in the order of the page: name and what is there.
pub(super) const TAGS: [(&str, &str); 9] = [
    ("content", "Adding content, pins, caches, maintenance of the store"),
    ("retrievals", "What was fetched, and how"),
    ("network", "Peers, links, placement"),
    ("names", "IPNS records"),
    ("reports", "Reports, imported measurements, hardware"),
    ("webgpu", "Measurements of browsers and native GPUs"),
    ("node", "This server"),
    ("tokens", "Tokens and their scopes"),
    ("health", "Metrics, health, this document"),
];

/// Answers that any operation may give, by status.
const COMMON: [(&str, &str, &str); 6] = [
    (
        "400",
        "BadRequest",
        "A parameter is wrong, given twice or unknown, or the Host header is missing or given twice.",
    ),
    ("401", "Unauthorized", "A token is needed: the listener is not loopback."),
    (
        "403",
        "Forbidden",
        "The Host is not allowed, the request comes from another site, or the token's scope is too small.",
    ),
    (
        "429",
        "TooManyRequests",
        "Too many requests from this address or with this token; Retry-After has whole seconds.",
    ),
    ("500", "Internal", "Our fault; the log has the reason."),
    ("503", "Unavailable", "The server is stopping, or what is needed is off or away; Retry-After."),
];
/// A request without a body is one with an empty file.
const BODY_OPTIONAL: [&str; 1] = ["/api/v1/add"];
const PROBLEM_JSON: &str = "application/problem+json";
const JSON: &str = "application/json";

/// The document as it is served: made once.
pub struct Rendered {
    pub json: Bytes,
}

/// The document of all routes.
pub fn rendered() -> &'static Rendered {
    static RENDERED: OnceLock<Rendered> = OnceLock::new();
    RENDERED.get_or_init(|| {
        let (_, document) = super::routes().split_for_parts();
        // Local invariant: a document of maps with text keys is JSON.
        let mut document = serde_json::to_value(finish(document)).expect("the document is JSON");
        plain(&mut document);
        let json = document.to_string().into_bytes();
        Rendered { json: json.into() }
    })
}

/// This document
#[utoipa::path(
    get, path = "/openapi.json", tag = "health",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value))
)]
pub async fn serve() -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static(JSON))], rendered().json.clone()).into_response()
}

/// The frame that routes are added to.
pub(super) fn base() -> OpenApi {
    let mut info = Info::new("Tidegate", env!("CARGO_PKG_VERSION"));
    info.description = Some(
        "The admin listener of a Tidegate server. Times are microseconds since the epoch (`_us`), durations carry their \
         unit in the name, a figure that was not measured is null. Lists have `items` and `next_cursor`. Errors are \
         RFC 9457 problem documents. On a loopback listener no token is asked for."
            .to_owned(),
    );
    let mut license = License::new("MIT OR Apache-2.0");
    license.identifier = Some("MIT OR Apache-2.0".to_owned());
    info.license = Some(license);
    let components = ComponentsBuilder::new()
        .security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)))
        .security_scheme("basic", SecurityScheme::Http(Http::new(HttpAuthScheme::Basic)));
    OpenApiBuilder::new()
        .info(info)
        .servers(Some([Server::new("/")]))
        .tags(Some(TAGS.map(|(name, description)| {
            let mut tag = Tag::new(name);
            tag.description = Some(description.to_owned());
            tag
        })))
        .components(Some(components.build()))
        .build()
}

/// Adds what holds for every operation.
pub(super) fn finish(mut document: OpenApi) -> OpenApi {
    let components = document.components.get_or_insert_default();
    let mut schemas = vec![(Document::name().into_owned(), Document::schema())];
    Document::schemas(&mut schemas);
    components.schemas.extend(schemas);
    for (_, name, description) in COMMON {
        components.responses.insert(name.to_owned(), RefOr::T(problem(description)));
    }
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            complete(&method, path, operation);
        }
    }
    document
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    [
        (Method::GET, item.get.as_mut()),
        (Method::PUT, item.put.as_mut()),
        (Method::POST, item.post.as_mut()),
        (Method::DELETE, item.delete.as_mut()),
        (Method::PATCH, item.patch.as_mut()),
    ]
    .into_iter()
    .filter_map(|(method, operation)| operation.map(|operation| (method, operation)))
}

fn complete(method: &Method, path: &str, operation: &mut Operation) {
    operation.operation_id = Some(operation_id(method, path));
    if let Some(RefOr::T(body)) = &mut operation.request_body
        && BODY_OPTIONAL.contains(&path)
    {
        body.required = Some(utoipa::openapi::Required::False);
    }
    let open = super::access::OPEN_PATHS.contains(&path);
    for response in operation.responses.responses.iter_mut().filter(|(status, _)| is_error(status)).map(|(_, r)| r) {
        if let RefOr::T(response) = response
            && response.content.is_empty()
        {
            response.content = problem("").content;
        }
    }
    for (status, name, _) in COMMON {
        if open && matches!(status, "401" | "429" | "500" | "503") {
            continue;
        }
        let known = operation.responses.responses.entry(status.to_owned());
        known.or_insert_with(|| RefOr::Ref(Ref::from_response_name(name)));
    }
    let tagged = match operation.responses.responses.get_mut("200") {
        Some(RefOr::T(response)) if method == Method::GET && response.content.contains_key(JSON) && !open => {
            let mut etag = Header::new(Object::with_type(Type::String));
            etag.description = Some("Strong; absent on answers over 4 MiB.".to_owned());
            response.headers.insert("ETag".to_owned(), RefOr::T(etag));
            true
        }
        _ => false,
    };
    if tagged {
        let unchanged = Described::new("Unchanged: the client has what If-None-Match names.");
        operation.responses.responses.entry("304".to_owned()).or_insert(RefOr::T(unchanged));
    }
    let bounded = operation.parameters.iter().flatten().any(|parameter| match parameter {
        RefOr::T(parameter) => parameter.parameter_in == ParameterIn::Path,
        RefOr::Ref(_) => false,
    });
    if bounded && !operation.responses.responses.contains_key("404") {
        let missing = problem("There is none.");
        operation.responses.responses.insert("404".to_owned(), RefOr::T(missing));
    }
    if !open {
        let needed = scope::needed(method, path).as_str();
        let with = |scheme: &str| SecurityRequirement::new(scheme, [needed]);
        // The empty one: loopback listeners ask for none.
        operation.security = Some(vec![with("bearer"), with("basic"), SecurityRequirement::default()]);
    }
}

/// Descriptions come from doc comments: what is written there for readers of Rust is put into JSON's words.
fn plain(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::Object(map) => map.iter_mut().for_each(|(key, value)| match value {
            Value::String(text) if key == "description" || key == "summary" => {
                *text = text.replace("`None`", "null").replace("[`", "`").replace("`]", "`");
            }
            value => plain(value),
        }),
        Value::Array(items) => items.iter_mut().for_each(plain),
        _ => {}
    }
}

fn is_error(status: &str) -> bool {
    status.starts_with('4') || status.starts_with('5')
}

fn problem(description: &str) -> Described {
    let mut response = Described::new(description);
    let content = Content::new(Some(Ref::from_schema_name(Document::name())));
    response.content.insert(PROBLEM_JSON.to_owned(), content.into());
    response
}

/// `put_pins_cid` of `PUT /api/v1/pins/{cid}`.
fn operation_id(method: &Method, path: &str) -> String {
    let path = path.strip_prefix("/api/v1").unwrap_or(path);
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    std::iter::once(method.as_str().to_ascii_lowercase()).chain(words.map(str::to_owned)).collect::<Vec<_>>().join("_")
}

/// For a request to a path that the API does not have.
pub(super) fn no_resource(path: &str) -> Problem {
    Problem::not_found(format!("the API has no resource {path}; /api lists those it has"))
}

#[cfg(test)]
#[path = "openapi_tests.rs"]
mod tests;
