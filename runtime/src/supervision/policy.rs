//! The supervisor's decisions, as a pure state machine: what happened goes in, what to do comes out.
//!
//! ```text
//!            Start                Started
//!  Waiting ────────► Starting ───────────► Up
//!     ▲                 │  own end (panic, kill, stop)  │
//!     ├── restart rule ─┴───────────────────────────────┤
//!     │                                                 │ told to stop
//!     └── restarted with its group ◄── Stopping ◄───────┘
//!                                         └──► Finished, Removed
//! ```
//!
//! Invariants:
//! * Children start one at a time, in the order of the specification, each after the one before said it has
//!   started. They stop one at a time in reverse order, each after the one before is gone.
//! * Nothing starts while something is being stopped or is still to be stopped. Two generations of one
//!   child never overlap, and generations only rise.
//! * At most `restarts_max` failures are answered by a restart in any stretch of `within`; the next one
//!   stops everything and escalates. The children that go along with a failed one do not count.
//! * Once closing, nothing starts any more.
//!
//! The rules are those of OTP's `supervisor`: with rest_for_one and one_for_all, children that had finished
//! are started again with their group, except temporary ones.

use std::collections::VecDeque;
use std::time::Duration;

use chc_api::Generation;

/// When a child that ended by itself is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    Permanent,
    /// When it did not end normally.
    Transient,
    /// Never.
    Temporary,
}

/// How a child is ended by its supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// Asked to stop; it cleans up.
    Stop,
    /// Dropped without cleaning up.
    Kill,
}

/// Who goes along when a child is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Nobody.
    OneForOne,
    /// The children after it.
    RestForOne,
    /// All children.
    OneForAll,
}

/// How many restarts are tolerated before the supervisor gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intensity {
    /// Restarts within any stretch of `within`.
    pub restarts_max: u32,
    /// The length of the stretch.
    pub within: Duration,
}

/// What the policy knows of a child's specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildRule {
    /// When it is restarted.
    pub restart: Restart,
    /// How it is ended.
    pub shutdown: Shutdown,
    /// The generation of its first incarnation.
    pub first_generation: Generation,
}

/// What happened. Children are numbered in start order, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Start the children.
    Begin,
    /// An incarnation has started.
    Started {
        /// The child.
        child: usize,
        /// The incarnation.
        generation: Generation,
    },
    /// An incarnation is gone, memory included.
    Ended {
        /// The child.
        child: usize,
        /// The incarnation.
        generation: Generation,
        /// Whether it ended other than normally.
        abnormal: bool,
    },
    /// Somebody wants the child crashed.
    Kill {
        /// The child.
        child: usize,
    },
    /// A further child, with the next number.
    Add(ChildRule),
    /// Stop the child and forget it.
    Remove {
        /// The child.
        child: usize,
    },
    /// Stop everything.
    Shutdown,
    /// Kill everything.
    KillAll,
}

/// What is to be done, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Build this incarnation.
    Start {
        /// The child.
        child: usize,
        /// The incarnation.
        generation: Generation,
    },
    /// Ask this incarnation to stop.
    Stop {
        /// The child.
        child: usize,
        /// The incarnation.
        generation: Generation,
    },
    /// Crash this incarnation.
    Kill {
        /// The child.
        child: usize,
        /// The incarnation.
        generation: Generation,
    },
    /// All children have been started for the first time.
    Ready,
    /// The intensity is exceeded; everything is about to be stopped.
    Escalate {
        /// The child whose failure was one too many.
        child: usize,
    },
    /// All children are gone; this is the last action.
    End(Closing),
}

/// Why a supervisor ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closing {
    /// It was asked to.
    Shutdown,
    /// It was killed.
    Killed,
    /// It gave up.
    Escalated,
}

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It took effect.
    Accepted,
    /// It changed nothing, for this reason.
    Ignored(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Waiting,
    Starting,
    Up,
    Stopping,
    Finished,
    Removed,
}

