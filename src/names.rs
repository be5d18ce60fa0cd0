//! L3: mutable names. From `/ipns/NAME/…` to `/ipfs/CID/…`: fixed names, records kept here, a cache that serves stale
//! answers while it refreshes them, delegated routers, the DHT, and DNSLink; and publishing.
//!
//! Sources: <https://specs.ipfs.tech/ipns/ipns-record/>, <https://specs.ipfs.tech/http-gateways/dnslink-gateway/>.
//! What was believed once stays verified: every record is checked on its way in, from disk too, and its end of life
//! each time it is used.

mod cache;
mod dnslink;
mod error;
mod map;
mod metrics;
mod name;
mod publish;
mod search;
mod store;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{Semaphore, watch};

pub use error::NameError;
pub use map::{MapError, NsMap, VARIABLE as NS_MAP_VARIABLE};
pub use name::Name;
pub use publish::{Announced, Publish, Published};
pub use store::{Kept, NameStore, NameStoreError, Own};

use crate::ipld::ipns::{IpnsName, Record};
use crate::ipld::path::{ContentPath, MAX_SEGMENTS, Namespace, PathError};
use crate::routing::{NameRouter, RouterKind};
use crate::supervisor::Supervisor;
use crate::telemetry::Metrics;
use cache::{Found, Known, NameCache};
use dnslink::DnsLinks;
use metrics::NameMetrics;

/// The most names that one path may lead through (GATEWAY.md §3.4).
pub const MAX_RECURSION: usize = 32;
/// Look-ups under way at once; who comes for the same name waits for the same one.
const MAX_LOOK_UPS: usize = 256;
/// Announcements under way at once.
const MAX_ANNOUNCES: usize = 64;
/// How long a failure is remembered that has no time of its own.
const FAILURE: Duration = Duration::from_secs(5);

/// Policy of names.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// How long past its TTL an answer may be given while it is looked up again. Default 1 h. 0: never.
    pub max_stale: Duration,
    /// How long a record is looked for. Default 30 s.
    pub timeout: Duration,
    /// After the first valid record, how long a better one is waited for; the search goes on behind the answer.
    /// Default 1 s.
    pub settle: Duration,
    /// Valid records from the DHT after which the search ends (GATEWAY.md §3.6). Default 16.
    pub quorum: usize,
    /// How long after a record was announced it is announced again. Default 4 h.
    pub republish: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_stale: Duration::from_secs(3600),
            timeout: Duration::from_secs(30),
            settle: Duration::from_secs(1),
            quorum: 16,
            republish: Duration::from_secs(4 * 3600),
        }
    }
}

/// Where an answer comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// `IPFS_NS_MAP`.
    Map,
    /// A record put or published here.
    Local,
    Delegated,
    Dht,
    Dns,
}

impl Source {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Map => "map",
            Self::Local => "local",
            Self::Delegated => "delegated",
            Self::Dht => "dht",
            Self::Dns => "dns",
        }
    }

    fn of(kind: RouterKind) -> Self {
        match kind {
            RouterKind::Delegated => Self::Delegated,
            _ => Self::Dht,
        }
    }
}

/// Whom a look-up may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    Network,
    /// Only what is here, without a look-up behind it: `Cache-Control: only-if-cached`.
    Local,
}

/// One name on the way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hop {
    pub name: Name,
    pub path: ContentPath,
    pub source: Source,
    /// What is left of its TTL; `None` for fixed names, which have none.
    pub ttl: Option<Duration>,
    /// Past its TTL, and being looked up again.
    pub stale: bool,
}

/// A name that leads to content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// An `/ipfs/` path, the segments of every name and of the request put together.
    pub path: ContentPath,
    /// The shortest of what is left of the TTLs on the way; `None` when none is known.
    pub ttl: Option<Duration>,
    /// Where the last name's answer came from.
    pub source: Source,
    /// Every name on the way, at least one.
    pub trail: Vec<Hop>,
}

