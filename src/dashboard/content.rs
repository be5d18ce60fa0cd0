//! The Content page: where content was answered from over time, what other cache sizes would have hit, what is hot and
//! what is pinned.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use askama::Template;
use axum::extract::{Query, State as Extract};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;

use super::export::{self, Links, Table, Wanted, row};
use super::filters::{self, NONE, Quantity, cell, count, percent, share};
use super::page::Page;
use super::series::{self, Curves, Stack};
use super::{State, Unread, error, overview};
use crate::blockstore::reuse::{MIN_SAMPLED, ReuseCurve};
use crate::blockstore::{Pin, PinKind, Stats, TierStats};
use crate::db::queries::{CacheHits, CachePoint, ContentRow, Window};
use crate::ipld::cid;

/// Roots in the list of the hottest, and pins on a page.
const HOTTEST: u32 = 20;
const PINS: usize = 20;
/// Pins of an export at most.
const EXPORTED_PINS: usize = export::MAX_ROWS;

#[derive(Template)]
#[template(path = "dashboard/content.html")]
struct ContentPage {
    page: Page,
    view: View,
}

struct View {
    summary: String,
    database_down: Option<String>,
    spans: Vec<SpanLink>,
    figures: Vec<Figure>,
    by_requests: Option<Stack>,
    by_bytes: Option<Stack>,
    data: String,
    rows: Vec<BucketRow>,
    reuse: Reuse,
    tiers: Vec<TierRow>,
    hottest: Vec<HotRow>,
    pins: Vec<PinRow>,
    pins_meta: String,
    pins_problem: Option<String>,
    more_pins: Option<String>,
    example: String,
    exports: Exports,
}

struct Exports {
    hits: Links,
    reuse: Links,
    tiers: Links,
    hottest: Links,
    pins: Links,
}

struct SpanLink {
    href: String,
    name: &'static str,
    current: bool,
}

struct Figure {
    label: &'static str,
    value: Option<Quantity>,
    note: String,
}

struct BucketRow {
    at: String,
    needed: String,
    memory: String,
    store: String,
    disk: String,
    partial: String,
    miss: String,
    hits_requests: String,
    hits_bytes: String,
    fetched: String,
}

struct Reuse {
    curves: Option<Curves>,
    meta: String,
    empty: String,
    rows: Vec<ReuseRow>,
    saturation: Option<String>,
}

struct ReuseRow {
    what: String,
    size: String,
    by_requests: String,
    by_bytes: String,
    change: String,
}

struct TierRow {
    name: &'static str,
    blocks: String,
    bytes: String,
    capacity: String,
    hits: String,
    misses: String,
    ratio: String,
}

struct HotRow {
    cid: String,
    short: String,
    requests: String,
    total: String,
    ago: String,
    at_iso: String,
    listing: String,
    raw: String,
    car: String,
    retrievals: String,
}

struct PinRow {
    cid: String,
    short: String,
    mode: &'static str,
    name: String,
    created: String,
    listing: String,
}

/// How far back: the choices of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    name: &'static str,
    words: &'static str,
    seconds: u64,
    /// Of one bucket.
    step: u64,
}

const SPANS: [Span; 4] = [
    Span { name: "1h", words: "Last hour", seconds: 3_600, step: 60 },
    Span { name: "24h", words: "Last 24 hours", seconds: 86_400, step: 900 },
    Span { name: "7d", words: "Last 7 days", seconds: 7 * 86_400, step: 2 * 3_600 },
    Span { name: "30d", words: "Last 30 days", seconds: 30 * 86_400, step: 8 * 3_600 },
];

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Asked {
    window: String,
    /// The last pin of the part before.
    pins_after: String,
}

/// `GET /content`
pub async fn page(Extract(state): Extract<State>, Query(asked): Query<Asked>, wanted: Wanted) -> Response {
    let name = if asked.window.is_empty() { SPANS[1].name } else { asked.window.as_str() };
    let Some(span) = SPANS.into_iter().find(|span| span.name == name) else {
        let names: Vec<&str> = SPANS.iter().map(|span| span.name).collect();
        let text = format!("{} is none of the windows of this page.", filters::tame(name, 40));
        let next = format!("Windows are {}.", names.join(", "));
        return error::error(StatusCode::BAD_REQUEST, "This window is not known", text, &next);
    };
    if wanted.format.is_some() {
        return match table(&state, span, &wanted.table).await {
            Ok(tables) => export::answer(&wanted, "content", &tables),
            Err(error) => export::unavailable(overview::down(&error, SystemTime::now())),
        };
    }
    let page = Page::new("Content", "/content").plots();
    error::html(StatusCode::OK, &ContentPage { page, view: read(&state, span, &asked.pins_after).await })
}

