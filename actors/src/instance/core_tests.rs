//! One test per guarantee of an instance, driven by hand: messages in, effects out, a shard that answers when the
//! test says so.

use super::*;
use crate::config::StoreMode;
use crate::messages::Destination;
use crate::routing::Route;
use crate::splitter::tests::{SEED, clocks, frame, packets, pool, route, ways_out, ways_to};
use chc_api::nf::{FlowLookup, PacketHint};
use chc_api::packet::LinkType;
use chc_api::packet::parse::parse;
use chc_api::state::FlowOptions;
use chc_api::state::{ObjectKind, ObjectSpec};
use chc_api::{
    All, Attachment, Consistency, Context, Counter, Declarations, Event, EventKind, Flow, Identity,
    ObjectKey, Op, OpValue, Passing, Path, Resolution, Scope, StateError, Step, Time, VertexId,
};
use chc_runtime::block::{BlockBuilder, DropRecord};
use chc_store::batch::{Batch, Load};
use chc_store::client::Placement;
use chc_store::engine::{ShardConfig, ShardEffect, ShardEngine, VertexSpec};
use chc_store::objects::Shown;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

#[path = "core_tests/closing.rs"]
mod closing;
#[path = "core_tests/handover.rs"]
mod handover;
#[path = "core_tests/operations.rs"]
mod operations;
#[path = "core_tests/waits.rs"]
mod waits;

const EPOCH: u64 = 8;
const WINDOW: u64 = 64;
/// A timer is due this many clocks after the packet that armed it: packet time is the clock.
const DELAY: u64 = 10;
/// What a test attaches to packets.
#[derive(Clone, Copy, PartialEq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Mark(u64);

impl Attachment for Mark {
    const NAME: &'static str = "mark";
}

/// Flow of the packets the function sends itself.
const EXTRA: u16 = 77;
const PAUSE: Duration = Duration::from_micros(70);

/// Does what the payload says, a letter at a time.
#[derive(Clone)]
struct Probe {
    flow: Flow<u64>,
    counter: Counter,
    serial: ObjectId,
    list: ObjectId,
    timed: ObjectId,
    turn: ObjectId,
    other: Output,
}

impl Probe {
    fn declare() -> (Self, Vec<ObjectSpec>) {
        let mut d = Declarations::default();
        let flow = FlowOptions {
            timers: 3,
            timeout_min: Duration::from_nanos(DELAY),
            index: Some(|_, value| value.try_into().ok().map(u64::from_ne_bytes)),
        };
        let int = || ObjectKind::Int { initial: 0 };
        let list = || ObjectKind::List { len_max: 100 };
        let probe = Self {
            flow: d.flow("flow", flow),
            counter: d.counter("counter"),
            serial: d.basic("serial", Scope::Global, Consistency::Serial, int(), (1, 0)),
            list: d.basic("list", Scope::Global, Consistency::Clock, list(), (1, 0)),
            timed: d.basic("timed", Scope::Global, Consistency::Clock, list(), (0, 1)),
            turn: d.basic("turn", Scope::Global, Consistency::Clock, int(), (1, 0)),
            other: d.output("other"),
        };
        (probe, d.objects)
    }

    fn report<C: Context>(&self, cx: &C, value: u64) {
        let kind = EventKind::Nat { opened: cx.position().is_timer(), external: value as u32, port: 0 };
        let Identity { key, direction } = cx.identity();
        cx.event(Event { kind, key, direction });
    }
}

