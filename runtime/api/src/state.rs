//! State objects: how a network function declares them and the operations it may offload.
//!
//! A declaration says what an object is keyed by ([`Scope`]), how it is used ([`Access`], the rows of
//! the paper's Table 1) and in which order updates take effect ([`Consistency`]). From it the
//! framework picks the strategy; the network function only holds typed handles.

use crate::identity::FlowKey;
use crate::ids::ObjectId;
pub use crate::op::Op;
use crate::position::Position;
use crate::time::Time;
pub use crate::touched::Touched;
pub use crate::value::{Plain, VALUE_LEN_MAX, ValueBytes};
use core::net::IpAddr;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

/// The packet header fields that key an object. Vertices list theirs from finest to coarsest;
/// traffic is split by the coarsest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// The connection: both directions of a 5-tuple.
    FiveTuple,
    /// The host that opens connections.
    SourceHost,
    /// One object for the whole vertex.
    Global,
}

impl Scope {
    /// The share of traffic, of `slots`, a packet of this connection belongs to.
    ///
    /// A connection's source host is taken to be the endpoint with the higher port (the lower
    /// address on a tie): the one choice that needs no state and is equal for both directions. A
    /// wrong guess costs sharing, never correctness.
    #[inline]
    #[must_use]
    pub fn slot(self, key: &FlowKey, hash: u64, seed: u64, slots: u16) -> u16 {
        let h = match self {
            Scope::FiveTuple => hash,
            Scope::SourceHost => {
                let (low, high) = key.ports();
                let is_high = high > low;
                let host = match key.v4_words() {
                    // What most packets are, without the detour by addresses of either family.
                    Some([_, hosts]) => ObjectKey::v4_host((hosts >> if is_high { 0 } else { 32 }) as u32),
                    None => ObjectKey::host(if is_high { key.high().addr } else { key.low().addr }),
                };
                host.hash(seed)
            }
            Scope::Global => 0,
        };
        // The high bits: the low ones pick table buckets.
        ((u128::from(h) * u128::from(slots)) >> 64) as u16
    }
}

/// How an object is used: the columns of the paper's Table 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Write mostly, read rarely: non-blocking operations, no caching.
    WriteMostly,
    /// Per-flow, any pattern: cached at the owner of its slot, flushed by epoch.
    PerFlow,
    /// Cross-flow, written and read often: operations are offloaded to the shard.
    WriteReadOften,
    /// Cross-flow, read by many packets and written by few: every instance has a copy, which the shard keeps up to date.
    ReadMostly,
}

/// In which order operations and reads of an object take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Consistency {
    /// In position order, exactly as in the ideal chain.
    Clock,
    /// In any serial order, the shard's.
    Serial,
    /// Operations in position order. Reads see what was written a window of clocks before: that has reached every
    /// copy, so a read never waits and is the same wherever and whenever it runs.
    Delayed,
}

/// Most counters of a vertex, cells of arrays included.
pub const COUNTERS_MAX: u16 = 1024;

/// Most outputs of a vertex.
pub const OUTPUTS_MAX: usize = 16;

/// Key of a cross-flow object: five words, compared and hashed whole.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub struct ObjectKey(pub [u64; 5]);

impl ObjectKey {
    /// The one object of a vertex.
    pub const GLOBAL: ObjectKey = ObjectKey([0; 5]);

    /// An object keyed by a number.
    #[must_use]
    pub fn number(n: u64) -> Self {
        Self([n, 0, 0, 0, 0])
    }

    /// An object keyed by a host.
    #[must_use]
    pub fn host(host: IpAddr) -> Self {
        Self::hosts(host, None, 0)
    }

    /// An object keyed by a host and a peer of it (and a port of the peer, or 0).
    #[must_use]
    pub fn contact(host: IpAddr, peer: IpAddr, port: u16) -> Self {
        Self::hosts(host, Some(peer), port)
    }

    /// The same as [`ObjectKey::host`] of an IPv4 address.
    #[inline]
    fn v4_host(host: u32) -> Self {
        Self([1, 0, 0xffff_0000_0000 | u64::from(host), 0, 0])
    }

