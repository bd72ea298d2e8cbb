//! Modes that wait for the store, and delivery over a link that loses messages.

use super::*;

// Modes that wait: DESIGN section 5, the paper's section 7.1.

#[test]
fn a_packet_leaves_when_the_store_has_its_updates() {
    let mut bed = Bed::new(InstanceConfig { mode: StoreMode::ExternalCache, ..config() });
    bed.input(&[(0, A, "w"), (1, B, "n"), (2, C, "s"), (3, A, "r")], 4);
    assert_eq!(bed.left(), [0, 3], "a cached record needs nobody's acknowledgement");
    assert_eq!(bed.at(), (1, false), "and what waits holds progress");
    bed.round_trip();
    assert_eq!(bed.left(), [1, 2]);
    assert_eq!(bed.core.counts().round_trips, 2, "one each");
}

#[test]
fn a_packet_waits_for_its_record_and_its_write_where_nothing_is_cached() {
    let mut bed = Bed::new(InstanceConfig { mode: StoreMode::External, ..config() });
    bed.input(&[(0, A, "w"), (1, A, "rw"), (2, B, "r")], 3);
    bed.round_trip();
    assert_eq!(bed.left(), [2], "what only reads needs one round trip");
    bed.round_trip();
    assert_eq!(bed.left(), [0], "what writes needs two");
    bed.store();
    assert_eq!(bed.events(), [(1, 1)], "and the next of its flow begins then");
    assert_eq!(bed.core.counts().round_trips, 5);
}

#[test]
fn a_lost_answer_with_records_is_asked_for_again() {
    let mut bed = Bed::new(InstanceConfig { mode: StoreMode::External, ..config() });
    bed.input(&[(0, A, "r")], 1);
    let batch = bed.batches.pop_front().expect("the record was asked for");
    bed.shard.on_batch(batch, &mut Vec::new());
    bed.on(InstanceEvent::Overdue);
    bed.on(InstanceEvent::Overdue);
    bed.store();
    assert_eq!((bed.left(), bed.core.awaits_store()), (vec![0], false));
}

#[test]
fn a_packet_whose_updates_others_took_along_does_not_wait_for_ever() {
    let mut bed = Bed::new(InstanceConfig { mode: StoreMode::ExternalCache, ..config() });
    // Its counter leaves with the update of the second packet, while it waits for its own operation's result.
    bed.input(&[(0, A, "ni"), (1, B, "n")], 2);
    bed.store();
    assert_eq!(bed.left(), [1, 0]);
}

// Delivery over a link that loses messages: DESIGN section 5, batches of a session.

#[test]
fn a_lost_batch_and_a_lost_result_are_asked_for_again() {
    for lost in ["batch", "answer"] {
        let mut bed = Bed::new(config());
        bed.input(&[(0, A, "i")], 1);
        let batch = bed.batches.pop_front().expect("an operation was sent");
        if lost == "answer" {
            bed.shard.on_batch(batch, &mut Vec::new());
        }
        assert!(bed.core.awaits_store());
        bed.on(InstanceEvent::Overdue);
        assert_eq!(bed.batches.len(), 0, "the time-out has only begun");
        bed.on(InstanceEvent::Overdue);
        bed.store();
        assert_eq!((bed.left(), bed.core.awaits_store()), (vec![0], false), "the {lost} was lost");
        assert_eq!(bed.object(ObjectId(2)), Some(Shown::Int(1)), "applied once");
        assert_eq!(bed.core.counts().retransmitted, 1);
    }
}

#[test]
fn a_lost_load_is_asked_for_again_and_a_repeated_answer_is_taken_once() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "w")], 8);
    bed.store();
    let mut bed = bed.fail();
    bed.go(8, 8);
    bed.loads.clear();
    bed.on(InstanceEvent::Overdue);
    let load = bed.loads.clone();
    bed.load();
    bed.loads = load;
    bed.input(&[(9, A, "w")], 10);
    bed.load();
    bed.input(&[(10, A, "r")], 11);
    assert_eq!(bed.events(), [(10, 2)], "the record was not loaded a second time");
}
