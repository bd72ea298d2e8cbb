//! What leaves the chain, leaves once; a boundary is closed when everything below it has left.

use super::*;
use crate::routing::Change;
use crate::splitter::tests::{clocks, packets, pool, route};
use chc_api::{
    All, Direction, Event, EventKind, FlowKey, ObjectId, Path, Scope, Time, TimerOrigin, VertexId,
};
use chc_runtime::block::{BlockBuilder, BlockRef};
use std::sync::Arc;

const EPOCH: u64 = 8;
const WINDOW: u64 = 32;

#[derive(Default)]
struct Log {
    packets: Vec<u64>,
    events: Vec<(u64, u16)>,
    drops: Vec<u64>,
}

impl Sink for Log {
    fn packet(&mut self, _: &Block, desc: &Desc) {
        self.packets.push(desc.clock.0);
    }
    fn event(&mut self, _: InstanceId, event: &EventRecord) {
        self.events.push((event.position.clock.0, event.index));
    }
    fn dropped(&mut self, _: InstanceId, record: &DropRecord) {
        self.drops.push(record.position.clock.0);
    }
}

fn instance(vertex: u16, index: u16) -> InstanceId {
    InstanceId { vertex: VertexId(vertex), index }
}

/// Two vertices with two instances and one.
fn routes() -> [Route; 2] {
    [(0, 2), (1, 1)].map(|(v, instances)| Route { vertex: VertexId(v), ..route(Scope::FiveTuple, instances) })
}

/// An egress behind two instances of vertex 0 and one of vertex 1.
fn egress(suppress: bool) -> EgressCore<All> {
    let senders = [instance(0, 0), instance(0, 1), instance(1, 0)].map(Source::Instance);
    EgressCore::new((EPOCH, WINDOW), &senders, &routes(), suppress, false)
}

#[test]
fn where_a_flow_may_come_from_several_vertices_packets_leave_in_the_order_of_the_input() {
    for hold in [false, true] {
        let senders = [instance(0, 0), instance(1, 0)].map(Source::Instance);
        let mut egress = EgressCore::<All>::new((EPOCH, WINDOW), &senders, &routes(), true, hold);
        let mut log = Log::default();
        egress.on_data(&data(instance(1, 0), 1, packet(3), 4), &mut log);
        egress.on_data(&data(instance(0, 0), 1, packet(2), 3), &mut log);
        assert_eq!(log.packets, if hold { vec![2] } else { vec![3, 2] });
        egress.on_data(&data(instance(0, 0), 1, None, 9), &mut log);
        assert_eq!(log.packets, if hold { vec![2, 3] } else { vec![3, 2] });
        assert_eq!(egress.counts.packets, 2, "they are counted when they come");
    }
}

#[test]
fn flows_that_change_senders_are_held_until_the_old_one_has_passed_the_boundary() {
    let (mut egress, mut log) = (egress(true), Log::default());
    let tables = vec![(VertexId(0), [1].as_slice().into())];
    let changes = vec![Arc::new(Change { boundary: Clock(8), tables })];
    let from = |index, clock, progress| Data {
        changes: changes.clone(),
        ..data(instance(0, index), 1, packet(clock), progress)
    };
    egress.on_data(&from(1, 9, 10), &mut log);
    egress.on_data(&data(instance(1, 0), 1, None, 20), &mut log);
    egress.on_data(&from(0, 6, 7), &mut log);
    assert_eq!(log.packets, [6], "the old sender may send more below the boundary");
    egress.on_data(&from(0, 7, 8), &mut log);
    assert_eq!(log.packets, [6, 7, 9]);
    egress.on_data(&data(instance(0, 1), 1, packet(12), 13), &mut log);
    egress.on_data(&data(instance(0, 0), 1, packet(11), 12), &mut log);
    assert_eq!(log.packets, [6, 7, 9, 12, 11], "afterwards nothing is held");
}

