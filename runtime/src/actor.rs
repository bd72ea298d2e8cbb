//! Actors: what runs on an arbiter, and one incarnation of it from birth to end.
//!
//! ```text
//!  factory ── started ──► turn ◄────────────┐
//!                          │ control, all of it     (actix)
//!                          │ data, up to the budget (flume)
//!                          │ poll_work, while it is a source
//!                          │ on_deadline, if due
//!                          │ drained, if any of these did something
//!                          └── again at once (more to do), or idle until a message,
//!                              the deadline or a wake ──┘
//!  stop: stopped, drop.   panic or kill: drop.   Then, and only then, the end is reported.
//! ```
//!
//! Guarantees:
//! * Everything of one actor runs on one thread, one call at a time. The factory runs there too, so the
//!   actor need not be `Send`.
//! * Data is handled in the order it was pushed. Control waits for one turn at most, whatever the depth of
//!   the data mailbox.
//! * A panic in the factory, a handler, `stopped` or the actor's `Drop` ends that incarnation and nothing
//!   else. Its end is reported after its memory is gone.
//!
//! Not guaranteed:
//! * A message accepted by a mailbox may never be handled: it dies with the generation.
//! * Control is not bounded per turn: an actor flooded with control does not get to its data.
//! * A panic inside a `Drop` that runs because of a panic aborts the process; Rust offers no way out.
//! * A handler that does not return cannot be stopped or killed and holds up its arbiter.

use std::any::Any;
use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use actix::dev::ContextFut;
use actix::dev::channel::{AddressReceiver, channel};
use actix::{ActorContext as _, ActorFuture, AsyncContext as _};
use actix_rt::time::{Sleep, sleep_until};
use chc_api::Generation;

use crate::arbiter::Arbiter;
use crate::background::{count_turn, turns};
use crate::mailbox::{ControlMessage, Handle, Packets, Shared, Signal};

/// How often a source lets all other actors that have something to do go first, while there are always some: while a burst goes
/// through a chain, the source is told of those before it.
const PATIENCE: u32 = 8;

/// What a call of [`Actor::poll_work`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Work was done and there may be more: call again next turn.
    Worked,
    /// A burst was sent on and there may be more: call again when the other actors of this arbiter have nothing left to do,
    /// or have gone first a few times. So a burst goes through the chain while the caches have it.
    Fed,
    /// Nothing to do now: call again after the next message, deadline or wake; of an actor that never parks
    /// ([`busy_poll`](ActorOptions::busy_poll)) as after `Fed`.
    Idle,
    /// There will never be more (an actor that is not a source says so at once).
    Done,
}

/// A single-threaded participant of the chain.
pub trait Actor: Sized + 'static {
    /// Control messages.
    type Control: Send + 'static;
    /// Data messages: whole bursts, since one message per packet costs more than its processing.
    type Data: Packets;

    /// The first call, before any message.
    fn started(&mut self, _cx: &mut Cx) {}

    /// A control message.
    fn on_control(&mut self, message: Self::Control, cx: &mut Cx);

    /// A data message.
    fn on_data(&mut self, message: Self::Data, cx: &mut Cx);

    /// Work that no message asks for. Called every turn until it says [`Progress::Done`]; a source does one
    /// burst and returns.
    fn poll_work(&mut self, _cx: &mut Cx) -> Progress {
        Progress::Done
    }

    /// When [`on_deadline`](Self::on_deadline) is to be called; asked after every turn. Timers of an idle
    /// arbiter have a resolution of 1 ms.
    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    /// The deadline has passed. It must be moved, or the actor spins.
    fn on_deadline(&mut self, _now: Instant, _cx: &mut Cx) {}

    /// The end of a turn in which something was handled: flush outputs here, once for all of them.
    fn drained(&mut self, _cx: &mut Cx) {}

    /// The last call of a normal end; not made after a panic or a kill.
    fn stopped(&mut self, _cx: &mut Cx) {}
}

/// What an actor can do to itself from within a call.
#[derive(Debug)]
pub struct Cx {
    name: Arc<str>,
    generation: Generation,
    end: Option<Cause>,
}

