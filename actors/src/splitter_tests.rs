//! What a splitter sends, to whom, in which order, and what it can send again; and packets for the tests of the
//! other cores.

use super::*;
use crate::routing::OwnerFn;
use chc_api::packet::link::LinkType;
use chc_api::packet::parse::parse;
use chc_api::{All, Direction, Event, EventKind, FlowKey, Scope, Slot, Step, Time, VertexId};
use chc_runtime::block::{BLOCK_PACKETS_MAX, Ingest};
use std::sync::LazyLock;

pub(crate) const SEED: u64 = 7;

/// The pool of all blocks of these tests: the actors of a chain share one.
pub(crate) fn pool() -> Arc<BlockPool> {
    static POOL: LazyLock<Arc<BlockPool>> = LazyLock::new(BlockPool::new);
    POOL.clone()
}

/// A raw IPv4 datagram from port `flow` of one host to another.
pub(crate) fn frame(flow: u16, payload: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let builder = etherparse::PacketBuilder::ipv4([10, 0, 0, 9], [10, 0, 0, 1], 64).udp(flow, 53);
    builder.write(&mut bytes, payload.as_bytes()).expect("a vector takes everything");
    bytes
}

/// A block as a root would send it: (clock, flow, payload). Packet time is the clock.
pub(crate) fn packets(list: &[(u64, u16, &str)]) -> BlockRef {
    let mut builder = BlockBuilder::new(pool());
    for (clock, flow, payload) in list {
        let frame = frame(*flow, payload);
        let parsed = parse(LinkType::RAW, &frame);
        let (hash, time) = (parsed.key.hash(SEED), Time(*clock));
        let meta = Meta::new(parsed, LinkType::RAW, time, time, clock + 1);
        let wire_len = frame.len() as u32;
        let ingest = Ingest { clock: Clock(*clock), path: Path::FIRST, hash, wire_len, bits: 0 };
        builder.ingest(&mut (&frame).into(), frame.len(), ingest, || meta);
    }
    builder.finish().expect("tests send packets")
}

/// Clocks of the packets in a message.
pub(crate) fn clocks(data: &Data) -> Vec<u64> {
    data.block.iter().flat_map(|b| &b.descs).map(|d| d.clock.0).collect()
}

/// A route to `instances` of vertex 1, slots dealt in turn.
pub(crate) fn route(scope: Scope, instances: u16) -> Route {
    let owners = (0..64).map(|slot| slot % instances).collect();
    let (vertex, later, owner, connection_slot) = (VertexId(1), Vec::new(), None, None);
    Route { vertex, scope, fine: 1, seed: SEED, owners, later, instances, owner, connection_slot }
}

/// All packets to one vertex.
pub(crate) fn ways_to(route: Route) -> Ways {
    let way = Way { to: route.vertex, matching: None };
    // Routes are found by the vertex's number.
    let routes = (0..=route.vertex.0).map(|at| Route { vertex: VertexId(at), ..route.clone() }).collect();
    Ways { node: Node { outputs: vec![vec![way]], ..Node::default() }, routes }
}

/// All packets to the egress.
pub(crate) fn ways_out() -> Ways {
    Ways { node: Node { outputs: vec![Vec::new()], ..Node::default() }, routes: Arc::new([]) }
}

fn instance(index: u16) -> InstanceId {
    InstanceId { vertex: VertexId(1), index }
}

fn step(clock: u64) -> Step {
    Step { clock: Clock(clock), time: Time(clock), number: clock + 1 }
}

/// A splitter with the steps its sender knows and what it sent.
struct Sender {
    splitter: Splitter<All>,
    steps: Steps,
    sent: Vec<(Destination, Data)>,
}

impl Sender {
    fn new(instances: u16, retain: bool) -> Self {
        let ways = ways_to(route(Scope::FiveTuple, instances));
        let splitter = Splitter::new(Source::Root(0), Generation(1), &ways, &pool(), retain);
        Self { splitter, steps: Steps::default(), sent: Vec::new() }
    }

    /// One that instance 0 listens to.
    fn connected() -> Self {
        let mut sender = Self::new(1, true);
        sender.splitter.connect(instance(0), Generation(1), Clock(0));
        sender
    }

