//! Arbiters: OS threads running an actix-rt event loop, shared by many actors.
//!
//! An [`Arbiter`] is a handle that can be sent anywhere; what is executed through it runs on its
//! thread, one thing after another, and a panic there ends that one thing, never the thread.
//! [`Arbiters`] owns threads; [`run_local`] makes the current thread one for a while, so that a whole
//! chain can run on one thread.
//!
//! An arbiter parks when all its actors are idle; waking it costs tens of microseconds. Actors that may not
//! pay that set `busy_poll`, which only makes sense on a pinned core of its own.

use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::thread;

use core_affinity::CoreId;
use futures_util::future::{Either, select};

use crate::background;
use crate::mailbox::Queue;

/// Why an arbiter could not be started or used.
#[derive(Debug, thiserror::Error)]
pub enum ArbiterError {
    /// The configured core is not among those this process may use.
    #[error("arbiter {arbiter}: no core {core}; this process may use {available:?}")]
    NoSuchCore {
        /// The arbiter to be pinned.
        arbiter: Arc<str>,
        /// The core asked for.
        core: usize,
        /// The cores there are.
        available: Vec<usize>,
    },
    /// The operating system refused to pin the thread.
    #[error("arbiter {arbiter}: the operating system refused to pin it to core {core}; leave the pin out")]
    PinRefused {
        /// The arbiter to be pinned.
        arbiter: Arc<str>,
        /// The core asked for.
        core: usize,
    },
    /// The thread or its event loop could not be created.
    #[error("arbiter {arbiter}: could not start: {source}")]
    Start {
        /// The arbiter.
        arbiter: Arc<str>,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The arbiter has stopped.
    #[error("arbiter {arbiter} has stopped; start actors on one that runs")]
    Stopped {
        /// The arbiter.
        arbiter: Arc<str>,
    },
    /// [`run_local`] was called on a thread that is an arbiter already.
    #[error("this thread is an arbiter already; use its handle instead of run_local")]
    Nested,
}

enum Command {
    Run(Box<dyn FnOnce() + Send>),
    Stop,
}

struct Inner {
    name: Arc<str>,
    commands: Queue<Command>,
}

/// Handle to one event-loop thread. Clones lead to the same thread.
#[derive(Clone)]
pub struct Arbiter(Arc<Inner>);

impl Arbiter {
    fn new(name: &str) -> Self {
        Self(Arc::new(Inner { name: name.into(), commands: Queue::new(None) }))
    }

    /// The thread's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// Runs `work` on the arbiter's thread, after what was asked for earlier. When the arbiter stops
    /// before, `work` is dropped without having run.
    ///
    /// # Errors
    /// [`ArbiterError::Stopped`]; `work` has been dropped.
    pub fn execute(&self, work: impl FnOnce() + Send + 'static) -> Result<(), ArbiterError> {
        self.0
            .commands
            .push(Command::Run(Box::new(work)))
            .map_err(|_| ArbiterError::Stopped { arbiter: Arc::clone(&self.0.name) })
    }

    /// Asks the event loop to end. Its actors are dropped without cleaning up: stop the supervision
    /// tree first.
    pub fn stop(&self) {
        // Refused only when it has stopped.
        let _ = self.0.commands.push(Command::Stop);
    }

