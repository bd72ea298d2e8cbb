//! The splitter behind the root and behind every instance: it finds the way each output takes, partitions
//! it among the instances of that vertex, makes copies, retains what it sent since the cut, and sends it
//! again to a new generation.
//!
//! Retained outputs are references to the blocks that were sent, so retaining costs nothing a packet;
//! memory is bounded by the root's window. Paper: splitters of section 4.1, queues of section 4.2.

use crate::awaited::Awaited;
use crate::messages::{Data, Destination, Source};
use crate::routing::{Change, Route};
use crate::steps::Steps;
use crate::topology::{Node, Topology, Way};
use chc_api::matching::Match;
use chc_api::{
    Clock, FlowKey, Generation, Identity, InstanceId, Output, Path, Position, Protection, Protections, Slot,
};
use chc_runtime::block::{
    BlockBuilder, BlockPool, BlockRef, Changed, Desc, DropRecord, EventRecord, Ingest, Meta,
};
use chc_runtime::io::Frame;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

struct Edge {
    to: Destination,
    generation: Generation,
    connected: bool,
    builder: BlockBuilder,
    retained: VecDeque<(Clock, BlockRef)>,
    steps_from: Clock,
    /// Changes of routing tables below this boundary have been sent.
    changes_from: Clock,
    progress: Position,
    /// Blocks closed because they were full, waiting for the next flush.
    full: Vec<BlockRef>,
}

/// A vertex packets may go to: which take the way, how they are partitioned, the first of its edges.
struct Target {
    matching: Option<Match>,
    route: Route,
    edge: usize,
    /// Appended to the path of what goes there; 0 for the packet itself.
    tap: u8,
}

/// The way of a packet: an edge, and its slot at the vertex there if that has several instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picked {
    edge: usize,
    slot: Option<Slot>,
}

impl Target {
    #[inline]
    fn takes(&self, key: impl FnOnce() -> FlowKey) -> bool {
        self.matching.as_ref().is_none_or(|m| m.takes(&key()))
    }

    #[inline]
    fn pick<P: Protections>(&self, hash: u64, clock: Clock, identity: impl FnOnce() -> Identity) -> Picked {
        let clock = if P::on(Protection::RoutedByClock) { clock } else { Clock(u64::MAX) };
        let (instance, slot) = self.route.instance(hash, clock, identity);
        Picked { edge: self.edge + instance, slot }
    }
}

/// Where the packets of one sender go.
#[derive(Clone)]
pub struct Ways {
    /// The sender's place in the chain; for the root a vertex with the chain's entries as its only output.
    pub node: Node,
    /// How traffic to each vertex is partitioned, by [`VertexId`].
    pub routes: Arc<[Route]>,
}

impl Ways {
    /// The ways from the root.
    #[must_use]
    pub fn of_root(topology: &Topology, routes: Arc<[Route]>) -> Self {
        Self { node: Node { outputs: vec![topology.entry.clone()], ..Node::default() }, routes }
    }

    /// Whether a packet may take none of the ways of some output.
    fn may_leave(&self) -> bool {
        let all = |ways: &Vec<Way>| ways.iter().any(|way| way.matching.is_none());
        !self.node.off_path && !self.node.outputs.iter().all(all)
    }
}

/// The outputs of one sender.
pub struct Splitter<P> {
    from: Source,
    generation: Generation,
    /// One a downstream instance, those of a vertex one after the other; then the egress.
    edges: Vec<Edge>,
    /// The edge to the egress; none at a root all of whose packets enter the chain.
    egress: Option<usize>,
    /// Where packets go on, by output; of those that take a packet the first.
    outputs: Vec<Vec<Target>>,
    /// The edge all packets of the first output go by, if it is one whatever the packet.
    only: Option<usize>,
    copies: Vec<Target>,
    copies_in: Vec<Target>,
    node: Node,
    /// Those that own slots, here and elsewhere.
    awaited: Awaited<P>,
    /// A rewritten header, for copies; kept for its memory.
    aside: Vec<u8>,
    retain: bool,
    /// Packets that ended here.
    drops: u64,
}

