//! What network-function code sees of an instance: the [`Context`] of one packet or timer.

mod waits;

use self::waits::{Operation, Pause, Wait};
use super::config::InstanceConfig;
use super::passing::BIT_COUNTERS;
use super::records::{Records, Spot};
use crate::config::StoreMode;
use crate::routing::Route;
use crate::steps::Steps;
use chc_api::packet::parse::{PacketKind, Parsed};
use chc_api::state::{ArmedTimer, ObjectKind, Plain, ValueBytes};
use chc_api::{
    Attachment, Clock, Consistency, Context, Counter, Direction, Event, Flow, FlowKey, Identity, ObjectId,
    ObjectKey, Op, OpValue, Output, Position, Protection, Protections, Replicated, StateError, Time,
};
use chc_runtime::block::BlockRef;
use chc_store::batch::{Answer, Change, OpItem, OpName};
use chc_store::client::Client;
use chc_store::exclusive::{ExclusiveCache, VALUES_MAX};
use chc_store::objects::Objects;
use chc_store::pool::Acquired;
use chc_store::replicas::Replica;
use hashbrown::HashMap;
use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::future::Future;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

/// Where cross-flow objects live.
pub enum State {
    /// In the store.
    Store(Box<Client>),
    /// In this instance alone.
    Local(Box<Objects>),
}

