//! The ideal chain: one instance of each vertex, infinitely fast, never failing.
//!
//! This is what chain output equivalence is defined by: whatever happens to the real chain, what
//! leaves it, what its network functions conclude and the state it leaves behind equal what this one
//! gives for the same packets with the same clocks. So it is written to be read, not to be fast:
//! ordered maps, one packet after the other, and it shares no code with the instances, the splitters and
//! the store it judges; only the shape of the chain, with the names of the packets in it, is the same.
//!
//! * At each clock that is a step, each vertex first runs the timers that have become due (the first
//!   step whose time reaches the deadline), in the order of their positions, then the packet passes
//!   through the vertices.
//! * Operations take effect where they are issued.
//! * A resource released at clock `r` may be acquired from clock `r + W` on.
//! * Where an object's consistency leaves a choice (which member a pool gives, what an operation on a
//!   `serial` integer returns), the choices of the real run can be given as [`Choices`]: they are
//!   checked to be legal and followed.

mod context;
mod serial;
mod state;

pub use state::{StateKey, StateValue, StateWord};

use crate::topology::{Node, Topology};
use chc_api::packet::{LinkType, Parsed, parse};
use chc_api::state::ValueBytes;
use chc_api::{
    Clock, Declarations, Event, FlowKey, Identity, NetworkFunction, Path, Position, Step, Time, Verdict,
    VertexId,
};
use chc_nf_catalog::Visitor;
use context::{Journal, Typed, Vertex};
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

/// What each acquisition (the member, or none) and each operation on a `serial` integer returned, by
/// vertex, position and index of the operation.
pub type Choices = BTreeMap<(VertexId, Position, u32), Option<u64>>;

/// One packet as the root stamped it.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Its stamp.
    pub clock: Clock,
    /// Packet time: the running maximum of arrivals.
    pub time: Time,
    /// Whether time reaches the chain's timers at this clock ([`Step`]).
    pub is_step: bool,
    /// 1-based number of the packet in the input.
    pub number: u64,
    /// What the frame begins with.
    pub link: LinkType,
    /// Bytes it had on the wire.
    pub wire_len: u32,
    /// The captured bytes.
    pub frame: &'a [u8],
    /// What the parser found in them.
    pub parsed: Parsed,
    /// The identity the root gave it (a later fragment has that of its first).
    pub identity: Identity,
}

/// A packet that left the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its place in the order.
    pub position: Position,
    /// Packet time.
    pub time: Time,
    /// 1-based number of the input packet it came from.
    pub number: u64,
    /// What the frame begins with.
    pub link: LinkType,
    /// Bytes it has on the wire.
    pub wire_len: u32,
    /// Its bytes, as far as the input had them.
    pub frame: Vec<u8>,
    /// Whose packet it is: outputs of one connection are in order.
    pub identity: Identity,
}

/// What became of a packet, or of one that was made of it. What ends off the path is no outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It left the chain.
    Forwarded(Output),
    /// A vertex dropped it.
    Dropped {
        /// Where.
        vertex: VertexId,
        /// Which.
        position: Position,
        /// Why.
        reason: &'static str,
    },
}

impl Outcome {
    /// Which packet.
    #[must_use]
    pub fn position(&self) -> Position {
        match self {
            Outcome::Forwarded(output) => output.position,
            Outcome::Dropped { position, .. } => *position,
        }
    }
}

/// An event with its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventRecord {
    /// The vertex that reported it.
    pub vertex: VertexId,
    /// The packet or timer it reported it for.
    pub position: Position,
    /// Which event of that position, from 0.
    pub index: u32,
    /// 1-based number of the input packet that caused it; `None` when no packet did.
    pub number: Option<u64>,
    /// What happened.
    pub event: Event,
}

/// A packet on its way.
#[derive(Clone)]
struct Packet {
    output: Output,
    parsed: Parsed,
    /// What is attached to it.
    attached: Option<(&'static str, ValueBytes)>,
}

impl Packet {
    fn key(&self) -> FlowKey {
        self.output.identity.key
    }

    /// The same under another name.
    fn named(&self, path: Path) -> Packet {
        let mut copy = self.clone();
        copy.output.position.path = path;
        copy
    }
}

/// What comes of a packet: packets that are to be handled, by vertex and position, and what has ended.
#[derive(Default)]
struct Course {
    arriving: BTreeMap<(VertexId, Position), Packet>,
    outcomes: Vec<Outcome>,
}

impl Course {
    fn arrive(&mut self, at: VertexId, packet: Packet) {
        self.arriving.insert((at, packet.output.position), packet);
    }

    /// A packet, the `of`-th that came of one of this path, leaves a vertex.
    fn leave(&mut self, node: &Node, output: chc_api::Output, (of, path): (u8, Path), packet: Packet) {
        for (at, copy) in node.copies.iter().enumerate().filter(|(_, copy)| copy.takes(&packet.key())) {
            self.arrive(copy.to, packet.named(path.append(node.copy_tap(of, at))));
        }
        match node.way(output, &packet.key()) {
            Some(way) => self.arrive(way.to, packet),
            None if node.off_path => {}
            None => self.outcomes.push(Outcome::Forwarded(packet.output)),
        }
    }
}

/// A chain of vertices and everything it has concluded so far.
pub struct IdealChain {
    window: u64,
    topology: Topology,
    vertices: Vec<Box<dyn Vertex>>,
    journal: Rc<RefCell<Journal>>,
    drops: BTreeMap<&'static str, u64>,
    /// Packet time.
    time: Time,
}

impl IdealChain {
    /// A chain of this shape whose root has a window of `window` clocks and whose vertices are still to be
    /// appended. With `choices`, acquisitions get what they say.
    #[must_use]
    pub fn new(window: u64, topology: Topology, choices: Option<Choices>) -> Self {
        let journal = Rc::new(RefCell::new(Journal { choices, ..Journal::default() }));
        Self { window, topology, vertices: Vec::new(), journal, drops: BTreeMap::new(), time: Time(0) }
    }