struct Child {
    rule: ChildRule,
    life: Life,
    /// Of the incarnation alive, or of the next one.
    generation: Generation,
    /// Alive, and to be stopped: what it becomes then (`Waiting`, `Finished` or `Removed`).
    then: Option<Life>,
}

impl Child {
    fn new(rule: ChildRule) -> Self {
        Self { rule, life: Life::Waiting, generation: rule.first_generation, then: None }
    }

    fn is_alive(&self) -> bool {
        matches!(self.life, Life::Starting | Life::Up | Life::Stopping)
    }

    /// Not to be started again.
    fn retire(&mut self) {
        if self.is_alive() {
            if self.then != Some(Life::Removed) {
                self.then = Some(Life::Finished);
            }
        } else if self.life == Life::Waiting {
            self.life = Life::Finished;
        }
    }

    /// To be started again together with a failed one.
    fn recycle(&mut self) {
        let after = if self.rule.restart == Restart::Temporary { Life::Finished } else { Life::Waiting };
        if self.is_alive() {
            self.then.get_or_insert(after);
        } else if self.life == Life::Finished {
            self.life = after;
        }
    }
}

/// The state machine.
pub struct Policy {
    strategy: Strategy,
    intensity: Intensity,
    children: Vec<Child>,
    /// When failures were answered by a restart, not older than `within`.
    restarts: VecDeque<Duration>,
    closing: Option<Closing>,
    begun: bool,
    ready: bool,
    ended: bool,
}

impl Policy {
    /// A supervisor of these children, none of which is started before [`Input::Begin`].
    #[must_use]
    pub fn new(strategy: Strategy, intensity: Intensity, rules: impl IntoIterator<Item = ChildRule>) -> Self {
        Self {
            strategy,
            intensity,
            children: rules.into_iter().map(Child::new).collect(),
            restarts: VecDeque::new(),
            closing: None,
            begun: false,
            ready: false,
            ended: false,
        }
    }

    /// Whether the end of this child is awaited because it was told to stop.
    #[must_use]
    pub fn is_stopping(&self, child: usize) -> bool {
        self.children.get(child).is_some_and(|child| child.life == Life::Stopping)
    }

    /// Takes in what happened at `now` (since any fixed moment, never falling) and appends what to do.
    pub fn on_input(&mut self, now: Duration, input: Input, actions: &mut Vec<Action>) -> Outcome {
        if self.ended {
            return Outcome::Ignored("the supervisor has ended");
        }
        let outcome = match input {
            Input::Begin => {
                self.begun = true;
                Outcome::Accepted
            }
            Input::Started { child, generation } => self.on_started(child, generation),
            Input::Ended { child, generation, abnormal } => {
                self.on_ended(now, child, generation, abnormal, actions)
            }
            Input::Kill { child } => match self.children.get(child) {
                Some(it) if it.is_alive() => {
                    actions.push(Action::Kill { child, generation: it.generation });
                    Outcome::Accepted
                }
                _ => Outcome::Ignored("the child is not alive"),
            },
            Input::Add(rule) => {
                // Kept even when closing, so that children keep their numbers.
                self.children.push(Child::new(rule));
                Outcome::Accepted
            }
            Input::Remove { child } => self.on_remove(child),
            Input::Shutdown => self.close(Closing::Shutdown),
            Input::KillAll => self.on_kill_all(actions),
        };
        if outcome == Outcome::Accepted {
            self.advance(actions);
        }
        outcome
    }

    fn on_started(&mut self, child: usize, generation: Generation) -> Outcome {
        match self.children.get_mut(child) {
            Some(it) if it.life == Life::Starting && it.generation == generation => {
                it.life = Life::Up;
                Outcome::Accepted
            }
            Some(it) if it.life == Life::Stopping && it.generation == generation => {
                Outcome::Ignored("the child is being stopped")
            }
            _ => Outcome::Ignored("not the incarnation being started"),
        }
    }

