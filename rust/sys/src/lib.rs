//! System calls that no safe crate offers, with a safe interface.
//!
//! The only crate of the workspace with `unsafe`; every block states why it is sound. It contains nothing about relays:
//! file descriptors, exit, and UDP in `datagrams`.

pub mod datagrams;

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

/// Duplicates a descriptor that other code owns and may close at any time.
///
/// # Errors
/// `EBADF` if `fd` is not open, `EMFILE` if the process has no descriptor left.
pub fn duplicate_fd(fd: RawFd) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: it is not -1. It is only used for `fcntl`, which returns EBADF if it is not open.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    borrowed.try_clone_to_owned()
}

/// Returns the kernel's smoothed estimate of a TCP connection's round-trip time; an error for other sockets.
pub fn tcp_rtt(socket: BorrowedFd<'_>) -> io::Result<Duration> {
    // SAFETY: the structure consists of integers, for which zeros are valid.
    let mut info: libc::tcp_info = unsafe { std::mem::zeroed() };
    read_option(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut info)?;
    Ok(Duration::from_micros(info.tcpi_rtt.into()))
}

/// Reads a socket option into a structure of integers; fields that the kernel does not write keep their values.
fn read_option<T: Copy>(socket: BorrowedFd<'_>, level: i32, name: i32, value: &mut T) -> io::Result<()> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the descriptor is open for as long as it is borrowed; the kernel writes at most `len` bytes to `value`.
    let done =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut *value).cast(), &raw mut len) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Ends the process at once with `code`, without exit handlers or destructors.
///
/// For a thread that has found a bug in the process while other threads still run.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any int, touches no memory of ours and does not return.
    unsafe { libc::_exit(code) }
}
