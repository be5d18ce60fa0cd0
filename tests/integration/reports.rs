//! Reports, the import of results, and figures of pages against SQL: on servers as `serve` makes them.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use reqwest::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use sea_orm::{ConnectionTrait, DatabaseConnection, Statement};
use serde_json::{Value, json};
use tempfile::TempDir;
use tidegate::app::{App, Mode};
use tidegate::config::Settings;

const CID: &str = "bafkreih27ptmkbnlfvyzbnmnawzpmsvyqlrscvbwuqpyx4zzb2mbxivpxi";
const TYPES: [&str; 6] = ["ipfs", "p2p", "webgpu", "cross-platform", "benchmark", "verification"];

struct Server {
    app: App,
    dir: TempDir,
    http: reqwest::Client,
}

impl Server {
    async fn start(peers: &[String]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let peers = serde_json::to_string(peers).unwrap();
        let settings = format!(
            "data-dir = {:?}\ngateway = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nlisten = [\"/ip4/127.0.0.1/tcp/0\"]\n\
             peer = {peers}\nbootstrap = \"none\"\nno-dht = true\nno-mdns = true\ndns = \"none\"\ncache-disk = \"0\"\n\
             [limits]\nretrieval-timeout = \"3s\"\n",
            dir.path()
        );
        let settings: Settings = toml::from_str(&settings).unwrap();
        let app = App::start(settings, Mode::Server).await.unwrap();
        Self { app, dir, http: reqwest::Client::builder().no_proxy().build().unwrap() }
    }

    fn peer(&self) -> String {
        self.app.ready_line().split(" peer=").nth(1).unwrap().to_owned()
    }

    fn admin(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(format!("{}{path}", self.app.api_file().admin))
    }

    async fn page(&self, path: &str) -> String {
        let answer = self.admin(path).send().await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        answer.text().await.unwrap()
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.page(path).await).unwrap()
    }

    async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (StatusCode, Value) {
        let request = self.http.post(format!("{}{path}", self.app.api_file().admin));
        let answer = request.header(CONTENT_TYPE, "application/json").body(body).send().await.unwrap();
        (answer.status(), serde_json::from_str(&answer.text().await.unwrap()).unwrap())
    }

    async fn fetch(&self, path: &str) -> StatusCode {
        let answer = self.http.get(format!("{}{path}", self.app.api_file().gateway)).send().await.unwrap();
        let status = answer.status();
        answer.bytes().await.unwrap();
        status
    }

    /// A connection of the test's own to the server's file.
    async fn sql(&self) -> DatabaseConnection {
        let url = format!("sqlite://{}?mode=ro", self.dir.path().join("metrics.sqlite").display());
        sea_orm::Database::connect(url).await.unwrap()
    }
}

async fn number(db: &DatabaseConnection, sql: &str) -> f64 {
    let row = Statement::from_string(db.get_database_backend(), format!("SELECT CAST(({sql}) AS REAL)"));
    let row = db.query_one_raw(row).await.unwrap().unwrap();
    row.try_get_by_index::<Option<f64>>(0).unwrap().unwrap_or_else(|| panic!("NULL: {sql}"))
}

/// The text of a cell on a page: the row whose first cell is `row`, the column with this heading.
fn cell(page: &str, table: &str, row: &str, heading: &str) -> String {
    let start = page.find(&format!("<table id=\"t-{table}\"")).unwrap_or_else(|| panic!("no table {table}"));
    let table = &page[start..start + page[start..].find("</table>").unwrap()];
    let texts = |part: &str, tag: &str| -> Vec<String> {
        let open = format!("<{tag}");
        let cells = part.split(open.as_str()).skip(1).filter(|cell| cell.starts_with([' ', '>']));
        cells.map(|cell| cell.split_once('>').unwrap().1.split('<').next().unwrap().to_owned()).collect()
    };
    let column = texts(table, "th").iter().position(|text| text == heading);
    let column = column.unwrap_or_else(|| panic!("no column {heading}"));
    let rows = table.split("<tr>").skip(1).map(|row| texts(row, "td"));
    let found = rows.into_iter().find(|cells| cells.first().is_some_and(|first| first == row));
    found.unwrap_or_else(|| panic!("no row {row}"))[column].clone()
}