    fn on_ended(
        &mut self,
        now: Duration,
        child: usize,
        generation: Generation,
        abnormal: bool,
        actions: &mut Vec<Action>,
    ) -> Outcome {
        let Some(it) = self.children.get_mut(child).filter(|it| it.is_alive() && it.generation == generation)
        else {
            return Outcome::Ignored("not the incarnation alive");
        };
        it.generation = generation.next();
        if let Some(then) = it.then.take() {
            // It was to be stopped anyway: how it ended decides nothing.
            it.life = then;
            return Outcome::Accepted;
        }
        it.life = Life::Finished;
        let restart = match it.rule.restart {
            Restart::Permanent => true,
            Restart::Transient => abnormal,
            Restart::Temporary => false,
        };
        if !restart {
            return Outcome::Accepted;
        }
        if !self.may_restart(now) {
            actions.push(Action::Escalate { child });
            return self.close(Closing::Escalated);
        }
        self.children[child].life = Life::Waiting;
        let group = match self.strategy {
            Strategy::OneForOne => child..child,
            Strategy::RestForOne => child + 1..self.children.len(),
            Strategy::OneForAll => 0..self.children.len(),
        };
        self.children[group].iter_mut().for_each(Child::recycle);
        Outcome::Accepted
    }

    fn may_restart(&mut self, now: Duration) -> bool {
        while self.restarts.front().is_some_and(|at| now.saturating_sub(*at) > self.intensity.within) {
            self.restarts.pop_front();
        }
        let may = self.restarts.len() < self.intensity.restarts_max as usize;
        if may {
            self.restarts.push_back(now);
        }
        may
    }

    fn on_remove(&mut self, child: usize) -> Outcome {
        match self.children.get_mut(child) {
            None => Outcome::Ignored("no such child"),
            Some(it) if it.life == Life::Removed => Outcome::Ignored("removed already"),
            Some(it) => {
                if it.is_alive() {
                    it.then = Some(Life::Removed);
                } else {
                    it.life = Life::Removed;
                }
                Outcome::Accepted
            }
        }
    }

    fn on_kill_all(&mut self, actions: &mut Vec<Action>) -> Outcome {
        self.closing = Some(Closing::Killed);
        for (child, it) in self.children.iter_mut().enumerate().rev() {
            it.retire();
            if it.is_alive() {
                it.life = Life::Stopping;
                actions.push(Action::Kill { child, generation: it.generation });
            }
        }
        Outcome::Accepted
    }

    fn close(&mut self, why: Closing) -> Outcome {
        if self.closing.is_some() {
            return Outcome::Ignored("closing already");
        }
        self.closing = Some(why);
        self.children.iter_mut().for_each(Child::retire);
        Outcome::Accepted
    }

    /// The next step towards what is wanted: first stop what must stop, then start what must run.
    fn advance(&mut self, actions: &mut Vec<Action>) {
        if self.closing.is_some() {
            self.children.iter_mut().for_each(Child::retire);
        }
        if self.children.iter().any(|it| it.life == Life::Stopping) {
            return;
        }
        let doomed = self.children.iter_mut().enumerate().rev().find(|(_, it)| it.then.is_some());
        if let Some((child, it)) = doomed {
            it.life = Life::Stopping;
            let generation = it.generation;
            actions.push(match it.rule.shutdown {
                Shutdown::Stop => Action::Stop { child, generation },
                Shutdown::Kill => Action::Kill { child, generation },
            });
            return;
        }
        if let Some(closing) = self.closing {
            self.ended = true;
            actions.push(Action::End(closing));
            return;
        }
        if !self.begun || self.children.iter().any(|it| it.life == Life::Starting) {
            return;
        }
        match self.children.iter_mut().enumerate().find(|(_, it)| it.life == Life::Waiting) {
            Some((child, it)) => {
                it.life = Life::Starting;
                actions.push(Action::Start { child, generation: it.generation });
            }
            None if !self.ready => {
                self.ready = true;
                actions.push(Action::Ready);
            }
            None => {}
        }
    }

    /// Whether every child is up, finished or removed and nothing is under way.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.ended
            || self
                .children
                .iter()
                .all(|it| it.then.is_none() && matches!(it.life, Life::Up | Life::Finished | Life::Removed))
    }
}
