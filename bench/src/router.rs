//! A delegated router (Routing V1 over HTTP) that knows all providers of the star and takes its time.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use serde_json::json;

use crate::net::namespace::Namespace;

/// Answers `/routing/v1/providers/*` with `providers` (addresses, peer id) after `delay`, until the process ends.
pub fn start(namespace: &Namespace, providers: Vec<(Vec<String>, String)>, delay: Duration) -> io::Result<SocketAddr> {
    let listener = namespace.run(|| TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let records: Vec<_> = providers
        .iter()
        .map(|(addrs, peer_id)| {
            json!({ "Schema": "peer", "ID": peer_id, "Addrs": addrs, "Protocols": ["transport-bitswap"] })
        })
        .collect();
    let body = json!({ "Providers": records }).to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let body = body.clone();
            std::thread::spawn(move || answer(stream, &body, delay));
        }
    });
    Ok(address)
}

fn answer(stream: TcpStream, body: &str, delay: Duration) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut first = String::new();
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        loop {
            let mut field = String::new();
            if reader.read_line(&mut field)? <= 2 {
                break;
            }
        }
        std::thread::sleep(delay);
        let (status, body) = match first.contains("/routing/v1/providers/") {
            true => ("200 OK", body),
            false => ("404 Not Found", "{}"),
        };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
    }
}
