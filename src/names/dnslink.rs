//! DNSLink: the TXT record `dnslink=/ipfs/…` or `dnslink=/ipns/…` at `_dnslink.HOST`.
//!
//! Source: <https://specs.ipfs.tech/http-gateways/dnslink-gateway/>, <https://dnslink.dev/>.

use std::time::Duration;

use hickory_resolver::config::{ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::RData;
use hickory_resolver::{Resolver, TokioResolver};

use super::NameError;
use crate::ipld::path::{ContentPath, PathError};

/// How long one look-up may take, retries included.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long one question may wait for its answer, and how often it is asked again.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(3);
const ATTEMPTS: usize = 2;
/// That there is no link is remembered as long as the zone says, within these bounds.
const MIN_NEGATIVE: Duration = Duration::from_secs(5);
const MAX_NEGATIVE: Duration = Duration::from_secs(60);

/// Asks DNS for links.
#[derive(Clone)]
pub(super) struct DnsLinks {
    resolver: TokioResolver,
}

/// A link, and how long it counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) path: ContentPath,
    pub(super) ttl: Duration,
}

/// A failure, and how long it counts.
pub(super) struct Failed {
    pub(super) error: NameError,
    pub(super) time: Duration,
}

impl DnsLinks {
    pub(super) fn new(config: ResolverConfig, mut options: ResolverOpts) -> Result<Self, NetError> {
        // Our own cache keeps answers by their TTL; a second one below it would hide how old they are.
        options.cache_size = 0;
        options.timeout = QUESTION_TIMEOUT;
        options.attempts = ATTEMPTS;
        // Long links exceed 512 bytes.
        options.edns0 = true;
        let builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
        Ok(Self { resolver: builder.build()? })
    }

    /// The link of `host`, a DNS name in canonical form.
    pub(super) async fn look_up(&self, host: &str) -> Result<Link, Failed> {
        let question = format!("_dnslink.{host}.");
        let answer = match tokio::time::timeout(TIMEOUT, self.resolver.txt_lookup(question)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => return Err(failed(host, &error)),
            Err(_) => {
                let error = NameError::Timeout { name: host.to_owned(), after: TIMEOUT };
                return Err(Failed { error, time: MIN_NEGATIVE });
            }
        };
        let texts = answer.answers().iter().filter_map(|record| match &record.data {
            RData::TXT(txt) => Some((txt.txt_data.concat(), record.ttl)),
            _ => None,
        });
        choose(host, texts)
    }
}

/// Of several links the first in the order of their bytes is taken, so that every look-up chooses alike; texts that are
/// no DNSLink do not matter, and one that is wrong matters only where there is no right one.
fn choose(host: &str, texts: impl Iterator<Item = (Vec<u8>, u32)>) -> Result<Link, Failed> {
    let mut links: Vec<(String, u32)> = texts
        .filter_map(|(text, ttl)| Some((String::from_utf8(text).ok()?, ttl)))
        .filter_map(|(text, ttl)| Some((text.strip_prefix("dnslink=")?.trim().to_owned(), ttl)))
        .collect();
    links.sort();
    let mut wrong = None;
    for (text, ttl) in links {
        let parsed = if text.starts_with('/') { ContentPath::parse_text(&text) } else { Err(PathError::Namespace) };
        match parsed {
            Ok(path) => return Ok(Link { path, ttl: Duration::from_secs(u64::from(ttl)) }),
            Err(error) => wrong = wrong.or(Some(error)),
        }
    }
    let host = host.to_owned();
    let error = match wrong {
        Some(error) => NameError::BadLink { host, error },
        None => NameError::NoLink { host },
    };
    Err(Failed { error, time: MIN_NEGATIVE })
}

fn failed(host: &str, error: &NetError) -> Failed {
    let host = host.to_owned();
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => {
            use hickory_resolver::proto::op::ResponseCode;
            let time = Duration::from_secs(u64::from(none.negative_ttl.unwrap_or(0))).clamp(MIN_NEGATIVE, MAX_NEGATIVE);
            let error = match none.response_code {
                ResponseCode::NoError | ResponseCode::NXDomain => NameError::NoLink { host },
                code => NameError::Dns { host, reason: code.to_string() },
            };
            Failed { error, time }
        }
        NetError::Timeout => Failed {
            error: NameError::Timeout { name: host, after: QUESTION_TIMEOUT * ATTEMPTS as u32 },
            time: MIN_NEGATIVE,
        },
        other => Failed { error: NameError::Dns { host, reason: other.to_string() }, time: MIN_NEGATIVE },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(texts: &[&str]) -> Result<String, NameError> {
        let texts = texts.iter().map(|text| (text.as_bytes().to_vec(), 60));
        choose("a.example", texts).map(|link| link.path.to_string()).map_err(|failed| failed.error)
    }

    #[test]
    fn of_several_links_the_first_in_order_is_taken_and_other_texts_are_passed_over() {
        let texts = ["v=spf1 -all", "dnslink=/ipfs/nonsense", "dnslink=/ipns/b.example", "dnslink=/ipfs/bafkqaaa/x"];
        assert_eq!(chosen(&texts).unwrap(), "/ipfs/bafkqaaa/x");
    }

    #[test]
    fn no_link_and_a_wrong_link_are_told_apart() {
        assert!(matches!(chosen(&["v=spf1 -all"]), Err(NameError::NoLink { .. })));
        assert!(matches!(chosen(&["dnslink=bafkqaaa"]), Err(NameError::BadLink { .. })));
        assert!(matches!(chosen(&["dnslink=https://a.example"]), Err(NameError::BadLink { .. })));
    }
}
