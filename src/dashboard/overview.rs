//! The Overview page: how the server does now and over the last 24 hours.

use std::time::{Duration, SystemTime};

use askama::Template;
use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};

use super::attention::{self, Need};
use super::chart::{self, DotPlot, Span, Sparkline};
use super::export::{self, Links, Table, Wanted, row};
use super::filters::{self, NO_DATA, NONE, Quantity, cell, count, ms, percent, share};
use super::page::Page;
use super::retrievals::RowView;
use super::{NodeSnapshot, State, Unread, error};
use crate::db::queries::{self, Overview, RetrievalRow, Window};
use crate::db::{DbError, DbState};

/// What the figures are about.
const WINDOW: Duration = Duration::from_secs(24 * 3600);
const LATEST: u32 = 8;

#[derive(Template)]
#[template(path = "dashboard/overview.html")]
struct OverviewPage {
    page: Page,
    view: View,
}

#[derive(Template)]
#[template(path = "dashboard/partials/_overview.html")]
struct OverviewPartial {
    view: View,
}

struct View {
    summary: String,
    database_down: Option<String>,
    figures: Vec<Figure>,
    minutes: Vec<MinuteRow>,
    comparison: ComparisonView,
    needs: Vec<Need>,
    needs_count: String,
    tiers: Tiers,
    latest: Vec<RowView>,
    latest_empty: String,
    example: String,
    exports: Exports,
}

/// Where the figures can be had.
struct Exports {
    minutes: Links,
    comparison: Links,
    tiers: Links,
    latest: Links,
}

struct Figure {
    key: &'static str,
    label: &'static str,
    value: Option<Quantity>,
    spark: Option<Sparkline>,
    note: String,
}

struct MinuteRow {
    at: String,
    requests: String,
    ttfb: String,
    served: String,
    fetched: String,
    hits: String,
    failed: String,
}

struct ComparisonView {
    method: String,
    chart: Option<DotPlot>,
    rows: Vec<ComparisonRow>,
    /// Why no class has enough data.
    empty: Option<String>,
    command: String,
}

struct ComparisonRow {
    label: &'static str,
    standard: String,
    standard_interval: String,
    optimized: String,
    optimized_interval: String,
    faster: String,
    faster_interval: String,
    pairs: String,
    n: String,
}

struct Tiers {
    meta: String,
    rows: Vec<TierRow>,
}

struct TierRow {
    name: &'static str,
    fill: &'static str,
    x: f64,
    width: f64,
    requests: String,
    share: String,
    bytes: String,
}

/// `GET /`
pub async fn page(Extract(state): Extract<State>, wanted: Wanted) -> Response {
    if wanted.format.is_some() {
        return match tables(&state).await {
            Ok(tables) => export::answer(&wanted, "overview", &tables),
            Err(error) => export::unavailable(down(&error, SystemTime::now())),
        };
    }
    let page = Page::new("Overview", "/").live();
    fresh(error::html(StatusCode::OK, &OverviewPage { page, view: read(&state).await }))
}

/// `GET /partials/overview`: what changes, without the frame.
pub async fn partial(Extract(state): Extract<State>) -> Response {
    fresh(error::html(StatusCode::OK, &OverviewPartial { view: read(&state).await }))
}

fn fresh(response: Response) -> Response {
    ([(CACHE_CONTROL, "no-store")], response).into_response()
}

async fn read(state: &State) -> View {
    let now = SystemTime::now();
    let (overview, latest) = match state.database() {
        Ok(db) => {
            let overview = db.overview(Window::last(WINDOW, now)).await;
            (overview.map_err(Unread::from), db.latest(LATEST).await.map_err(Unread::from))
        }
        Err(off) => (Err(off), Err(Unread::Off)),
    };
    let database = state.db.as_ref().map(|db| db.state());
    view(state, database.as_ref(), &(state.node)(), overview, latest, now)
}