async fn hits(state: &State, span: Span, now: SystemTime) -> Result<Vec<CachePoint>, Unread> {
    let window = Window::last(Duration::from_secs(span.seconds), now);
    Ok(state.database()?.cache_series(window, Duration::from_secs(span.step)).await?)
}

async fn hot(state: &State, limit: u32) -> Result<Vec<ContentRow>, Unread> {
    Ok(state.database()?.hottest(limit).await?)
}

async fn read(state: &State, span: Span, pins_after: &str) -> View {
    let now = SystemTime::now();
    let (points, hottest) = (hits(state, span, now).await, hot(state, HOTTEST).await);
    let blocks = &state.host.blocks;
    let after = cid::parse(pins_after).ok();
    let (pins, all_pins) = (blocks.pins().ls(after.as_ref(), PINS + 1).await, blocks.pins().count().await.ok());
    let (stats, curve) = (blocks.stats(), blocks.reuse());
    let database_down = points.as_ref().err().or(hottest.as_ref().err()).map(|error| overview::down(error, now));
    let seen = points.as_ref().ok().map(|points| CacheHits::total(points.iter().map(|point| &point.hits)));
    let points = points.unwrap_or_default();
    let place = format!("/content?window={}", span.name);
    let link = |table: &str, what: &str| Links::new(&place, table, what);
    let needed = seen.map_or(0, |seen| seen.requests.total());
    let pins_problem = pins.as_ref().err().map(|error| format!("{error}."));
    let mut pins = pins.unwrap_or_default();
    let more = pins.len() > PINS;
    pins.truncate(PINS);
    View {
        summary: match (&database_down, needed) {
            (Some(_), _) => "What the store and the caches hold now.".to_owned(),
            (None, 0) => format!("{}: no request needed a block.", span.words),
            (None, n) => format!("{}: {} requests that needed a block.", span.words, count(n)),
        },
        spans: SPANS
            .iter()
            .map(|other| SpanLink {
                href: format!("/content?window={}", other.name),
                name: other.words,
                current: *other == span,
            })
            .collect(),
        figures: figures(seen.as_ref(), &points, &stats, all_pins),
        by_requests: drawing(&points, span, |hits| hits.requests),
        by_bytes: drawing(&points, span, |hits| hits.bytes),
        data: format!("{place}&format=json&table=hits"),
        rows: points
            .iter()
            .rev()
            .filter(|point| point.hits.requests.total() > 0)
            .map(|p| bucket_row(p, span))
            .collect(),
        reuse: reuse(&curve, &stats),
        tiers: tiers(&stats),
        hottest: hottest.unwrap_or_default().iter().map(|row| hot_row(row, &state.gateway, now)).collect(),
        pins_meta: match all_pins {
            Some(n) => format!("{} in all; gc keeps them and what they reach", count(n)),
            None => "gc keeps them and what they reach".to_owned(),
        },
        more_pins: pins.last().filter(|_| more).map(|last| format!("{place}&pins_after={}#pins", last.cid)),
        pins: pins.iter().map(|pin| pin_row(pin, &state.gateway, now)).collect(),
        pins_problem,
        example: super::example(&state.gateway),
        database_down,
        exports: Exports {
            hits: link("hits", "Requests and bytes by tier"),
            reuse: link("reuse", "Reuse curve"),
            tiers: link("tiers", "Tiers"),
            hottest: link("hottest", "Hottest content"),
            pins: link("pins", "Pins"),
        },
    }
}

