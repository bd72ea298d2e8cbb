//! Operations and outputs, and the functions and modes that differ in them.

use super::*;
use crate::splitter::Ways;

// Parking: DESIGN section 4, "One slot is reserved for a packet that is the instance's lowest".

#[test]
fn the_last_free_slot_is_kept_for_the_lowest_packet() {
    for first in [[(5, A, "i"), (6, B, "i")], [(5, A, "i"), (4, B, "i")]] {
        let upstream = vec![vec![sender(0), sender(1)]];
        let mut bed = Bed::new(InstanceConfig { upstream, parking: 2, ..config() });
        bed.input_from(sender(0), &first, 7);
        assert_eq!(bed.batches.iter().map(|b| b.ops.len()).sum::<usize>(), 1, "a lower one may still come");
        bed.input_from(sender(1), &[(3, C, "r")], 4);
        assert_eq!(bed.events(), [(3, 0)], "while the others wait");
        bed.input_from(sender(1), &[], 7);
        bed.store();
        assert_eq!(bed.events().len(), 2);
        assert_eq!(bed.at(), (7, true));
    }
}

#[test]
fn packets_that_wait_for_their_place_in_the_order_do_not_starve_the_lowest() {
    let upstream = vec![vec![sender(0), sender(1)]];
    let mut bed = Bed::new(InstanceConfig { upstream, parking: 2, ..config() });
    bed.input_from(sender(0), &[(6, B, "l"), (7, C, "l"), (8, A, "l"), (9, B, "l")], 10);
    // 5 and 6 fill the slots. When they are done, 8 and 9 of their flows are next, and wait for 7.
    bed.input_from(sender(1), &[(5, A, "l")], 10);
    bed.store();
    assert_eq!(bed.object(Probe::declare().0.list), Some(Shown::List(vec![5, 6, 7, 8, 9])));
}

#[test]
fn packets_without_a_slot_wait_and_run_in_turn() {
    let mut bed = Bed::new(InstanceConfig { parking: 2, ..config() });
    let input: Vec<_> = (0..20).map(|n| (n, 100 + n as u16, "i")).collect();
    bed.input(&input, 20);
    bed.store();
    assert_eq!(bed.events(), (0..20).map(|n| (n, n as u32 + 1)).collect::<Vec<_>>());
}

// Operations and their order: DESIGN section 5.

#[test]
fn an_output_that_depends_on_an_observed_value_waits_for_it() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "s"), (1, A, "g"), (2, A, "")], 3);
    assert_eq!(bed.left(), [0]);
    bed.store();
    assert_eq!(bed.events(), [(1, 1)]);
}

