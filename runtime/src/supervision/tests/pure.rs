//! The policy against its invariants.

use std::collections::VecDeque;

use proptest::prelude::{Just, any, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy as Generator;

use super::policy::{ChildRule, Outcome};
use super::*;

fn rule(restart: Restart) -> ChildRule {
    ChildRule { restart, shutdown: Shutdown::Stop, first_generation: Generation(0) }
}

fn intensity(restarts_max: u32, within_secs: u64) -> Intensity {
    Intensity { restarts_max, within: Duration::from_secs(within_secs) }
}

fn start(child: usize, generation: u32) -> Action {
    Action::Start { child, generation: Generation(generation) }
}

fn stop(child: usize, generation: u32) -> Action {
    Action::Stop { child, generation: Generation(generation) }
}

/// A policy whose children do at once what they are told; what it did so far.
struct Driven {
    policy: Policy,
    now: Duration,
    log: Vec<Action>,
}

impl Driven {
    fn new(strategy: Strategy, intensity: Intensity, rules: &[Restart]) -> Self {
        let policy = Policy::new(strategy, intensity, rules.iter().copied().map(rule));
        let mut driven = Self { policy, now: Duration::ZERO, log: Vec::new() };
        driven.feed(Input::Begin);
        driven.log.clear();
        driven
    }

    /// Feeds the input and everything that follows from it; the actions it led to.
    fn feed(&mut self, input: Input) -> Vec<Action> {
        let mut inputs = VecDeque::from([input]);
        let mut actions = Vec::new();
        while let Some(input) = inputs.pop_front() {
            let mut new = Vec::new();
            self.policy.on_input(self.now, input, &mut new);
            for action in &new {
                match *action {
                    Action::Start { child, generation } => {
                        inputs.push_back(Input::Started { child, generation });
                    }
                    Action::Stop { child, generation } => {
                        inputs.push_back(Input::Ended { child, generation, abnormal: false });
                    }
                    Action::Kill { child, generation } => {
                        inputs.push_back(Input::Ended { child, generation, abnormal: true });
                    }
                    Action::Ready | Action::Escalate { .. } | Action::End(_) => {}
                }
            }
            actions.extend(new);
        }
        self.log.extend(&actions);
        actions
    }

    fn crash(&mut self, child: usize, generation: u32) -> Vec<Action> {
        self.feed(Input::Ended { child, generation: Generation(generation), abnormal: true })
    }
}

const ALL: [Restart; 4] = [Restart::Permanent; 4];

#[test]
fn one_for_one_restarts_the_failed_child_alone() {
    let mut it = Driven::new(Strategy::OneForOne, intensity(9, 1), &ALL);
    assert_eq!(it.crash(1, 0), [start(1, 1)]);
}

#[test]
fn rest_for_one_stops_the_later_ones_in_reverse_and_starts_in_order() {
    let mut it = Driven::new(Strategy::RestForOne, intensity(9, 1), &ALL);
    assert_eq!(it.crash(1, 0), [stop(3, 0), stop(2, 0), start(1, 1), start(2, 1), start(3, 1)]);
}

#[test]
fn one_for_all_stops_and_starts_everything() {
    let mut it = Driven::new(Strategy::OneForAll, intensity(9, 1), &ALL);
    let expected = [stop(3, 0), stop(2, 0), stop(0, 0), start(0, 1), start(1, 1), start(2, 1), start(3, 1)];
    assert_eq!(it.crash(1, 0), expected);
}

#[test]
fn nothing_starts_before_the_old_ones_are_gone() {
    let rules = ALL.map(rule);
    let mut policy = Policy::new(Strategy::OneForAll, intensity(9, 1), rules);
    let mut actions = Vec::new();
    policy.on_input(Duration::ZERO, Input::Begin, &mut actions);
    for child in 0..4 {
        assert_eq!(actions.last(), Some(&start(child, 0)));
        policy.on_input(Duration::ZERO, Input::Started { child, generation: Generation(0) }, &mut actions);
    }
    actions.clear();
    let ended = |child| Input::Ended { child, generation: Generation(0), abnormal: true };
    policy.on_input(Duration::ZERO, ended(3), &mut actions);
    assert_eq!(actions, [stop(2, 0)]);
    // Another one dies of its own meanwhile: not counted, and not stopped any more.
    policy.on_input(Duration::ZERO, ended(1), &mut actions);
    assert_eq!(actions, [stop(2, 0)]);
    policy.on_input(Duration::ZERO, ended(2), &mut actions);
    assert_eq!(actions, [stop(2, 0), stop(0, 0)]);
    policy.on_input(Duration::ZERO, ended(0), &mut actions);
    assert_eq!(actions, [stop(2, 0), stop(0, 0), start(0, 1)]);
}

#[test]
fn restart_rules_decide_by_how_a_child_ended() {
    for (restart, abnormal, restarted) in [
        (Restart::Permanent, false, true),
        (Restart::Permanent, true, true),
        (Restart::Transient, false, false),
        (Restart::Transient, true, true),
        (Restart::Temporary, false, false),
        (Restart::Temporary, true, false),
    ] {
        let mut it = Driven::new(Strategy::OneForAll, intensity(9, 1), &[restart]);
        let actions = it.feed(Input::Ended { child: 0, generation: Generation(0), abnormal });
        let expected: &[Action] = if restarted { &[start(0, 1)] } else { &[] };
        assert_eq!(actions, expected, "{restart:?}, abnormal: {abnormal}");
    }
}

#[test]
fn a_group_restart_revives_finished_transient_children_but_no_temporary_ones() {
    let rules = [Restart::Transient, Restart::Temporary, Restart::Temporary, Restart::Permanent];
    let mut it = Driven::new(Strategy::OneForAll, intensity(9, 1), &rules);
    for child in [0, 1] {
        it.feed(Input::Ended { child, generation: Generation(0), abnormal: false });
    }
    assert_eq!(it.crash(3, 0), [stop(2, 0), start(0, 1), start(3, 1)]);
}

#[test]
fn intensity_is_a_sliding_window() {
    let mut it = Driven::new(Strategy::OneForOne, intensity(2, 10), &ALL);
    for (generation, secs) in [(0, 0), (1, 9), (2, 11), (3, 20)] {
        it.now = Duration::from_secs(secs);
        assert_eq!(it.crash(0, generation), [start(0, generation + 1)], "at {secs} s");
    }
    // 11, 20 and 21 would be three within ten seconds.
    it.now = Duration::from_secs(21);
    let expected =
        [Action::Escalate { child: 0 }, stop(3, 0), stop(2, 0), stop(1, 0), Action::End(Closing::Escalated)];
    assert_eq!(it.crash(0, 4), expected);
}

#[test]
fn kill_all_kills_everything_at_once() {
    let mut it = Driven::new(Strategy::OneForOne, intensity(2, 10), &ALL);
    let kill = |child| Action::Kill { child, generation: Generation(0) };
    let expected = [kill(3), kill(2), kill(1), kill(0), Action::End(Closing::Killed)];
    assert_eq!(it.feed(Input::KillAll), expected);
}

#[test]
fn news_of_an_older_generation_are_ignored() {
    let mut it = Driven::new(Strategy::OneForOne, intensity(9, 10), &ALL);
    it.crash(0, 0);
    let mut actions = Vec::new();
    let stale = Input::Ended { child: 0, generation: Generation(0), abnormal: true };
    assert!(matches!(it.policy.on_input(it.now, stale, &mut actions), Outcome::Ignored(_)));
    assert_eq!(actions, []);
}

#[test]
fn a_child_is_added_after_the_others_and_removed_for_good() {
    let mut it = Driven::new(Strategy::OneForAll, intensity(9, 10), &[Restart::Permanent]);
    assert_eq!(it.feed(Input::Add(rule(Restart::Permanent))), [start(1, 0)]);
    assert_eq!(it.feed(Input::Remove { child: 1 }), [stop(1, 0)]);
    assert_eq!(it.crash(0, 0), [start(0, 1)]);
}

/// One step of the random world. Picks are taken modulo what there is to pick from.
#[derive(Clone, Debug)]
enum Op {
    /// Something asked of a child is done.
    Obey(usize),
    /// A living child ends by itself.
    End(usize, bool),
    Kill(usize),
    Add(Restart),
    Remove(usize),
    Shutdown,
    KillAll,
}

fn any_restart() -> impl Generator<Value = Restart> {
    prop_oneof![Just(Restart::Permanent), Just(Restart::Transient), Just(Restart::Temporary)]
}

fn any_strategy() -> impl Generator<Value = Strategy> {
    prop_oneof![Just(Strategy::OneForOne), Just(Strategy::RestForOne), Just(Strategy::OneForAll)]
}

fn any_op() -> impl Generator<Value = Op> {
    prop_oneof![
        12 => any::<usize>().prop_map(Op::Obey),
        4 => (any::<usize>(), any::<bool>()).prop_map(|(pick, abnormal)| Op::End(pick, abnormal)),
        1 => any::<usize>().prop_map(Op::Kill),
        1 => any_restart().prop_map(Op::Add),
        1 => any::<usize>().prop_map(Op::Remove),
        1 => Just(Op::Shutdown),
        1 => Just(Op::KillAll),
    ]
}

/// What the world knows of a child: a naive model, fed by the actions only.
#[derive(Clone, Copy, Default)]
struct Seen {
    alive: Option<Generation>,
    last: Option<Generation>,
    up: bool,
    /// Told to stop or killed.
    told: bool,
}

struct World {
    policy: Policy,
    intensity: Intensity,
    children: Vec<Seen>,
    starts: Vec<(Duration, usize)>,
    closing: bool,
    ended: bool,
    now: Duration,
}

impl World {
    fn feed(&mut self, input: Input) {
        let mut actions = Vec::new();
        self.policy.on_input(self.now, input, &mut actions);
        if matches!(input, Input::Shutdown | Input::KillAll) {
            self.closing = true;
        }
        for action in actions {
            self.see(action, input);
        }
    }

    fn see(&mut self, action: Action, input: Input) {
        assert!(!self.ended, "{action:?} after the end");
        match action {
            Action::Start { child, generation } => {
                assert!(!self.closing, "started while closing");
                let others_quiet = self.children.iter().all(|it| !it.told && (it.alive.is_none() || it.up));
                assert!(others_quiet, "started while another was starting or stopping");
                let it = &mut self.children[child];
                assert!(it.alive.is_none(), "two generations of child {child}");
                assert!(it.last.is_none_or(|last| last < generation), "generations of {child} do not rise");
                *it = Seen { alive: Some(generation), last: Some(generation), up: false, told: false };
                self.starts.push((self.now, child));
            }
            Action::Stop { child, generation } => {
                let told = self.children.iter().filter(|it| it.told && it.alive.is_some()).count();
                assert_eq!(told, 0, "two stopping at once");
                assert_eq!(self.children[child].alive, Some(generation));
                self.children[child].told = true;
            }
            Action::Kill { child, generation } => {
                assert_eq!(self.children[child].alive, Some(generation));
                // On demand it is a crash like any other, not an order of the supervisor.
                self.children[child].told |= !matches!(input, Input::Kill { .. });
            }
            Action::Ready => {}
            Action::Escalate { .. } => self.closing = true,
            Action::End(_) => {
                assert!(self.children.iter().all(|it| it.alive.is_none()), "ended before its children");
                self.ended = true;
            }
        }
    }

    fn alive(&self) -> Vec<usize> {
        (0..self.children.len()).filter(|child| self.children[*child].alive.is_some()).collect()
    }

    /// Children that owe an answer: starting, or told to end.
    fn debtors(&self) -> Vec<usize> {
        let owes = |it: &Seen| it.alive.is_some() && (!it.up || it.told);
        (0..self.children.len()).filter(|child| owes(&self.children[*child])).collect()
    }

    fn end(&mut self, child: usize, abnormal: bool) {
        if let Some(generation) = self.children[child].alive.take() {
            self.children[child].told = false;
            self.feed(Input::Ended { child, generation, abnormal });
        }
    }

    fn obey(&mut self, child: usize) {
        let it = self.children[child];
        if it.told {
            self.end(child, false);
        } else if let Some(generation) = it.alive {
            self.children[child].up = true;
            self.feed(Input::Started { child, generation });
        }
    }

    fn apply(&mut self, op: &Op) {
        let pick = |from: &[usize], n: usize| from.get(n % from.len().max(1)).copied();
        match *op {
            Op::Obey(n) => {
                if let Some(child) = pick(&self.debtors(), n) {
                    self.obey(child);
                }
            }
            Op::End(n, abnormal) => {
                if let Some(child) = pick(&self.alive(), n) {
                    self.end(child, abnormal);
                }
            }
            Op::Kill(n) => self.feed(Input::Kill { child: n % (self.children.len() + 1) }),
            Op::Add(restart) => {
                if !self.ended {
                    self.children.push(Seen::default());
                }
                self.feed(Input::Add(rule(restart)));
            }
            Op::Remove(n) => self.feed(Input::Remove { child: n % (self.children.len() + 1) }),
            Op::Shutdown => self.feed(Input::Shutdown),
            Op::KillAll => self.feed(Input::KillAll),
        }
    }
}

proptest! {
    #[test]
    fn any_history_keeps_the_order_and_settles(
        strategy in any_strategy(),
        restarts_max in 0u32..4,
        rules in proptest::collection::vec(any_restart(), 0..6),
        ops in proptest::collection::vec((any_op(), 0u64..1_500), 0..80),
    ) {
        let intensity = intensity(restarts_max, 3);
        let children = vec![Seen::default(); rules.len()];
        let policy = Policy::new(strategy, intensity, rules.iter().copied().map(rule));
        let mut world = World { policy, intensity, children, starts: Vec::new(), closing: false,
            ended: false, now: Duration::ZERO };
        world.feed(Input::Begin);
        for (op, pause_ms) in &ops {
            world.now += Duration::from_millis(*pause_ms);
            world.apply(op);
        }
        // Left alone, it comes to rest: nobody owes anything.
        for _ in 0..1_000 {
            match world.debtors().first() {
                Some(child) => world.obey(*child),
                None => break,
            }
        }
        prop_assert!(world.policy.is_settled());
        prop_assert_eq!(world.closing, world.ended);
        // No child alone can restart more often than the intensity allows.
        for (index, (at, child)) in world.starts.iter().enumerate() {
            let is_within = |later: &Duration| *later - *at <= world.intensity.within;
            let mut close = world.starts[index..].to_vec();
            close.retain(|(later, other)| other == child && is_within(later));
            prop_assert!(close.len() <= 1 + restarts_max as usize);
        }
    }
}