fn figures(seen: Option<&CacheHits>, points: &[CachePoint], stats: &Stats, pins: Option<u64>) -> Vec<Figure> {
    let all = seen.map(|seen| seen.requests.total());
    let hits = |by: crate::db::queries::ByTier| by.memory + by.disk + by.store;
    let note = |seen: Option<&CacheHits>, of: &str, by: fn(&CacheHits) -> crate::db::queries::ByTier| match seen {
        Some(seen) if by(seen).total() > 0 => {
            format!("{} of {} {of}", count_or_bytes(hits(by(seen)), of), count_or_bytes(by(seen).total(), of))
        }
        _ => "no request needed a block".to_owned(),
    };
    let fetched: u64 = points.iter().map(|point| point.bytes_fetched).sum();
    let used = |tier: &TierStats| match tier.capacity {
        Some(capacity) if capacity > 0 => {
            format!("of {}", filters::bytes(capacity))
        }
        Some(_) => "switched off".to_owned(),
        None => "as much as the disk has".to_owned(),
    };
    vec![
        Figure {
            label: "Cache hits, by requests",
            value: seen.and_then(|seen| seen.hit_ratio_requests).map(percent),
            note: note(seen, "requests", |seen| seen.requests),
        },
        Figure {
            label: "Cache hits, by bytes",
            value: seen.and_then(|seen| seen.hit_ratio_bytes).map(percent),
            note: note(seen, "served", |seen| seen.bytes),
        },
        Figure {
            label: "Fetched from peers",
            value: all.map(|_| filters::bytes(fetched)),
            note: match seen.map(|seen| seen.requests.miss + seen.requests.partial) {
                None => "needs the metrics database".to_owned(),
                Some(n) => format!("{} requests asked the network", count(n)),
            },
        },
        Figure { label: "In memory", value: Some(filters::bytes(stats.memory.bytes)), note: used(&stats.memory) },
        Figure {
            label: "In the disk cache",
            value: stats.disk_available.then(|| filters::bytes(stats.disk.bytes)),
            note: if stats.disk_available { used(&stats.disk) } else { "off, or it cannot be written".to_owned() },
        },
        Figure {
            label: "Pins",
            value: pins.map(|n| Quantity { number: count(n), unit: String::new() }),
            note: format!("{} in the durable store", filters::bytes(stats.store.bytes)),
        },
    ]
}

fn count_or_bytes(n: u64, of: &str) -> String {
    if of == "served" { filters::bytes(n).to_string() } else { count(n) }
}

fn drawing(points: &[CachePoint], span: Span, by: fn(&CacheHits) -> crate::db::queries::ByTier) -> Option<Stack> {
    let layers = [
        ("fill-1", "memory"),
        ("fill-3", "durable store"),
        ("fill-4", "disk cache"),
        ("fill-2", "partly network"),
        ("fill-quiet", "network"),
    ];
    let buckets: Vec<[u64; 5]> = points
        .iter()
        .map(|point| {
            let by = by(&point.hits);
            [by.memory, by.store, by.disk, by.partial, by.miss]
        })
        .collect();
    // Six marks or so, each at a bucket's start.
    let every = (points.len() / 6).max(1);
    let ticks: Vec<(usize, String)> = points
        .iter()
        .enumerate()
        .filter(|(at, _)| at % every == every / 2)
        .map(|(at, point)| (at, moment(point.start_us, span)))
        .collect();
    series::stack(layers, &buckets, &ticks)
}

/// The time of a bucket, as exact as the window needs.
fn moment(start_us: i64, span: Span) -> String {
    let iso = filters::iso(filters::from_us(start_us));
    let (date, clock) = (iso.get(5..10).unwrap_or_default(), iso.get(11..16).unwrap_or_default());
    if span.seconds <= 86_400 { clock.to_owned() } else { format!("{date} {clock}") }
}

fn bucket_row(point: &CachePoint, span: Span) -> BucketRow {
    let by = point.hits.requests;
    BucketRow {
        at: moment(point.start_us, span),
        needed: count(by.total()),
        memory: count(by.memory),
        store: count(by.store),
        disk: count(by.disk),
        partial: count(by.partial),
        miss: count(by.miss),
        hits_requests: cell(point.hits.hit_ratio_requests.map(percent)),
        hits_bytes: cell(point.hits.hit_ratio_bytes.map(percent)),
        fetched: filters::bytes(point.bytes_fetched).to_string(),
    }
}

/// The sizes that the page names: today's caches, half of them and twice.
fn named_sizes(stats: &Stats) -> Vec<(String, u64)> {
    let memory = stats.memory.capacity.unwrap_or_default();
    let disk = if stats.disk_available { stats.disk.capacity.unwrap_or_default() } else { 0 };
    let mut sizes = Vec::new();
    let mut three = |name: &str, size: u64| {
        if size > 0 {
            sizes.push((format!("half of {name}"), size / 2));
            sizes.push((name.to_owned(), size));
            sizes.push((format!("twice {name}"), size.saturating_mul(2)));
        }
    };
    three("the memory cache", memory);
    if disk > 0 {
        three("memory and disk cache", memory + disk);
    }
    sizes
}

