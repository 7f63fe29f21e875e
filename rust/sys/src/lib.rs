//! System calls that no safe crate offers, behind a safe interface.
//!
//! This is the only crate of the workspace with `unsafe` in it; every block names why it is sound.
//! It knows nothing of relays: a file descriptor here, an exit there, and UDP in `datagrams`.

pub mod datagrams;

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};

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

/// Ends the process at once with `code`: no exit handlers, no destructors, no other thread gets a say.
///
/// For a thread that has found the process broken while others still run in it.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any int, touches no memory of ours and does not return.
    unsafe { libc::_exit(code) }
}
