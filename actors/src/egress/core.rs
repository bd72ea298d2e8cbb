//! The state machine of the egress.
//!
//! It accepts every position once on each in-edge, hands it to a sink at once, and closes boundaries like a
//! vertex: when every sender's progress has passed one, everything below it has left. Packets of a flow
//! arrive in order where they come from one vertex. Where they may come from several, packets are held
//! until nothing below them can come any more. Memory: the window. Paper: section 5.3 (duplicate outputs).

use crate::awaited::Awaited;
use crate::messages::{Data, Source};
use crate::order::{Held, Order};
use crate::routing::Route;
use crate::seen::SeenSet;
use chc_api::{Clock, Generation, InstanceId, Path, Position, Protection, Protections};
use chc_runtime::block::{Block, BlockRef, Desc, DropRecord, EventRecord};
use std::collections::{BTreeMap, BTreeSet};

/// Where what leaves goes.
pub trait Sink {
    /// A packet.
    fn packet(&mut self, block: &Block, desc: &Desc);
    /// An event.
    fn event(&mut self, from: InstanceId, event: &EventRecord);
    /// A packet that ended in the chain.
    fn dropped(&mut self, from: InstanceId, record: &DropRecord);
    /// What was handed over can go out together.
    fn flush(&mut self) {}
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
    /// Packets out or dropped that functions made: their own, and copies that came back to the path.
    pub extra: u64,
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
    senders: BTreeMap<Source, Sender>,
    awaited: Awaited<P>,
    /// The root's, then one a vertex.
    edges: Vec<InEdge>,
    /// Whether packets of a flow may come from several vertices.
    holds: bool,
    /// Boundaries at which flows come from other senders, until all senders have passed them.
    barriers: Vec<Clock>,
    /// Changes of routing tables below this boundary are known.
    changes_from: Clock,
    /// Packets that wait for what comes before them.
    order: Order,
    ready: Vec<Held>,
    floor: Clock,
    closed: Clock,
    /// What has been counted.
    pub counts: EgressCounts,
}

impl<P: Protections> EgressCore<P> {
    /// An egress behind the given senders; an epoch and the window in clocks, and how traffic is partitioned at first.
    /// Without `suppress` (traditional mode) nothing is remembered. With `hold` packets of a flow may come from several
    /// vertices.
    #[must_use]
    pub fn new(
        (epoch, window): (u64, u64),
        senders: &[Source],
        routes: &[Route],
        suppress: bool,
        hold: bool,
    ) -> Self {
        let edges = senders.iter().map(|s| in_edge(*s) + 1).max().unwrap_or(0);
        let sender = |_| Sender { generation: Generation(0), progress: Position::before(Clock(0)) };
        Self {
            epoch,
            window,
            suppress,
            senders: senders.iter().map(|s| (*s, sender(s))).collect(),
            awaited: Awaited::new(routes),
            edges: (0..edges)
                .map(|_| InEdge { outputs: SeenSet::new(window), events: BTreeSet::new() })
                .collect(),
            holds: hold,
            barriers: Vec::new(),
            changes_from: Clock(0),
            order: Order::default(),
            ready: Vec::new(),
            floor: Clock(0),
            closed: Clock(0),
            counts: EgressCounts::default(),
        }
    }

    /// Takes a message; what is new goes to the sink.
    pub fn on_data(&mut self, data: &Data, sink: &mut impl Sink) {
        let Some(sender) = self.senders.get_mut(&data.from) else { return };
        if sender.generation > data.from_generation {
            self.counts.fenced += 1;
            return;
        }
        sender.generation = data.from_generation;
        let promised = sender.progress;
        for change in &data.changes {
            if change.boundary >= self.changes_from && P::on(Protection::HeldDownstream) {
                self.barriers.push(change.boundary);
            }
            self.awaited.change(change);
            self.changes_from = self.changes_from.max(Clock(change.boundary.0 + 1));
        }
        if let Some(block) = &data.block {
            self.trim(Clock((block.highest().0 + 1).saturating_sub(self.window)));
            self.on_packets(in_edge(data.from), block, promised, sink);
            if let Source::Instance(from) = data.from {
                self.on_records(from, block, promised, sink);
            }
        }
        if let Some(sender) = self.senders.get_mut(&data.from) {
            sender.progress = sender.progress.max(data.progress);
        }
        self.release(sink);
    }

