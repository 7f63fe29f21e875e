//! Operating system interfaces: sockets and epoll, datagrams, listeners, and waking threads.

pub(crate) mod datagrams;
pub(crate) mod epoll;
pub(crate) mod listener;
pub(crate) mod sleep_flag;
pub(crate) mod waker;
