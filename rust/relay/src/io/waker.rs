//! Wakes a thread that sleeps in a poll call, through an eventfd.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use crate::io::sleep_flag::SleepFlag;

/// Wakes a thread that sleeps in a poll call, through an eventfd; no-op if the thread is awake.
#[derive(Debug)]
pub struct Waker {
    eventfd: OwnedFd,
    sleep: SleepFlag,
}

impl Waker {
    pub(crate) fn new() -> std::io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self { eventfd: eventfd(0, flags)?, sleep: SleepFlag::new() })
    }

    /// Announces that the caller will sleep. It has to check for work once more before it does.
    pub fn will_sleep(&self) {
        self.sleep.begin();
    }

    pub(crate) fn is_awake(&self) {
        self.sleep.end();
    }

    /// Whether the sleeper has announced its sleep and was not woken since.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn is_asleep(&self) -> bool {
        self.sleep.is_begun()
    }

    /// Resets the eventfd after it woke the caller.
    pub fn clear(&self) {
        // If there is nothing to read, no thread has written, and there is nothing to reset.
        let _ = rustix::io::read(&self.eventfd, &mut [0; 8]);
    }

    pub(crate) fn wake(&self) {
        if self.sleep.interrupt() {
            // The only failure is a full counter, and then it is readable already.
            let _ = rustix::io::write(&self.eventfd, &1_u64.to_ne_bytes());
        }
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.eventfd.as_fd()
    }
}