impl NetworkFunction for Probe {
    async fn packet<C: Context>(&self, cx: C) -> Verdict {
        let parsed = cx.parsed();
        let commands = cx.header(|h| h[usize::from(parsed.l4) + 8..].to_vec());
        match commands.as_slice() {
            b"QQ" => return Verdict::Send(self.other),
            b"QQQ" => return Verdict::Drop("at once"),
            b"QQQQ" => {
                cx.rewrite(|head| head[8] = 1);
                return Verdict::Send(self.other);
            }
            _ => {}
        }
        let clock = cx.position().clock.0;
        let (serial, list, key) = (self.serial, self.list, ObjectKey::GLOBAL);
        for command in commands {
            match command {
                b'i' | b'g' => {
                    let op = if command == b'i' { Op::Increment(1) } else { Op::Get };
                    match cx.operate(serial, key, op).await {
                        OpValue::Int(value) => self.report(&cx, value as u64),
                        other => panic!("{other:?}"),
                    }
                }
                b'u' => match cx.operate(self.turn, key, Op::Increment(1)).await {
                    OpValue::Int(value) => self.report(&cx, value as u64),
                    other => panic!("{other:?}"),
                },
                b's' => cx.submit(serial, key, Op::Increment(1)),
                b'l' => match cx.operate(list, key, Op::Push(clock)).await {
                    OpValue::Empty => self.report(&cx, 0),
                    OpValue::Refused(StateError::OverLimit) => {}
                    other => panic!("{other:?}"),
                },
                b'D' => cx.done(list),
                b'w' => cx.put(self.flow, cx.get(self.flow).unwrap_or(0) + 1),
                b'r' => self.report(&cx, cx.get(self.flow).unwrap_or(0)),
                b'x' => cx.remove(self.flow),
                // Of this slot, in another lane.
                b'K' => cx.put_at(self.flow, &flow_key(beside(APART)), 1),
                // The function need not run slots in order.
                b'k' => cx.put_at(self.flow, &cx.identity().key, 1),
                b't' => cx.arm(self.flow, 0, cx.now() + Duration::from_nanos(DELAY), false),
                b'T' => cx.arm(self.flow, 1, cx.now() + Duration::from_nanos(DELAY), false),
                b'e' => cx.arm(self.flow, 2, cx.now() + Duration::from_secs(1), true),
                b'n' => cx.count(self.counter, 1),
                b'N' => cx.count(self.counter, 2),
                b'Q' => {
                    cx.count(self.counter, 1);
                    let seen = cx.get(self.flow).unwrap_or(0);
                    cx.rewrite(|head| head[8] = seen as u8);
                }
                b'm' => cx.rewrite(|head| head[8] -= 1),
                b'd' => return Verdict::Drop("test"),
                b'o' => return Verdict::Send(self.other),
                b'E' => cx.emit(self.other, cx.identity().direction.reverse(), &frame(EXTRA, "")),
                b'a' => cx.attach(Mark(clock)),
                b'A' => self.report(&cx, cx.attached::<Mark>().map_or(0, |mark| mark.0)),
                b'p' => cx.pause(PAUSE).await,
                _ => panic!("the function is broken"),
            }
        }
        Verdict::Forward
    }

    fn at_once<C: Passing>(&self, cx: &mut C) -> Option<Verdict> {
        match cx.header().get(usize::from(cx.parsed().l4) + 8..)? {
            b"Q" => {
                cx.count(self.counter, 1);
                let seen = cx.record(self.flow, 0).map_or(0, |(seen, _)| seen);
                cx.rewrite(|head| head[8] = seen as u8);
                Some(Verdict::Forward)
            }
            b"QQ" => Some(Verdict::Send(self.other)),
            b"QQQ" => Some(Verdict::Drop("at once")),
            b"QQQQ" => {
                cx.rewrite(|head| head[8] = 1);
                Some(Verdict::Send(self.other))
            }
            _ => None,
        }
    }

    async fn timer<C: Context>(&self, cx: C, timer: TimerEvent) {
        if timer.index == 1 {
            cx.operate(self.timed, ObjectKey::GLOBAL, Op::Push(cx.position().clock.0)).await;
        }
        self.report(&cx, cx.now().0);
    }

    fn passes(&self, hint: PacketHint) -> bool {
        hint.tcp
    }
}

/// The same function as a translator: external ports 9000 + n belong to the connection whose record is n. Flows from
/// [`APART`] on, below those, have no other address.
struct Translator(Probe);

const APART: u16 = 5000;

impl NetworkFunction for Translator {
    const TRANSLATES: bool = true;

