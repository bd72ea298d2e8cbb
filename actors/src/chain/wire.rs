//! Who reaches whom: the addresses of a chain's actors, and each actor's cached handles to them.

use crate::egress::actor::EgressControl;
use crate::instance::core::LocalState;
use crate::messages::{Data, Destination, InstanceEvent, RootEvent};
use crate::root::actor::{NoData, RootReport, RootStatus};
use crate::shard::actor::{BatchMessage, ShardControl};
use chc_api::{Clock, Generation, InstanceId, ShardId, VertexId};
use chc_runtime::mailbox::{Address, Handle, Packets, Undelivered};
use chc_store::batch::Batch;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A message on an edge.
pub struct DataMessage(pub Data);

impl Packets for DataMessage {
    fn packet_count(&self) -> usize {
        self.0.block.as_ref().map_or(0, |b| b.descs.len())
    }
}

/// What an instance is told besides data.
pub enum InstanceControl {
    /// An event of the protocols.
    Event(InstanceEvent),
    /// Somebody wants the state it holds itself.
    Inspect(flume::Sender<LocalState>),
}

/// What a root is told.
pub enum RootControl {
    /// An event of the protocols.
    Event(RootEvent),
    /// Go on after a stop.
    Resume,
    /// Accept no further packets; what was accepted is finished.
    Shut,
    /// Somebody wants to know what was counted.
    Status(flume::Sender<RootStatus>),
}

/// What actors tell whoever runs the chain.
pub enum Notice {
    /// The root reached a packet it was to stop before.
    Stopped,
    /// A new generation reached what had been stamped when it began.
    CaughtUp {
        /// The instance.
        instance: InstanceId,
        /// Its generation.
        generation: Generation,
        /// Packets that ran again.
        replayed: u64,
        /// When.
        at: Instant,
    },
    /// A network function did what it had not declared.
    Defect {
        /// The instance that found it.
        instance: InstanceId,
        /// What it did.
        reason: String,
    },
    /// Everything is finished and logged.
    Done(Box<RootReport>),
}

/// The addresses of a chain's actors.
pub struct Addresses {
    /// The roots.
    pub roots: Vec<Address<RootControl, NoData>>,
    /// Instances by vertex and index.
    pub instances: Vec<Vec<Address<InstanceControl, DataMessage>>>,
    /// Store shards.
    pub shards: Vec<Address<ShardControl, BatchMessage>>,
    /// The egress.
    pub egress: Address<EgressControl, DataMessage>,
    /// The vertices each vertex sends to.
    pub next: Vec<Vec<VertexId>>,
    /// Whether a vertex only watches.
    pub off_path: Vec<bool>,
    /// Whether packets wait somewhere until senders have come far enough.
    pub awaits_progress: bool,
    /// The instance that owns each slot of each vertex.
    pub owners: Vec<Arc<Mutex<Vec<u16>>>>,
    /// Whoever runs the chain.
    pub notices: flume::Sender<Notice>,
    /// Input packets read so far.
    pub offered: Arc<AtomicU64>,
}

/// One actor's handles, fetched when they are first needed and again when a generation has ended.
pub struct Links {
    to: Arc<Addresses>,
    roots: Vec<Option<Handle<RootControl, NoData>>>,
    instances: Vec<Vec<Option<Handle<InstanceControl, DataMessage>>>>,
    shards: Vec<Option<Handle<ShardControl, BatchMessage>>>,
    egress: Option<Handle<EgressControl, DataMessage>>,
}

/// A handle that is alive, fetched again if the cached one is not.
fn fresh<'a, C: Send + 'static, D: Packets>(
    cached: &'a mut Option<Handle<C, D>>,
    address: &Address<C, D>,
    generation: Option<Generation>,
) -> Option<&'a Handle<C, D>> {
    let fits = |h: &Handle<C, D>| generation.is_none_or(|g| h.generation() == g) && h.is_alive();
    if !cached.as_ref().is_some_and(fits) {
        *cached = address.current();
    }
    cached.as_ref().filter(|h| generation.is_none_or(|g| h.generation() == g))
}

/// Sends data or a batch; with `may_wait`, nobody waits for what comes of it.
fn push<C: Send + 'static, D: Packets>(
    handle: &Handle<C, D>,
    message: D,
    may_wait: bool,
) -> Result<(), Undelivered<D>> {
    if may_wait { handle.push_background(message) } else { handle.push(message) }
}

impl Addresses {
    /// Whether nobody waits for what comes of data: without packets it only tells how far its sender has come, and what
    /// only watches holds up no packet.
    fn may_wait(&self, to: Destination, has_packets: bool) -> bool {
        let only_watches = match to {
            Destination::Instance(id) => self.off_path[usize::from(id.vertex.0)],
            Destination::Egress => false,
        };
        only_watches || !has_packets && !self.awaits_progress
    }

    /// The first root, if it lives: the one to be asked.
    #[must_use]
    pub fn first_root(&self) -> Option<Handle<RootControl, NoData>> {
        self.roots[0].current()
    }
}

impl Links {
    /// Links of an actor that has reached nobody yet.
    #[must_use]
    pub fn new(to: Arc<Addresses>) -> Self {
        Self {
            roots: to.roots.iter().map(|_| None).collect(),
            instances: to.instances.iter().map(|v| v.iter().map(|_| None).collect()).collect(),
            shards: to.shards.iter().map(|_| None).collect(),
            egress: None,
            to,
        }
    }

    fn instance(
        &mut self,
        id: InstanceId,
        generation: Option<Generation>,
    ) -> Option<&Handle<InstanceControl, DataMessage>> {
        let (vertex, index) = (usize::from(id.vertex.0), usize::from(id.index));
        fresh(&mut self.instances[vertex][index], &self.to.instances[vertex][index], generation)
    }