fn view(
    state: &State,
    database: Option<&DbState>,
    node: &NodeSnapshot,
    overview: Result<Overview, Unread>,
    latest: Result<Vec<RetrievalRow>, Unread>,
    now: SystemTime,
) -> View {
    let needs = attention::needs(database, node, overview.as_ref().ok());
    let open = needs.iter().filter(|need| need.level != attention::Level::Fine).count();
    let database_down = overview.as_ref().err().map(|error| down(error, now));
    let seen = overview.ok();
    let rows: &[RetrievalRow] = latest.as_deref().unwrap_or_default();
    View {
        summary: summary(seen.as_ref()),
        figures: figures(seen.as_ref(), node),
        minutes: seen.as_ref().map(minutes).unwrap_or_default(),
        comparison: comparison(seen.as_ref(), state),
        needs_count: if open == 0 { "all is well".to_owned() } else { format!("{open} now") },
        needs,
        tiers: seen
            .as_ref()
            .map_or_else(|| Tiers { meta: "last 24 hours".to_owned(), rows: Vec::new() }, |seen| tiers(&seen.cache)),
        latest: rows.iter().map(|row| RowView::new(row, now)).collect(),
        latest_empty: match &latest {
            Ok(_) => "No retrieval yet. Fetch something through the gateway:".to_owned(),
            Err(_) => {
                "The list is in the metrics database, which is not available now. Fetches work all the same:".to_owned()
            }
        },
        example: super::example(&state.gateway),
        database_down,
        exports: Exports {
            minutes: Links::new("/", "minutes", "The last hour by minute"),
            comparison: Links::new("/", "comparison", "Standard against optimised"),
            tiers: Links::new("/", "tiers", "Requests by tier"),
            latest: Links::new("/", "latest", "Latest retrievals"),
        },
    }
}

/// The figures behind the page's tables and charts.
async fn tables(state: &State) -> Result<Vec<Table>, Unread> {
    let db = state.database()?;
    let seen = db.overview(Window::last(WINDOW, SystemTime::now())).await?;
    let latest = db.latest(LATEST).await?;
    let minutes = seen.minutes.iter().map(|m| {
        row![
            m.start_us,
            m.requests,
            m.ttfb_p50_ms,
            m.ttfb_p95_ms,
            m.bytes_served,
            m.bytes_fetched,
            m.hit_ratio,
            m.failed,
            m.peers
        ]
    });
    let comparison = seen.comparison.iter().map(|c| {
        let name = match c.class {
            queries::SizeClass::Small => "small",
            queries::SizeClass::Medium => "medium",
            queries::SizeClass::Large => "large",
        };
        let of = |f: &dyn Fn(queries::Verdict) -> queries::Interval| c.verdict.map(f);
        let (standard, optimized, faster) = (of(&|v| v.standard), of(&|v| v.optimized), of(&|v| v.faster_by));
        let (median, low, high) =
            (|i: queries::Interval| i.median, |i: queries::Interval| i.low, |i: queries::Interval| i.high);
        row![
            name,
            c.n_standard,
            c.n_optimized,
            c.pairs,
            standard.map(median),
            standard.map(low),
            standard.map(high),
            optimized.map(median),
            optimized.map(low),
            optimized.map(high),
            faster.map(median),
            faster.map(low),
            faster.map(high)
        ]
    });
    let (n, b) = (seen.cache.requests, seen.cache.bytes);
    let tiers = [
        ("memory", n.memory, b.memory),
        ("store", n.store, b.store),
        ("disk", n.disk, b.disk),
        ("partial", n.partial, b.partial),
        ("miss", n.miss, b.miss),
    ];
    Ok(vec![
        Table::new(
            "minutes",
            &[
                "start_us",
                "requests",
                "ttfb_p50_ms",
                "ttfb_p95_ms",
                "bytes_served",
                "bytes_fetched",
                "hit_ratio",
                "failed",
                "peers",
            ],
            minutes.collect(),
        ),
        Table::new(
            "comparison",
            &[
                "size_class",
                "n_standard",
                "n_optimized",
                "pairs",
                "standard_median_ms",
                "standard_low_ms",
                "standard_high_ms",
                "optimized_median_ms",
                "optimized_low_ms",
                "optimized_high_ms",
                "faster_by",
                "faster_by_low",
                "faster_by_high",
            ],
            comparison.collect(),
        ),
        Table::new(
            "tiers",
            &["tier", "requests", "bytes"],
            tiers.into_iter().map(|(tier, n, b)| row![tier, n, b]).collect(),
        ),
        super::retrievals::table("latest", &latest),
    ])
}