impl Cx {
    /// A context outside any arbiter, to call an actor's methods directly.
    #[must_use]
    pub fn detached(name: &str, generation: Generation) -> Self {
        Self { name: name.into(), generation, end: None }
    }

    /// The actor's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// The actor's generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Ends the actor normally after this call (and `drained`, if the turn handled something).
    pub fn stop(&mut self) {
        self.end.get_or_insert(Cause::Stopped);
    }

    /// Ends the actor as [`stop`](Self::stop) does, but as a failure: for defects it has found itself.
    pub fn fail(&mut self, reason: impl Into<String>) {
        self.end = Some(Cause::Failed(reason.into()));
    }

    /// Whether one of the two was called.
    #[must_use]
    pub fn is_ending(&self) -> bool {
        self.end.is_some()
    }
}

/// Why an incarnation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It stopped, by itself or because it was asked to.
    Stopped,
    /// It was killed on demand.
    Killed,
    /// It panicked; the panic's message.
    Panic(String),
    /// It gave up, or its arbiter or supervisor went away; the reason.
    Failed(String),
}

impl Cause {
    /// Whether a transient child is restarted after it.
    #[must_use]
    pub fn is_abnormal(&self) -> bool {
        *self != Self::Stopped
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Stopped => write!(f, "stopped"),
            Self::Killed => write!(f, "killed"),
            Self::Panic(message) => write!(f, "panicked: {message}"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

/// Sizes of one actor's mailboxes and turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ActorOptions {
    /// Data messages handled per turn, at least 1: how long control and the arbiter's other actors wait.
    pub data_budget: usize,
    /// Control messages that may wait (and one more per handle).
    pub control_len_max: usize,
    /// Data messages that may wait; `None` where the roots' window is the bound.
    pub data_len_max: Option<usize>,
    /// Take turns without ever parking. Only for an arbiter pinned to a core nobody else needs.
    pub busy_poll: bool,
}

impl Default for ActorOptions {
    fn default() -> Self {
        Self { data_budget: 16, control_len_max: 65_536, data_len_max: None, busy_poll: false }
    }
}

/// What a factory is given to build an incarnation from.
pub struct Birth<C: Send + 'static, D> {
    /// The actor's name.
    pub name: Arc<str>,
    /// Higher than that of any incarnation before.
    pub generation: Generation,
    /// The incarnation's own mailboxes, new and empty.
    pub handle: Handle<C, D>,
}

/// News about an incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// [`Actor::started`] has returned.
    Started,
    /// It is gone, memory included.
    Ended(Cause),
}

/// Who is told. Called on the arbiter's thread, or where the spawn was refused; must not panic.
pub(crate) type Watch = Arc<dyn Fn(Life) + Send + Sync>;

/// Starts an actor nobody supervises. Its end is sent to the receiver returned.
pub fn spawn_unsupervised<A: Actor>(
    arbiter: &Arbiter,
    name: &str,
    options: ActorOptions,
    factory: impl FnOnce(Birth<A::Control, A::Data>) -> A + Send + 'static,
) -> (Handle<A::Control, A::Data>, flume::Receiver<Cause>) {
    let (tx, rx) = flume::unbounded();
    let watch: Watch = Arc::new(move |life| {
        if let Life::Ended(cause) = life {
            // The receiver may have been dropped: then nobody wants to know.
            let _ = tx.send(cause);
        }
    });
    let embryo = Embryo::<A>::new(name.into(), Generation::default(), options, watch);
    let handle = embryo.handle.clone();
    embryo.spawn(arbiter, factory);
    (handle, rx)
}

/// An incarnation whose mailboxes exist already and whose actor does not.
pub(crate) struct Embryo<A: Actor> {
    pub(crate) handle: Handle<A::Control, A::Data>,
    options: ActorOptions,
    receiver: AddressReceiver<Shell<A>>,
    end: EndReport<A::Data>,
}

impl<A: Actor> Embryo<A> {
    pub(crate) fn new(name: Arc<str>, generation: Generation, options: ActorOptions, watch: Watch) -> Self {
        // To actix 0 means unbounded, and it panics on bounds near the largest integer.
        let control_len_max = options.control_len_max.clamp(1, 1 << 30);
        let (sender, receiver) = channel::<Shell<A>>(control_len_max);
        let shared = Arc::new(Shared::new(name, generation, options.data_len_max));
        let control = actix::Addr::new(sender).recipient();
        let handle = Handle { control, control_len_max, shared: Arc::clone(&shared) };
        Self { handle, options, receiver, end: EndReport { shared, watch: Some(watch) } }
    }