    /// Forwards packets of these clocks and sends them.
    fn forward(&mut self, clocks: &[u64], progress: u64) {
        let list: Vec<_> = clocks.iter().map(|clock| (*clock, 1, "")).collect();
        self.steps.extend(&clocks.iter().map(|clock| step(*clock)).collect::<Vec<_>>());
        let block = packets(&list);
        block.descs.iter().for_each(|desc| self.splitter.forward(Output::FIRST, &block, desc));
        self.flush(progress);
    }

    fn flush(&mut self, progress: u64) {
        let mut send = |to, data| self.sent.push((to, data));
        self.splitter.flush(&self.steps, Position::before(Clock(progress)), &mut send);
    }

    fn replay(&mut self, index: u16, generation: u32, boundary: u64) {
        let mut send = |to, data| self.sent.push((to, data));
        let (to, generation) = (instance(index), Generation(generation));
        self.splitter.replay(to, generation, Clock(boundary), &self.steps, &mut send);
    }

    /// What was sent to an instance since the last call: (generation, clocks, progress).
    fn seen(&mut self, index: u16) -> Vec<(u32, Vec<u64>, u64)> {
        let to = Destination::Instance(instance(index));
        let all = std::mem::take(&mut self.sent).into_iter().filter(|(d, _)| *d == to);
        all.map(|(_, d)| (d.to_generation.0, clocks(&d), d.progress.clock.0)).collect()
    }
}

// Partitioning: the paper's section 4.1.

#[test]
fn what_is_not_retained_waits_for_its_receiver() {
    let mut sender = Sender::new(1, false);
    sender.forward(&[0, 1], 2);
    sender.forward(&[2], 3);
    assert!(sender.sent.is_empty(), "nobody is there");
    let mut send = |to, data| sender.sent.push((to, data));
    sender.splitter.replay(instance(0), Generation(1), Clock(0), &sender.steps, &mut send);
    sender.flush(3);
    assert_eq!(sender.sent.iter().flat_map(|(_, data)| clocks(data)).collect::<Vec<_>>(), [0, 1, 2]);
    sender.flush(3);
    assert!(sender.sent.iter().all(|(to, _)| *to == Destination::Instance(instance(0))));
    assert_eq!(sender.sent.iter().flat_map(|(_, data)| clocks(data)).count(), 3, "and is sent once");
}

#[test]
fn both_directions_of_a_connection_go_to_one_instance() {
    let pool = pool();
    for scope in [Scope::FiveTuple, Scope::SourceHost, Scope::Global] {
        let ways = ways_to(route(scope, 3));
        let splitter = Splitter::<All>::new(Source::Root(0), Generation(1), &ways, &pool, true);
        let mut used = [0; 3];
        for n in 0..200u16 {
            let (client, server) = (u32::from(n) << 8 | 9, 0x0a00_0001);
            let pick = |(key, direction): (FlowKey, Direction)| {
                splitter.pick(Output::FIRST, key.hash(SEED), Clock(0), || Identity { key, direction })
            };
            let there = pick(FlowKey::v4(6, client, 40_000 + n, server, 443));
            let back = pick(FlowKey::v4(6, server, 443, client, 40_000 + n));
            assert_eq!(there, back, "{scope:?}");
            used[there.expect("nothing is discarded").edge] += 1;
        }
        let spread = used.iter().filter(|n| **n > 0).count();
        assert_eq!(spread, if scope == Scope::Global { 1 } else { 3 }, "{scope:?}");
    }
}

#[test]
fn all_connections_of_a_host_go_to_one_instance_when_split_by_host() {
    let pool = pool();
    let ways = ways_to(route(Scope::SourceHost, 3));
    let splitter = Splitter::<All>::new(Source::Root(0), Generation(1), &ways, &pool, true);
    let pick = |server: u32, port: u16| {
        let (key, direction) = FlowKey::v4(6, 0x0a00_0009, port, server, 443);
        splitter.pick(Output::FIRST, key.hash(SEED), Clock(0), || Identity { key, direction })
    };
    let first = pick(1, 40_000);
    assert!((0..100).all(|n| pick(u32::from(n), 40_000 + n) == first));
}

#[test]
fn a_packet_to_an_address_the_vertex_gave_out_goes_to_the_slot_that_owns_it() {
    let owner: OwnerFn = Arc::new(|identity| (identity.key.low().port == 53).then_some(Slot(2)));
    let ways = ways_to(Route { owner: Some(owner), ..route(Scope::FiveTuple, 3) });
    let splitter = Splitter::<All>::new(Source::Root(0), Generation(1), &ways, &pool(), true);
    for n in 0..20 {
        let block = packets(&[(0, 1000 + n, "")]);
        let identity = block.meta(&block.descs[0]).parsed.identity();
        let to = splitter.pick(Output::FIRST, block.descs[0].hash, Clock(0), || identity);
        assert_eq!(to, Some(Picked { edge: 2, slot: Some(Slot(2)) }));
    }
}