impl Resolved {
    /// Where the request's own names begin, by every path that leads there: what was asked for, each name on the way, the
    /// content path at the end, in this order.
    pub fn starts(&self, asked: &ContentPath) -> Vec<ContentPath> {
        let start = |namespace: &Namespace, segments: &[String]| ContentPath {
            namespace: namespace.clone(),
            segments: segments.to_vec(),
            trailing_slash: false,
        };
        let mut starts = vec![start(&asked.namespace, &[])];
        let mut below: Vec<String> = Vec::new();
        for hop in &self.trail {
            let mut segments = hop.path.segments.clone();
            segments.append(&mut below);
            starts.push(start(&hop.path.namespace, &segments));
            below = segments;
        }
        starts
    }
}

#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("resolver for DNSLink: {0}")]
    Dns(#[from] hickory_resolver::net::NetError),
}

/// What names are resolved with.
pub struct Parts {
    pub config: Config,
    pub map: NsMap,
    pub store: NameStore,
    /// Delegated routers and the DHT; none when offline.
    pub routers: Vec<Arc<dyn NameRouter>>,
    /// `None`: no DNS.
    pub dns: Option<(ResolverConfig, ResolverOpts)>,
    /// Where keys are: the node's own, and `keys/NAME`.
    pub data_dir: Option<PathBuf>,
}

/// Resolves and publishes names. Cheap to clone.
#[derive(Clone)]
pub struct Resolver {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    map: NsMap,
    store: NameStore,
    routers: Vec<Arc<dyn NameRouter>>,
    dns: Option<DnsLinks>,
    data_dir: Option<PathBuf>,
    cache: NameCache,
    look_ups: Mutex<HashMap<Name, watch::Receiver<Outcome>>>,
    announces: Arc<Semaphore>,
    /// One publication at a time: the next sequence number depends on the last.
    publishing: tokio::sync::Mutex<()>,
    metrics: NameMetrics,
    supervisor: Supervisor,
}

/// `None` while it is under way.
type Outcome = Option<Result<Arc<Found>, NameError>>;

impl Resolver {
    /// Registers its metrics and starts the republisher under the supervisor: build it once a process.
    pub fn new(parts: Parts, metrics: &Metrics, supervisor: &Supervisor) -> Result<Self, StartError> {
        let metrics = NameMetrics::new(metrics);
        let dns = parts.dns.map(|(config, options)| DnsLinks::new(config, options)).transpose()?;
        let inner = Inner {
            cache: NameCache::new(parts.config.max_stale, metrics.evicted.clone()),
            config: parts.config,
            map: parts.map,
            store: parts.store,
            routers: parts.routers,
            dns,
            data_dir: parts.data_dir,
            look_ups: Mutex::new(HashMap::new()),
            announces: Arc::new(Semaphore::new(MAX_ANNOUNCES)),
            publishing: tokio::sync::Mutex::new(()),
            metrics,
            supervisor: supervisor.clone(),
        };
        let resolver = Self { inner: Arc::new(inner) };
        let token = supervisor.token();
        supervisor.spawn("name republisher", publish::republish(resolver.clone(), token));
        Ok(resolver)
    }