    /// Builds the actor on the arbiter and runs it. If the arbiter has stopped, or stops before, the end
    /// is reported as for an actor that ran.
    pub(crate) fn spawn(
        self,
        arbiter: &Arbiter,
        factory: impl FnOnce(Birth<A::Control, A::Data>) -> A + Send + 'static,
    ) {
        let Self { handle, options, receiver, mut end } = self;
        let work = move || {
            if end.shared.signalled() == Some(Signal::Kill) {
                return end.finish(Cause::Killed);
            }
            let name = Arc::clone(&end.shared.name);
            let generation = end.shared.generation;
            let birth = Birth { name: Arc::clone(&name), generation, handle };
            match catch_unwind(AssertUnwindSafe(|| factory(birth))) {
                Ok(actor) => {
                    let own_end = Rc::new(Cell::new(None));
                    let shell = Shell {
                        actor: Box::new(actor),
                        cx: Cx { name, generation, end: None },
                        shared: Arc::clone(&end.shared),
                        watch: end.watch.clone(),
                        options,
                        own_end: Rc::clone(&own_end),
                        is_source: true,
                        patience: 0,
                        gives_way: false,
                        turns_seen: 0,
                        handled: true,
                    };
                    let context = actix::Context::with_receiver(receiver).into_future(shell);
                    actix_rt::spawn(Incarnation { context: Some(context), own_end, end });
                }
                Err(payload) => {
                    // Before the report: what waits in a mailbox is memory of this generation.
                    let _ = catch_unwind(AssertUnwindSafe(|| drop(receiver)));
                    end.finish(Cause::Panic(panic_message(payload)));
                }
            }
        };
        // A refusal has dropped `end`, which reports.
        let _ = arbiter.execute(work);
    }
}

/// Reports the end of an incarnation exactly once, at the latest when dropped.
struct EndReport<D: Packets> {
    shared: Arc<Shared<D>>,
    /// `None` once the end is reported.
    watch: Option<Watch>,
}

impl<D: Packets> EndReport<D> {
    fn finish(&mut self, cause: Cause) {
        self.shared.close();
        if let Some(watch) = self.watch.take() {
            watch(Life::Ended(cause));
        }
    }
}

impl<D: Packets> Drop for EndReport<D> {
    fn drop(&mut self) {
        self.finish(Cause::Failed("its arbiter has stopped".to_owned()));
    }
}

/// The task that is one incarnation: actix's context, with panics and kills caught around it.
struct Incarnation<A: Actor> {
    context: Option<ContextFut<Shell<A>, actix::Context<Shell<A>>>>,
    /// What the actor itself gave as the cause of its end.
    own_end: Rc<Cell<Option<Cause>>>,
    end: EndReport<A::Data>,
}

impl<A: Actor> Future for Incarnation<A> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let Some(context) = &mut this.context else { return Poll::Ready(()) };
        // Before looking at the signal and the queue, so that no wake is lost.
        this.end.shared.waker.register(task.waker());
        match this.end.shared.signalled() {
            Some(Signal::Kill) => return this.tear_down(Some(Cause::Killed)),
            Some(Signal::Stop) => context.ctx().stop(),
            None => {}
        }
        match catch_unwind(AssertUnwindSafe(|| Pin::new(context).poll(task))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => this.tear_down(None),
            Err(payload) => this.tear_down(Some(Cause::Panic(panic_message(payload)))),
        }
    }
}

impl<A: Actor> Incarnation<A> {
    /// Drops the actor, then reports. Without a cause the actor ended normally or gave its own.
    fn tear_down(&mut self, cause: Option<Cause>) -> Poll<()> {
        // Closed first: actix polls a context that is dropped before its end once more, and the shell
        // must not run anything of the actor then.
        self.end.shared.close();
        let context = self.context.take();
        let dropped = catch_unwind(AssertUnwindSafe(|| drop(context)));
        let cause = match (cause, dropped) {
            (Some(cause), _) => cause,
            (None, Err(payload)) => Cause::Panic(panic_message(payload)),
            (None, Ok(())) => self.own_end.take().unwrap_or(Cause::Stopped),
        };
        self.end.finish(cause);
        Poll::Ready(())
    }
}