#[test]
fn whatever_way_a_packet_leaves_its_slot_at_the_receiver_comes_along() {
    let way = |to| vec![Way { to: VertexId(to), matching: None }];
    let copies = [way(2), way(1)].concat();
    let node = Node {
        outputs: vec![way(1)],
        copies,
        copies_in: way(2),
        first_tap: 2,
        extra_packets_max: 1,
        ..Node::default()
    };
    let routes: Arc<[Route]> =
        (0..3).map(|v| Route { vertex: VertexId(v), ..route(Scope::FiveTuple, 3) }).collect();
    let from = Source::Instance(InstanceId { vertex: VertexId(0), index: 0 });
    let ways = Ways { node, routes: routes.clone() };
    let mut splitter = Splitter::<All>::new(from, Generation(1), &ways, &pool(), true);
    let ids =
        [1, 2].into_iter().flat_map(|v| (0..3).map(move |index| InstanceId { vertex: VertexId(v), index }));
    ids.for_each(|to| splitter.connect(to, Generation(1), Clock(0)));
    let block = packets(&(0..30).map(|n| (u64::from(n), 100 + n, "payload")).collect::<Vec<_>>());
    for (at, desc) in block.descs.iter().enumerate() {
        let other = &block.descs[(at + 7) % 30];
        let meta = *block.meta(other);
        match at % 5 {
            0 => splitter.forward(Output::FIRST, &block, desc),
            1 => {
                let identity = || block.meta(desc).parsed.identity();
                let to = splitter.pick(Output::FIRST, desc.hash, desc.clock, identity);
                let at = splitter.rewrite(to, &block, desc, |header| header[8] -= 1);
                splitter.forward_rewritten(to, &block, desc, at);
            }
            2 => {
                let changed = Changed { head: None, meta: Some((meta, None, other.hash)) };
                splitter.forward_changed(Output::FIRST, &block, desc, &changed);
            }
            3 => {
                let (clock, path, hash) = (desc.clock, desc.path, other.hash);
                let ingest = Ingest { clock, path, hash, wire_len: 48, bits: 0 };
                splitter.emit(1, Output::FIRST, &frame(1, ""), path, ingest, meta);
            }
            _ => splitter.enter(&block, desc),
        }
    }
    let mut seen = 0;
    splitter.flush(&Steps::default(), Position::before(Clock(30)), &mut |_, data: Data| {
        for (block, at) in
            data.block.iter().flat_map(|block| (0..block.descs.len()).map(move |at| (block, at)))
        {
            let identity = block.meta(&block.descs[at]).parsed.identity();
            assert_eq!(block.slot(at), Some(routes[1].slot(&identity, identity.key.hash(SEED))));
            seen += 1;
        }
    });
    // Each of four kinds with two copies; of the fifth the copy that enters.
    assert_eq!(seen, 24 * 3 + 6);
}

#[test]
fn a_packet_with_a_new_identity_goes_where_that_belongs() {
    let mut sender = Sender::new(3, true);
    (0..3).for_each(|i| sender.splitter.connect(instance(i), Generation(1), Clock(0)));
    let (old, new) =
        (packets(&[(0, 1, "")]), packets(&(0..32).map(|n| (0, 100 + n, "")).collect::<Vec<_>>()));
    let home = |block: &BlockRef, desc: &Desc| {
        usize::from(route(Scope::FiveTuple, 3).slot(&block.meta(desc).parsed.identity(), desc.hash).0 % 3)
    };
    let away = new.descs.iter().find(|d| home(&new, d) != home(&old, &old.descs[0])).expect("one of 32");
    let changed = Changed { head: None, meta: Some((*new.meta(away), None, away.hash)) };
    sender.splitter.forward_changed(Output::FIRST, &old, &old.descs[0], &changed);
    sender.flush(1);
    assert_eq!(sender.seen(home(&new, away) as u16), [(1, vec![0], 1)]);
}

