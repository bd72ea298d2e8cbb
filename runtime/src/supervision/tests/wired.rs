//! Supervisors over real arbiters, by phase and failure.

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
        let spec =
            SupervisorSpec::new("root", strategy)
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
    assert_eq!((current(&calm).generation(), current(&faulty).generation()), (Generation(1), Generation(2)));
    bench.assert_order(&["drop faulty1", "clean calm0", "drop calm0", "build calm1", "build faulty2"], "");
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
    let ending = Ending::Escalated { child: "b".into(), cause: Cause::Panic("in phase Building".to_owned()) };
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
        ChildSpec::supervisor("inner", &bench.upgrade().expect("it is here").arbiter().clone(), move |_| {
            let bench = bench.upgrade().expect("the test still runs");
            SupervisorSpec::new("inner", Strategy::OneForOne).child(bench.child("b", &address, |_| None))
        })
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
    let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(bench.child("a/b", &address, |_| None));
    let refused = Supervisor::start(bench.arbiter(), spec, &bench.tree).err();
    assert_eq!(refused, Some(SpecError::BadName { supervisor: "root".into(), name: "a/b".into() }));
}

#[test]
fn a_supervisor_whose_arbiter_stops_is_lost_and_kills_children_elsewhere() {
    let bench = Bench::new(2);
    let address = Address::default();
    let home = bench.arbiters.get(1).expect("two were started");
    let spec = SupervisorSpec::new("root", Strategy::OneForOne).child(bench.child("b", &address, |_| None));
    let supervisor = Supervisor::start(home, spec, &bench.tree).expect("the names are good");
    bench.until_started("b", 0);
    home.stop();
    assert_eq!(supervisor.ended().recv_timeout(LONG), Ok(Ending::Lost));
    let Bench { arbiters, log, .. } = bench;
    arbiters.join();
    assert_eq!(*log.lock(), ["build b0", "drop b0"]);
}
