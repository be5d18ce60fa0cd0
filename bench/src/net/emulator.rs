//! The wires between namespaces: packets move from one TUN device to the other when their link says so.
//!
//! One thread. Toward the gateway: provider's link, then the shared access link; from it: access link, then provider's.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use super::link::{Counts, Direction, Loss, Shape};

/// The largest packet of a device with the standard MTU, and some room.
const PACKET_BYTES: usize = 1_600;
/// Packets read from one device before the others have their turn.
const BURST: usize = 64;
/// Buffers kept for reuse.
const POOL: usize = 65_536;
/// Packets due within this time are sent now: a timer is no more exact.
const SLACK_NS: u64 = 20_000;

/// A change while the network runs. Links are named by their place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Change {
    /// Nothing moves, both ways; packets queue.
    Stall(usize),
    /// Mbit/s, both ways. Ends a stall.
    Rate(usize, f64),
    Loss(usize, Loss),
    /// Every packet is lost, or no longer.
    Cut(usize, bool),
}

/// One link: the devices at its ends and the shape of both directions.
pub struct Link {
    pub gateway: OwnedFd,
    pub provider: OwnedFd,
    pub shape: Shape,
}

/// A running emulator. Dropping it stops the thread; packets in flight are lost.
pub struct Emulator {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    /// Readable when there are changes, or when it is time to stop.
    wake: OwnedFd,
}

#[derive(Default)]
struct State {
    changes: Vec<Change>,
    stop: bool,
    totals: Totals,
}

/// What went through so far.
#[derive(Debug, Clone, Default)]
pub struct Totals {
    /// Toward the gateway, by link.
    pub down: Vec<Counts>,
    /// CPU time of the emulator's thread, nanoseconds.
    pub cpu_ns: u64,
}

impl Totals {
    pub fn down_bytes(&self) -> u64 {
        self.down.iter().map(|counts| counts.bytes).sum()
    }
}

impl Emulator {
    /// `access_bps`: the shared access link of the gateway, both ways, without delay of its own; `None`: no such link.
    pub fn start(links: Vec<Link>, access_bps: Option<f64>, seed: u64) -> io::Result<Self> {
        // SAFETY: a call with flags; the result is checked and owned once.
        let wake = unsafe { libc::eventfd(0, libc::EFD_NONBLOCK | libc::EFD_CLOEXEC) };
        if wake < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: just made, owned by nobody else.
        let wake = unsafe { OwnedFd::from_raw_fd(wake) };
        let shared = Arc::new(Shared { state: Mutex::new(State::default()), wake });
        let mut wires = Wires::new(links, access_bps, seed, shared.clone())?;
        let thread = std::thread::Builder::new().name("emulator".to_owned()).spawn(move || wires.run())?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub fn change(&self, change: Change) {
        self.shared.lock().changes.push(change);
        self.shared.wake();
    }

    pub fn totals(&self) -> Totals {
        self.shared.lock().totals.clone()
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        let one = 1u64.to_ne_bytes();
        // SAFETY: eight bytes that live through the call. A full counter wakes as well.
        unsafe { libc::write(self.wake.as_raw_fd(), one.as_ptr().cast(), one.len()) };
    }
}

struct Wires {
    links: Vec<Link>,
    down: Vec<Direction>,
    up: Vec<Direction>,
    /// With the link that each packet is of.
    access: Option<(Shared1, Shared1)>,
    pool: Vec<Vec<u8>>,
    shared: Arc<Shared>,
    epoll: OwnedFd,
    timer: OwnedFd,
}

/// A direction that several links share: which link a packet is of stands in its last byte.
struct Shared1(Direction);

impl Shared1 {
    fn push(&mut self, now: u64, link: usize, mut data: Vec<u8>) -> Option<Vec<u8>> {
        data.push(link as u8);
        self.0.push(now, data)
    }