impl<A: Actor> Drop for Incarnation<A> {
    fn drop(&mut self) {
        if self.context.is_some() {
            let _ = self.tear_down(Some(Cause::Failed("its arbiter has stopped".to_owned())));
        }
    }
}

/// The text of a panic, as far as it is text.
pub(crate) fn panic_message(payload: Box<dyn Any + Send>) -> String {
    let message = if let Some(text) = payload.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text.clone()
    } else {
        "a payload that is not text".to_owned()
    };
    // A payload may panic when dropped; what that second one carries is leaked rather than dropped.
    if let Err(second) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(second);
    }
    message
}

/// The actix actor around ours.
pub(crate) struct Shell<A: Actor> {
    actor: Box<A>,
    cx: Cx,
    shared: Arc<Shared<A::Data>>,
    watch: Option<Watch>,
    options: ActorOptions,
    own_end: Rc<Cell<Option<Cause>>>,
    is_source: bool,
    /// Whether the source's next turn comes after those of all others that have something to do.
    gives_way: bool,
    /// For how many more turns the source lets others go first.
    patience: u32,
    /// The arbiter's turns at the end of its last one.
    turns_seen: u32,
    /// Something was handled since `drained` was last called.
    handled: bool,
}

impl<A: Actor> actix::Actor for Shell<A> {
    type Context = actix::Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if self.shared.is_closed() {
            return;
        }
        self.actor.started(&mut self.cx);
        if let Some(watch) = self.watch.take() {
            watch(Life::Started);
        }
        if self.cx.is_ending() {
            ctx.stop();
        }
        ctx.spawn(Turns { timer: None });
    }

    fn stopped(&mut self, _: &mut Self::Context) {
        if self.shared.is_closed() {
            return;
        }
        self.actor.stopped(&mut self.cx);
        self.own_end.set(self.cx.end.take());
    }
}

impl<A: Actor> actix::Handler<ControlMessage<A::Control>> for Shell<A> {
    type Result = ();

    fn handle(&mut self, message: ControlMessage<A::Control>, ctx: &mut Self::Context) {
        self.handled = true;
        self.actor.on_control(message.0, &mut self.cx);
        if self.cx.is_ending() {
            self.actor.drained(&mut self.cx);
            ctx.stop();
        }
    }
}

impl<A: Actor> Shell<A> {
    /// One turn; whether there is more to do at once.
    fn turn(&mut self) -> bool {
        if self.cx.is_ending() {
            return false;
        }
        let mut more = self.drain_data();
        self.gives_way = self.lets_others_go_first();
        if self.gives_way {
            more = true;
        } else if self.is_source && !self.cx.is_ending() {
            match self.actor.poll_work(&mut self.cx) {
                progress @ (Progress::Worked | Progress::Fed) => {
                    self.handled = true;
                    self.give_way(progress == Progress::Fed);
                    more = true;
                }
                // Asked between any two stages of a chain, an empty source would hold up the packet that is on its way.
                Progress::Idle => self.give_way(self.options.busy_poll),
                Progress::Done => self.is_source = false,
            }
        }
        if !self.cx.is_ending()
            && let Some(deadline) = self.actor.next_deadline()
        {
            let now = Instant::now();
            if deadline <= now {
                self.handled = true;
                self.actor.on_deadline(now, &mut self.cx);
            }
        }
        if std::mem::take(&mut self.handled) {
            count_turn();
            self.actor.drained(&mut self.cx);
        }
        self.turns_seen = turns();
        more
    }

    /// Has the source let others go first from now on, or not.
    fn give_way(&mut self, gives_way: bool) {
        self.gives_way = gives_way;
        self.patience = if gives_way { PATIENCE } else { 0 };
    }

    /// Whether a source that has sent a burst on, or is asked all the time, waits: others have taken turns since its own
    /// last one.
    fn lets_others_go_first(&mut self) -> bool {
        self.patience = if turns() == self.turns_seen { 0 } else { self.patience.saturating_sub(1) };
        self.patience > 0
    }