impl<P: Protections> Splitter<P> {
    /// A splitter that is not connected to any instance yet.
    #[must_use]
    pub fn new(
        from: Source,
        generation: Generation,
        ways: &Ways,
        pool: &Arc<BlockPool>,
        retain: bool,
    ) -> Self {
        let edge = |to, connected| Edge {
            to,
            generation: Generation(0),
            connected,
            builder: BlockBuilder::new(pool.clone()),
            retained: VecDeque::new(),
            steps_from: Clock(0),
            changes_from: Clock(0),
            progress: Position::before(Clock(0)),
            full: Vec::new(),
        };
        let mut edges: Vec<Edge> = Vec::new();
        let mut first = BTreeMap::new();
        let mut target = |way: &Way, tap: u8| {
            let route = &ways.routes[usize::from(way.to.0)];
            let edge = *first.entry(way.to).or_insert_with(|| {
                let instance = |index| Destination::Instance(InstanceId { vertex: way.to, index });
                edges.extend((0..route.instances).map(|index| edge(instance(index), false)));
                edges.len() - usize::from(route.instances)
            });
            Target { matching: way.matching.clone(), route: route.clone(), edge, tap }
        };
        let node = &ways.node;
        let outputs: Vec<Vec<Target>> =
            node.outputs.iter().map(|on| on.iter().map(|way| target(way, 0)).collect()).collect();
        let copies =
            node.copies.iter().enumerate().map(|(at, way)| target(way, node.copy_tap(0, at))).collect();
        let copies_in =
            node.copies_in.iter().enumerate().map(|(at, way)| target(way, node.copy_in_tap(at))).collect();
        let egress = (matches!(from, Source::Instance(_)) || ways.may_leave()).then_some(edges.len());
        if egress.is_some() {
            edges.push(edge(Destination::Egress, true));
        }
        let node = node.clone();
        let only = match outputs.first().map(Vec::as_slice) {
            Some([]) | None => egress,
            Some([target, ..]) if target.matching.is_none() && target.route.instances == 1 => {
                Some(target.edge)
            }
            Some(_) => None,
        };
        Self {
            from,
            generation,
            edges,
            egress,
            outputs,
            only,
            copies,
            copies_in,
            node,
            awaited: Awaited::new(&ways.routes),
            aside: Vec::new(),
            retain,
            drops: 0,
        }
    }

    /// The way of a packet from an output; none if it is discarded.
    #[inline(always)]
    pub fn pick(
        &self,
        output: Output,
        hash: u64,
        clock: Clock,
        identity: impl Fn() -> Identity,
    ) -> Option<Picked> {
        match self.only.filter(|edge| output == Output::FIRST && !self.is_discarded(*edge)) {
            Some(edge) => Some(Picked { edge, slot: None }),
            None => self.pick_by_packet(output, hash, clock, identity),
        }
    }

    /// Whether what would leave by an edge is discarded.
    #[inline]
    fn is_discarded(&self, edge: usize) -> bool {
        self.node.off_path && Some(edge) == self.egress
    }

    fn pick_by_packet(
        &self,
        output: Output,
        hash: u64,
        clock: Clock,
        identity: impl Fn() -> Identity,
    ) -> Option<Picked> {
        let targets = self.outputs.get(usize::from(output.number()))?;
        match targets.iter().find(|target| target.takes(|| identity().key)) {
            Some(target) => Some(target.pick::<P>(hash, clock, identity)),
            None => {
                let egress = self.egress.filter(|_| !self.node.off_path);
                egress.map(|edge| Picked { edge, slot: None })
            }
        }
    }

    #[inline]
    fn builder(&mut self, edge: usize) -> &mut BlockBuilder {
        let edge = &mut self.edges[edge];
        if edge.builder.is_full() {
            edge.full.extend(edge.builder.finish());
        }
        &mut edge.builder
    }