/// Why the database gives nothing, for people.
pub(super) fn down(error: &Unread, now: SystemTime) -> String {
    match error {
        Unread::Off => "It is switched off: --database none.".to_owned(),
        Unread::Failed(DbError::Down { reason, since }) => {
            format!("Since {}: {}", filters::ago(*since, now), attention::database_advice(reason))
        }
        Unread::Failed(other) => format!("{other}."),
    }
}

fn summary(seen: Option<&Overview>) -> String {
    match seen {
        None => "Figures of the node only.".to_owned(),
        Some(seen) if seen.requests == 0 => "Last 24 hours: no request yet.".to_owned(),
        Some(seen) => {
            let plural = if seen.requests == 1 { "request" } else { "requests" };
            format!("Last 24 hours, {} {plural}; lines show the last hour by the minute.", count(seen.requests))
        }
    }
}

fn figures(seen: Option<&Overview>, node: &NodeSnapshot) -> Vec<Figure> {
    let spark = |label: &str, value: fn(&queries::MinutePoint) -> Option<f64>| {
        let values: Vec<Option<f64>> = seen?.minutes.iter().map(value).collect();
        chart::sparkline(
            format!("{label}, by the minute over the last hour; the table below holds the numbers"),
            &values,
        )
    };
    let busy = |value: Option<f64>, n: u64| value.filter(|_| n > 0);
    let mut figures = Vec::new();
    let requests = seen.map_or(0, |seen| seen.requests);
    figures.push(Figure {
        key: "requests",
        label: "Requests",
        value: seen.map(|seen| Quantity { number: count(seen.requests), unit: String::new() }),
        spark: spark("Requests", |m| Some(m.requests as f64)).filter(|_| requests > 0),
        note: seen.and_then(|seen| seen.peak).map_or_else(
            || "none in the last hour".to_owned(),
            |peak| {
                format!(
                    "peak {}/s at {} UTC",
                    rate(peak.requests_per_second),
                    filters::clock(filters::from_us(peak.at_us))
                )
            },
        ),
    });
    figures.push(Figure {
        key: "ttfb",
        label: "Time to first byte, p50",
        value: seen.and_then(|seen| ms(seen.ttfb_p50_ms)),
        spark: spark("Time to first byte, median", |m| m.ttfb_p50_ms),
        note: format!(
            "p95 {}",
            seen.and_then(|seen| ms(seen.ttfb_p95_ms)).map_or(NO_DATA.to_owned(), |q| q.to_string())
        ),
    });
    figures.push(Figure {
        key: "served",
        label: "Served",
        value: seen.filter(|seen| seen.requests > 0).map(|seen| filters::bytes(seen.bytes_served)),
        spark: spark("Bytes served", |m| Some(m.bytes_served as f64)).filter(|_| requests > 0),
        note: seen.filter(|seen| seen.requests > 0).map_or_else(
            || "nothing yet".to_owned(),
            |seen| format!("{} fetched from peers", filters::bytes(seen.bytes_fetched)),
        ),
    });
    figures.push(Figure {
        key: "hits",
        label: "Cache hits, by requests",
        value: seen.and_then(|seen| seen.cache.hit_ratio_requests).map(percent),
        spark: spark("Cache hit ratio", |m| m.hit_ratio),
        note: seen.map_or_else(String::new, |seen| hits_note(&seen.cache)),
    });
    let peers = Quantity { number: count(node.peers as u64), unit: String::new() };
    figures.push(Figure {
        key: "peers",
        label: "Peers connected",
        value: Some(peers),
        spark: spark("Peers connected", |m| m.peers.map(|n| n as f64)),
        note: match node.exchange_peers {
            1 => "1 speaks Bitswap".to_owned(),
            n => format!("{} speak Bitswap", count(n as u64)),
        },
    });
    figures.push(Figure {
        key: "failed",
        label: "Failed",
        value: seen.and_then(|seen| busy(seen.failed_ratio, seen.requests)).map(percent),
        spark: spark("Failed requests", |m| Some(m.failed as f64)).filter(|_| seen.is_some_and(|seen| seen.failed > 0)),
        note: seen.map_or_else(String::new, |seen| failed_note(&seen.outcomes, seen.failed)),
    });
    figures
}