    async fn packet<C: Context>(&self, cx: C) -> Verdict {
        self.0.packet(cx).await
    }

    async fn timer<C: Context>(&self, cx: C, timer: TimerEvent) {
        self.0.timer(cx, timer).await;
    }

    fn owner(&self, identity: &Identity) -> Option<Slot> {
        (identity.key.high().port >= 9000).then_some(Slot(0))
    }

    fn lane(&self, key: &FlowKey) -> Option<u64> {
        let port = key.high().port;
        (APART..9000).contains(&port).then(|| port.into())
    }

    fn resolve<L: FlowLookup>(&self, identity: &Identity, records: &L) -> Resolution {
        let Some(index) = identity.key.high().port.checked_sub(9000) else { return Resolution::Known };
        match records.find(self.0.flow, u64::from(index)) {
            Some(key) => Resolution::Translated(Identity { key, direction: identity.direction }),
            None => Resolution::Unmapped,
        }
    }
}

fn flow_key(flow: u16) -> FlowKey {
    parse(LinkType::RAW, &frame(flow, "")).key
}

/// The first flow from this one on that is of the same slot as flow [`A`].
fn beside(from: u16) -> u16 {
    let slot = |flow| config().own.slot_of(&flow_key(flow), flow_key(flow).hash(SEED));
    (from..).find(|flow| slot(*flow) == slot(A)).expect("slots are few")
}

const ME: InstanceId = InstanceId { vertex: VertexId(0), index: 0 };

fn sender(index: u16) -> Source {
    Source::Instance(InstanceId { vertex: VertexId(7), index })
}

fn config() -> InstanceConfig {
    InstanceConfig {
        id: ME,
        generation: Generation(1),
        epoch: EPOCH,
        window: WINDOW,
        specs: Probe::declare().1,
        own: Route { vertex: ME.vertex, ..route(Scope::FiveTuple, 1) },
        ways: ways_out(),
        upstream: vec![vec![Source::Root(0)]],
        joins: false,
        mode: StoreMode::ExternalCacheNoAckWait,
        placement: Placement { shards: 1, seed: SEED, home: None },
        parking: 4,
        poisoned: Vec::new(),
        pool: pool(),
        running: Arc::default(),
    }
}

/// Two outputs, both to the egress, up to two packets of its own, and copies of what leaves to vertex 1.
fn branching() -> InstanceConfig {
    let mut ways = ways_to(route(Scope::FiveTuple, 1));
    ways.node.copies = std::mem::take(&mut ways.node.outputs[0]);
    ways.node.outputs = vec![Vec::new(); 2];
    ways.node.extra_packets_max = 2;
    ways.node.first_tap = 2;
    InstanceConfig { ways, ..config() }
}

/// Clock, flow, payload.
type Packet<'a> = (u64, u16, &'a str);

/// An instance, its shard, and what it wanted done since it was asked last.
struct Bed {
    config: InstanceConfig,
    core: Box<dyn Instance>,
    shard: ShardEngine<All>,
    batches: VecDeque<Arc<Batch>>,
    loads: Vec<Load>,
    sent: Vec<(Destination, Data)>,
    closed: Vec<u64>,
    let_go: Vec<(Slot, SlotRecords)>,
    notes: Vec<InstanceEffect>,
    progress: Position,
}

impl Bed {
    fn created(config: InstanceConfig, core: Box<dyn Instance>, shard: ShardEngine<All>) -> Self {
        Self {
            config,
            core,
            shard,
            batches: VecDeque::new(),
            loads: Vec::new(),
            sent: Vec::new(),
            closed: Vec::new(),
            let_go: Vec::new(),
            notes: Vec::new(),
            progress: Position::before(Clock(0)),
        }
    }

    /// A running instance in its first generation.
    fn new(config: InstanceConfig) -> Self {
        let core = build::<Probe, All>(Probe::declare().0, config.clone());
        Self::with(config, core)
    }

