//! Slots that change hands: the paper's section 5.1 and Figure 4; DESIGN section 6, moves.

use super::*;
use crate::splitter::Ways;
use chc_store::active::InstanceSet;

/// An instance of two, which has all slots or none, and the change at clock 8 that turns it round.
fn turning(index: u16, owner: u16) -> (Bed, Arc<Change>) {
    let mut own = Route { vertex: ME.vertex, ..route(Scope::FiveTuple, 2) };
    own.owners.fill(owner);
    let id = InstanceId { index, ..ME };
    let bed = Bed::new(InstanceConfig { id, own: own.clone(), ..config() });
    let tables = vec![(ME.vertex, own.owners.iter().map(|owner| 1 - owner).collect())];
    (bed, Arc::new(Change { boundary: Clock(8), tables }))
}

fn input_with(bed: &mut Bed, change: &Arc<Change>, list: &[Packet<'_>], progress: u64) {
    let data = Data { changes: vec![change.clone()], ..bed.message(Source::Root(0), list, progress) };
    bed.on(InstanceEvent::Data(data));
}

#[test]
fn who_loses_slots_stops_at_the_boundary_until_it_has_closed_it_and_forgets_them() {
    let (mut bed, change) = turning(0, 0);
    bed.input(&[(0, A, "wt")], 1);
    input_with(&mut bed, &change, &[], 30);
    assert_eq!((bed.at(), bed.closed.as_slice()), ((8, true), [].as_slice()), "the version is on its way");
    bed.store();
    assert_eq!((bed.at(), bed.closed.as_slice()), ((30, true), [8, 24].as_slice()));
    bed.steps(&[step(29)], 30);
    assert_eq!(bed.events(), [], "its timer is another instance's");
}

#[test]
fn who_gains_slots_holds_their_packets_until_they_are_let_go_and_loaded() {
    let (mut bed, change) = turning(1, 0);
    // What the other one left behind.
    let (mut other, _) = turning(0, 0);
    other.input(&[(0, A, "ww")], 8);
    other.batches.iter().for_each(|batch| bed.shard.on_batch(batch.clone(), &mut Vec::new()));

    input_with(&mut bed, &change, &[(8, A, "r"), (9, B, "")], 10);
    bed.store();
    assert_eq!((bed.left(), bed.at(), bed.loads.len()), (vec![], (8, true), 0));
    bed.on(InstanceEvent::Granted { boundary: Clock(8), records: Vec::new() });
    bed.input(&[(10, A, "r")], 11);
    assert_eq!((bed.left(), bed.loads.len()), (vec![], 1), "the records are asked for");
    bed.on(InstanceEvent::Overdue);
    assert_eq!(bed.loads.len(), 2, "and asked for again");
    bed.load();
    assert_eq!(bed.events(), [(8, 2), (10, 2)]);
    assert_eq!((bed.at(), bed.core.counts().handovers), ((11, true), 1));
    bed.input(&[(13, A, ""), (12, B, "")], 14);
    assert_eq!(bed.left(), [13, 12], "afterwards nothing is held");
}

#[test]
fn records_and_their_timers_go_along_to_who_gains_the_slots() {
    let (mut old, change) = turning(0, 0);
    old.input(&[(0, A, "ww"), (1, B, "wt")], 2);
    input_with(&mut old, &change, &[], 10);
    old.store();
    let slots = old.let_go.len();
    assert_eq!(slots, old.config.own.owners.len());

    let (mut new, _) = turning(1, 0);
    input_with(&mut new, &change, &[(8, A, "r")], 10);
    new.store();
    let records = std::mem::take(&mut old.let_go);
    new.on(InstanceEvent::Granted { boundary: Clock(8), records });
    assert_eq!(new.loads.iter().map(|load| load.held.len()).collect::<Vec<_>>(), [slots]);
    new.load();
    assert_eq!(new.events(), [(8, 2)], "no shard had them");
    new.steps(&[step(29)], 30);
    assert_eq!(new.events().len(), 1, "the timer that was armed there is due here");
}

#[test]
fn a_grant_may_come_before_the_change_is_known() {
    let (mut bed, change) = turning(1, 0);
    bed.on(InstanceEvent::Granted { boundary: Clock(8), records: Vec::new() });
    input_with(&mut bed, &change, &[(8, A, "r")], 9);
    bed.store();
    bed.load();
    assert_eq!(bed.events(), [(8, 0)]);
}

#[test]
fn a_sender_without_slots_is_waited_for_from_where_it_gets_some() {
    let vertex = |v| Route { vertex: VertexId(v), ..route(Scope::FiveTuple, 1) };
    let ways = Ways { routes: (0..8).map(vertex).collect(), ..ways_out() };
    let upstream = vec![vec![sender(0), sender(1)]];
    let mut bed = Bed::new(InstanceConfig { upstream, ways, ..config() });
    bed.input_from(sender(0), &[(6, A, "")], 7);
    assert_eq!(bed.at().0, 7, "the other one has nothing to say");
    let tables = vec![(VertexId(7), [0, 1].as_slice().into())];
    let change = Arc::new(Change { boundary: Clock(8), tables });
    let data = bed.message(sender(0), &[], 20);
    bed.on(InstanceEvent::Data(Data { changes: vec![change], ..data }));
    assert_eq!(bed.at().0, 8);
    bed.input_from(sender(1), &[(9, B, "")], 10);
    assert_eq!((bed.left(), bed.at().0), (vec![6, 9], 10));
}

#[test]
fn who_owned_no_slots_understands_nothing_before_it_is_told_what_it_missed() {
    let (bed, change) = turning(1, 0);
    let mut ways = ways_to(route(Scope::FiveTuple, 1));
    ways.routes = [bed.config.own.clone(), Route { instances: 2, ..route(Scope::FiveTuple, 1) }].into();
    let mut bed = Bed::new(InstanceConfig { ways, ..bed.config.clone() });
    bed.on(InstanceEvent::Granted { boundary: Clock(8), records: Vec::new() });
    // What it hears is not all there is.
    let other = Change { boundary: Clock(6), tables: vec![(VertexId(7), [0].as_slice().into())] };
    input_with(&mut bed, &Arc::new(other.clone()), &[], 1);
    input_with(&mut bed, &change, &[(8, A, "r")], 9);
    bed.store();
    assert_eq!(bed.at().0, 1);
    // The next vertex has changed hands meanwhile.
    let tables = vec![(ME.vertex, [0; 64].as_slice().into()), (VertexId(1), [1; 64].as_slice().into())];
    let at_cut = Arc::new(Change { boundary: Clock(4), tables });
    bed.on(InstanceEvent::Awake(vec![at_cut, Arc::new(other), change]));
    bed.store();
    bed.load();
    assert_eq!((bed.events(), bed.at().0), (vec![(8, 0)], 9));
    let next = InstanceId { vertex: VertexId(1), index: 1 };
    bed.on(InstanceEvent::Replay { to: next, generation: Generation(1), boundary: Clock(0) });
    let packets =
        |(to, data): &(Destination, Data)| data.block.is_some() && *to == Destination::Instance(next);
    assert!(bed.sent.iter().any(packets), "it goes by the new table");
}

#[test]
fn shards_hear_who_owns_slots_in_front_of_the_operations_from_there_on() {
    let (mut bed, change) = turning(0, 0);
    input_with(&mut bed, &change, &[(7, A, "i"), (9, A, "i")], 10);
    let told = bed.batches.iter().position(|batch| !batch.active.is_empty()).expect("they are told");
    let above = |batch: &Arc<Batch>| batch.ops.iter().any(|op| op.name.position.clock >= Clock(8));
    assert!(bed.batches.iter().take(told).all(|batch| !above(batch)));
    assert_eq!(bed.batches[told].active, [(Clock(8), InstanceSet::owners(&[1]))]);
}

#[test]
fn packets_are_held_until_all_senders_have_passed_the_boundary_of_their_vertex() {
    let upstream = vec![vec![sender(0), sender(1)]];
    let mut bed = Bed::new(InstanceConfig { upstream, ..config() });
    let tables = vec![(VertexId(7), [1].as_slice().into())];
    let change = Arc::new(Change { boundary: Clock(8), tables });
    let early = bed.message(sender(1), &[(9, A, "")], 10);
    bed.on(InstanceEvent::Data(Data { changes: vec![change], ..early }));
    bed.input_from(sender(0), &[(6, A, "")], 7);
    assert_eq!(bed.left(), [6]);
    bed.input_from(sender(0), &[], 8);
    assert_eq!(bed.left(), [9]);
}

#[test]
fn values_are_held_only_while_nobody_else_owns_slots() {
    let (mut bed, change) = turning(0, 0);
    let back = Arc::new(Change {
        boundary: Clock(16),
        tables: vec![(ME.vertex, bed.config.own.owners.clone().into())],
    });
    let other = InstanceId { index: 1, ..ME };
    let turn = Probe::declare().0.turn;
    let frontier = vec![(turn, Position::before(Clock(8)))];
    let idle = Batch { frontier, ..Batch::empty(other, Generation(1), 1) };
    bed.shard.on_batch(Arc::new(idle), &mut Vec::new());
    bed.input(&[(0, A, "u")], 1);
    bed.store();
    bed.input(&[(1, A, "u")], 2);
    assert_eq!(bed.events(), [(0, 1), (1, 2)], "alone");
    input_with(&mut bed, &change, &[], 8);
    bed.store();
    // The other one was here.
    let name = chc_store::batch::OpName { position: Position::packet(Clock(9), Path::FIRST), index: 0 };
    let answer = chc_store::batch::Answer::Nothing;
    let op = chc_store::batch::OpItem {
        name,
        object: turn,
        key: ObjectKey::GLOBAL,
        op: Op::Increment(5),
        now: Time(9),
        answer,
    };
    let frontier = vec![(turn, Position::before(Clock(100)))];
    let batch = Batch { ops: vec![op], frontier, ..Batch::empty(other, Generation(1), 2) };
    bed.shard.on_batch(Arc::new(batch), &mut Vec::new());
    input_with(&mut bed, &back, &[(16, A, "u")], 17);
    bed.store();
    bed.on(InstanceEvent::Granted { boundary: Clock(16), records: Vec::new() });
    bed.load();
    assert_eq!(bed.events(), [], "it has to ask again");
    bed.store();
    bed.input(&[(17, A, "u")], 18);
    assert_eq!(bed.events(), [(16, 8), (17, 9)]);
}