    /// Sends a packet that comes in here (the root); `head_len` bytes of its frame are its header region.
    #[inline(always)]
    pub fn ingest(
        &mut self,
        to: Picked,
        frame: &mut Frame<'_>,
        head_len: usize,
        ingest: Ingest,
        meta: impl FnMut() -> Meta,
    ) {
        let builder = self.builder(to.edge);
        builder.ingest(frame, head_len, ingest, meta);
        builder.slot(to.slot);
    }

    /// Sends a packet on, unchanged.
    #[inline]
    pub fn forward(&mut self, output: Output, from: &BlockRef, desc: &Desc) {
        let to = self.pick(output, desc.hash, desc.clock, || from.meta(desc).parsed.identity());
        self.forward_on(to, from, desc);
    }

    /// Sends a packet on, unchanged, by a way that was picked before.
    #[inline(always)]
    pub fn forward_on(&mut self, to: Option<Picked>, from: &BlockRef, desc: &Desc) {
        if let Some(to) = to {
            let builder = self.builder(to.edge);
            builder.forward(from, desc);
            builder.slot(to.slot);
        }
        if !self.copies.is_empty() {
            self.copy(from, desc);
        }
    }

    /// Begins a packet with another header on the way that was picked for it; returns where the header begins
    /// there. [`Self::forward_rewritten`] or one of the two behind it must follow.
    #[inline(always)]
    pub fn rewrite(
        &mut self,
        to: Option<Picked>,
        from: &BlockRef,
        desc: &Desc,
        change: impl FnOnce(&mut [u8]),
    ) -> u32 {
        match to {
            Some(to) => self.builder(to.edge).rewrite(from, desc, change),
            None => {
                // It goes nowhere itself, but copies of it may.
                self.aside.clear();
                self.aside.extend_from_slice(from.head(desc));
                change(&mut self.aside);
                0
            }
        }
    }

    /// Sends on the packet that was begun.
    #[inline(always)]
    pub fn forward_rewritten(&mut self, to: Option<Picked>, from: &BlockRef, desc: &Desc, at: u32) {
        if !self.copies.is_empty() {
            self.set_aside(to, at);
        }
        if let Some(to) = to {
            let builder = &mut self.edges[to.edge].builder;
            builder.forward_rewritten(from, desc, at);
            builder.slot(to.slot);
        }
        for copy in &self.copies {
            copy_to::<P>(copy, &mut self.edges, from, desc, Some(&self.aside));
        }
    }

    /// Sends the packet that was begun by another output than it was begun for.
    #[cold]
    pub fn divert_rewritten(
        &mut self,
        to: Option<Picked>,
        output: Output,
        from: &BlockRef,
        desc: &Desc,
        at: u32,
    ) {
        self.set_aside(to, at);
        self.undo_rewrite(to, at);
        let head = std::mem::take(&mut self.aside);
        self.forward_changed(output, from, desc, &Changed { head: Some(&head), meta: None });
        self.aside = head;
    }

    /// Takes back the packet that was begun.
    pub fn undo_rewrite(&mut self, to: Option<Picked>, at: u32) {
        if let Some(to) = to {
            self.edges[to.edge].builder.undo_rewrite(at);
        }
    }

    /// Keeps a copy of the header that was begun.
    fn set_aside(&mut self, to: Option<Picked>, at: u32) {
        if let Some(to) = to {
            self.aside.clear();
            self.aside.extend_from_slice(self.edges[to.edge].builder.rewritten(at));
        }
    }

    /// Copies of a packet that leaves unchanged.
    fn copy(&mut self, from: &BlockRef, desc: &Desc) {
        for copy in &self.copies {
            copy_to::<P>(copy, &mut self.edges, from, desc, None);
        }
    }

    /// Copies of a packet that enters; made when all that comes of it has left.
    #[inline]
    pub fn enter(&mut self, from: &BlockRef, desc: &Desc) {
        for copy in &self.copies_in {
            copy_to::<P>(copy, &mut self.edges, from, desc, None);
        }
    }

    /// Where all packets of the first output go, if that is one place and copies go to others: packets and
    /// copies for the same receiver are sent in the order of their positions.
    fn sole_receiver(&self) -> Option<usize> {
        let edge = self.only?;
        let mut copies = self.copies.iter().chain(&self.copies_in);
        (!copies.any(|copy| copy.edge == edge)).then_some(edge)
    }

