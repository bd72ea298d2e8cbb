//! Clocks, time, the window and the cut.

use super::*;
use crate::messages::{Data, Destination};
use crate::root::fragments::LIFE_NS;
use crate::routing::{Repartition, Route};
use crate::splitter::tests::{SEED, clocks, frame, pool, route, ways_to};
use chc_api::packet::link::LinkType;
use chc_api::packet::parse::parse;
use chc_api::{All, Scope, Side, Time, VertexId};
use std::ops::{Deref, DerefMut};

const EPOCH: u64 = 8;
const WINDOW: u64 = 16;

fn instance(vertex: u16) -> InstanceId {
    InstanceId { vertex: VertexId(vertex), index: 0 }
}

/// The root of a chain of two vertices, the first of which is vertex 1.
pub(crate) fn config() -> RootConfig {
    RootConfig {
        epoch: EPOCH,
        window: WINDOW,
        bytes_max: u64::MAX,
        epoch_bytes: u64::MAX,
        tick_ns: 0,
        shares: Shares::sole(),
        ways: ways_to(route(Scope::FiveTuple, 1)),
        seed: SEED,
        instances: vec![instance(1), instance(2)],
        retain: true,
        clock_lease: None,
        logs_to_store: false,
        pool: pool(),
    }
}

/// A chain's only root, with its clocks.
pub(super) struct Alone {
    core: RootCore<All>,
    intake: Intake,
}

impl Deref for Alone {
    type Target = Intake;

    fn deref(&self) -> &Intake {
        &self.intake
    }
}

impl DerefMut for Alone {
    fn deref_mut(&mut self) -> &mut Intake {
        &mut self.intake
    }
}

impl Alone {
    pub(super) fn ingest(&mut self, mut arrival: Arrival<'_>) {
        let ticket = self.intake.draw(&arrival);
        let parsed = parse(arrival.link, &arrival.frame);
        self.core.ingest(&mut arrival, parsed, ticket);
    }

    pub(super) fn flush(&mut self, out: &mut Vec<RootEffect>) {
        self.core.flush(&mut self.intake, out);
    }

    pub(super) fn on_event(&mut self, event: RootEvent, out: &mut Vec<RootEffect>) {
        self.core.on_event(&mut self.intake, event, out);
    }

    fn is_ready(&self) -> bool {
        self.core.is_ready(&self.intake)
    }

    pub(super) fn counts(&self) -> &RootCounts {
        self.core.counts()
    }

    pub(super) fn owners(&self) -> impl Iterator<Item = &[u16]> {
        self.core.owners()
    }
}

pub(super) fn root(config: RootConfig) -> Alone {
    Alone { core: RootCore::new(&config, 0), intake: Intake::new(config, true) }
}

fn ingest_frame(root: &mut Alone, time: u64, frame: &[u8]) {
    let wire_len = frame.len() as u32;
    let (time, frame) = (Time(time), frame.into());
    root.ingest(Arrival { time, side: Side::Inside, link: LinkType::RAW, wire_len, frame });
    root.check_invariants();
}

fn ingest(root: &mut Alone, time: u64) {
    ingest_frame(root, time, &frame(1, ""));
}

pub(super) fn on(root: &mut Alone, event: RootEvent) -> Vec<RootEffect> {
    let mut out = Vec::new();
    root.on_event(event, &mut out);
    root.check_invariants();
    out
}

fn register(root: &mut Alone, vertex: u16, generation: u32) -> Vec<RootEffect> {
    on(root, RootEvent::Register(instance(vertex), Generation(generation)))
}

fn closed(root: &mut Alone, vertex: u16, generation: u32, boundary: u64) -> Vec<RootEffect> {
    on(root, RootEvent::Closed(instance(vertex), Generation(generation), Clock(boundary), Vec::new()))
}

/// Everyone has started and closed this boundary.
fn close_all(root: &mut Alone, boundary: u64) {
    for vertex in [1, 2] {
        closed(root, vertex, 1, boundary);
    }
    on(root, RootEvent::EgressClosed(Clock(boundary)));
}

fn data(effects: Vec<RootEffect>) -> Vec<Data> {
    let data =
        effects.into_iter().filter_map(|e| if let RootEffect::Data(_, data) = e { Some(data) } else { None });
    data.collect()
}

