//! A star with its providers and contenders, and the contents they are measured on.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use crate::contender::aria2::Aria2;
use crate::contender::kubo::{self, Kubo};
use crate::contender::tidegate::{self, Peers};
use crate::contender::web::{self, Nginx, WarmConnection};
use crate::contender::{Contender, Content, Gateway, Scratch, Transport};
use crate::net::star::Star;
use crate::router;
use crate::run::Options;
use crate::scenario::LinkSet;

/// What a delegated router takes, each time (RETRIEVAL.md §5.3, S5).
const ROUTER_DELAY: Duration = Duration::from_millis(30);

pub struct World {
    pub set: LinkSet,
    pub star: Star,
    providers: Vec<Provider>,
    webs: Vec<Nginx>,
    transport: Transport,
    scratch: Scratch,
    seed: u64,
    made: u64,
}

/// Which programs the contents come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Providers {
    Kubo,
    Tidegate,
}

/// A program at the end of a link that has the contents.
enum Provider {
    Kubo(Kubo),
    Tidegate(tidegate::Provider),
}

impl Provider {
    fn peer_id(&self) -> &str {
        match self {
            Self::Kubo(kubo) => &kubo.peer_id,
            Self::Tidegate(tidegate) => &tidegate.peer_id,
        }
    }

    fn add(&self, path: &Path) -> io::Result<String> {
        match self {
            Self::Kubo(kubo) => kubo.add(path),
            Self::Tidegate(tidegate) => tidegate.add(path),
        }
    }
}

/// A content and the file it is made of, which goes with it.
pub struct Made {
    pub content: Content,
    path: PathBuf,
}

impl Drop for Made {
    fn drop(&mut self) {
        let _ = if self.path.is_dir() { std::fs::remove_dir_all(&self.path) } else { std::fs::remove_file(&self.path) };
    }
}

impl World {
    /// A star of `set`, with one provider and, if it is installed and `web` is set, one nginx at the end of each link.
    pub fn new(set: &LinkSet, options: &Options, web: bool) -> io::Result<Self> {
        let (transport, seed) = (options.transport, options.seed);
        let scratch = Scratch::new(&options.scratch, &set.name)?;
        let star = Star::new(&set.links, set.access_mbit, &options.congestion_control, seed)?;
        let mut providers = Vec::new();
        let mut webs = Vec::new();
        for (place, namespace) in star.providers.iter().enumerate() {
            let address = Star::address(place);
            providers.push(match options.providers {
                Providers::Kubo => {
                    let swarm = Transport::Both.addresses(&address);
                    Provider::Kubo(Kubo::start(namespace, &scratch.0, &swarm, None)?)
                }
                Providers::Tidegate => Provider::Tidegate(tidegate::Provider::start(namespace, &scratch.0, &address)?),
            });
            if web && web::version().is_some() {
                webs.push(Nginx::start(namespace, &scratch.0, &address)?);
            }
        }
        Ok(Self { set: set.clone(), star, providers, webs, transport, scratch, seed, made: 0 })
    }

    /// (address, peer id) of each provider.
    fn peers(&self) -> Vec<(String, String)> {
        let peer = |(place, provider): (usize, &Provider)| (Star::address(place), provider.peer_id().to_owned());
        self.providers.iter().enumerate().map(peer).collect()
    }

    /// A contender that is connected to every provider, by name. `None`: its program is not installed.
    pub fn contender(&self, name: &str) -> io::Result<Option<Box<dyn Contender>>> {
        let gateway = &self.star.gateway;
        let peers = self.peers();
        Ok(match name {
            "tidegate-optimized" | "tidegate-standard" => {
                let policy = name.trim_start_matches("tidegate-");
                let peers = Peers::Connected(&peers, self.transport);
                Some(Box::new(tidegate::contender(gateway, &self.scratch.0, policy, &peers)?))
            }
            "kubo" => Some(Box::new(kubo::contender(gateway, &self.scratch.0, &peers, self.transport)?)),
            "aria2" if !self.webs.is_empty() => match Aria2::new(gateway, &self.scratch.0, self.webs.len())? {
                Some(aria2) => Some(Box::new(aria2)),
                None => None,
            },
            "nginx-warm" if !self.webs.is_empty() => {
                let rate = |place: &usize| self.set.links[*place].mbit;
                let best = (0..self.webs.len()).max_by(|a, b| rate(a).total_cmp(&rate(b))).unwrap_or_default();
                let host: SocketAddr =
                    format!("{}:{}", Star::address(best), web::PORT).parse().map_err(io::Error::other)?;
                Some(Box::new(WarmConnection::new(gateway, host)))
            }
            _ => None,
        })
    }

