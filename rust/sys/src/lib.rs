//! System calls that no safe crate offers, behind a safe interface.
//!
//! This is the only crate of the workspace with `unsafe` in it; every block names why it is sound.
//! It knows nothing of relays: a file descriptor here, an exit there, and UDP in `datagrams`.

pub mod datagrams;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

/// Duplicates a descriptor that somebody else owns, who may then close it whenever it likes.
///
/// # Errors
/// `EBADF` when `fd` is not open, `EMFILE` when the process has no descriptor left.
pub fn duplicate_fd(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is not -1, and the one thing done with it is `fcntl`, which answers EBADF if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned()
}

/// The kernel's smoothed estimate of a TCP connection's round trip; an error where `socket` is none.
pub fn tcp_rtt(socket: BorrowedFd<'_>) -> io::Result<Duration> {
    // SAFETY: the structure is integers and nothing else, for which zeros are good.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    read_option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    Ok(Duration::from_micros(info.tcpi_rtt.into()))
}

/// Reads a socket option into a structure of integers; what the kernel does not tell stays as it was.
fn read_option<T: Copy>(socket: BorrowedFd<'_>, level: i32, name: i32, value: &mut T) -> io::Result<()> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel writes at most `len` bytes to `value`.
    let done =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut *value).cast(), &raw mut len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends the process at once with `code`: no exit handlers, no destructors, no other thread gets a say.
///
/// For a thread that has found the process broken while others still run in it.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any int, touches no memory of ours and does not return.
    unsafe { libc::_exit(code) }
}
