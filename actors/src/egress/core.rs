//! The state machine of the egress.
//!
//! It accepts every position once on each in-edge, hands it to a sink at once (packets of a flow arrive
//! in order), and closes boundaries like a vertex: when every sender's progress has passed one,
//! everything below it has left. Memory: the window. Paper: section 5.3 (duplicate outputs).

use crate::messages::{Data, Source};
use crate::seen::SeenSet;
use chc_api::{Clock, Generation, InstanceId, Position, Protection, Protections, VertexId};
use chc_runtime::block::{Block, Desc, DropRecord, EventRecord};
use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;

/// Where what leaves goes.
pub trait Sink {
    /// A packet.
    fn packet(&mut self, block: &Block, desc: &Desc);
    /// An event.
    fn event(&mut self, from: InstanceId, event: &EventRecord);
    /// A packet that ended in the chain.
    fn dropped(&mut self, from: InstanceId, record: &DropRecord);
    /// Nothing more will come.
    fn finish(&mut self) {}
}

/// What the egress counts.
#[derive(Clone, Debug, Default)]
pub struct EgressCounts {
    /// Packets out.
    pub packets: u64,
    /// Their bytes on the wire.
    pub bytes: u64,
    /// Events.
    pub events: u64,
    /// Packets that ended in the chain, by reason.
    pub drops: BTreeMap<&'static str, u64>,
    /// Outputs that had been delivered before.
    pub duplicates: u64,
    /// Messages of replaced generations.
    pub fenced: u64,
}

struct Sender {
    generation: Generation,
    progress: Position,
}

struct InEdge {
    outputs: SeenSet,
    events: BTreeSet<(Position, u16)>,
}

/// The state machine.
pub struct EgressCore<P> {
    epoch: u64,
    window: u64,
    suppress: bool,
    senders: BTreeMap<InstanceId, Sender>,
    edges: Vec<InEdge>,
    floor: Clock,
    closed: Clock,
    /// What has been counted.
    pub counts: EgressCounts,
    protections: PhantomData<P>,
}

impl<P: Protections> EgressCore<P> {
    /// An egress behind the given instances. Without `suppress` (traditional mode) nothing is
    /// remembered.
    #[must_use]
    pub fn new(epoch: u64, window: u64, instances: &[InstanceId], suppress: bool) -> Self {
        let vertices = instances.iter().map(|i| usize::from(i.vertex.0) + 1).max().unwrap_or(0);
        let sender = |_| Sender { generation: Generation(0), progress: Position::before(Clock(0)) };
        Self {
            epoch,
            window,
            suppress,
            senders: instances.iter().map(|i| (*i, sender(i))).collect(),
            edges: (0..vertices)
                .map(|_| InEdge { outputs: SeenSet::new(window), events: BTreeSet::new() })
                .collect(),
            floor: Clock(0),
            closed: Clock(0),
            counts: EgressCounts::default(),
            protections: PhantomData,
        }
    }

    /// Takes a message; what is new goes to the sink.
    pub fn on_data(&mut self, data: &Data, sink: &mut impl Sink) {
        let Source::Instance(from) = data.from else { return };
        let Some(sender) = self.senders.get_mut(&from) else { return };
        if sender.generation > data.from_generation {
            self.counts.fenced += 1;
            return;
        }
        sender.generation = data.from_generation;
        let promised = sender.progress;
        if let Some(block) = &data.block {
            self.trim(Clock((block.highest().0 + 1).saturating_sub(self.window)));
            self.on_block(from, block, promised, sink);
        }
        if let Some(sender) = self.senders.get_mut(&from) {
            sender.progress = sender.progress.max(data.progress);
        }
    }

    fn on_block(&mut self, from: InstanceId, block: &Block, promised: Position, sink: &mut impl Sink) {
        let VertexId(vertex) = from.vertex;
        for desc in &block.descs {
            if self.suppress {
                let fresh = desc.clock >= self.floor
                    && self.edges[usize::from(vertex)].outputs.insert(desc.clock, desc.path);
                if !self.admit(fresh, desc.position(), promised) {
                    continue;
                }
            }
            self.counts.packets += 1;
            self.counts.bytes += u64::from(desc.wire_len);
            sink.packet(block, desc);
        }
        for event in &block.events {
            let edge = &mut self.edges[usize::from(vertex)];
            let fresh =
                event.position.clock >= self.floor && edge.events.insert((event.position, event.index));
            if self.suppress && !self.admit(fresh, event.position, promised) {
                continue;
            }
            self.counts.events += 1;
            sink.event(from, event);
        }
        for record in &block.drops {
            let edge = &mut self.edges[usize::from(vertex)];
            let fresh = record.position.clock >= self.floor && edge.outputs.insert_position(record.position);
            if self.suppress && !self.admit(fresh, record.position, promised) {
                continue;
            }
            *self.counts.drops.entry(record.reason).or_default() += 1;
            sink.dropped(from, record);
        }
    }

    #[inline]
    fn admit(&mut self, fresh: bool, position: Position, promised: Position) -> bool {
        if fresh {
            debug_assert!(
                position >= promised || !P::on(Protection::ReplayHoldsProgress),
                "{position:?} came after progress {promised:?}"
            );
            return true;
        }
        self.counts.duplicates += 1;
        !P::on(Protection::OutputSuppression)
    }

    /// A boundary everything below which has left, if there is a new one.
    pub fn close(&mut self) -> Option<Clock> {
        let progress = self.senders.values().map(|s| s.progress).min()?;
        let boundary = progress.clock.floor(self.epoch);
        if boundary <= self.closed {
            return None;
        }
        self.closed = boundary;
        Some(boundary)
    }

    /// Forgets what lies below the cut.
    pub fn trim(&mut self, cut: Clock) {
        if cut <= self.floor {
            return;
        }
        self.floor = cut;
        for edge in &mut self.edges {
            edge.outputs.trim(cut);
            edge.events = edge.events.split_off(&(Position::before(cut), 0));
        }
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