    /// A fresh contender that knows a delegated router and nobody else.
    pub fn cold_contender(&self, name: &str, router: SocketAddr) -> io::Result<Option<Gateway>> {
        let url = format!("http://{router}");
        let gateway = &self.star.gateway;
        match name {
            "tidegate-optimized" | "tidegate-standard" => {
                let policy = name.trim_start_matches("tidegate-");
                tidegate::contender(gateway, &self.scratch.0, policy, &Peers::Router(&url)).map(Some)
            }
            "kubo" => Kubo::start(gateway, &self.scratch.0, &[], Some(&url))?.into_gateway("kubo").map(Some),
            _ => Ok(None),
        }
    }

    pub fn router(&self) -> io::Result<SocketAddr> {
        let records =
            self.peers().into_iter().map(|(address, peer_id)| (self.transport.addresses(&address), peer_id)).collect();
        router::start(&self.star.gateway, records, ROUTER_DELAY)
    }

    /// Random bytes that nobody has seen, on every provider.
    pub fn file(&mut self, bytes: u64) -> io::Result<Made> {
        let path = self.next_path();
        let sha256 = write_random(&path, bytes, self.seed ^ self.made)?;
        self.add(path, bytes, sha256)
    }

    /// A directory of `count` such files of `bytes` each.
    pub fn directory(&mut self, count: u64, bytes: u64) -> io::Result<(Made, Vec<[u8; 32]>)> {
        let path = self.next_path();
        std::fs::create_dir(&path)?;
        let mut hashes = Vec::new();
        for n in 0..count {
            let seed = (self.seed ^ self.made).wrapping_mul(1_000_003).wrapping_add(n);
            hashes.push(write_random(&path.join(format!("{n:04}")), bytes, seed)?);
        }
        Ok((self.add(path, count * bytes, [0; 32])?, hashes))
    }

    fn next_path(&mut self) -> PathBuf {
        self.made += 1;
        self.scratch.0.join(format!("content-{}", self.made))
    }

    fn add(&self, path: PathBuf, bytes: u64, sha256: [u8; 32]) -> io::Result<Made> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let cids: Vec<io::Result<String>> = std::thread::scope(|scope| {
            let adding: Vec<_> = self.providers.iter().map(|provider| scope.spawn(|| provider.add(&path))).collect();
            let joined = adding
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("adding to a provider panicked"))));
            joined.collect()
        });
        let cids: Vec<String> = cids.into_iter().collect::<io::Result<_>>()?;
        if path.is_file() {
            for web in &self.webs {
                web.add(&path, &name)?;
            }
        }
        match cids.first() {
            Some(cid) if cids.iter().all(|other| other == cid) => {
                Ok(Made { content: Content { cid: cid.clone(), bytes, sha256, name }, path })
            }
            _ => Err(io::Error::other(format!("the providers do not agree on a CID: {cids:?}"))),
        }
    }

    /// Web copies of `made` go too.
    pub fn forget(&self, made: &Made) {
        for web in &self.webs {
            web.remove(&made.content.name);
        }
    }

    pub fn check(&mut self) -> io::Result<()> {
        self.webs.iter_mut().try_for_each(Nginx::check)
    }
}

/// Writes `bytes` random bytes and tells their SHA-256.
pub fn write_random(path: &Path, bytes: u64, seed: u64) -> io::Result<[u8; 32]> {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut file = BufWriter::new(File::create(path)?);
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 64 << 10];
    let mut left = bytes;
    while left > 0 {
        let part = &mut chunk[..left.min(64 << 10) as usize];
        rng.fill_bytes(part);
        hash.update(&*part);
        file.write_all(part)?;
        left -= part.len() as u64;
    }
    file.flush()?;
    Ok(hash.finalize().into())
}