/// One packet or timer that is running.
pub struct Job {
    /// A timer of this connection's record; otherwise a packet.
    pub is_timer: bool,
    /// Which packet of the job's block. The descriptor is not copied: a copy pieced together on the
    /// stack and read back at once stalls every packet.
    pub at: usize,
    /// Its position.
    pub position: Position,
    /// Packet time.
    pub now: Time,
    /// 1-based number of the input packet, 0 for a void clock.
    pub number: u64,
    /// The connection.
    pub identity: Identity,
    /// Hash of its key.
    pub hash: u64,
    /// Where its records are.
    pub spot: Spot,
    /// The block the packet is in, once the job waits; until then it is the instance's current one.
    pub block: Option<BlockRef>,
    /// The header region as the function rewrote it.
    pub head: Vec<u8>,
    /// Whether it did.
    pub rewritten: bool,
    /// Whether the identity differs from the packet's.
    pub renamed: bool,
    /// Packets of the function's own so far, and where they go.
    pub extra: Vec<(Output, Direction, Vec<u8>)>,
    /// What is attached to the packet.
    pub attached: Option<(&'static str, ValueBytes)>,
    /// Events so far.
    pub events: Vec<Event>,
    /// Whether it did what the store must have before it is sent on, in modes that wait for that.
    unsettled: bool,
    /// Operations issued so far.
    pub issued: u16,
    /// Counter pairs issued so far.
    pairs: u16,
    /// Counters added to, a bit each (of the first 64).
    counted: u64,
    /// Operations issued on each ordered object, in the order of the instance's list of them.
    ordered: [u8; ORDERED_MAX],
    /// Whether the job pauses.
    paused: bool,
    /// What it waits for, and whether a time-out began since it was asked for.
    waits_for: Option<(Wait, bool)>,
    result: Option<OpValue>,
}

/// Most ordered objects a vertex can declare.
pub const ORDERED_MAX: usize = 8;
const DONE: u8 = u8::MAX;

impl Default for Job {
    fn default() -> Self {
        Self {
            is_timer: true,
            at: 0,
            position: Position::before(Clock(0)),
            now: Time(0),
            number: 0,
            identity: Identity { key: FlowKey::NONE, direction: Direction::LowToHigh },
            hash: 0,
            spot: Spot::default(),
            block: None,
            head: Vec::new(),
            rewritten: false,
            renamed: false,
            extra: Vec::new(),
            attached: None,
            events: Vec::new(),
            unsettled: false,
            issued: 0,
            pairs: 0,
            counted: 0,
            ordered: [0; ORDERED_MAX],
            paused: false,
            waits_for: None,
            result: None,
        }
    }
}

impl Job {
    /// Makes the job one for other work; buffers are kept.
    #[inline(always)]
    pub fn reset(&mut self) {
        self.block = None;
        self.rewritten = false;
        self.renamed = false;
        self.extra.clear();
        self.attached = None;
        self.events.clear();
        self.unsettled = false;
        self.issued = 0;
        self.pairs = 0;
        self.counted = 0;
        self.ordered = [0; ORDERED_MAX];
        self.paused = false;
        self.waits_for = None;
        self.result = None;
        self.spot = Spot::default();
    }
}

/// An ordered object of the vertex.
pub struct Ordered {
    /// The object.
    pub object: ObjectId,
    packet_ops_max: u8,
    timer_ops_max: u8,
}

/// What jobs share.
pub struct Inner<P> {
    /// Per-flow records.
    pub records: Records<P>,
    /// Time steps known.
    pub steps: Steps,
    /// Cross-flow objects.
    pub state: State,
    /// Cross-flow values no other instance operates on, where there is something to hold.
    pub cache: Option<ExclusiveCache<P>>,
    /// This instance's copy of the replicated values, where there are any.
    pub replica: Option<Replica<P>>,
    /// Whether nothing below the job at hand can operate on the held values any more.
    pub is_lowest: bool,
    /// Objects whose operations take effect in position order.
    pub ordered: Vec<Ordered>,
    /// The jobs, by slot.
    pub jobs: Vec<Job>,
    /// The block being processed.
    pub current: Option<BlockRef>,
    /// Jobs that wait for an operation.
    waiting: HashMap<OpName, usize>,
    /// Jobs that wait for their records, by position.
    fetching: HashMap<Position, usize>,
    /// Jobs that wait until what they did is acknowledged: those whose batches have not been sent, and with the
    /// batches that were.
    unsettled: Vec<usize>,
    settling: VecDeque<(Vec<u64>, Vec<usize>)>,
    settling_jobs: usize,
    /// How often a job began to wait for the store.
    pub round_trips: u64,
    /// Results that were needed and known at once.
    pub known: u64,
    mode: StoreMode,
    own: Route,
    /// Last results of `serial` reads; used only where that protection is switched off.
    observed: HashMap<(ObjectId, ObjectKey), OpValue>,
    serial: Vec<bool>,
    pools: Vec<ObjectId>,
    seed: u64,
    /// A payload that lies in two places, put together.
    scratch: Vec<u8>,
    /// Pauses that begin.
    pub pauses: Vec<(Position, Duration)>,
    /// Jobs that pause.
    paused: usize,
    /// What the function did that it had not declared.
    pub defect: Option<String>,
    outputs: u8,
    extra_packets_max: u8,
}

/// Shared by an instance and the contexts of its jobs; one thread only.
pub struct Env<P>(RefCell<Inner<P>>);

impl<P: Protections> Env<P> {
    /// The environment of an instance with `slots` jobs at once.
    pub fn new(records: Records<P>, state: State, slots: usize, config: &InstanceConfig) -> Rc<Self> {
        let (specs, seed) = (&config.specs, config.own.seed);
        let is_cached = config.mode.is_stored() && !config.mode.is_uncached();
        let ordered = specs.iter().enumerate().filter(|(_, s)| chc_store::objects::is_ordered(s));
        let ordered = ordered.map(|(i, s)| Ordered {
            object: ObjectId(i as u16),
            packet_ops_max: s.packet_ops_max,
            timer_ops_max: s.timer_ops_max,
        });
        let pools = specs.iter().enumerate().filter(|(_, s)| matches!(s.kind, ObjectKind::Pool { .. }));
        let serial = specs
            .iter()
            .map(|s| s.consistency == Consistency::Serial && !matches!(s.kind, ObjectKind::Pool { .. }));
        Rc::new(Self(RefCell::new(Inner {
            records,
            steps: Steps::default(),
            cache: is_cached.then(|| ExclusiveCache::new(specs, VALUES_MAX)).flatten(),
            replica: Replica::new(specs, config.placement.shards, config.window),
            is_lowest: false,
            state,
            ordered: ordered.take(ORDERED_MAX).collect(),
            jobs: (0..slots).map(|_| Job::default()).collect(),
            current: None,
            waiting: HashMap::new(),
            fetching: HashMap::new(),
            unsettled: Vec::new(),
            settling: VecDeque::new(),
            settling_jobs: 0,
            round_trips: 0,
            known: 0,
            mode: config.mode,
            own: config.own.clone(),
            observed: HashMap::new(),
            serial: serial.collect(),
            pools: pools.map(|(i, _)| ObjectId(i as u16)).collect(),
            seed,
            scratch: Vec::new(),
            pauses: Vec::new(),
            paused: 0,
            defect: None,
            outputs: config.ways.node.outputs.len() as u8,
            extra_packets_max: config.ways.node.extra_packets_max,
        })))
    }

