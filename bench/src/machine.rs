//! What the run was taken on.

use std::fmt;
use std::fs;

use serde::Serialize;

/// Processor time of the whole machine so far, in ticks.
#[derive(Debug, Clone, Copy)]
pub struct Busy {
    busy: u64,
    all: u64,
}

/// `None`: the kernel does not tell.
pub fn busy() -> Option<Busy> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let ticks: Vec<u64> =
        text.lines().next()?.split_whitespace().skip(1).filter_map(|tick| tick.parse().ok()).collect();
    // user nice system idle iowait irq softirq steal (proc(5)); guests are in user already.
    let all = ticks.iter().take(8).sum();
    let idle: u64 = ticks.get(3)? + ticks.get(4)?;
    Some(Busy { busy: all - idle, all })
}

impl Busy {
    /// Share of all cores that was used since `before`, 0 to 1.
    pub fn since(self, before: Self) -> Option<f64> {
        let all = self.all.checked_sub(before.all).filter(|all| *all > 0)?;
        Some(self.busy.saturating_sub(before.busy) as f64 / all as f64)
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_bytes: u64,
    pub kernel: String,
    /// Congestion control of the machine itself; a run sets its own.
    pub congestion_control: String,
    pub udp_receive_buffer: u64,
}

impl Machine {
    pub fn read() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let field = |file: &str, name: &str| {
            let found = text(file).lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
            found.map(|rest| rest.trim_start_matches([':', ' ', '\t']).to_owned()).unwrap_or_default()
        };
        let kib = field("/proc/meminfo", "MemTotal").split(' ').next().and_then(|kib| kib.parse::<u64>().ok());
        Self {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: kib.unwrap_or(0) * 1024,
            kernel: text("/proc/sys/kernel/osrelease"),
            congestion_control: text("/proc/sys/net/ipv4/tcp_congestion_control"),
            udp_receive_buffer: text("/proc/sys/net/core/rmem_default").parse().unwrap_or(0),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gib = self.memory_bytes as f64 / f64::from(1 << 30);
        write!(
            f,
            "{}, {} cores, {gib:.0} GiB, Linux {}, net.core.rmem_default {}",
            self.cpu, self.cores, self.kernel, self.udp_receive_buffer
        )
    }
}
