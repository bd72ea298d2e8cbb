//! What actors say to each other. Data travels between root, instances and egress in bursts; control
//! is everything else.

use crate::instance::records::SlotRecords;
use crate::routing::{Change, Repartition};
use chc_api::{Clock, Generation, InstanceId, Position, Step};
use chc_api::{ShardId, Slot, VertexId};
use chc_runtime::block::BlockRef;
use chc_store::batch::{Changes, Loaded, Reply};
use chc_store::packet_log::LogBatch;
use std::sync::Arc;
use std::time::Duration;

/// Who sends data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// A root.
    Root(u16),
    /// An instance, through its splitter.
    Instance(InstanceId),
}

/// Who receives data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// An instance.
    Instance(InstanceId),
    /// The egress.
    Egress,
}

/// One message on an edge: in this order the time steps and changes of routing tables, the packets, the progress.
#[derive(Clone, Debug)]
pub struct Data {
    /// The sender.
    pub from: Source,
    /// Its generation; older ones than the receiver knows are discarded.
    pub from_generation: Generation,
    /// The receiver's generation it is meant for.
    pub to_generation: Generation,
    /// Time steps the receiver has not been sent yet, oldest first.
    pub steps: Vec<Step>,
    /// Changes of routing tables the receiver has not been sent yet, likewise.
    pub changes: Vec<Arc<Change>>,
    /// Packets; for the egress also events and drops.
    pub block: Option<BlockRef>,
    /// No packet below this position will follow on this edge.
    pub progress: Position,
}

/// What an instance is told.
#[derive(Clone, Debug)]
pub enum InstanceEvent {
    /// The root registered this generation: start at the cut.
    Go {
        /// The chain's cut, to which this instance's closing report was reset.
        cut: Clock,
        /// The first clock that was not stamped yet: what lies below it and reaches a later
        /// generation, had been sent before.
        stamped: Clock,
        /// The generations registered so far of the instances downstream.
        downstream: Vec<(InstanceId, Generation)>,
        /// Routing tables that are not those of the start: those at the cut, then the later ones.
        changes: Vec<Arc<Change>>,
        /// Boundaries from which on this instance owns slots that their owners before have let go.
        granted: Vec<Clock>,
    },
    /// The owners before have let go of the slots this instance owns from this boundary on.
    Granted {
        /// The boundary.
        boundary: Clock,
        /// Their records, as far as they came along.
        records: Vec<(Slot, SlotRecords)>,
    },
    /// A shard's answer to the load.
    Loaded(Loaded),
    /// Packets, steps and progress of an edge.
    Data(Data),
    /// Results of operations.
    Reply(Reply),
    /// Changes of replicated values.
    Changed(Changes),
    /// A shard has everything of the session up to this batch in its log.
    Acknowledged {
        /// The shard.
        shard: ShardId,
        /// The batch.
        number: u64,
    },
    /// This instance, which owns no slots, gets some. What it may not have heard: the tables at the cut, then the changes
    /// above it.
    Awake(Vec<Arc<Change>>),
    /// As much time has passed as the shards may take to answer: what they have not answered since the last of these
    /// is sent again.
    Overdue,
    /// A pause of the packet or timer at this position is over.
    PauseOver(Position),
    /// The chain's cut moved.
    Cut(Clock),
    /// A new generation downstream wants what was sent to its predecessor.
    Replay {
        /// The instance.
        to: InstanceId,
        /// Its generation.
        generation: Generation,
        /// The boundary it starts at.
        boundary: Clock,
    },
}

/// What an instance wants done.
#[derive(Debug)]
pub enum InstanceEffect {
    /// Send data.
    Data(Destination, Data),
    /// Send a batch to a shard.
    Batch(ShardId, Arc<chc_store::batch::Batch>),
    /// Ask a shard for the records of this instance's slots.
    Load(ShardId, chc_store::batch::Load),
    /// Ask an upstream for what it retained from the boundary on.
    Replay(Source, Clock),
    /// Tell the root that this generation starts.
    Register,
    /// Tell the root that everything below the boundary is finished and logged; with the records of slots that are
    /// another instance's from there on.
    Closed(Clock, Vec<(Slot, SlotRecords)>),
    /// Say when as much time has passed.
    Pause(Position, Duration),
    /// The network function did what it had not declared: the chain cannot go on.
    Defect(String),
    /// A new generation reached what had been stamped when it began.
    CaughtUp {
        /// Packets that ran again.
        replayed: u64,
    },
}

/// What the root is told.
#[derive(Clone, Debug)]
pub enum RootEvent {
    /// A new generation of an instance starts.
    Register(InstanceId, Generation),
    /// A new generation of a first instance wants what was sent from the boundary on.
    Replay(InstanceId, Generation, Clock),
    /// An instance closed a boundary, at which it lets go of slots with these records.
    Closed(InstanceId, Generation, Clock, Vec<(Slot, SlotRecords)>),
    /// The egress closed a boundary.
    EgressClosed(Clock),
    /// Traffic to a vertex is to be partitioned otherwise from the next boundary on.
    Repartition(VertexId, Repartition),
    /// The store has on record that clocks below this one may be stamped.
    Reserved(Clock),
    /// The store has the packets of this root up to this batch in its log.
    Logged(u64),
    /// The chain's cut moved.
    Cut(Clock),
}

/// What the root wants done.
#[derive(Debug)]
pub enum RootEffect {
    /// Tell the first shard that clocks below this one will be stamped.
    Reserve(Clock),
    /// Give the first shard what was stamped, for its log.
    Log(LogBatch),
    /// Send data.
    Data(Destination, Data),
    /// Answer a registration.
    Go {
        /// The instance.
        to: InstanceId,
        /// Its generation.
        generation: Generation,
        /// The chain's cut.
        cut: Clock,
        /// The first clock not stamped yet.
        stamped: Clock,
        /// The generations of all instances.
        generations: Vec<(InstanceId, Generation)>,
        /// See [`InstanceEvent::Go`].
        changes: Vec<Arc<Change>>,
        /// See [`InstanceEvent::Go`].
        granted: Vec<Clock>,
    },
    /// Tell the current generation of an instance that slots it owns from this boundary on were let go, with what came
    /// of their records.
    Grant(InstanceId, Clock, Vec<(Slot, SlotRecords)>),
    /// Tell the current generation of an instance without slots that it gets some: see [`InstanceEvent::Awake`].
    Awake(InstanceId, Vec<Arc<Change>>),
    /// Tell these instances, the egress, the shards and the other roots that the chain's cut moved.
    Cut(Clock, Arc<[InstanceId]>),
}