    fn with(config: InstanceConfig, core: Box<dyn Instance>) -> Self {
        let spec = VertexSpec {
            objects: config.specs.clone(),
            instances: config.own.instances,
            per_clock: 1,
            owners: config.own.owners.clone(),
        };
        let shard = ShardConfig {
            shard: ShardId(0),
            window: WINDOW,
            vertices: vec![spec],
            record_choices: false,
            seed: 1,
        };
        let mut bed = Self::created(config, core, ShardEngine::new(shard));
        bed.flush();
        bed.go(0, 0);
        bed.load();
        bed.notes.clear();
        bed
    }

    /// A new generation of this one, not started; the old one is gone.
    fn fail(self) -> Self {
        let config = InstanceConfig { generation: self.config.generation.next(), ..self.config };
        let core = build::<Probe, All>(Probe::declare().0, config.clone());
        let mut bed = Self::created(config, core, self.shard);
        bed.flush();
        bed
    }

    fn go(&mut self, cut: u64, stamped: u64) {
        self.on(InstanceEvent::Go {
            cut: Clock(cut),
            stamped: Clock(stamped),
            downstream: Vec::new(),
            changes: Vec::new(),
            granted: Vec::new(),
        });
    }

    /// The shard answers the load.
    fn load(&mut self) {
        let mut out = Vec::new();
        self.loads.drain(..).for_each(|load| self.shard.on_load(&load, &mut out));
        for effect in out {
            let ShardEffect::Loaded(loaded) = effect else { panic!("{effect:?}") };
            self.on(InstanceEvent::Loaded(loaded));
        }
    }

    fn on(&mut self, event: InstanceEvent) {
        let mut out = Vec::new();
        self.core.on_event(event, &mut out);
        self.take(out);
        self.flush();
    }

    fn flush(&mut self) {
        let mut out = Vec::new();
        self.core.flush(&mut out);
        self.take(out);
        self.core.check_invariants();
    }

    fn take(&mut self, effects: Vec<InstanceEffect>) {
        for effect in effects {
            match effect {
                InstanceEffect::Data(to, data) => {
                    self.progress = data.progress;
                    self.sent.push((to, data));
                }
                InstanceEffect::Batch(_, batch) => self.batches.push_back(batch),
                InstanceEffect::Load(_, load) => self.loads.push(load),
                InstanceEffect::Closed(boundary, records) => {
                    self.closed.push(boundary.0);
                    self.let_go.extend(records);
                }
                other => self.notes.push(other),
            }
        }
    }

    /// The shard takes every batch and answers.
    fn store(&mut self) {
        while self.round_trip() {}
    }

    /// The shard takes the oldest batch and answers; false if there is none.
    fn round_trip(&mut self) -> bool {
        let Some(batch) = self.batches.pop_front() else { return false };
        let mut out = Vec::new();
        self.shard.on_batch(batch, &mut out);
        for effect in out {
            match effect {
                ShardEffect::Reply(reply) => self.on(InstanceEvent::Reply(reply)),
                ShardEffect::Acknowledge { number, .. } => {
                    self.on(InstanceEvent::Acknowledged { shard: ShardId(0), number });
                }
                other => panic!("{other:?}"),
            }
        }
        true
    }