    fn pop(&mut self, now: u64) -> Option<(usize, u64, Vec<u8>)> {
        let mut packet = self.0.pop(now)?;
        let link = packet.data.pop().unwrap_or_default();
        Some((usize::from(link), packet.at, packet.data))
    }
}

const WAKE: u64 = u64::MAX;
const TIMER: u64 = u64::MAX - 1;

impl Wires {
    fn new(links: Vec<Link>, access_bps: Option<f64>, seed: u64, shared: Arc<Shared>) -> io::Result<Self> {
        // SAFETY: calls with flags; results are checked and owned once.
        let (epoll, timer) = unsafe {
            (
                libc::epoll_create1(libc::EPOLL_CLOEXEC),
                libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_NONBLOCK | libc::TFD_CLOEXEC),
            )
        };
        if epoll < 0 || timer < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both were just made and checked.
        let (epoll, timer) = unsafe { (OwnedFd::from_raw_fd(epoll), OwnedFd::from_raw_fd(timer)) };
        let watch = |fd: i32, data: u64| {
            let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: data };
            // SAFETY: the event lives through the call.
            match unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &mut event) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        };
        watch(timer.as_raw_fd(), TIMER)?;
        watch(shared.wake.as_raw_fd(), WAKE)?;
        for (place, link) in links.iter().enumerate() {
            watch(link.gateway.as_raw_fd(), 2 * place as u64)?;
            watch(link.provider.as_raw_fd(), 2 * place as u64 + 1)?;
        }
        let directions = |salt: u64| -> Vec<Direction> {
            let seeded = |(place, link): (usize, &Link)| {
                Direction::new(link.shape, seed.wrapping_mul(1_000_003) ^ (2 * place as u64 + salt))
            };
            links.iter().enumerate().map(seeded).collect()
        };
        let access = access_bps.map(|rate_bps| {
            let shape = Shape {
                rate_bps,
                delay_ns: 0,
                jitter_ns: 0,
                loss: Loss::None,
                // 50 ms of the access rate: twice its share of a metropolitan round trip, as home routers have.
                queue_bytes: (rate_bps * 0.05 / 8.0) as u64,
            };
            (Shared1(Direction::new(shape, seed ^ 1)), Shared1(Direction::new(shape, seed ^ 2)))
        });
        Ok(Self { down: directions(1), up: directions(0), links, access, pool: Vec::new(), shared, epoll, timer })
    }

    fn run(&mut self) {
        // The wires must not wait for a busy core: everything else runs at the default priority. Without the privilege
        // nothing changes, and the self-test tells.
        // SAFETY: calls with numbers and a struct that lives through them; they concern this thread alone.
        unsafe {
            let real_time = libc::sched_param { sched_priority: 10 };
            if libc::sched_setscheduler(0, libc::SCHED_FIFO, &real_time) != 0 {
                libc::setpriority(libc::PRIO_PROCESS, libc::gettid() as libc::id_t, -15);
            }
        }
        let mut events: [libc::epoll_event; 64] = [libc::epoll_event { events: 0, u64: 0 }; 64];
        let mut published = 0;
        loop {
            // SAFETY: the array is as long as is said.
            let ready = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), 64, -1) };
            for event in &events[..usize::try_from(ready).unwrap_or(0)] {
                match event.u64 {
                    WAKE => {
                        if self.changes() {
                            return;
                        }
                    }
                    TIMER => drain(self.timer.as_raw_fd()),
                    device => self.read((device / 2) as usize, device % 2 == 0),
                }
            }
            self.forward();
            let now = now();
            if now - published > 1_000_000 {
                published = now;
                self.publish();
            }
        }
    }

    /// Carries out what was asked. True: stop.
    fn changes(&mut self) -> bool {
        drain(self.shared.wake.as_raw_fd());
        let (changes, stop) = {
            let mut state = self.shared.lock();
            (std::mem::take(&mut state.changes), state.stop)
        };
        let now = now();
        for change in changes {
            let (Change::Stall(place) | Change::Rate(place, _) | Change::Loss(place, _) | Change::Cut(place, _)) =
                change;
            for direction in [self.down.get_mut(place), self.up.get_mut(place)].into_iter().flatten() {
                let shape = direction.shape();
                match change {
                    Change::Stall(_) => direction.reshape(now, Shape { rate_bps: 0.0, ..shape }),
                    Change::Rate(_, mbit) => direction.reshape(now, Shape { rate_bps: mbit * 1e6, ..shape }),
                    Change::Loss(_, loss) => direction.reshape(now, Shape { loss, ..shape }),
                    Change::Cut(_, cut) => direction.cut(cut),
                }
            }
        }
        stop
    }

    fn read(&mut self, place: usize, from_gateway: bool) {
        let link = &self.links[place];
        let fd = if from_gateway { link.gateway.as_raw_fd() } else { link.provider.as_raw_fd() };
        for _ in 0..BURST {
            let mut data = self.pool.pop().unwrap_or_else(|| Vec::with_capacity(PACKET_BYTES));
            data.resize(PACKET_BYTES - 1, 0);
            // SAFETY: the buffer is as long as is said.
            let length = unsafe { libc::read(fd, data.as_mut_ptr().cast(), data.len()) };
            let Ok(length @ 1..) = usize::try_from(length) else {
                self.recycle(data);
                return;
            };
            data.truncate(length);
            let now = now();
            let lost = match (&mut self.access, from_gateway) {
                (Some((_, up)), true) => up.push(now, place, data),
                (None, true) => self.up[place].push(now, data),
                (_, false) => self.down[place].push(now, data),
            };
            if let Some(lost) = lost {
                self.recycle(lost);
            }
        }
    }

    /// Moves what is due on, and sets the timer for what is next.
    fn forward(&mut self) {
        let due = now() + SLACK_NS;
        if let Some((_, up)) = &mut self.access {
            while let Some((link, at, data)) = up.pop(due) {
                if let Some(lost) = self.up[link].push(at, data) {
                    self.pool.push(lost);
                }
            }
        }
        for place in 0..self.links.len() {
            while let Some(packet) = self.up[place].pop(due) {
                write(self.links[place].provider.as_raw_fd(), &packet.data);
                self.recycle(packet.data);
            }
            while let Some(packet) = self.down[place].pop(due) {
                match &mut self.access {
                    Some((down, _)) => {
                        if let Some(lost) = down.push(packet.at, place, packet.data) {
                            self.pool.push(lost);
                        }
                    }
                    None => {
                        write(self.links[place].gateway.as_raw_fd(), &packet.data);
                        self.recycle(packet.data);
                    }
                }
            }
        }
        while let Some((link, _, data)) = self.access.as_mut().and_then(|(down, _)| down.pop(due)) {
            write(self.links[link].gateway.as_raw_fd(), &data);
            self.recycle(data);
        }
        let shared = self.access.iter().flat_map(|(down, up)| [down.0.next_at(), up.0.next_at()]);
        let own = self.down.iter().chain(&self.up).map(Direction::next_at);
        if let Some(next) = shared.chain(own).flatten().min() {
            self.arm(next);
        }
    }

    fn arm(&self, at: u64) {
        let time = libc::timespec { tv_sec: (at / 1_000_000_000) as i64, tv_nsec: (at % 1_000_000_000) as i64 };
        let zero = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        let timer = libc::itimerspec { it_interval: zero, it_value: time };
        // SAFETY: the value lives through the call.
        unsafe {
            libc::timerfd_settime(self.timer.as_raw_fd(), libc::TFD_TIMER_ABSTIME, &timer, std::ptr::null_mut());
        }
    }

    fn publish(&self) {
        let down = self.down.iter().map(|direction| direction.counts).collect();
        let totals = Totals { down, cpu_ns: clock(libc::CLOCK_THREAD_CPUTIME_ID) };
        self.shared.lock().totals = totals;
    }

    fn recycle(&mut self, data: Vec<u8>) {
        if self.pool.len() < POOL {
            self.pool.push(data);
        }
    }
}

fn write(fd: i32, data: &[u8]) {
    // SAFETY: the slice is as long as is said. A device that is full loses the packet, as a full network card does.
    unsafe { libc::write(fd, data.as_ptr().cast(), data.len()) };
}

fn drain(fd: i32) {
    let mut count = [0u8; 8];
    // SAFETY: eight bytes, as eventfd and timerfd give.
    unsafe { libc::read(fd, count.as_mut_ptr().cast(), count.len()) };
}

/// Nanoseconds of the monotonic clock.
pub fn now() -> u64 {
    clock(libc::CLOCK_MONOTONIC)
}

fn clock(id: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct lives through the call, and both clocks exist on Linux.
    unsafe { libc::clock_gettime(id, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
