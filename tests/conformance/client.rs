//! An HTTP/1.1 client of our own: what is sent is exactly what the case says, and nothing is followed or decoded.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::cases::Request;

/// The suite gives each case two minutes; nothing here needs one.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The largest body that is read, in bytes.
const MAX_BODY: u64 = 64 << 20;

#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value; repeated headers are joined with `, `.
    pub fn header(&self, name: &str) -> Option<String> {
        let name = name.to_ascii_lowercase();
        let values: Vec<&str> = self.headers.iter().filter(|(key, _)| *key == name).map(|(_, v)| v.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }
}

/// One way to put a request on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Origin,
    /// `GET http://host/path`.
    Absolute,
}

/// Sends `request`; through a tunnel it is sent in both forms, and both answers come back.
pub fn send(gateway: SocketAddr, request: &Request) -> io::Result<Vec<Answer>> {
    let (authority, target) = place(gateway, request);
    let stream = TcpStream::connect_timeout(&gateway, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_nodelay(true)?;
    let mut stream = BufReader::new(stream);
    if !request.tunnel {
        let form = if request.proxy { Form::Absolute } else { Form::Origin };
        return Ok(vec![exchange(&mut stream, request, &authority, &target, form, true)?]);
    }
    write!(stream.get_mut(), "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n")?;
    let (status, headers) = head(&mut stream)?;
    if status != 200 {
        return Ok(vec![Answer { status, headers, body: b"(the answer to CONNECT)".to_vec() }]);
    }
    // Go's client sends absolute targets within the tunnel; a client of the tunnel's far end would send plain ones.
    let first = exchange(&mut stream, request, &authority, &target, Form::Absolute, false)?;
    let second = exchange(&mut stream, request, &authority, &target, Form::Origin, true)?;
    Ok(vec![first, second])
}

/// Host (or authority) and origin-form target.
fn place(gateway: SocketAddr, request: &Request) -> (String, String) {
    let host = request.headers.iter().flatten().find(|(name, _)| name.eq_ignore_ascii_case("host"));
    let (authority, path) = match request.path.strip_prefix("http://") {
        Some(rest) => {
            let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            (authority.to_owned(), if path.is_empty() { "/" } else { path })
        }
        None => (gateway.to_string(), &*request.path),
    };
    let authority = host.map_or(authority, |(_, host)| host.clone());
    let mut target = String::new();
    for byte in path.bytes() {
        if byte.is_ascii() { target.push(byte as char) } else { target.push_str(&format!("%{byte:02X}")) }
    }
    let mut separator = if path.contains('?') { '&' } else { '?' };
    for (name, values) in &request.query {
        for value in values {
            let pair = url::form_urlencoded::Serializer::new(String::new()).append_pair(name, value).finish();
            target.push(separator);
            target.push_str(&pair);
            separator = '&';
        }
    }
    (authority, target)
}

fn exchange(
    stream: &mut BufReader<TcpStream>,
    request: &Request,
    authority: &str,
    target: &str,
    form: Form,
    close: bool,
) -> io::Result<Answer> {
    let base = if form == Form::Absolute { format!("http://{authority}") } else { String::new() };
    let mut text = format!("{} {base}{target} HTTP/1.1\r\nHost: {authority}\r\n", request.method);
    for (name, value) in request.headers.iter().flatten().filter(|(name, _)| !name.eq_ignore_ascii_case("host")) {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    // As Go's client does; an answer that is compressed all the same fails its checks of length and bytes.
    text.push_str("User-Agent: Go-http-client/1.1\r\nAccept-Encoding: gzip\r\n");
    text.push_str(if close { "Connection: close\r\n\r\n" } else { "\r\n" });
    stream.get_mut().write_all(text.as_bytes())?;
    let (status, headers) = head(stream)?;
    let mut answer = Answer { status, headers, body: Vec::new() };
    let bodiless = request.method == "HEAD" || matches!(status, 204 | 304);
    if !bodiless {
        answer.body = body(stream, &answer)?;
    }
    if close {
        let mut rest = Vec::new();
        stream.take(MAX_BODY).read_to_end(&mut rest)?;
        if !rest.is_empty() {
            return Err(broken(format!("{} bytes after the end of the answer", rest.len())));
        }
    }
    Ok(answer)
}

fn head(stream: &mut BufReader<TcpStream>) -> io::Result<(u16, Vec<(String, String)>)> {
    let first = line(stream)?;
    let mut words = first.split(' ');
    if words.next() != Some("HTTP/1.1") {
        return Err(broken(format!("status line {first:?}")));
    }
    let status =
        words.next().and_then(|word| word.parse().ok()).ok_or_else(|| broken(format!("no status: {first:?}")))?;
    let mut headers = Vec::new();
    loop {
        let line = line(stream)?;
        if line.is_empty() {
            return Ok((status, headers));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| broken(format!("header {line:?}")))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
}

fn body(stream: &mut BufReader<TcpStream>, answer: &Answer) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    if answer.header("transfer-encoding").is_some_and(|encoding| encoding.eq_ignore_ascii_case("chunked")) {
        loop {
            let size = line(stream)?;
            let size = size.split(';').next().unwrap_or_default();
            let size = u64::from_str_radix(size, 16).map_err(|_| broken(format!("chunk of size {size:?}")))?;
            let before = body.len();
            stream.take(size).read_to_end(&mut body)?;
            if (body.len() - before) as u64 != size {
                return Err(broken("the body is cut off".to_owned()));
            }
            let end = line(stream)?;
            if !end.is_empty() {
                return Err(broken(format!("after a chunk: {end:?}")));
            }
            if size == 0 {
                return Ok(body);
            }
        }
    }
    if let Some(length) = answer.header("content-length") {
        let length: u64 = length.parse().map_err(|_| broken(format!("content-length {length:?}")))?;
        stream.take(length.min(MAX_BODY)).read_to_end(&mut body)?;
        if body.len() as u64 != length {
            return Err(broken(format!("{} of {length} bytes, then the end", body.len())));
        }
    } else {
        stream.take(MAX_BODY).read_to_end(&mut body)?;
    }
    Ok(body)
}

fn line(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut bytes = Vec::new();
    stream.take(64 << 10).read_until(b'\n', &mut bytes)?;
    match &bytes[..] {
        [line @ .., b'\r', b'\n'] => Ok(String::from_utf8_lossy(line).into_owned()),
        _ => Err(broken(format!("a line without its end: {:?}", String::from_utf8_lossy(&bytes)))),
    }
}

fn broken(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