    fn hosts(host: IpAddr, peer: Option<IpAddr>, port: u16) -> Self {
        let words = |a: IpAddr| {
            let v6 = match a {
                IpAddr::V4(a) => a.to_ipv6_mapped(),
                IpAddr::V6(a) => a,
            };
            let n = u128::from(v6);
            [(n >> 64) as u64, n as u64]
        };
        let [a, b] = words(host);
        let [c, d] = peer.map_or([0, 0], words);
        // Word 0 tells families apart: a mapped IPv4 address is not the IPv6 address of that form.
        let family = u64::from(host.is_ipv4()) | u64::from(peer.is_some()) << 1 | u64::from(port) << 8;
        Self([family, a, b, c, d])
    }

    /// The key of the host alone, of an object keyed by a host and perhaps a peer of it.
    #[must_use]
    pub fn of_host(&self) -> Self {
        let Self([family, a, b, ..]) = *self;
        Self([family & 1, a, b, 0, 0])
    }

    /// Seeded hash.
    #[inline]
    #[must_use]
    pub fn hash(&self, seed: u64) -> u64 {
        crate::identity::hash_words(&self.0, seed)
    }
}

/// What an operation returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum OpValue {
    /// Nothing to return: the list or pool was empty, the value unset.
    Empty,
    /// An integer: the new value, the popped element, the acquired member; for compare-and-update
    /// and release 1 when done and 0 when the condition did not hold.
    Int(i64),
    /// A value's bytes.
    Bytes(ValueBytes),
    /// The operation was refused and changed nothing.
    Refused(StateError),
}

impl OpValue {
    /// A hash of it.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        let (kind, [a, b]) = match self {
            OpValue::Empty => (0, [0; 2]),
            OpValue::Int(n) => (1, [*n as u64, 0]),
            OpValue::Refused(error) => (2, [*error as u64, 0]),
            OpValue::Bytes(value) => (3, [value.as_slice().len() as u64, value.fingerprint()]),
        };
        crate::identity::hash_words(&[kind, a, b, 0, 0], 4)
    }
}

/// Why an operation was refused.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    Hash,
    thiserror::Error,
    rkyv::Archive,
    rkyv::Serialize,
    rkyv::Deserialize,
)]
pub enum StateError {
    /// The operation does not exist for this kind of object.
    #[error("the operation does not exist for this kind of object")]
    WrongType,
    /// No custom operation has that number.
    #[error("the object declares no custom operation of that number")]
    UnknownOperation,
    /// The list would exceed its declared limit.
    #[error("the list is at its declared limit")]
    OverLimit,
    /// Batches of an instance that was replaced, or of one that does not own the slot.
    #[error("the instance does not own this object in this generation")]
    NotOwner,
    /// The vertex declares no such object.
    #[error("the vertex declares no such object")]
    UnknownObject,
}

/// A custom operation: a pure function on the object's bytes.
#[derive(Clone, Copy)]
pub struct CustomOp {
    /// Its name, for reports.
    pub name: &'static str,
    apply: Apply,
}

#[derive(Clone, Copy)]
enum Apply {
    Determined(fn(&mut ValueBytes, &ValueBytes) -> OpValue),
    Drawn(fn(&mut ValueBytes, &ValueBytes, u64) -> OpValue),
}

impl CustomOp {
    /// A deterministic operation. `apply` gets the current value (the declared initial one at first) and the
    /// argument; it writes the new value in place and returns the result.
    #[must_use]
    pub const fn new(name: &'static str, apply: fn(&mut ValueBytes, &ValueBytes) -> OpValue) -> Self {
        Self { name, apply: Apply::Determined(apply) }
    }

    /// An operation that is not deterministic: `apply` gets a random number, too. The shard draws it once and logs
    /// what came of it, so that a packet that runs again gets the same result.
    #[must_use]
    pub const fn drawn(name: &'static str, apply: fn(&mut ValueBytes, &ValueBytes, u64) -> OpValue) -> Self {
        Self { name, apply: Apply::Drawn(apply) }
    }