    async fn serve(&self) {
        while let Some(Command::Run(work)) = self.0.commands.next().await {
            if catch_unwind(AssertUnwindSafe(work)).is_err() {
                tracing::error!(arbiter = %self.0.name, "work handed to the arbiter panicked");
            }
        }
    }
}

thread_local! {
    static IS_ARBITER: Cell<bool> = const { Cell::new(false) };
}

/// Makes the calling thread the arbiter until `main` ends or it is asked to stop (`None`).
fn run<F: Future>(runtime: actix_rt::Runtime, arbiter: &Arbiter, main: F) -> Option<F::Output> {
    IS_ARBITER.set(true);
    background::begin();
    let output = runtime.block_on(async {
        actix_rt::spawn(background::serve());
        match select(pin!(main), pin!(arbiter.serve())).await {
            Either::Left((output, _)) => Some(output),
            Either::Right(((), _)) => None,
        }
    });
    arbiter.0.commands.close();
    background::end();
    // Drops the actors still there, on their own thread.
    drop(runtime);
    IS_ARBITER.set(false);
    output
}

fn prepare(arbiter: &Arbiter, core: Option<usize>) -> Result<actix_rt::Runtime, ArbiterError> {
    if let Some(core) = core {
        pin_current_thread(arbiter.name(), core)?;
    }
    actix_rt::Runtime::new()
        .map_err(|source| ArbiterError::Start { arbiter: Arc::clone(arbiter.name()), source })
}

/// The cores this process may use, as they were before anything here was pinned: asked for later, a
/// pinned thread and all its children see a single one.
#[must_use]
pub fn cores() -> &'static [CoreId] {
    static CORES: OnceLock<Vec<CoreId>> = OnceLock::new();
    CORES.get_or_init(|| core_affinity::get_core_ids().unwrap_or_default())
}

fn pin_current_thread(arbiter: &Arc<str>, core: usize) -> Result<(), ArbiterError> {
    let Some(id) = cores().iter().find(|id| id.id == core) else {
        let available = cores().iter().map(|id| id.id).collect();
        return Err(ArbiterError::NoSuchCore { arbiter: Arc::clone(arbiter), core, available });
    };
    if core_affinity::set_for_current(*id) {
        Ok(())
    } else {
        Err(ArbiterError::PinRefused { arbiter: Arc::clone(arbiter), core })
    }
}

/// Runs `main` with the current thread as arbiter, and everything executed through the handle with it.
/// Returns when `main` is ready; actors still alive then are dropped.
///
/// A pin stays with the thread.
///
/// # Errors
/// As [`ArbiterError`] says; `Stopped` when somebody stopped the arbiter before `main` was ready.
pub fn run_local<F: Future>(
    name: &str,
    core: Option<usize>,
    main: impl FnOnce(&Arbiter) -> F,
) -> Result<F::Output, ArbiterError> {
    if IS_ARBITER.get() {
        return Err(ArbiterError::Nested);
    }
    let _ = cores();
    let arbiter = Arbiter::new(name);
    let runtime = prepare(&arbiter, core)?;
    let main = main(&arbiter);
    run(runtime, &arbiter, main).ok_or(ArbiterError::Stopped { arbiter: Arc::clone(arbiter.name()) })
}

/// Arbiter threads, with what is needed to end them.
pub struct Arbiters {
    threads: Vec<(Arbiter, thread::JoinHandle<()>)>,
}

impl Arbiters {
    /// Starts `count` threads named `arbiter-0`, ...; thread `i` is pinned to core `pins[i]`, those beyond
    /// `pins` are not pinned.
    ///
    /// # Errors
    /// The first failure; the threads started before it are stopped.
    pub fn start(count: usize, pins: &[usize]) -> Result<Self, ArbiterError> {
        let _ = cores();
        let mut arbiters = Self { threads: Vec::with_capacity(count) };
        for index in 0..count {
            arbiters.start_one(&format!("arbiter-{index}"), pins.get(index).copied())?;
        }
        Ok(arbiters)
    }

    fn start_one(&mut self, name: &str, core: Option<usize>) -> Result<(), ArbiterError> {
        let arbiter = Arbiter::new(name);
        let (ready_tx, ready_rx) = flume::bounded(1);
        let body = {
            let arbiter = arbiter.clone();
            move || match prepare(&arbiter, core) {
                Ok(runtime) => {
                    let _ = ready_tx.send(Ok(()));
                    run(runtime, &arbiter, std::future::pending::<()>());
                }
                Err(error) => {
                    let _ = ready_tx.send(Err(error));
                }
            }
        };
        let failed = |source| ArbiterError::Start { arbiter: Arc::clone(arbiter.name()), source };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(body).map_err(failed)?;
        ready_rx.recv().unwrap_or_else(|_| {
            Err(failed(std::io::Error::other("its thread ended before the event loop ran")))
        })?;
        self.threads.push((arbiter, thread));
        Ok(())
    }

