//! One test per guarantee of a shard.

use super::*;
use crate::batch::{CountItem, VersionItem};
use crate::record::Record;
use chc_api::state::{FlowOptions, ObjectKind, ValueBytes};
use chc_api::{All, Consistency, CustomOp, Declarations, Path, Scope};
use std::sync::Arc;

#[path = "engine_tests/schedules.rs"]
mod schedules;

const WINDOW: u64 = 32;
const COUNTER: ObjectId = ObjectId(0);
const SERIAL: ObjectId = ObjectId(1);
const SERIAL_LIST: ObjectId = ObjectId(2);
const ORDERED: ObjectId = ObjectId(3);
const POOL: ObjectId = ObjectId(4);
const ORDERED_POOL: ObjectId = ObjectId(5);
const FLOWS: ObjectId = ObjectId(6);
const LUCK: ObjectId = ObjectId(7);
const ORDERED_INT: ObjectId = ObjectId(8);
/// The pool of the examples has this many members.
const MEMBERS: u64 = 3;

type Shard = ShardEngine<All>;

static LUCK_OPS: [CustomOp; 1] = [CustomOp::drawn("toss", |value, _, draw| {
    *value = ValueBytes::of(&draw);
    OpValue::Int(draw as i64)
})];

/// A shard for one vertex; the last instance owns slot 1, the first all others.
fn shard(instances: u16) -> Shard {
    let mut d = Declarations::default();
    let list = || ObjectKind::List { len_max: 1000 };
    d.counter("counter");
    d.basic("serial", Scope::Global, Consistency::Serial, ObjectKind::Int { initial: 0 }, (4, 0));
    d.basic("serial list", Scope::Global, Consistency::Serial, list(), (4, 0));
    d.basic("ordered", Scope::Global, Consistency::Clock, list(), (4, 0));
    d.pool("pool", Consistency::Serial, Arc::new(|_| 0..MEMBERS));
    d.pool("ordered pool", Consistency::Clock, Arc::new(|_| 0..MEMBERS));
    d.flow::<u64>("flows", FlowOptions::default());
    d.shared("luck", Scope::Global, Consistency::Serial, 0u64, &LUCK_OPS, (1, 0));
    d.basic("ordered int", Scope::Global, Consistency::Clock, ObjectKind::Int { initial: 0 }, (4, 0));
    let owners = [0, instances - 1, 0].into_iter().chain(0..instances).collect();
    let vertices = vec![VertexSpec { objects: d.objects, instances, owners, per_clock: 1 }];
    ShardEngine::new(ShardConfig {
        shard: ShardId(0),
        window: WINDOW,
        vertices,
        record_choices: true,
        seed: 1,
    })
}

fn instance(index: u16) -> InstanceId {
    InstanceId { vertex: VertexId(0), index }
}

/// An empty batch.
fn from(index: u16, generation: u32) -> Batch {
    Batch::empty(instance(index), Generation(generation), 0)
}

fn name(clock: u64, index: u16) -> OpName {
    OpName { position: Position::packet(Clock(clock), Path::FIRST), index }
}

/// An operation whose issuer waits for the result.
fn op(object: ObjectId, clock: u64, index: u16, op: Op) -> OpItem {
    OpItem {
        name: name(clock, index),
        object,
        key: ObjectKey::GLOBAL,
        op,
        now: Time(0),
        answer: Answer::Result,
    }
}

fn push(clock: u64) -> OpItem {
    op(ORDERED, clock, 0, Op::Push(clock))
}

fn acquire(clock: u64) -> OpItem {
    op(POOL, clock, 0, Op::Acquire(None))
}

fn release(clock: u64, member: u64, owner: u64) -> OpItem {
    op(POOL, clock, 1, Op::Release { member, owner })
}

fn until(clock: u64) -> Vec<(ObjectId, Position)> {
    [ORDERED, POOL, ORDERED_POOL].map(|object| (object, Position::before(Clock(clock)))).to_vec()
}