#[test]
fn a_sender_without_slots_holds_no_boundary() {
    let senders = [instance(0, 0), instance(0, 1)].map(Source::Instance);
    let routes = [Route { vertex: VertexId(0), instances: 2, ..route(Scope::FiveTuple, 1) }];
    let mut egress = EgressCore::<All>::new((EPOCH, WINDOW), &senders, &routes, true, false);
    let mut log = Log::default();
    egress.on_data(&data(instance(0, 0), 1, packet(3), 9), &mut log);
    assert_eq!(egress.close(), Some(Clock(8)));
    let tables = vec![(VertexId(0), [0, 1].as_slice().into())];
    let changes = vec![Arc::new(Change { boundary: Clock(16), tables })];
    egress.on_data(&Data { changes, ..data(instance(0, 0), 1, None, 33) }, &mut log);
    assert_eq!(egress.close(), Some(Clock(16)), "from there on it has some");
    egress.on_data(&data(instance(0, 1), 1, None, 33), &mut log);
    assert_eq!(egress.close(), Some(Clock(32)));
}

#[test]
fn packets_that_functions_made_are_counted_as_extra() {
    let mut egress = egress(true);
    let mut log = Log::default();
    let mut builder = BlockBuilder::new(pool());
    let block = packets(&[(1, 1, "")]);
    builder.forward(&block, &block.descs[0]);
    builder.forward_copy(&block, &block.descs[0], Path::FIRST.append(9), None);
    let position = Position::packet(Clock(1), Path::FIRST.append(7));
    builder.dropped(DropRecord { position, reason: "test" });
    egress.on_data(&data(instance(0, 0), 1, builder.finish(), 2), &mut log);
    assert_eq!((egress.counts.packets, egress.counts.extra, log.drops.len()), (2, 2, 1));
}

fn data(from: InstanceId, generation: u32, block: Option<BlockRef>, progress: u64) -> Data {
    Data {
        from: Source::Instance(from),
        from_generation: Generation(generation),
        to_generation: Generation(0),
        steps: Vec::new(),
        changes: Vec::new(),
        block,
        progress: Position::before(Clock(progress)),
    }
}

fn packet(clock: u64) -> Option<BlockRef> {
    Some(packets(&[(clock, 1, "")]))
}

fn first(clock: u64) -> Position {
    Position::packet(Clock(clock), Path::FIRST)
}

fn timer(clock: u64) -> Position {
    let origin = TimerOrigin { setter: Clock(0), setter_path: Path::FIRST, object: ObjectId(0), index: 0 };
    Position::timer(Clock(clock), origin)
}

/// A block of events and drops.
fn others(events: &[(Position, u16)], drops: &[Position]) -> Option<BlockRef> {
    let mut builder = BlockBuilder::new(pool());
    for (position, index) in events {
        let kind = EventKind::Nat { opened: true, external: 0, port: 0 };
        let event = Event { kind, key: FlowKey::NONE, direction: Direction::default() };
        builder.event(EventRecord { position: *position, index: *index, time: Time(0), number: 0, event });
    }
    drops.iter().for_each(|position| builder.dropped(DropRecord { position: *position, reason: "test" }));
    builder.finish()
}

// Duplicate outputs: the paper's section 5.3; DESIGN section 6, "suppressed ... by (position, in-edge)".

#[test]
fn a_position_leaves_once_whichever_instance_or_generation_repeats_it() {
    let (mut egress, mut log) = (egress(true), Log::default());
    for (index, generation) in [(0, 1), (0, 1), (0, 2), (1, 1)] {
        egress.on_data(&data(instance(0, index), generation, packet(3), 0), &mut log);
    }
    assert_eq!(log.packets, [3]);
    assert_eq!((egress.counts.packets, egress.counts.duplicates), (1, 3));
}

#[test]
fn the_same_position_of_another_vertex_is_another_output() {
    let (mut egress, mut log) = (egress(true), Log::default());
    egress.on_data(&data(instance(0, 0), 1, packet(3), 0), &mut log);
    egress.on_data(&data(instance(1, 0), 1, packet(3), 0), &mut log);
    egress.on_data(&data(instance(1, 0), 1, others(&[], &[first(4)]), 0), &mut log);
    egress.on_data(&data(instance(0, 0), 1, packet(4), 0), &mut log);
    assert_eq!((log.packets, log.drops), (vec![3, 3, 4], vec![4]));
    assert_eq!(egress.counts.duplicates, 0);
}