    /// A message with the steps of its packets.
    fn message(&self, from: Source, list: &[Packet<'_>], progress: u64) -> Data {
        Data {
            from,
            from_generation: Generation(1),
            to_generation: self.config.generation,
            steps: list.iter().map(|(clock, ..)| step(*clock)).collect(),
            changes: Vec::new(),
            block: (!list.is_empty()).then(|| packets(list)),
            progress: Position::before(Clock(progress)),
        }
    }

    fn input_from(&mut self, from: Source, list: &[Packet<'_>], progress: u64) {
        let data = self.message(from, list, progress);
        self.on(InstanceEvent::Data(data));
    }

    /// Packets of the only sender, then its progress.
    fn input(&mut self, list: &[Packet<'_>], progress: u64) {
        self.input_from(Source::Root(0), list, progress);
    }

    /// Steps without packets.
    fn steps(&mut self, steps: &[Step], progress: u64) {
        let data = Data { steps: steps.to_vec(), ..self.message(Source::Root(0), &[], progress) };
        self.on(InstanceEvent::Data(data));
    }

    /// Clocks of packets sent since the last call.
    fn left(&mut self) -> Vec<u64> {
        let left = self.sent.iter().flat_map(|(_, data)| clocks(data)).collect();
        self.sent.clear();
        left
    }

    /// (clock, value) of events reported since the last call.
    fn events(&mut self) -> Vec<(u64, u32)> {
        let blocks = self.sent.iter().filter_map(|(_, data)| data.block.as_ref());
        let events = blocks.flat_map(|b| &b.events).map(|e| match e.event.kind {
            EventKind::Nat { external, .. } => (e.position.clock.0, external),
            other => panic!("{other:?}"),
        });
        let events = events.collect();
        self.sent.clear();
        events
    }

    fn at(&self) -> (u64, bool) {
        (self.progress.clock.0, self.progress == Position::before(self.progress.clock))
    }

    fn object(&self, object: ObjectId) -> Option<Shown> {
        self.shard.show_objects().find(|(_, id, ..)| *id == object).map(|(.., shown)| shown)
    }
}

fn step(clock: u64) -> Step {
    Step { clock: Clock(clock), time: Time(clock), number: clock + 1 }
}

fn end(clock: u64) -> Step {
    Step { clock: Clock(clock), time: Time::end_after(Time(clock)), number: 0 }
}

const A: u16 = 1;
const B: u16 = 2;
const C: u16 = 3;

// Accepting: the paper's sections 4.2 and 5.3; DESIGN section 6, generations.

#[test]
fn a_position_is_accepted_once_on_each_edge() {
    let upstream = vec![vec![Source::Root(0)], vec![sender(0), sender(1)]];
    let mut bed = Bed::new(InstanceConfig { upstream, ..config() });
    bed.input(&[(3, A, "n")], 0);
    bed.input(&[(3, A, "n"), (4, A, "n")], 0);
    assert_eq!((bed.left(), bed.core.counts().duplicates), (vec![3, 4], 1));
    bed.input_from(sender(0), &[(3, B, "n")], 0);
    bed.input_from(sender(1), &[(3, B, "n")], 0);
    assert_eq!((bed.left(), bed.core.counts().duplicates), (vec![3], 2));
}

#[test]
fn what_lies_below_the_cut_is_not_accepted() {
    let upstream = vec![vec![Source::Root(0), sender(0)]];
    let mut bed = Bed::new(InstanceConfig { upstream, ..config() });
    bed.on(InstanceEvent::Cut(Clock(8)));
    bed.input(&[(7, A, ""), (8, A, "")], 0);
    assert_eq!(bed.left(), [8]);
    // A clock proves a cut.
    bed.input(&[(WINDOW + 19, A, "")], 0);
    bed.input_from(sender(0), &[(19, A, ""), (20, A, "")], 0);
    assert_eq!(bed.left(), [WINDOW + 19, 20]);
    assert_eq!(bed.core.counts().duplicates, 2);
}

#[test]
fn messages_of_replaced_generations_are_fenced() {
    let mut bed = Bed::new(config());
    let sent = |bed: &Bed, from: u32, to: u32, clock| {
        let data = bed.message(Source::Root(0), &[(clock, A, "")], clock + 1);
        InstanceEvent::Data(Data { from_generation: Generation(from), to_generation: Generation(to), ..data })
    };
    bed.on(sent(&bed, 2, 1, 0));
    bed.on(sent(&bed, 1, 1, 1));
    bed.on(sent(&bed, 2, 0, 2));
    bed.on(sent(&bed, 2, 2, 3));
    assert_eq!((bed.left(), bed.core.counts().fenced), (vec![0], 3));
    assert_eq!(bed.at(), (1, true), "their progress does not count");
}

// Order within a flow: DESIGN section 4, "packets of the same flow wait behind it ... others go on".

#[test]
fn packets_of_a_flow_wait_behind_a_parked_one_and_others_go_on() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "i"), (1, A, "r"), (2, B, ""), (3, A, "")], 4);
    assert_eq!(bed.left(), [2]);
    bed.input(&[(4, A, ""), (5, B, "")], 6);
    assert_eq!(bed.left(), [5]);
    bed.store();
    assert_eq!(bed.left(), [0, 1, 3, 4]);
    assert!(bed.core.is_idle());
}

