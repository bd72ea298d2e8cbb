//! Progress, closing and failover.

use super::*;

// Progress and closing: DESIGN section 6.

#[test]
fn progress_is_the_lowest_that_any_sender_may_still_send() {
    let upstream = vec![vec![sender(0), sender(1)], vec![Source::Root(0)]];
    let mut bed = Bed::new(InstanceConfig { upstream, ..config() });
    bed.input_from(sender(0), &[], 20);
    bed.input(&[], 10);
    assert_eq!(bed.at(), (0, true));
    bed.input_from(sender(1), &[], 5);
    assert_eq!(bed.at(), (5, true));
    bed.input_from(sender(1), &[], 3);
    assert_eq!(bed.at(), (5, true), "it does not go back");
    bed.input_from(sender(1), &[], 30);
    bed.input_from(sender(1), &[], 7);
    assert_eq!(bed.at(), (10, true));
    bed.input(&[], 15);
    assert_eq!(bed.at(), (15, true), "nor does what a sender promised");
}

#[test]
fn parked_and_waiting_packets_hold_progress() {
    let mut bed = Bed::new(config());
    bed.input(&[(3, A, "i"), (4, A, "i"), (5, B, "")], 20);
    assert_eq!(bed.progress, Position::packet(Clock(3), Path::FIRST));
    let batch = bed.batches.pop_front().expect("an operation was sent");
    bed.store();
    bed.batches.push_front(batch);
    assert_eq!(bed.progress, Position::packet(Clock(3), Path::FIRST));
    bed.store();
    assert_eq!(bed.at(), (20, true));
    assert_eq!(
        bed.sent.last().map(|(_, data)| clocks(data)),
        Some(vec![4]),
        "progress comes with the last of them"
    );
}

#[test]
fn closing_waits_until_the_shards_have_what_was_written() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "w"), (8, A, "w"), (9, B, "w")], 10);
    assert!(bed.closed.is_empty(), "nothing is acknowledged");
    let versions: Vec<_> = bed.batches.iter().flat_map(|b| &b.versions).collect();
    assert_eq!(versions.iter().map(|v| v.written.0).collect::<Vec<_>>(), [0], "the value at the boundary");
    assert_eq!(versions[0].record.as_ref().map(|r| r.words()[0]), Some(1));
    bed.store();
    assert_eq!(bed.closed, [8]);
    bed.input(&[], 16);
    bed.store();
    assert_eq!(bed.closed, [8, 16]);
}

#[test]
fn a_boundary_is_not_held_up_by_later_ones() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "w")], 9);
    let number = bed.batches[0].number;
    bed.input(&[(9, A, "w")], 17);
    bed.on(InstanceEvent::Acknowledged { shard: ShardId(0), number });
    assert_eq!(bed.closed, [8]);
    bed.store();
    assert_eq!(bed.closed, [8, 16]);
}

#[test]
fn closing_waits_for_what_is_parked() {
    let mut bed = Bed::new(config());
    bed.input(&[(3, A, "i")], 9);
    let number = bed.batches[0].number;
    bed.on(InstanceEvent::Acknowledged { shard: ShardId(0), number });
    assert!(bed.closed.is_empty());
    bed.store();
    assert_eq!(bed.closed, [8]);
}

#[test]
fn a_boundary_version_is_the_record_before_the_boundary_with_its_timers() {
    let mut bed = Bed::new(config());
    bed.input(&[(1, A, "wt")], 2);
    bed.input(&[(9, A, "x")], 10);
    let version = bed.batches.iter().flat_map(|b| &b.versions).find(|v| v.written == Clock(1));
    let record = version.and_then(|v| v.record.clone()).expect("it was removed later");
    let shape = chc_store::record::RecordShape::of(&bed.config.specs[0].kind).expect("per flow");
    assert_eq!((record.words()[0], record.timer(shape, 0).map(|t| t.deadline)), (1, Some(Time(1 + DELAY))));
    bed.store();
    bed.input(&[], 16);
    let removal = bed.batches.iter().flat_map(|b| &b.versions).find(|v| v.written == Clock(9));
    assert_eq!(removal.map(|v| v.record.is_none()), Some(true));
}

// Failover: the paper's section 5.4; DESIGN section 6.

#[test]
fn a_new_generation_registers_and_asks_for_everything_from_the_cut_on() {
    let mut bed = Bed::new(config()).fail();
    assert!(matches!(bed.notes.as_slice(), [InstanceEffect::Register]));
    bed.go(8, 20);
    assert!(
        matches!(bed.notes.as_slice(), [_, InstanceEffect::Replay(Source::Root(0), Clock(8))]),
        "{:?}",
        bed.notes
    );
    let load = &bed.loads[0];
    assert_eq!((load.from, load.generation, load.boundary), (ME, Generation(2), Clock(8)));
    bed.go(16, 20);
    assert_eq!((bed.loads.len(), bed.notes.len()), (1, 2), "it starts once");
}

