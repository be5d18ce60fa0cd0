//! Bytes in files of memory (`memfd_create`), which the kernel sends from their pages without copying them (`sendfile`).
//!
//! A program sees them as ordinary [`Bytes`]. Where a socket is written to, [`send`] recognises them by their address. The
//! files are sealed: nobody changes or shrinks them, so neither what is mapped nor what is on its way ever changes, even when
//! the last `Bytes` is gone. Elsewhere than on Linux, and where the system has no such files, there is none of this.

use bytes::Bytes;

/// Shorter bytes are copied as quickly, and longer ones take too long to put there on a task.
pub const LENGTHS: std::ops::RangeInclusive<usize> = 16 << 10..=1 << 20;
/// Files at once: each takes a file descriptor.
pub const MAX_FILES: usize = 512;

/// A copy of `parts`, of [`LENGTHS`] together, that can be sent so; `None`: there is no room, or no such memory.
pub fn copy_of(parts: &[Bytes]) -> Option<Bytes> {
    let length = parts.iter().map(Bytes::len).sum::<usize>();
    LENGTHS.contains(&length).then(|| sys::copy_of(parts, length)).flatten()
}

pub use sys::poll_send;

#[cfg(target_os = "linux")]
mod sys {
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::io::{self, IoSlice, Write};
    use std::os::fd::{AsRawFd, FromRawFd};
    use std::sync::{Arc, PoisonError, RwLock};
    use std::task::{Context, Poll, ready};

    use bytes::Bytes;
    use tokio::io::Interest;
    use tokio::net::TcpStream;

    use super::{LENGTHS, MAX_FILES};

    /// Where each file is mapped, and how long it is.
    static MAPPED: RwLock<BTreeMap<usize, (usize, Arc<File>)>> = RwLock::new(BTreeMap::new());

    /// A file's pages as memory. Unmapped when dropped.
    struct Mapped {
        start: usize,
        length: usize,
    }

    impl AsRef<[u8]> for Mapped {
        fn as_ref(&self) -> &[u8] {
            // SAFETY: `length` bytes are mapped there until this is dropped, and the sealed file never changes.
            unsafe { std::slice::from_raw_parts(self.start as *const u8, self.length) }
        }
    }

    impl Drop for Mapped {
        fn drop(&mut self) {
            // First, so that nobody finds by this address what is mapped here next.
            MAPPED.write().unwrap_or_else(PoisonError::into_inner).remove(&self.start);
            // SAFETY: mapped by `copy_of` with this length, and nobody else has the address: the last `Bytes` is gone.
            unsafe { libc::munmap(self.start as *mut libc::c_void, self.length) };
        }
    }