fn result(run: &str, sequence: u64, policy: &str, ms: f64) -> Value {
    json!({
        "run_id": run, "sequence": sequence, "test_type": "fetch", "success": true, "execution_time": ms / 1e3,
        "tool": "bench", "timestamp": "2026-11-20T10:00:00Z",
        "model": {"model_name": "whisper-tiny", "parameters_million": 39.0},
        "hardware": {"hardware_type": "cpu", "device_name": "A CPU", "is_simulated": false},
        "transfers": [{
            "cid": CID, "policy": policy, "origin": "bench", "scenario": "s1/A/100KB", "is_simulated": true,
            "simulation_reason": "shaped links", "transfer_time_ms": ms, "load_time_ms": ms + 1.0, "bytes": 100_000,
            "network_bytes": 100_000, "optimization_score": 0.5
        }]
    })
}

/// 25 pairs; the optimised policy takes two fifths of the time.
fn batch(run: &str) -> Value {
    let pairs = (0..25).flat_map(|i| {
        let ms = 200.0 + f64::from((i * 7) % 25);
        [
            result(run, u64::from(2 * i as u32), "standard", ms),
            result(run, u64::from(2 * i as u32 + 1), "optimized", ms * 0.4),
        ]
    });
    json!({ "results": pairs.collect::<Vec<_>>() })
}

fn tidegate(data: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tidegate"))
        .env("TIDEGATE_DATA_DIR", data)
        .env_remove("TIDEGATE_CONFIG")
        .args(args)
        .output()
        .unwrap()
}

