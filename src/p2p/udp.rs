//! Room for datagrams in the kernel. libp2p's QUIC leaves the default, 208 KiB: nine milliseconds of a 100 Mbit/s link.
//! Whenever the process is not scheduled for so long, packets are lost and the sender halves its rate (RETRIEVAL.md T18).

use std::io;

/// What is asked for, in bytes: first what only a privileged process gets, then what `net.core.rmem_max` usually allows.
const BUFFER: libc::c_int = 8 << 20;

/// Enlarges the buffers of every UDP socket of this process; returns the smallest receive buffer among them, in bytes.
/// Sockets cannot be reached through libp2p, so they are looked for in `/proc/self/fd`. Elsewhere than on Linux it does
/// nothing.
#[cfg(target_os = "linux")]
pub fn widen() -> io::Result<Option<usize>> {
    let mut smallest = None;
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Ok(fd) = entry?.file_name().to_string_lossy().parse::<libc::c_int>() else { continue };
        let internet = matches!(option(fd, libc::SO_DOMAIN), Some(libc::AF_INET | libc::AF_INET6));
        if !internet || option(fd, libc::SO_TYPE) != Some(libc::SOCK_DGRAM) {
            continue;
        }
        for (forced, usual) in [(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF), (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF)] {
            if !set(fd, forced, BUFFER) {
                set(fd, usual, BUFFER);
            }
        }
        let now = option(fd, libc::SO_RCVBUF).and_then(|bytes| usize::try_from(bytes).ok());
        smallest = match (smallest, now) {
            (Some(a), Some(b)) => Some(usize::min(a, b)),
            (a, b) => a.or(b),
        };
    }
    Ok(smallest)
}

#[cfg(not(target_os = "linux"))]
pub fn widen() -> io::Result<Option<usize>> {
    Ok(None)
}

#[cfg(target_os = "linux")]
fn option(fd: libc::c_int, name: libc::c_int) -> Option<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: both pointers are to locals of the sizes given; a number that is no socket is an error.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length) };
    (result == 0).then_some(value)
}

#[cfg(target_os = "linux")]
fn set(fd: libc::c_int, name: libc::c_int, value: libc::c_int) -> bool {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the pointer is to a local of the size given; a number that is no socket is an error.
    unsafe { libc::setsockopt(fd, libc::SOL_SOCKET, name, (&raw const value).cast(), length) == 0 }
}

#[cfg(target_os = "linux")]
#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_udp_socket_gets_more_room_than_the_default() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let before = option(socket.as_raw_fd(), libc::SO_RCVBUF).unwrap();
        widen().unwrap();
        assert!(option(socket.as_raw_fd(), libc::SO_RCVBUF).unwrap() > before);
    }
}