/// Nothing reaches others of what a function does once it has broken its declaration.
fn stopped(mut bed: Bed, clock: u64) -> String {
    assert_eq!(bed.left(), [] as [u64; 0]);
    assert!(bed.batches.is_empty());
    bed.input(&[(clock + 1, B, "")], clock + 2);
    assert_eq!(bed.left(), [] as [u64; 0], "it is stopped");
    match bed.notes.pop() {
        Some(InstanceEffect::Defect(defect)) => defect,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_function_that_does_more_than_it_declared_is_stopped() {
    let breaks = |what: &str| {
        let mut bed = Bed::new(branching());
        bed.batches.clear();
        bed.input(&[(0, A, what)], 1);
        bed.store();
        stopped(bed, 0)
    };
    let operations = breaks("ll");
    assert!(operations.contains("more operations on object 3 than the 1 declared"), "{operations}");
    let packets = breaks("EEE");
    assert!(packets.contains("more packets of its own than the 2 it may"), "{packets}");
    let beside = breaks("k");
    assert!(beside.contains("which is not of this packet's slot"), "{beside}");
    let mut bed = Bed::new(config());
    bed.batches.clear();
    bed.input(&[(0, A, "o")], 1);
    let output = stopped(bed, 0);
    assert!(output.contains("has no output 1"), "{output}");
}

// Outputs, packets of its own, attachments, pauses.

/// Clock and the first two places of the path.
type Names = Vec<(u64, u32)>;

/// The packets sent to the egress and to vertex 1.
fn named(bed: &mut Bed) -> (Names, Names) {
    let (mut out, mut copies) = (Vec::new(), Vec::new());
    for (to, data) in bed.sent.drain(..) {
        let names = data.block.iter().flat_map(|b| &b.descs).map(|d| (d.clock.0, d.path.0 >> 16));
        if to == Destination::Egress { out.extend(names) } else { copies.extend(names) }
    }
    (out, copies)
}

#[test]
fn packets_of_its_own_follow_the_packet_they_are_made_for_even_a_dropped_one() {
    let mut bed = Bed::new(branching());
    let to = InstanceId { vertex: VertexId(1), index: 0 };
    bed.on(InstanceEvent::Replay { to, generation: Generation(1), boundary: Clock(0) });
    bed.sent.clear();
    bed.input(&[(0, A, "EE"), (1, A, "Ed"), (2, A, "o")], 3);
    // Taps: 2 a copy of the packet, 3 and 4 the first extra one and its copy, 5 and 6 the second.
    let out = vec![(0, 0x100), (0, 0x103), (0, 0x105), (1, 0x103), (2, 0x100)];
    let copies = vec![(0, 0x102), (0, 0x104), (0, 0x106), (1, 0x104), (2, 0x102)];
    assert_eq!(named(&mut bed), (out, copies));
}

#[test]
fn what_is_attached_travels_with_the_packet() {
    let mut bed = Bed::new(branching());
    bed.input(&[(3, A, "a"), (4, A, "A"), (5, A, "maA")], 6);
    let attached: Vec<_> = bed
        .sent
        .iter()
        .filter_map(|(_, data)| data.block.as_ref())
        .flat_map(|block| {
            block.descs.iter().map(|desc| {
                block.attached(desc).and_then(|(name, value)| Some((name, value.read::<Mark>()?)))
            })
        })
        .collect();
    assert_eq!(attached, [Some(("mark", Mark(3))), None, Some(("mark", Mark(5)))]);
    // It is there for whoever gets the packet next.
    let blocks: Vec<BlockRef> = bed.sent.iter().filter_map(|(_, data)| data.block.clone()).collect();
    assert_eq!(bed.events(), [(4, 0), (5, 5)], "nothing was attached to packet 4");
    let mut next = Bed::new(config());
    for block in blocks {
        let data = Data { block: Some(block), ..next.message(Source::Root(0), &[], 6) };
        next.on(InstanceEvent::Data(data));
    }
    assert_eq!(next.events(), [(4, 0), (5, 5)]);
}

#[test]
fn a_packet_that_pauses_holds_its_flow_and_the_progress_until_the_pause_is_over() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "p"), (1, A, ""), (2, B, "")], 3);
    let position = Position::packet(Clock(0), Path::FIRST);
    let pauses = |bed: &Bed| bed.notes.iter().filter(|n| matches!(n, InstanceEffect::Pause(..))).count();
    assert!(matches!(bed.notes.last(), Some(InstanceEffect::Pause(p, PAUSE)) if *p == position));
    assert_eq!((bed.left(), bed.progress), (vec![2], position));
    bed.on(InstanceEvent::PauseOver(Position::packet(Clock(1), Path::FIRST)));
    assert_eq!(bed.left(), [] as [u64; 0], "that one does not pause");
    bed.on(InstanceEvent::PauseOver(position));
    assert_eq!((bed.left(), bed.progress, pauses(&bed)), (vec![0, 1], Position::before(Clock(3)), 1));
}

#[test]
fn where_a_flow_may_come_by_several_edges_packets_wait_for_those_below() {
    let upstream = vec![vec![sender(0)], vec![sender(1)]];
    for joins in [false, true] {
        let mut bed = Bed::new(InstanceConfig { upstream: upstream.clone(), joins, ..config() });
        bed.input_from(sender(0), &[(1, A, "w"), (3, A, "r")], 4);
        bed.input_from(sender(1), &[(0, A, "w"), (2, A, "w")], 3);
        bed.input_from(sender(1), &[], 9);
        let seen = if joins { [(3, 3)] } else { [(3, 1)] };
        assert_eq!(bed.events(), seen, "joins: {joins}");
    }
}

