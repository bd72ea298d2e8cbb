//! What instances and shards say to each other.

use crate::active::InstanceSet;
use crate::record::Record;
use chc_api::state::ValueBytes;
use chc_api::{
    Clock, FlowKey, Generation, InstanceId, ObjectId, ObjectKey, Op, OpValue, Path, Position, ShardId, Slot,
    Time,
};

/// Name of an operation within its vertex: the packet or timer that issued it and which of its
/// operations it is. A replayed packet issues the same names again.
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
pub struct OpName {
    /// The packet or timer.
    pub position: Position,
    /// Its operations are numbered from 0, in program order.
    pub index: u16,
}

/// One operation on a cross-flow object.
#[derive(Clone, Copy, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct OpItem {
    /// Its name.
    pub name: OpName,
    /// The object.
    pub object: ObjectId,
    /// Which of the object's values.
    pub key: ObjectKey,
    /// What to do.
    pub op: Op,
    /// Packet time at which it was issued.
    pub now: Time,
    /// What the issuer wants to hear of it.
    pub answer: Answer,
}

impl OpItem {
    /// Nothing in particular.
    pub const BLANK: Self = Self {
        name: OpName { position: Position::before(Clock(0)), index: 0 },
        object: ObjectId(0),
        key: ObjectKey::GLOBAL,
        op: Op::Get,
        now: Time(0),
        answer: Answer::Nothing,
    };
}

/// What the issuer of an operation wants to hear of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub enum Answer {
    /// Nothing.
    Nothing,
    /// The result: it waits for it.
    Result,
    /// The result, and the value the operation leaves, unless it had been applied before.
    Value,
    /// Nothing: it knows the result, which has this [`OpValue::fingerprint`].
    Known(u64),
}

impl Answer {
    /// Whether the issuer waits for the result.
    #[must_use]
    pub fn is_awaited(self) -> bool {
        matches!(self, Answer::Result | Answer::Value)
    }

    /// Whether this may be the result, as far as the issuer knows it.
    #[must_use]
    pub fn admits(self, result: &OpValue) -> bool {
        !matches!(self, Answer::Known(known) if known != result.fingerprint())
    }
}

/// Increments of one counter: a bit per clock of one epoch for packets of one path, with the amounts that are
/// not 1, and explicit pairs for everything else.
#[derive(Clone, Debug, Default, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct CountItem {
    /// The counter.
    pub object: ObjectId,
    /// Which of its cells.
    pub cell: u16,
    /// First clock of the epoch the bits speak of.
    pub epoch: Clock,
    /// Which packets of these clocks.
    pub path: Path,
    /// Bit `i`: the packet of clock `epoch + i` added something (its first addition to this counter).
    pub bits: Vec<u64>,
    /// How much, of those that did not add 1: `i` and the amount. Each has its bit.
    pub amounts: Vec<(u32, u32)>,
    /// Everything else: which addition, how much.
    pub pairs: Vec<(OpName, u64)>,
}

/// A boundary version of a per-flow record.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct VersionItem {
    /// The object.
    pub object: ObjectId,
    /// The slot the connection belongs to.
    pub slot: Slot,
    /// The connection.
    pub key: FlowKey,
    /// Clock of the last write it includes.
    pub written: Clock,
    /// The record; `None` when it was removed.
    pub record: Option<Record>,
}

/// A read of a connection's per-flow records by an instance that caches none.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct FetchItem {
    /// The packet or timer that waits for them.
    pub position: Position,
    /// The slot the connection belongs to.
    pub slot: Slot,
    /// The connection.
    pub key: FlowKey,
    /// For each of the vertex's per-flow objects the last write the reader knows of: newer versions may be from
    /// before a failure, of packets that are about to run again.
    pub written: Vec<(ObjectId, Option<Clock>)>,
}

/// The records of a [`FetchItem`] that there are.
pub type Fetched = Vec<(ObjectId, Record)>;