    /// Whether it needs a random number.
    #[must_use]
    pub fn is_drawn(&self) -> bool {
        matches!(self.apply, Apply::Drawn(_))
    }

    /// Applies it; `draw` is called for the random number if it needs one.
    pub fn apply(
        &self,
        value: &mut ValueBytes,
        argument: &ValueBytes,
        draw: impl FnOnce() -> u64,
    ) -> OpValue {
        match self.apply {
            Apply::Determined(apply) => apply(value, argument),
            Apply::Drawn(apply) => apply(value, argument, draw()),
        }
    }
}

impl fmt::Debug for CustomOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// The members of the pool with the given key.
pub type PoolMembers = Arc<dyn Fn(u64) -> Range<u64> + Send + Sync>;
/// The secondary key of a per-flow object's value, if it has one.
pub type FlowIndexFn = fn(key: &FlowKey, value: &[u8]) -> Option<u64>;

/// What kind of object was declared, and its limits.
#[derive(Clone)]
pub enum ObjectKind {
    /// A commutative counter; deltas are coalesced per burst.
    Counter {
        /// How many there are, keyed by number from 0.
        cells: u16,
    },
    /// A per-flow record with timers, cached at the owner of its slot.
    Flow {
        /// Bytes of the value.
        value_len: usize,
        /// How many timers a record has (at most 4).
        timers: u8,
        /// The shortest delay any of its timers is ever armed with.
        timeout_min: Duration,
        /// Secondary key by which the record can be found.
        index: Option<FlowIndexFn>,
    },
    /// A cross-flow value changed by custom operations, get and set.
    Value {
        /// What it is before the first operation.
        initial: ValueBytes,
        /// Custom operations by number.
        ops: &'static [CustomOp],
    },
    /// A cross-flow integer.
    Int {
        /// What it is before the first operation.
        initial: i64,
    },
    /// A cross-flow list.
    List {
        /// Most elements it may hold.
        len_max: usize,
    },
    /// Pools of owned resources, one per key.
    Pool {
        /// The members of each.
        members: PoolMembers,
    },
}

/// The declaration of one state object.
#[derive(Clone)]
pub struct ObjectSpec {
    /// Its name: unique in the vertex, shown in state listings.
    pub name: &'static str,
    /// What it is keyed by.
    pub scope: Scope,
    /// How it is used.
    pub access: Access,
    /// In which order operations take effect.
    pub consistency: Consistency,
    /// What it is.
    pub kind: ObjectKind,
    /// Most operations with a place in the order that one packet issues on it.
    pub packet_ops_max: u8,
    /// The same for one timer.
    pub timer_ops_max: u8,
    /// How long after the last operation on it a value is forgotten, if ever.
    pub idle: Option<Duration>,
    /// Most keys whose values differ from the initial one, if that is limited: operations on others are refused.
    pub keys_max: Option<usize>,
}

/// Handle of a per-flow object with values of type `T`.
pub struct Flow<T>(ObjectId, PhantomData<fn() -> T>);
/// Handle of a coalesced counter: the object, which of its cells, and its number among the cells of all the
/// vertex's counters.
#[derive(Clone, Copy, Debug)]
pub struct Counter {
    object: ObjectId,
    cell: u16,
    number: u16,
}
/// Handle of an array of coalesced counters.
#[derive(Clone, Copy, Debug)]
pub struct CounterArray {
    first: Counter,
    cells: u16,
}
/// Handle of a cross-flow value of type `T`.
pub struct Shared<T>(ObjectId, PhantomData<fn() -> T>);
/// Handle of a cross-flow value of type `T` of which every instance has a copy.
pub struct Replicated<T>(ObjectId, PhantomData<fn() -> T>);
/// Handle of a family of resource pools.
#[derive(Clone, Copy, Debug)]
pub struct Pool(ObjectId);

impl<T> Clone for Flow<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Flow<T> {}
impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Shared<T> {}
impl<T> Clone for Replicated<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Replicated<T> {}