    /// Handles data up to the budget; whether it was used up.
    fn drain_data(&mut self) -> bool {
        let budget = self.options.data_budget.max(1);
        let (mut messages, mut packets) = (0, 0);
        while messages < budget && !self.cx.is_ending() {
            let Some(message) = self.shared.pop() else { break };
            messages += 1;
            packets += message.packet_count();
            self.actor.on_data(message, &mut self.cx);
        }
        if messages > 0 {
            self.handled = true;
            self.shared.count_dequeued(messages as u64, packets as u64);
        }
        messages == budget
    }
}

/// Takes turns for as long as the actor lives. actix polls it after the control mailbox.
struct Turns {
    /// The deadline the timer is set to, and the timer.
    timer: Option<(Instant, Pin<Box<Sleep>>)>,
}

impl<A: Actor> ActorFuture<Shell<A>> for Turns {
    type Output = ();

    fn poll(
        mut self: Pin<&mut Self>,
        shell: &mut Shell<A>,
        ctx: &mut actix::Context<Shell<A>>,
        task: &mut Context<'_>,
    ) -> Poll<()> {
        shell.shared.mark_busy();
        let more = shell.turn();
        if shell.cx.is_ending() {
            ctx.stop();
            return Poll::Pending;
        }
        let again = more
            || shell.options.busy_poll
            || self.deadline_passed(shell.actor.next_deadline(), task)
            || !shell.shared.mark_idle();
        if again {
            shell.shared.mark_busy();
            if shell.gives_way {
                // It is woken when the other tasks have been polled, those that other threads have woken included: while there
                // are others, the event loop looks for them now and then only.
                let _ = pin!(tokio::task::yield_now()).poll(task);
            } else {
                task.waker().wake_by_ref();
            }
        }
        Poll::Pending
    }
}

impl Turns {
    /// Sets the timer to the deadline; `true` when that has passed already.
    fn deadline_passed(&mut self, deadline: Option<Instant>, task: &mut Context<'_>) -> bool {
        let Some(deadline) = deadline else {
            self.timer = None;
            return false;
        };
        let (set_to, timer) =
            self.timer.get_or_insert_with(|| (deadline, Box::pin(sleep_until(deadline.into()))));
        if *set_to != deadline {
            *set_to = deadline;
            timer.as_mut().reset(deadline.into());
        }
        timer.as_mut().poll(task).is_ready()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::arbiter::{Arbiters, run_local};
    use crate::mailbox::Refusal;

    const LONG: Duration = Duration::from_secs(20);

    /// What a [`Recorder`] was called with.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Call {
        Control(u32),
        Data(u32),
        Drained,
        Deadline,
        Work,
        Stopped,
    }

    struct Number(u32);

    impl Packets for Number {
        fn packet_count(&self) -> usize {
            self.0 as usize
        }
    }

    /// What it does with a control message.
    enum Order {
        Note(u32),
        WakeAt(Instant),
        Work(u32),
        WaitForWake,
        Stop,
        Panic(&'static str),
    }

    /// Tells every call; does as ordered.
    struct Recorder {
        calls: flume::Sender<Call>,
        own: Handle<Order, Number>,
        deadline: Option<Instant>,
        work_left: u32,
        is_source: bool,
        /// On this data message, send itself this note.
        notes_itself: Option<(u32, u32)>,
        panics_when_dropped: bool,
    }

    impl Recorder {
        fn tell(&self, call: Call) {
            let _ = self.calls.send(call);
        }
    }

    impl Drop for Recorder {
        fn drop(&mut self) {
            if self.panics_when_dropped && !std::thread::panicking() {
                panic!("dropped on purpose");
            }
        }
    }

    impl Actor for Recorder {
        type Control = Order;
        type Data = Number;

        fn on_control(&mut self, order: Order, cx: &mut Cx) {
            match order {
                Order::Note(number) => self.tell(Call::Control(number)),
                Order::WakeAt(at) => self.deadline = Some(at),
                Order::Work(times) => self.work_left = times,
                Order::WaitForWake => {}
                Order::Stop => cx.stop(),
                Order::Panic(text) => panic!("{text}"),
            }
        }

