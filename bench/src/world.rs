//! A star with its providers and contenders, and the contents they are measured on.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use sha2::{Digest, Sha256};

use crate::adversary::Adversary;
use crate::bound;
use crate::contender::aria2::Aria2;
use crate::contender::helia;
use crate::contender::kubo::{self, Kubo};
use crate::contender::rainbow;
use crate::contender::tidegate::{self, Peer, Peers};
use crate::contender::trustless::Shelf;
use crate::contender::web::{self, Nginx, WarmConnection};
use crate::contender::{Contender, Content, Gateway, Scratch, Transport};
use crate::net::emulator::Change;
use crate::net::star::Star;
use crate::providers::Providers;
use crate::router;
use crate::run::{Options, multi};
use crate::scenario::{End, LinkSet};

/// What a delegated router takes, each time (RETRIEVAL.md §5.3, S5).
pub const ROUTER_DELAY: Duration = Duration::from_millis(30);

/// The peer id of the dead: well formed, and nobody's.
const NOBODY: &str = "12D3KooWNYoPwwLp9AgQpjdu3KufXAPMS3nkSSSgq8Etx7xNU4Eq";

pub struct World {
    pub set: LinkSet,
    pub star: Star,
    ends: Vec<Place>,
    /// With the place of its link.
    webs: Vec<(usize, Nginx)>,
    /// What the providers serve, where they are nginx.
    shelf: Option<Shelf>,
    transport: Transport,
    providers: Providers,
    scratch: Scratch,
    seed: u64,
    made: u64,
}

/// What is at the end of a link.
enum Place {
    Kubo(Kubo),
    Tidegate(tidegate::Provider),
    Nginx(Nginx),
    Adversary(Adversary),
    Dead,
}