impl<T> Flow<T> {
    /// The declared object.
    #[must_use]
    pub fn id(self) -> ObjectId {
        self.0
    }
}
impl<T> Shared<T> {
    /// The declared object.
    #[must_use]
    pub fn id(self) -> ObjectId {
        self.0
    }
}
impl<T> Replicated<T> {
    /// The declared object.
    #[must_use]
    pub fn id(self) -> ObjectId {
        self.0
    }
}
impl Counter {
    /// The declared object.
    #[must_use]
    pub fn id(self) -> ObjectId {
        self.object
    }

    /// Which of the object's cells: the number it is keyed by.
    #[must_use]
    pub fn cell(self) -> u16 {
        self.cell
    }

    /// Its number among the counters of the vertex, from 0.
    #[must_use]
    pub fn number(self) -> u16 {
        self.number
    }
}
impl CounterArray {
    /// One of the counters.
    ///
    /// # Panics
    /// If there are not as many: a mistake in the network function's code.
    #[must_use]
    pub fn at(self, cell: usize) -> Counter {
        assert!(cell < usize::from(self.cells), "counter {cell} of {}", self.cells);
        let cell = cell as u16;
        Counter { cell, number: self.first.number + cell, ..self.first }
    }
}
impl Pool {
    /// The declared object.
    #[must_use]
    pub fn id(self) -> ObjectId {
        self.0
    }
}

/// How to declare a per-flow object.
#[derive(Clone, Copy, Default)]
pub struct FlowOptions {
    /// Timers a record has (at most 4).
    pub timers: u8,
    /// The shortest delay any timer is armed with; timers shorter than this are refused at run time
    /// by rounding up.
    pub timeout_min: Duration,
    /// Secondary key by which a record can be found.
    pub index: Option<FlowIndexFn>,
}

/// Handle of an output: where a packet leaves a vertex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Output(u8);

impl Output {
    /// The output every function has.
    pub const FIRST: Output = Output(0);

    /// Its number, from 0.
    #[must_use]
    pub fn number(self) -> u8 {
        self.0
    }
}

/// Name of the output every function has.
pub const FIRST_OUTPUT: &str = "out";

/// The declarations of one vertex, filled by its network function.
#[derive(Clone)]
pub struct Declarations {
    /// The objects; an [`ObjectId`] is an index into it.
    pub objects: Vec<ObjectSpec>,
    /// Names of the outputs, [`FIRST_OUTPUT`] first.
    pub outputs: Vec<&'static str>,
    /// Most packets of its own the function sends for one packet.
    pub extra_packets_max: u8,
}

impl Default for Declarations {
    fn default() -> Self {
        Self { objects: Vec::new(), outputs: vec![FIRST_OUTPUT], extra_packets_max: 0 }
    }
}

impl Declarations {
    fn add(&mut self, spec: ObjectSpec) -> ObjectId {
        let id =
            ObjectId(u16::try_from(self.objects.len()).expect("a vertex declares fewer than 65,536 objects"));
        self.objects.push(spec);
        id
    }

    /// Declares an output beside the first. What is sent there and no edge leads on from leaves by egress.
    ///
    /// # Panics
    /// If the vertex has 16 outputs already or one of that name: a mistake in the network function's code.
    pub fn output(&mut self, name: &'static str) -> Output {
        assert!(!self.outputs.contains(&name), "two outputs are called {name}");
        assert!(self.outputs.len() < OUTPUTS_MAX, "a vertex has at most {OUTPUTS_MAX} outputs");
        self.outputs.push(name);
        Output(self.outputs.len() as u8 - 1)
    }

    /// Declares that the function sends up to `max` packets of its own for one packet.
    pub fn extra_packets(&mut self, max: u8) {
        self.extra_packets_max = max;
    }

    /// Declares a counter: cross-flow, written mostly, read rarely.
    pub fn counter(&mut self, name: &'static str) -> Counter {
        self.counters(name, 1).first
    }

