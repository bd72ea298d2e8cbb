//! The two mailboxes of an actor, and the handle by which others reach them.
//!
//! * **Control** is the actix mailbox: typed messages, bounded, handled before data.
//! * **Data** is a flume queue of messages that are whole bursts. It never blocks a producer; how much it
//!   can hold is bounded by the roots' window. Its depth and rate can be read by anyone with a handle.
//!
//! Both belong to one *generation* of the actor and die with it, contents included: whoever rebuilds
//! an actor replays, nothing is carried over. Accepted therefore does not mean handled.
//!
//! A consumer that finds its queue empty marks itself idle *before* it looks a last time, and a
//! producer looks at the mark *after* it pushed. The queue's lock orders the two, so either the
//! consumer sees the message or the producer sees the mark and wakes it.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};

use actix::Recipient;
use chc_api::Generation;
use futures_util::task::AtomicWaker;
use parking_lot::Mutex;

use crate::background::{Rouse, rouse_later};

/// What a data message says about its size, for the mailbox's counters.
pub trait Packets: Send + 'static {
    /// Packets in this message.
    fn packet_count(&self) -> usize;
}

/// Why a mailbox did not take a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// As many messages wait as the mailbox may hold.
    Full {
        /// The configured bound, in messages.
        mailbox_len_max: usize,
    },
    /// This generation of the actor has ended.
    Closed,
}

/// A message that was not delivered, given back with the reason.
pub struct Undelivered<M> {
    /// The message.
    pub message: M,
    /// The actor it was for.
    pub actor: Arc<str>,
    /// The generation it was for.
    pub generation: Generation,
    /// Why it was refused.
    pub refusal: Refusal,
}

impl<M> fmt::Debug for Undelivered<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<M> fmt::Display for Undelivered<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "actor {} generation {}: ", self.actor, self.generation.0)?;
        match self.refusal {
            Refusal::Full { mailbox_len_max } => {
                write!(f, "mailbox is full ({mailbox_len_max} messages); send again once it has drained")
            }
            Refusal::Closed => write!(f, "it has ended; send to its successor"),
        }
    }
}

impl<M> std::error::Error for Undelivered<M> {}

/// Counters of a data mailbox since its generation began. A reader that takes two of them a known time
/// apart has the rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DataCounters {
    /// Messages ever enqueued.
    pub messages_enqueued: u64,
    /// Packets ever enqueued.
    pub packets_enqueued: u64,
    /// Messages ever taken out by the actor.
    pub messages_dequeued: u64,
    /// Packets ever taken out by the actor.
    pub packets_dequeued: u64,
}

impl DataCounters {
    /// Messages waiting. Counted once per drain, so it can be one budget too high while one is under way.
    #[must_use]
    pub fn depth_messages(&self) -> u64 {
        self.messages_enqueued.saturating_sub(self.messages_dequeued)
    }

    /// Packets waiting, as precise as [`depth_messages`](Self::depth_messages).
    #[must_use]
    pub fn depth_packets(&self) -> u64 {
        self.packets_enqueued.saturating_sub(self.packets_dequeued)
    }
}

/// A flume queue that is empty once closed, and stays so.
///
/// flume keeps what is queued until the last sender goes. Here every handle holds both ends: a
/// producer that finds the queue closed after its push empties it itself.
pub(crate) struct Queue<T> {
    tx: flume::Sender<T>,
    rx: flume::Receiver<T>,
    closed: AtomicBool,
}

impl<T> Queue<T> {
    pub(crate) fn new(len_max: Option<usize>) -> Self {
        let (tx, rx) = match len_max {
            Some(len_max) => flume::bounded(len_max),
            None => flume::unbounded(),
        };
        Self { tx, rx, closed: AtomicBool::new(false) }
    }

