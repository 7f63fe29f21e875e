//! A flag with which a sleeping thread and threads that have work for it never miss each other.
//!
//! The sleeper announces its sleep, looks for work once more, and only then sleeps. Another thread leaves its work first
//! and checks the flag afterwards. In whichever order these happen, one of the two sees the other.

use std::sync::atomic::Ordering;

#[cfg(loom)]
use loom::sync::atomic::AtomicBool;
#[cfg(not(loom))]
use std::sync::atomic::AtomicBool;

/// Every change is a swap, where a store would sometimes do: then each has seen the one before, which a reader can
/// follow, and so can loom. It is paid once a sleep.
#[derive(Debug)]
pub(crate) struct SleepFlag(AtomicBool);

impl SleepFlag {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// The caller is about to sleep, and will look for work once more before it does.
    pub(crate) fn begin(&self) {
        self.0.swap(true, Ordering::SeqCst);
    }

    /// The caller is awake, whatever woke it.
    pub(crate) fn end(&self) {
        self.0.swap(false, Ordering::SeqCst);
    }

    /// Ends the sleep for somebody else; `true` when there was one, and whoever is told so has to wake the sleeper.
    pub(crate) fn interrupt(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }

    /// Whether nobody has ended it.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn goes_on(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// Every order in which two shards can meet over their mailboxes, as far as the memory model allows one:
/// `make loom`.
#[cfg(all(test, loom))]
mod interleavings {
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    use super::SleepFlag;
    use crate::id::ConnId;
    use crate::shard::mailbox::{Batch, Mailbox, Offered, RoutedPacket};

    /// What an eventfd is to a waker.
    struct Bell {
        rung: Mutex<bool>,
        ring: Condvar,
    }

    /// One shard's end: its sleep, and what wakes it.
    struct Waker {
        sleep: SleepFlag,
        bell: Bell,
    }

    impl Waker {
        fn new() -> Self {
            Self { sleep: SleepFlag::new(), bell: Bell { rung: Mutex::new(false), ring: Condvar::new() } }
        }

        fn wake(&self) {
            if self.sleep.interrupt() {
                *self.bell.rung.lock().expect("no panic") = true;
                self.bell.ring.notify_one();
            }
        }

        /// Sleeps unless `has_work`; a sleep that nobody interrupts is a deadlock, which loom reports.
        fn doze(&self, has_work: impl FnOnce() -> bool) {
            self.sleep.begin();
            if !has_work() {
                let mut rung = self.bell.rung.lock().expect("no panic");
                while !*rung {
                    rung = self.bell.ring.wait(rung).expect("no panic");
                }
                *rung = false;
            }
            self.sleep.end();
        }
    }

    struct Pair {
        mailbox: Mailbox<()>,
        sender: Waker,
        receiver: Waker,
    }

    impl Pair {
        fn new(full: usize) -> Arc<Self> {
            Arc::new(Self { mailbox: Mailbox::new(full), sender: Waker::new(), receiver: Waker::new() })
        }

        /// As a shard publishes: leaves the batch, and waits for room if there is none.
        fn publish(&self, batch: &mut Batch<()>) {
            loop {
                match self.mailbox.offer(batch) {
                    Offered::Taken { was_empty: true } => return self.receiver.wake(),
                    Offered::Taken { was_empty: false } => return,
                    Offered::Full => self.sender.doze(|| !self.mailbox.is_full()),
                }
            }
        }

        /// As a shard collects, until so many packets have come; their first bytes, in order.
        fn collect(&self, count: usize) -> Vec<u8> {
            let mut came = Vec::new();
            loop {
                let mut batch = Batch::default();
                if self.mailbox.collect(&mut batch) {
                    self.sender.wake();
                }
                came.extend(batch.routed_packets().map(|routed| routed.packet[0]));
                if came.len() >= count {
                    return came;
                }
                self.receiver.doze(|| !self.mailbox.is_empty());
            }
        }
    }

    /// Every order in which each thread is interrupted so often at most, where it does not wait anyway.
    fn in_every_order(interruptions: usize, code: impl Fn() + Sync + Send + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some(interruptions);
        model.check(code);
    }

    fn batch(mark: u8) -> Batch<()> {
        let mut batch = Batch::default();
        batch.post(&RoutedPacket { to: ConnId::NONE, key: &[0; 32], from: &[0; 32], packet: &[mark] });
        batch
    }

    #[test]
    fn what_is_left_in_a_mailbox_is_collected_in_order_and_nobody_sleeps_over_it() {
        in_every_order(8, || {
            let pair = Pair::new(usize::MAX);
            let sender = Arc::clone(&pair);
            let sending = thread::spawn(move || (0..3).for_each(|mark| sender.publish(&mut batch(mark))));
            assert_eq!(pair.collect(3), [0, 1, 2]);
            sending.join().expect("no panic");
        });
    }

    #[test]
    fn whoever_waits_for_room_hears_of_it() {
        in_every_order(5, || {
            // One packet fills it.
            let pair = Pair::new(1);
            let sender = Arc::clone(&pair);
            let sending = thread::spawn(move || (0..3).for_each(|mark| sender.publish(&mut batch(mark))));
            assert_eq!(pair.collect(3), [0, 1, 2]);
            sending.join().expect("no panic");
        });
    }

    #[test]
    fn two_who_fill_each_others_mailboxes_both_come_through() {
        in_every_order(4, || {
            let (there, back) = (Arc::new(Mailbox::<()>::new(1)), Arc::new(Mailbox::<()>::new(1)));
            let wakers = [Arc::new(Waker::new()), Arc::new(Waker::new())];
            let shards = [
                (Arc::clone(&there), Arc::clone(&back), Arc::clone(&wakers[0]), Arc::clone(&wakers[1])),
                (back, there, Arc::clone(&wakers[1]), Arc::clone(&wakers[0])),
            ];
            let threads = shards.map(|(out, inbox, own, other)| {
                thread::spawn(move || {
                    let (mut waiting, mut came) = (vec![batch(1), batch(0)], 0);
                    while came < 2 || !waiting.is_empty() {
                        let mut batch = Batch::default();
                        if inbox.collect(&mut batch) {
                            other.wake();
                        }
                        came += batch.routed_packets().count();
                        while let Some(mut next) = waiting.pop() {
                            match out.offer(&mut next) {
                                Offered::Taken { was_empty: true } => other.wake(),
                                Offered::Taken { was_empty: false } => {}
                                Offered::Full => {
                                    waiting.push(next);
                                    break;
                                }
                            }
                        }
                        if came < 2 || !waiting.is_empty() {
                            own.doze(|| !inbox.is_empty() || (!waiting.is_empty() && !out.is_full()));
                        }
                    }
                })
            });
            for thread in threads {
                thread.join().expect("no panic");
            }
        });
    }
}