fn flush(root: &mut Alone) -> Vec<Data> {
    let mut out = Vec::new();
    root.flush(&mut out);
    data(out)
}

/// Has the first vertex listen.
fn connect(root: &mut Alone) {
    register(root, 1, 1);
    on(root, RootEvent::Replay(instance(1), Generation(1), Clock(0)));
}

fn stamps(root: &Alone) -> Vec<(u64, u64, u64)> {
    root.stamps().iter().map(|s| (s.step.clock.0, s.step.time.0, s.step.number)).collect()
}

fn steps(root: &Alone) -> Vec<(u64, u64)> {
    let steps = root.stamps().iter().filter(|s| s.is_step);
    steps.map(|s| (s.step.clock.0, s.step.time.0)).collect()
}

// Clocks and time: DESIGN section 4.

#[test]
fn clocks_are_contiguous_and_void_after_a_pause_to_the_boundary() {
    let mut root = root(config());
    connect(&mut root);
    ingest(&mut root, 1);
    ingest(&mut root, 2);
    root.pause();
    root.pause();
    ingest(&mut root, 3);
    let sent = flush(&mut root);
    assert_eq!(clocks(&sent[0]), [0, 1, 8]);
    assert_eq!(sent[0].progress, Position::before(Clock(9)));
    let numbers: Vec<u64> =
        sent[0].block.iter().flat_map(|b| b.descs.iter().map(|d| b.meta(d).number)).collect();
    assert_eq!(numbers, [1, 2, 3], "input packets are numbered without gaps");
}

#[test]
fn time_is_the_running_maximum_of_arrivals() {
    let mut root = root(config());
    connect(&mut root);
    for time in [5, 3, 9] {
        ingest(&mut root, time);
    }
    assert_eq!(stamps(&root), [(0, 5, 1), (1, 5, 2), (2, 9, 3)]);
    let block = flush(&mut root).remove(0).block.expect("three packets");
    let times: Vec<_> =
        block.descs.iter().map(|d| (block.meta(d).time.0, block.meta(d).captured.0)).collect();
    assert_eq!(times, [(5, 5), (5, 3), (9, 9)]);
}

#[test]
fn a_step_is_a_tick_apart_from_the_last() {
    for (tick_ns, expected) in [(0, vec![(0, 1), (1, 4), (3, 11), (4, 20)]), (10, vec![(0, 1), (3, 11)])] {
        let mut root = root(RootConfig { tick_ns, ..config() });
        connect(&mut root);
        [1, 4, 4, 11, 20].into_iter().for_each(|time| ingest(&mut root, time));
        assert_eq!(steps(&root), expected, "with a tick of {tick_ns}");
        let sent: Vec<_> = flush(&mut root)[0].steps.iter().map(|s| (s.clock.0, s.time.0)).collect();
        assert_eq!(sent, expected);
    }
}

#[test]
fn a_time_mark_takes_a_void_clock_and_never_goes_back() {
    let mut root = root(config());
    ingest(&mut root, 5);
    root.time_mark(Time(5));
    root.time_mark(Time(4));
    root.time_mark(Time(7));
    ingest(&mut root, 6);
    assert_eq!(stamps(&root), [(0, 5, 1), (1, 7, 0), (2, 7, 2)]);
    assert_eq!(steps(&root), [(0, 5), (1, 7)]);
}

#[test]
fn the_end_is_a_step_of_its_own_after_which_nothing_is_stamped() {
    let mut root = root(config());
    connect(&mut root);
    ingest(&mut root, 5);
    root.end();
    root.end();
    root.time_mark(Time(9));
    let end = Time::end_after(Time(5));
    assert_eq!(stamps(&root), [(0, 5, 1), (1, end.0, 0)]);
    assert_eq!(root.next_clock(), Clock(8), "a boundary, so that everything can be closed");
    let sent = flush(&mut root);
    let last = sent[0].steps.last().map(|s| (s.clock.0, s.time));
    assert_eq!((last, sent[0].progress.clock.0), (Some((1, end)), 8));
}