/// The frontiers of the two ordered objects that were sent last.
fn frontier(bed: &Bed) -> Vec<Position> {
    bed.batches
        .iter()
        .rev()
        .find(|b| !b.frontier.is_empty())
        .expect("sent")
        .frontier
        .iter()
        .map(|f| f.1)
        .collect()
}

#[test]
fn a_packet_holds_the_frontier_until_it_issued_its_operations_or_said_that_it_is_done() {
    let packet = |clock| Position::packet(Clock(clock), Path::FIRST);
    let free = Position::before(Clock(9));
    let cases: [(&[Packet<'_>], Position); 4] = [
        (&[(5, A, "i")], packet(5)),
        (&[(5, A, "l")], free),
        (&[(5, A, "Di")], free),
        (&[(5, A, "Di"), (6, A, "")], packet(6)),
    ];
    for (input, list) in cases {
        let mut bed = Bed::new(config());
        bed.input(input, 9);
        assert_eq!(frontier(&bed)[0], list, "{input:?}");
    }
}

#[test]
fn a_parked_packet_holds_the_frontier_where_a_timer_it_may_arm_could_be_due() {
    let mut bed = Bed::new(config());
    bed.input(&[(6, A, "i")], 9);
    assert_eq!(frontier(&bed)[1], Position::before(Clock(9)), "not before a step that is not known");
    bed.steps(&[step(5 + DELAY), step(20), step(21)], 30);
    assert_eq!(frontier(&bed)[1], Position::before(Clock(20)));
}

#[test]
fn a_frontier_is_sent_when_somebody_waits_for_it() {
    let mut alone = Bed::new(config());
    alone.input(&[(0, A, "")], 1);
    assert!(alone.batches.is_empty());
    let own = Route { vertex: ME.vertex, ..route(Scope::Global, 2) };
    let ways = Ways { routes: Arc::new([own.clone()]), ..ways_out() };
    let mut shared = Bed::new(InstanceConfig { own, ways, ..config() });
    shared.input(&[(0, A, "")], 1);
    assert_eq!(frontier(&shared)[0], Position::before(Clock(1)));
}

// Outputs.

#[test]
fn a_dropped_packet_is_an_output_to_the_egress() {
    let mut bed = Bed::new(InstanceConfig { ways: ways_to(route(Scope::FiveTuple, 1)), ..config() });
    bed.input(&[(0, A, "d")], 1);
    let [(Destination::Egress, data)] = bed.sent.as_slice() else { panic!("{:?}", bed.sent) };
    let block = data.block.as_ref().expect("a drop");
    let position = Position::packet(Clock(0), Path::FIRST);
    assert_eq!((&block.drops[..], block.descs.len()), (&[DropRecord { position, reason: "test" }][..], 0));
}

#[test]
fn events_of_one_packet_are_numbered() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "rwr")], 1);
    let block = bed.sent[0].1.block.as_ref().expect("events");
    let told: Vec<_> = block.events.iter().map(|e| (e.position.clock.0, e.index, e.number, e.time)).collect();
    assert_eq!(told, [(0, 0, 1, Time(0)), (0, 1, 1, Time(0))]);
}

#[test]
fn a_rewritten_packet_gets_a_header_of_its_own() {
    let mut bed = Bed::new(config());
    let data = bed.message(Source::Root(0), &[(0, A, "m")], 1);
    let before = data.block.clone().expect("a packet");
    bed.on(InstanceEvent::Data(data));
    let after = bed.sent[0].1.block.as_ref().expect("a packet");
    let ttl = |block: &BlockRef| block.head(&block.descs[0])[8];
    assert_eq!((ttl(&before), ttl(after)), (64, 63));
}

// Panics.