#[test]
fn events_drops_and_packets_of_the_last_vertex_go_to_the_egress() {
    let from = Source::Instance(instance(0));
    let mut last = Splitter::<All>::new(from, Generation(2), &ways_out(), &pool(), true);
    let block = packets(&[(4, 1, "")]);
    let position = block.descs[0].position();
    last.forward(Output::FIRST, &block, &block.descs[0]);
    last.dropped(DropRecord { position, reason: "test" });
    let kind = EventKind::Nat { opened: true, external: 0, port: 0 };
    let event = Event { kind, key: FlowKey::NONE, direction: Direction::default() };
    last.event(EventRecord { position, index: 0, time: Time(4), number: 5, event });
    let mut sent = Vec::new();
    last.flush(&Steps::default(), Position::before(Clock(5)), &mut |to, data: Data| sent.push((to, data)));
    let [(Destination::Egress, data)] = sent.as_slice() else { panic!("{sent:?}") };
    assert_eq!((clocks(data), data.from, data.from_generation), (vec![4], from, Generation(2)));
    let block = data.block.as_ref().expect("seen above");
    assert_eq!((block.events.len(), block.drops.len()), (1, 1));
}

// Branches and copies.

/// A vertex 0 that sends DNS to vertex 1 and the rest to vertex 2, copies what leaves to 2 and what enters to 1.
fn branching(off_path: bool) -> Splitter<All> {
    let way = |to, matching: Option<&str>| Way {
        to: VertexId(to),
        matching: matching.map(|m| m.parse().expect("a match")),
    };
    let node = Node {
        outputs: vec![vec![way(1, Some("udp/53"))], vec![way(2, None)]],
        copies: vec![way(2, None)],
        copies_in: vec![way(1, Some("udp/1"))],
        extra_packets_max: 1,
        off_path,
        first_tap: 10,
        ..Node::default()
    };
    let routes = (0..3).map(|v| Route { vertex: VertexId(v), ..route(Scope::FiveTuple, 1) }).collect();
    let from = Source::Instance(InstanceId { vertex: VertexId(0), index: 0 });
    let mut splitter = Splitter::new(from, Generation(1), &Ways { node, routes }, &pool(), true);
    for vertex in [1, 2] {
        let to = InstanceId { vertex: VertexId(vertex), index: 0 };
        splitter.connect(to, Generation(1), Clock(0));
    }
    splitter
}

/// Paths of the packets each vertex gets; the egress is vertex 9.
fn sent(splitter: &mut Splitter<All>) -> Vec<(u16, Vec<u32>)> {
    let mut sent = Vec::new();
    let mut send = |to, data: Data| {
        let vertex = if let Destination::Instance(id) = to { id.vertex.0 } else { 9 };
        let paths: Vec<u32> = data.block.iter().flat_map(|b| &b.descs).map(|d| d.path.0).collect();
        sent.extend((!paths.is_empty()).then_some((vertex, paths)));
    };
    splitter.flush(&Steps::default(), Position::before(Clock(1)), &mut send);
    sent.sort();
    sent
}

const FIRST: u32 = Path::FIRST.0;

#[test]
fn a_packet_takes_the_first_way_that_matches_and_copies_have_names_of_their_own() {
    let mut splitter = branching(false);
    let block = packets(&[(0, 1, "")]);
    splitter.forward(Output::FIRST, &block, &block.descs[0]);
    splitter.enter(&block, &block.descs[0]);
    // Taps: 10 a copy of the packet, 11 and 12 the extra one and its copy, 13 a copy of what enters.
    let tap = |tap: u32| FIRST | tap << 16;
    assert_eq!(sent(&mut splitter), [(1, vec![FIRST, tap(13)]), (2, vec![tap(10)])]);
    let changed = Changed { head: Some(&[1; 40]), meta: None };
    splitter.forward_changed(Output::FIRST, &block, &block.descs[0], &changed);
    assert_eq!(sent(&mut splitter), [(1, vec![FIRST]), (2, vec![tap(10)])]);
    let meta = *block.meta(&block.descs[0]);
    let ingest = Ingest { clock: Clock(0), path: Path::FIRST, hash: 0, wire_len: 48, bits: 0 };
    splitter.emit(1, Output::FIRST, &frame(1, ""), Path::FIRST, ingest, meta);
    assert_eq!(sent(&mut splitter), [(1, vec![tap(11)]), (2, vec![tap(12)])]);
}

