//! How much of an answer may wait in the kernel for a client that does not read.
//!
//! Linux takes up to 4 MiB for each connection (`net.ipv4.tcp_wmem`), whatever the client's window: 400 slow readers held 1 GB of it.
//! `TCP_NOTSENT_LOWAT` bounds what is not yet on its way; what is in flight, and so the rate, is not touched.

/// Bytes that wait in the kernel to be sent, of one connection: two leaves of a file.
#[cfg(target_os = "linux")]
const UNSENT: libc::c_int = 512 << 10;

#[cfg(target_os = "linux")]
pub(super) fn bound(stream: &tokio::net::TcpStream) -> bool {
    use std::os::fd::AsRawFd;
    let (value, length) = (UNSENT, size_of::<libc::c_int>() as libc::socklen_t);
    // SAFETY: the socket is open as long as `stream` lives, and the pointer is to a local of the size given.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const value).cast(),
            length,
        ) == 0
    }
}

/// Elsewhere the system's own bound holds.
#[cfg(not(target_os = "linux"))]
pub(super) fn bound(_: &tokio::net::TcpStream) -> bool {
    false
}
