//! A delegated router asked over HTTP: `GET {base}/routing/v1/providers/{cid}`; its names and peers are in `names`.

mod names;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use futures::stream::BoxStream;
use prometheus_client::metrics::counter::Counter;
use reqwest::header::{ACCEPT, CONTENT_TYPE};
use thiserror::Error;
use url::Url;

use super::routing_v1::{MAX_RESPONSE, NdjsonParser, ParseError, parse_json};
use crate::ipld::{Cid, cid::canonical};
use crate::routing::{ContentRouter, MAX_PROVIDERS, Provider, RouterKind, RoutingError};
use crate::telemetry::Metrics;

/// How long a router may take to answer, and to send the next part of its answer.
pub const TIMEOUT: Duration = Duration::from_secs(10);

const NDJSON: &str = "application/x-ndjson";

#[derive(Debug, Error)]
pub enum RouterUrlError {
    #[error("{url:?} is not an http or https URL")]
    NotHttp { url: String },
    #[error("HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// One router by URL. Configured by the operator, so it may live on a private address; what it *names* may not
/// (the node's dial guard holds that).
#[derive(Debug, Clone)]
pub struct DelegatedRouter {
    base: Url,
    client: reqwest::Client,
    timeout: Duration,
    metrics: DelegatedMetrics,
}

/// Counts over all delegated routers.
#[derive(Debug, Clone)]
pub struct DelegatedMetrics {
    requests: Counter,
    failures: Counter,
    providers: Counter,
}

impl DelegatedMetrics {
    pub fn new(metrics: &Metrics) -> Self {
        let counter = |name, help| metrics.register(name, help, Counter::default());
        Self {
            requests: counter("delegated_requests", "Requests sent to delegated routers"),
            failures: counter(
                "delegated_failures",
                "Requests to delegated routers that ended in an error or a timeout",
            ),
            providers: counter("delegated_providers", "Provider records received from delegated routers"),
        }
    }
}

impl DelegatedRouter {
    /// `base` is the URL before `/routing/v1`; a trailing `/routing/v1` is accepted too.
    pub fn new(base: &str, metrics: DelegatedMetrics) -> Result<Self, RouterUrlError> {
        Self::with_timeout(base, TIMEOUT, metrics)
    }