#[test]
fn the_packet_that_was_being_handled_can_be_named_afterwards() {
    let config = config();
    let running = config.running.clone();
    let mut bed = Bed::new(config);
    bed.input(&[(2, A, "")], 3);
    assert_eq!(running.unfinished(), None);
    let broken = std::panic::AssertUnwindSafe(|| bed.input(&[(3, A, "!")], 4));
    assert!(std::panic::catch_unwind(broken).is_err());
    assert_eq!(running.unfinished(), Some(Position::packet(Clock(3), Path::FIRST)));
}

#[test]
fn a_poisoned_packet_is_dropped_without_running() {
    let poisoned = vec![Position::packet(Clock(3), Path::FIRST)];
    let mut bed = Bed::new(InstanceConfig { poisoned, ..config() });
    bed.input(&[(3, A, "!"), (4, A, "")], 5);
    let drops: Vec<_> =
        bed.sent.iter().filter_map(|(_, d)| d.block.as_ref()).flat_map(|b| b.drops.clone()).collect();
    assert_eq!(drops.iter().map(|d| d.reason).collect::<Vec<_>>(), ["nf_panic"]);
    assert_eq!(bed.left(), [4]);
}

// Functions that translate: DESIGN section 5, "A packet whose identity is not resolved yet holds its slot in order".

fn translator(upstream: Vec<Source>) -> Bed {
    let config = InstanceConfig { upstream: vec![upstream], ..config() };
    let core = build::<Translator, All>(Translator(Probe::declare().0), config.clone());
    Bed::with(config, core)
}

#[test]
fn a_translator_runs_packets_when_no_lower_one_can_come() {
    let mut bed = translator(vec![sender(0), sender(1)]);
    bed.input_from(sender(0), &[(5, A, "")], 6);
    assert!(bed.left().is_empty());
    bed.input_from(sender(1), &[(3, B, "")], 4);
    assert_eq!(bed.left(), [3]);
    bed.input_from(sender(1), &[], 6);
    assert_eq!(bed.left(), [5]);
    let mut first = translator(vec![Source::Root(0)]);
    first.input(&[(0, A, "")], 0);
    assert_eq!(first.left(), [0], "the root sends in order");
}

#[test]
fn a_translated_packet_runs_under_the_connection_it_belongs_to() {
    let mut bed = translator(vec![Source::Root(0)]);
    bed.input(&[(0, A, "w"), (1, 9001, "r"), (2, 9005, "r")], 3);
    let (_, data) = &bed.sent[0];
    let block = data.block.as_ref().expect("packets and events");
    let key = |at: usize| block.meta(&block.descs[at]).parsed.key;
    assert_eq!(block.events.iter().map(|e| e.event.key).collect::<Vec<_>>(), [key(0), key(2)]);
    assert_eq!(key(1), key(0), "it leaves under that identity");
    assert_eq!(block.descs[1].hash, block.descs[0].hash);
    assert_eq!(bed.events(), [(1, 1), (2, 0)]);
}

#[test]
fn a_translator_runs_what_is_of_one_lane_in_order_and_nothing_else() {
    let [beside, apart] = [B, APART].map(beside);
    let mut bed = translator(vec![Source::Root(0)]);
    bed.input(&[(0, A, "i"), (1, beside, ""), (2, apart, ""), (3, apart, "i"), (4, apart, "")], 5);
    assert_eq!(bed.left(), [2], "the slot waits for its first packet, a lane for its own");
    bed.store();
    assert_eq!(bed.left(), [0, 1, 3, 4]);
    bed.input(&[(6, apart, "wt"), (7, beside, "wt"), (8, A, "i")], 9);
    bed.steps(&[step(16), step(17)], 20);
    assert_eq!(bed.events(), [(16, 16)], "a timer waits in its connection's lane");
    bed.store();
    assert_eq!(bed.events(), [(8, 3), (17, 17)]);
}

#[test]
fn a_translator_may_use_records_of_its_packets_lane_and_no_others() {
    let begin = |what: &str| {
        let own = Route { owner: Some(Arc::new(|_: &Identity| None)), ..config().own };
        let config = InstanceConfig { own, ..config() };
        let core = build::<Translator, All>(Translator(Probe::declare().0), config.clone());
        let mut bed = Bed::with(config, core);
        bed.batches.clear();
        bed.input(&[(0, A, what)], 1);
        bed
    };
    assert_eq!(begin("k").left(), [0]);
    let defect = stopped(begin("K"), 0);
    assert!(defect.contains("which is not of this packet's slot and lane"), "{defect}");
}