    /// Arbiter `index`, or `None` when there are fewer.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&Arbiter> {
        self.threads.get(index).map(|(arbiter, _)| arbiter)
    }

    /// All arbiters, in the order they were started.
    pub fn iter(&self) -> impl Iterator<Item = &Arbiter> {
        self.threads.iter().map(|(arbiter, _)| arbiter)
    }

    /// Stops all threads and waits for their end. Must not be called on one of them.
    pub fn join(mut self) {
        for (arbiter, _) in &self.threads {
            arbiter.stop();
        }
        for (arbiter, thread) in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!(arbiter = %arbiter.name(), "arbiter thread panicked while ending");
            }
        }
    }
}

impl Drop for Arbiters {
    fn drop(&mut self) {
        for (arbiter, _) in &self.threads {
            arbiter.stop();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LONG: Duration = Duration::from_secs(20);

    #[test]
    fn work_runs_on_the_named_thread_and_outlives_a_panic() {
        let arbiters = Arbiters::start(1, &[]).expect("threads can be started");
        let arbiter = arbiters.get(0).expect("one was started");
        let (tx, rx) = flume::unbounded();
        arbiter.execute(|| panic!("on purpose")).expect("it runs");
        arbiter
            .execute(move || tx.send(thread::current().name().map(str::to_owned)).expect("test waits"))
            .expect("it runs");
        assert_eq!(rx.recv_timeout(LONG), Ok(Some("arbiter-0".to_owned())));
        arbiters.join();
    }

    #[test]
    fn work_for_a_stopped_arbiter_is_refused_and_dropped() {
        let arbiters = Arbiters::start(1, &[]).expect("threads can be started");
        let arbiter = arbiters.get(0).expect("one was started").clone();
        let token = Arc::new(());
        arbiter.stop();
        let held = Arc::clone(&token);
        // Either refused, or accepted just before the end: dropped in both cases.
        let _ = arbiter.execute(move || drop(held));
        arbiters.join();
        assert_eq!(Arc::strong_count(&token), 1);
        assert!(matches!(arbiter.execute(|| ()), Err(ArbiterError::Stopped { .. })));
    }

    #[test]
    fn an_unknown_core_is_named_with_those_there_are() {
        let error = Arbiters::start(1, &[usize::MAX]).err().expect("there is no such core");
        assert!(matches!(&error, ArbiterError::NoSuchCore { available, .. } if !available.is_empty()));
    }

    #[test]
    fn threads_are_pinned_one_core_each_whatever_was_pinned_before() {
        let pins: Vec<usize> = cores().iter().map(|core| core.id).take(2).collect();
        let arbiters = Arbiters::start(pins.len(), &pins).expect("these cores exist");
        for (arbiter, pin) in arbiters.iter().zip(&pins) {
            let (tx, rx) = flume::unbounded();
            arbiter
                .execute(move || tx.send(core_affinity::get_core_ids()).expect("test waits"))
                .expect("it runs");
            let seen = rx.recv_timeout(LONG).expect("it answers").expect("the mask can be read");
            assert_eq!(seen.iter().map(|core| core.id).collect::<Vec<_>>(), [*pin]);
        }
        arbiters.join();
    }

    #[test]
    fn the_current_thread_can_be_an_arbiter_but_not_twice() {
        let here = thread::current().id();
        let seen = run_local("here", None, |arbiter| {
            let (tx, rx) = flume::unbounded();
            arbiter
                .execute(move || {
                    let nested = run_local("nested", None, |_| async {});
                    tx.send((thread::current().id(), nested)).expect("test waits");
                })
                .expect("it runs");
            rx.into_recv_async()
        });
        let (id, nested) = seen.expect("it ran").expect("work was executed");
        assert_eq!(id, here);
        assert!(matches!(nested, Err(ArbiterError::Nested)));
    }
}
