//! The policy against its invariants; supervisors over real arbiters, by phase and failure.

use super::*;
use crate::actor::{Actor, ActorOptions, Birth, Cx};
use crate::arbiter::Arbiters;
use crate::mailbox::{Address, Handle, Packets};

const LONG: Duration = Duration::from_secs(20);

mod pure {
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
        let expected =
            [stop(3, 0), stop(2, 0), stop(0, 0), start(0, 1), start(1, 1), start(2, 1), start(3, 1)];
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
            policy.on_input(
                Duration::ZERO,
                Input::Started { child, generation: Generation(0) },
                &mut actions,
            );
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
        let expected = [
            Action::Escalate { child: 0 },
            stop(3, 0),
            stop(2, 0),
            stop(1, 0),
            Action::End(Closing::Escalated),
        ];
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
                    let others_quiet =
                        self.children.iter().all(|it| !it.told && (it.alive.is_none() || it.up));
                    assert!(others_quiet, "started while another was starting or stopping");
                    let it = &mut self.children[child];
                    assert!(it.alive.is_none(), "two generations of child {child}");
                    assert!(
                        it.last.is_none_or(|last| last < generation),
                        "generations of {child} do not rise"
                    );
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
}

mod wired {
    use super::*;

    /// When something befalls the victim.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Phase {
        Building,
        Starting,
        Idle,
        Control,
        Data,
        Stopping,
    }

    /// What befalls it.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Blow {
        Panic,
        Kill,
        Stop,
    }

    #[derive(Clone)]
    enum Order {
        /// Say which generation you are.
        Report(flume::Sender<Generation>),
        Suffer,
        Expire,
    }

    /// A burst that shows whether it is still held.
    struct Burst(Option<Arc<()>>);

    impl Packets for Burst {
        fn packet_count(&self) -> usize {
            usize::from(self.0.is_some())
        }
    }

    type Log = Arc<Mutex<Vec<String>>>;

    /// Logs its life; in its first generation suffers a blow in a phase.
    struct Probe {
        name: Arc<str>,
        generation: Generation,
        log: Log,
        tree: Tree,
        fate: Option<(Phase, Blow)>,
        expired: Option<Instant>,
        held: Vec<Burst>,
    }

    impl Probe {
        fn note(&self, what: &str) {
            let name = self.name.rsplit('/').next().unwrap_or_default();
            self.log.lock().push(format!("{what} {name}{}", self.generation.0));
        }

        fn suffer(&self, phase: Phase, cx: &mut Cx) {
            match self.fate {
                Some((at, blow)) if at == phase => match blow {
                    Blow::Panic => panic!("in phase {phase:?}"),
                    Blow::Kill => {
                        let (supervisor, child) = self.name.rsplit_once('/').expect("it has a parent");
                        let supervisor = self.tree.supervisor(supervisor).expect("it runs");
                        supervisor.kill(child).expect("it exists");
                    }
                    Blow::Stop => cx.stop(),
                },
                _ => {}
            }
        }
    }

    impl Drop for Probe {
        fn drop(&mut self) {
            self.note("drop");
        }
    }

    impl Actor for Probe {
        type Control = Order;
        type Data = Burst;

        fn started(&mut self, cx: &mut Cx) {
            self.suffer(Phase::Starting, cx);
        }

        fn on_control(&mut self, order: Order, cx: &mut Cx) {
            match order {
                Order::Report(tx) => {
                    let _ = tx.send(self.generation);
                }
                Order::Suffer => self.suffer(Phase::Control, cx),
                Order::Expire => self.expired = Some(Instant::now()),
            }
        }

        fn on_data(&mut self, message: Burst, cx: &mut Cx) {
            self.held.push(message);
            self.suffer(Phase::Data, cx);
        }

        fn next_deadline(&self) -> Option<Instant> {
            self.expired
        }

        fn on_deadline(&mut self, _now: Instant, cx: &mut Cx) {
            self.expired = None;
            self.suffer(Phase::Idle, cx);
        }

        fn stopped(&mut self, cx: &mut Cx) {
            self.suffer(Phase::Stopping, cx);
            self.note("clean");
        }
    }

    type Addresses = Vec<Address<Order, Burst>>;

    struct Bench {
        arbiters: Arbiters,
        tree: Tree,
        log: Log,
        events: flume::Receiver<Event>,
    }

    impl Bench {
        fn new(arbiters: usize) -> Self {
            let tree = Tree::default();
            let events = tree.subscribe();
            let arbiters = Arbiters::start(arbiters, &[]).expect("threads can be started");
            Self { arbiters, tree, log: Log::default(), events }
        }

        fn arbiter(&self) -> &Arbiter {
            self.arbiters.get(0).expect("one was started")
        }

        fn child(
            &self,
            name: &str,
            address: &Address<Order, Burst>,
            fate: impl Fn(Generation) -> Option<(Phase, Blow)> + Send + Sync + 'static,
        ) -> ChildSpec {
            let (log, tree) = (Arc::clone(&self.log), self.tree.clone());
            let factory = move |birth: Birth<Order, Burst>| {
                let (name, generation) = (birth.name, birth.generation);
                let fate = fate(generation);
                let (log, tree) = (Arc::clone(&log), tree.clone());
                let probe = Probe { name, generation, log, tree, fate, expired: None, held: Vec::new() };
                probe.note("build");
                if let Some((Phase::Building, _)) = fate {
                    panic!("in phase Building");
                }
                probe
            };
            ChildSpec::actor(name, self.arbiter(), ActorOptions::default(), address, factory)
        }

        /// Children a, b and c, of which b suffers in its first generation.
        fn family(&self, strategy: Strategy, fate: (Phase, Blow)) -> (Supervisor, Addresses) {
            let addresses: Addresses = (0..3).map(|_| Address::default()).collect();
            let spec = SupervisorSpec::new("root", strategy)
                .child(self.child("a", &addresses[0], |_| None))
                .child(self.child("b", &addresses[1], move |generation| {
                    (generation == Generation(0)).then_some(fate)
                }))
                .child(self.child("c", &addresses[2], |_| None));
            let supervisor = Supervisor::start(self.arbiter(), spec, &self.tree).expect("the names are good");
            (supervisor, addresses)
        }

        fn next_event(&self) -> Event {
            self.events.recv_timeout(LONG).expect("an event comes")
        }

        /// All events up to one of this kind for this child.
        fn until(&self, child: &str, generation: u32, is: impl Fn(&EventKind) -> bool) -> Vec<Event> {
            let mut events = Vec::new();
            loop {
                let event = self.next_event();
                let found = &*event.child == child && event.generation.0 == generation && is(&event.kind);
                events.push(event);
                if found {
                    return events;
                }
            }
        }

        /// Reads on until the last starts of a, b and c are these, and b is reported as restarted.
        fn until_all_started(&self, mut events: Vec<Event>, expected: [u32; 3], case: &str) {
            loop {
                let started = ["a", "b", "c"].map(|child| {
                    let of_child = events.iter().rev().filter(|event| &*event.child == child);
                    let mut starts = of_child.filter(|event| event.kind == EventKind::ChildStarted);
                    starts.next().map(|event| event.generation.0)
                });
                let restarted = |event: &Event| {
                    &*event.child == "b" && matches!(event.kind, EventKind::ChildRestarted { .. })
                };
                if started == expected.map(Some) && events.iter().any(restarted) {
                    return;
                }
                let event = self.events.recv_timeout(LONG);
                events.push(event.unwrap_or_else(|_| panic!("{case}: came to rest after {events:#?}")));
            }
        }

        fn until_started(&self, child: &str, generation: u32) -> Vec<Event> {
            self.until(child, generation, |kind| *kind == EventKind::ChildStarted)
        }

        /// Waits until c, the last, is started in the generation it must have; checks that all answer.
        fn assert_generations(&self, addresses: &Addresses, expected: [u32; 3], case: &str) {
            for (address, expected) in addresses.iter().zip(expected) {
                let (tx, rx) = flume::unbounded();
                current(address).send(Order::Report(tx)).expect(case);
                assert_eq!(rx.recv_timeout(LONG), Ok(Generation(expected)), "{case}");
            }
        }

        fn positions(&self, lines: &[&str], case: &str) -> Vec<usize> {
            let log = self.log.lock();
            let position = |line: &&str| {
                let found = log.iter().position(|it| it == line);
                found.unwrap_or_else(|| panic!("{case}: no {line:?} in {log:?}"))
            };
            lines.iter().map(position).collect()
        }

        fn assert_order(&self, lines: &[&str], case: &str) {
            let positions = self.positions(lines, case);
            assert!(positions.is_sorted(), "{case}: {lines:?} not in this order in {:?}", self.log.lock());
        }
    }

    fn current(address: &Address<Order, Burst>) -> Handle<Order, Burst> {
        address.current().expect("it was started")
    }

    /// Brings the victim's first generation to its fate; the cause its supervisor must see.
    fn strike(supervisor: &Supervisor, victim: &Handle<Order, Burst>, phase: Phase, blow: Blow) {
        match (phase, blow) {
            (Phase::Building | Phase::Starting, _) => {}
            (Phase::Idle, Blow::Kill) => supervisor.kill("b").expect("it exists"),
            (Phase::Idle, Blow::Stop) => victim.stop(),
            (Phase::Idle, Blow::Panic) => victim.send(Order::Expire).expect("it is alive"),
            (Phase::Control, _) => victim.send(Order::Suffer).expect("it is alive"),
            (Phase::Data, _) => victim.push(Burst(None)).expect("it is alive"),
            (Phase::Stopping, _) => victim.stop(),
        }
    }

    fn expected_cause(phase: Phase, blow: Blow) -> Cause {
        match (phase, blow) {
            (_, Blow::Panic) => Cause::Panic(format!("in phase {phase:?}")),
            // It is over before the kill arrives.
            (Phase::Stopping, Blow::Kill) | (_, Blow::Stop) => Cause::Stopped,
            (_, Blow::Kill) => Cause::Killed,
        }
    }

    fn failure_is_survived(strategy: Strategy, phase: Phase, blow: Blow) {
        let case = format!("{strategy:?}, {phase:?}, {blow:?}");
        let bench = Bench::new(1);
        let (supervisor, addresses) = bench.family(strategy, (phase, blow));
        let early = matches!(phase, Phase::Building | Phase::Starting);
        let mut events = Vec::new();
        if !early {
            events = bench.until_started("c", 0);
            strike(&supervisor, &current(&addresses[1]), phase, blow);
        }
        events.extend(bench.until("b", 0, |kind| matches!(kind, EventKind::ChildFailed(_))));
        let failed = events.last().expect("the one waited for");
        assert_eq!(failed.kind, EventKind::ChildFailed(expected_cause(phase, blow)), "{case}");
        // c is not started before b has. Then the supervisor hears of b's end only after it started c.
        let c_was_up = !(early && blow == Blow::Panic);
        let [a, c] = match strategy {
            Strategy::OneForOne => [0, 0],
            Strategy::RestForOne => [0, u32::from(c_was_up)],
            Strategy::OneForAll => [1, u32::from(c_was_up)],
        };
        bench.until_all_started(events, [a, 1, c], &case);
        bench.assert_generations(&addresses, [a, 1, c], &case);
        bench.assert_order(&["build b0", "drop b0", "build b1"], &case);
        if c_was_up && c == 1 {
            bench.assert_order(&["drop b0", "clean c0", "drop c0", "build b1", "build c1"], &case);
        }
        if a == 1 {
            bench.assert_order(&["drop b0", "clean a0", "drop a0", "build a1", "build b1"], &case);
        }
        let cleaned = bench.log.lock().iter().any(|line| line == "clean b0");
        assert_eq!(cleaned, expected_cause(phase, blow) == Cause::Stopped, "{case}");
    }

    #[test]
    fn every_failure_in_every_phase_is_survived_under_every_strategy() {
        for strategy in [Strategy::OneForOne, Strategy::RestForOne, Strategy::OneForAll] {
            for phase in [Phase::Starting, Phase::Idle, Phase::Control, Phase::Data, Phase::Stopping] {
                for blow in [Blow::Panic, Blow::Kill, Blow::Stop] {
                    failure_is_survived(strategy, phase, blow);
                }
            }
            failure_is_survived(strategy, Phase::Building, Blow::Panic);
        }
    }

    #[test]
    fn a_restart_is_timed_from_the_failure() {
        let bench = Bench::new(1);
        let (_supervisor, addresses) = bench.family(Strategy::OneForOne, (Phase::Control, Blow::Panic));
        bench.until_started("c", 0);
        current(&addresses[1]).send(Order::Suffer).expect("it is alive");
        let failed = bench.next_event();
        assert!(matches!(failed.kind, EventKind::ChildFailed(_)));
        let started = bench.next_event();
        assert_eq!(started.kind, EventKind::ChildStarted);
        let down_for = started.at - failed.at;
        assert_eq!(bench.next_event().kind, EventKind::ChildRestarted { down_for });
    }

    #[test]
    fn a_successor_has_empty_mailboxes_and_the_old_contents_are_freed() {
        let bench = Bench::new(1);
        let (_supervisor, addresses) = bench.family(Strategy::OneForOne, (Phase::Data, Blow::Panic));
        bench.until_started("c", 0);
        let old = current(&addresses[1]);
        let token = Arc::new(());
        let (tx, reports) = flume::unbounded();
        bench
            .arbiter()
            .execute({
                let (old, token) = (old.clone(), Arc::clone(&token));
                move || {
                    for _ in 0..5 {
                        old.push(Burst(Some(Arc::clone(&token)))).expect("it is alive");
                    }
                    old.send(Order::Report(tx)).expect("it is alive");
                }
            })
            .expect("it runs");
        assert_eq!(reports.recv_timeout(LONG), Ok(Generation(0)));
        bench.until_started("b", 1);
        assert_eq!(Arc::strong_count(&token), 1);
        assert!(!old.is_alive());
        assert!(old.push(Burst(None)).is_err());
        let new = current(&addresses[1]);
        assert_eq!(new.data_counters(), crate::mailbox::DataCounters::default());
        bench.assert_generations(&addresses, [0, 1, 0], "after the restart");
        assert_eq!(new.data_counters().messages_dequeued, 0);
    }

    #[test]
    fn too_many_failures_escalate_and_the_parent_rebuilds_the_subtree() {
        let bench = Arc::new(Bench::new(2));
        let (calm, faulty) = (Address::default(), Address::default());
        let home = bench.arbiters.get(1).expect("two were started");
        let subtree = {
            let (bench, calm, faulty) = (Arc::downgrade(&bench), calm.clone(), faulty.clone());
            ChildSpec::supervisor("nat", home, move |_| {
                let bench = bench.upgrade().expect("the test still runs");
                SupervisorSpec::new("ignored", Strategy::OneForOne)
                    .intensity(1, Duration::from_secs(3_600))
                    .child(bench.child("calm", &calm, |_| None))
                    .child(bench.child("faulty", &faulty, |generation| {
                        (generation.0 < 2).then_some((Phase::Control, Blow::Panic))
                    }))
            })
        };
        let spec = SupervisorSpec::new("chain", Strategy::OneForOne).child(subtree);
        let supervisor = Supervisor::start(bench.arbiter(), spec, &bench.tree).expect("the names are good");
        bench.until("nat", 0, |kind| *kind == EventKind::ChildStarted);
        assert_eq!(current(&faulty).name().as_ref(), "chain/nat/faulty");

        current(&faulty).send(Order::Suffer).expect("it is alive");
        bench.until_started("faulty", 1);
        current(&faulty).send(Order::Suffer).expect("it is alive");
        let cause = Cause::Panic("in phase Control".to_owned());
        let events = bench.until("faulty", 1, |kind| *kind == EventKind::Escalated(cause.clone()));
        assert_eq!(events.last().map(|event| event.supervisor.as_ref()), Some("chain/nat"));
        let events = bench.until("nat", 0, |kind| matches!(kind, EventKind::ChildFailed(_)));
        let reason = "gave up on child faulty, which panicked: in phase Control".to_owned();
        let failed = EventKind::ChildFailed(Cause::Failed(reason));
        assert_eq!(events.last().map(|event| &event.kind), Some(&failed));

        bench.until("nat", 1, |kind| matches!(kind, EventKind::ChildRestarted { .. }));
        // Generations go on where the lost supervisor left off.
        assert_eq!(
            (current(&calm).generation(), current(&faulty).generation()),
            (Generation(1), Generation(2))
        );
        bench
            .assert_order(&["drop faulty1", "clean calm0", "drop calm0", "build calm1", "build faulty2"], "");
        supervisor.shutdown();
        assert_eq!(supervisor.ended().recv_timeout(LONG), Ok(Ending::Shutdown));
    }

    #[test]
    fn a_root_that_gives_up_says_for_whom_and_why() {
        let bench = Bench::new(1);
        let address = Address::default();
        let spec = SupervisorSpec::new("root", Strategy::OneForOne)
            .intensity(2, Duration::from_secs(3_600))
            .child(bench.child("b", &address, |_| Some((Phase::Building, Blow::Panic))));
        let supervisor = Supervisor::start(bench.arbiter(), spec, &bench.tree).expect("the names are good");
        let ending =
            Ending::Escalated { child: "b".into(), cause: Cause::Panic("in phase Building".to_owned()) };
        assert_eq!(supervisor.ended().recv_timeout(LONG), Ok(ending));
        bench.assert_order(&["build b0", "build b1", "build b2"], "");
        assert_eq!(supervisor.kill("b"), Err(SpecError::Ended { supervisor: "root".into() }));
        assert!(bench.tree.supervisor("root").is_none());
        assert!(!current(&address).is_alive());
    }

    #[test]
    fn a_transient_child_that_is_done_stays_so() {
        let bench = Bench::new(1);
        let addresses: Addresses = (0..2).map(|_| Address::default()).collect();
        let spec = SupervisorSpec::new("root", Strategy::OneForOne)
            .child(bench.child("once", &addresses[0], |_| None).restart(Restart::Transient))
            .child(bench.child("never", &addresses[1], |_| None).restart(Restart::Temporary));
        let supervisor = Supervisor::start(bench.arbiter(), spec, &bench.tree).expect("the names are good");
        bench.until_started("never", 0);
        current(&addresses[0]).stop();
        bench.until("once", 0, |kind| *kind == EventKind::ChildStopped);
        supervisor.kill("never").expect("it exists");
        bench.until("never", 0, |kind| *kind == EventKind::ChildFailed(Cause::Killed));
        supervisor.shutdown();
        assert_eq!(supervisor.ended().recv_timeout(LONG), Ok(Ending::Shutdown));
        assert!(!bench.log.lock().iter().any(|line| line == "build once1" || line == "build never1"));
    }

    #[test]
    fn a_tree_shuts_down_in_reverse_order_across_arbiters() {
        let bench = Arc::new(Bench::new(2));
        let addresses: Addresses = (0..4).map(|_| Address::default()).collect();
        let home = bench.arbiters.get(1).expect("two were started");
        let inner = {
            let (bench, addresses) = (Arc::downgrade(&bench), addresses.clone());
            ChildSpec::supervisor("inner", home, move |_| {
                let bench = bench.upgrade().expect("the test still runs");
                SupervisorSpec::new("inner", Strategy::OneForAll)
                    .child(bench.child("b", &addresses[1], |_| None))
                    .child(bench.child("c", &addresses[2], |_| None).shutdown(Shutdown::Kill))
            })
        };
        let spec = SupervisorSpec::new("root", Strategy::RestForOne)
            .child(bench.child("a", &addresses[0], |_| None))
            .child(inner)
            .child(bench.child("d", &addresses[3], |_| None));
        let supervisor = Supervisor::start(bench.arbiter(), spec, &bench.tree).expect("the names are good");
        bench.until_started("d", 0);
        supervisor.shutdown();
        assert_eq!(supervisor.ended().recv_timeout(LONG), Ok(Ending::Shutdown));
        let expected = [
            "build a0", "build b0", "build c0", "build d0", "clean d0", "drop d0", "drop c0", "clean b0",
            "drop b0", "clean a0", "drop a0",
        ];
        assert_eq!(*bench.log.lock(), expected);
    }

    #[test]
    fn a_killed_supervisor_takes_its_children_along_uncleaned() {
        let bench = Arc::new(Bench::new(1));
        let address = Address::default();
        let inner = {
            let (bench, address) = (Arc::downgrade(&bench), address.clone());
            ChildSpec::supervisor(
                "inner",
                &bench.upgrade().expect("it is here").arbiter().clone(),
                move |_| {
                    let bench = bench.upgrade().expect("the test still runs");
                    SupervisorSpec::new("inner", Strategy::OneForOne).child(bench.child(
                        "b",
                        &address,
                        |_| None,
                    ))
                },
            )
        };
        let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(inner);
        let supervisor = Supervisor::start(bench.arbiter(), spec, &bench.tree).expect("the names are good");
        bench.until_started("inner", 0);
        supervisor.kill("inner").expect("it exists");
        bench.until("inner", 1, |kind| matches!(kind, EventKind::ChildRestarted { .. }));
        assert_eq!(*bench.log.lock(), ["build b0", "drop b0", "build b1"]);
    }

    #[test]
    fn children_are_added_and_removed_while_it_runs() {
        let bench = Bench::new(1);
        let (supervisor, addresses) = bench.family(Strategy::OneForOne, (Phase::Control, Blow::Stop));
        bench.until_started("c", 0);
        let added = Address::default();
        supervisor.add_child(bench.child("d", &added, |_| None)).expect("the name is free");
        bench.until_started("d", 0);
        let again = bench.child("d", &added, |_| None);
        let duplicate = SpecError::DuplicateName { supervisor: "root".into(), name: "d".into() };
        assert_eq!(supervisor.add_child(again), Err(duplicate));
        supervisor.remove_child("d").expect("it exists");
        bench.until("d", 0, |kind| *kind == EventKind::ChildStopped);
        let unknown = SpecError::NoSuchChild { supervisor: "root".into(), name: "d".into() };
        assert_eq!(supervisor.kill("d"), Err(unknown));
        // A new child of an old name is not an old generation.
        supervisor.add_child(bench.child("d", &added, |_| None)).expect("the name is free");
        bench.until_started("d", 1);
        bench.assert_generations(&addresses, [0, 0, 0], "the others");
    }

    #[test]
    fn names_that_cannot_be_paths_are_refused() {
        let bench = Bench::new(1);
        let address = Address::default();
        let spec =
            SupervisorSpec::new("root", Strategy::OneForOne).child(bench.child("a/b", &address, |_| None));
        let refused = Supervisor::start(bench.arbiter(), spec, &bench.tree).err();
        assert_eq!(refused, Some(SpecError::BadName { supervisor: "root".into(), name: "a/b".into() }));
    }

    #[test]
    fn a_supervisor_whose_arbiter_stops_is_lost_and_kills_children_elsewhere() {
        let bench = Bench::new(2);
        let address = Address::default();
        let home = bench.arbiters.get(1).expect("two were started");
        let spec =
            SupervisorSpec::new("root", Strategy::OneForOne).child(bench.child("b", &address, |_| None));
        let supervisor = Supervisor::start(home, spec, &bench.tree).expect("the names are good");
        bench.until_started("b", 0);
        home.stop();
        assert_eq!(supervisor.ended().recv_timeout(LONG), Ok(Ending::Lost));
        let Bench { arbiters, log, .. } = bench;
        arbiters.join();
        assert_eq!(*log.lock(), ["build b0", "drop b0"]);
    }
}
