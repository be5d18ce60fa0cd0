//! The one timing method: a client in the gateway's namespace GETs a URL and hashes the body.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::net::namespace::Namespace;

/// The longest that one request may take.
const TIMEOUT: Duration = Duration::from_secs(300);
/// Bytes read at once.
const CHUNK: usize = 256 << 10;

/// One GET.
#[derive(Debug, Clone)]
pub struct Fetched {
    pub status: u16,
    /// Request sent to first body byte.
    pub ttfb: Duration,
    /// Request sent to last body byte.
    pub total: Duration,
    pub bytes: u64,
    pub sha256: [u8; 32],
}

/// A GET over a connection of its own, which is made before the clock starts.
pub fn get(host: SocketAddr, path: &str) -> io::Result<Fetched> {
    let stream = TcpStream::connect_timeout(&host, TIMEOUT)?;
    stream.set_nodelay(true)?;
    let mut connection = Connection::new(stream, host)?;
    connection.get(path)
}

/// The same, with the body.
pub fn body(host: SocketAddr, path: &str) -> io::Result<(Fetched, Vec<u8>)> {
    let stream = TcpStream::connect_timeout(&host, TIMEOUT)?;
    stream.set_nodelay(true)?;
    let mut body = Vec::new();
    let fetched = Connection::new(stream, host)?.fetch(path, Some(&mut body))?;
    Ok((fetched, body))
}

/// A connection that is kept.
pub struct Connection {
    reader: BufReader<TcpStream>,
    host: SocketAddr,
}

impl Connection {
    pub fn new(stream: TcpStream, host: SocketAddr) -> io::Result<Self> {
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        Ok(Self { reader: BufReader::with_capacity(CHUNK, stream), host })
    }

    pub fn get(&mut self, path: &str) -> io::Result<Fetched> {
        self.fetch(path, None)
    }

    /// `keep`: where the body goes, too.
    fn fetch(&mut self, path: &str, keep: Option<&mut Vec<u8>>) -> io::Result<Fetched> {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: tidegate-bench\r\n\r\n", self.host);
        let started = Instant::now();
        self.reader.get_mut().write_all(request.as_bytes())?;
        let head = Head::read(&mut self.reader)?;
        let mut body = Body { hash: Sha256::new(), bytes: 0, first: None, started, keep };
        match head.length {
            Some(length) => body.take(&mut self.reader, length)?,
            None if head.chunked => loop {
                let size = chunk_size(&mut self.reader)?;
                body.take(&mut self.reader, size)?;
                line(&mut self.reader)?;
                if size == 0 {
                    break;
                }
            },
            None => return Err(io::Error::other("an answer with neither a length nor chunks")),
        }
        let total = started.elapsed();
        Ok(Fetched {
            status: head.status,
            ttfb: body.first.unwrap_or(total),
            total,
            bytes: body.bytes,
            sha256: body.hash.finalize().into(),
        })
    }
}

/// The validator of what is at `path`, asked for in a namespace.
pub fn etag_in(namespace: &Namespace, host: SocketAddr, path: &str) -> io::Result<String> {
    let path = path.to_owned();
    namespace.run(move || {
        let mut stream = TcpStream::connect_timeout(&host, TIMEOUT)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        write!(stream, "HEAD {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")?;
        let head = Head::read(&mut BufReader::new(stream))?;
        head.etag.ok_or_else(|| io::Error::other(format!("{host}{path} has no ETag")))
    })
}

struct Head {
    etag: Option<String>,
    status: u16,
    length: Option<u64>,
    chunked: bool,
}

impl Head {
    fn read(reader: &mut impl BufRead) -> io::Result<Self> {
        let first = line(reader)?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let mut head = Self {
            status: status.ok_or_else(|| io::Error::other(format!("not an HTTP answer: {first:?}")))?,
            etag: None,
            length: None,
            chunked: false,
        };
        loop {
            let field = line(reader)?;
            let Some((name, value)) = field.split_once(':') else { return Ok(head) };
            match name.to_ascii_lowercase().as_str() {
                "etag" => head.etag = Some(value.trim().to_owned()),
                "content-length" => head.length = value.trim().parse().ok(),
                "transfer-encoding" => head.chunked = value.trim().eq_ignore_ascii_case("chunked"),
                _ => {}
            }
        }
    }
}