#[test]
fn it_is_done_when_the_cut_reached_the_end() {
    let mut root = root(config());
    register(&mut root, 1, 1);
    register(&mut root, 2, 1);
    ingest(&mut root, 5);
    root.pause();
    close_all(&mut root, 8);
    assert!(!root.is_done(), "the input may go on");
    root.end();
    assert!(!root.is_done());
    close_all(&mut root, 16);
    assert!(root.is_done());
}

#[test]
fn stamps_are_kept_only_when_asked_for() {
    let mut root = Alone { core: RootCore::new(&config(), 0), intake: Intake::new(config(), false) };
    ingest(&mut root, 5);
    root.end();
    assert!(root.stamps().is_empty());
}

// Back-pressure: DESIGN section 3, "the root's window".

#[test]
fn a_window_of_clocks_may_lie_above_the_cut() {
    let mut root = root(config());
    register(&mut root, 1, 1);
    register(&mut root, 2, 1);
    for time in 0..WINDOW {
        assert!(root.has_room());
        ingest(&mut root, time);
    }
    assert!(!root.has_room());
    root.time_mark(Time(1_000));
    assert_eq!(root.next_clock(), Clock(WINDOW), "a mark needs room as well");
    close_all(&mut root, EPOCH);
    assert!(root.has_room());
}

#[test]
fn a_bounded_number_of_bytes_may_lie_above_the_cut() {
    let len = frame(1, "").len() as u64;
    let mut root = root(RootConfig { bytes_max: 2 * len, ..config() });
    register(&mut root, 1, 1);
    register(&mut root, 2, 1);
    ingest(&mut root, 0);
    flush(&mut root);
    assert!(root.has_room());
    ingest(&mut root, 1);
    assert!(!root.has_room(), "what was not sent yet counts");
    flush(&mut root);
    assert!(!root.has_room());
    root.pause();
    ingest(&mut root, 2);
    flush(&mut root);
    close_all(&mut root, 8);
    assert!(root.has_room(), "two packets are below the cut");
}

#[test]
fn an_epoch_ends_early_with_the_burst_by_which_it_has_its_bytes() {
    let len = frame(1, "").len() as u64;
    let mut root = root(RootConfig { epoch_bytes: 3 * len, window: 4 * EPOCH, ..config() });
    let mut next_after = |packets: u64| {
        (0..packets).for_each(|time| ingest(&mut root, time));
        flush(&mut root);
        root.next_clock()
    };
    assert_eq!(next_after(2), Clock(2));
    assert_eq!(next_after(2), Clock(EPOCH), "four packets are too many");
    assert_eq!(next_after(2), Clock(EPOCH + 2), "the next one has its own");
    assert_eq!(next_after(EPOCH - 2), Clock(2 * EPOCH));
    assert_eq!(next_after(1), Clock(2 * EPOCH + 1), "no epoch is skipped");
}

#[test]
fn with_nothing_in_flight_there_always_is_room() {
    let mut root = root(RootConfig { bytes_max: 0, ..config() });
    assert!(root.has_room());
    ingest(&mut root, 0);
    assert!(!root.has_room());
}

// The cut: DESIGN section 6, closing and failover.

#[test]
fn the_cut_is_the_lowest_boundary_that_everyone_closed() {
    let mut root = root(config());
    register(&mut root, 1, 1);
    register(&mut root, 2, 1);
    (0..WINDOW).for_each(|time| ingest(&mut root, time));
    assert!(closed(&mut root, 1, 1, 16).is_empty());
    assert!(on(&mut root, RootEvent::EgressClosed(Clock(16))).is_empty());
    assert!(matches!(closed(&mut root, 2, 1, 8).as_slice(), [RootEffect::Cut(Clock(8), _)]));
    assert!(closed(&mut root, 1, 1, 8).is_empty(), "reports do not go back");
    assert!(matches!(closed(&mut root, 2, 1, 16).as_slice(), [RootEffect::Cut(Clock(16), _)]));
    assert_eq!(root.cut(), Clock(16));
}

/// The root of a vertex of two instances, one of which owns no slots.
fn root_with_a_spare(window: u64) -> Alone {
    let ways = ways_to(Route { instances: 2, ..route(Scope::FiveTuple, 1) });
    let instances = [0, 1].map(|index| InstanceId { vertex: VertexId(1), index });
    let mut root = root(RootConfig { ways, instances: instances.to_vec(), window, ..config() });
    instances.into_iter().for_each(|id| drop(on(&mut root, RootEvent::Register(id, Generation(1)))));
    root
}