/// Where the curve is drawn: four points to a doubling from 1 MiB to past the largest size that is named.
fn curve_sizes(stats: &Stats) -> Vec<u64> {
    let largest = named_sizes(stats).iter().map(|(_, size)| *size).max().unwrap_or(1 << 30);
    let octaves = f64::from(largest.max(1 << 26).ilog2() + 1 - 20);
    let points = (octaves * 4.0) as u32;
    (0..=points).map(|at| ((1_u64 << 20) as f64 * (f64::from(at) / 4.0).exp2()) as u64).collect()
}

fn reuse(curve: &ReuseCurve, stats: &Stats) -> Reuse {
    let sizes = curve_sizes(stats);
    let ratios: Option<Vec<_>> = sizes.iter().map(|size| curve.hit_ratio(*size)).collect();
    let named = named_sizes(stats);
    let curves = ratios.as_ref().and_then(|ratios| {
        let by_requests: Vec<f64> = ratios.iter().map(|ratio| ratio.by_requests).collect();
        let by_bytes: Vec<f64> = ratios.iter().map(|ratio| ratio.by_bytes).collect();
        let lines: [series::Line<'_>; 2] =
            [("stroke-1", "by requests", &by_requests), ("stroke-2", "by bytes", &by_bytes)];
        let now = |(name, size): &(String, u64)| (*size, format!("{name} now, {}", filters::bytes(*size)));
        let marks: Vec<(u64, String)> =
            named.iter().filter(|(name, _)| !name.starts_with("half") && !name.starts_with("twice")).map(now).collect();
        series::curves(&sizes, &lines, &marks)
    });
    let rows = named.iter().enumerate().filter_map(|(at, (name, size))| {
        let ratio = curve.hit_ratio(*size)?;
        // Each three are half, now, twice.
        let now = curve.hit_ratio(named.get(at / 3 * 3 + 1)?.1)?;
        let points = (ratio.by_requests - now.by_requests) * 100.0;
        let change = match at % 3 {
            1 => "now".to_owned(),
            _ if points.abs() < 0.05 => "no change".to_owned(),
            _ => format!("{points:+.1} points").replace('-', "−"),
        };
        Some(ReuseRow {
            what: name.clone(),
            size: filters::bytes(*size).to_string(),
            by_requests: percent(ratio.by_requests).to_string(),
            by_bytes: percent(ratio.by_bytes).to_string(),
            change,
        })
    });
    let rows = rows.collect();
    let sample = if curve.sample_rate >= 1.0 {
        "every block followed".to_owned()
    } else {
        format!("{} of blocks followed", percent(curve.sample_rate))
    };
    Reuse {
        curves,
        meta: format!(
            "estimate for a least-recently-used cache, from {} block reads of requests since the start, {sample}",
            count(curve.accesses)
        ),
        empty: format!(
            "{} block reads were seen since the start; an estimate needs {}. Fetch content, some of it twice:",
            count(curve.sampled_accesses),
            count(MIN_SAMPLED)
        ),
        rows,
        saturation: curve
            .saturation()
            .map(|size| format!("Beyond {} a larger cache would have hit hardly more.", filters::bytes(size))),
    }
}

fn tiers(stats: &Stats) -> Vec<TierRow> {
    [("Memory", &stats.memory), ("Durable store", &stats.store), ("Disk cache", &stats.disk)]
        .into_iter()
        .map(|(name, tier)| TierRow {
            name,
            blocks: tier.blocks.map_or_else(|| NONE.to_owned(), count),
            bytes: filters::bytes(tier.bytes).to_string(),
            capacity: tier.capacity.map_or_else(|| NONE.to_owned(), |n| filters::bytes(n).to_string()),
            hits: count(tier.hits),
            misses: count(tier.misses),
            ratio: cell(share(tier.hits, tier.hits + tier.misses)),
        })
        .collect()
}

fn hot_row(row: &ContentRow, gateway: &str, now: SystemTime) -> HotRow {
    let last = filters::from_us(row.last_request);
    let at = |suffix: &str| format!("{gateway}/ipfs/{}{suffix}", row.cid);
    HotRow {
        short: filters::short(&row.cid),
        requests: format!("{:.1}", decayed(row, now)),
        total: count(u64::try_from(row.requests_total).unwrap_or_default()),
        ago: filters::ago(last, now),
        at_iso: filters::iso(last),
        listing: at(""),
        raw: at("?format=raw"),
        car: at("?format=car"),
        retrievals: format!("/retrievals?cid={}", row.cid),
        cid: row.cid.clone(),
    }
}

/// The figure as of now; the row holds it as of its last request.
fn decayed(row: &ContentRow, now: SystemTime) -> f64 {
    let elapsed = now.duration_since(filters::from_us(row.last_request)).unwrap_or_default();
    row.decayed(elapsed)
}

fn pin_row(pin: &Pin, gateway: &str, now: SystemTime) -> PinRow {
    let text = pin.cid.to_string();
    PinRow {
        short: filters::short(&text),
        mode: mode(pin.kind),
        name: pin.name.as_deref().map_or_else(|| NONE.to_owned(), |name| filters::tame(name, 60)),
        created: pin.created.map_or_else(|| NONE.to_owned(), |at| filters::ago(at, now)),
        listing: format!("{gateway}/ipfs/{text}"),
        cid: text,
    }
}

fn mode(kind: PinKind) -> &'static str {
    match kind {
        PinKind::Recursive => "recursive",
        PinKind::Direct => "direct",
    }
}