    fn on_packets(&mut self, edge: usize, block: &BlockRef, promised: Position, sink: &mut impl Sink) {
        let is_new = self.suppress
            && P::on(Protection::PathPositions)
            && block.descs.first().is_some_and(|first| first.clock >= self.floor.max(promised.clock))
            && self.edges[edge].outputs.insert_all(block.descs.iter().map(|desc| (desc.clock, desc.path)));
        for (at, desc) in block.descs.iter().enumerate() {
            if self.suppress && !is_new {
                let path = if P::on(Protection::PathPositions) { desc.path } else { Path::FIRST };
                let fresh = desc.clock >= self.floor && self.edges[edge].outputs.insert(desc.clock, path);
                if !self.admit(fresh, desc.position(), promised) {
                    continue;
                }
            }
            self.counts.packets += 1;
            self.counts.bytes += u64::from(desc.wire_len);
            self.counts.extra += u64::from(desc.path != Path::FIRST);
            if self.holds || !self.barriers.is_empty() {
                self.order.add(block, [at]);
            } else {
                sink.packet(block, desc);
            }
        }
    }

    /// Hands over the packets below which nothing can come any more.
    fn release(&mut self, sink: &mut impl Sink) {
        if self.order.is_empty() && self.barriers.is_empty() {
            return;
        }
        let Some(mut progress) = self.promised() else { return };
        self.barriers.retain(|boundary| progress < Position::before(*boundary));
        if !self.holds && self.barriers.is_empty() {
            // The rest is in the order of its senders.
            progress = Position::before(Clock(u64::MAX));
        }
        self.order.take_ready(progress, &mut self.ready);
        for held in self.ready.drain(..) {
            let block = self.order.block(&held);
            sink.packet(block, &block.descs[held.at as usize]);
            self.order.done(&held);
        }
    }

    fn on_records(&mut self, from: InstanceId, block: &Block, promised: Position, sink: &mut impl Sink) {
        let at = in_edge(Source::Instance(from));
        for event in &block.events {
            let edge = &mut self.edges[at];
            let fresh =
                event.position.clock >= self.floor && edge.events.insert((event.position, event.index));
            if self.suppress && !self.admit(fresh, event.position, promised) {
                continue;
            }
            self.counts.events += 1;
            sink.event(from, event);
        }
        for record in &block.drops {
            let edge = &mut self.edges[at];
            let fresh = record.position.clock >= self.floor && edge.outputs.insert_position(record.position);
            if self.suppress && !self.admit(fresh, record.position, promised) {
                continue;
            }
            self.counts.extra += u64::from(record.position.path != Path::FIRST);
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

    /// What all senders have promised that may still send.
    fn promised(&self) -> Option<Position> {
        self.senders.iter().map(|(from, sender)| self.awaited.reach_of(from, sender.progress)).min()
    }

    /// A boundary everything below which has left, if there is a new one.
    pub fn close(&mut self) -> Option<Clock> {
        let progress = self.promised()?;
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
        self.awaited.trim(cut);
        for edge in &mut self.edges {
            edge.outputs.trim(cut);
            edge.events = edge.events.split_off(&(Position::before(cut), 0));
        }
    }
}

/// The in-edge of a sender: the roots' is the first, then one a vertex.
fn in_edge(from: Source) -> usize {
    match from {
        Source::Root(_) => 0,
        Source::Instance(id) => usize::from(id.vertex.0) + 1,
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
