//! DNSLink against a DNS server on loopback.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::TXT;
use hickory_resolver::proto::rr::{RData, Record};
use tidegate::names::{Config, Name, NameError, Source};

use super::{Options, World};

/// TXT records by name, with their TTL in seconds. A name that is not there does not exist; an empty list is NODATA.
pub(super) type Zone = HashMap<String, (u32, Vec<String>)>;

struct Dns {
    address: SocketAddr,
    zone: Arc<Mutex<Zone>>,
    questions: Arc<AtomicUsize>,
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Dns {
    async fn new(links: &[(&str, u32, &[&str])]) -> Self {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let (zone, questions) = (Arc::new(Mutex::new(Zone::new())), Arc::new(AtomicUsize::new(0)));
        let (served, counted) = (zone.clone(), questions.clone());
        let address = socket.local_addr().unwrap();
        #[allow(clippy::disallowed_methods)] // a test has no supervisor
        let serving = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let Ok(question) = Message::from_vec(&buffer[..length]) else { continue };
                counted.fetch_add(1, Ordering::SeqCst);
                let answer = answer(&question, &served.lock().unwrap());
                let _ = socket.send_to(&answer.to_vec().unwrap(), from).await;
            }
        });
        let dns = Self { address, zone, questions, serving };
        for (host, ttl, texts) in links {
            dns.set(host, *ttl, texts);
        }
        dns
    }

    fn set(&self, host: &str, ttl: u32, texts: &[&str]) {
        let texts = texts.iter().map(|text| (*text).to_owned()).collect();
        self.zone.lock().unwrap().insert(format!("_dnslink.{host}."), (ttl, texts));
    }

    fn questions(&self) -> usize {
        self.questions.load(Ordering::SeqCst)
    }
}

pub(super) fn answer(question: &Message, zone: &Zone) -> Message {
    let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_desired = true;
    answer.metadata.recursion_available = true;
    let Some(query) = question.queries.first() else { return answer };
    answer.add_query(query.clone());
    match zone.get(&query.name().to_lowercase().to_string()) {
        Some((ttl, texts)) => {
            for text in texts {
                // Pieces of at most 255 bytes, as DNS wants them.
                let pieces: Vec<&[u8]> = text.as_bytes().chunks(255).collect();
                let data = RData::TXT(TXT::from_bytes(pieces));
                answer.add_answer(Record::from_rdata(query.name().clone(), *ttl, data));
            }
        }
        None => answer.metadata.response_code = ResponseCode::NXDomain,
    }
    answer
}

fn world(dns: &Dns) -> World {
    World::new(Options { dns: Some(dns.address), ..Options::default() })
}

#[tokio::test]
async fn links_are_followed_their_segments_kept_and_the_shortest_ttl_counts() {
    let long = format!("dnslink=/ipfs/bafkqaaa/{}", "l".repeat(400));
    let dns = Dns::new(&[
        ("a.example", 300, &["v=spf1 -all", "dnslink=/ipns/b.example/x"]),
        ("b.example", 60, &["dnslink=/ipfs/bafkqaaa/y"]),
        ("long.example", 60, &[&long]),
    ])
    .await;
    let world = world(&dns);
    assert_eq!(world.path("/ipns/a.example/z").await.unwrap(), "/ipfs/bafkqaaa/y/x/z");
    let resolved = world.resolver.dnslink("A.example.").await.unwrap().unwrap();
    assert_eq!((resolved.source, resolved.trail.len()), (Source::Dns, 2));
    let ttl = resolved.ttl.unwrap();
    assert!(ttl <= Duration::from_secs(60) && ttl > Duration::from_secs(30), "{ttl:?}");
    assert!(world.path("/ipns/long.example").await.unwrap().ends_with("lll"));
    // Twice asked, once looked up.
    assert_eq!(dns.questions(), 3);
}

#[tokio::test]
async fn no_name_no_link_and_a_wrong_link_are_told_apart_and_remembered() {
    let dns =
        Dns::new(&[("none.example", 60, &["v=spf1 -all"]), ("wrong.example", 60, &["dnslink=/ipfs/nonsense"])]).await;
    let world = world(&dns);
    for _ in 0..3 {
        assert!(matches!(world.path("/ipns/gone.example").await, Err(NameError::NoLink { .. })));
        assert!(matches!(world.path("/ipns/none.example").await, Err(NameError::NoLink { .. })));
        assert!(matches!(world.path("/ipns/wrong.example").await, Err(NameError::BadLink { .. })));
        assert_eq!(world.resolver.dnslink("gone.example").await.unwrap(), None);
    }
    assert_eq!(dns.questions(), 3);
}

#[tokio::test]
async fn a_loop_of_links_ends_with_its_own_error_after_32_names() {
    let dns =
        Dns::new(&[("a.example", 60, &["dnslink=/ipns/b.example"]), ("b.example", 60, &["dnslink=/ipns/a.example"])])
            .await;
    assert!(matches!(world(&dns).path("/ipns/a.example").await, Err(NameError::Recursion { .. })));
    assert_eq!(dns.questions(), 2);
}

#[tokio::test]
async fn a_link_of_which_the_ttl_is_over_is_given_while_it_is_looked_up_again() {
    let dns = Dns::new(&[("a.example", 1, &["dnslink=/ipfs/bafkqaaa/1"])]).await;
    let world = world(&dns);
    let name: Name = "a.example".parse().unwrap();
    assert_eq!(world.path("/ipns/a.example").await.unwrap(), "/ipfs/bafkqaaa/1");
    dns.set("a.example", 60, &["dnslink=/ipfs/bafkqaaa/2"]);
    assert_eq!(world.path("/ipns/a.example").await.unwrap(), "/ipfs/bafkqaaa/1");
    tokio::time::sleep(Duration::from_millis(1050)).await;
    let stale = world.resolver.resolve(&name).await.unwrap();
    assert!(stale.trail[0].stale && stale.path.to_string() == "/ipfs/bafkqaaa/1");
    for _ in 0..200 {
        if world.path("/ipns/a.example").await.unwrap() == "/ipfs/bafkqaaa/2" {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the new link did not come");
}

#[tokio::test]
async fn past_the_stale_limit_nothing_old_is_given() {
    let dns = Dns::new(&[("a.example", 1, &["dnslink=/ipfs/bafkqaaa/1"])]).await;
    let config = Config { max_stale: Duration::ZERO, ..Config::default() };
    let world = World::new(Options { dns: Some(dns.address), config, ..Options::default() });
    assert_eq!(world.path("/ipns/a.example").await.unwrap(), "/ipfs/bafkqaaa/1");
    dns.set("a.example", 1, &["dnslink=/ipfs/bafkqaaa/2"]);
    tokio::time::sleep(Duration::from_millis(1050)).await;
    assert_eq!(world.path("/ipns/a.example").await.unwrap(), "/ipfs/bafkqaaa/2");
}
