//! What a network function sees of the ideal chain.

use super::serial::Use;
use super::state::{State, StateKey, StateValue};
use super::{Choices, EventRecord, Packet};
use chc_api::nf::PacketHint;
use chc_api::packet::{PacketKind, Parsed, protocol};
use chc_api::state::{ArmedTimer, Plain, ValueBytes};
use chc_api::{
    Attachment, Context, Counter, Declarations, Direction, Event, Flow, FlowKey, Identity, NetworkFunction,
    ObjectId, ObjectKey, Op, OpValue, Path, Position, Replicated, Resolution, Step, Time, TimerEvent,
    Verdict, VertexId,
};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::future::{Future, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// Packets of a function's own, and where they go.
pub(super) type Extra = Vec<(chc_api::Output, Direction, Vec<u8>)>;

/// What the vertices of a chain write down.
#[derive(Default)]
pub(super) struct Journal {
    pub choices: Option<Choices>,
    pub events: Vec<EventRecord>,
    pub violations: Vec<String>,
    pub serial: Vec<Use>,
}

/// A vertex whose network function's type is forgotten.
pub(super) trait Vertex {
    fn id(&self) -> VertexId;
    /// Runs the timers that are due.
    fn step(&mut self, step: &Step);
    /// Runs one packet: its bytes, its identity and what is attached to it may change. Returns what becomes
    /// of it, and the packets that are sent for it.
    fn packet(&mut self, packet: &mut Packet) -> (Verdict, Extra);
    fn dump(&self, into: &mut BTreeMap<StateKey, StateValue>);
    /// Adds the names of values that may be forgotten.
    fn forgotten(&self, into: &mut BTreeSet<StateKey>);
}

/// A vertex with its network function.
pub(super) struct Typed<N> {
    id: VertexId,
    nf: N,
    run: Rc<RefCell<Run>>,
}

/// The packet or timer that is running, and the state it runs on.
struct Run {
    vertex: VertexId,
    state: State,
    journal: Rc<RefCell<Journal>>,
    now: Time,
    position: Position,
    number: u64,
    identity: Identity,
    parsed: Parsed,
    frame: Vec<u8>,
    wire_len: u32,
    /// Packets of the function's own, and where they go.
    extra: Extra,
    attached: Option<(&'static str, ValueBytes)>,
    operations: u32,
    events: u32,
    /// Members of pools that were acquired.
    acquired: Vec<(ObjectId, ObjectKey, u64)>,
}

impl Run {
    /// How much of the frame is its header region.
    fn head_len(&self) -> usize {
        self.parsed.head_len(&self.frame).min(self.frame.len())
    }

    /// The function panicked: what it acquired is given back, for nobody else would.
    fn disown(&mut self) {
        let (clock, now) = (self.position.clock, self.now);
        for (object, key, member) in std::mem::take(&mut self.acquired) {
            self.state.apply(object, key, Op::Release { member, owner: clock.0 }, (clock, now), 0);
        }
    }
}

impl<N: NetworkFunction> Typed<N> {
    pub(super) fn new(
        id: VertexId,
        nf: N,
        declarations: Declarations,
        window: u64,
        journal: Rc<RefCell<Journal>>,
    ) -> Self {
        let run = Run {
            vertex: id,
            state: State::new(declarations, window),
            journal,
            now: Time::default(),
            position: Position::packet(chc_api::Clock(0), Path::ZERO),
            number: 0,
            identity: Identity::default(),
            parsed: nothing_parsed(),
            frame: Vec::new(),
            wire_len: 0,
            extra: Vec::new(),
            attached: None,
            operations: 0,
            events: 0,
            acquired: Vec::new(),
        };
        Self { id, nf, run: Rc::new(RefCell::new(run)) }
    }

    fn begin(&self, now: Time, position: Position, number: u64, identity: Identity) -> IdealContext {
        let mut run = self.run.borrow_mut();
        run.now = now;
        run.position = position;
        run.number = number;
        run.identity = identity;
        run.parsed = nothing_parsed();
        run.frame = Vec::new();
        run.wire_len = 0;
        run.extra.clear();
        run.attached = None;
        run.operations = 0;
        run.events = 0;
        run.acquired.clear();
        IdealContext(self.run.clone())
    }
}

impl<N: NetworkFunction> Vertex for Typed<N> {
    fn id(&self) -> VertexId {
        self.id
    }

    fn step(&mut self, step: &Step) {
        let due = self.run.borrow().state.due(step.time);
        for (origin, key) in due {
            let is_armed = {
                let state = &mut self.run.borrow_mut().state;
                let armed = state.armed(origin.object, &key, origin.index);
                let setter = Position::packet(origin.setter, origin.setter_path);
                // The handler of an earlier one may have disarmed it or armed it anew.
                let is_armed = armed.is_some_and(|timer| {
                    timer.setter == setter
                        && if step.time.is_end() { timer.at_end } else { timer.deadline <= step.time }
                });
                if is_armed {
                    state.disarm(origin.object, &key, origin.index);
                }
                is_armed
            };
            if is_armed {
                let position = Position::timer(step.clock, origin);
                let identity = Identity { key, direction: Direction::default() };
                let context = self.begin(step.time, position, step.number, identity);
                let event = TimerEvent { object: origin.object, index: origin.index };
                if finish(self.nf.timer(context, event)).is_none() {
                    self.run.borrow_mut().disown();
                }
            }
        }
    }

    fn packet(&mut self, packet: &mut Packet) -> (Verdict, Extra) {
        let Packet { output, parsed, attached } = packet;
        let is_tcp = parsed.protocol == protocol::TCP && parsed.is(PacketKind::HAS_L4);
        let hint = PacketHint {
            tcp_flags: if is_tcp { parsed.tcp_flags } else { 0 },
            tcp: is_tcp,
            payload: !parsed.payload(&output.frame).is_empty(),
            icmp_error: parsed.is(PacketKind::ICMP_ERROR),
        };
        if self.nf.passes(hint) {
            return (Verdict::Forward, Vec::new());
        }
        if let Resolution::Translated(identity) = self.nf.resolve(&output.identity, &self.run.borrow().state)
        {
            output.identity = identity;
        }
        let context = self.begin(output.time, output.position, output.number, output.identity);
        {
            let mut run = self.run.borrow_mut();
            run.parsed = *parsed;
            run.wire_len = output.wire_len;
            run.attached = attached.take();
            run.frame = std::mem::take(&mut output.frame);
        }
        let verdict = finish(self.nf.packet(context));
        let mut run = self.run.borrow_mut();
        if verdict.is_none() {
            run.disown();
        }
        let verdict = verdict.unwrap_or(Verdict::Drop("nf_panic"));
        output.frame = std::mem::take(&mut run.frame);
        *attached = run.attached.take();
        // Whoever comes next is told whose packet it is.
        (parsed.key, parsed.direction) = (output.identity.key, output.identity.direction);
        (verdict, std::mem::take(&mut run.extra))
    }

    fn dump(&self, into: &mut BTreeMap<StateKey, StateValue>) {
        self.run.borrow().state.dump(self.id, into);
    }

    fn forgotten(&self, into: &mut BTreeSet<StateKey>) {
        self.run.borrow().state.forgotten(self.id, into);
    }
}

/// Runs a handler to its end: nothing it awaits is ever late here. `None` if it panicked: a packet that
/// panics its function every time is dropped by the real chain, too.
fn finish<T>(handler: impl Future<Output = T>) -> Option<T> {
    let run = || match pin!(handler).poll(&mut std::task::Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => result,
        Poll::Pending => unreachable!("a network function waits for its context only"),
    };
    catch_unwind(AssertUnwindSafe(run)).ok()
}

/// What a timer sees of a packet.
fn nothing_parsed() -> Parsed {
    Parsed {
        key: FlowKey::NONE,
        direction: Direction::default(),
        kind: PacketKind::default(),
        protocol: 0,
        tcp_flags: 0,
        l3: 0,
        outer_l3: 0,
        l4: 0,
        end: 0,
        reason: None,
    }
}

/// Handle of the packet or timer that is running.
#[derive(Clone)]
struct IdealContext(Rc<RefCell<Run>>);

impl IdealContext {
    fn perform(&self, object: ObjectId, key: ObjectKey, op: Op) -> OpValue {
        let run = &mut *self.0.borrow_mut();
        let name = (run.vertex, run.position, run.operations);
        run.operations += 1;
        let clock = run.position.clock;
        let mut journal = run.journal.borrow_mut();
        let wrong = |what: String| {
            format!("vertex {}, position {:?}, operation {}: {what}", name.0.0, name.1, name.2)
        };
        let Op::Acquire(near) = op else {
            let recorded = journal.choices.as_ref().and_then(|choices| choices.get(&name).copied());
            let is_drawn = run.state.is_drawn(object, &op);
            if is_drawn && recorded.is_none() && journal.choices.is_some() {
                journal.violations.push(wrong("nothing is recorded of a random number".into()));
            }
            let at = (clock, run.now);
            let value = run.state.apply(object, key, op, at, recorded.flatten().unwrap_or_default());
            if is_drawn || !run.state.is_serial_int(object) {
                return value;
            }
            // The order is the real run's: its result stands.
            let value = recorded.map_or(value, |r| r.map_or(OpValue::Empty, |r| OpValue::Int(r as i64)));
            if journal.choices.is_some() {
                let position = run.position;
                journal.serial.push(Use { vertex: run.vertex, object, key, position, op, value });
            }
            return value;
        };
        let recorded = journal.choices.as_ref().map(|choices| choices.get(&name).copied());
        if recorded == Some(None) {
            journal.violations.push(wrong("nothing is recorded of an acquisition".into()));
        }
        let (value, legal) = run.state.acquire(object, (key, near), clock, recorded.flatten());
        if let Err(problem) = legal {
            journal.violations.push(wrong(problem));
        }
        if let OpValue::Int(member) = value {
            run.acquired.push((object, key, member as u64));
        }
        value
    }
}

impl Context for IdealContext {
    fn now(&self) -> Time {
        self.0.borrow().now
    }

    fn position(&self) -> Position {
        self.0.borrow().position
    }

    fn identity(&self) -> Identity {
        self.0.borrow().identity
    }

    fn parsed(&self) -> Parsed {
        self.0.borrow().parsed
    }

    fn header<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        let run = self.0.borrow();
        read(&run.frame[..run.head_len()])
    }

    fn rewrite<R>(&self, change: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut run = self.0.borrow_mut();
        let head_len = run.head_len();
        change(&mut run.frame[..head_len])
    }

    fn payload<R>(&self, len_max: usize, read: impl FnOnce(&[u8]) -> R) -> R {
        let run = self.0.borrow();
        let payload =
            if run.parsed.is(PacketKind::ICMP_ERROR) { &[] } else { run.parsed.payload(&run.frame) };
        read(&payload[..payload.len().min(len_max)])
    }

    fn wire_len(&self) -> u32 {
        self.0.borrow().wire_len
    }

    fn emit(&self, output: chc_api::Output, direction: Direction, frame: &[u8]) {
        self.0.borrow_mut().extra.push((output, direction, frame.to_vec()));
    }

    fn attach<T: Attachment>(&self, value: T) {
        self.0.borrow_mut().attached = Some((T::NAME, ValueBytes::of(&value)));
    }

    fn attached<T: Attachment>(&self) -> Option<T> {
        let (name, value) = self.0.borrow().attached?;
        (name == T::NAME).then(|| value.read()).flatten()
    }

    fn pause(&self, _duration: Duration) -> impl Future<Output = ()> {
        ready(())
    }

    fn get<T: Plain>(&self, object: Flow<T>) -> Option<T> {
        let run = self.0.borrow();
        run.state.get(object.id(), &run.identity.key)?.read()
    }

    fn put<T: Plain>(&self, object: Flow<T>, value: T) {
        let run = &mut *self.0.borrow_mut();
        run.state.put(object.id(), &run.identity.key, ValueBytes::of(&value));
    }

    fn remove<T: Plain>(&self, object: Flow<T>) {
        let run = &mut *self.0.borrow_mut();
        run.state.remove(object.id(), &run.identity.key);
    }

    fn get_at<T: Plain>(&self, object: Flow<T>, key: &FlowKey) -> Option<T> {
        self.0.borrow().state.get(object.id(), key)?.read()
    }

    fn put_at<T: Plain>(&self, object: Flow<T>, key: &FlowKey, value: T) {
        self.0.borrow_mut().state.put(object.id(), key, ValueBytes::of(&value));
    }

    fn remove_at<T: Plain>(&self, object: Flow<T>, key: &FlowKey) {
        self.0.borrow_mut().state.remove(object.id(), key);
    }

    fn arm<T: Plain>(&self, object: Flow<T>, index: u8, deadline: Time, at_end: bool) {
        let run = &mut *self.0.borrow_mut();
        // What a timer arms is named by whoever armed that timer first.
        let setter = match run.position.origin {
            Some(origin) => Position::packet(origin.setter, origin.setter_path),
            None => run.position,
        };
        let timer = ArmedTimer { deadline, setter, at_end };
        run.state.arm(object.id(), &run.identity.key, index, timer, run.now);
    }

    fn disarm<T: Plain>(&self, object: Flow<T>, index: u8) {
        let run = &mut *self.0.borrow_mut();
        run.state.disarm(object.id(), &run.identity.key, index);
    }

    fn armed<T: Plain>(&self, object: Flow<T>, index: u8) -> Option<Time> {
        let run = self.0.borrow();
        run.state.armed(object.id(), &run.identity.key, index).map(|timer| timer.deadline)
    }

    fn read<T: Plain>(&self, object: Replicated<T>, key: &ObjectKey) -> Option<T> {
        let run = self.0.borrow();
        run.state.read(object.id(), key, run.position.clock)?.read()
    }

    fn count(&self, counter: Counter, by: u64) {
        self.0.borrow_mut().state.count(counter, by);
    }

    fn operate(&self, object: ObjectId, key: ObjectKey, op: Op) -> impl Future<Output = OpValue> {
        ready(self.perform(object, key, op))
    }

    fn submit(&self, object: ObjectId, key: ObjectKey, op: Op) {
        self.perform(object, key, op);
    }

    fn done(&self, _object: ObjectId) {}

    fn event(&self, event: Event) {
        let run = &mut *self.0.borrow_mut();
        let number = (run.number > 0).then_some(run.number);
        let (vertex, position, index) = (run.vertex, run.position, run.events);
        run.events += 1;
        run.journal.borrow_mut().events.push(EventRecord { vertex, position, index, number, event });
    }
}
