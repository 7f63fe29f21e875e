//! System calls that no safe crate offers, behind a safe interface.
//!
//! This is the only crate of the workspace with `unsafe` in it; every block names why it is sound.
//! It knows nothing of relays: a file descriptor here, an exit there, and UDP in `datagrams`.

pub mod datagrams;

use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

/// Duplicates a descriptor that somebody else owns (a Python socket, a descriptor inherited from a service
/// manager), so that its owner may close it whenever it likes.
///
/// # Errors
/// `EBADF` when `fd` is not open, `EMFILE` when the process has no descriptor left.
pub fn duplicate_fd(fd: RawFd) -> io::Result<OwnedFd> {
    // `borrow_raw` may not be given -1; a number that is merely not open makes the system call below fail.
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: the borrow ends in this function, and the only thing done through it is `fcntl(F_DUPFD_CLOEXEC)`,
    // which answers EBADF for a descriptor that is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned()
}

/// The kernel's smoothed estimate of a TCP connection's round trip.
///
/// # Errors
/// `socket` is no TCP socket, or the kernel tells less than that.
pub fn tcp_rtt(socket: BorrowedFd<'_>) -> io::Result<Duration> {
    const TOLD: usize = offset_of!(libc::tcp_info, tcpi_rtt) + size_of::<u32>();
    // SAFETY: the structure is integers and nothing else, for which zeros are good.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    let to = (&raw mut info).cast();
    // SAFETY: the descriptor is open for as long as it is borrowed, and the kernel writes at most `len` bytes to
    // `info`, which has as many, and to `len`.
    let failed =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, to, &mut len) };
    if failed != 0 {
        return Err(io::Error::last_os_error());
    }
    if (len as usize) < TOLD {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(Duration::from_micros(info.tcpi_rtt.into()))
}

/// Ends the process at once with `code`: no exit handlers, no destructors, no other thread gets a say.
///
/// For a thread that has found the process broken while others still run in it.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any int, touches no memory of ours and does not return.
    unsafe { libc::_exit(code) }
}
