//! Supervision trees in OTP's sense, over actors on any number of arbiters.
//!
//! A [`Supervisor`] starts the children of its [`SupervisorSpec`] in order, watches them, restarts them
//! as their rules and its strategy say, and gives up when that happens too often: it stops its children
//! in reverse order and ends, which its parent sees as the failure of a child. What to do is decided in
//! [`policy`]; this module carries it out. A supervisor is a task on its home arbiter; its children may
//! live on others.
//!
//! Lifecycle of a child: its mailboxes are made and its [`Address`](crate::mailbox::Address) leads to
//! them; the factory runs on the child's arbiter with the new generation; `started` returns
//! (`ChildStarted`); ...; it panics, is killed, fails or stops; its actor and both mailboxes are dropped;
//! the supervisor hears of it (`ChildFailed` or `ChildStopped`); the rule applies.
//!
//! Guarantees:
//! * A child is always built anew by its factory, with a higher generation, and only after everything
//!   of the generation before has been dropped. Its mailboxes are new and empty.
//! * A panic anywhere in a child, its factory included, reaches its supervisor and nobody else.
//! * With rest_for_one and one_for_all all old children are gone before the first new one is built.
//! * Every end is published in the [`Tree`] with the time it happened, and every restart with the time
//!   from that end to the return of `started`.
//!
//! Not guaranteed:
//! * Messages in a mailbox when its generation ends are lost; so is what others send to an old handle,
//!   which tells them so.
//! * A child whose handler never returns can be neither stopped nor killed; supervisors wait for it.
//! * An arbiter that is stopped drops supervisors and children on it without cleaning up; children
//!   elsewhere of a supervisor lost that way are killed.

pub mod policy;
mod spec;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chc_api::Generation;
use parking_lot::Mutex;

pub use self::policy::{Intensity, Restart, Shutdown, Strategy};
pub use self::spec::{ChildSpec, SpecError, SupervisorSpec};

use self::policy::{Action, Closing, Input, Policy};
use self::spec::{Launch, Lever, check_name};
use crate::actor::{Cause, Life, Watch};
use crate::arbiter::Arbiter;
use crate::mailbox::Signal;

/// What a supervisor did or saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When it happened (not when the supervisor got to it).
    pub at: Instant,
    /// Path of the supervisor in its tree, such as `chain/nat`.
    pub supervisor: Arc<str>,
    /// The child's name.
    pub child: Arc<str>,
    /// The child's generation.
    pub generation: Generation,
    /// What happened.
    pub kind: EventKind,
}

/// The kinds of [`Event`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// `started` has returned; of a supervisor: all its children have started.
    ChildStarted,
    /// As `ChildStarted`, which comes first, for a child that has been up before.
    ChildRestarted {
        /// From the end of the generation before.
        down_for: Duration,
    },
    /// It ended as its supervisor or its rule meant it to.
    ChildStopped,
    /// It ended and should not have.
    ChildFailed(Cause),
    /// The supervisor gives up on this failure of the child and ends.
    Escalated(Cause),
}

/// How a supervisor ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// On request, all children stopped in reverse order.
    Shutdown,
    /// On request, all children killed.
    Killed,
    /// It gave up.
    Escalated {
        /// The child that failed once too often.
        child: Arc<str>,
        /// Its last failure.
        cause: Cause,
    },
    /// Its arbiter stopped.
    Lost,
}

impl Ending {
    /// What the parent of such a supervisor sees.
    fn into_cause(self) -> Cause {
        match self {
            Self::Shutdown => Cause::Stopped,
            Self::Killed => Cause::Killed,
            Self::Escalated { child, cause } => {
                Cause::Failed(format!("gave up on child {child}, which {cause}"))
            }
            Self::Lost => Cause::Failed("its arbiter has stopped".to_owned()),
        }
    }
}

/// What the supervisors of one tree share: who listens, which generations were given out, who is there.
#[derive(Clone, Default)]
pub struct Tree(Arc<TreeInner>);

#[derive(Default)]
struct TreeInner {
    subscribers: Mutex<Vec<flume::Sender<Event>>>,
    /// The generation a child gets next, by path: it outlives a supervisor that is rebuilt.
    next_generations: Mutex<HashMap<Arc<str>, Generation>>,
    supervisors: Mutex<HashMap<Arc<str>, Supervisor>>,
}