    /// Access for the instance and its contexts, never held across a poll.
    #[inline(always)]
    pub fn inner(&self) -> RefMut<'_, Inner<P>> {
        self.0.borrow_mut()
    }
}

impl<P: Protections> Inner<P> {
    /// The function broke its declaration: it is stopped, with the first reason.
    fn defect(&mut self, slot: usize, what: impl FnOnce() -> String) {
        let position = self.jobs[slot].position;
        self.defect.get_or_insert_with(|| format!("at {position:?} the network function {}", what()));
    }

    /// Whether the job in `slot` may still issue an operation on the `at`-th ordered object.
    #[must_use]
    pub fn may_issue(&self, slot: usize, at: usize) -> bool {
        let (job, object) = (&self.jobs[slot], &self.ordered[at]);
        let max = if job.is_timer { object.timer_ops_max } else { object.packet_ops_max };
        job.ordered[at] < max
    }

    /// Whether timers of this vertex operate on the `at`-th ordered object.
    #[must_use]
    pub fn timers_issue(&self, at: usize) -> bool {
        self.ordered[at].timer_ops_max > 0
    }

    /// A packet will never be finished: what it acquired is given back.
    pub fn disown(&mut self, position: &Position) {
        let State::Store(client) = &mut self.state else { return };
        // Behind all that it may have issued.
        let name = OpName { position: *position, index: u16::MAX };
        for object in &self.pools {
            let (op, key, now, answer) = (Op::Disown, ObjectKey::GLOBAL, Time(0), Answer::Nothing);
            client.disown(OpItem { name, object: *object, key, op, now, answer });
        }
    }

    // By reference down to where it is kept: an operation is long, and copies of it take longer than the rest.
    fn issue(
        &mut self,
        slot: usize,
        object: ObjectId,
        key: &ObjectKey,
        op: &Op,
        reply: bool,
    ) -> Poll<OpValue> {
        if matches!(op, Op::Disown) {
            return Poll::Ready(OpValue::Refused(StateError::WrongType));
        }
        let job = &mut self.jobs[slot];
        let name = OpName { position: job.position, index: job.issued };
        job.issued += 1;
        if let Some(at) = self.ordered.iter().position(|o| o.object == object)
            && !matches!(op, Op::Release { .. })
        {
            let (object_id, object) = (object, &self.ordered[at]);
            let max = if job.is_timer { object.timer_ops_max } else { object.packet_ops_max };
            if job.ordered[at] >= max {
                // The order could not be kept.
                self.defect(slot, || {
                    format!("issued more operations on object {} than the {max} declared", object_id.0)
                });
                return Poll::Ready(OpValue::Refused(StateError::OverLimit));
            }
            job.ordered[at] += 1;
        }
        match &mut self.state {
            State::Local(objects) => {
                let clock = job.position.clock;
                let result = match op {
                    Op::Acquire(near) => {
                        match objects.acquire(object, (key.0[0], *near), clock, clock, true) {
                            Acquired::Member(member) => OpValue::Int(member as i64),
                            _ => OpValue::Empty,
                        }
                    }
                    _ => objects.apply(object, key, op, (clock, job.now)),
                };
                if let Some(replica) = self.replica.as_mut().filter(|_| objects.is_replicated(object)) {
                    let value = objects.differing(object, key);
                    replica.write(&Change { object, key: *key, clock, value });
                }
                Poll::Ready(result)
            }
            State::Store(client) => {
                let item = client.issue(object, key, op);
                item.name = name;
                item.now = job.now;
                item.answer = if reply { Answer::Result } else { Answer::Nothing };
                // Handed on as it is: a result is long, too.
                let known = self.cache.as_mut().map_or(Poll::Pending, |c| c.issue(item, self.is_lowest));
                if known.is_ready() {
                    self.known += u64::from(reply);
                    job.unsettled = true;
                    return known;
                }
                if !reply {
                    job.unsettled = true;
                    return Poll::Ready(OpValue::Empty);
                }
                if !P::on(Protection::ObservedValues) && *op == Op::Get && self.serial[usize::from(object.0)]
                {
                    let last = self.observed.get(&(object, *key)).copied().unwrap_or(OpValue::Int(0));
                    return Poll::Ready(last);
                }
                job.waits_for = Some((Wait::Operation(*item), false));
                self.round_trips += 1;
                self.waiting.insert(name, slot);
                Poll::Pending
            }
        }
    }