    /// Sends data. What was meant for a generation that has ended is dropped: its successor asks for it.
    pub fn send(&mut self, to: Destination, data: Data) {
        let may_wait = self.to.may_wait(to, data.block.is_some());
        let pushed = match to {
            Destination::Instance(id) => {
                let Some(handle) = self.instance(id, Some(data.to_generation)) else { return };
                push(handle, DataMessage(data), may_wait)
            }
            Destination::Egress => {
                let Some(handle) = fresh(&mut self.egress, &self.to.egress, None) else { return };
                push(handle, DataMessage(data), may_wait)
            }
        };
        if let Err(lost) = pushed {
            tracing::debug!("data not delivered: {lost}");
        }
    }

    /// Sends a batch.
    pub fn batch(&mut self, shard: ShardId, batch: Arc<Batch>) {
        let (at, may_wait) = (usize::from(shard.0), !batch.is_awaited());
        if let Some(handle) = fresh(&mut self.shards[at], &self.to.shards[at], None)
            && let Err(lost) = push(handle, BatchMessage(batch), may_wait)
        {
            tracing::error!("batch not delivered: {lost}");
        }
    }

    /// Tells a shard.
    pub fn tell_shard(&mut self, shard: ShardId, message: ShardControl) {
        let at = usize::from(shard.0);
        if let Some(handle) = fresh(&mut self.shards[at], &self.to.shards[at], None)
            && let Err(lost) = handle.send(message)
        {
            tracing::error!("shard {} not told: {lost}", shard.0);
        }
    }

    /// Tells an instance; with a generation only that one.
    pub fn tell_instance(
        &mut self,
        id: InstanceId,
        generation: Option<Generation>,
        message: InstanceControl,
    ) {
        if let Some(handle) = self.instance(id, generation)
            && let Err(lost) = handle.send(message)
        {
            tracing::debug!("instance {id} not told: {lost}");
        }
    }

    /// A root's own handle, if there is one.
    #[must_use]
    pub fn own_root(&self, root: u16) -> Option<Handle<RootControl, NoData>> {
        self.to.roots[usize::from(root)].current()
    }

    /// Tells a root.
    pub fn tell_root(&mut self, root: u16, message: RootControl) {
        let at = usize::from(root);
        if let Some(handle) = fresh(&mut self.roots[at], &self.to.roots[at], None)
            && let Err(lost) = handle.send(message)
        {
            tracing::error!("root {root} not told: {lost}");
        }
    }

    /// Tells the first root, which has the lead.
    pub fn tell_first_root(&mut self, message: RootControl) {
        self.tell_root(0, message);
    }

    /// Has the other roots look whether there is anything to do.
    pub fn wake_other_roots(&mut self, own: u16) {
        for at in (0..self.roots.len()).filter(|at| *at != usize::from(own)) {
            if let Some(handle) = fresh(&mut self.roots[at], &self.to.roots[at], None) {
                handle.wake();
            }
        }
    }

    /// The first root tells these instances and everyone else that the cut moved.
    pub fn tell_all(&mut self, cut: Clock, instances: &[InstanceId], shard: impl Fn() -> ShardControl) {
        for id in instances {
            self.tell_instance(*id, None, InstanceControl::Event(InstanceEvent::Cut(cut)));
        }
        for root in 1..self.roots.len() as u16 {
            self.tell_root(root, RootControl::Event(RootEvent::Cut(cut)));
        }
        for at in 0..self.shards.len() {
            self.tell_shard(ShardId(at as u16), shard());
        }
        if let Some(handle) = fresh(&mut self.egress, &self.to.egress, None)
            && let Err(lost) = handle.send(EgressControl::Cut(cut))
        {
            tracing::error!("egress not told: {lost}");
        }
    }

    /// Of the given instances those downstream of one.
    #[must_use]
    pub fn downstream(
        &self,
        of: InstanceId,
        mut all: Vec<(InstanceId, Generation)>,
    ) -> Vec<(InstanceId, Generation)> {
        let next = &self.to.next[usize::from(of.vertex.0)];
        all.retain(|(id, _)| next.contains(&id.vertex));
        all
    }

    /// Tells whoever runs the chain.
    pub fn notify(&self, notice: Notice) {
        // Whoever ran it may have given up.
        let _ = self.to.notices.send(notice);
    }

    /// Publishes who owns the slots of each vertex.
    pub fn publish_owners<'a>(&self, owners: impl Iterator<Item = &'a [u16]>) {
        for (published, owners) in self.to.owners.iter().zip(owners) {
            *published.lock() = owners.to_vec();
        }
    }

    /// Publishes how many input packets were read.
    pub fn progress(&self, offered: u64) {
        self.to.offered.store(offered, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_on_their_way_are_handled_first_and_progress_where_packets_wait_for_it() {
        let (notices, _) = flume::unbounded();
        let mut addresses = Addresses {
            roots: Vec::new(),
            instances: Vec::new(),
            shards: Vec::new(),
            egress: Address::default(),
            next: Vec::new(),
            off_path: vec![false, true],
            awaits_progress: false,
            owners: Vec::new(),
            notices,
            offered: Arc::default(),
        };
        let instance = |vertex| Destination::Instance(InstanceId { vertex: VertexId(vertex), index: 0 });
        let (on_path, watcher) = (instance(0), instance(1));
        let mut waits = |awaits_progress| {
            addresses.awaits_progress = awaits_progress;
            [on_path, watcher, Destination::Egress]
                .map(|to| [true, false].map(|has| addresses.may_wait(to, has)))
        };
        assert_eq!(waits(false), [[false, true], [true, true], [false, true]]);
        assert_eq!(waits(true), [[false, false], [true, true], [false, false]]);
    }
}
