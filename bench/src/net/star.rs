//! The star: the gateway's host in the middle, one host a provider, one emulated link to each.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::emulator::{Emulator, Link};
use super::link::{Loss, Shape};
use super::namespace::{Namespace, succeed};

/// What a link is like: equal both ways.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LinkSpec {
    pub mbit: f64,
    pub rtt_ms: f64,
    pub jitter_ms: f64,
    /// Share of packets lost, each way.
    pub loss: f64,
}

impl LinkSpec {
    pub const fn new(mbit: f64, rtt_ms: f64) -> Self {
        Self { mbit, rtt_ms, jitter_ms: 0.0, loss: 0.0 }
    }

    fn shape(&self) -> Shape {
        let bandwidth_delay = self.mbit * 1e6 / 8.0 * self.rtt_ms / 1e3;
        Shape {
            rate_bps: self.mbit * 1e6,
            delay_ns: (self.rtt_ms * 5e5) as u64,
            jitter_ns: (self.jitter_ms * 1e6) as u64,
            loss: if self.loss > 0.0 { Loss::Bernoulli(self.loss) } else { Loss::None },
            // RETRIEVAL.md §5.3: 2 x BDP and at least 500 KiB.
            queue_bytes: (2.0 * bandwidth_delay).max(500.0 * 1024.0) as u64,
        }
    }
}

impl fmt::Display for LinkSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.4}/{:.4}", self.mbit, self.rtt_ms)?;
        if self.loss > 0.0 { write!(f, " ({:.2} % lost)", self.loss * 100.0) } else { Ok(()) }
    }
}

/// A network that runs. Its namespaces go with the last process in them.
pub struct Star {
    pub gateway: Namespace,
    pub providers: Vec<Namespace>,
    pub links: Vec<LinkSpec>,
    pub emulator: Arc<Emulator>,
}

/// What one link measured before the run.
#[derive(Debug, Clone, serde::Serialize)]
pub struct SelfTest {
    pub link: usize,
    pub rtt_ms: f64,
    pub wanted_rtt_ms: f64,
    /// Megabits a second of payload, eight connections; `None`: iperf3 is not installed.
    pub mbit: Option<f64>,
    pub wanted_mbit: f64,
}

impl Star {
    /// `congestion_control`: of TCP, as `net.ipv4.tcp_congestion_control` names it.
    pub fn new(links: &[LinkSpec], access_mbit: Option<f64>, congestion_control: &str, seed: u64) -> io::Result<Self> {
        let gateway = Namespace::new("gateway")?;
        gateway.sysctl("ipv4/tcp_congestion_control", congestion_control)?;
        let mut providers = Vec::new();
        let mut wires = Vec::new();
        for (place, link) in links.iter().enumerate() {
            let provider = Namespace::new(&format!("provider{}", place + 1))?;
            provider.sysctl("ipv4/tcp_congestion_control", congestion_control)?;
            let (near, far) = (gateway.tun(&format!("g{place}"))?, provider.tun(&format!("p{place}"))?);
            for (namespace, device, address) in [
                (&gateway, format!("g{place}"), format!("10.77.{place}.1/30")),
                (&provider, format!("p{place}"), format!("{}/30", Self::address(place))),
            ] {
                namespace.ip(&format!("addr add {address} dev {device}"))?;
                namespace.ip(&format!("link set {device} up txqueuelen 5000"))?;
            }
            provider.ip(&format!("route add default via 10.77.{place}.1"))?;
            wires.push(Link { gateway: near, provider: far, shape: link.shape() });
            providers.push(provider);
        }
        let emulator = Emulator::start(wires, access_mbit.map(|mbit| mbit * 1e6), seed)?;
        Ok(Self { gateway, providers, links: links.to_vec(), emulator: Arc::new(emulator) })
    }

    /// Datagrams that were dropped so far because a socket of the gateway's namespace was full.
    pub fn udp_dropped(&self) -> Option<u64> {
        let text = self.gateway.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp")).ok()?;
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Udp:"));
        let (names, values) = (lines.next()?, lines.next()?);
        let place = names.split_whitespace().position(|name| name == "RcvbufErrors")?;
        values.split_whitespace().nth(place)?.parse().ok()
    }

    /// Of the provider at the end of a link.
    pub fn address(place: usize) -> String {
        format!("10.77.{place}.2")
    }

    /// Pings every link, and fills it with iperf3. An error when a link is not what it should be (`dead` ones are not tried): no run is worth its
    /// time on a network that lies.
    pub fn self_test(&self, fill: bool, dead: &[usize]) -> io::Result<Vec<SelfTest>> {
        let mut results = Vec::new();
        for (place, link) in self.links.iter().enumerate().filter(|(place, _)| !dead.contains(place)) {
            let rtt_ms = self.ping(place)?;
            let mbit = if fill { self.iperf(place)? } else { None };
            let result = SelfTest { link: place, rtt_ms, wanted_rtt_ms: link.rtt_ms, mbit, wanted_mbit: link.mbit };
            result.check(link)?;
            results.push(result);
        }
        Ok(results)
    }

    /// The median round trip of an idle link, milliseconds.
    fn ping(&self, place: usize) -> io::Result<f64> {
        let output = self
            .gateway
            .command("ping")
            .args(["-n", "-i", "0.02", "-c", "15", "-w", "10", &Self::address(place)])
            .output()?;
        succeed("ping over a link", &output)?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut times: Vec<f64> = text
            .lines()
            .filter_map(|line| line.split("time=").nth(1)?.split(' ').next()?.parse().ok())
            // The first packet waits for the neighbour tables and a cold path.
            .skip(1)
            .collect();
        times.sort_by(f64::total_cmp);
        times.get(times.len() / 2).copied().ok_or_else(|| io::Error::other(format!("no answer to ping: {text}")))
    }

    fn iperf(&self, place: usize) -> io::Result<Option<f64>> {
        let address = Self::address(place);
        let mut server = match self.providers[place]
            .command("iperf3")
            .args(["-s", "-1", "-B", &address])
            .stdout(std::process::Stdio::null())
            .spawn()
        {
            Ok(server) => server,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        std::thread::sleep(Duration::from_millis(300));
        let started = Instant::now();
        let output =
            self.gateway.command("iperf3").args(["-c", &address, "-R", "-P", "8", "-t", "3", "-O", "1", "-J"]).output();
        if output.is_err() || started.elapsed() < Duration::from_secs(1) {
            let _ = server.kill();
        }
        let _ = server.wait();
        let output = output?;
        succeed("iperf3 over a link", &output)?;
        let answer: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let rate = answer["end"]["sum_received"]["bits_per_second"].as_f64();
        rate.map(|rate| Some(rate / 1e6)).ok_or_else(|| io::Error::other("iperf3 gave no rate"))
    }
}

impl SelfTest {
    fn check(&self, link: &LinkSpec) -> io::Result<()> {
        let allowed = self.wanted_rtt_ms * 0.01 + 0.3 + link.jitter_ms;
        if (self.rtt_ms - self.wanted_rtt_ms).abs() > allowed {
            let (got, wanted) = (self.rtt_ms, self.wanted_rtt_ms);
            return Err(io::Error::other(format!("link {}: a round trip of {got:.2} ms, not {wanted}", self.link)));
        }
        // A lossy link is not full by design.
        if let Some(mbit) = self.mbit
            && link.loss == 0.0
            && mbit < 0.85 * self.wanted_mbit
        {
            return Err(io::Error::other(format!("link {}: {mbit:.1} Mbit/s of {}", self.link, self.wanted_mbit)));
        }
        Ok(())
    }
}