/// Sends a batch as the next of its session.
fn send(shard: &mut Shard, batch: Batch) -> Vec<ShardEffect> {
    let session = shard.session(batch.from).unwrap();
    let number = if session.begin(batch.generation) { session.applied() + 1 } else { 1 };
    let mut out = Vec::new();
    shard.on_batch(Arc::new(Batch { number, ..batch }), &mut out);
    shard.check_invariants();
    out
}

/// Sends operations of the first generation of instance 0; what they returned.
fn go(shard: &mut Shard, ops: Vec<OpItem>) -> Vec<OpValue> {
    values(&send(shard, Batch { ops, ..from(0, 1) }))
}

/// Says how far instance 0 is; what operations returned then.
fn reach(shard: &mut Shard, clock: u64) -> Vec<OpValue> {
    values(&send(shard, Batch { frontier: until(clock), ..from(0, 1) }))
}

fn replies(effects: &[ShardEffect]) -> impl Iterator<Item = &Reply> {
    effects.iter().filter_map(|e| if let ShardEffect::Reply(reply) = e { Some(reply) } else { None })
}

fn values(effects: &[ShardEffect]) -> Vec<OpValue> {
    replies(effects).flat_map(|r| r.results.iter().map(|(_, value)| *value)).collect()
}

fn load(shard: &mut Shard, index: u16, generation: u32, boundary: u64) -> Vec<ShardEffect> {
    let boundary = Clock(boundary);
    let owns = |slot: &Slot| shard.vertices[0].owner_at(*slot, boundary) == Some(index);
    let slots = (0..3).map(Slot).filter(owns).collect();
    gain(shard, index, generation, boundary, slots)
}

/// Loads slots that the instance owns from the boundary on.
fn gain(
    shard: &mut Shard,
    index: u16,
    generation: u32,
    boundary: Clock,
    slots: Vec<Slot>,
) -> Vec<ShardEffect> {
    let mut out = Vec::new();
    let (from, generation) = (instance(index), Generation(generation));
    shard.on_load(&Load { from, generation, boundary, slots, held: Vec::new(), begins: true }, &mut out);
    out
}