#[test]
fn events_and_drops_leave_once() {
    let (mut egress, mut log) = (egress(true), Log::default());
    let block = others(&[(first(3), 0), (first(3), 1), (timer(3), 0)], &[first(3), timer(3)]);
    for generation in [1, 2] {
        egress.on_data(&data(instance(0, 0), generation, block.clone(), 0), &mut log);
    }
    assert_eq!(log.events, [(3, 0), (3, 1), (3, 0)]);
    assert_eq!(log.drops, [3, 3]);
    assert_eq!((egress.counts.events, egress.counts.drops["test"], egress.counts.duplicates), (3, 2, 5));
}

#[test]
fn what_lies_below_the_cut_has_left() {
    let (mut egress, mut log) = (egress(true), Log::default());
    egress.trim(Clock(8));
    egress.trim(Clock(0));
    let block = others(&[(first(7), 0), (first(8), 0)], &[first(7), first(9)]);
    egress.on_data(&data(instance(0, 0), 1, packet(7), 0), &mut log);
    egress.on_data(&data(instance(0, 0), 1, block, 0), &mut log);
    egress.on_data(&data(instance(0, 0), 1, packet(10), 0), &mut log);
    assert_eq!((log.packets, log.events, log.drops), (vec![10], vec![(8, 0)], vec![9]));
}

#[test]
fn a_clock_proves_that_what_lies_a_window_below_has_left() {
    let (mut egress, mut log) = (egress(true), Log::default());
    egress.on_data(&data(instance(0, 0), 1, packet(WINDOW + 5), 0), &mut log);
    egress.on_data(&data(instance(0, 1), 1, packet(5), 0), &mut log);
    egress.on_data(&data(instance(0, 1), 1, packet(6), 0), &mut log);
    assert_eq!(log.packets, [WINDOW + 5, 6]);
}

#[test]
fn without_suppression_everything_leaves() {
    let (mut egress, mut log) = (egress(false), Log::default());
    for _ in 0..2 {
        egress.on_data(&data(instance(0, 0), 1, packet(3), 0), &mut log);
        egress.on_data(&data(instance(0, 0), 1, others(&[(first(3), 0)], &[first(4)]), 0), &mut log);
    }
    assert_eq!((log.packets, log.events, log.drops), (vec![3, 3], vec![(3, 0), (3, 0)], vec![4, 4]));
}

#[test]
fn packets_leave_in_the_order_they_came_with_their_bytes_counted() {
    let (mut egress, mut log) = (egress(true), Log::default());
    let message = data(instance(0, 0), 1, Some(packets(&[(5, 1, "abc"), (2, 2, "")])), 0);
    egress.on_data(&message, &mut log);
    assert_eq!(log.packets, clocks(&message));
    assert_eq!(egress.counts.bytes, 28 + 3 + 28);
}

// Generations and closing: DESIGN section 6.

#[test]
fn messages_of_a_replaced_generation_are_fenced() {
    let (mut egress, mut log) = (egress(true), Log::default());
    egress.on_data(&data(instance(0, 0), 2, None, 0), &mut log);
    egress.on_data(&data(instance(0, 0), 1, packet(3), 20), &mut log);
    for other in [instance(0, 1), instance(1, 0)] {
        egress.on_data(&data(other, 1, None, 20), &mut log);
    }
    assert!(log.packets.is_empty());
    assert_eq!(egress.counts.fenced, 1);
    assert_eq!(egress.close(), None, "its progress does not count");
}

#[test]
fn a_boundary_closes_when_the_progress_of_every_sender_passed_it() {
    let (mut egress, mut log) = (egress(true), Log::default());
    egress.on_data(&data(instance(0, 0), 1, None, 20), &mut log);
    egress.on_data(&data(instance(1, 0), 1, None, 17), &mut log);
    assert_eq!(egress.close(), None);
    egress.on_data(&data(instance(0, 1), 1, None, 7), &mut log);
    assert_eq!(egress.close(), None);
    egress.on_data(&data(instance(0, 1), 1, None, 16), &mut log);
    assert_eq!(egress.close(), Some(Clock(16)));
    assert_eq!(egress.close(), None, "once");
}

#[test]
fn a_new_generation_does_not_take_progress_back() {
    let (mut egress, mut log) = (egress(true), Log::default());
    for sender in [instance(0, 0), instance(0, 1), instance(1, 0)] {
        egress.on_data(&data(sender, 1, None, 9), &mut log);
    }
    egress.on_data(&data(instance(0, 0), 2, None, 0), &mut log);
    assert_eq!(egress.close(), Some(Clock(8)));
}