impl Tree {
    /// Receives every event of the tree from now on, until it is dropped.
    #[must_use]
    pub fn subscribe(&self) -> flume::Receiver<Event> {
        let (tx, rx) = flume::unbounded();
        self.0.subscribers.lock().push(tx);
        rx
    }

    /// The supervisor at a path such as `chain/nat`, while it runs.
    #[must_use]
    pub fn supervisor(&self, path: &str) -> Option<Supervisor> {
        self.0.supervisors.lock().get(path).cloned()
    }

    fn publish(&self, event: &Event) {
        self.0.subscribers.lock().retain(|subscriber| subscriber.send(event.clone()).is_ok());
    }

    fn next_generation(&self, path: &str, first: Generation) -> Generation {
        self.0.next_generations.lock().get(path).copied().unwrap_or_default().max(first)
    }
}

enum Message {
    Life { child: usize, generation: Generation, life: Life, at: Instant },
    Kill(usize),
    Add(ChildSpec),
    Remove(usize),
    Shutdown,
    KillAll,
}

/// Handle to a supervisor. Clones lead to the same one. All requests return at once; what comes of them is
/// seen in the tree's events.
#[derive(Clone)]
pub struct Supervisor(Arc<Inner>);

struct Inner {
    path: Arc<str>,
    tree: Tree,
    messages: flume::Sender<Message>,
    /// Name by child number; `None` once removed.
    names: Mutex<Vec<Option<Arc<str>>>>,
    ending: Mutex<EndState>,
}

#[derive(Default)]
struct EndState {
    ending: Option<Ending>,
    waiting: Vec<flume::Sender<Ending>>,
}

impl Supervisor {
    /// Starts the root of a tree on `home`.
    ///
    /// # Errors
    /// What is wrong with the names in the specification. A `home` that has stopped is seen as
    /// [`Ending::Lost`].
    pub fn start(home: &Arbiter, spec: SupervisorSpec, tree: &Tree) -> Result<Self, SpecError> {
        let path: Arc<str> = spec.name.as_str().into();
        check_name(&path, &path)?;
        spec.check(&path)?;
        let (supervisor, inbox) = Self::new(path, tree.clone());
        let task = Task::new(supervisor.clone(), spec, inbox, None);
        // A refusal has dropped the task, which reports.
        let _ = home.execute(move || task.spawn());
        Ok(supervisor)
    }

    fn new(path: Arc<str>, tree: Tree) -> (Self, flume::Receiver<Message>) {
        let (messages, inbox) = flume::unbounded();
        let inner = Inner { path, tree, messages, names: Mutex::default(), ending: Mutex::default() };
        (Self(Arc::new(inner)), inbox)
    }

    /// Its path in the tree.
    #[must_use]
    pub fn path(&self) -> &Arc<str> {
        &self.0.path
    }

    /// Crashes a child: it is dropped without cleaning up, and its restart rule applies.
    ///
    /// # Errors
    /// No child of that name, or the supervisor has ended.
    pub fn kill(&self, child: &str) -> Result<(), SpecError> {
        let child = self.find(child)?;
        self.send(Message::Kill(child))
    }

    /// Adds a child after the others and starts it.
    ///
    /// # Errors
    /// A name that is bad or taken, or the supervisor has ended.
    pub fn add_child(&self, spec: ChildSpec) -> Result<(), SpecError> {
        check_name(self.path(), &spec.name)?;
        // Held while sending: children are numbered in the order of the messages.
        let mut names = self.0.names.lock();
        if names.iter().flatten().any(|name| *name == spec.name) {
            return Err(SpecError::DuplicateName { supervisor: Arc::clone(self.path()), name: spec.name });
        }
        let name = Arc::clone(&spec.name);
        self.send(Message::Add(spec))?;
        names.push(Some(name));
        Ok(())
    }

    /// Stops a child and forgets it; its name is free at once.
    ///
    /// # Errors
    /// No child of that name, or the supervisor has ended.
    pub fn remove_child(&self, child: &str) -> Result<(), SpecError> {
        let child = self.find(child)?;
        self.send(Message::Remove(child))?;
        self.0.names.lock()[child] = None;
        Ok(())
    }

    /// Stops all children in reverse order, each after the one before is gone, and ends. Nothing happens
    /// when it has ended already.
    pub fn shutdown(&self) {
        self.signal(Signal::Stop);
    }