    /// Where the records of another key are, which must be of the job's slot and lane, in a function that handles their
    /// packets in order.
    fn beside(&mut self, slot: usize, key: &FlowKey) -> Option<(u64, Spot)> {
        let job = &self.jobs[slot];
        let hash = self.hash(key);
        let place = |key: &FlowKey, hash| (self.own.slot_of(key, hash), self.records.lane(key, hash));
        if self.own.owner.is_none() || place(key, hash) != place(&job.identity.key, job.hash) {
            self.defect(slot, || {
                format!("uses a record of {key}, which is not of this packet's slot and lane")
            });
            return None;
        }
        Some((hash, self.records.spot(key, hash)))
    }

    /// Remembers what reads returned (only where observed values are not protected).
    pub fn observe(&mut self, results: &[(OpName, OpValue)]) {
        if P::on(Protection::ObservedValues) {
            return;
        }
        for (_, value) in results {
            for (object, serial) in self.serial.iter().enumerate() {
                if *serial && matches!(value, OpValue::Int(_)) {
                    self.observed.insert((ObjectId(object as u16), ObjectKey::GLOBAL), *value);
                }
            }
        }
    }

    /// An output must be one of those declared.
    pub fn check_output(&mut self, slot: usize, output: Output) {
        if output.number() >= self.outputs {
            self.defect(slot, || format!("has no output {}", output.number()));
        }
    }

    #[inline(always)]
    fn block(&self, slot: usize) -> Option<&BlockRef> {
        self.jobs[slot].block.as_ref().or(self.current.as_ref())
    }
}

/// The context of the job in one slot.
pub struct Cx<P: 'static> {
    env: Rc<Env<P>>,
    slot: usize,
}

impl<P> Clone for Cx<P> {
    fn clone(&self) -> Self {
        Self { env: self.env.clone(), slot: self.slot }
    }
}

impl<P: Protections> Cx<P> {
    /// The context of the job in `slot`.
    #[inline]
    pub fn new(env: &Rc<Env<P>>, slot: usize) -> Self {
        Self { env: env.clone(), slot }
    }
}

impl<P: Protections> Context for Cx<P> {
    #[inline(always)]
    fn now(&self) -> Time {
        self.env.inner().jobs[self.slot].now
    }

    fn position(&self) -> Position {
        self.env.inner().jobs[self.slot].position
    }

    #[inline(always)]
    fn identity(&self) -> Identity {
        self.env.inner().jobs[self.slot].identity
    }

    fn parsed(&self) -> Parsed {
        let inner = self.env.inner();
        let job = &inner.jobs[self.slot];
        match inner.block(self.slot) {
            Some(block) if !job.is_timer => block.meta(&block.descs[job.at]).parsed,
            _ => Parsed {
                key: job.identity.key,
                direction: job.identity.direction,
                kind: PacketKind::default(),
                protocol: job.identity.key.protocol(),
                tcp_flags: 0,
                l3: 0,
                outer_l3: 0,
                l4: 0,
                end: 0,
                reason: None,
            },
        }
    }

