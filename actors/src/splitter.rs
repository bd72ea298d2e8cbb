//! The splitter behind the root and behind every instance: it partitions outputs among the instances
//! of the next vertex, retains what it sent since the cut, and sends it again to a new generation.
//!
//! Retained outputs are references to the blocks that were sent, so retaining costs nothing a packet;
//! memory is bounded by the root's window. Paper: splitters of section 4.1, queues of section 4.2.

use crate::messages::{Data, Destination, Source};
use crate::steps::Steps;
use chc_api::{
    Clock, FlowKey, Generation, Identity, InstanceId, Position, Protection, Protections, Scope, Slot,
    VertexId,
};
use chc_runtime::block::{BlockBuilder, BlockPool, BlockRef, Desc, DropRecord, EventRecord, Meta};
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;

/// The slot an external address belongs to, asked of the vertex that gave it out.
pub type OwnerFn = Arc<dyn Fn(&Identity) -> Option<Slot> + Send + Sync>;

/// How traffic to a vertex is partitioned. Equal for all its splitters.
#[derive(Clone)]
pub struct Route {
    /// The vertex.
    pub vertex: VertexId,
    /// The scope it is split by.
    pub scope: Scope,
    /// Seed of the identity hash.
    pub seed: u64,
    /// The instance that owns each slot.
    pub owners: Vec<u16>,
    /// Instances of the vertex.
    pub instances: u16,
    /// Set if the vertex translates addresses.
    pub owner: Option<OwnerFn>,
}

impl Route {
    /// The slot of a connection.
    #[must_use]
    pub fn slot(&self, identity: &Identity, hash: u64) -> Slot {
        if let Some(slot) = self.owner.as_ref().and_then(|o| o(identity)) {
            return slot;
        }
        self.slot_of(&identity.key, hash)
    }

    /// The slot of a connection whose identity is known.
    #[must_use]
    pub fn slot_of(&self, key: &FlowKey, hash: u64) -> Slot {
        Slot(self.scope.slot(key, hash, self.seed, self.owners.len() as u16))
    }

    #[inline]
    fn instance(&self, hash: u64, identity: impl FnOnce() -> Identity) -> usize {
        if self.instances == 1 {
            return 0;
        }
        let slot = match (&self.owner, self.scope) {
            (None, Scope::FiveTuple) => Slot(((u128::from(hash) * self.owners.len() as u128) >> 64) as u16),
            _ => self.slot(&identity(), hash),
        };
        usize::from(self.owners[usize::from(slot.0)])
    }
}

struct Edge {
    to: Destination,
    generation: Generation,
    connected: bool,
    builder: BlockBuilder,
    retained: VecDeque<(Clock, BlockRef)>,
    steps_from: Clock,
    progress: Position,
    /// Blocks closed because they were full, waiting for the next flush.
    full: Vec<BlockRef>,
}

/// The outputs of one sender.
pub struct Splitter<P> {
    from: Source,
    generation: Generation,
    route: Option<Route>,
    /// One a downstream instance; the egress is the last.
    edges: Vec<Edge>,
    retain: bool,
    protections: PhantomData<P>,
}

impl<P: Protections> Splitter<P> {
    /// A splitter that is not connected to any instance yet. Without `route` packets go to the egress.
    #[must_use]
    pub fn new(
        from: Source,
        generation: Generation,
        route: Option<Route>,
        to_egress: bool,
        pool: &Arc<BlockPool>,
        retain: bool,
    ) -> Self {
        let instances = route.as_ref().map_or(0, |r| r.instances);
        let vertex = route.as_ref().map(|r| r.vertex);
        let edge = |to, connected| Edge {
            to,
            generation: Generation(0),
            connected,
            builder: BlockBuilder::new(pool.clone()),
            retained: VecDeque::new(),
            steps_from: Clock(0),
            progress: Position::before(Clock(0)),
            full: Vec::new(),
        };
        let mut edges: Vec<Edge> = (0..instances)
            .filter_map(|index| {
                vertex.map(|vertex| edge(Destination::Instance(InstanceId { vertex, index }), false))
            })
            .collect();
        if to_egress {
            edges.push(edge(Destination::Egress, true));
        }
        Self { from, generation, route, edges, retain, protections: PhantomData }
    }

    /// The edge a packet takes.
    #[inline]
    pub fn pick(&self, hash: u64, identity: impl FnOnce() -> Identity) -> usize {
        match &self.route {
            Some(route) => route.instance(hash, identity),
            None => self.edges.len() - 1,
        }
    }

    /// A builder for packets that come in here (the root).
    #[inline]
    pub fn builder(&mut self, edge: usize) -> &mut BlockBuilder {
        let edge = &mut self.edges[edge];
        if edge.builder.is_full() {
            edge.full.extend(edge.builder.finish());
        }
        &mut edge.builder
    }

    /// Sends a packet on, unchanged.
    #[inline]
    pub fn forward(&mut self, from: &BlockRef, desc: &Desc) {
        let edge = self.pick(desc.hash, || from.meta(desc).parsed.identity());
        self.builder(edge).forward(from, desc);
    }

    /// Whether all packets go the same way.
    #[must_use]
    pub fn has_one_receiver(&self) -> bool {
        self.route.as_ref().is_none_or(|route| route.instances == 1)
    }

