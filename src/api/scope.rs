//! What a token may do, and what each request needs: pure functions of method and path.

use axum::http::Method;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How far a token reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Pages, figures, lists, reports.
    Read,
    /// `read`, and changes of content, pins, names and placement, and `results`.
    Write,
    /// Handing in measurements (`POST /results`, `POST /webgpu/results`) and nothing else: for test machines and browsers.
    Results,
    /// Everything, tokens and maintenance too.
    Admin,
}

impl Scope {
    pub const ALL: [Self; 4] = [Self::Read, Self::Write, Self::Results, Self::Admin];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Results => "results",
            Self::Admin => "admin",
        }
    }

    /// Whether a token of this scope may do what needs `needed`.
    pub const fn grants(self, needed: Self) -> bool {
        match self {
            Self::Admin => true,
            Self::Write => !matches!(needed, Self::Admin),
            Self::Read => matches!(needed, Self::Read),
            Self::Results => matches!(needed, Self::Results),
        }
    }
}

/// Budgets of requests, separate so that a page that refreshes itself does not keep an upload waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Budget {
    Read,
    Write,
    /// Those that walk the store, the database or the network.
    Expensive,
}

const API: &str = "/api/v1/";
/// Their changes are an administrator's.
const ADMIN: [&str; 3] = ["tokens", "gc", "scrub"];
const RESULTS: [&str; 3] = ["results", "webgpu/results", "webgpu/runs"];
/// POST only because they have a body: they compute and change nothing.
const COMPUTING: [&str; 1] = ["placement/plan"];
/// By prefix.
const EXPENSIVE: [&str; 8] =
    ["gc", "scrub", "reports/", "explain/", "p2p/analytics", "p2p/topology", "placement/", "webgpu/summary"];

/// The one page that asks the network.
const EXPLAIN_PAGE: &str = "/explain/";

pub fn is_change(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE)
}

/// The scope that a request needs. A path that nobody serves needs what its method says: it must not tell strangers what
/// exists.
pub fn needed(method: &Method, path: &str) -> Scope {
    let resource = resource(path);
    let is = |list: &[&str]| list.iter().any(|name| resource == *name || resource.starts_with(&format!("{name}/")));
    if resource == "tokens" || resource.starts_with("tokens/") {
        return Scope::Admin;
    }
    if !is_change(method) {
        return Scope::Read;
    }
    if is(&ADMIN) {
        Scope::Admin
    } else if is(&RESULTS) {
        Scope::Results
    } else if is(&COMPUTING) {
        Scope::Read
    } else {
        Scope::Write
    }
}

pub fn budget(method: &Method, path: &str) -> Budget {
    let resource = resource(path);
    let expensive =
        EXPENSIVE.iter().any(|prefix| resource == prefix.trim_end_matches('/') || resource.starts_with(prefix));
    if expensive || path.starts_with(EXPLAIN_PAGE) {
        Budget::Expensive
    } else if is_change(method) {
        Budget::Write
    } else {
        Budget::Read
    }
}

/// The path under `/api/v1/`; empty for everything else.
fn resource(path: &str) -> &str {
    path.strip_prefix(API).unwrap_or_default().trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_class_of_route_needs_its_scope() {
        for (method, path, scope) in [
            (Method::GET, "/", Scope::Read),
            (Method::GET, "/metrics", Scope::Read),
            (Method::HEAD, "/api/v1/pins", Scope::Read),
            (Method::PUT, "/api/v1/pins/x", Scope::Write),
            (Method::POST, "/api/v1/add", Scope::Write),
            (Method::POST, "/api/v1/results", Scope::Results),
            (Method::POST, "/api/v1/webgpu/results", Scope::Results),
            (Method::POST, "/api/v1/webgpu/runs", Scope::Results),
            (Method::GET, "/api/v1/results", Scope::Read),
            (Method::POST, "/api/v1/placement/plan", Scope::Read),
            (Method::POST, "/api/v1/placement/apply", Scope::Write),
            (Method::POST, "/api/v1/gc", Scope::Admin),
            (Method::POST, "/api/v1/scrub", Scope::Admin),
            (Method::GET, "/api/v1/tokens", Scope::Admin),
            (Method::DELETE, "/api/v1/tokens/1", Scope::Admin),
            (Method::POST, "/api/v1/resultsx", Scope::Write),
        ] {
            assert_eq!(needed(&method, path), scope, "{method} {path}");
        }
    }

    #[test]
    fn a_scope_grants_what_it_says_and_no_more() {
        let granted = |scope: Scope| Scope::ALL.into_iter().filter(|needed| scope.grants(*needed)).collect::<Vec<_>>();
        assert_eq!(granted(Scope::Read), [Scope::Read]);
        assert_eq!(granted(Scope::Results), [Scope::Results]);
        assert_eq!(granted(Scope::Write), [Scope::Read, Scope::Write, Scope::Results]);
        assert_eq!(granted(Scope::Admin), Scope::ALL);
    }

    #[test]
    fn what_walks_the_store_or_the_network_has_its_own_budget() {
        assert_eq!(budget(&Method::POST, "/api/v1/gc"), Budget::Expensive);
        assert_eq!(budget(&Method::GET, "/api/v1/reports/network"), Budget::Expensive);
        assert_eq!(budget(&Method::GET, "/api/v1/p2p/peers"), Budget::Read);
        assert_eq!(budget(&Method::GET, "/api/v1/explain/bafkqaaa"), Budget::Expensive);
        assert_eq!(budget(&Method::GET, "/explain/bafkqaaa"), Budget::Expensive);
        assert_eq!(budget(&Method::GET, "/explain"), Budget::Read);
        assert_eq!(budget(&Method::GET, "/static/app.css"), Budget::Read);
        assert_eq!(budget(&Method::POST, "/api/v1/add"), Budget::Write);
    }
}