    /// A resolver that knows these names and nothing else, and asks nobody: for trials, and for gateways without names.
    pub fn fixed(map: NsMap) -> Self {
        let metrics = NameMetrics::new(&Metrics::new());
        let config = Config::default();
        let inner = Inner {
            cache: NameCache::new(config.max_stale, metrics.evicted.clone()),
            config,
            map,
            store: NameStore::in_memory(),
            routers: Vec::new(),
            dns: None,
            data_dir: None,
            look_ups: Mutex::new(HashMap::new()),
            announces: Arc::new(Semaphore::new(MAX_ANNOUNCES)),
            publishing: tokio::sync::Mutex::new(()),
            metrics,
            supervisor: Supervisor::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Where a name leads. Cancel safe: a look-up goes on for whoever else waits, and for the cache.
    pub async fn resolve(&self, name: &Name) -> Result<Resolved, NameError> {
        let path =
            ContentPath { namespace: Namespace::Ipns(name.to_string()), segments: Vec::new(), trailing_slash: false };
        self.resolve_path(&path, Reach::Network).await
    }

    /// Where an `/ipns/` path leads: the request's segments follow those of the names. Cancel safe.
    pub async fn resolve_path(&self, path: &ContentPath, reach: Reach) -> Result<Resolved, NameError> {
        let resolved = self.walk(path, reach).await;
        if let Err(error) = &resolved {
            self.inner.metrics.failed(error.kind());
        }
        resolved
    }

    /// Where the DNSLink of a host leads; `None` when it has none, is an address, or DNS is switched off.
    pub async fn dnslink(&self, host: &str) -> Result<Option<Resolved>, NameError> {
        let Ok(name @ Name::Dns(_)) = host.parse::<Name>() else { return Ok(None) };
        match self.resolve(&name).await {
            Ok(resolved) => Ok(Some(resolved)),
            Err(NameError::NoLink { host }) if name == Name::Dns(host.clone()) => Ok(None),
            Err(NameError::Disabled { .. } | NameError::Syntax { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The best valid record of a name.
    pub async fn record(&self, name: &IpnsName, reach: Reach) -> Result<(Record, Source), NameError> {
        let (found, _) = self.find(&Name::Key(*name), reach).await?;
        // What is found for a key is a record.
        found
            .record
            .clone()
            .map(|record| (record, found.source))
            .ok_or_else(|| NameError::Lost { name: name.to_string() })
    }

    /// What is kept here, expired or not, in the order of the names' bytes.
    pub async fn kept(&self) -> Result<Vec<Kept>, NameError> {
        Ok(self.inner.store.all().await?)
    }

    async fn walk(&self, path: &ContentPath, reach: Reach) -> Result<Resolved, NameError> {
        let mut path = path.clone();
        let mut trail: Vec<Hop> = Vec::new();
        while let Namespace::Ipns(text) = &path.namespace {
            let name: Name = text.parse()?;
            if trail.len() == MAX_RECURSION {
                self.inner.metrics.limit_recursion.inc();
                return Err(NameError::Recursion { first: trail[0].name.to_string() });
            }
            let hop = self.hop(name, reach).await?;
            let mut next = hop.path.clone();
            next.trailing_slash = path.trailing_slash || (path.segments.is_empty() && next.trailing_slash);
            next.segments.append(&mut path.segments);
            if next.segments.len() > MAX_SEGMENTS {
                return Err(PathError::TooManySegments.into());
            }
            path = next;
            trail.push(hop);
        }
        let Some(last) = trail.last() else { return Err(PathError::Namespace.into()) };
        let source = last.source;
        let ttl = trail.iter().filter_map(|hop| hop.ttl).min();
        Ok(Resolved { path, ttl, source, trail })
    }

    async fn hop(&self, name: Name, reach: Reach) -> Result<Hop, NameError> {
        if let Some(path) = self.inner.map.get(&name) {
            self.inner.metrics.answered(Source::Map);
            return Ok(Hop { name, path: path.clone(), source: Source::Map, ttl: None, stale: false });
        }
        let (found, stale) = self.find(&name, reach).await?;
        self.inner.metrics.answered(found.source);
        let ttl = Some(found.remaining(Instant::now(), SystemTime::now()));
        Ok(Hop { name, path: found.path.clone(), source: found.source, ttl, stale })
    }

    /// The answer, and whether it is stale.
    async fn find(&self, name: &Name, reach: Reach) -> Result<(Arc<Found>, bool), NameError> {
        let inner = &self.inner;
        match inner.cache.look(name, Instant::now(), SystemTime::now()) {
            Known::Fresh(found) => return Ok((found, false)),
            Known::Stale(found) => {
                if reach == Reach::Network && self.refresh(name) {
                    inner.metrics.refreshes.inc();
                }
                inner.metrics.stale.inc();
                return Ok((found, true));
            }
            Known::Failed(error) => return Err(error),
            Known::Nothing => {}
        }
        if let Name::Key(key) = name
            && let Some(found) = self.find_kept(key).await?
        {
            inner.cache.keep(name.clone(), found.clone());
            // Somebody may know better; what is here is good until then.
            let open = !found.settled && reach == Reach::Network && self.refresh(name);
            return Ok((found, open));
        }
        if reach == Reach::Local {
            return Err(NameError::NotLocal { name: name.to_string() });
        }
        let mut waiting = self.look_up(name)?;
        let outcome = waiting.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
        match outcome {
            Ok(Some(outcome)) => outcome.map(|found| (found, false)),
            _ => Err(NameError::Lost { name: name.to_string() }),
        }
    }

    /// The record that is kept here, while it is valid.
    async fn find_kept(&self, name: &IpnsName) -> Result<Option<Arc<Found>>, NameError> {
        let kept = match self.inner.store.get(*name).await {
            Ok(kept) => kept,
            // A store that is broken is said at each put, and does not stop the network's answers.
            Err(error) => {
                tracing::debug!(%error, "kept names cannot be read");
                None
            }
        };
        let Some(kept) = kept.filter(|kept| kept.record.is_valid_at(SystemTime::now())) else { return Ok(None) };
        let settled = kept.own.is_some() || self.inner.routers.is_empty();
        self.found(kept.record, Source::Local, settled).map(Some)
    }

    fn found(&self, record: Record, source: Source, settled: bool) -> Result<Arc<Found>, NameError> {
        let path = record.path().map_err(|error| NameError::Invalid { name: record.name().to_string(), error })?;
        let ttl = record.ttl().unwrap_or(cache::DEFAULT_TTL);
        Ok(Arc::new(Found { path, source, ttl, since: Instant::now(), record: Some(record), settled }))
    }

    /// Starts a look-up behind an answer; whether one was started.
    fn refresh(&self, name: &Name) -> bool {
        let under_way = self.look_ups().contains_key(name);
        !under_way && self.look_up(name).is_ok()
    }

    /// Joins the look-up under way, or starts one.
    fn look_up(&self, name: &Name) -> Result<watch::Receiver<Outcome>, NameError> {
        let mut look_ups = self.look_ups();
        if let Some(waiting) = look_ups.get(name) {
            return Ok(waiting.clone());
        }
        self.can_look_up(name)?;
        if look_ups.len() >= MAX_LOOK_UPS {
            self.inner.metrics.limit_look_ups.inc();
            return Err(NameError::Busy);
        }
        let (sender, receiver) = watch::channel(None);
        look_ups.insert(name.clone(), receiver.clone());
        drop(look_ups);
        let under_way = UnderWay { resolver: self.clone(), name: name.clone() };
        self.inner.supervisor.spawn_short(async move {
            let resolver = &under_way.resolver;
            match &under_way.name {
                Name::Key(key) => resolver.search(key, &sender).await,
                Name::Dns(host) => resolver.ask_dns(host, &sender).await,
            }
            resolver.inner.metrics.cached.set(resolver.inner.cache.entries() as i64);
        });
        Ok(receiver)
    }

    fn can_look_up(&self, name: &Name) -> Result<(), NameError> {
        let disabled = |reason| Err(NameError::Disabled { name: name.to_string(), reason });
        match name {
            Name::Dns(host) if !host.contains('.') => Err(NameError::Syntax { name: host.clone() }),
            Name::Dns(_) if self.inner.dns.is_none() => disabled("DNS is switched off (--dns none or --offline)"),
            // Nobody to ask, and it is not here: that is an answer.
            Name::Key(key) if self.inner.routers.is_empty() => Err(NameError::NotFound { name: key.to_string() }),
            _ => Ok(()),
        }
    }

    async fn ask_dns(&self, host: &str, waiting: &watch::Sender<Outcome>) {
        let Some(dns) = &self.inner.dns else { return };
        let name = Name::Dns(host.to_owned());
        let outcome = match dns.look_up(host).await {
            Ok(link) => {
                let (path, ttl) = (link.path, link.ttl);
                let since = Instant::now();
                let found = Arc::new(Found { path, source: Source::Dns, ttl, since, record: None, settled: false });
                self.inner.cache.keep(name, found.clone());
                Ok(found)
            }
            Err(failed) => {
                let gone = matches!(failed.error, NameError::NoLink { .. } | NameError::BadLink { .. });
                if gone {
                    // DNS has said so: the old link is no longer anybody's word.
                    self.inner.cache.forget(&name);
                }
                self.fail(name, failed.error.clone(), failed.time);
                Err(failed.error)
            }
        };
        waiting.send_replace(Some(outcome));
    }

    fn fail(&self, name: Name, error: NameError, time: Duration) {
        self.inner.cache.keep_failure(name, error, time, Instant::now(), SystemTime::now());
    }

    fn look_ups(&self) -> std::sync::MutexGuard<'_, HashMap<Name, watch::Receiver<Outcome>>> {
        self.inner.look_ups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A look-up's place in the table, freed however it ends.
struct UnderWay {
    resolver: Resolver,
    name: Name,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.resolver.look_ups().remove(&self.name);
    }
}