    /// Receives how it ended, at once if it has.
    #[must_use]
    pub fn ended(&self) -> flume::Receiver<Ending> {
        let (tx, rx) = flume::bounded(1);
        let mut state = self.0.ending.lock();
        match &state.ending {
            Some(ending) => {
                // The receiver is in hand and empty.
                let _ = tx.send(ending.clone());
            }
            None => state.waiting.push(tx),
        }
        rx
    }

    fn signal(&self, signal: Signal) {
        let message = match signal {
            Signal::Stop => Message::Shutdown,
            Signal::Kill => Message::KillAll,
        };
        // Refused only when it has ended, which is what was asked for.
        let _ = self.send(message);
    }

    fn find(&self, child: &str) -> Result<usize, SpecError> {
        let names = self.0.names.lock();
        names
            .iter()
            .position(|name| name.as_deref() == Some(child))
            .ok_or_else(|| SpecError::NoSuchChild { supervisor: Arc::clone(self.path()), name: child.into() })
    }

    fn send(&self, message: Message) -> Result<(), SpecError> {
        let ended = || SpecError::Ended { supervisor: Arc::clone(self.path()) };
        self.0.messages.send(message).map_err(|_| ended())
    }

    fn conclude(&self, ending: &Ending) {
        self.0.tree.0.supervisors.lock().remove(self.path());
        let mut state = self.0.ending.lock();
        state.ending = Some(ending.clone());
        for waiting in state.waiting.drain(..) {
            // Who asked may have lost interest.
            let _ = waiting.send(ending.clone());
        }
    }
}

struct Child {
    spec: ChildSpec,
    path: Arc<str>,
    /// `None` before the first start.
    lever: Option<Lever>,
    /// Which generation ended last, when and why.
    last_end: Option<(Generation, Instant, Cause)>,
}

/// A running supervisor. Dropped early, it kills its children and reports.
struct Task {
    supervisor: Supervisor,
    /// `None` once it has ended, so that senders are told.
    inbox: Option<flume::Receiver<Message>>,
    policy: Policy,
    children: Vec<Child>,
    epoch: Instant,
    watch: Option<Watch>,
    /// The failure it gives up on.
    escalation: Option<Ending>,
}

impl Task {
    /// The supervisor can be found and reached from here on.
    fn new(
        supervisor: Supervisor,
        spec: SupervisorSpec,
        inbox: flume::Receiver<Message>,
        watch: Option<Watch>,
    ) -> Self {
        *supervisor.0.names.lock() =
            spec.children.iter().map(|child| Some(Arc::clone(&child.name))).collect();
        supervisor.0.tree.0.supervisors.lock().insert(Arc::clone(supervisor.path()), supervisor.clone());
        let children: Vec<Child> =
            spec.children.into_iter().map(|child| Child::new(&supervisor, child)).collect();
        let policy = Policy::new(spec.strategy, spec.intensity, children.iter().map(|child| child.spec.rule));
        let epoch = Instant::now();
        Self { supervisor, inbox: Some(inbox), policy, children, epoch, watch, escalation: None }
    }

    /// Runs it on the current arbiter.
    fn spawn(mut self) {
        actix_rt::spawn(async move {
            self.feed(Input::Begin);
            while let Some(inbox) = &self.inbox {
                // The task holds a sender: this cannot fail.
                let Ok(message) = inbox.recv_async().await else { break };
                self.on_message(message);
            }
        });
    }

    fn on_message(&mut self, message: Message) {
        match message {
            Message::Life { child, generation, life: Life::Started, at } => {
                self.on_started(child, generation, at);
            }
            Message::Life { child, generation, life: Life::Ended(cause), at } => {
                self.on_ended(child, generation, cause, at);
            }
            Message::Kill(child) => self.feed(Input::Kill { child }),
            Message::Add(spec) => {
                let child = Child::new(&self.supervisor, spec);
                let rule = child.spec.rule;
                self.children.push(child);
                self.feed(Input::Add(rule));
            }
            Message::Remove(child) => self.feed(Input::Remove { child }),
            Message::Shutdown => self.feed(Input::Shutdown),
            Message::KillAll => self.feed(Input::KillAll),
        }
    }

