//! A network namespace that only this process and its children know: it goes when the last of them ends.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::sync::Arc;

/// A network with interfaces, addresses and ports of its own. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Namespace {
    pub name: String,
    fd: Arc<OwnedFd>,
    /// Where its commands run; `None`: on every core.
    core: Option<usize>,
}

impl Namespace {
    /// A new one, with its loopback up. Needs CAP_SYS_ADMIN.
    pub fn new(name: &str) -> io::Result<Self> {
        // A thread of its own: only the thread that unshares is moved.
        let made = std::thread::spawn(|| -> io::Result<OwnedFd> {
            // SAFETY: a call with a flag; it changes this thread alone.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            Ok(OwnedFd::from(File::open("/proc/thread-self/ns/net")?))
        });
        let fd = made.join().map_err(|_| io::Error::other("the thread of a new namespace panicked"))??;
        let namespace = Self { name: name.to_owned(), fd: Arc::new(fd), core: None };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The same namespace, whose commands run on one core.
    pub fn on_core(&self, core: usize) -> Self {
        Self { core: Some(core), ..self.clone() }
    }

    /// Runs `work` on a thread inside this namespace.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
        let namespace = self.clone();
        std::thread::spawn(move || {
            namespace.enter()?;
            work()
        })
        .join()
        .map_err(|_| io::Error::other("a thread inside a namespace panicked"))?
    }

    /// Moves the calling thread into this namespace, for good.
    pub fn enter(&self) -> io::Result<()> {
        set_namespace(self.fd.as_raw_fd())
    }

    /// A command that will run in this namespace.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let fd = self.fd.as_raw_fd();
        let core = self.core;
        // SAFETY: between fork and exec only system calls are made; the descriptor lives in `self`, which outlives the
        // spawn in every use (the star keeps its namespaces until its processes ended).
        unsafe {
            command.pre_exec(move || {
                core.map_or(Ok(()), pin)?;
                // A run that is killed leaves nobody behind. (Told when the thread that started it ends: every thread
                // here that starts a program outlives it.)
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
                set_namespace(fd)
            })
        };
        command
    }

    /// `ip ARGS` inside.
    pub fn ip(&self, args: &str) -> io::Result<()> {
        let output = self.command("ip").args(args.split(' ')).output()?;
        succeed(&format!("ip {args} (in {})", self.name), &output)
    }

    /// Sets `net.KEY` for this namespace alone.
    pub fn sysctl(&self, key: &str, value: &str) -> io::Result<()> {
        let path = format!("/proc/sys/net/{key}");
        let value = value.to_owned();
        self.run(move || std::fs::write(path, value))
    }

    /// Makes a TUN device inside, without packet information. Reads and writes do not block.
    pub fn tun(&self, device: &str) -> io::Result<OwnedFd> {
        let device = device.to_owned();
        self.run(move || open_tun(&device))
    }
}

/// Binds the calling thread, and what it starts, to a core.
fn pin(core: usize) -> io::Result<()> {
    // SAFETY: the set is plain data for which zeroes are valid, and lives through the call.
    check(unsafe {
        let mut cores: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut cores);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &cores)
    })
}

fn set_namespace(fd: RawFd) -> io::Result<()> {
    // SAFETY: a call with a descriptor and a flag.
    check(unsafe { libc::setns(fd, libc::CLONE_NEWNET) })
}

fn open_tun(device: &str) -> io::Result<OwnedFd> {
    let path = c"/dev/net/tun";
    // SAFETY: the path is a literal that ends with NUL.
    let fd = unsafe { libc::open(path.as_ptr(), libc::O_RDWR | libc::O_NONBLOCK | libc::O_CLOEXEC) };
    check(fd)?;
    // SAFETY: just opened, owned by nobody else.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: `ifreq` is plain data for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the request is initialised and lives through the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &request) })?;
    Ok(fd)
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The error of a command that failed, with what it said.
pub fn succeed(what: &str, output: &Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{what}: {}: {}", output.status, said.trim())))
}