#[test]
fn the_cut_waits_for_who_owns_slots_alone() {
    let mut root = root_with_a_spare(WINDOW);
    (0..WINDOW).for_each(|time| ingest(&mut root, time));
    assert!(closed(&mut root, 1, 1, 16).is_empty());
    assert!(matches!(
        on(&mut root, RootEvent::EgressClosed(Clock(16))).as_slice(),
        [RootEffect::Cut(Clock(16), _)]
    ));
}

#[test]
fn who_owns_no_slots_hears_of_the_cut_twice_a_window() {
    let mut root = root_with_a_spare(32);
    let mut told = Vec::new();
    for boundary in [8, 16, 24, 32] {
        (0..8).for_each(|time| ingest(&mut root, time));
        on(&mut root, RootEvent::EgressClosed(Clock(boundary)));
        let effects = closed(&mut root, 1, 1, boundary);
        let [RootEffect::Cut(_, instances)] = effects.as_slice() else { panic!("{effects:?}") };
        told.push(instances.len());
    }
    assert_eq!(told, [1, 2, 1, 2]);
}

#[test]
fn the_cut_waits_for_the_egress() {
    let mut root = root(config());
    register(&mut root, 1, 1);
    register(&mut root, 2, 1);
    (0..8).for_each(|time| ingest(&mut root, time));
    closed(&mut root, 1, 1, 8);
    assert!(closed(&mut root, 2, 1, 8).is_empty());
    assert!(matches!(
        on(&mut root, RootEvent::EgressClosed(Clock(8))).as_slice(),
        [RootEffect::Cut(Clock(8), _)]
    ));
}

#[test]
fn the_cut_waits_for_a_new_generation() {
    let mut root = root(config());
    register(&mut root, 1, 1);
    register(&mut root, 2, 1);
    (0..WINDOW).for_each(|time| ingest(&mut root, time));
    close_all(&mut root, 8);
    closed(&mut root, 1, 1, 16);
    on(&mut root, RootEvent::EgressClosed(Clock(16)));
    let go = register(&mut root, 1, 2);
    let expected = [(instance(1), Generation(2)), (instance(2), Generation(1))];
    assert!(
        matches!(go.as_slice(), [RootEffect::Go { to, generation: Generation(2), cut: Clock(8), stamped: Clock(16), generations, .. }]
            if *to == instance(1) && *generations == expected),
        "{go:?}"
    );
    assert!(closed(&mut root, 2, 1, 16).is_empty(), "the new generation has closed nothing above the cut");
    assert!(closed(&mut root, 1, 1, 16).is_empty(), "what the old one says does not count");
    assert!(matches!(closed(&mut root, 1, 2, 16).as_slice(), [RootEffect::Cut(Clock(16), _)]));
}

#[test]
fn a_registration_of_a_replaced_generation_is_ignored() {
    let mut root = root(config());
    register(&mut root, 1, 3);
    assert!(register(&mut root, 1, 2).is_empty());
    assert!(on(&mut root, RootEvent::Register(instance(9), Generation(1))).is_empty(), "nobody knows it");
}

#[test]
fn it_is_ready_when_every_instance_has_registered() {
    let mut root = root(config());
    register(&mut root, 1, 1);
    assert!(!root.is_ready());
    let go = register(&mut root, 2, 1);
    assert!(root.is_ready());
    assert!(matches!(go.as_slice(), [RootEffect::Go { generations, .. }] if generations.len() == 2));
}

// Repartitioning: the paper's section 5.1; DESIGN section 6, moves.

/// The root of one vertex with two instances, which have started.
fn root_of_two() -> Alone {
    let instances = [0, 1].map(|index| InstanceId { vertex: VertexId(1), index });
    let ways = ways_to(route(Scope::Global, 2));
    let mut root = root(RootConfig { ways, instances: instances.to_vec(), ..config() });
    for id in instances {
        on(&mut root, RootEvent::Register(id, Generation(1)));
        on(&mut root, RootEvent::Replay(id, Generation(1), Clock(0)));
    }
    root
}