    fn on_started(&mut self, child: usize, generation: Generation, at: Instant) {
        self.publish(child, generation, at, EventKind::ChildStarted);
        if let Some((_, ended, _)) = &self.children[child].last_end {
            let down_for = at.saturating_duration_since(*ended);
            self.publish(child, generation, at, EventKind::ChildRestarted { down_for });
        }
        self.feed(Input::Started { child, generation });
    }

    fn on_ended(&mut self, child: usize, generation: Generation, cause: Cause, at: Instant) {
        let rule = self.children[child].spec.rule;
        let was_meant = self.policy.is_stopping(child) && matches!(cause, Cause::Stopped | Cause::Killed);
        let by_its_rule = cause == Cause::Stopped && rule.restart != Restart::Permanent;
        let abnormal = cause.is_abnormal();
        let kind = if was_meant || by_its_rule {
            EventKind::ChildStopped
        } else {
            tracing::warn!(supervisor = %self.supervisor.path(), child = %self.children[child].spec.name,
                generation = generation.0, %cause, "child failed");
            EventKind::ChildFailed(cause.clone())
        };
        self.publish(child, generation, at, kind);
        self.children[child].last_end = Some((generation, at, cause));
        self.feed(Input::Ended { child, generation, abnormal });
    }

    fn feed(&mut self, input: Input) {
        let mut actions = Vec::new();
        let outcome = self.policy.on_input(self.epoch.elapsed(), input, &mut actions);
        tracing::debug!(supervisor = %self.supervisor.path(), ?input, ?outcome, ?actions);
        for action in actions {
            self.execute(action);
        }
    }

    fn execute(&mut self, action: Action) {
        match action {
            Action::Start { child, generation } => self.launch(child, generation),
            Action::Stop { child, .. } => self.pull(child, Signal::Stop),
            Action::Kill { child, .. } => self.pull(child, Signal::Kill),
            Action::Ready => {
                if let Some(watch) = &self.watch {
                    watch(Life::Started);
                }
            }
            Action::Escalate { child } => {
                if let Some((generation, at, cause)) = self.children[child].last_end.clone() {
                    let name = Arc::clone(&self.children[child].spec.name);
                    self.publish(child, generation, at, EventKind::Escalated(cause.clone()));
                    self.escalation = Some(Ending::Escalated { child: name, cause });
                }
            }
            Action::End(closing) => {
                let ending = match closing {
                    Closing::Shutdown => Ending::Shutdown,
                    Closing::Killed => Ending::Killed,
                    Closing::Escalated => self.escalation.take().unwrap_or(Ending::Lost),
                };
                self.finish(ending);
            }
        }
    }

    fn launch(&mut self, number: usize, generation: Generation) {
        let tree = &self.supervisor.0.tree;
        let messages = self.supervisor.0.messages.clone();
        let watch: Watch = Arc::new(move |life| {
            // Refused when the supervisor is gone: then there is nobody to tell.
            let _ = messages.send(Message::Life { child: number, generation, life, at: Instant::now() });
        });
        let child = &mut self.children[number];
        tree.0.next_generations.lock().insert(Arc::clone(&child.path), generation.next());
        let path = Arc::clone(&child.path);
        child.lever = Some((child.spec.launch)(Launch { tree, path, generation, watch }));
    }

    fn pull(&self, child: usize, signal: Signal) {
        if let Some(lever) = &self.children[child].lever {
            lever(signal);
        }
    }

    fn publish(&self, child: usize, generation: Generation, at: Instant, kind: EventKind) {
        let supervisor = Arc::clone(self.supervisor.path());
        let child = Arc::clone(&self.children[child].spec.name);
        self.supervisor.0.tree.publish(&Event { at, supervisor, child, generation, kind });
    }

    fn finish(&mut self, ending: Ending) {
        self.inbox = None;
        self.children.clear();
        self.supervisor.conclude(&ending);
        if let Some(watch) = self.watch.take() {
            watch(Life::Ended(ending.into_cause()));
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if self.inbox.is_some() {
            for child in (0..self.children.len()).rev() {
                self.pull(child, Signal::Kill);
            }
            self.finish(Ending::Lost);
        }
    }
}

impl Child {
    fn new(supervisor: &Supervisor, mut spec: ChildSpec) -> Self {
        let path: Arc<str> = format!("{}/{}", supervisor.path(), spec.name).into();
        spec.rule.first_generation = supervisor.0.tree.next_generation(&path, spec.rule.first_generation);
        Self { spec, path, lever: None, last_end: None }
    }
}