    pub(super) fn copy_of(parts: &[Bytes], length: usize) -> Option<Bytes> {
        if MAPPED.read().unwrap_or_else(PoisonError::into_inner).len() >= MAX_FILES {
            return None;
        }
        // SAFETY: the name is a string that ends with a zero byte.
        let fd = unsafe { libc::memfd_create(c"tidegate".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING) };
        if fd < 0 {
            return None;
        }
        // SAFETY: just opened, and nobody else's.
        let mut file = unsafe { File::from_raw_fd(fd) };
        parts.iter().try_for_each(|part| file.write_all(part)).ok()?;
        let seals = libc::F_SEAL_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_SEAL;
        // SAFETY: a call with an open descriptor and a number.
        if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, seals) } < 0 {
            return None;
        }
        let null = std::ptr::null_mut();
        // SAFETY: a new mapping at an address that the system chooses, of a file that has `length` bytes and keeps them.
        let start = unsafe { libc::mmap(null, length, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        if start == libc::MAP_FAILED {
            return None;
        }
        let mapped = Mapped { start: start as usize, length };
        let known = (length, Arc::new(file));
        MAPPED.write().unwrap_or_else(PoisonError::into_inner).insert(mapped.start, known);
        Some(Bytes::from_owner(mapped))
    }

    /// The file that `buf` is mapped from, and where in it.
    fn file_of(buf: &[u8]) -> Option<(Arc<File>, usize)> {
        if buf.len() < *LENGTHS.start() {
            return None;
        }
        let start = buf.as_ptr() as usize;
        let mapped = MAPPED.read().unwrap_or_else(PoisonError::into_inner);
        let (at, (length, file)) = mapped.range(..=start).next_back()?;
        (start + buf.len() <= at + length).then(|| (file.clone(), start - at))
    }

    /// Writes from the front of `bufs`, if the first or the second of them is in a file of memory: what is before it and
    /// some of it. `None`: they are not, and nothing is done.
    pub fn poll_send(
        stream: &TcpStream,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Option<Poll<io::Result<usize>>> {
        let (before, (file, offset), length) = match bufs {
            [first, ..] if let Some(found) = file_of(first) => (None, found, first.len()),
            [first, second, ..] if let Some(found) = file_of(second) => (Some(&**first), found, second.len()),
            _ => return None,
        };
        Some(poll(stream, cx, before.filter(|before| !before.is_empty()), &file, offset, length))
    }

    fn poll(
        stream: &TcpStream,
        cx: &mut Context<'_>,
        before: Option<&[u8]>,
        file: &File,
        offset: usize,
        length: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(stream.poll_write_ready(cx))?;
            let written = stream.try_io(Interest::WRITABLE, || {
                let mut written = 0;
                if let Some(before) = before {
                    // What follows goes into the same packets.
                    let flags = libc::MSG_MORE | libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
                    // SAFETY: the socket is open as long as `stream` lives, and `before` is that long.
                    let sent = unsafe { libc::send(stream.as_raw_fd(), before.as_ptr().cast(), before.len(), flags) };
                    written = check(sent)?;
                    if written < before.len() {
                        return Ok(written);
                    }
                }
                let mut from = offset as libc::off_t;
                // SAFETY: both descriptors are open as long as their owners live; the pointer is to a local.
                let sent = unsafe { libc::sendfile(stream.as_raw_fd(), file.as_raw_fd(), &raw mut from, length) };
                match check(sent) {
                    Ok(sent) => Ok(written + sent),
                    // The rest is asked for again.
                    Err(error) if written > 0 && error.kind() == io::ErrorKind::WouldBlock => Ok(written),
                    Err(error) => Err(error),
                }
            });
            match written {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => return Poll::Ready(written),
            }
        }
    }

    fn check(result: libc::ssize_t) -> io::Result<usize> {
        usize::try_from(result).map_err(|_| io::Error::last_os_error())
    }

    #[cfg(test)]
    mod tests {
        use tokio::io::AsyncReadExt;
        use tokio::net::TcpListener;

        use super::*;

        fn noise(length: usize) -> Bytes {
            (0..length).map(|k| (k * 7919 % 251) as u8).collect()
        }

        #[tokio::test]
        async fn bytes_of_a_file_of_memory_are_sent_from_it_behind_what_stands_before_them() {
            let parts = [noise(100_000), noise(333_333), Bytes::new()];
            let body = super::super::copy_of(&parts).expect("this system has files of memory");
            assert_eq!(body, parts.concat());
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap());
            let (mut client, (server, _)) = (client.await.unwrap(), listener.accept().await.unwrap());
            let sending = async {
                let (mut head, mut rest): (&[u8], &[u8]) = (b"head", &body[7..]);
                while !rest.is_empty() {
                    let bufs = [IoSlice::new(head), IoSlice::new(rest)];
                    let polled = |cx: &mut Context<'_>| {
                        poll_send(&server, cx, &bufs).unwrap_or_else(|| {
                            // The last piece may be too short for it to be worth a search.
                            assert!(rest.len() < *LENGTHS.start());
                            Poll::Ready(server.try_write_vectored(&bufs))
                        })
                    };
                    let sent = std::future::poll_fn(polled).await.unwrap();
                    let of_head = sent.min(head.len());
                    head = &head[of_head..];
                    rest = &rest[sent - of_head..];
                }
                drop(server);
            };
            let reading = async {
                let mut all = Vec::new();
                client.read_to_end(&mut all).await.unwrap();
                all
            };
            let ((), all) = tokio::join!(sending, reading);
            assert!(all == [b"head", &body[7..]].concat(), "{} bytes", all.len());
        }

        #[test]
        fn only_what_is_within_a_file_is_found_and_nothing_after_its_end() {
            let body = super::super::copy_of(&[noise(20_000)]).unwrap();
            assert_eq!(file_of(&body[3_000..]).unwrap().1, 3_000);
            assert!(file_of(&body[10_000..]).is_none(), "too short to be worth it");
            assert!(file_of(&noise(20_000)).is_none());
            let slice = body.slice(1..19_000);
            let start = body.as_ptr() as usize;
            drop(body);
            assert!(file_of(&slice).is_some());
            drop(slice);
            assert!(!MAPPED.read().unwrap().contains_key(&start));
        }

        #[test]
        fn short_and_long_bytes_stay_where_they_are() {
            for length in [0, 1_000, LENGTHS.start() - 1, LENGTHS.end() + 1] {
                assert!(super::super::copy_of(&[noise(length)]).is_none(), "{length}");
            }
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod sys {
    use std::io::{self, IoSlice};
    use std::task::{Context, Poll};

    use bytes::Bytes;
    use tokio::net::TcpStream;

    pub(super) fn copy_of(_: &[Bytes], _: usize) -> Option<Bytes> {
        None
    }

    /// Does nothing here.
    pub fn poll_send(_: &TcpStream, _: &mut Context<'_>, _: &[IoSlice<'_>]) -> Option<Poll<io::Result<usize>>> {
        None
    }
}