    /// Declares an array of counters, each keyed by its number.
    ///
    /// # Panics
    /// If there are none or the vertex has more than [`COUNTERS_MAX`]: a mistake in the network function's code.
    pub fn counters(&mut self, name: &'static str, cells: u16) -> CounterArray {
        let number = self.counter_cells().count() as u16;
        assert!(cells > 0 && number + cells <= COUNTERS_MAX, "a vertex has 1 to {COUNTERS_MAX} counters");
        let object = self.add(ObjectSpec {
            name,
            scope: Scope::Global,
            access: Access::WriteMostly,
            consistency: Consistency::Serial,
            kind: ObjectKind::Counter { cells },
            packet_ops_max: 0,
            timer_ops_max: 0,
            idle: None,
            keys_max: None,
        });
        CounterArray { first: Counter { object, cell: 0, number }, cells }
    }

    /// All counters by number: their object and cell.
    pub fn counter_cells(&self) -> impl Iterator<Item = (ObjectId, u16)> + '_ {
        counter_cells(&self.objects)
    }

    /// Declares a per-flow record.
    ///
    /// # Panics
    /// If `T` is longer than [`VALUE_LEN_MAX`] or more than 4 timers are asked for: a mistake in the
    /// network function's code.
    pub fn flow<T: Plain>(&mut self, name: &'static str, options: FlowOptions) -> Flow<T> {
        assert!(size_of::<T>() <= VALUE_LEN_MAX, "a per-flow value has at most {VALUE_LEN_MAX} bytes");
        assert!(options.timers <= 4, "a per-flow record has at most 4 timers");
        Flow(
            self.add(ObjectSpec {
                name,
                scope: Scope::FiveTuple,
                access: Access::PerFlow,
                consistency: Consistency::Clock,
                kind: ObjectKind::Flow {
                    value_len: size_of::<T>(),
                    timers: options.timers,
                    timeout_min: options.timeout_min,
                    index: options.index,
                },
                packet_ops_max: 0,
                timer_ops_max: 0,
                idle: None,
                keys_max: None,
            }),
            PhantomData,
        )
    }

    /// Declares a cross-flow value that custom operations change. `limits` as for [`Self::basic`].
    ///
    /// # Panics
    /// If it is [`Consistency::Delayed`], as only [`Self::replicated`] values are, or `T` is longer than
    /// [`VALUE_LEN_MAX`].
    pub fn shared<T: Plain>(
        &mut self,
        name: &'static str,
        scope: Scope,
        consistency: Consistency,
        initial: T,
        ops: &'static [CustomOp],
        limits: (u8, u8),
    ) -> Shared<T> {
        let kind = ObjectKind::Value { initial: ValueBytes::of(&initial), ops };
        Shared(self.basic(name, scope, consistency, kind, limits), PhantomData)
    }

    /// Declares a cross-flow value that packets read from a copy in their instance, as it was a window of clocks before
    /// ([`Consistency::Delayed`]), and change by set and by custom operations. At most `keys_max` keys have another
    /// value than `initial`: an operation on a further one is refused. `limits` as for [`Self::basic`].
    ///
    /// # Panics
    /// If `T` is longer than [`VALUE_LEN_MAX`]: a mistake in the network function's code.
    pub fn replicated<T: Plain>(
        &mut self,
        name: &'static str,
        scope: Scope,
        initial: T,
        ops: &'static [CustomOp],
        keys_max: usize,
        limits: (u8, u8),
    ) -> Replicated<T> {
        let kind = ObjectKind::Value { initial: ValueBytes::of(&initial), ops };
        let id = self.value(name, scope, kind, limits);
        let spec = &mut self.objects[usize::from(id.0)];
        (spec.access, spec.consistency) = (Access::ReadMostly, Consistency::Delayed);
        spec.keys_max = Some(keys_max);
        Replicated(id, PhantomData)
    }

    /// Declares a family of pools of owned resources.
    pub fn pool(&mut self, name: &'static str, consistency: Consistency, members: PoolMembers) -> Pool {
        Pool(self.add(ObjectSpec {
            name,
            scope: Scope::Global,
            access: Access::WriteReadOften,
            consistency,
            kind: ObjectKind::Pool { members },
            packet_ops_max: 1,
            timer_ops_max: 0,
            idle: None,
            keys_max: None,
        }))
    }

    /// Declares an integer or a list ([`ObjectKind::Int`], [`ObjectKind::List`]). `limits`: most operations on it with a
    /// place in the order by one packet, and by one timer.
    ///
    /// # Panics
    /// If it is [`Consistency::Delayed`], as only [`Self::replicated`] values are.
    pub fn basic(
        &mut self,
        name: &'static str,
        scope: Scope,
        consistency: Consistency,
        kind: ObjectKind,
        limits: (u8, u8),
    ) -> ObjectId {
        assert!(consistency != Consistency::Delayed, "{name} is declared by replicated()");
        let id = self.value(name, scope, kind, limits);
        self.objects[usize::from(id.0)].consistency = consistency;
        id
    }

    /// An integer, list or value in position order.
    fn value(
        &mut self,
        name: &'static str,
        scope: Scope,
        kind: ObjectKind,
        (packet_ops_max, timer_ops_max): (u8, u8),
    ) -> ObjectId {
        self.add(ObjectSpec {
            name,
            scope,
            access: Access::WriteReadOften,
            consistency: Consistency::Clock,
            kind,
            packet_ops_max,
            timer_ops_max,
            idle: None,
            keys_max: None,
        })
    }

    /// Declares that a value of this object is forgotten, and has its initial value again, when no operation has come
    /// to it for more than `idle` of packet time, in units of a [`Touched`].
    ///
    /// # Panics
    /// If the object is not an integer, list or value in position order: a mistake in the network function's code.
    pub fn forget_after(&mut self, object: ObjectId, idle: Duration) {
        let spec = &mut self.objects[usize::from(object.0)];
        let is_value =
            matches!(spec.kind, ObjectKind::Int { .. } | ObjectKind::List { .. } | ObjectKind::Value { .. });
        assert!(is_value && spec.consistency == Consistency::Clock, "{} cannot be forgotten", spec.name);
        spec.idle = Some(idle);
    }

    /// The scopes in use, finest first: what traffic may be split by.
    #[must_use]
    pub fn scopes(&self) -> Vec<Scope> {
        let mut scopes: Vec<Scope> =
            self.objects.iter().map(|o| o.scope).filter(|s| *s != Scope::Global).collect();
        scopes.sort_unstable();
        scopes.dedup();
        if scopes.is_empty() {
            scopes.push(Scope::FiveTuple);
        }
        scopes
    }
}