#[test]
fn what_no_way_takes_leaves_by_egress_or_ends_off_the_path() {
    let other = packets(&[(0, 1, "")]);
    // ICMP matches nothing.
    let mut meta = *other.meta(&other.descs[0]);
    meta.parsed.key = FlowKey::v4(1, 1, 0, 2, 0).0;
    for (off_path, want) in
        [(false, vec![(2, vec![0x010a_0000]), (9, vec![FIRST])]), (true, vec![(2, vec![0x010a_0000])])]
    {
        let mut splitter = branching(off_path);
        let changed = Changed { head: None, meta: Some((meta, None, 0)) };
        splitter.forward_changed(Output::FIRST, &other, &other.descs[0], &changed);
        splitter.dropped(DropRecord { position: Position::packet(Clock(0), Path::FIRST), reason: "test" });
        assert_eq!(sent(&mut splitter), want);
    }
}

#[test]
fn a_whole_block_goes_on_only_where_no_copies_go() {
    let way = |to| vec![Way { to: VertexId(to), matching: None }];
    for (copies_to, whole) in [(1, false), (2, true)] {
        let node = Node { outputs: vec![way(1)], copies: way(copies_to), first_tap: 2, ..Node::default() };
        let routes = (0..3).map(|v| Route { vertex: VertexId(v), ..route(Scope::FiveTuple, 1) }).collect();
        let from = Source::Instance(InstanceId { vertex: VertexId(0), index: 0 });
        let mut splitter = Splitter::<All>::new(from, Generation(1), &Ways { node, routes }, &pool(), true);
        assert_eq!(splitter.has_one_receiver(), whole);
        if whole {
            let to = InstanceId { vertex: VertexId(2), index: 0 };
            splitter.connect(instance(0), Generation(1), Clock(0));
            splitter.connect(to, Generation(1), Clock(0));
            splitter.forward_whole(&packets(&[(0, 1, ""), (1, 2, "")]));
            assert_eq!(sent(&mut splitter), [(1, vec![FIRST; 2]), (2, vec![0x0102_0000; 2])]);
        }
    }
}

// Progress: DESIGN section 6, "It travels in band after outputs, with each burst and when idle".

#[test]
fn progress_follows_the_outputs_below_it() {
    let mut sender = Sender::connected();
    sender.forward(&[0, 1], 2);
    sender.flush(2);
    sender.flush(5);
    sender.flush(5);
    assert_eq!(sender.seen(0), [(1, vec![0, 1], 2), (1, vec![], 5)]);
}

#[test]
fn blocks_that_were_full_before_the_flush_carry_the_progress_before_it() {
    let mut sender = Sender::connected();
    sender.forward(&[0], 1);
    let all: Vec<u64> = (1..=2 * BLOCK_PACKETS_MAX as u64 + 1).collect();
    sender.forward(&all, 10_000);
    let seen = sender.seen(0);
    assert_eq!(seen.iter().map(|(.., progress)| *progress).collect::<Vec<_>>(), [1, 1, 1, 10_000]);
    assert_eq!(seen.iter().skip(1).flat_map(|(_, c, _)| c.clone()).collect::<Vec<_>>(), all);
}

#[test]
fn an_instance_without_slots_is_sent_nothing_before_it_gets_some() {
    let ways = ways_to(Route { instances: 2, ..route(Scope::FiveTuple, 1) });
    let splitter = Splitter::new(Source::Root(0), Generation(1), &ways, &pool(), true);
    let mut sender = Sender { splitter, ..Sender::new(1, true) };
    (0..2).for_each(|index| sender.splitter.connect(instance(index), Generation(1), Clock(0)));
    sender.forward(&[0, 1], 2);
    sender.flush(9);
    assert_eq!(sender.sent.len(), 2, "that is, to the other one");
    sender.sent.clear();

    let change = |boundary, owners: &[u16]| Change {
        boundary: Clock(boundary),
        tables: vec![(VertexId(1), owners.into())],
    };
    sender.splitter.reroute(&change(16, &[0, 1]));
    sender.splitter.reroute(&change(32, &[0]));
    sender.flush(15);
    assert_eq!(sender.seen(1), []);
    sender.flush(16);
    assert_eq!(sender.seen(1), [(1, vec![], 16)]);
    sender.flush(40);
    assert_eq!(sender.seen(1), [(1, vec![], 40)], "it has to know that it has come to its end");
    sender.flush(41);
    assert_eq!(sender.seen(1), []);
}