    /// A visitor that appends the next vertex of the chain.
    pub fn append(&mut self, id: VertexId) -> Append<'_> {
        Append { chain: self, id }
    }

    /// Sends one packet through the chain; returns what became of it and of all that came of it, by position.
    /// Clocks must rise from call to call, and all vertices be there.
    pub fn feed(&mut self, input: &Input<'_>) -> Vec<Outcome> {
        self.time = self.time.max(input.time);
        if input.is_step {
            self.step(Step { clock: input.clock, time: input.time, number: input.number });
        }
        let output = Output {
            position: Position::packet(input.clock, Path::FIRST),
            time: input.time,
            number: input.number,
            link: input.link,
            wire_len: input.wire_len,
            frame: input.frame.to_vec(),
            identity: input.identity,
        };
        let packet = Packet { output, parsed: input.parsed, attached: None };
        let mut course = Course::default();
        match self.topology.entry_way(&packet.key()) {
            Some(way) => course.arrive(way.to, packet),
            None => course.outcomes.push(Outcome::Forwarded(packet.output)),
        }
        while let Some(((vertex, _), packet)) = course.arriving.pop_first() {
            self.handle(usize::from(vertex.0), packet, &mut course);
        }
        course.outcomes.sort_by_key(Outcome::position);
        for outcome in &course.outcomes {
            if let Outcome::Dropped { reason, .. } = outcome {
                *self.drops.entry(reason).or_default() += 1;
            }
        }
        course.outcomes
    }

    /// One vertex handles one packet.
    fn handle(&mut self, at: usize, mut packet: Packet, course: &mut Course) {
        let node = &self.topology.vertices[at];
        let path = packet.output.position.path;
        for (copy_at, copy) in node.copies_in.iter().enumerate().filter(|(_, c)| c.takes(&packet.key())) {
            course.arrive(copy.to, packet.named(path.append(node.copy_in_tap(copy_at))));
        }
        let vertex = &mut self.vertices[at];
        let (verdict, extra) = vertex.packet(&mut packet);
        for (of, (output, direction, frame)) in (1..).zip(extra) {
            let identity = Identity { direction, ..packet.output.identity };
            let mut parsed = parse(packet.output.link, &frame);
            (parsed.key, parsed.direction) = (identity.key, identity.direction);
            let made = Packet {
                output: Output { wire_len: frame.len() as u32, frame, identity, ..packet.output.clone() },
                parsed,
                attached: None,
            };
            course.leave(node, output, (of, path), made.named(path.append(node.extra_tap(of))));
        }
        match verdict {
            Verdict::Forward => course.leave(node, chc_api::Output::FIRST, (0, path), packet),
            Verdict::Send(output) => course.leave(node, output, (0, path), packet),
            Verdict::Drop(_) if node.off_path => {}
            Verdict::Drop(reason) => {
                let (vertex, position) = (vertex.id(), packet.output.position);
                course.outcomes.push(Outcome::Dropped { vertex, position, reason });
            }
        }
    }

    /// Time reaches `time` at a void clock.
    pub fn time_step(&mut self, clock: Clock, time: Time) {
        self.time = self.time.max(time);
        self.step(Step { clock, time, number: 0 });
    }

    /// The input has ended before `clock`: timers armed to fire at the end do.
    pub fn end(&mut self, clock: Clock) {
        self.step(Step { clock, time: Time::end_after(self.time), number: 0 });
    }

    fn step(&mut self, step: Step) {
        for vertex in &mut self.vertices {
            vertex.step(&step);
        }
    }

    /// How many packets were dropped, by reason.
    #[must_use]
    pub fn drops(&self) -> &BTreeMap<&'static str, u64> {
        &self.drops
    }

    /// The events since the last call: of one clock, vertex by vertex the timers' before the packet's.
    pub fn take_events(&mut self) -> Vec<EventRecord> {
        std::mem::take(&mut self.journal.borrow_mut().events)
    }

    /// What was wrong with the given choices, each with its position.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let journal = self.journal.borrow();
        journal.violations.iter().cloned().chain(serial::violations(&journal.serial, self.window)).collect()
    }

    /// Every state object that differs from its declared initial value, but for [`Self::forgotten`] ones.
    #[must_use]
    pub fn state(&self) -> BTreeMap<StateKey, StateValue> {
        let mut all = BTreeMap::new();
        for vertex in &self.vertices {
            vertex.dump(&mut all);
        }
        let forgotten = self.forgotten();
        all.retain(|key, _| !forgotten.contains(key));
        all
    }

    /// State objects that count as being in their initial state, for they were not used for as long as declared. A store
    /// forgets them when it comes to it.
    #[must_use]
    pub fn forgotten(&self) -> BTreeSet<StateKey> {
        let mut all = BTreeSet::new();
        self.vertices.iter().for_each(|vertex| vertex.forgotten(&mut all));
        all
    }
}

/// Appends the vertex it visits to a chain.
pub struct Append<'a> {
    chain: &'a mut IdealChain,
    id: VertexId,
}

impl Visitor for Append<'_> {
    type Out = ();

    fn visit<N: NetworkFunction>(
        self,
        make: impl Fn() -> N + Clone + Send + Sync + 'static,
        declarations: Declarations,
    ) {
        let Append { chain, id } = self;
        let journal = chain.journal.clone();
        chain.vertices.push(Box::new(Typed::new(id, make(), declarations, chain.window, journal)));
    }
}

#[cfg(test)]
mod tests;