fn moved(root: &mut Alone, from: u16, to: u16) -> Vec<RootEffect> {
    on(root, RootEvent::Repartition(VertexId(1), Repartition::Move { from, to, share: 1.0 }))
}

fn report(root: &mut Alone, index: u16, boundary: u64) -> Vec<RootEffect> {
    let id = InstanceId { vertex: VertexId(1), index };
    on(root, RootEvent::Closed(id, Generation(1), Clock(boundary), Vec::new()))
}

#[test]
fn slots_change_hands_at_the_next_boundary_in_front_of_its_packets() {
    let mut root = root_of_two();
    ingest(&mut root, 0);
    assert!(moved(&mut root, 0, 1).is_empty(), "they are granted when who has them has closed the boundary");
    ingest(&mut root, 1);
    assert_eq!(root.next_clock(), Clock(9), "the clocks up to the boundary are void");
    let sent = flush(&mut root);
    let to = |index| sent.iter().find(|data| data.block.is_some() && clocks(data) == [index]);
    assert!(to(0).is_some() && to(8).is_some(), "each by the table of its clock");
    assert!(sent.iter().all(|data| data.progress < Position::before(Clock(8)) || !data.changes.is_empty()));
    assert!(flush(&mut root).iter().all(|data| data.changes.is_empty()), "it is announced once");
    assert_eq!(root.owners().map(crate::routing::active).collect::<Vec<_>>()[1], 1);
}

#[test]
fn slots_are_granted_when_their_owners_have_closed_the_boundary() {
    let mut root = root_of_two();
    ingest(&mut root, 0);
    moved(&mut root, 0, 1);
    assert!(report(&mut root, 1, 8).is_empty(), "the new owner's report is not what is waited for");
    let granted = report(&mut root, 0, 8);
    assert!(
        matches!(granted.as_slice(), [RootEffect::Grant(InstanceId { index: 1, .. }, Clock(8), _)]),
        "{granted:?}"
    );
    assert!(report(&mut root, 0, 8).is_empty(), "once");
    let again =
        on(&mut root, RootEvent::Register(InstanceId { vertex: VertexId(1), index: 1 }, Generation(2)));
    let [RootEffect::Go { changes, granted, .. }] = again.as_slice() else { panic!("{again:?}") };
    assert_eq!(granted, &[Clock(8)], "a new generation is told again");
    assert_eq!(changes.iter().map(|c| c.boundary.0).collect::<Vec<_>>(), [0, 8]);
}

#[test]
fn who_gets_its_first_slots_is_told_what_it_may_not_have_heard() {
    let mut root = root_of_two();
    let awake = |out: &[RootEffect]| {
        let told = |effect: &RootEffect| match effect {
            RootEffect::Awake(id, changes) => {
                Some((id.index, changes.iter().map(|change| change.boundary.0).collect()))
            }
            _ => None,
        };
        out.iter().filter_map(told).collect::<Vec<(u16, Vec<u64>)>>()
    };
    ingest(&mut root, 0);
    assert_eq!(awake(&moved(&mut root, 0, 1)), [], "it had some");
    ingest(&mut root, 1);
    assert_eq!(awake(&moved(&mut root, 1, 0)), [(0, vec![0, 8, 16])]);
}

#[test]
fn a_change_is_above_what_was_promised() {
    let mut root = root_of_two();
    (0..8).for_each(|time| ingest(&mut root, time));
    assert!(flush(&mut root).iter().all(|data| data.progress == Position::before(Clock(8))));
    moved(&mut root, 0, 1);
    assert_eq!(root.next_clock(), Clock(16));
}

#[test]
fn a_boundary_has_one_change() {
    let mut root = root_of_two();
    ingest(&mut root, 0);
    moved(&mut root, 0, 1);
    moved(&mut root, 1, 0);
    assert_eq!(root.counts().handovers, 1);
    ingest(&mut root, 1);
    flush(&mut root);
    assert_eq!(
        (root.counts().handovers, root.next_clock()),
        (2, Clock(16)),
        "the second waits for the next one"
    );
}

#[test]
fn a_change_of_nothing_is_none() {
    let mut root = root_of_two();
    moved(&mut root, 1, 0);
    moved(&mut root, 1, 0);
    ingest(&mut root, 0);
    flush(&mut root);
    assert_eq!((root.counts().handovers, root.next_clock()), (1, Clock(9)));
}