/// Clock, path and the byte of the header that `Q` writes, of packets to the egress and to vertex 1.
fn marked(bed: &mut Bed) -> [Vec<(u64, u32, u8)>; 2] {
    let mut marked = [Vec::new(), Vec::new()];
    for (to, data) in bed.sent.drain(..) {
        let packets = data.block.iter().flat_map(|b| b.descs.iter().map(move |d| (b, d)));
        let all = packets.map(|(b, d)| (d.clock.0, d.path.0 >> 16, b.head(d)[8]));
        marked[usize::from(to != Destination::Egress)].extend(all);
    }
    marked
}

#[test]
fn a_packet_that_can_be_handled_at_once_does_not_overtake_its_flow() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "w"), (1, A, "Q")], 2);
    assert_eq!(marked(&mut bed)[0], [(0, 0x100, 64), (1, 0x100, 1)]);
    bed.input(&[(2, A, "iw"), (3, A, "Q"), (4, B, "Q")], 5);
    assert_eq!(marked(&mut bed)[0], [(4, 0x100, 0)]);
    bed.store();
    assert_eq!(marked(&mut bed)[0], [(2, 0x100, 64), (3, 0x100, 2)]);
}

#[test]
fn what_is_handled_at_once_leaves_by_its_output_with_its_header_and_its_copies() {
    let mut bed = Bed::new(branching());
    let to = InstanceId { vertex: VertexId(1), index: 0 };
    bed.on(InstanceEvent::Replay { to, generation: Generation(1), boundary: Clock(0) });
    bed.sent.clear();
    bed.input(&[(0, A, "Q"), (1, A, "QQ"), (2, A, "QQQ"), (3, A, "QQQQ"), (4, A, "Q")], 5);
    let drops = bed.sent.iter().filter_map(|(_, data)| data.block.as_ref()).flat_map(|b| &b.drops);
    assert_eq!(drops.map(|drop| (drop.position.clock.0, drop.reason)).collect::<Vec<_>>(), [(2, "at once")]);
    let [out, copies] = marked(&mut bed);
    assert_eq!(out, [(0, 0x100, 0), (1, 0x100, 64), (3, 0x100, 1), (4, 0x100, 0)]);
    assert_eq!(copies, [(0, 0x102, 0), (1, 0x102, 64), (3, 0x102, 1), (4, 0x102, 0)]);
}

#[test]
fn what_is_counted_at_once_and_again_in_a_future_is_counted_once() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "i"), (1, B, "Q"), (2, A, "")], 3);
    bed.store();
    let mut next = bed.fail();
    next.go(0, 3);
    next.load();
    // Now it waits behind a packet of its flow.
    next.input(&[(0, A, "i"), (1, A, "Q"), (2, A, "")], WINDOW);
    next.store();
    next.input(&[], WINDOW);
    next.store();
    assert_eq!(next.object(Probe::declare().0.counter.id()), Some(Shown::Int(1)));
}

#[test]
fn a_packet_in_line_may_park_in_its_turn() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "i"), (1, A, "i"), (2, A, "")], 3);
    let issued = bed.batches.iter().map(|b| b.ops.len()).sum::<usize>();
    assert_eq!(issued, 1, "the second has not begun");
    bed.store();
    assert_eq!(bed.events(), [(0, 1), (1, 2)]);
    assert_eq!(bed.at(), (3, true));
}

