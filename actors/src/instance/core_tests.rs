//! One test per guarantee of an instance, driven by hand: messages in, effects out, a shard that answers when the
//! test says so.

use super::*;
use crate::config::StoreMode;
use crate::messages::Destination;
use crate::routing::Route;
use crate::splitter::tests::{SEED, clocks, frame, packets, pool, route, ways_out, ways_to};
use chc_api::nf::{FlowLookup, PacketHint};
use chc_api::state::FlowOptions;
use chc_api::state::{ObjectKind, ObjectSpec};
use chc_api::{
    All, Attachment, Consistency, Context, Counter, Declarations, Event, EventKind, Flow, Identity,
    ObjectKey, Op, OpValue, Passing, Path, Resolution, Scope, StateError, Step, Time, VertexId,
};
use chc_runtime::block::{BlockBuilder, DropRecord};
use chc_store::batch::Batch;
use chc_store::client::Placement;
use chc_store::engine::{ShardConfig, ShardEffect, ShardEngine, VertexSpec};
use chc_store::objects::Shown;
use std::sync::Arc;
use std::time::Duration;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

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

/// The same function as a translator: external ports 9000 + n belong to the connection whose record is n.
struct Translator(Probe);

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

    fn resolve<L: FlowLookup>(&self, identity: &Identity, records: &L) -> Resolution {
        let Some(index) = identity.key.high().port.checked_sub(9000) else { return Resolution::Known };
        match records.find(self.0.flow, u64::from(index)) {
            Some(key) => Resolution::Translated(Identity { key, direction: identity.direction }),
            None => Resolution::Unmapped,
        }
    }
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
        upstream: vec![vec![Source::Root]],
        joins: false,
        mode: StoreMode::ExternalCacheNoAckWait,
        placement: Placement { shards: 1, seed: SEED, home: None },
        parking: 4,
        poisoned: Vec::new(),
        pool: pool(),
        running: Arc::default(),
    }
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
        self.input_from(Source::Root, list, progress);
    }

    /// Steps without packets.
    fn steps(&mut self, steps: &[Step], progress: u64) {
        let data = Data { steps: steps.to_vec(), ..self.message(Source::Root, &[], progress) };
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
    Step { clock: Clock(clock), time: Time::END, number: 0 }
}

const A: u16 = 1;
const B: u16 = 2;
const C: u16 = 3;

// Accepting: the paper's sections 4.2 and 5.3; DESIGN section 6, generations.

#[test]
fn a_position_is_accepted_once_on_each_edge() {
    let upstream = vec![vec![Source::Root], vec![sender(0), sender(1)]];
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
    let upstream = vec![vec![Source::Root, sender(0)]];
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
        let data = bed.message(Source::Root, &[(clock, A, "")], clock + 1);
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
    let mut data = bed.message(Source::Root, &[(1, A, "!"), (2, B, "!")], 3);
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
fn otherwise_a_due_timer_waits_until_the_input_passed_it() {
    let mut bed = Bed::new(config());
    bed.input(&[(0, A, "wt")], 1);
    bed.input(&[(12, B, "")], 12);
    assert_eq!(bed.events(), [], "a packet of its flow with that clock may still come");
    bed.input(&[], 13);
    assert_eq!(bed.events(), [(12, 12)]);
    bed.input(&[(30, A, "")], 31);
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
    assert_eq!(bed.events(), [(2, u32::MAX)], "at the end of time");
    assert_eq!(bed.at(), (8, true));
}

// Progress and closing: DESIGN section 6.

#[test]
fn progress_is_the_lowest_that_any_sender_may_still_send() {
    let upstream = vec![vec![sender(0), sender(1)], vec![Source::Root]];
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
    assert_eq!(versions[0].record.map(|r| r.words()[0]), Some(1));
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
    let record = version.and_then(|v| v.record).expect("it was removed later");
    let shape = chc_store::record::RecordShape::of(&bed.config.specs[0].kind).expect("per flow");
    assert_eq!((record.words()[0], record.timer(shape, 0).map(|t| t.deadline)), (1, Some(Time(1 + DELAY))));
    bed.store();
    bed.input(&[], 16);
    let removal = bed.batches.iter().flat_map(|b| &b.versions).find(|v| v.written == Clock(9));
    assert_eq!(removal.map(|v| v.record), Some(None));
}

// Failover: the paper's section 5.4; DESIGN section 6.

#[test]
fn a_new_generation_registers_and_asks_for_everything_from_the_cut_on() {
    let mut bed = Bed::new(config()).fail();
    assert!(matches!(bed.notes.as_slice(), [InstanceEffect::Register]));
    bed.go(8, 20);
    assert!(
        matches!(bed.notes.as_slice(), [_, InstanceEffect::Replay(Source::Root, Clock(8))]),
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
            records: Vec::new(),
            to: ME,
            generation: Generation(generation),
            results,
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
    let mut bed = Bed::new(config());
    bed.batches.clear();
    bed.input(&[(0, A, "o")], 1);
    let output = stopped(bed, 0);
    assert!(output.contains("has no output 1"), "{output}");
}

// Outputs, packets of its own, attachments, pauses.

/// Two outputs, both to the egress, up to two packets of its own, and copies of what leaves to vertex 1.
fn branching() -> InstanceConfig {
    let mut ways = ways_to(route(Scope::FiveTuple, 1));
    ways.node.copies = std::mem::take(&mut ways.node.outputs[0]);
    ways.node.outputs = vec![Vec::new(); 2];
    ways.node.extra_packets_max = 2;
    ways.node.first_tap = 2;
    InstanceConfig { ways, ..config() }
}

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
        let data = Data { block: Some(block), ..next.message(Source::Root, &[], 6) };
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
    let own = Route { vertex: ME.vertex, ..route(Scope::Global, 1) };
    let mut shared = Bed::new(InstanceConfig { own: Route { instances: 2, ..own }, ..config() });
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
    let data = bed.message(Source::Root, &[(0, A, "m")], 1);
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
    let mut first = translator(vec![Source::Root]);
    first.input(&[(0, A, "")], 0);
    assert_eq!(first.left(), [0], "the root sends in order");
}

#[test]
fn a_translated_packet_runs_under_the_connection_it_belongs_to() {
    let mut bed = translator(vec![Source::Root]);
    bed.input(&[(0, A, "w"), (1, 9001, "r"), (2, 9005, "r")], 3);
    let (_, data) = &bed.sent[0];
    let block = data.block.as_ref().expect("packets and events");
    let key = |at: usize| block.meta(&block.descs[at]).parsed.key;
    assert_eq!(block.events.iter().map(|e| e.event.key).collect::<Vec<_>>(), [key(0), key(2)]);
    assert_eq!(key(1), key(0), "it leaves under that identity");
    assert_eq!(block.descs[1].hash, block.descs[0].hash);
    assert_eq!(bed.events(), [(1, 1), (2, 0)]);
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

// Slots that change hands: the paper's section 5.1 and Figure 4; DESIGN section 6, moves.

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
    let data = Data { changes: vec![change.clone()], ..bed.message(Source::Root, list, progress) };
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