        fn on_data(&mut self, message: Number, _cx: &mut Cx) {
            self.tell(Call::Data(message.0));
            if let Some((_, note)) = self.notes_itself.filter(|(data, _)| *data == message.0) {
                self.own.send(Order::Note(note)).expect("it is alive");
            }
        }

        fn poll_work(&mut self, _cx: &mut Cx) -> Progress {
            if !self.is_source {
                return Progress::Done;
            }
            self.tell(Call::Work);
            if self.work_left == 0 {
                return Progress::Idle;
            }
            self.work_left -= 1;
            if self.work_left == 0 { Progress::Done } else { Progress::Worked }
        }

        fn next_deadline(&self) -> Option<Instant> {
            self.deadline
        }

        fn on_deadline(&mut self, now: Instant, _cx: &mut Cx) {
            assert!(self.deadline.take().is_some_and(|deadline| deadline <= now));
            self.tell(Call::Deadline);
        }

        fn drained(&mut self, _cx: &mut Cx) {
            self.tell(Call::Drained);
        }

        fn stopped(&mut self, _cx: &mut Cx) {
            self.tell(Call::Stopped);
        }
    }

    struct Fixture {
        arbiters: Arbiters,
        handle: Handle<Order, Number>,
        calls: flume::Receiver<Call>,
        ended: flume::Receiver<Cause>,
    }

    impl Fixture {
        fn new(options: ActorOptions, adapt: impl FnOnce(&mut Recorder) + Send + 'static) -> Self {
            let arbiters = Arbiters::start(1, &[]).expect("threads can be started");
            let arbiter = arbiters.get(0).expect("one was started");
            let (tx, calls) = flume::unbounded();
            let (handle, ended) = spawn_unsupervised(arbiter, "recorder", options, move |birth| {
                let mut recorder = Recorder {
                    calls: tx,
                    own: birth.handle,
                    deadline: None,
                    work_left: 0,
                    is_source: false,
                    notes_itself: None,
                    panics_when_dropped: false,
                };
                adapt(&mut recorder);
                recorder
            });
            let fixture = Self { arbiters, handle, calls, ended };
            // The turn that begins it.
            fixture.expect(if fixture.next() == Call::Work { &[Call::Drained] } else { &[] });
            fixture
        }

        fn next(&self) -> Call {
            self.calls.recv_timeout(LONG).expect("a call is made")
        }

        fn expect(&self, calls: &[Call]) {
            for (index, call) in calls.iter().enumerate() {
                assert_eq!(self.next(), *call, "call {index} of {calls:?}");
            }
        }

        /// How many turns pass before depends on the clock.
        fn expect_after_flushes(&self, call: &Call) {
            let calls = std::iter::from_fn(|| Some(self.next()));
            let mut others = calls.skip_while(|call| *call == Call::Drained);
            assert_eq!(others.next().as_ref(), Some(call));
        }

        /// Does something on the arbiter, between two turns.
        fn at_once(&self, work: impl FnOnce(&Handle<Order, Number>) + Send + 'static) {
            let handle = self.handle.clone();
            let arbiter = self.arbiters.get(0).expect("one was started");
            arbiter.execute(move || work(&handle)).expect("it runs");
        }

        fn end(&self) -> Cause {
            self.ended.recv_timeout(LONG).expect("the end is reported")
        }
    }

    fn budget(data_budget: usize) -> ActorOptions {
        ActorOptions { data_budget, ..ActorOptions::default() }
    }

    #[test]
    fn data_is_handled_in_order_and_flushed_once_per_turn() {
        let it = Fixture::new(budget(2), |_| ());
        it.at_once(|handle| (1..=5).for_each(|number| handle.push(Number(number)).expect("it is alive")));
        let (data, drained) = (Call::Data, Call::Drained);
        let turns = [data(1), data(2), drained.clone(), data(3), data(4), drained.clone(), data(5), drained];
        it.expect(&turns);
        let counters = it.handle.data_counters();
        assert_eq!((counters.messages_enqueued, counters.packets_enqueued), (5, 15));
        assert_eq!((counters.depth_messages(), counters.depth_packets()), (0, 0));
    }