#[test]
fn a_packet_that_may_pass_unread_does_not_overtake_its_flow() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "i")], 1);
    // As far as anyone can see without reading them these are TCP, which this function lets pass.
    let mut data = bed.message(Source::Root(0), &[(1, A, "!"), (2, B, "!")], 3);
    let block = data.block.take().expect("two packets");
    let mut builder = BlockBuilder::new(pool());
    for desc in &block.descs {
        let mut tcp = *desc;
        tcp.bits = Desc::TCP;
        builder.forward(&block, &tcp);
    }
    data.block = builder.finish();
    bed.on(InstanceEvent::Data(data));
    assert_eq!(bed.left(), [2]);
    bed.store();
    assert_eq!(bed.left(), [0, 1]);
}

// Timers: DESIGN section 4.

#[test]
fn a_due_timer_runs_before_the_next_packet_of_its_flow() {
    for query in ["r", "rm"] {
        let mut bed = Bed::new(config());
        bed.input(&[(0, A, "wt")], 1);
        bed.input(&[(DELAY + 2, A, query)], 1);
        let time = DELAY as u32 + 2;
        assert_eq!(bed.events(), [(DELAY + 2, time), (DELAY + 2, 1)], "the timer's time, then the record");
    }
}

#[test]
fn a_due_timer_runs_before_a_packet_of_its_flow_that_can_be_handled_at_once_and_before_no_lower_one() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "wt")], 1);
    bed.steps(&[step(DELAY + 2)], 1);
    bed.input(&[(3, A, "Q")], 1);
    assert_eq!(bed.events(), [], "it is due at a later clock");
    bed.input(&[(DELAY + 2, A, "Q")], 1);
    assert_eq!(bed.events(), [(DELAY + 2, DELAY as u32 + 2)]);
}

#[test]
fn otherwise_a_due_timer_waits_until_the_input_passed_it() {
    let upstream = vec![vec![sender(0), sender(1)]];
    let mut bed = Bed::new(InstanceConfig { upstream, ..config() });
    bed.input_from(sender(0), &[(0, A, "wt")], 1);
    bed.input_from(sender(0), &[(12, B, "")], 13);
    assert_eq!(bed.events(), [], "a packet of its flow may still come from the other sender");
    bed.input_from(sender(1), &[], 12);
    assert_eq!(bed.events(), [], "it is due at clock 12");
    bed.input_from(sender(1), &[], 13);
    assert_eq!(bed.events(), [(12, 12)]);
    bed.input_from(sender(0), &[(30, A, "")], 31);
    assert_eq!((bed.events(), bed.core.counts().timers), (vec![], 1), "once");
}

#[test]
fn a_timer_is_due_at_the_first_step_that_reaches_its_deadline() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "wt")], 1);
    bed.steps(&[step(DELAY - 1), step(DELAY), step(DELAY + 1)], 20);
    assert_eq!(bed.events(), [(DELAY, DELAY as u32)]);
}

#[test]
fn a_timer_waits_behind_a_parked_packet_of_its_flow() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "wt"), (5, A, "i")], 6);
    bed.steps(&[step(10)], 20);
    assert_eq!(bed.events(), []);
    assert_eq!(bed.progress, Position::packet(Clock(5), Path::FIRST));
    bed.store();
    assert_eq!(bed.events(), [(5, 1), (10, 10)]);
    assert_eq!(bed.at(), (20, true));
}

#[test]
fn a_packet_waits_behind_a_parked_timer_of_its_flow() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "wT")], 1);
    bed.left();
    bed.input(&[(12, A, ""), (13, B, "")], 14);
    assert_eq!(bed.left(), [13]);
    assert!(bed.progress.is_timer() && bed.progress.clock == Clock(12));
    bed.store();
    assert_eq!(bed.left(), [12]);
    assert_eq!((bed.at(), bed.object(Probe::declare().0.timed)), ((14, true), Some(Shown::List(vec![12]))));
}

#[test]
fn the_end_fires_the_timers_that_ask_for_it_only() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "wt"), (1, B, "we")], 2);
    bed.steps(&[end(2)], 8);
    assert_eq!(bed.events(), [(2, 2)], "at the end, which tells when the last packet was");
    assert_eq!(bed.at(), (8, true));
}
