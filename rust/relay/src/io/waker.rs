//! Wakes a thread that sleeps in a poll call, through an eventfd.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{EventfdFlags, eventfd};

use crate::io::sleep_flag::SleepFlag;

/// Wakes a thread that sleeps in a poll call, through an eventfd, and only if it sleeps.
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

    /// Says that the caller is about to sleep. It has to look for work once more after this, before it does.
    pub fn will_sleep(&self) {
        self.sleep.begin();
    }

    pub(crate) fn is_awake(&self) {
        self.sleep.end();
    }

    /// Whether nobody has woken the sleeper since it said that it will sleep.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn is_asleep(&self) -> bool {
        self.sleep.goes_on()
    }

    /// Resets the eventfd after it woke the caller.
    pub fn clear(&self) {
        // Nothing to read means that nobody has written: what was wanted.
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