fn line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut text = String::new();
    if reader.by_ref().take(64 << 10).read_line(&mut text)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

struct Body<'a> {
    hash: Sha256,
    bytes: u64,
    first: Option<Duration>,
    started: Instant,
    keep: Option<&'a mut Vec<u8>>,
}

impl Body<'_> {
    fn take(&mut self, reader: &mut impl BufRead, length: u64) -> io::Result<()> {
        let mut left = length;
        while left > 0 {
            let buffer = reader.fill_buf()?;
            if buffer.is_empty() {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, format!("{left} bytes are missing")));
            }
            self.first.get_or_insert_with(|| self.started.elapsed());
            let part = &buffer[..buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX))];
            self.hash.update(part);
            if let Some(keep) = &mut self.keep {
                keep.extend_from_slice(part);
            }
            let length = part.len();
            reader.consume(length);
            left -= length as u64;
            self.bytes += length as u64;
        }
        Ok(())
    }
}

/// The JSON that a request without a body answers, for the programs' own interfaces.
pub fn json(method: &str, host: SocketAddr, path: &str) -> io::Result<serde_json::Value> {
    let (status, body) = exchange(method, host, path, None, None)?;
    if status != 200 {
        return Err(io::Error::other(format!("{path} answered {status}: {}", String::from_utf8_lossy(&body))));
    }
    Ok(serde_json::from_slice(&body)?)
}

pub fn text(host: SocketAddr, path: &str) -> io::Result<String> {
    let (_, body) = exchange("GET", host, path, None, None)?;
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// Sends JSON; the status and the body of the answer.
pub fn post(
    host: SocketAddr,
    path: &str,
    token: Option<&str>,
    value: &serde_json::Value,
) -> io::Result<(u16, Vec<u8>)> {
    exchange("POST", host, path, token, Some(serde_json::to_vec(value)?))
}

fn exchange(
    method: &str,
    host: SocketAddr,
    path: &str,
    token: Option<&str>,
    body: Option<Vec<u8>>,
) -> io::Result<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect_timeout(&host, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    let body = body.unwrap_or_default();
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    if let Some(token) = token {
        head.push_str(&format!("Authorization: Bearer {token}\r\n"));
    }
    if !body.is_empty() {
        head.push_str("Content-Type: application/json\r\n");
    }
    write!(stream, "{head}Content-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(&body)?;
    let mut reader = BufReader::new(stream);
    let head = Head::read(&mut reader)?;
    let mut answer = Vec::new();
    match head.length {
        Some(length) => drop(reader.take(length).read_to_end(&mut answer)?),
        None if head.chunked => loop {
            let size = chunk_size(&mut reader)?;
            reader.by_ref().take(size).read_to_end(&mut answer)?;
            line(&mut reader)?;
            if size == 0 {
                break;
            }
        },
        None => drop(reader.read_to_end(&mut answer)?),
    }
    Ok((head.status, answer))
}

fn chunk_size(reader: &mut impl BufRead) -> io::Result<u64> {
    let size = line(reader)?;
    u64::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)
        .map_err(|_| io::Error::other(format!("chunk size {size:?}")))
}

/// [`get`] inside a namespace.
pub fn get_in(namespace: &Namespace, host: SocketAddr, path: &str) -> io::Result<Fetched> {
    let path = path.to_owned();
    namespace.run(move || get(host, &path))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    fn answer(text: &'static [u8]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(text).unwrap();
        });
        address
    }

    #[test]
    fn bodies_with_a_length_and_in_chunks_are_hashed_alike() {
        let sized = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabcdef");
        let chunked =
            answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n4;x=y\r\ncdef\r\n0\r\n\r\n");
        let [sized, chunked] = [sized, chunked].map(|host| get(host, "/").unwrap());
        assert_eq!((sized.status, sized.bytes, sized.sha256), (200, 6, chunked.sha256));
        assert_eq!(sized.sha256, <[u8; 32]>::from(Sha256::digest(b"abcdef")));
    }

    #[test]
    fn a_body_that_ends_early_is_an_error() {
        let cut = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nabc");
        assert_eq!(get(cut, "/").unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