    pub(crate) fn push(&self, item: T) -> Result<(), (T, Refusal)> {
        if self.is_closed() {
            return Err((item, Refusal::Closed));
        }
        match self.tx.try_send(item) {
            Ok(()) => {}
            Err(flume::TrySendError::Full(item)) => {
                let mailbox_len_max = self.tx.capacity().unwrap_or(usize::MAX);
                return Err((item, Refusal::Full { mailbox_len_max }));
            }
            Err(flume::TrySendError::Disconnected(item)) => return Err((item, Refusal::Closed)),
        }
        if self.is_closed() {
            self.clear();
        }
        Ok(())
    }

    pub(crate) fn pop(&self) -> Option<T> {
        self.rx.try_recv().ok()
    }

    /// Waits for the next item. `None` never comes while a clone of the queue's owner is alive.
    pub(crate) async fn next(&self) -> Option<T> {
        self.rx.recv_async().await.ok()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.clear();
    }

    fn clear(&self) {
        // Item by item: one that panics when dropped must not keep the others, nor hide why the actor ended.
        while let Some(item) = self.pop() {
            if catch_unwind(AssertUnwindSafe(|| drop(item))).is_err() {
                tracing::error!("a message panicked when dropped unhandled");
            }
        }
    }
}

/// One side's counters, on a cache line of their own: producers and the consumer are often on two cores.
#[derive(Default)]
#[repr(align(64))]
struct Tally {
    messages: AtomicU64,
    packets: AtomicU64,
}

impl Tally {
    fn add(&self, messages: u64, packets: u64) {
        self.messages.fetch_add(messages, Ordering::Relaxed);
        self.packets.fetch_add(packets, Ordering::Relaxed);
    }
}

/// What an incarnation is asked to do, in rising urgency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Signal {
    /// Finish the message at hand, clean up and end.
    Stop = 1,
    /// End without cleaning up, as in a crash.
    Kill = 2,
}

/// What the handles of one generation share with its incarnation.
pub(crate) struct Shared<D> {
    pub(crate) name: Arc<str>,
    pub(crate) generation: Generation,
    /// Wakes the incarnation's task, for whatever reason.
    pub(crate) waker: AtomicWaker,
    queue: Queue<D>,
    signal: AtomicU8,
    idle: AtomicBool,
    /// Whether it waits for its turn among those that may.
    waits: AtomicBool,
    enqueued: Tally,
    dequeued: Tally,
}

impl<D: Packets> Rouse for Shared<D> {
    fn rouse(&self) {
        self.waits.store(false, Ordering::SeqCst);
        self.wake_if_idle();
    }
}