/// One message from an instance to a shard. Batches of a session (instance, generation) are
/// numbered from 1 and applied in that order.
#[derive(Clone, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Batch {
    /// The sender.
    pub from: InstanceId,
    /// Its generation.
    pub generation: Generation,
    /// Its number within the session and shard.
    pub number: u64,
    /// Reads of per-flow records as earlier batches left them.
    pub fetches: Vec<FetchItem>,
    /// Operations in issue order.
    pub ops: Vec<OpItem>,
    /// Coalesced counters.
    pub counts: Vec<CountItem>,
    /// Boundary versions.
    pub versions: Vec<VersionItem>,
    /// For each ordered object of the vertex: the lowest position at which the sender may still
    /// issue an operation that is not in this or an earlier batch.
    pub frontier: Vec<(ObjectId, Position)>,
    /// Which instances of the vertex own slots, each from a boundary on: news of the sender's. What follows in the session
    /// may go by it.
    pub active: Vec<(Clock, InstanceSet)>,
    /// The sender has the shard's changes of replicated values up to this number.
    pub changes_seen: u64,
}

impl Batch {
    /// A batch without anything in it.
    #[must_use]
    pub fn empty(from: InstanceId, generation: Generation, number: u64) -> Self {
        let (fetches, ops, counts, versions, frontier, active, changes_seen) = Default::default();
        Self { from, generation, number, fetches, ops, counts, versions, frontier, active, changes_seen }
    }

    /// Whether the sender waits for an answer to anything in it.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        !self.fetches.is_empty() || self.ops.iter().any(|item| item.answer.is_awaited())
    }
}

/// The results of operations an instance waits for.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Reply {
    /// The instance.
    pub to: InstanceId,
    /// The generation that asked (last).
    pub generation: Generation,
    /// Results by name.
    pub results: Vec<(OpName, OpValue)>,
    /// Values that operations left, of those that asked for it and were applied just now.
    pub values: Vec<(OpName, OpValue)>,
    /// Records by who waits for them.
    pub records: Vec<(Position, Fetched)>,
}

impl Reply {
    /// A reply to an instance in a generation, without anything in it.
    #[must_use]
    pub fn empty((to, generation): (InstanceId, Generation)) -> Self {
        let (results, values, records) = Default::default();
        Self { to, generation, results, values, records }
    }
}

/// What an instance asks of each shard when it begins, or when it gains slots: their records at a boundary.
#[derive(Clone, Debug, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Load {
    /// The instance.
    pub from: InstanceId,
    /// Its generation; older ones are refused from now on.
    pub generation: Generation,
    /// The boundary: the newest versions written below it are wanted.
    pub boundary: Clock,
    /// The slots, which the instance owns from the boundary on.
    pub slots: Vec<Slot>,
    /// Those of them whose records it has.
    pub held: Vec<Slot>,
    /// Whether it begins, and has no replicated values yet.
    pub begins: bool,
}

/// The answer to a [`Load`].
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Loaded {
    /// The instance.
    pub to: InstanceId,
    /// The generation that asked.
    pub generation: Generation,
    /// The shard that answers.
    pub shard: ShardId,
    /// The boundary that was asked for.
    pub boundary: Clock,
    /// The records, in key order.
    pub records: Vec<(ObjectId, FlowKey, Clock, Record)>,
    /// The replicated values as they may be read from the boundary on, in the order of their clocks.
    pub changes: Vec<Change>,
    /// The number of the last change in them.
    pub changes_known: u64,
}

/// What a replicated value is after the operations of a clock.
#[derive(Clone, Copy, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Change {
    /// The object.
    pub object: ObjectId,
    /// Which of its values.
    pub key: ObjectKey,
    /// The clock.
    pub clock: Clock,
    /// The value; `None` if it is the initial one.
    pub value: Option<ValueBytes>,
}

/// Changes of replicated values for an instance, which confirms them with its batches.
#[derive(Clone, Debug, PartialEq, rkyv::Archive, rkyv::Serialize, rkyv::Deserialize)]
pub struct Changes {
    /// The instance.
    pub to: InstanceId,
    /// Its generation.
    pub generation: Generation,
    /// The shard.
    pub shard: ShardId,
    /// The number of the first of these within the shard and vertex, from 1.
    pub first: u64,
    /// The changes, in the order they were made.
    pub changes: Vec<Change>,
}