// The log and replay: the paper's section 5.4.

#[test]
fn a_replay_sends_what_was_retained_from_the_boundary_with_its_steps_first() {
    let mut root = root(config());
    connect(&mut root);
    register(&mut root, 2, 1);
    (0..8).for_each(|time| ingest(&mut root, time));
    flush(&mut root);
    (8..12).for_each(|time| ingest(&mut root, time));
    flush(&mut root);
    close_all(&mut root, 8);
    register(&mut root, 1, 2);
    let sent = data(on(&mut root, RootEvent::Replay(instance(1), Generation(2), Clock(8))));
    assert_eq!(sent.iter().map(clocks).collect::<Vec<_>>(), [vec![8, 9, 10, 11]]);
    assert_eq!(sent[0].steps.iter().map(|s| s.clock.0).collect::<Vec<_>>(), [8, 9, 10, 11]);
    assert_eq!((sent[0].to_generation, sent[0].progress), (Generation(2), Position::before(Clock(8))));
    let after = flush(&mut root);
    assert_eq!((clocks(&after[0]), after[0].progress.clock.0), (vec![], 12), "then the progress");
    let all = data(on(&mut root, RootEvent::Replay(instance(1), Generation(3), Clock(0))));
    assert_eq!(
        all.iter().flat_map(clocks).collect::<Vec<_>>(),
        [8, 9, 10, 11],
        "below the cut nothing is kept"
    );
}

#[test]
fn input_goes_to_the_first_vertex_with_its_identity_hashed() {
    let mut root = root(config());
    connect(&mut root);
    ingest_frame(&mut root, 0, &frame(77, "payload"));
    let mut out = Vec::new();
    root.flush(&mut out);
    let [RootEffect::Data(Destination::Instance(to), data)] = out.as_slice() else { panic!("{out:?}") };
    assert_eq!(*to, instance(1));
    let block = data.block.as_ref().expect("a packet");
    let desc = &block.descs[0];
    assert_eq!(desc.hash, parse(LinkType::RAW, &frame(77, "payload")).key.hash(SEED));
    assert_eq!([block.head(desc), block.tail(desc)].concat(), frame(77, "payload"));
}

// Identity: DESIGN section 5, "fragments follow their first".

/// A fragment of the datagram `frame(5, ..)`, `more` to follow or the rest at offset 16.
fn fragment(ident: u8, first: bool) -> Vec<u8> {
    let mut bytes = frame(5, "01234567");
    (bytes[4], bytes[5]) = (0, ident);
    (bytes[6], bytes[7]) = if first { (0x20, 0) } else { (0, 2) };
    if !first {
        // No ports here: what looks like them is payload.
        bytes[20..].fill(0xee);
    }
    bytes
}

#[test]
fn later_fragments_get_the_identity_of_their_first() {
    let mut root = root(config());
    connect(&mut root);
    for (ident, first) in [(1, true), (1, false), (2, false)] {
        ingest_frame(&mut root, 0, &fragment(ident, first));
    }
    ingest_frame(&mut root, LIFE_NS, &fragment(1, false));
    let block = flush(&mut root).remove(0).block.expect("four packets");
    let of = |at: usize| (block.meta(&block.descs[at]).parsed.identity(), block.descs[at].hash);
    assert_eq!(of(0).0.key.high().port, 5);
    assert_eq!(of(1), of(0));
    assert_ne!(of(2), of(0), "the first of this one was not seen");
    assert_ne!(of(3), of(0), "its packet was numbered anew");
}

#[test]
fn what_is_not_understood_is_forwarded_and_counted_by_reason() {
    let mut root = root(config());
    connect(&mut root);
    ingest_frame(&mut root, 0, &[0x45]);
    ingest_frame(&mut root, 0, &frame(1, ""));
    assert_eq!(clocks(&flush(&mut root)[0]), [0, 1]);
    let reason = parse(LinkType::RAW, &[0x45]).reason.expect("one byte is no packet").as_str();
    assert_eq!(root.counts().reasons, BTreeMap::from([(reason, 1)]));
    assert_eq!((root.counts().packets, root.counts().bytes), (2, 1 + 28));
}

