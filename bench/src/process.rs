//! Processes that the run starts, what they cost, and their end.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The longest that a process may take until it says that it is ready, and until it has ended.
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(20);

/// A process that ends with the run.
pub struct Process {
    child: Child,
    pub name: String,
    log: PathBuf,
    /// Lines of its standard output until it was ready.
    pub said: Vec<String>,
}

impl Process {
    /// Starts `command` and waits for a line of its output for which `ready` holds. Standard error goes to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path, ready: impl Fn(&str) -> bool) -> io::Result<Self> {
        let errors = File::create(log)?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        let mut child = command.spawn().map_err(|error| io::Error::other(format!("{name} does not start: {error}")))?;
        let Some(output) = child.stdout.take() else { return Err(io::Error::other("no output of a child")) };
        let (lines, said_lines) = std::sync::mpsc::sync_channel(64);
        std::thread::spawn(move || {
            // Read to the end, so that the child never waits for us; nobody listens after it is ready.
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let _ = lines.try_send(line);
            }
        });
        let mut process = Self { child, name: name.to_owned(), log: log.to_owned(), said: Vec::new() };
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match said_lines.recv_timeout(left) {
                Ok(line) => {
                    let done = ready(&line);
                    process.said.push(line);
                    if done {
                        return Ok(process);
                    }
                }
                Err(_) => return Err(io::Error::other(format!("{name} was not ready: {}", process.last_words()))),
            }
        }
    }

    /// One that says nothing when it is ready.
    pub fn start_silent(name: &str, mut command: Command, log: &Path) -> io::Result<Self> {
        let errors = File::create(log)?;
        command.stdin(Stdio::null()).stdout(errors.try_clone()?).stderr(errors);
        let child = command.spawn().map_err(|error| io::Error::other(format!("{name} does not start: {error}")))?;
        Ok(Self { child, name: name.to_owned(), log: log.to_owned(), said: Vec::new() })
    }

    /// CPU time of it and of its children that ended, user and system.
    pub fn cpu(&self) -> Duration {
        let Ok(stat) = fs::read_to_string(format!("/proc/{}/stat", self.child.id())) else { return Duration::ZERO };
        // Behind the name in parentheses: utime, stime, cutime, cstime are fields 14 to 17 (proc(5)).
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields.iter().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum();
        // SAFETY: a call with a number.
        let hertz = unsafe { libc::sysconf(libc::_SC_CLK_TCK) }.max(1) as f64;
        Duration::from_secs_f64(ticks as f64 / hertz)
    }

    /// The most memory it ever held, bytes.
    pub fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) * 1024
    }

    /// Whether it still runs.
    pub fn alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn signal(&self, signal: libc::c_int) {
        // SAFETY: a call with numbers; the child was not waited for, so its id is its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
    }

    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let from = text.len().saturating_sub(2_000);
        text.get(from..).unwrap_or(&text).to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(libc::SIGCONT);
        self.signal(libc::SIGTERM);
        let deadline = Instant::now() + STOP_LIMIT;
        while self.alive() {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
