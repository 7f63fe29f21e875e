//! A flag that keeps a thread from sleeping while other threads have work for it.
//!
//! The sleeper announces its sleep, checks for work once more, and only then sleeps. Another thread leaves its work
//! first and checks the flag afterwards. In any order of these steps, one of the two threads sees the other.

use std::sync::atomic::Ordering;

#[cfg(loom)]
use loom::sync::atomic::AtomicBool;
#[cfg(not(loom))]
use std::sync::atomic::AtomicBool;

/// Every change is a swap, where a store would sometimes do. So each change has seen the one before, which readers and
/// loom can follow. The cost is one swap for each sleep.
#[derive(Debug)]
pub(crate) struct SleepFlag(AtomicBool);

impl SleepFlag {
    pub(crate) fn new() -> Self {
        Self(AtomicBool::new(false))
    }

    /// Announces that the caller will sleep, after checking for work once more.
    pub(crate) fn begin(&self) {
        self.0.swap(true, Ordering::SeqCst);
    }

    /// Notes that the caller is awake.
    pub(crate) fn end(&self) {
        self.0.swap(false, Ordering::SeqCst);
    }

    /// Ends the sleep of another thread. If it returns `true`, the caller has to wake the sleeper.
    pub(crate) fn interrupt(&self) -> bool {
        self.0.swap(false, Ordering::SeqCst)
    }

    /// Whether no thread has ended the sleep.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn is_begun(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }
}

/// All orders in which two shards can use their mailboxes, within the memory model: `make loom`.
#[cfg(all(test, loom))]
mod interleavings {
    use loom::sync::{Arc, Condvar, Mutex};
    use loom::thread;

    use super::SleepFlag;
    use crate::id::ConnId;
    use crate::shard::mailbox::{Batch, Mailbox, Offered, RoutedPacket};

    /// The counterpart of a waker's eventfd.
    struct Bell {
        rung: Mutex<bool>,
        ring: Condvar,
    }

    /// One shard's sleep flag and bell.
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

        /// Sleeps unless `has_work`. Loom reports a sleep without an interruption as a deadlock.
        fn sleep_unless(&self, has_work: impl FnOnce() -> bool) {
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

        /// Publishes as a shard does: leaves the batch, and waits for room if there is none.
        fn publish(&self, batch: &mut Batch<()>) {
            loop {
                match self.mailbox.offer(batch) {
                    Offered::Taken { was_empty: true } => return self.receiver.wake(),
                    Offered::Taken { was_empty: false } => return,
                    Offered::Full => self.sender.sleep_unless(|| !self.mailbox.is_full()),
                }
            }
        }

        /// Collects as a shard does, until `count` packets have come. Returns their first bytes, in order.
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
                self.receiver.sleep_unless(|| !self.mailbox.is_empty());
            }
        }
    }

    /// Runs all orders with at most this number of interruptions of each thread, besides its waits.
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
    fn packets_are_collected_in_order_and_no_wake_up_is_missed() {
        in_every_order(8, || {
            let pair = Pair::new(usize::MAX);
            let sender = Arc::clone(&pair);
            let sending = thread::spawn(move || (0..3).for_each(|mark| sender.publish(&mut batch(mark))));
            assert_eq!(pair.collect(3), [0, 1, 2]);
            sending.join().expect("no panic");
        });
    }

    #[test]
    fn a_sender_that_waits_for_room_is_woken() {
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
    fn two_shards_that_fill_each_others_mailboxes_do_not_deadlock() {
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
                            own.sleep_unless(|| !inbox.is_empty() || (!waiting.is_empty() && !out.is_full()));
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
