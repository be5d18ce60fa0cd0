//! The target of a request, in whichever form it comes (RFC 9112 §3.2): one `Host` header and an origin-form URI go on.

use axum::body::Body;
use http::header::{CONTENT_TYPE, HOST};
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};

/// Why a request cannot be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BadTarget {
    NoHost,
    SeveralHosts,
    BadHost,
}

impl BadTarget {
    pub(super) fn response(self) -> Response<Body> {
        plain(
            StatusCode::BAD_REQUEST,
            match self {
                Self::NoHost => "the request has no Host header\n",
                Self::SeveralHosts => "the request has more than one Host header\n",
                Self::BadHost => "the Host header is not a host name\n",
            },
        )
    }
}

pub(super) fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Settles which host the request is for. An absolute-form target and HTTP/2's `:authority` replace the header
/// (RFC 9112 §3.2.2, RFC 9113 §8.3.1); two names for one request are refused, because proxies choose differently.
pub(super) fn settle<B>(request: &mut Request<B>) -> Result<(), BadTarget> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(BadTarget::SeveralHosts);
    }
    let old = matches!(request.version(), Version::HTTP_09 | Version::HTTP_10);
    let settled = match (request.uri().authority(), host) {
        (Some(authority), _) => {
            // Credentials in an address are no part of the host.
            let host = authority.as_str().rsplit('@').next().unwrap_or_default();
            Some(HeaderValue::from_str(host).map_err(|_| BadTarget::BadHost)?)
        }
        (None, Some(host)) => {
            let text = host.to_str().map_err(|_| BadTarget::BadHost)?;
            // A comma is what becomes of two headers that a proxy has joined.
            if !text.is_empty() && (text.contains(['@', ',']) || text.parse::<Authority>().is_err()) {
                return Err(BadTarget::BadHost);
            }
            None
        }
        (None, None) if old => None,
        (None, None) => return Err(BadTarget::NoHost),
    };
    if let Some(host) = settled {
        request.headers_mut().insert(HOST, host);
    }
    if request.uri().scheme().is_some() && request.method() != Method::CONNECT {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settled(version: Version, target: &str, hosts: &[&str]) -> Result<(String, String), BadTarget> {
        let mut request = Request::builder().version(version).uri(target);
        for host in hosts {
            request = request.header(HOST, *host);
        }
        let mut request = request.body(()).unwrap();
        settle(&mut request)?;
        let host = request.headers().get(HOST).map(|host| host.to_str().unwrap().to_owned());
        Ok((host.unwrap_or_default(), request.uri().to_string()))
    }

    #[test]
    fn every_form_of_target_becomes_one_host_and_a_path() {
        let ok = |host: &str, uri: &str| Ok((host.to_owned(), uri.to_owned()));
        assert_eq!(settled(Version::HTTP_11, "/a?b", &["x:1"]), ok("x:1", "/a?b"));
        assert_eq!(settled(Version::HTTP_11, "http://y:2/a?b", &["x:1"]), ok("y:2", "/a?b"));
        assert_eq!(settled(Version::HTTP_11, "http://y", &["x"]), ok("y", "/"));
        assert_eq!(settled(Version::HTTP_11, "http://me:pass@y/a", &["x"]), ok("y", "/a"));
        assert_eq!(settled(Version::HTTP_2, "https://y/a", &[]), ok("y", "/a"));
        assert_eq!(settled(Version::HTTP_10, "/a", &[]), ok("", "/a"));
    }

    #[test]
    fn requests_without_one_host_are_refused() {
        assert_eq!(settled(Version::HTTP_11, "/", &[]), Err(BadTarget::NoHost));
        assert_eq!(settled(Version::HTTP_11, "/", &["a", "b"]), Err(BadTarget::SeveralHosts));
        assert_eq!(settled(Version::HTTP_11, "/", &["a", "a"]), Err(BadTarget::SeveralHosts));
        assert_eq!(settled(Version::HTTP_11, "http://a/", &["a", "b"]), Err(BadTarget::SeveralHosts));
        for host in ["a b", "a/b", "user@a", "a,b", "[::1"] {
            assert_eq!(settled(Version::HTTP_11, "/", &[host]), Err(BadTarget::BadHost), "{host}");
        }
    }
}