#[test]
fn steps_are_sent_once_in_front_of_the_packets() {
    let mut sender = Sender::connected();
    sender.forward(&[0, 1], 2);
    sender.forward(&[2], 3);
    sender.steps.extend(&[step(3)]);
    sender.flush(3);
    let sent = sender.sent.iter().filter(|(to, _)| *to != Destination::Egress);
    let sent: Vec<_> = sent.map(|(_, d)| (d.steps.iter().map(|s| s.clock.0).collect(), clocks(d))).collect();
    assert_eq!(sent, [(vec![0, 1], vec![0, 1]), (vec![2], vec![2]), (vec![3], vec![])]);
}

// Retained outputs and replay: DESIGN section 6.

#[test]
fn outputs_are_retained_until_the_cut_passed_them() {
    let mut sender = Sender::connected();
    sender.forward(&[0, 7], 8);
    sender.forward(&[8], 9);
    for (cut, left) in [(7, 2), (8, 1), (8, 1), (9, 0)] {
        sender.splitter.trim(Clock(cut));
        assert_eq!(sender.splitter.retained(), left, "after a cut at {cut}");
    }
}

#[test]
fn what_was_retained_since_the_boundary_is_sent_again_in_the_order_of_sending() {
    let mut sender = Sender::connected();
    for (clocks, progress) in [(&[1, 2][..], 3), (&[9, 10], 5), (&[5, 8], 11), (&[7], 12)] {
        sender.forward(clocks, progress);
    }
    sender.seen(0);
    sender.replay(0, 2, 8);
    assert_eq!(sender.seen(0), [(2, vec![9, 10], 8), (2, vec![5, 8], 8)]);
    sender.flush(12);
    assert_eq!(sender.seen(0), [(2, vec![], 12)], "the progress comes behind all of it");
    sender.forward(&[12], 13);
    assert_eq!(sender.seen(0), [(2, vec![12], 13)]);
}

#[test]
fn a_replay_begins_with_the_steps_from_the_boundary_on() {
    let mut sender = Sender::connected();
    sender.forward(&[1, 7], 8);
    sender.forward(&[8, 9], 10);
    sender.sent.clear();
    sender.replay(0, 2, 8);
    let (_, first) = &sender.sent[0];
    assert_eq!((&first.steps, clocks(first)), (&vec![step(8), step(9)], vec![8, 9]));
}

#[test]
fn an_instance_gets_nothing_before_it_asks_and_then_everything() {
    let mut sender = Sender::new(1, true);
    sender.forward(&[0, 1], 2);
    sender.forward(&[2], 3);
    assert_eq!(sender.seen(0), []);
    sender.replay(0, 1, 0);
    assert_eq!(sender.seen(0), [(1, vec![0, 1], 0), (1, vec![2], 0)]);
    sender.flush(3);
    assert_eq!(sender.seen(0), [(1, vec![], 3)]);
}

#[test]
fn a_replay_is_for_the_instance_that_asked() {
    let mut sender = Sender::new(2, true);
    (0..2).for_each(|i| sender.splitter.connect(instance(i), Generation(1), Clock(0)));
    let block = packets(&(0..32).map(|n| (u64::from(n), n, "")).collect::<Vec<_>>());
    block.descs.iter().for_each(|desc| sender.splitter.forward(Output::FIRST, &block, desc));
    sender.flush(32);
    let before = sender.sent.iter().find(|(to, _)| *to == Destination::Instance(instance(1)));
    let before = before.map(|(_, d)| clocks(d)).expect("some of 32");
    sender.sent.clear();
    sender.replay(1, 2, 0);
    assert!(sender.sent.iter().all(|(to, _)| *to == Destination::Instance(instance(1))));
    assert_eq!(sender.seen(1), [(2, before, 0)]);
}

#[test]
fn a_generation_that_was_replaced_gets_no_replay() {
    let mut sender = Sender::connected();
    sender.forward(&[0], 1);
    sender.replay(0, 3, 0);
    sender.seen(0);
    sender.replay(0, 2, 0);
    assert_eq!(sender.seen(0), []);
    sender.forward(&[1], 2);
    assert_eq!(sender.seen(0), [(3, vec![1], 2)]);
}

#[test]
fn without_retention_nothing_is_kept() {
    let mut sender = Sender::new(1, false);
    sender.splitter.connect(instance(0), Generation(1), Clock(0));
    sender.forward(&[0], 1);
    assert_eq!(sender.splitter.retained(), 0);
    assert_eq!(sender.seen(0), [(1, vec![0], 1)]);
}