fn rate(per_second: f64) -> String {
    if per_second >= 10.0 {
        format!("{per_second:.0}")
    } else if per_second >= 0.1 {
        format!("{per_second:.1}")
    } else {
        format!("{per_second:.2}")
    }
}

fn hits_note(cache: &queries::CacheHits) -> String {
    let by = cache.requests;
    let all = by.memory + by.disk + by.store + by.partial + by.miss;
    if all == 0 {
        return "no request needed a block".to_owned();
    }
    let bytes = cache.hit_ratio_bytes.map_or(NO_DATA.to_owned(), |ratio| percent(ratio).to_string());
    let tiers = [("memory", by.memory), ("disk", by.disk), ("store", by.store)];
    let hits: Vec<String> = tiers
        .iter()
        .filter(|(_, n)| *n > 0)
        .map(|(name, n)| format!("{name} {}", filters::unbroken(&cell(share(*n, all)))))
        .collect();
    let hits = if hits.is_empty() { "none".to_owned() } else { hits.join(", ") };
    format!("{hits}; by bytes {}", filters::unbroken(&bytes))
}

fn failed_note(outcomes: &queries::Outcomes, failed: u64) -> String {
    if failed == 0 {
        return "none".to_owned();
    }
    let kinds = [
        (outcomes.timeout, "timed out"),
        (outcomes.not_found, "not found"),
        (outcomes.error, "errors"),
        (outcomes.truncated, "broke off"),
        (outcomes.denied, "denied"),
    ];
    let named: Vec<String> =
        kinds.iter().filter(|(n, _)| *n > 0).map(|(n, name)| format!("{} {name}", count(*n))).collect();
    named.join(", ")
}

fn minutes(seen: &Overview) -> Vec<MinuteRow> {
    let busy = seen.minutes.iter().rev().filter(|minute| minute.requests > 0);
    busy.map(|minute| MinuteRow {
        at: filters::clock(filters::from_us(minute.start_us)),
        requests: count(minute.requests),
        ttfb: cell(ms(minute.ttfb_p50_ms)),
        served: filters::bytes(minute.bytes_served).to_string(),
        fetched: filters::bytes(minute.bytes_fetched).to_string(),
        hits: cell(minute.hit_ratio.map(percent)),
        failed: count(minute.failed),
    })
    .collect()
}