    #[test]
    fn control_waits_for_one_budget_of_a_full_data_mailbox() {
        let it = Fixture::new(budget(3), |recorder| recorder.notes_itself = Some((1, 77)));
        it.at_once(|handle| (1..=9).for_each(|number| handle.push(Number(number)).expect("it is alive")));
        it.expect(&[
            Call::Data(1),
            Call::Data(2),
            Call::Data(3),
            Call::Drained,
            Call::Control(77),
            Call::Data(4),
        ]);
    }

    #[test]
    fn a_batch_of_control_messages_is_flushed_once() {
        let it = Fixture::new(ActorOptions::default(), |_| ());
        it.at_once(|handle| {
            (1..=3).for_each(|number| handle.send(Order::Note(number)).expect("it is alive"));
            handle.push(Number(4)).expect("it is alive");
        });
        it.expect(&[Call::Control(1), Call::Control(2), Call::Control(3), Call::Data(4), Call::Drained]);
    }

    #[test]
    fn every_message_from_another_thread_wakes_an_idle_actor() {
        let it = Fixture::new(ActorOptions::default(), |_| ());
        for number in 0..2_000 {
            it.handle.push(Number(number)).expect("it is alive");
            it.expect(&[Call::Data(number), Call::Drained]);
        }
    }

    #[test]
    fn a_source_works_without_messages_until_it_is_done() {
        let it = Fixture::new(ActorOptions::default(), |recorder| {
            recorder.is_source = true;
            recorder.work_left = 0;
        });
        // Idle: asked again after a message, and after a wake.
        it.handle.wake();
        it.expect(&[Call::Work]);
        it.handle.send(Order::WaitForWake).expect("it is alive");
        it.expect(&[Call::Work, Call::Drained]);
        it.handle.send(Order::Work(3)).expect("it is alive");
        it.expect(&[Call::Work, Call::Drained, Call::Work, Call::Drained, Call::Work]);
        // Done: not asked again.
        it.handle.wake();
        it.handle.push(Number(9)).expect("it is alive");
        it.expect(&[Call::Data(9), Call::Drained]);
    }

    #[test]
    fn a_deadline_wakes_an_idle_actor_and_one_in_the_past_fires_at_once() {
        let it = Fixture::new(ActorOptions::default(), |_| ());
        let soon = Instant::now() + Duration::from_millis(3);
        it.handle.send(Order::WakeAt(soon)).expect("it is alive");
        it.expect_after_flushes(&Call::Deadline);
        assert!(Instant::now() >= soon);
        it.expect(&[Call::Drained]);
        it.handle.send(Order::WakeAt(soon)).expect("it is alive");
        it.expect(&[Call::Deadline, Call::Drained]);
    }

    #[test]
    fn a_later_deadline_replaces_an_earlier_one() {
        let it = Fixture::new(ActorOptions::default(), |_| ());
        let now = Instant::now();
        it.handle.send(Order::WakeAt(now + LONG * 10)).expect("it is alive");
        it.expect(&[Call::Drained]);
        it.handle.send(Order::WakeAt(now + Duration::from_millis(2))).expect("it is alive");
        it.expect_after_flushes(&Call::Deadline);
    }

    #[test]
    fn a_stop_flushes_cleans_up_and_leaves_the_rest_unhandled() {
        let it = Fixture::new(ActorOptions::default(), |_| ());
        it.at_once(|handle| {
            handle.send(Order::Stop).expect("it is alive");
            handle.send(Order::Note(1)).expect("it is alive");
            handle.push(Number(2)).expect("it is alive");
        });
        it.expect(&[Call::Drained, Call::Stopped]);
        assert_eq!(it.end(), Cause::Stopped);
        assert_eq!(it.calls.recv_timeout(LONG), Err(flume::RecvTimeoutError::Disconnected));
        assert!(!it.handle.is_alive());
        assert!(it.handle.push(Number(3)).is_err());
    }

    #[test]
    fn a_panic_ends_the_actor_without_cleaning_up_and_carries_its_message() {
        let it = Fixture::new(ActorOptions::default(), |_| ());
        it.handle.send(Order::Panic("slot 7 is torn")).expect("it is alive");
        assert_eq!(it.end(), Cause::Panic("slot 7 is torn".to_owned()));
        assert_eq!(it.calls.recv_timeout(LONG), Err(flume::RecvTimeoutError::Disconnected));
        match it.handle.send(Order::Note(5)) {
            Err(undelivered) => {
                assert_eq!(undelivered.refusal, Refusal::Closed);
                assert!(matches!(undelivered.message, Order::Note(5)));
            }
            Ok(()) => panic!("a dead actor took a message"),
        }
    }