impl Place {
    /// `None`: it takes no contents of its own.
    fn add(&self, path: &Path) -> Option<io::Result<String>> {
        match self {
            Self::Kubo(kubo) => Some(kubo.add(path)),
            Self::Tidegate(tidegate) => Some(tidegate.add(path)),
            Self::Nginx(_) | Self::Adversary(_) | Self::Dead => None,
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
        let Options { congestion_control, transport, seed, .. } = options;
        let star = Star::new(&set.links, set.access_mbit, congestion_control, *seed)?;
        let scratch = Scratch::new(&options.scratch, "world")?;
        let (mut ends, mut webs) = (Vec::new(), Vec::new());
        let mut shelf = None;
        for (place, (namespace, end)) in star.providers.iter().zip(&set.ends).enumerate() {
            let address = Star::address(place);
            ends.push(match (end, options.providers) {
                (End::Adversary(kind), _) => {
                    let address = format!("{address}:4001").parse().map_err(io::Error::other)?;
                    Place::Adversary(Adversary::start(Some(namespace), *kind, address, set.links[place])?)
                }
                (End::Dead, _) => {
                    star.emulator.change(Change::Cut(place, true));
                    Place::Dead
                }
                (End::Provider | End::Late, Providers::Kubo) => {
                    let swarm = Transport::Both.addresses(&address);
                    Place::Kubo(Kubo::start(namespace, &scratch.0, &swarm, None)?)
                }
                (End::Provider | End::Late, Providers::Tidegate | Providers::TidegateHttp) => {
                    Place::Tidegate(tidegate::Provider::start(namespace, &scratch.0, &address)?)
                }
                (End::Provider | End::Late, Providers::Nginx) => {
                    let shelf = match &shelf {
                        Some(shelf) => shelf,
                        None => shelf.insert(Shelf::new(&scratch.0)?),
                    };
                    Place::Nginx(shelf.serve(namespace, &scratch.0, &address)?)
                }
            });
            if web && *end == End::Provider && web::version().is_some() {
                webs.push((place, Nginx::start(namespace, &scratch.0, &address)?));
            }
        }
        let (set_of, transport, seed, providers) = (set.clone(), *transport, *seed, options.providers);
        let world = Self { set: set_of, star, ends, webs, shelf, transport, providers, scratch, seed, made: 0 };
        if set.is_adverse() && world.kubo().is_none() {
            return Err(io::Error::other(format!("{} needs --providers kubo", set.name)));
        }
        Ok(world)
    }

    /// All that a contender is told of.
    fn peers(&self) -> Vec<Peer> {
        let peer = |(place, end): (usize, &Place)| {
            let (id, dead) = match end {
                _ if self.set.ends[place] == End::Late => return None,
                Place::Kubo(kubo) => (kubo.peer_id.clone(), false),
                Place::Tidegate(tidegate) => (tidegate.peer_id.clone(), false),
                // Known by its address alone.
                Place::Nginx(_) => (String::new(), false),
                Place::Adversary(adversary) => (adversary.peer_id.clone(), false),
                Place::Dead => (NOBODY.to_owned(), true),
            };
            Some(Peer { address: Star::address(place), id, dead })
        };
        self.ends.iter().enumerate().filter_map(peer).collect()
    }

    /// T_k of a file, seconds: one round trip where a CAR can bring it (RETRIEVAL.md §5.3).
    pub fn bound(&self, bytes: u64) -> f64 {
        if self.providers != Providers::Kubo && bytes > bound::LEAF_BYTES {
            return bound::bound(bytes, 1, &self.set.honest(), self.set.access_mbit);
        }
        self.set.bound(bytes)
    }

    fn kubo(&self) -> Option<&Kubo> {
        self.ends.iter().find_map(|end| if let Place::Kubo(kubo) = end { Some(kubo) } else { None })
    }

    pub fn adversaries(&self) -> impl Iterator<Item = &Adversary> {
        self.ends.iter().filter_map(|end| if let Place::Adversary(adversary) = end { Some(adversary) } else { None })
    }

    /// The provider that comes later, and the link it is at the end of.
    pub fn late(&self) -> Option<(usize, &Kubo)> {
        let place = self.set.ends.iter().position(|end| *end == End::Late)?;
        if let Place::Kubo(kubo) = &self.ends[place] { Some((place, kubo)) } else { None }
    }

    /// A contender that is connected to every provider, by name. `None`: its program is not installed.
    pub fn contender(&self, name: &str) -> io::Result<Option<Box<dyn Contender>>> {
        let gateway = &self.star.gateway;
        let peers = self.peers();
        let over_http = self.providers.over_http();
        Ok(match name {
            "kubo" | "helia" | "rainbow" if over_http => None,
            "tidegate-optimized" | "tidegate-standard" => {
                let policy = name.trim_start_matches("tidegate-");
                let peers = match over_http {
                    true => Peers::Http(&peers),
                    false => Peers::Connected(&peers, self.transport),
                };
                Some(Box::new(tidegate::contender(gateway, &self.scratch.0, policy, &peers)?))
            }
            "kubo" => Some(Box::new(kubo::contender(gateway, &self.scratch.0, &peers, self.transport)?)),
            "helia" => helia::contender(gateway, &self.scratch.0, &peers)?.map(boxed),
            "rainbow" => rainbow::contender(gateway, &self.scratch.0, &peers, self.transport)?.map(boxed),
            "aria2" if !self.webs.is_empty() => {
                let mirrors = self.webs.iter().map(|(place, _)| Star::address(*place)).collect();
                match Aria2::new(gateway, &self.scratch.0, mirrors)? {
                    Some(aria2) => Some(Box::new(aria2)),
                    None => None,
                }
            }
            "nginx-warm" if !self.webs.is_empty() => {
                let rate = |place: usize| self.set.links[place].mbit;
                let best = self.webs.iter().map(|(place, _)| *place).max_by(|a, b| rate(*a).total_cmp(&rate(*b)));
                let host: SocketAddr = format!("{}:{}", Star::address(best.unwrap_or_default()), web::PORT)
                    .parse()
                    .map_err(io::Error::other)?;
                Some(Box::new(WarmConnection::new(gateway, host)))
            }
            _ => None,
        })
    }

    /// Why there is no contender of this name.
    pub fn absence(&self, name: &str) -> String {
        let other = || format!("{name} is not installed, or takes no part on {}", self.set.name);
        match name {
            "kubo" | "helia" | "rainbow" if self.providers.over_http() => format!("{name} asks no providers over HTTP"),
            "helia" => helia::missing().unwrap_or_else(other),
            _ => other(),
        }
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
        let record = |peer: Peer| (self.transport.addresses(&peer.address), peer.id);
        let records = self.peers().into_iter().map(record).collect();
        router::start(&self.star.gateway, records, ROUTER_DELAY)
    }

    /// Random bytes that nobody has seen, on every provider.
    pub fn file(&mut self, bytes: u64) -> io::Result<Made> {
        self.file_served(bytes, false)
    }

    /// Such a file that adversaries serve as good peers do.
    pub fn harmless_file(&mut self, bytes: u64) -> io::Result<Made> {
        self.file_served(bytes, true)
    }

    fn file_served(&mut self, bytes: u64, honest: bool) -> io::Result<Made> {
        let path = self.next_path();
        let sha256 = write_random(&path, bytes, self.seed ^ self.made)?;
        self.add(path, bytes, sha256, honest)
    }

    /// A directory of `count` such files of `bytes` each, whose names are so long.
    pub fn directory(&mut self, count: u64, bytes: u64, name: usize) -> io::Result<(Made, Vec<[u8; 32]>)> {
        let path = self.next_path();
        std::fs::create_dir(&path)?;
        let mut hashes = Vec::new();
        for n in 0..count {
            let seed = (self.seed ^ self.made).wrapping_mul(1_000_003).wrapping_add(n);
            hashes.push(write_random(&path.join(multi::name(n, name)), bytes, seed)?);
        }
        Ok((self.add(path, count * bytes, [0; 32], false)?, hashes))
    }

    fn next_path(&mut self) -> PathBuf {
        self.made += 1;
        self.scratch.0.join(format!("content-{}", self.made))
    }

    fn add(&self, path: PathBuf, bytes: u64, sha256: [u8; 32], honest: bool) -> io::Result<Made> {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let cids: Vec<io::Result<String>> = std::thread::scope(|scope| {
            let adding: Vec<_> = self.ends.iter().map(|end| scope.spawn(|| end.add(&path))).collect();
            let panicked = |_| Some(Err(io::Error::other("adding to a provider panicked")));
            adding.into_iter().filter_map(|thread| thread.join().unwrap_or_else(panicked)).collect()
        });
        let mut cids: Vec<String> = cids.into_iter().collect::<io::Result<_>>()?;
        if let Some(shelf) = &self.shelf {
            cids.push(shelf.add(&path)?);
        }
        if path.is_file() {
            for (_, web) in &self.webs {
                web.add(&path, &name)?;
            }
        }
        let made = match cids.first() {
            Some(cid) if cids.iter().all(|other| other == cid) => {
                Made { content: Content { cid: cid.clone(), bytes, sha256, name }, path }
            }
            _ => return Err(io::Error::other(format!("the providers do not agree on a CID: {cids:?}"))),
        };
        self.give(&made, honest)?;
        Ok(made)
    }

    /// Gives adversaries the content that they shall misbehave on.
    pub fn give_adversaries(&self, made: &Made) -> io::Result<()> {
        self.give(made, false)
    }

    fn give(&self, made: &Made, honest: bool) -> io::Result<()> {
        let Some(kubo) = self.kubo().filter(|_| self.adversaries().next().is_some()) else { return Ok(()) };
        let car = kubo.export(&made.content.cid)?;
        self.adversaries().try_for_each(|adversary| adversary.load(&car, honest))
    }

    /// Copies of `made` on web servers and with adversaries go too.
    pub fn forget(&self, made: &Made) {
        self.adversaries().for_each(Adversary::clear);
        if let Some(shelf) = &self.shelf {
            shelf.clear();
        }
        for (_, web) in &self.webs {
            web.remove(&made.content.name);
        }
    }

    pub fn check(&mut self) -> io::Result<()> {
        let providers =
            self.ends.iter_mut().filter_map(|end| if let Place::Nginx(web) = end { Some(web) } else { None });
        self.webs.iter_mut().map(|(_, web)| web).chain(providers).try_for_each(Nginx::check)
    }
}

fn boxed(gateway: Gateway) -> Box<dyn Contender> {
    Box::new(gateway)
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
