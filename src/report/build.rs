//! Reads what a report needs, once, and hands it to the sections.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use super::sections::{self, BenchmarkData, IpfsData, P2pData, PlatformData, WebGpuData};
use super::{Moment, Report, ReportType};
use crate::db::queries::{MAX_LIMIT, PeerOrder, TestRow, TransferRow, Window};
use crate::db::{Database, DbError};
use crate::record::Origin;
use crate::topology::{self, Facts};

/// Every moment that a row can have.
const EVER: Window = Window { since_us: 0, until_us: i64::MAX };
const MINUTE_US: i64 = 60_000_000;

/// Which window a report is about when people leave part of it out: up to the end of this minute, so that within a
/// minute the same rows give the same report.
pub fn window(kind: ReportType, since: Option<Moment>, until: Option<Moment>, now: SystemTime) -> Window {
    let until = until.map_or_else(
        || Window::new(now, now).until_us.div_euclid(MINUTE_US).saturating_add(1).saturating_mul(MINUTE_US),
        |moment| Window::new(moment.from(now), moment.from(now)).until_us,
    );
    let since = match (since, kind.default_days()) {
        (Some(moment), _) => Window::new(moment.from(now), moment.from(now)).since_us,
        (None, Some(days)) => until.saturating_sub(Duration::from_secs(days * 86_400).as_micros() as i64),
        (None, None) => 0,
    };
    Window { since_us: since.max(0), until_us: until.max(since) }
}

/// The report of a type over a window; `run` leaves out the results of other runs.
///
/// # Errors
/// When the database is away or slow; no data is no error.
pub async fn build(
    db: &Database,
    kind: ReportType,
    window: Window,
    run: Option<&str>,
    facts: Facts,
) -> Result<Report, DbError> {
    let sections = match kind {
        ReportType::Ipfs => {
            let ((transfers, runs), (comparison, strata), tally, standard, optimized) = tokio::try_join!(
                measured(db, window, run),
                db.comparison_and_strata(window),
                db.tally(window),
                db.tally_of(window, ("policy", "standard")),
                db.tally_of(window, ("policy", "optimized")),
            )?;
            sections::ipfs(&IpfsData {
                comparison,
                strata,
                tally,
                standard,
                optimized,
                transfers,
                runs,
                of_run: run.is_some(),
            })
        }
        ReportType::P2p => {
            let length = window.until_us - window.since_us;
            let before = Window { since_us: window.since_us.saturating_sub(length), until_us: window.since_us };
            sections::p2p(&P2pData {
                analytics: topology::current(db, facts, window).await?,
                history: db.network_history(window).await?,
                peers: db.peers(PeerOrder::BytesIn, MAX_LIMIT).await?,
                buckets: db.buckets(window).await?,
                before: db.buckets(before).await?,
            })
        }
        ReportType::WebGpu => {
            let mut rows = db.webgpu_of(window).await?;
            if run.is_some() {
                let tests = db.tests_of(EVER, run).await?;
                rows.retain(|row| row.test_id.is_some_and(|id| tests.iter().any(|test| test.id == id)));
            }
            sections::webgpu(&WebGpuData { rows })
        }
        ReportType::CrossPlatform => {
            let (transfers, _) = measured(db, window, run).await?;
            sections::platform(&PlatformData {
                tests: db.tests_of(window, run).await?,
                hardware: db.hardware().await?,
                models: db.models(MAX_LIMIT).await?,
                transfers,
                webgpu: if run.is_some() { Vec::new() } else { db.webgpu_of(window).await? },
            })
        }
        ReportType::Benchmark => {
            let (transfers, runs) = measured(db, window, run).await?;
            let tests = db.tests_of(window, run).await?;
            sections::benchmark(&BenchmarkData { transfers, runs, tests })
        }
        ReportType::Verification => sections::verification(&db.tests_of(window, run).await?),
    };
    let run = run.map(str::to_owned);
    Ok(Report { kind, title: kind.title().to_owned(), window, run, sections })
}

/// Rows of benches and imports, and the run of each test.
async fn measured(
    db: &Database,
    window: Window,
    run: Option<&str>,
) -> Result<(Vec<TransferRow>, HashMap<i64, String>), DbError> {
    let tests: Vec<TestRow> = db.tests_of(EVER, run).await?;
    let runs: HashMap<i64, String> = tests.into_iter().map(|test| (test.id, test.run_id)).collect();
    let mut rows = db.transfers_of(Origin::Bench, window).await?;
    rows.extend(db.transfers_of(Origin::Imported, window).await?);
    if run.is_some() {
        rows.retain(|row| row.test_id.is_some_and(|id| runs.contains_key(&id)));
    }
    Ok((rows, runs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_with_its_minute_and_begins_where_it_is_said_to() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_030);
        let week = window(ReportType::P2p, None, None, now);
        assert_eq!(week.until_us, 1_000_080_000_000);
        assert_eq!(week.seconds(), 7.0 * 86_400.0 - (7.0 * 86_400.0 - 1_000_080.0_f64).max(0.0));
        let hour = window(ReportType::P2p, Some(Moment::Ago(Duration::from_secs(3_600))), None, now);
        assert_eq!(hour.since_us, 996_430_000_000);
        assert_eq!(window(ReportType::Benchmark, None, None, now).since_us, 0);
        let turned = window(ReportType::P2p, Some(Moment::At(now)), Some(Moment::Ago(Duration::from_secs(60))), now);
        assert_eq!(turned.seconds(), 0.0);
    }
}