// Traditional mode: DESIGN section 5, "state local ... no log, duplicate suppression or store".

#[test]
fn the_traditional_mode_needs_no_store() {
    let mut bed = Bed::new(InstanceConfig { mode: StoreMode::Traditional, ..config() });
    bed.input(&[(0, A, "wirn"), (1, A, "l")], 9);
    assert_eq!(bed.events(), [(0, 1), (0, 1), (1, 0)]);
    assert!(bed.batches.is_empty() && bed.loads.is_empty());
    assert_eq!(bed.closed, [8]);
    let state = bed.core.show();
    let probe = Probe::declare().0;
    let shown = |id: ObjectId| state.objects.iter().find(|(o, ..)| *o == id).map(|(.., shown)| shown.clone());
    assert_eq!(shown(probe.serial), Some(Shown::Int(1)));
    assert_eq!(shown(probe.counter.id()), Some(Shown::Int(1)));
    assert_eq!(shown(probe.list), Some(Shown::List(vec![1])));
    assert_eq!(state.records.iter().map(|(.., r)| r.words()[0]).collect::<Vec<_>>(), [1]);
}

#[test]
fn the_traditional_mode_suppresses_nothing() {
    let mut bed = Bed::new(InstanceConfig { mode: StoreMode::Traditional, ..config() });
    bed.input(&[(0, A, "")], 0);
    bed.input(&[(0, A, "")], 1);
    assert_eq!(bed.left(), [0, 0]);
}

#[test]
fn what_comes_before_the_start_is_kept_without_a_store_as_well() {
    let config = InstanceConfig { mode: StoreMode::Traditional, ..config() };
    let mut bed = Bed::new(config).fail();
    bed.input(&[(0, A, "")], 1);
    bed.go(0, 0);
    assert_eq!(bed.left(), [0]);
}

// Values only one instance operates on: the paper's section 4.3, Table 1.

#[test]
fn an_operation_on_a_value_nobody_shares_waits_for_the_store_once() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "u"), (1, B, "u")], 2);
    assert_eq!(bed.events(), []);
    bed.store();
    assert_eq!(bed.events(), [(0, 1), (1, 2)]);
    bed.input(&[(2, A, "u"), (3, B, "u")], 4);
    assert_eq!(bed.events(), [(2, 3), (3, 4)], "the store was not asked");
    bed.store();
    assert_eq!(bed.object(Probe::declare().0.turn), Some(Shown::Int(4)));
    assert_eq!(bed.core.counts().round_trips, 2);
}

#[test]
fn an_operation_that_one_of_a_waiting_packet_may_precede_is_left_to_the_store() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "u")], 1);
    bed.store();
    assert_eq!(bed.events(), [(0, 1)]);
    // Clock 1 waits for another object before it is its turn.
    bed.input(&[(1, A, "iu"), (2, B, "u")], 3);
    assert_eq!(bed.events(), []);
    bed.store();
    assert_eq!(bed.events(), [(1, 1), (1, 2), (2, 3)]);
}

#[test]
fn a_new_generation_is_told_what_it_went_on_with_before() {
    let mut bed = Bed::new(config());
    let before = [(0, A, "u"), (1, A, "u"), (2, A, "u")];
    bed.input(&before[..1], 1);
    bed.store();
    bed.input(&before[1..], 3);
    assert_eq!(bed.events(), [(0, 1), (1, 2), (2, 3)]);
    // The last two never reached the shard.
    let mut bed = bed.fail();
    bed.go(0, 3);
    bed.load();
    bed.input(&before, 3);
    bed.store();
    bed.input(&[(3, B, "u")], 4);
    assert_eq!(bed.events(), [(0, 1), (1, 2), (2, 3), (3, 4)]);
}
