//! What the gateway counts.

use http::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use crate::telemetry::Metrics;

/// Handles to count with. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Counts {
    requests: Family<Request, Counter>,
    limits: Family<Limit, Counter>,
    pub(super) bytes: Counter,
    pub(super) ttfb: Histogram,
    pub(super) in_flight: Gauge,
    pub(super) waiting_pages: Counter,
    pub(super) waits_abandoned: Counter,
    pub(super) links: Counter,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    method: &'static str,
    class: &'static str,
    format: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Limit {
    limit: Limits,
}

/// A bound of the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub(super) enum Limits {
    ConcurrentRequests,
    FirstByte,
    RequestTime,
    WaitingPages,
    RangeFileSize,
    DeserializedSize,
    DagSize,
}

impl Counts {
    pub(super) fn new(metrics: &Metrics) -> Self {
        Self::named(metrics, "gateway", "")
    }

    /// `whose` goes on after "requests" in the help texts.
    pub(super) fn named(metrics: &Metrics, prefix: &str, whose: &str) -> Self {
        let name = |name: &str| format!("{prefix}_{name}");
        Self {
            requests: metrics.register(
                &name("requests"),
                &format!("Requests{whose} answered by the gateway; counted when the status is known"),
                Family::default(),
            ),
            limits: metrics.register(
                &name("limits_hit"),
                &format!("Requests{whose} that the gateway refused or ended because of a limit"),
                Family::default(),
            ),
            bytes: metrics.register(
                &name("response_bytes"),
                &format!("Body bytes of content handed to requests{whose}; counted when a response ends"),
                Counter::default(),
            ),
            // 0.25 ms to about 131 s
            ttfb: metrics.register(
                &name("ttfb_seconds"),
                &format!("From requests{whose} to the first byte of content handed to them"),
                Histogram::new(exponential_buckets(0.000_25, 2.0, 20)),
            ),
            waiting_pages: metrics.register(
                "gateway_waiting_pages",
                "Requests of browsers that got a page while their content was fetched behind it",
                Counter::default(),
            ),
            waits_abandoned: metrics.register(
                "gateway_waits_abandoned",
                "Requests behind a waiting page that were ended because nobody asked any more",
                Counter::default(),
            ),
            links: metrics.register(
                &name("links_ahead"),
                "Files that were asked for because a page names them",
                Counter::default(),
            ),
            in_flight: metrics.register(
                &name("requests_in_flight"),
                &format!("Requests{whose} for content that are being answered now"),
                Gauge::default(),
            ),
        }
    }

    pub(super) fn answered(&self, method: &http::Method, status: StatusCode, format: &'static str) {
        let method = match method.as_str() {
            "GET" => "GET",
            "HEAD" => "HEAD",
            "OPTIONS" => "OPTIONS",
            _ => "other",
        };
        let class = match status.as_u16() / 100 {
            2 => "2xx",
            3 => "3xx",
            4 => "4xx",
            _ => "5xx",
        };
        self.requests.get_or_create(&Request { method, class, format }).inc();
    }

    pub(super) fn hit(&self, limit: Limits) {
        self.limits.get_or_create(&Limit { limit }).inc();
    }
}