/// The first words of the records a load gives.
fn loaded(shard: &mut Shard, index: u16, generation: u32, boundary: u64) -> Vec<u64> {
    match load(shard, index, generation, boundary).as_slice() {
        [ShardEffect::Loaded(loaded)] => {
            loaded.records.iter().map(|(.., record)| record.words()[0]).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn cut(shard: &mut Shard, clock: u64) -> Vec<ShardEffect> {
    let mut out = Vec::new();
    shard.on_cut(Clock(clock), &mut out);
    shard.check_invariants();
    out
}

fn shown(shard: &Shard, object: ObjectId) -> Option<Shown> {
    shard.show_objects().find(|(_, id, ..)| *id == object).map(|(.., shown)| shown)
}

fn version(slot: u16, written: u64, value: Option<u64>) -> VersionItem {
    let key = FlowKey { words: [u64::from(slot); 5] };
    let record = value.map(|v| Record::new(&[v]));
    VersionItem { object: FLOWS, slot: Slot(slot), key, written: Clock(written), record }
}

/// An increment by 1 whose issuer wants to hear `answer`, of an object whose frontier is behind it.
fn increment(generation: u32, clock: u64, answer: Answer) -> Batch {
    let ops = vec![OpItem { answer, ..op(ORDERED_INT, clock, 0, Op::Increment(1)) }];
    let frontier = vec![(ORDERED_INT, Position::before(Clock(clock + 1)))];
    Batch { ops, frontier, ..from(0, generation) }
}

// Values an instance caches: the paper's section 4.3.

#[test]
fn a_value_comes_along_with_the_result_of_an_operation_that_was_not_applied_before() {
    let mut shard = shard(1);
    let left = |effects: &[ShardEffect]| replies(effects).flat_map(|r| r.values.clone()).collect::<Vec<_>>();
    assert_eq!(left(&send(&mut shard, increment(1, 4, Answer::Result))), []);
    let effects = send(&mut shard, increment(1, 5, Answer::Value));
    assert_eq!(left(&effects), [(name(5, 0), OpValue::Int(2))]);
    loaded(&mut shard, 0, 2, 0);
    let again = send(&mut shard, increment(2, 4, Answer::Value));
    assert_eq!((values(&again), left(&again)), (vec![OpValue::Int(1)], vec![]), "clock 5 is in the value");
}

#[test]
fn a_result_an_instance_went_on_with_is_compared_with_the_store() {
    let known = |value| Answer::Known(OpValue::Int(value).fingerprint());
    let mut shard = shard(1);
    let effects = send(&mut shard, increment(1, 4, known(1)));
    assert!(matches!(effects.as_slice(), [ShardEffect::Acknowledge { .. }]), "{effects:?}");
    let effects = send(&mut shard, increment(1, 5, known(3)));
    assert!(matches!(effects.as_slice(), [ShardEffect::Defect(_)]), "{effects:?}");
    loaded(&mut shard, 0, 2, 0);
    let effects = send(&mut shard, increment(2, 4, known(2)));
    assert!(matches!(effects.as_slice(), [ShardEffect::Defect(_)]), "applied before: {effects:?}");
}

// Exactly once: DESIGN section 5, the paper's section 5.3 (duplicate updates).

#[test]
fn an_operation_is_applied_once_and_answered_with_its_logged_result_to_a_later_generation() {
    let mut shard = shard(1);
    let first = op(SERIAL, 4, 0, Op::Increment(1));
    assert_eq!(
        go(&mut shard, vec![first, op(SERIAL, 5, 0, Op::Increment(1))]),
        [OpValue::Int(1), OpValue::Int(2)]
    );
    loaded(&mut shard, 0, 2, 0);
    let effects = send(&mut shard, Batch { ops: vec![first], ..from(0, 2) });
    assert_eq!(values(&effects), [OpValue::Int(1)]);
    assert_eq!(replies(&effects).map(|r| r.generation).collect::<Vec<_>>(), [Generation(2)]);
    assert_eq!(shown(&shard, SERIAL), Some(Shown::Int(2)));
    assert_eq!((shard.tally.applied, shard.tally.suppressed), (2, 1));
}

#[test]
fn an_operation_that_found_nothing_or_was_refused_is_logged_like_any_other() {
    let mut shard = shard(1);
    let ops = vec![op(SERIAL_LIST, 1, 0, Op::Pop), op(SERIAL, 1, 1, Op::Pop)];
    let results = go(&mut shard, ops.clone());
    assert_eq!(results, [OpValue::Empty, OpValue::Refused(chc_api::StateError::WrongType)]);
    go(&mut shard, vec![op(SERIAL_LIST, 2, 0, Op::Push(7))]);
    assert_eq!(go(&mut shard, ops), results);
    assert_eq!(shown(&shard, SERIAL_LIST), Some(Shown::List(vec![7])));
}

#[test]
fn a_name_that_comes_back_as_another_operation_is_a_defect() {
    let first = op(SERIAL, 4, 0, Op::Increment(1));
    let others = [
        op(SERIAL, 4, 0, Op::Increment(2)),
        OpItem { object: ORDERED, ..first },
        OpItem { key: ObjectKey::number(1), ..first },
    ];
    for other in others {
        let mut shard = shard(1);
        go(&mut shard, vec![first]);
        let effects = send(&mut shard, Batch { ops: vec![other], ..from(0, 1) });
        assert!(matches!(effects.as_slice(), [ShardEffect::Defect(_)]), "{other:?}: {effects:?}");
    }
}

#[test]
fn increments_are_counted_once_across_generations_and_instances() {
    let mut shard = shard(2);
    let item =
        |bits, pairs| vec![CountItem { object: COUNTER, bits: vec![bits], pairs, ..CountItem::default() }];
    let pair = |clock, by| (name(clock, 3), by);
    send(&mut shard, Batch { counts: item(0b0111, vec![pair(9, 5)]), ..from(0, 1) });
    loaded(&mut shard, 0, 2, 0);
    send(&mut shard, Batch { counts: item(0b1110, vec![pair(9, 5), pair(10, 2)]), ..from(0, 2) });
    send(&mut shard, Batch { counts: item(0b1000, vec![pair(10, 2)]), ..from(1, 1) });
    assert_eq!(shown(&shard, COUNTER), Some(Shown::Int(4 + 5 + 2)));
    assert_eq!(shard.tally.suppressed, 2 + 1 + 1 + 1);
}

#[test]
fn increments_below_the_cut_were_counted_before() {
    let mut shard = shard(1);
    let counts = |epoch, clock| {
        let pairs = vec![(name(clock, 0), 5)];
        vec![CountItem { object: COUNTER, epoch: Clock(epoch), bits: vec![1], pairs, ..CountItem::default() }]
    };
    cut(&mut shard, 8);
    send(&mut shard, Batch { counts: counts(0, 7), ..from(0, 1) });
    assert_eq!(shown(&shard, COUNTER), Some(Shown::Int(0)));
    send(&mut shard, Batch { counts: counts(8, 8), ..from(0, 1) });
    assert_eq!(shown(&shard, COUNTER), Some(Shown::Int(6)));
}

// Order: DESIGN section 5, `clock` and `serial` objects.

#[test]
fn operations_on_an_ordered_object_take_effect_in_position_order_whatever_the_arrival() {
    let mut shard = shard(2);
    for (index, clock) in [(1, 9), (0, 7), (1, 2), (0, 3)] {
        let effects = send(&mut shard, Batch { ops: vec![push(clock)], ..from(index, 1) });
        assert!(values(&effects).is_empty());
    }
    send(&mut shard, Batch { frontier: until(10), ..from(0, 1) });
    send(&mut shard, Batch { frontier: until(10), ..from(1, 1) });
    assert_eq!(shown(&shard, ORDERED), Some(Shown::List(vec![2, 3, 7, 9])));
}

#[test]
fn an_ordered_operation_waits_for_the_frontier_of_every_instance() {
    let mut shard = shard(2);
    let effects = send(&mut shard, Batch { ops: vec![push(5)], frontier: until(30), ..from(0, 1) });
    assert!(values(&effects).is_empty(), "instance 1 may still issue a lower one");
    let effects = send(&mut shard, Batch { frontier: until(5), ..from(1, 1) });
    assert!(values(&effects).is_empty(), "a timer of clock 5 would come before its packet");
    let own = vec![(ORDERED, Position::packet(Clock(5), Path::FIRST))];
    let effects = send(&mut shard, Batch { frontier: own, ..from(1, 1) });
    assert_eq!(values(&effects), [OpValue::Empty]);
    assert_eq!(shard.waiting(), 0);
}

#[test]
fn an_ordered_operation_waits_for_who_gets_its_first_slots_from_there_on() {
    let owners = |list: &[u16]| vec![(Clock(8), InstanceSet::owners(list))];
    let mut shard = shard(2);
    let gone =
        Batch { active: vec![(Clock(4), InstanceSet::owners(&[0]))], frontier: until(4), ..from(1, 1) };
    send(&mut shard, gone);
    let effects = send(&mut shard, Batch { ops: vec![push(5)], frontier: until(7), ..from(0, 1) });
    assert_eq!(values(&effects), [OpValue::Empty], "instance 1 owns no slots there");
    let back = Batch { ops: vec![push(9)], frontier: until(20), active: owners(&[0, 1]), ..from(0, 1) };
    assert!(values(&send(&mut shard, back)).is_empty(), "there it does");
    let effects = send(&mut shard, Batch { frontier: until(20), ..from(1, 1) });
    assert_eq!(values(&effects), [OpValue::Empty]);
}

#[test]
fn each_ordered_object_has_a_frontier_of_its_own() {
    let mut shard = shard(1);
    let acquire = op(ORDERED_POOL, 5, 1, Op::Acquire(None));
    let frontier = vec![(ORDERED_POOL, Position::before(Clock(6)))];
    let effects = send(&mut shard, Batch { ops: vec![push(5), acquire], frontier, ..from(0, 1) });
    assert_eq!(values(&effects), [OpValue::Int(0)], "the acquire, not the push");
}

#[test]
fn operations_of_one_position_take_effect_in_index_order() {
    let mut shard = shard(1);
    let ops = [2, 0, 1].map(|index| op(ORDERED, 5, index, Op::Push(u64::from(index)))).to_vec();
    go(&mut shard, ops);
    reach(&mut shard, 6);
    assert_eq!(shown(&shard, ORDERED), Some(Shown::List(vec![0, 1, 2])));
}

#[test]
fn a_frontier_never_goes_back() {
    let mut shard = shard(2);
    send(&mut shard, Batch { frontier: until(10), ..from(0, 1) });
    loaded(&mut shard, 0, 2, 0);
    // The new generation runs everything again: what it issues has been applied.
    send(&mut shard, Batch { frontier: until(1), ..from(0, 2) });
    let effects = send(&mut shard, Batch { ops: vec![push(9)], frontier: until(10), ..from(1, 1) });
    assert_eq!(values(&effects), [OpValue::Empty]);
}

#[test]
fn operations_on_a_serial_object_take_effect_on_arrival() {
    let mut shard = shard(2);
    for (index, clock, result) in [(0, 9, 1), (1, 3, 2)] {
        let ops = vec![op(SERIAL, clock, 0, Op::Increment(1))];
        assert_eq!(values(&send(&mut shard, Batch { ops, ..from(index, 1) })), [OpValue::Int(result)]);
    }
}

#[test]
fn results_of_serial_objects_are_recorded_as_choices() {
    let mut shard = shard(1);
    go(&mut shard, vec![op(SERIAL, 9, 0, Op::Increment(1)), push(3), acquire(4)]);
    reach(&mut shard, 10);
    let choice = |clock, value| (VertexId(0), name(clock, 0), value);
    assert_eq!(shard.choices(), [choice(9, OpValue::Int(1)), choice(4, OpValue::Int(0))]);
}

// Sessions and generations: DESIGN section 6, "Generations fence everything that was replaced".

#[test]
fn batches_and_loads_of_an_older_generation_are_refused() {
    let mut shard = shard(2);
    loaded(&mut shard, 0, 3, 0);
    let batch = Batch {
        ops: vec![op(SERIAL, 1, 0, Op::Increment(1))],
        counts: vec![CountItem { object: COUNTER, bits: vec![1], ..CountItem::default() }],
        versions: vec![version(0, 1, Some(7))],
        frontier: until(20),
        ..from(0, 2)
    };
    assert!(send(&mut shard, batch).is_empty());
    assert!(load(&mut shard, 0, 2, 0).is_empty());
    assert_eq!(shard.tally, ShardCounts { fenced: 2, ..ShardCounts::default() });
    assert_eq!(loaded(&mut shard, 0, 3, 10), Vec::<u64>::new());
    let effects = send(&mut shard, Batch { ops: vec![push(5)], frontier: until(20), ..from(1, 1) });
    assert!(values(&effects).is_empty(), "the frontier was refused, too");
}

#[test]
fn every_batch_is_acknowledged_to_its_session() {
    let mut shard = shard(1);
    let batches = [
        from(0, 1),
        Batch { frontier: until(3), ..from(0, 1) },
        Batch { ops: vec![push(9)], ..from(0, 1) },
        Batch { versions: vec![version(0, 1, None)], ..from(0, 2) },
    ];
    for (asked, batch) in [1, 2, 3, 1].into_iter().zip(batches) {
        let sent = batch.generation;
        let effects = send(&mut shard, batch);
        let is_ack = |e: &ShardEffect| {
            matches!(e, ShardEffect::Acknowledge { to, generation, number }
                if (*to, *generation, *number) == (instance(0), sent, asked))
        };
        assert!(effects.last().is_some_and(is_ack), "{effects:?}");
    }
}

#[test]
fn a_batch_that_comes_again_is_acknowledged_and_not_applied_and_one_that_comes_early_waits() {
    let mut shard = shard(1);
    let batch = |number, clock| {
        let ops = vec![op(SERIAL, clock, 0, Op::Increment(1))];
        Arc::new(Batch { ops, ..Batch::empty(instance(0), Generation(1), number) })
    };
    let (mut early, mut next, mut again) = (Vec::new(), Vec::new(), Vec::new());
    shard.on_batch(batch(2, 8), &mut early);
    assert!(early.is_empty(), "{early:?}");
    shard.on_batch(batch(1, 7), &mut next);
    assert_eq!(values(&next), [OpValue::Int(1), OpValue::Int(2)]);
    shard.on_batch(batch(1, 7), &mut again);
    let acknowledged = |effects: &[ShardEffect]| match effects.last() {
        Some(ShardEffect::Acknowledge { number, .. }) => *number,
        other => panic!("{other:?}"),
    };
    assert_eq!((again.len(), acknowledged(&again), acknowledged(&next)), (1, 2, 2));
    assert_eq!((shard.tally.early, shard.tally.repeated, shard.tally.applied), (1, 1, 2));
}

#[test]
fn a_waiter_of_a_new_generation_replaces_the_one_before() {
    let mut shard = shard(1);
    go(&mut shard, vec![push(5)]);
    loaded(&mut shard, 0, 2, 0);
    send(&mut shard, Batch { ops: vec![push(5)], ..from(0, 2) });
    let effects = send(&mut shard, Batch { frontier: until(6), ..from(0, 2) });
    let told: Vec<_> = replies(&effects).map(|r| (r.generation, r.results.clone())).collect();
    assert_eq!(told, [(Generation(2), vec![(name(5, 0), OpValue::Empty)])]);
    assert_eq!(shown(&shard, ORDERED), Some(Shown::List(vec![5])));
}

// Versions: DESIGN section 5, epochs and ownership.

#[test]
fn versions_are_accepted_from_the_owner_of_the_slot_only() {
    let mut shard = shard(2);
    let versions = vec![version(0, 1, Some(10)), version(1, 1, Some(11)), version(9, 1, Some(19))];
    send(&mut shard, Batch { versions, ..from(0, 1) });
    assert_eq!(shard.tally.not_owner, 2, "of the other instance, and of a slot that does not exist");
    assert_eq!(loaded(&mut shard, 0, 1, 8), [10]);
    assert_eq!(loaded(&mut shard, 1, 1, 8), Vec::<u64>::new());
}

#[test]
fn a_version_is_accepted_from_who_owned_the_slot_at_its_clock() {
    let mut shard = shard(2);
    send(&mut shard, Batch { versions: vec![version(0, 5, Some(5))], ..from(0, 1) });
    let gained = gain(&mut shard, 1, 1, Clock(8), vec![Slot(0)]);
    let [ShardEffect::Loaded(records)] = gained.as_slice() else { panic!("{gained:?}") };
    assert_eq!(records.records.len(), 1, "the new owner gets what the old one wrote below the boundary");
    let both = vec![version(0, 7, Some(7)), version(0, 8, Some(8))];
    send(&mut shard, Batch { versions: both.clone(), ..from(0, 1) });
    send(&mut shard, Batch { versions: both, ..from(1, 1) });
    assert_eq!(shard.tally.not_owner, 2, "that at 8 of the old owner and that at 7 of the new one");
    assert_eq!(loaded(&mut shard, 0, 2, 7), [5], "a later generation of the old owner still begins below");
    cut(&mut shard, 8);
    assert_eq!(loaded(&mut shard, 0, 3, 8), Vec::<u64>::new());
    assert_eq!(loaded(&mut shard, 1, 2, 9), [8]);
}

#[test]
fn a_load_gives_the_newest_versions_of_its_slots_below_the_boundary() {
    let mut shard = shard(2);
    let versions =
        vec![version(0, 3, Some(3)), version(0, 9, Some(9)), version(2, 5, Some(25)), version(2, 8, None)];
    send(&mut shard, Batch { versions, ..from(0, 1) });
    send(&mut shard, Batch { versions: vec![version(1, 1, Some(11))], ..from(1, 1) });
    assert_eq!(loaded(&mut shard, 0, 1, 3), Vec::<u64>::new());
    assert_eq!(loaded(&mut shard, 0, 1, 8), [3, 25], "a write at the boundary is not below it");
    assert_eq!(loaded(&mut shard, 0, 1, 9), [3], "removed at 8");
    assert_eq!(loaded(&mut shard, 0, 1, 10), [9]);
}

#[test]
fn trimming_at_the_cut_keeps_what_a_load_at_the_cut_needs() {
    let mut shard = shard(1);
    let versions = [3, 5, 9].map(|clock| version(0, clock, Some(clock))).to_vec();
    send(&mut shard, Batch { versions, ..from(0, 1) });
    cut(&mut shard, 8);
    assert_eq!(loaded(&mut shard, 0, 1, 8), [5]);
    assert_eq!(loaded(&mut shard, 0, 1, 16), [9]);
    assert_eq!(loaded(&mut shard, 0, 1, 4), Vec::<u64>::new(), "nobody asks below the cut");
    cut(&mut shard, 16);
    assert_eq!(loaded(&mut shard, 0, 1, 8), Vec::<u64>::new(), "nor below the next one");
    send(&mut shard, Batch { versions: vec![version(0, 17, Some(17))], ..from(0, 1) });
    cut(&mut shard, 24);
    assert_eq!(loaded(&mut shard, 0, 1, 16), Vec::<u64>::new(), "a slot that was settled is trimmed again");
    assert_eq!(loaded(&mut shard, 0, 1, 24), [17]);
}

// The cut: DESIGN section 6, "a clock c proves a cut of at least c - W: trim to that first".

#[test]
fn a_clock_proves_that_what_lies_a_window_below_is_settled() {
    let mut shard = shard(1);
    let [below, above] = [9, 10].map(|clock| op(SERIAL, clock, 0, Op::Increment(1)));
    go(&mut shard, vec![below, above, push(8)]);
    let effects = send(&mut shard, Batch { ops: vec![op(SERIAL, 9 + WINDOW, 0, Op::Get)], ..from(0, 1) });
    assert_eq!(
        values(&effects),
        [OpValue::Empty, OpValue::Int(2)],
        "the push at 8 has its place, then the read"
    );
    assert_eq!(go(&mut shard, vec![below]), [], "the first one nobody can wait for");
    assert_eq!(go(&mut shard, vec![above]), [OpValue::Int(2)], "the second is at the cut");
    assert_eq!(shown(&shard, SERIAL), Some(Shown::Int(2)));
}

#[test]
fn the_cut_stands_for_the_frontiers_below_it_and_never_goes_back() {
    let mut shard = shard(2);
    send(&mut shard, Batch { ops: vec![push(5), push(9)], frontier: until(20), ..from(0, 1) });
    assert_eq!(values(&cut(&mut shard, 8)), [OpValue::Empty], "the push at 5");
    assert!(cut(&mut shard, 0).is_empty());
    assert_eq!(go(&mut shard, vec![push(5)]), [], "still below the cut");
    assert_eq!(shown(&shard, ORDERED), Some(Shown::List(vec![5])));
}

// Pools: DESIGN section 5, "A popped resource has an owner".

#[test]
fn an_acquire_is_served_early_only_while_members_outnumber_the_clocks_between() {
    let mut shard = shard(1);
    assert_eq!(go(&mut shard, vec![acquire(3)]), [], "clocks 0, 1 and 2 could take all three");
    assert_eq!(go(&mut shard, vec![acquire(2)]), [OpValue::Int(0)], "clocks 0 and 1 leave one");
    assert_eq!(reach(&mut shard, 2), [OpValue::Int(1)], "clock 2 leaves one of two");
    assert_eq!(shown(&shard, POOL), Some(Shown::Owned(vec![(0, 2), (1, 3)])));
}

#[test]
fn pools_of_one_object_are_decided_apart() {
    let mut shard = shard(1);
    go(&mut shard, [0, 1, 2].map(acquire).to_vec());
    reach(&mut shard, 3);
    let other = OpItem { key: ObjectKey::number(1), ..op(POOL, 5, 1, Op::Acquire(None)) };
    assert_eq!(go(&mut shard, vec![acquire(5), other]), [OpValue::Int(0)], "the pool that has members");
    assert_eq!(shard.waiting(), 1);
}

#[test]
fn none_left_is_exact() {
    let mut shard = shard(1);
    go(&mut shard, [9, 7, 5, 3].map(acquire).to_vec());
    assert_eq!(
        reach(&mut shard, 10),
        [0, 1, 2].map(OpValue::Int).into_iter().chain([OpValue::Empty]).collect::<Vec<_>>()
    );
    assert_eq!(
        shown(&shard, POOL),
        Some(Shown::Owned(vec![(0, 3), (1, 5), (2, 7)])),
        "the last one, 9, got none"
    );
}

#[test]
fn a_release_by_another_than_the_owner_is_refused() {
    let mut shard = shard(1);
    go(&mut shard, vec![acquire(1)]);
    assert_eq!(go(&mut shard, vec![release(5, 0, 2), release(6, 1, 1)]), [OpValue::Int(0), OpValue::Int(0)]);
    assert_eq!(shown(&shard, POOL), Some(Shown::Owned(vec![(0, 1)])));
    assert_eq!(go(&mut shard, vec![release(7, 0, 1), release(8, 0, 1)]), [OpValue::Int(1), OpValue::Int(0)]);
    assert_eq!(shown(&shard, POOL), None);
}

#[test]
fn a_released_member_is_acquired_a_window_later_and_not_before() {
    let mut shard = shard(1);
    go(&mut shard, [0, 1, 2].map(acquire).to_vec());
    reach(&mut shard, 3);
    go(&mut shard, vec![release(4, 1, 1)]);
    go(&mut shard, vec![acquire(3 + WINDOW), acquire(4 + WINDOW)]);
    assert_eq!(reach(&mut shard, 5 + WINDOW), [OpValue::Empty, OpValue::Int(1)]);
}

#[test]
fn an_acquire_keeps_its_result_after_the_member_was_given_back() {
    let mut shard = shard(1);
    let both = vec![acquire(1), release(1, 0, 1)];
    go(&mut shard, vec![both[0]]);
    go(&mut shard, vec![both[1], acquire(2)]);
    loaded(&mut shard, 0, 2, 0);
    let effects = send(&mut shard, Batch { ops: both, ..from(0, 2) });
    assert_eq!(values(&effects), [OpValue::Int(0), OpValue::Int(1)]);
}

#[test]
fn a_reservation_of_clocks_is_never_taken_back() {
    let mut shard = shard(1);
    for (until, reserved) in [(100, 100), (50, 100), (200, 200)] {
        let mut out = Vec::new();
        shard.on_reserve(Clock(until), &mut out);
        assert!(matches!(out.as_slice(), [ShardEffect::Reserved(clock)] if clock.0 == reserved), "{out:?}");
    }
    assert_eq!(shard.reserved(), Clock(200));
}

#[test]
fn a_random_number_is_drawn_once_for_an_operation() {
    let mut shard = shard(1);
    let toss = |clock| op(LUCK, clock, 0, Op::Custom(0, ValueBytes::of(&0u64)));
    let first = go(&mut shard, vec![toss(3), toss(4)]);
    assert_ne!(first[0], first[1]);
    let again = send(&mut shard, Batch { ops: vec![toss(3), toss(4)], ..from(0, 2) });
    assert_eq!(values(&again), first, "a packet that runs again gets what it got");
    let chosen: Vec<OpValue> = shard.choices().iter().map(|(.., value)| *value).collect();
    assert_eq!(chosen, first, "the numbers are on record, each once");
}

#[test]
fn a_read_of_a_counter_sees_what_its_batch_adds() {
    let mut shard = shard(1);
    let counts =
        vec![CountItem { object: COUNTER, bits: vec![0b111], path: Path::FIRST, ..CountItem::default() }];
    let get = OpItem { key: ObjectKey::number(0), ..op(COUNTER, 2, 0, Op::Get) };
    let effects = send(&mut shard, Batch { ops: vec![get], counts, ..from(0, 1) });
    assert_eq!(values(&effects), [OpValue::Int(3)]);
}