    /// Whether all packets of the first output go the same way, and nothing else does.
    #[must_use]
    pub fn has_one_receiver(&self) -> bool {
        self.sole_receiver().is_some()
    }

    /// Sends a block of packets on as it is; there is one receiver.
    pub fn forward_whole(&mut self, block: &BlockRef) {
        let Some(at) = self.sole_receiver() else { return };
        if !self.is_discarded(at) {
            let edge = &mut self.edges[at];
            edge.full.extend(edge.builder.finish());
            edge.full.push(block.clone());
        }
        if !(self.copies.is_empty() && self.copies_in.is_empty()) {
            for desc in &block.descs {
                self.copy(block, desc);
                self.enter(block, desc);
            }
        }
    }

    /// Sends a packet on with what a function changed of it.
    #[inline]
    pub fn forward_changed(&mut self, output: Output, from: &BlockRef, desc: &Desc, changed: &Changed<'_>) {
        let hash = changed.meta.as_ref().map_or(desc.hash, |(_, _, hash)| *hash);
        let identity =
            || changed.meta.as_ref().map_or_else(|| from.meta(desc), |(meta, ..)| meta).parsed.identity();
        if let Some(to) = self.pick(output, hash, desc.clock, identity) {
            let builder = self.builder(to.edge);
            builder.forward_changed(from, desc, desc.path, changed);
            builder.slot(to.slot);
        }
        self.copy_changed(from, desc, changed);
    }

    /// Copies of a packet that leaves changed.
    fn copy_changed(&mut self, from: &BlockRef, desc: &Desc, changed: &Changed<'_>) {
        let hash = changed.meta.as_ref().map_or(desc.hash, |(_, _, hash)| *hash);
        let identity =
            || changed.meta.as_ref().map_or_else(|| from.meta(desc), |(meta, ..)| meta).parsed.identity();
        for at in 0..self.copies.len() {
            let copy = &self.copies[at];
            if copy.takes(|| identity().key) {
                let (to, path) = (copy.pick::<P>(hash, desc.clock, identity), desc.path.append(copy.tap));
                let builder = self.builder(to.edge);
                builder.forward_changed(from, desc, path, changed);
                builder.slot(to.slot);
            }
        }
    }

    /// Sends the `of`-th packet (from 1) of the function's own for a packet of `path`, and its copies.
    pub fn emit(&mut self, of: u8, output: Output, frame: &[u8], path: Path, ingest: Ingest, meta: Meta) {
        let identity = || meta.parsed.identity();
        let head_len = meta.parsed.head_len(frame);
        let path = |tap| path.append(tap);
        if let Some(to) = self.pick(output, ingest.hash, ingest.clock, identity) {
            let ingest = Ingest { path: path(self.node.extra_tap(of)), ..ingest };
            self.ingest(to, &mut frame.into(), head_len, ingest, || meta);
        }
        for at in 0..self.copies.len() {
            let copy = &self.copies[at];
            if copy.takes(|| identity().key) {
                let to = copy.pick::<P>(ingest.hash, ingest.clock, identity);
                let ingest = Ingest { path: path(self.node.copy_tap(of, at)), ..ingest };
                self.ingest(to, &mut frame.into(), head_len, ingest, || meta);
            }
        }
    }

    /// Reports an event.
    pub fn event(&mut self, event: EventRecord) {
        if let Some(egress) = self.egress {
            self.builder(egress).event(event);
        }
    }

    /// Notes a packet that ended here. What ends off the path is nobody's loss.
    pub fn dropped(&mut self, record: DropRecord) {
        self.drops += 1;
        if let Some(egress) = self.egress.filter(|_| !self.node.off_path) {
            self.builder(egress).dropped(record);
        }
    }

