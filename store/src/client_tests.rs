//! What a session sends, by which name, where, and what it knows to be logged.

use super::*;
use crate::batch::Answer;
use crate::record::Record;
use chc_api::Declarations;
use chc_api::state::FlowOptions;

const EPOCH: u64 = 128;
const VALUES: ObjectId = ObjectId(1);
const COUNTER: ObjectId = ObjectId(0);
const OTHER: ObjectId = ObjectId(2);

/// Two counters, with another object between them, and their handles.
fn declared() -> (Declarations, [Counter; 2]) {
    let mut d = Declarations::default();
    let first = d.counter("counter");
    d.flow::<u64>("between", FlowOptions::default());
    let other = d.counter("other");
    (d, [first, other])
}

fn counters() -> [Counter; 2] {
    declared().1
}

fn client(shards: u16) -> Client {
    let from = InstanceId { vertex: chc_api::VertexId(2), index: 1 };
    let (declared, _) = declared();
    Client::new(from, Generation(5), EPOCH, Placement { shards, seed: 9, home: None }, &declared.objects)
}

fn sent(client: &mut Client, frontier: Option<&[(ObjectId, Position)]>) -> Vec<(ShardId, Arc<Batch>)> {
    let mut all = Vec::new();
    client.flush(frontier, |shard, batch| all.push((shard, batch)));
    all
}

/// The coalesced counters of the next batches.
fn counted(client: &mut Client) -> Vec<CountItem> {
    client.gather_counts();
    sent(client, None).into_iter().flat_map(|(_, batch)| batch.counts.clone()).collect()
}

fn name(clock: u64, index: u16) -> OpName {
    OpName { position: Position::packet(Clock(clock), Path::FIRST), index }
}

fn op(clock: u64, object: ObjectId, key: u64, op: Op) -> OpItem {
    OpItem {
        name: name(clock, 0),
        object,
        key: ObjectKey::number(key),
        op,
        now: chc_api::Time(0),
        answer: Answer::Nothing,
    }
}

fn until(clock: u64) -> [(ObjectId, Position); 1] {
    [(VALUES, Position::before(Clock(clock)))]
}

#[test]
fn an_epoch_of_a_counter_is_one_item_of_bits() {
    let [counter, other] = counters();
    let mut client = client(1);
    for clock in [128, 130, 130 + 64] {
        assert!(client.count_first(counter, Clock(clock), Path::FIRST, 1));
    }
    assert!(client.count_first(other, Clock(129), Path::FIRST, 1));
    let item = |object, bits| CountItem {
        object,
        epoch: Clock(128),
        path: Path::FIRST,
        bits,
        ..CountItem::default()
    };
    assert_eq!(counted(&mut client), [item(COUNTER, vec![0b101, 0b100]), item(OTHER, vec![0b10])]);
    assert_eq!(counted(&mut client), [], "they were taken");
}

#[test]
fn another_epoch_begins_another_item() {
    let [counter, _] = counters();
    let mut client = client(1);
    for clock in [127, 128, 126] {
        assert!(client.count_first(counter, Clock(clock), Path::FIRST, 1));
    }
    let item =
        |epoch, bits| CountItem { epoch: Clock(epoch), path: Path::FIRST, bits, ..CountItem::default() };
    assert_eq!(
        counted(&mut client),
        [item(0, vec![0, 1 << 63]), item(128, vec![1]), item(0, vec![0, 1 << 62])]
    );
}

#[test]
fn what_is_no_bit_is_a_pair_with_its_name() {
    let [counter, _] = counters();
    let mut client = client(1);
    client.count(counter, name(5, 1), 7);
    client.count(counter, name(500, 0), 1);
    let pairs = vec![(name(5, 1), 7), (name(500, 0), 1)];
    assert_eq!(counted(&mut client), [CountItem { pairs, ..CountItem::default() }]);
}

#[test]
fn amounts_travel_with_their_bits_and_each_path_has_its_own() {
    let [counter, _] = counters();
    let mut client = client(1);
    let copy = Path::FIRST.append(9);
    assert!(client.count_first(counter, Clock(130), Path::FIRST, 1500));
    assert!(client.count_first(counter, Clock(131), Path::FIRST, 1));
    assert!(client.count_first(counter, Clock(130), copy, 0));
    assert!(!client.count_first(counter, Clock(132), copy, 1 << 40), "too much for a bit");
    let item = |path, bits, amounts: &[(u32, u32)]| CountItem {
        epoch: Clock(128),
        path,
        bits: vec![bits],
        amounts: amounts.to_vec(),
        ..CountItem::default()
    };
    let want = [item(Path::FIRST, 0b1100, &[(2, 1500)]), item(copy, 0b100, &[(2, 0)])];
    assert_eq!(counted(&mut client), want);
}