    /// Sends a block of packets on as it is; there is one receiver.
    pub fn forward_whole(&mut self, block: &BlockRef) {
        let at = if self.route.is_some() { 0 } else { self.edges.len() - 1 };
        let edge = &mut self.edges[at];
        edge.full.extend(edge.builder.finish());
        edge.full.push(block.clone());
    }

    /// Sends a packet on with a header region, and perhaps an identity, of its own.
    #[inline]
    pub fn forward_changed(
        &mut self,
        from: &BlockRef,
        desc: &Desc,
        head: &[u8],
        identity: Option<(Meta, u64)>,
    ) {
        let hash = identity.as_ref().map_or(desc.hash, |(_, hash)| *hash);
        let edge = self.pick(hash, || {
            identity.as_ref().map_or_else(|| from.meta(desc).parsed.identity(), |(m, _)| m.parsed.identity())
        });
        self.builder(edge).forward_changed(from, desc, head, identity);
    }

    /// Reports an event.
    pub fn event(&mut self, event: EventRecord) {
        let egress = self.edges.len() - 1;
        self.builder(egress).event(event);
    }

    /// Notes a packet that ended here.
    pub fn dropped(&mut self, record: DropRecord) {
        let egress = self.edges.len() - 1;
        self.builder(egress).dropped(record);
    }

    /// Sends what was gathered, then the progress, on every edge.
    pub fn flush(&mut self, steps: &Steps, progress: Position, send: &mut impl FnMut(Destination, Data)) {
        for at in 0..self.edges.len() {
            let edge = &mut self.edges[at];
            edge.full.extend(edge.builder.finish());
            let blocks = std::mem::take(&mut edge.full);
            let last = blocks.len();
            // The egress is not rebuilt: nobody would ask for what was sent to it.
            if self.retain && edge.to != Destination::Egress {
                edge.retained.extend(blocks.iter().map(|block| (block.highest(), block.clone())));
            }
            if !edge.connected {
                continue;
            }
            for (i, block) in blocks.iter().enumerate() {
                let done = if i + 1 == last { progress } else { edge.progress };
                send_one::<P>(self.from, self.generation, edge, steps, Some(block.clone()), done, send);
            }
            if blocks.is_empty() && (progress > edge.progress || edge.steps_from < steps.next_clock()) {
                send_one::<P>(self.from, self.generation, edge, steps, None, progress, send);
            }
            edge.progress = edge.progress.max(progress);
            edge.full = blocks;
            edge.full.clear();
        }
    }

    /// Forgets what lies below the cut.
    pub fn trim(&mut self, cut: Clock) {
        for edge in &mut self.edges {
            // Blocks are in sending order, not in clock order: a parked packet's comes late. A block
            // behind a younger one just stays a little longer.
            while edge.retained.front().is_some_and(|(high, _)| *high < cut) {
                edge.retained.pop_front();
            }
        }
    }

    /// Connects a new generation of a downstream instance and sends it what was retained from the
    /// boundary on.
    pub fn replay(
        &mut self,
        to: InstanceId,
        generation: Generation,
        boundary: Clock,
        steps: &Steps,
        send: &mut impl FnMut(Destination, Data),
    ) {
        let Some(edge) = self.edges.iter_mut().find(|e| e.to == Destination::Instance(to)) else { return };
        if edge.connected && generation < edge.generation {
            return;
        }
        let reached = edge.progress;
        edge.generation = generation;
        edge.connected = true;
        edge.steps_from = boundary;
        edge.progress = Position::before(boundary);
        if !P::on(Protection::ReplayHoldsProgress) {
            send_one::<P>(self.from, self.generation, edge, steps, None, reached, send);
        }
        let again: Vec<BlockRef> =
            edge.retained.iter().filter(|(high, _)| *high >= boundary).map(|(_, b)| b.clone()).collect();
        let start = edge.progress;
        for block in again {
            send_one::<P>(self.from, self.generation, edge, steps, Some(block), start, send);
        }
    }

    /// Connects to the generation a downstream instance has now, without sending anything again: this
    /// sender has sent nothing yet.
    pub fn connect(&mut self, to: InstanceId, generation: Generation, boundary: Clock) {
        if let Some(edge) = self.edges.iter_mut().find(|e| e.to == Destination::Instance(to)) {
            if !edge.connected || generation > edge.generation {
                edge.connected = true;
                edge.generation = generation;
            }
            edge.steps_from = boundary;
            edge.progress = Position::before(boundary);
        }
    }

    /// Blocks retained.
    #[must_use]
    pub fn retained(&self) -> usize {
        self.edges.iter().map(|e| e.retained.len()).sum()
    }
}

fn send_one<P: Protections>(
    from: Source,
    from_generation: Generation,
    edge: &mut Edge,
    steps: &Steps,
    block: Option<BlockRef>,
    progress: Position,
    send: &mut impl FnMut(Destination, Data),
) {
    let first = P::on(Protection::StepsFirst) || block.is_none();
    let news: Vec<_> = if first { steps.since(edge.steps_from).collect() } else { Vec::new() };
    if let Some(step) = news.last() {
        edge.steps_from = Clock(step.clock.0 + 1);
    }
    let to_generation = edge.generation;
    send(edge.to, Data { from, from_generation, to_generation, steps: news, block, progress });
}

#[cfg(test)]
#[path = "splitter_tests.rs"]
pub(crate) mod tests;