#[tokio::test]
async fn figures_of_pages_are_confirmed_by_independent_sql() {
    let provider = Server::start(&[]).await;
    let mut cids = Vec::new();
    for size in [1_000_usize, 300_000, 3_000_000] {
        let bytes: Vec<u8> =
            (0..size as u64).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8 ^ size as u8).collect();
        let (status, added) = provider.post("/api/v1/add", bytes).await;
        assert_eq!(status, StatusCode::OK, "{added}");
        cids.push(added["cid"].as_str().unwrap().to_owned());
    }
    let server = Server::start(&[provider.peer()]).await;
    let started = Instant::now();
    while server.json("/api/v1/p2p/peers").await["items"].as_array().unwrap().is_empty() {
        assert!(started.elapsed() < Duration::from_secs(20), "the peers did not connect");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Cold, then warm, then what nobody has.
    for cid in cids.iter().chain(&cids).chain(&cids[..1]) {
        assert_eq!(server.fetch(&format!("/ipfs/{cid}")).await, StatusCode::OK);
    }
    assert!(!server.fetch(&format!("/ipfs/{CID}")).await.is_success());

    let db = server.sql().await;
    let started = Instant::now();
    while number(&db, "SELECT count(*) FROM ipfs_acceleration_results").await < 8.0 {
        assert!(started.elapsed() < Duration::from_secs(20), "the rows were not written");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    let asked = "(transfer_time_ms IS NOT NULL OR routing_ms IS NOT NULL OR network_bytes > 0 OR providers_attempted > 0 OR providers_found > 0)";
    let rows = "FROM ipfs_acceleration_results WHERE origin = 'live'";
    let completed = format!("SELECT count(*) {rows} AND outcome = 'complete' AND {asked}");
    let failed =
        format!("SELECT count(*) {rows} AND outcome IN ('truncated', 'not_found', 'timeout', 'error') AND {asked}");
    let hits = format!("SELECT count(*) {rows} AND cache_state IN ('memory', 'disk', 'store')");
    let needed = format!("SELECT count(*) {rows} AND cache_state IS NOT NULL");
    let ipfs = server.page("/reports?type=ipfs").await;
    let p2p = server.page("/reports?type=p2p").await;
    let traffic = |heading: &str| cell(&ipfs, "traffic", "all", heading);
    let figure = |name: &str| cell(&p2p, "figures", name, "value");
    // What the page says, the SQL, and half a unit of its last digit.
    let checks = [
        (traffic("requests"), format!("SELECT count(*) {rows}"), 0.0),
        (traffic("failed"), format!("SELECT count(*) {rows} AND outcome NOT IN ('complete', 'client_aborted')"), 0.0),
        (traffic("served, bytes"), format!("SELECT sum(bytes) {rows}"), 0.0),
        (traffic("fetched, bytes"), format!("SELECT sum(network_bytes) {rows}"), 0.0),
        (traffic("cache hits, by requests, %"), format!("SELECT 100.0 * ({hits}) / ({needed})"), 0.051),
        (figure("transfers_completed"), completed.clone(), 0.0),
        (figure("transfers_failed"), failed.clone(), 0.0),
        (figure("bytes_transferred"), format!("SELECT sum(network_bytes) {rows}"), 0.0),
        (figure("network_efficiency"), format!("SELECT 1.0 * ({completed}) / (({completed}) + ({failed}))"), 0.00051),
        (figure("known_content_items"), format!("SELECT count(DISTINCT cid) {rows} AND outcome = 'complete'"), 0.0),
        (figure("cache_hit_ratio"), format!("SELECT 1.0 * ({hits}) / ({needed})"), 0.00051),
        (figure("peer_count"), "SELECT count(*) FROM peers WHERE connected".to_owned(), 0.0),
    ];
    for (shown, sql, tolerance) in &checks {
        let expected = number(&db, sql).await;
        let shown: f64 = shown.parse().unwrap_or_else(|_| panic!("{shown:?} is no number: {sql}"));
        assert!((shown - expected).abs() <= *tolerance, "the page says {shown}, {sql} says {expected}");
    }
    assert_eq!(traffic("requests"), "8");
    assert_eq!(
        figure("bytes_transferred").parse::<f64>().unwrap(),
        number(&db, "SELECT sum(bytes) FROM retrieval_attempts").await
    );

    // The speed is of times that are cut to microseconds.
    let speed = number(&db, &format!("SELECT sum(network_bytes) / (sum(transfer_time_ms) / 1e3) {rows} AND network_bytes > 0 AND transfer_time_ms IS NOT NULL")).await;
    let shown: f64 = figure("average_transfer_speed").parse().unwrap();
    assert!((shown / speed - 1.0).abs() < 1e-3, "{shown} {speed}");

    // The overview tells the same number of requests.
    let overview = server.page("/").await;
    let requests = &overview[overview.find("id=\"figure-requests\"").unwrap()..];
    assert!(requests[..400].contains(">8</dd>"), "{}", &requests[..400]);
    // And so do the other formats.
    let csv = server.page("/api/v1/reports/ipfs?format=csv").await;
    assert!(csv.contains("traffic,traffic,1,requests,,8\r\n"), "{csv}");
    server.app.stop().await;
    provider.app.stop().await;
}

#[tokio::test]
async fn results_are_imported_once_and_make_a_report_in_every_format_with_and_without_the_server() {
    let server = Server::start(&[]).await;
    let (status, stored) = server.post("/api/v1/results", batch("run-1").to_string()).await;
    assert_eq!((status, &stored["created"], &stored["known"]), (StatusCode::CREATED, &json!(50), &json!(0)));
    let (status, again) = server.post("/api/v1/results", batch("run-1").to_string()).await;
    assert_eq!((status, &again["created"], &again["known"]), (StatusCode::OK, &json!(0), &json!(50)));
    assert_eq!(again["items"][7]["id"], stored["items"][7]["id"]);

    let db = server.sql().await;
    assert_eq!(number(&db, "SELECT count(*) FROM ipfs_acceleration_results WHERE is_simulated").await, 50.0);
    assert_eq!(number(&db, "SELECT count(*) FROM models").await, 1.0);
    assert_eq!(number(&db, "SELECT count(*) FROM hardware_platforms WHERE device_name = 'A CPU'").await, 1.0);

    let (status, problem) = server
        .post(
            "/api/v1/results",
            json!([result("run-2", 1, "standard", 5.0), result("run-2", 2, "standard", -5.0)]).to_string(),
        )
        .await;
    assert_eq!(
        (status, problem["type"].as_str()),
        (StatusCode::UNPROCESSABLE_ENTITY, Some("urn:tidegate:problem:unprocessable"))
    );
    let pointers: Vec<&str> =
        problem["errors"].as_array().unwrap().iter().filter_map(|e| e["pointer"].as_str()).collect();
    assert!(pointers.contains(&"/1/transfers/0/transfer_time_ms"), "{pointers:?}");
    assert_eq!(number(&db, "SELECT count(*) FROM test_results").await, 50.0, "all or nothing");
    assert_eq!(server.post("/api/v1/results", "{").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(server.post("/api/v1/results", vec![b' '; 9 << 20]).await.0, StatusCode::PAYLOAD_TOO_LARGE);

    let tests = server.json("/api/v1/tests?run_id=run-1&limit=10").await;
    assert_eq!(tests["items"].as_array().unwrap().len(), 10);
    let next = tests["next_cursor"].as_str().unwrap();
    assert_eq!(
        server.json(&format!("/api/v1/tests?cursor={next}&limit=500")).await["items"].as_array().unwrap().len(),
        40
    );
    assert_eq!(server.json("/api/v1/runs").await["items"][0]["tests"], 50);
    assert_eq!(server.json("/api/v1/models").await["items"][0]["model_name"], "whisper-tiny");
    assert!(server.json("/api/v1/hardware").await["items"].as_array().unwrap().len() >= 2);

    // Matched pairs of exactly two fifths: 60 %, and an interval without width.
    let page = server.page("/reports?type=benchmark").await;
    assert_eq!(cell(&page, "scenarios", "S1", "pairs"), "25");
    assert_eq!(cell(&page, "scenarios", "S1", "faster by, %"), "60.0");
    assert_eq!(cell(&page, "scenarios", "S2", "faster by, %"), "not enough data");
    assert!(
        page.contains("50 of 50 results are simulated: shaped links.") && page.contains("<svg class=\"drawing wide\"")
    );
    assert!(
        page.contains("href=\"/reports?type=benchmark&#38;run=run%2D1\"")
            || page.contains("/reports?type=benchmark&amp;run=run%2D1"),
        "history"
    );
    let other = server.page("/reports?type=benchmark&run=run-9").await;
    assert!(other.contains("There is no data for this report in this window."));
    let platform = server.page("/reports?type=cross-platform").await;
    assert_eq!(cell(&platform, "performance", "fetch", "device"), "A CPU");
    assert_eq!(cell(&platform, "performance", "fetch", "n"), "50");

    for kind in TYPES {
        for (format, media) in
            [("md", "text/markdown"), ("html", "text/html"), ("json", "application/json"), ("csv", "text/csv")]
        {
            let path = format!("/api/v1/reports/{kind}?format={format}&until=2026-12-31");
            let answer = server.admin(&path).send().await.unwrap();
            assert_eq!(answer.status(), StatusCode::OK, "{path}");
            assert!(answer.headers()[CONTENT_TYPE].to_str().unwrap().starts_with(media), "{path}");
            let policy = answer.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
            assert!(!policy.contains("unsafe") && (format != "html" || policy.contains("'sha256-")), "{policy}");
            let tag = answer.headers()[ETAG].clone();
            let text = answer.text().await.unwrap();
            assert!(!text.contains("NaN") && !text.contains("None"), "{path}: {text}");
            if kind != "p2p" {
                let again = server.admin(&path).header(IF_NONE_MATCH, tag).send().await.unwrap();
                assert_eq!(again.status(), StatusCode::NOT_MODIFIED, "{path}");
            }
        }
    }
    for (path, status) in [
        ("/api/v1/reports/everything", StatusCode::NOT_FOUND),
        ("/api/v1/reports/ipfs?format=pdf", StatusCode::BAD_REQUEST),
        ("/api/v1/reports/ipfs?since=yesterday", StatusCode::BAD_REQUEST),
        ("/api/v1/reports/ipfs?frmat=md", StatusCode::BAD_REQUEST),
    ] {
        let answer = server.admin(path).send().await.unwrap();
        assert_eq!(answer.status(), status, "{path}");
        assert_eq!(answer.headers()[CONTENT_TYPE], "application/problem+json");
    }
    let insights = server.json("/api/v1/p2p/insights").await;
    assert_eq!((&insights["anomalies"], &insights["changes"]), (&Value::Null, &json!([])));

    // The same text from the command: through the server, then from the file that it left.
    let data = server.dir.path().to_owned();
    let args = ["report", "benchmark", "--format", "csv", "--until", "2026-12-31"];
    let (with_data, with_args) = (data.clone(), args);
    let through = tokio::task::spawn_blocking(move || tidegate(&with_data, &with_args)).await.unwrap();
    assert!(through.status.success(), "{}", String::from_utf8_lossy(&through.stderr));
    let served = server.page("/api/v1/reports/benchmark?format=csv&until=2026-12-31").await;
    assert_eq!(String::from_utf8_lossy(&through.stdout).trim_end(), served.trim_end());
    let Server { app, dir, .. } = server;
    drop(db);
    app.stop().await;
    let alone = tidegate(dir.path(), &args);
    assert!(alone.status.success(), "{}", String::from_utf8_lossy(&alone.stderr));
    assert_eq!(alone.stdout, through.stdout);
}

#[test]
fn a_report_of_nothing_is_a_document_that_says_so_and_no_failure() {
    let dir = tempfile::tempdir().unwrap();
    for kind in TYPES {
        for format in ["md", "html", "json", "csv"] {
            let out = tidegate(dir.path(), &["report", kind, "--format", format]);
            assert!(out.status.success(), "{kind} {format}: {}", String::from_utf8_lossy(&out.stderr));
            let text = String::from_utf8(out.stdout).unwrap();
            if kind != "verification" {
                let says = ["There is no data", "no_data", "no data"].iter().any(|words| text.contains(words));
                assert!(says, "{kind} {format}: {text}");
            } else {
                assert!(text.contains("not run on this database"), "{text}");
            }
        }
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is made in the data directory");
    let wrong = tidegate(dir.path(), &["report", "everything"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("cross-platform"));
}