#[test]
fn whether_an_addition_is_a_bit_depends_on_its_path_alone() {
    let [counter, _] = counters();
    let mut client = client(1);
    let copy = |tap| Path::FIRST.append(tap);
    assert!((1..=255).all(|tap| client.count_first(counter, Clock(0), copy(tap), 1)));
    assert!(!client.count_first(counter, Clock(0), copy(1).append(2), 1));
}

#[test]
fn batches_are_numbered_from_one_for_each_shard() {
    let mut client = client(2);
    let mut numbers = Vec::new();
    for slot in [0, 1, 1, 0] {
        client.version(VALUES, Slot(slot), FlowKey::NONE, Clock(1), None);
        numbers.extend(sent(&mut client, None).iter().map(|(shard, b)| (shard.0, b.number)));
    }
    assert_eq!(numbers, [(0, 1), (1, 1), (1, 2), (0, 2)]);
}

#[test]
fn a_batch_carries_what_was_issued_once_under_its_session() {
    let mut client = client(1);
    let items = [op(7, VALUES, 1, Op::Get), op(6, VALUES, 2, Op::Increment(1))];
    for item in items {
        client.submit(item);
    }
    let record = Some(Record::new(&[1]));
    client.version(OTHER, Slot(3), FlowKey::NONE, Clock(2), record);
    assert!(client.has_ops());
    let batches = sent(&mut client, None);
    assert_eq!(batches.len(), 1);
    let batch = &batches[0].1;
    assert_eq!((batch.from.vertex.0, batch.from.index, batch.generation), (2, 1, Generation(5)));
    assert_eq!(batch.ops, items, "in issue order");
    assert_eq!(batch.versions.len(), 1);
    assert!(!client.has_ops() && sent(&mut client, None).is_empty());
}

#[test]
fn settled_means_that_every_shard_acknowledged_what_was_sent_by_then() {
    let mut client = client(2);
    let both = |client: &mut Client| {
        for slot in [0, 1] {
            client.version(VALUES, Slot(slot), FlowKey::NONE, Clock(1), None);
        }
        sent(client, None);
    };
    both(&mut client);
    let mut issued = Vec::new();
    client.issued(&mut issued);
    both(&mut client);
    client.acknowledged(ShardId(0), 2);
    assert!(!client.settled(&issued), "shard 1 has not answered");
    client.acknowledged(ShardId(1), 1);
    assert!(client.settled(&issued), "later batches do not matter");
    client.issued(&mut issued);
    assert!(!client.settled(&issued));
    client.acknowledged(ShardId(1), 2);
    client.acknowledged(ShardId(0), 1);
    assert!(client.settled(&issued), "acknowledgements do not go back");
}

#[test]
fn a_frontier_is_sent_to_every_shard_and_only_when_it_moved() {
    let mut client = client(2);
    let shards = |batches: Vec<(ShardId, Arc<Batch>)>| -> Vec<u16> {
        assert!(batches.iter().all(|(_, b)| b.frontier == until(5)));
        batches.iter().map(|(shard, _)| shard.0).collect()
    };
    assert_eq!(shards(sent(&mut client, Some(&until(5)))), [0, 1]);
    assert!(sent(&mut client, Some(&until(5))).is_empty());
    client.version(VALUES, Slot(0), FlowKey::NONE, Clock(1), None);
    let batches = sent(&mut client, Some(&until(5)));
    assert!(batches.len() == 1 && batches[0].1.frontier.is_empty(), "it is known there");
    client.version(VALUES, Slot(0), FlowKey::NONE, Clock(1), None);
    assert!(sent(&mut client, None)[0].1.frontier.is_empty(), "nobody needs it");
    assert_eq!(sent(&mut client, Some(&until(6))).len(), 2);
}