    /// As [`DelegatedRouter::new`], with another patience than [`TIMEOUT`].
    pub fn with_timeout(base: &str, timeout: Duration, metrics: DelegatedMetrics) -> Result<Self, RouterUrlError> {
        let bad = || RouterUrlError::NotHttp { url: base.to_owned() };
        let trimmed = base.trim_end_matches('/').trim_end_matches("/routing/v1");
        let base = Url::parse(&format!("{trimmed}/")).map_err(|_| bad())?;
        if !matches!(base.scheme(), "http" | "https") || base.host_str().is_none() {
            return Err(bad());
        }
        let client = reqwest::Client::builder()
            .user_agent(concat!("tidegate/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(timeout)
            .read_timeout(timeout)
            .build()?;
        Ok(Self { base, client, timeout, metrics })
    }

    pub fn url(&self) -> &Url {
        &self.base
    }

    async fn request(&self, cid: Cid) -> Result<reqwest::Response, RoutingError> {
        let url = self.endpoint(&format!("providers/{}", canonical(&cid)))?;
        self.send(self.client.get(url).header(ACCEPT, format!("{NDJSON}, application/json;q=0.9"))).await
    }

    fn endpoint(&self, resource: &str) -> Result<Url, RoutingError> {
        // Local invariant: the text of a CID is a valid relative reference.
        let url = self.base.join(&format!("routing/v1/{resource}"));
        url.map_err(|error| RoutingError::Malformed(error.to_string()))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, RoutingError> {
        self.metrics.requests.inc();
        tokio::time::timeout(self.timeout, request.send())
            .await
            .map_err(|_| RoutingError::Timeout(self.timeout))?
            .map_err(|error| self.transport_error(&error))
    }

    fn transport_error(&self, error: &reqwest::Error) -> RoutingError {
        if error.is_timeout() {
            RoutingError::Timeout(self.timeout)
        } else {
            RoutingError::Unreachable(source_text(error))
        }
    }
}

impl ContentRouter for DelegatedRouter {
    fn kind(&self) -> RouterKind {
        RouterKind::Delegated
    }

    /// Its URL, without credentials that may stand in it.
    fn name(&self) -> String {
        let mut url = self.base.clone();
        // Only a URL that cannot have them refuses, and http URLs can.
        let _ = (url.set_username(""), url.set_password(None));
        url.to_string().trim_end_matches('/').to_owned()
    }

    fn find_providers(&self, cid: &Cid) -> BoxStream<'static, Result<Provider, RoutingError>> {
        let (router, cid) = (self.clone(), *cid);
        let stream = async_stream(router.clone(), cid).inspect(move |item| match item {
            Ok(_) => {
                router.metrics.providers.inc();
            }
            Err(_) => {
                router.metrics.failures.inc();
            }
        });
        stream.boxed()
    }
}

/// Where a query stands; the stream is an unfold over it, so that dropping it drops the connection.
enum Query {
    Start,
    Lines { body: BoxStream<'static, reqwest::Result<bytes::Bytes>>, parser: NdjsonParser, ready: Vec<Provider> },
    Ready(Vec<Provider>),
    Done,
}

fn async_stream(
    router: DelegatedRouter,
    cid: Cid,
) -> impl futures::Stream<Item = Result<Provider, RoutingError>> + Send {
    let stream = futures::stream::unfold(Query::Start, move |mut query| {
        let router = router.clone();
        async move {
            loop {
                query = match query {
                    Query::Start => match start(&router, cid).await {
                        Ok(next) => next,
                        Err(error) => return Some((Err(error), Query::Done)),
                    },
                    Query::Ready(mut ready) => {
                        let provider = ready.pop()?;
                        return Some((Ok(provider), Query::Ready(ready)));
                    }
                    Query::Lines { body, parser, mut ready } if !ready.is_empty() => {
                        let provider = ready.pop()?;
                        return Some((Ok(provider), Query::Lines { body, parser, ready }));
                    }
                    Query::Lines { mut body, mut parser, .. } => match body.next().await {
                        Some(Ok(bytes)) => match parser.push(&bytes) {
                            Ok(ready) => Query::Lines { body, parser, ready: reversed(ready) },
                            Err(error) => return Some((Err(malformed(&error)), Query::Done)),
                        },
                        Some(Err(error)) => return Some((Err(router.transport_error(&error)), Query::Done)),
                        None => match parser.finish() {
                            Ok(last) => Query::Ready(last.into_iter().collect()),
                            Err(error) => return Some((Err(malformed(&error)), Query::Done)),
                        },
                    },
                    Query::Done => return None,
                }
            }
        }
    });
    stream.take(MAX_PROVIDERS)
}

async fn start(router: &DelegatedRouter, cid: Cid) -> Result<Query, RoutingError> {
    let response = router.request(cid).await?;
    match response.status().as_u16() {
        200 => {}
        // Before IPIP-513 "nobody" was a 404.
        404 => return Ok(Query::Done),
        status => return Err(RoutingError::Status { status }),
    }
    let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if kind.starts_with(NDJSON) {
        let body = response.bytes_stream().boxed();
        return Ok(Query::Lines { body, parser: NdjsonParser::new(), ready: Vec::new() });
    }
    let whole = router.body(response, MAX_RESPONSE).await?;
    let providers = parse_json(&whole).map_err(|error| malformed(&error))?;
    Ok(Query::Ready(reversed(providers)))
}

impl DelegatedRouter {
    /// The whole body, of at most `limit` bytes.
    async fn body(&self, response: reqwest::Response, limit: usize) -> Result<Bytes, RoutingError> {
        let mut body = response.bytes_stream();
        let mut whole = BytesMut::new();
        while let Some(part) = body.next().await {
            let part = part.map_err(|error| self.transport_error(&error))?;
            if whole.len() + part.len() > limit {
                return Err(RoutingError::Malformed(format!("answer is over {limit} bytes")));
            }
            whole.extend_from_slice(&part);
        }
        Ok(whole.freeze())
    }
}

/// In the router's order when taken from the end.
fn reversed(mut providers: Vec<Provider>) -> Vec<Provider> {
    providers.reverse();
    providers
}

fn malformed(error: &ParseError) -> RoutingError {
    RoutingError::Malformed(error.to_string())
}

/// The innermost cause: "connection refused" says more than "error sending request".
fn source_text(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wiremock::matchers::{method, path};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    const PEER: &str = "12D3KooWM8sovaEGU1bmiWGWAzvs47DEcXKZZTuJnpQyVTkRs2Vn";
    const CID: &str = "bafkreibm6jg3ux5qumhcn2b3flc3tyu6dmlb4xa7u5bf44yegnrjhc4yeq";

    async fn ask(template: ResponseTemplate) -> Vec<Result<Provider, RoutingError>> {
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        let server = MockServer::start().await;
        Mock::given(method("GET"))
            .and(path(format!("/routing/v1/providers/{CID}")))
            .respond_with(template)
            .mount(&server)
            .await;
        let metrics = DelegatedMetrics::new(&Metrics::new());
        let router = DelegatedRouter::with_timeout(&server.uri(), Duration::from_millis(500), metrics).unwrap();
        router.find_providers(&crate::ipld::cid::parse(CID).unwrap()).collect().await
    }

    fn record(port: u16) -> String {
        format!(
            r#"{{"Schema":"peer","ID":"{PEER}","Addrs":["/ip4/127.0.0.1/tcp/{port}"],"Protocols":["transport-bitswap"]}}"#
        )
    }

    #[tokio::test]
    async fn json_and_ndjson_answers_give_the_same_providers_in_the_routers_order() {
        let json = format!(r#"{{"Providers":[{},{}]}}"#, record(1), record(2));
        let json = ask(ResponseTemplate::new(200).set_body_raw(json, "application/json")).await;
        let lines = format!("{}\n{}", record(1), record(2));
        let lines = ask(ResponseTemplate::new(200).set_body_raw(lines, "application/x-ndjson")).await;
        assert_eq!(json, lines);
        let ports: Vec<String> = json.iter().map(|p| p.as_ref().unwrap().addrs[0].to_string()).collect();
        assert_eq!(ports, ["/ip4/127.0.0.1/tcp/1", "/ip4/127.0.0.1/tcp/2"]);
    }

    #[tokio::test]
    async fn nobody_is_an_empty_answer_whether_200_or_404() {
        assert!(ask(ResponseTemplate::new(404)).await.is_empty());
        assert!(
            ask(ResponseTemplate::new(200).set_body_raw(r#"{"Providers":[]}"#, "application/json")).await.is_empty()
        );
    }

    #[tokio::test]
    async fn failures_name_their_kind() {
        assert_eq!(ask(ResponseTemplate::new(500)).await, [Err(RoutingError::Status { status: 500 })]);
        let slow = ResponseTemplate::new(200).set_delay(Duration::from_secs(3));
        assert!(matches!(ask(slow).await[..], [Err(RoutingError::Timeout(_))]));
        let html = ResponseTemplate::new(200).set_body_raw("<html>", "application/json");
        assert!(matches!(ask(html).await[..], [Err(RoutingError::Malformed(_))]));
        let huge = ResponseTemplate::new(200).set_body_raw(" ".repeat(MAX_RESPONSE + 1), "application/json");
        assert!(matches!(ask(huge).await[..], [Err(RoutingError::Malformed(_))]));
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed() {
        let away = ResponseTemplate::new(302).insert_header("Location", "http://127.0.0.1:1/");
        assert_eq!(ask(away).await, [Err(RoutingError::Status { status: 302 })]);
    }

    #[test]
    fn only_http_urls_are_routers() {
        let metrics = DelegatedMetrics::new(&Metrics::new());
        rustls::crypto::aws_lc_rs::default_provider().install_default().ok();
        assert!(DelegatedRouter::new("ftp://example.org", metrics.clone()).is_err());
        assert!(DelegatedRouter::new("not a url", metrics.clone()).is_err());
        let router = DelegatedRouter::new("http://127.0.0.1:8080/routing/v1/", metrics).unwrap();
        assert_eq!(router.url().as_str(), "http://127.0.0.1:8080/");
    }
}