    #[test]
    fn a_panic_in_drop_is_reported_and_the_arbiter_lives_on() {
        let it = Fixture::new(ActorOptions::default(), |recorder| recorder.panics_when_dropped = true);
        it.handle.stop();
        assert_eq!(it.end(), Cause::Panic("dropped on purpose".to_owned()));
        let (tx, rx) = flume::unbounded();
        it.at_once(move |_| tx.send(()).expect("test waits"));
        assert_eq!(rx.recv_timeout(LONG), Ok(()));
    }

    #[test]
    fn a_kill_before_the_first_turn_builds_nothing() {
        let built = run_local("here", None, |arbiter| {
            let (tx, rx) = flume::unbounded();
            let (handle, ended) =
                spawn_unsupervised::<Recorder>(arbiter, "recorder", ActorOptions::default(), move |_| {
                    tx.send(()).expect("test waits");
                    panic!("built");
                });
            handle.shared.signal(Signal::Kill);
            async move { (ended.into_recv_async().await, rx.try_recv().is_ok()) }
        });
        assert_eq!(built.expect("it ran"), (Ok(Cause::Killed), false));
    }

    #[test]
    fn a_full_control_mailbox_gives_the_message_back_with_its_limit() {
        let options = ActorOptions { control_len_max: 4, ..ActorOptions::default() };
        let it = Fixture::new(options, |_| ());
        let (tx, rx) = flume::unbounded();
        it.at_once(move |handle| {
            let refused = (0..10).find_map(|number| handle.send(Order::Note(number)).err());
            tx.send(refused).expect("test waits");
        });
        let undelivered = rx.recv_timeout(LONG).expect("it answers").expect("ten do not fit");
        assert_eq!(undelivered.refusal, Refusal::Full { mailbox_len_max: 4 });
        let Order::Note(accepted) = undelivered.message else { panic!("another message came back") };
        // Those accepted were not lost, and the mailbox takes messages again.
        (0..accepted).for_each(|number| it.expect(&[Call::Control(number)]));
        it.expect(&[Call::Drained]);
        it.handle.send(Order::Note(99)).expect("it has drained");
        it.expect(&[Call::Control(99)]);
    }

    #[test]
    fn an_actor_on_an_arbiter_that_stops_is_reported_as_failed() {
        let it = Fixture::new(ActorOptions::default(), |_| ());
        it.arbiters.get(0).expect("one was started").stop();
        assert_eq!(it.end(), Cause::Failed("its arbiter has stopped".to_owned()));
        assert_eq!(it.calls.recv_timeout(LONG), Err(flume::RecvTimeoutError::Disconnected));
    }

    #[test]
    fn a_chain_of_actors_runs_on_the_current_thread() {
        /// Passes everything on to the next, one higher.
        struct Stage {
            next: Option<Handle<(), Number>>,
            result: flume::Sender<u32>,
        }
        impl Actor for Stage {
            type Control = ();
            type Data = Number;
            fn on_control(&mut self, (): (), _cx: &mut Cx) {}
            fn on_data(&mut self, message: Number, _cx: &mut Cx) {
                match &self.next {
                    Some(next) => next.push(Number(message.0 + 1)).expect("it is alive"),
                    None => self.result.send(message.0).expect("test waits"),
                }
            }
        }
        let result = run_local("chain", None, |arbiter| {
            let (result, rx) = flume::unbounded();
            let mut next = None;
            for stage in ["c", "b", "a"] {
                let (downstream, result) = (next.take(), result.clone());
                let factory = move |_| Stage { next: downstream, result };
                next = Some(spawn_unsupervised(arbiter, stage, ActorOptions::default(), factory).0);
            }
            next.expect("three were spawned").push(Number(1)).expect("it is alive");
            rx.into_recv_async()
        });
        assert_eq!(result.expect("it ran"), Ok(3));
    }
}