fn comparison(seen: Option<&Overview>, state: &State) -> ComparisonView {
    let label = |class: queries::SizeClass| match class {
        queries::SizeClass::Small => "Small, under 1 MB",
        queries::SizeClass::Medium => "Medium, 1–10 MB",
        queries::SizeClass::Large => "Large, over 10 MB",
    };
    let classes = seen.map(|seen| seen.comparison.as_slice()).unwrap_or_default();
    let span = |i: queries::Interval| Span { median: i.median, low: i.low, high: i.high };
    let judged: Vec<(String, Span, Span)> = classes
        .iter()
        .filter_map(|class| {
            let verdict = class.verdict?;
            Some((label(class.class).to_owned(), span(verdict.standard), span(verdict.optimized)))
        })
        .collect();
    let interval = |i: queries::Interval| format!("({}–{})", plain(i.low), plain(i.high));
    let percents = |i: queries::Interval| format!("({} to {} %)", signed(i.low), signed(i.high));
    // An interval on both sides of zero says nothing about which is faster.
    let faster = |i: queries::Interval| {
        if i.low <= 0.0 && i.high >= 0.0 { "no clear difference".to_owned() } else { format!("{} %", signed(i.median)) }
    };
    let time = |i: queries::Interval| cell(ms(Some(i.median)));
    let rows = classes
        .iter()
        .map(|class| {
            let v = class.verdict;
            let text = |f: &dyn Fn(queries::Verdict) -> String| v.map_or_else(String::new, f);
            ComparisonRow {
                label: label(class.class),
                standard: v.map_or_else(|| NONE.to_owned(), |v| time(v.standard)),
                standard_interval: text(&|v| interval(v.standard)),
                optimized: v.map_or_else(|| NONE.to_owned(), |v| time(v.optimized)),
                optimized_interval: text(&|v| interval(v.optimized)),
                faster: v.map_or_else(|| "not enough data".to_owned(), |v| faster(v.faster_by)),
                faster_interval: text(&|v| percents(v.faster_by)),
                pairs: count(class.pairs as u64),
                n: format!("{} / {}", count(class.n_standard as u64), count(class.n_optimized as u64)),
            }
        })
        .collect();
    let compared = if state.compare_share > 0.0 {
        format!("{} of cold retrievals run the standard policy", percent(state.compare_share))
    } else {
        "no cold retrieval runs the standard policy by itself".to_owned()
    };
    let empty = judged.is_empty().then(|| match (seen, state.compare_share > 0.0) {
        (None, _) => "The comparison is made from rows of the metrics database, which is not available.".to_owned(),
        (_, true) => "A verdict needs 20 pairs of cold, complete retrievals of one size class, one by each policy; more traffic brings them.".to_owned(),
        (_, false) => "A verdict needs 20 pairs of cold, complete retrievals of one size class, one by each policy. Let a share of them run the standard policy:".to_owned(),
    });
    ComparisonView {
        method: format!(
            "median transfer time with 95 % interval, same size class and number of providers, live traffic; {compared}"
        ),
        chart: chart::dot_plot(&judged),
        rows,
        empty,
        command: "tidegate serve --compare-share 0.05".to_owned(),
    }
}

/// A fraction as whole per cent with a true minus sign.
fn signed(fraction: f64) -> String {
    format!("{:.0}", fraction * 100.0).replace("-0", "0").replace('-', "−")
}

/// Milliseconds without a unit, for an interval beside its median.
fn plain(ms: f64) -> String {
    if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}

fn tiers(cache: &queries::CacheHits) -> Tiers {
    let (n, b) = (cache.requests, cache.bytes);
    let parts = [
        ("Memory", "fill-1", n.memory, b.memory),
        ("Durable store", "fill-3", n.store, b.store),
        ("Disk cache", "fill-4", n.disk, b.disk),
        ("Part local, part network", "fill-2", n.partial, b.partial),
        ("Network", "fill-quiet", n.miss, b.miss),
    ];
    let all: u64 = parts.iter().map(|part| part.2).sum();
    let mut x = 0.0;
    let mut rows = Vec::new();
    for (name, fill, requests, bytes) in parts {
        if all == 0 {
            break;
        }
        let width = requests as f64 / all as f64 * 100.0;
        rows.push(TierRow {
            name,
            fill,
            x: chart::px(x),
            width: chart::px(width),
            requests: count(requests),
            share: cell(share(requests, all)),
            bytes: filters::bytes(bytes).to_string(),
        });
        x += width;
    }
    Tiers { meta: "by the slowest tier that a request needed, last 24 hours".to_owned(), rows }
}