impl<D: Packets> Shared<D> {
    pub(crate) fn new(name: Arc<str>, generation: Generation, data_len_max: Option<usize>) -> Self {
        Self {
            name,
            generation,
            waker: AtomicWaker::new(),
            queue: Queue::new(data_len_max),
            signal: AtomicU8::new(0),
            idle: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            enqueued: Tally::default(),
            dequeued: Tally::default(),
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.signal.fetch_max(signal as u8, Ordering::SeqCst);
        self.waker.wake();
    }

    pub(crate) fn signalled(&self) -> Option<Signal> {
        match self.signal.load(Ordering::SeqCst) {
            0 => None,
            1 => Some(Signal::Stop),
            _ => Some(Signal::Kill),
        }
    }

    fn enqueue(&self, message: D) -> Result<(), (D, Refusal)> {
        let packets = message.packet_count() as u64;
        self.queue.push(message)?;
        self.enqueued.add(1, packets);
        Ok(())
    }

    fn push(&self, message: D) -> Result<(), (D, Refusal)> {
        self.enqueue(message)?;
        self.wake_if_idle();
        Ok(())
    }

    fn push_background(self: &Arc<Self>, message: D) -> Result<(), (D, Refusal)> {
        self.enqueue(message)?;
        if self.idle.load(Ordering::SeqCst) && !self.waits.swap(true, Ordering::SeqCst) {
            rouse_later(Arc::clone(self) as Arc<dyn Rouse>);
        }
        Ok(())
    }

    fn wake_if_idle(&self) {
        if self.idle.load(Ordering::SeqCst) && self.idle.swap(false, Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    pub(crate) fn pop(&self) -> Option<D> {
        self.queue.pop()
    }

    pub(crate) fn count_dequeued(&self, messages: u64, packets: u64) {
        self.dequeued.add(messages, packets);
    }

    /// Producers need not wake the incarnation: it runs.
    pub(crate) fn mark_busy(&self) {
        if self.idle.load(Ordering::Relaxed) {
            self.idle.store(false, Ordering::SeqCst);
        }
    }

    /// Marks the incarnation idle; `false` when a message came in meanwhile. The waker must be
    /// registered already.
    pub(crate) fn mark_idle(&self) -> bool {
        self.idle.store(true, Ordering::SeqCst);
        self.queue.rx.is_empty()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }

    /// Ends the generation: no more pushes, and what waits is dropped.
    pub(crate) fn close(&self) {
        self.queue.close();
    }

    fn counters(&self) -> DataCounters {
        // Dequeued first, so that a concurrent pass does not show more out than in.
        let messages_dequeued = self.dequeued.messages.load(Ordering::Acquire);
        let packets_dequeued = self.dequeued.packets.load(Ordering::Acquire);
        DataCounters {
            messages_enqueued: self.enqueued.messages.load(Ordering::Relaxed),
            packets_enqueued: self.enqueued.packets.load(Ordering::Relaxed),
            messages_dequeued,
            packets_dequeued,
        }
    }
}

/// A control message on its way through actix.
pub(crate) struct ControlMessage<C>(pub(crate) C);

impl<C: Send + 'static> actix::Message for ControlMessage<C> {
    type Result = ();
}

/// The sending side of both mailboxes of one generation of an actor. Cloning allocates: clone when wiring,
/// not per message.
pub struct Handle<C: Send + 'static, D> {
    pub(crate) control: Recipient<ControlMessage<C>>,
    pub(crate) control_len_max: usize,
    pub(crate) shared: Arc<Shared<D>>,
}

impl<C: Send + 'static, D> Clone for Handle<C, D> {
    fn clone(&self) -> Self {
        Self {
            control: self.control.clone(),
            control_len_max: self.control_len_max,
            shared: Arc::clone(&self.shared),
        }
    }
}

impl<C: Send + 'static, D: Packets> fmt::Debug for Handle<C, D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({} generation {})", self.name(), self.generation().0)
    }
}

impl<C: Send + 'static, D: Packets> Handle<C, D> {
    /// The actor's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    /// The generation this handle leads to; it never leads to another.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.shared.generation
    }

    /// Whether this generation still takes messages.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.shared.is_closed()
    }

    /// Sends a control message.
    ///
    /// # Errors
    /// The message, when the mailbox holds its bound (every handle may exceed it by one) or this
    /// generation has ended.
    pub fn send(&self, message: C) -> Result<(), Undelivered<C>> {
        if !self.is_alive() {
            return Err(self.undelivered(message, Refusal::Closed));
        }
        self.control.try_send(ControlMessage(message)).map_err(|error| match error {
            actix::prelude::SendError::Full(ControlMessage(message)) => {
                self.undelivered(message, Refusal::Full { mailbox_len_max: self.control_len_max })
            }
            actix::prelude::SendError::Closed(ControlMessage(message)) => {
                self.undelivered(message, Refusal::Closed)
            }
        })
    }

    /// Enqueues a data message. Never blocks.
    ///
    /// # Errors
    /// The message, when this generation has ended or a configured bound is reached.
    pub fn push(&self, message: D) -> Result<(), Undelivered<D>> {
        self.shared.push(message).map_err(|(message, refusal)| self.undelivered(message, refusal))
    }

    /// Enqueues a data message nobody waits for: if the actor is idle, it takes its turn when this arbiter has nothing else
    /// to do. Messages stay in the order they were pushed in, either way.
    ///
    /// # Errors
    /// As for [`push`](Self::push).
    pub fn push_background(&self, message: D) -> Result<(), Undelivered<D>> {
        self.shared.push_background(message).map_err(|(message, refusal)| self.undelivered(message, refusal))
    }

    /// The counters of the data mailbox.
    #[must_use]
    pub fn data_counters(&self) -> DataCounters {
        self.shared.counters()
    }

    /// Has the actor take a turn although no message waits (a source whose input has become ready).
    pub fn wake(&self) {
        self.shared.waker.wake();
    }

    /// Asks the actor to end normally. Under a supervisor its restart rule applies.
    pub fn stop(&self) {
        self.shared.signal(Signal::Stop);
    }

    fn undelivered<M>(&self, message: M, refusal: Refusal) -> Undelivered<M> {
        Undelivered { message, actor: Arc::clone(self.name()), generation: self.generation(), refusal }
    }
}