    /// Sends what was gathered, then the progress, on every edge.
    pub fn flush(
        &mut self,
        steps: &Steps,
        progress: Position,
        send: &mut (impl FnMut(Destination, Data) + ?Sized),
    ) {
        for at in 0..self.edges.len() {
            let edge = &mut self.edges[at];
            edge.full.extend(edge.builder.finish());
            if !edge.connected && !self.retain {
                // Nothing else could send it again when the receiver is there.
                continue;
            }
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
            // Who owns no slots up to here needs no news.
            let needs_news = match edge.to {
                Destination::Instance(id) => self.awaited.reach(id, edge.progress) <= progress,
                Destination::Egress => true,
            };
            if blocks.is_empty()
                && needs_news
                && (progress > edge.progress
                    || edge.steps_from < steps.next_clock()
                    || edge.changes_from < steps.next_change())
            {
                send_one::<P>(self.from, self.generation, edge, steps, None, progress, send);
            }
            edge.progress = edge.progress.max(progress);
            edge.full = blocks;
            edge.full.clear();
        }
    }

    fn routes(&mut self) -> impl Iterator<Item = &mut Route> {
        let targets = self.outputs.iter_mut().flatten();
        targets.chain(&mut self.copies).chain(&mut self.copies_in).map(|target| &mut target.route)
    }

    /// From a boundary on packets go to other instances.
    pub fn reroute(&mut self, change: &Change) {
        self.routes().for_each(|route| route.change(change));
        self.awaited.change(change);
    }

    /// Forgets what lies below the cut.
    pub fn trim(&mut self, cut: Clock) {
        self.routes().for_each(|route| route.trim(cut));
        self.awaited.trim(cut);
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
        send: &mut (impl FnMut(Destination, Data) + ?Sized),
    ) {
        let Some(edge) = self.edges.iter_mut().find(|e| e.to == Destination::Instance(to)) else { return };
        if edge.connected && generation < edge.generation {
            return;
        }
        let reached = edge.progress;
        edge.generation = generation;
        edge.connected = true;
        edge.steps_from = boundary;
        edge.changes_from = boundary;
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
            edge.changes_from = boundary;
            edge.progress = Position::before(boundary);
        }
    }

    /// Those that own slots.
    #[must_use]
    pub fn awaited(&self) -> &Awaited<P> {
        &self.awaited
    }

    /// Packets that ended here.
    #[must_use]
    pub fn drops(&self) -> u64 {
        self.drops
    }

    /// Blocks retained.
    #[must_use]
    pub fn retained(&self) -> usize {
        self.edges.iter().map(|e| e.retained.len()).sum()
    }
}

/// Sends a copy of a packet to a target, if it takes it; with another header region, if one is given.
#[inline]
fn copy_to<P: Protections>(
    target: &Target,
    edges: &mut [Edge],
    from: &BlockRef,
    desc: &Desc,
    head: Option<&[u8]>,
) {
    let identity = || from.meta(desc).parsed.identity();
    if target.takes(|| identity().key) {
        let to = target.pick::<P>(desc.hash, desc.clock, identity);
        let edge = &mut edges[to.edge];
        if edge.builder.is_full() {
            edge.full.extend(edge.builder.finish());
        }
        edge.builder.forward_copy(from, desc, desc.path.append(target.tap), head);
        edge.builder.slot(to.slot);
    }
}

fn send_one<P: Protections>(
    from: Source,
    from_generation: Generation,
    edge: &mut Edge,
    steps: &Steps,
    block: Option<BlockRef>,
    progress: Position,
    send: &mut (impl FnMut(Destination, Data) + ?Sized),
) {
    let first = P::on(Protection::StepsFirst) || block.is_none();
    let news: Vec<_> = if first { steps.since(edge.steps_from).collect() } else { Vec::new() };
    if let Some(step) = news.last() {
        edge.steps_from = Clock(step.clock.0 + 1);
    }
    let changes = steps.changes_since(edge.changes_from);
    edge.changes_from = edge.changes_from.max(steps.next_change());
    let to_generation = edge.generation;
    send(edge.to, Data { from, from_generation, to_generation, steps: news, changes, block, progress });
}

#[cfg(test)]
#[path = "splitter_tests.rs"]
pub(crate) mod tests;