/// All counters among the objects of a vertex, by number: their object and cell.
pub fn counter_cells(objects: &[ObjectSpec]) -> impl Iterator<Item = (ObjectId, u16)> + '_ {
    objects.iter().enumerate().flat_map(|(id, spec)| {
        let cells = if let ObjectKind::Counter { cells } = spec.kind { cells } else { 0 };
        (0..cells).map(move |cell| (ObjectId(id as u16), cell))
    })
}

/// A timer of a per-flow record as it is stored with the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ArmedTimer {
    /// Packet time at or after which it is due.
    pub deadline: Time,
    /// Who armed it (origin of its position).
    pub setter: Position,
    /// Whether the end of the input makes it due, too.
    pub at_end: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Endpoint;
    use core::net::{Ipv4Addr, Ipv6Addr};

    #[test]
    fn a_slot_by_host_is_that_of_the_hosts_object_whatever_its_family_and_either_way() {
        let (v4, v6) = (Ipv4Addr::new(10, 0, 0, 9), Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9));
        let peers: [[IpAddr; 2]; 2] =
            [[v4.into(), Ipv4Addr::new(10, 0, 0, 1).into()], [v6.into(), Ipv6Addr::LOCALHOST.into()]];
        for [host, peer] in peers {
            for (port, peer_port) in [(40_000, 53), (53, 40_000)] {
                let ends = [Endpoint { addr: host, port }, Endpoint { addr: peer, port: peer_port }];
                let client = if port > peer_port { host } else { peer };
                let want = ((u128::from(ObjectKey::host(client).hash(5)) * 1000) >> 64) as u16;
                for [a, b] in [ends, [ends[1], ends[0]]] {
                    let (key, _) = FlowKey::new(6, a, b);
                    assert_eq!(Scope::SourceHost.slot(&key, key.hash(5), 5, 1000), want);
                }
            }
        }
    }
}