// Leases: the paper's section 5 (clocks), DESIGN section 6.

#[test]
fn clocks_are_stamped_only_below_what_the_store_has_on_record() {
    let mut root = root(RootConfig { clock_lease: Some(4), ..config() });
    let asked = |effects: Vec<RootEffect>| -> Vec<u64> {
        let until =
            |effect: &RootEffect| if let RootEffect::Reserve(until) = effect { Some(until.0) } else { None };
        effects.iter().filter_map(until).collect()
    };
    let flush = |root: &mut Alone| {
        let mut out = Vec::new();
        root.flush(&mut out);
        asked(out)
    };
    assert_eq!(asked(register(&mut root, 1, 1)), [4]);
    assert_eq!(asked(register(&mut root, 2, 1)), [0; 0], "it is asked for already");
    assert!(!root.is_ready() && !root.has_room());
    on(&mut root, RootEvent::Reserved(Clock(4)));
    assert!(root.is_ready());
    ingest(&mut root, 1);
    assert_eq!(flush(&mut root), [0; 0]);
    ingest(&mut root, 1);
    assert_eq!(flush(&mut root), [8], "half a lease is left");
    ingest(&mut root, 1);
    ingest(&mut root, 1);
    assert!(root.awaits_lease() && !root.has_room() && flush(&mut root).is_empty());
    on(&mut root, RootEvent::Reserved(Clock(8)));
    assert!(root.has_room());
    // Void clocks may lie beyond the lease, and the next one begins behind them.
    root.pause();
    assert!(!root.has_room());
    assert_eq!(flush(&mut root), [12]);
}

#[test]
fn without_a_store_no_clocks_are_reserved() {
    let mut root = root(config());
    assert!(register(&mut root, 1, 1).iter().all(|effect| matches!(effect, RootEffect::Go { .. })));
    register(&mut root, 2, 1);
    assert!(root.is_ready() && root.has_room());
}

// The packet log: the paper's section 5.

#[test]
fn nothing_leaves_before_the_store_has_the_packets_in_front_of_it() {
    let mut root = root(RootConfig { logs_to_store: true, ..config() });
    register(&mut root, 1, 1);
    register(&mut root, 2, 1);
    let flush = |root: &mut Alone| {
        let mut out = Vec::new();
        root.flush(&mut out);
        out
    };
    /// Batches given to the log: the number, the clocks.
    type Logged = Vec<(u64, Vec<u64>)>;
    /// What was given to the log; and how many packets were sent, with the progress.
    fn seen(effects: &[RootEffect]) -> (Logged, Vec<(usize, u64)>) {
        let (mut logged, mut sent) = (Vec::new(), Vec::new());
        for effect in effects {
            match effect {
                RootEffect::Log(batch) => {
                    logged.push((batch.number, batch.entries.iter().map(|entry| entry.clock.0).collect()));
                }
                RootEffect::Data(_, data) => {
                    let packets = data.block.as_ref().map_or(0, |block| block.descs.len());
                    sent.push((packets, data.progress.clock.0));
                }
                _ => {}
            }
        }
        (logged, sent)
    }
    on(&mut root, RootEvent::Replay(instance(1), Generation(1), Clock(0)));
    ingest(&mut root, 1);
    ingest(&mut root, 2);
    assert_eq!(seen(&flush(&mut root)), (vec![(1, vec![0, 1])], vec![]));
    ingest(&mut root, 3);
    assert_eq!(seen(&flush(&mut root)), (vec![(2, vec![2])], vec![]));
    // What is sent again waits for the same, and so does progress.
    let again = RootEvent::Replay(instance(1), Generation(2), Clock(0));
    assert_eq!(seen(&on(&mut root, again)), (vec![], vec![]));
    root.pause();
    assert_eq!(seen(&flush(&mut root)), (vec![], vec![]));
    assert_eq!(seen(&on(&mut root, RootEvent::Logged(1))), (vec![], vec![(2, 2)]));
    let (logged, sent) = seen(&on(&mut root, RootEvent::Logged(2)));
    assert!(logged.is_empty() && sent.iter().map(|(packets, _)| packets).sum::<usize>() == 4, "{sent:?}");
    assert_eq!(sent.last(), Some(&(0, EPOCH)));
}