#[test]
fn operations_go_where_the_object_lives() {
    let mut client = client(3);
    let place = client.placement();
    let mut go = |item: OpItem| {
        client.submit(item);
        sent(&mut client, None)[0].0
    };
    let shards: Vec<ShardId> = (0..64).map(|key| go(op(1, VALUES, key, Op::Get))).collect();
    let wanted: Vec<ShardId> = (0..64).map(|key| place.value(VALUES, &ObjectKey::number(key))).collect();
    assert_eq!(shards, wanted);
    for shard in 0..3 {
        assert!(shards.contains(&ShardId(shard)), "values are spread over all shards");
    }
    assert_eq!(
        go(op(1, COUNTER, 0, Op::Get)),
        place.whole(COUNTER),
        "a counter's reader asks where it is kept"
    );
    assert_eq!(
        go(op(1, VALUES, 7, Op::Acquire(None))),
        place.slot(Slot(7)),
        "a pool lives with the records of its slot"
    );
    let release = Op::Release { member: 1, owner: 1 };
    assert_eq!(go(op(1, VALUES, (9 << 16) | 7, release)), place.slot(Slot(7)));
}

#[test]
fn counters_and_versions_go_where_they_are_kept() {
    let [_, other] = counters();
    let mut client = client(3);
    assert!(client.count_first(other, Clock(0), Path::FIRST, 1));
    client.gather_counts();
    let place = client.placement();
    assert_eq!(sent(&mut client, None).iter().map(|(s, _)| *s).collect::<Vec<_>>(), [place.whole(OTHER)]);
    client.version(VALUES, Slot(7), FlowKey::NONE, Clock(0), None);
    assert_eq!(sent(&mut client, None).iter().map(|(s, _)| *s).collect::<Vec<_>>(), [place.slot(Slot(7))]);
    assert_ne!(place.whole(OTHER), place.slot(Slot(7)), "so that the two can be told apart");
}

#[test]
fn a_read_of_a_counter_takes_along_what_was_added_to_it() {
    let [counter, other] = counters();
    let mut client = client(1);
    assert!(client.count_first(counter, Clock(0), Path::FIRST, 1));
    client.count(counter, name(0, 1), 5);
    assert!(client.count_first(other, Clock(0), Path::FIRST, 1));
    client.submit(op(1, COUNTER, 0, Op::Get));
    let batches = sent(&mut client, None);
    let [(_, batch)] = batches.as_slice() else { panic!("{batches:?}") };
    assert!(batch.counts.iter().all(|item| item.object == COUNTER), "the other one can wait");
    assert_eq!(batch.counts.iter().map(|item| item.bits.len() + item.pairs.len()).sum::<usize>(), 2);
}

#[test]
fn what_is_not_acknowledged_for_a_whole_time_out_is_sent_again() {
    let mut client = client(1);
    let again = |client: &mut Client| {
        let mut numbers = Vec::new();
        let count = client.retransmit(|_, batch| numbers.push(batch.number));
        assert_eq!(count, numbers.len() as u64);
        numbers
    };
    let send = |client: &mut Client, clock| {
        client.submit(op(clock, VALUES, 0, Op::Increment(1)));
        sent(client, None)
    };
    for clock in 1..=3 {
        send(&mut client, clock);
    }
    assert_eq!(again(&mut client), [0; 0], "the time-out has only begun");
    send(&mut client, 4);
    client.acknowledged(ShardId(0), 1);
    assert_eq!(again(&mut client), [2, 3], "the fourth came after it began");
    assert_eq!(again(&mut client), [2, 3, 4], "nothing has come back");
    client.acknowledged(ShardId(0), 4);
    // An acknowledgement may be late.
    client.acknowledged(ShardId(0), 2);
    assert!(!client.awaits_acknowledgement());
    assert_eq!(again(&mut client), [0; 0]);
}

#[test]
fn the_objects_of_a_vertex_can_live_together() {
    let spread = Placement { shards: 4, seed: 9, home: None };
    let together = Placement { home: Some(ShardId(2)), ..spread };
    let shards_of = |placement: Placement| -> std::collections::BTreeSet<u16> {
        let values = (0..50).map(|n| placement.value(VALUES, &ObjectKey::number(n)));
        let others = (0..50).flat_map(|n| [placement.slot(Slot(n)), placement.whole(ObjectId(n))]);
        values.chain(others).map(|shard| shard.0).collect()
    };
    assert_eq!(shards_of(spread).len(), 4);
    assert_eq!(shards_of(together).into_iter().collect::<Vec<_>>(), [2]);
}