/// The table that is asked for; the others are named only, so that an export reads no more than it holds.
async fn table(state: &State, span: Span, name: &str) -> Result<Vec<Table>, Unread> {
    let now = SystemTime::now();
    let blocks = &state.host.blocks;
    let stats = blocks.stats();
    let mut tables = vec![Table::new("hits", HITS, Vec::new())];
    if name.is_empty() || name == "hits" {
        tables[0].rows = hits(state, span, now).await?.iter().map(hits_row).collect();
    }
    let curve = blocks.reuse();
    let sizes = curve_sizes(&stats).into_iter().map(|size| (None, size));
    let named = named_sizes(&stats).into_iter().map(|(name, size)| (Some(name), size));
    let reuse = sizes.chain(named).map(|(name, size)| {
        let ratio = curve.hit_ratio(size);
        row![size, name, ratio.map(|r| r.by_requests), ratio.map(|r| r.by_bytes)]
    });
    tables.push(Table::new(
        "reuse",
        &["cache_bytes", "what", "hit_ratio_requests", "hit_ratio_bytes"],
        reuse.collect(),
    ));
    let tiers = [("memory", &stats.memory), ("store", &stats.store), ("disk", &stats.disk)];
    let tiers = tiers.map(|(name, t)| row![name, t.blocks, t.bytes, t.capacity, t.hits, t.misses, t.corrupt]);
    tables.push(Table::new(
        "tiers",
        &["tier", "blocks", "bytes", "capacity_bytes", "hits", "misses", "corrupt"],
        tiers.into(),
    ));
    let mut hottest = Vec::new();
    if name == "hottest" {
        hottest = hot(state, 1_000)
            .await?
            .iter()
            .map(|item| row![&item.cid, decayed(item, now), item.requests_total, item.last_request])
            .collect();
    }
    tables.push(Table::new("hottest", &["cid", "requests_decayed", "requests_total", "last_request_us"], hottest));
    let mut pins = Table::new("pins", &["cid", "mode", "name", "created_us"], Vec::new());
    if name == "pins" {
        let mut found = blocks.pins().ls(None, EXPORTED_PINS).await.unwrap_or_default();
        pins.truncated = found.len() >= EXPORTED_PINS;
        found.truncate(EXPORTED_PINS);
        pins.rows = found
            .iter()
            .map(|pin| {
                let created = pin.created.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
                let created = created.map(|since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX));
                row![pin.cid.to_string(), mode(pin.kind), pin.name.as_ref(), created]
            })
            .collect();
    }
    tables.push(pins);
    Ok(tables)
}

const HITS: &[&str] = &[
    "start_us",
    "requests",
    "requests_memory",
    "requests_store",
    "requests_disk",
    "requests_partial",
    "requests_miss",
    "bytes_memory",
    "bytes_store",
    "bytes_disk",
    "bytes_partial",
    "bytes_miss",
    "bytes_fetched",
    "hit_ratio_requests",
    "hit_ratio_bytes",
];

fn hits_row(point: &CachePoint) -> Vec<export::Cell> {
    let (n, b) = (point.hits.requests, point.hits.bytes);
    row![
        point.start_us,
        point.requests,
        n.memory,
        n.store,
        n.disk,
        n.partial,
        n.miss,
        b.memory,
        b.store,
        b.disk,
        b.partial,
        b.miss,
        point.bytes_fetched,
        point.hits.hit_ratio_requests,
        point.hits.hit_ratio_bytes
    ]
}