#[test]
fn a_new_generation_starts_with_the_records_as_of_the_cut() {
    let mut bed = Bed::new(config());
    bed.input(&[(1, A, "wr")], 8);
    bed.store();
    bed.input(&[(9, A, "wr")], 17);
    bed.store();
    assert_eq!((bed.events(), &bed.closed[..]), (vec![(1, 1), (9, 2)], &[8, 16][..]));
    let mut bed = bed.fail();
    bed.go(8, 17);
    bed.load();
    bed.input(&[(9, A, "wr")], 17);
    assert_eq!(bed.events(), [(9, 2)]);
}

#[test]
fn a_new_generation_knows_the_timers_that_were_armed() {
    let mut bed = Bed::new(config());
    bed.input(&[(1, A, "wt")], 9);
    bed.store();
    let mut bed = bed.fail();
    bed.go(8, 9);
    bed.load();
    bed.steps(&[step(12)], 13);
    assert_eq!(bed.events(), [(12, 12)]);
}

#[test]
fn what_comes_before_the_records_are_loaded_is_kept() {
    let mut bed = Bed::new(config());
    bed.input(&[(1, A, "w")], 8);
    bed.store();
    let mut bed = bed.fail();
    bed.input(&[(8, A, "r")], 9);
    bed.go(8, 10);
    bed.input(&[(9, A, "r")], 10);
    assert!(bed.sent.is_empty());
    bed.load();
    assert_eq!(bed.events(), [(8, 1), (9, 1)]);
}

#[test]
fn what_ran_before_gets_the_results_it_got_before() {
    let mut bed = Bed::new(config());
    bed.input(&[(9, A, "i"), (10, B, "s"), (11, C, "i")], 12);
    bed.store();
    assert_eq!(bed.events().len(), 2);
    let mut bed = bed.fail();
    bed.go(8, 12);
    bed.load();
    bed.input(&[(9, A, "i"), (10, B, "s"), (11, C, "i")], 12);
    bed.store();
    assert_eq!(bed.events(), [(9, 1), (11, 3)]);
    assert_eq!(bed.object(Probe::declare().0.serial), Some(Shown::Int(3)));
}

#[test]
fn what_is_counted_again_is_counted_once() {
    let mut bed = Bed::new(config());
    let input = [(1, A, "nnN"), (2, B, "n")];
    bed.input(&input, 9);
    bed.store();
    let mut bed = bed.fail();
    bed.go(0, 9);
    bed.load();
    bed.input(&input, 9);
    bed.store();
    assert_eq!(bed.object(Probe::declare().0.counter.id()), Some(Shown::Int(5)));
}

#[test]
fn results_for_another_generation_are_ignored() {
    let mut bed = Bed::new(config());
    bed.input(&[(9, A, "i")], 10);
    let name = bed.batches[0].ops[0].name;
    for generation in [0, 2] {
        let results = vec![(name, OpValue::Int(7))];
        bed.on(InstanceEvent::Reply(chc_store::batch::Reply {
            results,
            ..chc_store::batch::Reply::empty((ME, Generation(generation)))
        }));
    }
    bed.store();
    assert_eq!(bed.events(), [(9, 1)]);
}

#[test]
fn it_says_when_it_reached_what_was_stamped_before_it_began() {
    let mut bed = Bed::new(config()).fail();
    bed.go(8, 12);
    bed.load();
    bed.notes.clear();
    bed.input(&[(9, A, ""), (10, B, "")], 11);
    assert!(bed.notes.is_empty());
    bed.input(&[(12, C, "")], 13);
    bed.input(&[(13, C, "")], 14);
    assert!(matches!(bed.notes.as_slice(), [InstanceEffect::CaughtUp { replayed: 2 }]), "{:?}", bed.notes);
}

#[test]
fn a_downstream_instance_gets_what_was_sent_to_the_one_before_it() {
    let mut bed = Bed::new(InstanceConfig { ways: ways_to(route(Scope::FiveTuple, 1)), ..config() });
    let to = InstanceId { vertex: VertexId(1), index: 0 };
    bed.input(&[(0, A, "")], 1);
    assert!(bed.left().is_empty());
    bed.on(InstanceEvent::Replay { to, generation: Generation(1), boundary: Clock(0) });
    bed.input(&[(1, A, "")], 2);
    assert_eq!(bed.left(), [0, 1]);
    bed.on(InstanceEvent::Replay { to, generation: Generation(2), boundary: Clock(0) });
    let again: Vec<_> = bed.sent.iter().filter(|(d, _)| *d == Destination::Instance(to)).collect();
    assert!(again.iter().all(|(_, data)| data.to_generation == Generation(2)));
    assert_eq!(bed.left(), [0, 1]);
}

#[test]
fn a_downstream_instance_that_asked_too_early_is_connected_at_the_start() {
    let mut bed = Bed::new(InstanceConfig { ways: ways_to(route(Scope::FiveTuple, 1)), ..config() }).fail();
    let to = InstanceId { vertex: VertexId(1), index: 0 };
    bed.on(InstanceEvent::Replay { to, generation: Generation(5), boundary: Clock(0) });
    bed.go(0, 0);
    bed.load();
    bed.input(&[(0, A, "")], 1);
    let sent = bed.sent.iter().find(|(d, _)| *d == Destination::Instance(to));
    assert_eq!(sent.map(|(_, data)| (data.to_generation, clocks(data))), Some((Generation(5), vec![0])));
}