/// Where the handle of a supervised actor's present generation is found. Clones show the same place;
/// it outlives the actor, its supervisor and every generation.
pub struct Address<C: Send + 'static, D>(Arc<Mutex<Option<Handle<C, D>>>>);

impl<C: Send + 'static, D> Clone for Address<C, D> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: Send + 'static, D> Default for Address<C, D> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<C: Send + 'static, D> Address<C, D> {
    /// The handle of the newest generation, which may have ended; `None` before the first.
    #[must_use]
    pub fn current(&self) -> Option<Handle<C, D>> {
        self.0.lock().clone()
    }

    pub(crate) fn set(&self, handle: Handle<C, D>) {
        *self.0.lock() = Some(handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Counted(Arc<()>);

    impl Packets for Counted {
        fn packet_count(&self) -> usize {
            32
        }
    }

    #[test]
    fn closing_a_queue_drops_what_waits_though_producers_remain() {
        let shared = Arc::new(Shared::new("nat".into(), Generation(0), None));
        let token = Arc::new(());
        for _ in 0..3 {
            assert!(shared.push(Counted(Arc::clone(&token))).is_ok());
        }
        assert_eq!(Arc::strong_count(&token), 4);
        assert_eq!(shared.counters().depth_packets(), 96);
        shared.close();
        assert_eq!(Arc::strong_count(&token), 1);
        let refused = shared.push(Counted(Arc::clone(&token)));
        assert!(matches!(refused, Err((_, Refusal::Closed))));
    }

    #[test]
    fn a_push_that_races_with_the_close_is_not_retained() {
        for _ in 0..50 {
            let queue = Arc::new(Queue::new(None));
            let token = Arc::new(());
            let producer = std::thread::spawn({
                let (queue, token) = (Arc::clone(&queue), Arc::clone(&token));
                move || while queue.push(Arc::clone(&token)).is_ok() {}
            });
            while queue.rx.is_empty() {
                std::thread::yield_now();
            }
            queue.close();
            assert!(producer.join().is_ok());
            assert_eq!(Arc::strong_count(&token), 1);
        }
    }

    #[test]
    fn a_bounded_data_mailbox_gives_the_message_back_with_its_limit() {
        let shared = Arc::new(Shared::new("nat".into(), Generation(0), Some(1)));
        let token = Arc::new(());
        assert!(shared.push(Counted(Arc::clone(&token))).is_ok());
        match shared.push(Counted(Arc::clone(&token))) {
            Err((message, refusal)) => {
                assert!(Arc::ptr_eq(&message.0, &token));
                assert_eq!(refusal, Refusal::Full { mailbox_len_max: 1 });
            }
            Ok(()) => panic!("a second message went into a mailbox of one"),
        }
        assert_eq!(shared.counters().messages_enqueued, 1);
    }

    #[test]
    fn an_idle_mark_is_refused_while_a_message_waits() {
        let shared = Arc::new(Shared::new("nat".into(), Generation(0), None));
        assert!(shared.mark_idle());
        assert!(shared.push(Counted(Arc::new(()))).is_ok());
        assert!(!shared.mark_idle());
    }
}
