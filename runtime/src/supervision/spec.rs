//! Declarative specifications of supervisors and their children.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use chc_api::Generation;

use super::policy::{ChildRule, Intensity, Restart, Shutdown, Strategy};
use super::{Supervisor, Task, Tree};
use crate::actor::{Actor, ActorOptions, Birth, Cause, Embryo, Life, Watch, panic_message};
use crate::arbiter::Arbiter;
use crate::mailbox::{Address, Signal};

/// A specification that cannot be carried out.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SpecError {
    /// Names are parts of paths.
    #[error("supervisor {supervisor}: name {name:?} must not be empty or contain '/'")]
    BadName {
        /// The supervisor.
        supervisor: Arc<str>,
        /// The name refused.
        name: Arc<str>,
    },
    /// Two children of one name.
    #[error("supervisor {supervisor}: a child named {name:?} exists; remove it first or choose another name")]
    DuplicateName {
        /// The supervisor.
        supervisor: Arc<str>,
        /// The name refused.
        name: Arc<str>,
    },
    /// There is no such child.
    #[error("supervisor {supervisor}: no child named {name:?}")]
    NoSuchChild {
        /// The supervisor.
        supervisor: Arc<str>,
        /// The name not found.
        name: Arc<str>,
    },
    /// The supervisor has ended.
    #[error("supervisor {supervisor} has ended")]
    Ended {
        /// The supervisor.
        supervisor: Arc<str>,
    },
}

/// How the supervisor reaches an incarnation.
pub(super) type Lever = Box<dyn Fn(Signal) + Send>;

/// Which incarnation is to be launched, and who is told of its life.
pub(super) struct Launch<'a> {
    pub(super) tree: &'a Tree,
    /// The child's path in the tree.
    pub(super) path: Arc<str>,
    pub(super) generation: Generation,
    pub(super) watch: Watch,
}

/// A child: how to build it, and when.
pub struct ChildSpec {
    pub(super) name: Arc<str>,
    pub(super) rule: ChildRule,
    pub(super) launch: Box<dyn Fn(Launch<'_>) -> Lever + Send>,
}

impl ChildSpec {
    fn new(name: &str, launch: impl Fn(Launch<'_>) -> Lever + Send + 'static) -> Self {
        let rule = ChildRule {
            restart: Restart::Permanent,
            shutdown: Shutdown::Stop,
            first_generation: Generation::default(),
        };
        Self { name: name.into(), rule, launch: Box::new(launch) }
    }

    /// An actor, permanent and stopped gently unless said otherwise. The factory is called on the arbiter
    /// for every generation, after the one before is gone; `address` always leads to the newest, whose
    /// name is the child's path (`chain/nat/instance-0`).
    pub fn actor<A: Actor>(
        name: &str,
        arbiter: &Arbiter,
        options: ActorOptions,
        address: &Address<A::Control, A::Data>,
        factory: impl Fn(Birth<A::Control, A::Data>) -> A + Send + Sync + 'static,
    ) -> Self {
        let (arbiter, address, factory) = (arbiter.clone(), address.clone(), Arc::new(factory));
        Self::new(name, move |launch| {
            let embryo = Embryo::<A>::new(launch.path, launch.generation, options, launch.watch);
            let handle = embryo.handle.clone();
            address.set(handle.clone());
            let factory = Arc::clone(&factory);
            embryo.spawn(&arbiter, move |birth| factory(birth));
            Box::new(move |signal| handle.shared.signal(signal))
        })
    }

    /// A supervisor, which runs on `home`. Its own specification is built anew for every generation,
    /// under the child's name; generations of its children go on rising.
    pub fn supervisor(
        name: &str,
        home: &Arbiter,
        factory: impl Fn(Generation) -> SupervisorSpec + Send + Sync + 'static,
    ) -> Self {
        let (home, factory) = (home.clone(), Arc::new(factory));
        Self::new(name, move |launch| {
            let Launch { tree, path, generation, watch } = launch;
            let (supervisor, inbox) = Supervisor::new(path, tree.clone());
            let lever = supervisor.clone();
            let factory = Arc::clone(&factory);
            // Reports also when it is dropped unused, as the arbiter may have stopped.
            let mut vacancy = Vacancy(Some(watch));
            let _ = home.execute(move || match catch_unwind(AssertUnwindSafe(|| factory(generation))) {
                Ok(spec) => match spec.check(supervisor.path()) {
                    Ok(()) => Task::new(supervisor, spec, inbox, vacancy.0.take()).spawn(),
                    Err(error) => vacancy.report(Cause::Failed(error.to_string())),
                },
                Err(payload) => vacancy.report(Cause::Panic(panic_message(payload))),
            });
            Box::new(move |signal| lever.signal(signal))
        })
    }

    /// With another restart rule.
    #[must_use]
    pub fn restart(mut self, restart: Restart) -> Self {
        self.rule.restart = restart;
        self
    }

    /// With another way of being ended by the supervisor.
    #[must_use]
    pub fn shutdown(mut self, shutdown: Shutdown) -> Self {
        self.rule.shutdown = shutdown;
        self
    }

    /// With a first generation above those an earlier process gave out.
    #[must_use]
    pub fn first_generation(mut self, generation: Generation) -> Self {
        self.rule.first_generation = generation;
        self
    }
}

/// Reports the end of a supervisor that never came to be.
struct Vacancy(Option<Watch>);

impl Vacancy {
    fn report(&mut self, cause: Cause) {
        if let Some(watch) = self.0.take() {
            watch(Life::Ended(cause));
        }
    }
}

impl Drop for Vacancy {
    fn drop(&mut self) {
        self.report(Cause::Failed("its arbiter has stopped".to_owned()));
    }
}

/// A supervisor: its children in start order, and what happens when one fails.
pub struct SupervisorSpec {
    /// Its name as the root of a tree; below another supervisor the child's name counts.
    pub name: String,
    /// Who is restarted with a failed child.
    pub strategy: Strategy,
    /// When it gives up.
    pub intensity: Intensity,
    /// The children, in start order; they stop in reverse.
    pub children: Vec<ChildSpec>,
}

impl SupervisorSpec {
    /// A supervisor without children that tolerates three restarts in five seconds.
    #[must_use]
    pub fn new(name: &str, strategy: Strategy) -> Self {
        let intensity = Intensity { restarts_max: 3, within: Duration::from_secs(5) };
        Self { name: name.to_owned(), strategy, intensity, children: Vec::new() }
    }

    /// With another intensity.
    #[must_use]
    pub fn intensity(mut self, restarts_max: u32, within: Duration) -> Self {
        self.intensity = Intensity { restarts_max, within };
        self
    }

    /// With one more child, started after the others.
    #[must_use]
    pub fn child(mut self, child: ChildSpec) -> Self {
        self.children.push(child);
        self
    }

    pub(super) fn check(&self, path: &Arc<str>) -> Result<(), SpecError> {
        for (index, child) in self.children.iter().enumerate() {
            check_name(path, &child.name)?;
            if self.children[..index].iter().any(|earlier| earlier.name == child.name) {
                return Err(SpecError::DuplicateName {
                    supervisor: Arc::clone(path),
                    name: Arc::clone(&child.name),
                });
            }
        }
        Ok(())
    }
}

pub(super) fn check_name(supervisor: &Arc<str>, name: &Arc<str>) -> Result<(), SpecError> {
    if name.is_empty() || name.contains('/') {
        return Err(SpecError::BadName { supervisor: Arc::clone(supervisor), name: Arc::clone(name) });
    }
    Ok(())
}