    fn header<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        let inner = self.env.inner();
        let job = &inner.jobs[self.slot];
        match inner.block(self.slot) {
            _ if job.rewritten => read(&job.head),
            Some(block) if !job.is_timer => read(block.head(&block.descs[job.at])),
            _ => read(&[]),
        }
    }

    #[inline(always)]
    fn get_with_timer<T: Plain>(&self, object: Flow<T>, index: u8) -> Option<(T, Option<Time>)> {
        let inner = self.env.inner();
        let job = &inner.jobs[self.slot];
        inner.records.get_with_timer(object.id(), &job.identity.key, job.hash, job.spot, index)
    }

    #[inline(always)]
    fn rewrite<R>(&self, change: impl FnOnce(&mut [u8]) -> R) -> R {
        let mut inner = self.env.inner();
        let inner = &mut *inner;
        let job = &mut inner.jobs[self.slot];
        if !job.rewritten {
            job.rewritten = true;
            job.head.clear();
            let block = job.block.as_ref().or(inner.current.as_ref());
            if let Some(block) = block.filter(|_| !job.is_timer) {
                job.head.extend_from_slice(block.head(&block.descs[job.at]));
            }
        }
        change(&mut job.head)
    }

    fn payload<R>(&self, len_max: usize, read: impl FnOnce(&[u8]) -> R) -> R {
        let mut inner = self.env.inner();
        let Inner { jobs, current, scratch, .. } = &mut *inner;
        let job = &jobs[self.slot];
        let Some(block) = job.block.as_ref().or(current.as_ref()).filter(|_| !job.is_timer) else {
            return read(&[]);
        };
        let desc = &block.descs[job.at];
        let (parsed, head, tail) = (&block.meta(desc).parsed, block.head(desc), block.tail(desc));
        if parsed.is(PacketKind::ICMP_ERROR) {
            return read(&[]);
        }
        let range = parsed.payload_range(head);
        let end = range.end.min(range.start + len_max).min(head.len() + tail.len());
        let start = range.start.min(end);
        if end <= head.len() {
            return read(&head[start..end]);
        }
        // It lies in two places.
        scratch.clear();
        scratch.extend_from_slice(&head[start.min(head.len())..]);
        scratch.extend_from_slice(&tail[start.saturating_sub(head.len())..end - head.len()]);
        read(scratch)
    }

    fn wire_len(&self) -> u32 {
        let inner = self.env.inner();
        let job = &inner.jobs[self.slot];
        let block = inner.block(self.slot).filter(|_| !job.is_timer);
        block.map_or(0, |block| block.descs[job.at].wire_len)
    }

    fn emit(&self, output: Output, direction: Direction, frame: &[u8]) {
        let mut inner = self.env.inner();
        let (job, max) = (&inner.jobs[self.slot], inner.extra_packets_max);
        let max = if job.is_timer { 0 } else { max };
        if job.extra.len() >= usize::from(max) {
            return inner.defect(self.slot, || format!("sent more packets of its own than the {max} it may"));
        }
        inner.check_output(self.slot, output);
        inner.jobs[self.slot].extra.push((output, direction, frame.to_vec()));
    }

    fn attach<T: Attachment>(&self, value: T) {
        self.env.inner().jobs[self.slot].attached = Some((T::NAME, ValueBytes::of(&value)));
    }

    fn attached<T: Attachment>(&self) -> Option<T> {
        let inner = self.env.inner();
        let job = &inner.jobs[self.slot];
        let before = || {
            inner.block(self.slot).filter(|_| !job.is_timer)?.attached(&inner.block(self.slot)?.descs[job.at])
        };
        let (name, value) = job.attached.or_else(before)?;
        (name == T::NAME).then(|| value.read()).flatten()
    }

    fn pause(&self, duration: Duration) -> impl Future<Output = ()> {
        Pause { cx: self.clone(), duration: Some(duration) }
    }

    fn get<T: Plain>(&self, object: Flow<T>) -> Option<T> {
        let inner = self.env.inner();
        let job = &inner.jobs[self.slot];
        inner.records.get(object.id(), &job.identity.key, job.hash, job.spot)
    }

    fn put<T: Plain>(&self, object: Flow<T>, value: T) {
        let mut inner = self.env.inner();
        let Inner { records, jobs, mode, .. } = &mut *inner;
        let job = &mut jobs[self.slot];
        job.unsettled |= mode.is_uncached();
        records.put(object.id(), &job.identity.key, job.hash, job.spot, job.position.clock, &value);
    }

    fn remove<T: Plain>(&self, object: Flow<T>) {
        let mut inner = self.env.inner();
        let Inner { records, jobs, steps, mode, .. } = &mut *inner;
        let job = &mut jobs[self.slot];
        job.unsettled |= mode.is_uncached();
        records.remove(object.id(), &job.identity.key, job.hash, job.spot, job.position.clock, steps);
    }

    fn get_at<T: Plain>(&self, object: Flow<T>, key: &FlowKey) -> Option<T> {
        let mut inner = self.env.inner();
        let (hash, spot) = inner.beside(self.slot, key)?;
        inner.records.get(object.id(), key, hash, spot)
    }

    fn put_at<T: Plain>(&self, object: Flow<T>, key: &FlowKey, value: T) {
        let mut inner = self.env.inner();
        let Some((hash, spot)) = inner.beside(self.slot, key) else { return };
        let Inner { records, jobs, mode, .. } = &mut *inner;
        let job = &mut jobs[self.slot];
        job.unsettled |= mode.is_uncached();
        records.put(object.id(), key, hash, spot, job.position.clock, &value);
    }

    fn remove_at<T: Plain>(&self, object: Flow<T>, key: &FlowKey) {
        let mut inner = self.env.inner();
        let Some((hash, spot)) = inner.beside(self.slot, key) else { return };
        let Inner { records, jobs, steps, mode, .. } = &mut *inner;
        let job = &mut jobs[self.slot];
        job.unsettled |= mode.is_uncached();
        records.remove(object.id(), key, hash, spot, job.position.clock, steps);
    }

    fn arm<T: Plain>(&self, object: Flow<T>, index: u8, deadline: Time, at_end: bool) {
        let mut inner = self.env.inner();
        let Inner { records, jobs, steps, mode, .. } = &mut *inner;
        let job = &mut jobs[self.slot];
        job.unsettled |= mode.is_uncached();
        // A timer that is armed again by its handler keeps the name of the packet that began the
        // chain: its next due clock is later, so the name stays unique.
        let setter = match job.position.origin {
            Some(origin) => Position::packet(origin.setter, origin.setter_path),
            None => job.position,
        };
        let timer = Some(ArmedTimer { deadline, setter, at_end });
        let (key, at) = (&job.identity.key, job.position.clock);
        records.arm(object.id(), key, job.hash, job.spot, index, (at, job.now), timer, steps);
    }

    fn disarm<T: Plain>(&self, object: Flow<T>, index: u8) {
        let mut inner = self.env.inner();
        let Inner { records, jobs, steps, mode, .. } = &mut *inner;
        let job = &mut jobs[self.slot];
        job.unsettled |= mode.is_uncached();
        let (key, at) = (&job.identity.key, job.position.clock);
        records.arm(object.id(), key, job.hash, job.spot, index, (at, job.now), None, steps);
    }

    fn armed<T: Plain>(&self, object: Flow<T>, index: u8) -> Option<Time> {
        let inner = self.env.inner();
        let job = &inner.jobs[self.slot];
        inner.records.timer(object.id(), &job.identity.key, job.hash, job.spot, index).map(|t| t.deadline)
    }

    fn read<T: Plain>(&self, object: Replicated<T>, key: &ObjectKey) -> Option<T> {
        let inner = self.env.inner();
        let clock = inner.jobs[self.slot].position.clock;
        inner.replica.as_ref()?.read(object.id(), key, clock)?.read()
    }

    #[inline(always)]
    fn count(&self, counter: Counter, by: u64) {
        let inner = &mut *self.env.inner();
        let job = &mut inner.jobs[self.slot];
        let client = match &mut inner.state {
            State::Store(client) => client,
            State::Local(objects) => return objects.count(counter.id(), counter.cell(), by),
        };
        let bit = if counter.number() < BIT_COUNTERS { 1 << counter.number() } else { 0 };
        let first = job.counted & bit == 0 && bit != 0 && job.position.origin.is_none();
        job.counted |= bit;
        if !first || !client.count_first(counter, job.position.clock, job.position.path, by) {
            let name = OpName { position: job.position, index: job.pairs };
            job.pairs += 1;
            client.count(counter, name, by);
        }
    }

    fn operate(&self, object: ObjectId, key: ObjectKey, op: Op) -> impl Future<Output = OpValue> {
        Operation { cx: self.clone(), what: Some((object, key, op)) }
    }

    fn submit(&self, object: ObjectId, key: ObjectKey, op: Op) {
        // Whatever it returns, nobody wants to know.
        let _ = self.env.inner().issue(self.slot, object, &key, &op, false);
    }

    fn done(&self, object: ObjectId) {
        let mut inner = self.env.inner();
        if let Some(at) = inner.ordered.iter().position(|o| o.object == object) {
            inner.jobs[self.slot].ordered[at] = DONE;
        }
    }

    fn event(&self, event: Event) {
        self.env.inner().jobs[self.slot].events.push(event);
    }
}

/// The records a packet's connection may be among.
pub struct Among<'a, P> {
    /// All records.
    pub records: &'a Records<P>,
    /// The part of the packet.
    pub part: u32,
}

impl<P: Protections> chc_api::nf::FlowLookup for Among<'_, P> {
    fn find<T: Plain>(&self, object: Flow<T>, index: u64) -> Option<FlowKey> {
        self.records.find(self.part, object.id(), index)
    }
}

/// A waker for futures that are polled when their result is there, never because they asked.
#[must_use]
pub fn waker() -> &'static Waker {
    Waker::noop()
}

impl<P> Inner<P> {
    /// Hash of a connection's key.
    #[must_use]
    pub fn hash(&self, key: &FlowKey) -> u64 {
        key.hash(self.seed)
    }
}
