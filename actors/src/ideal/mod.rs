//! The ideal chain: one instance of each vertex, infinitely fast, never failing.
//!
//! This is what chain output equivalence is defined by: whatever happens to the real chain, what
//! leaves it, what its network functions conclude and the state it leaves behind equal what this one
//! gives for the same packets with the same clocks. So it is written to be read, not to be fast: a
//! linear chain, ordered maps, one packet after the other, and it shares no code with the instances
//! and the store it judges.
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

use chc_api::packet::{LinkType, Parsed};
use chc_api::{
    Clock, Declarations, Event, Identity, NetworkFunction, Path, Position, Step, Time, Verdict, VertexId,
};
use chc_nf_catalog::Visitor;
use context::{Journal, Typed, Vertex};
use std::cell::RefCell;
use std::collections::BTreeMap;
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

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It left the chain.
    Forwarded(Output),
    /// A vertex dropped it.
    Dropped {
        /// Where.
        vertex: VertexId,
        /// Why.
        reason: &'static str,
    },
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

/// A linear chain of vertices and everything it has concluded so far.
pub struct IdealChain {
    window: u64,
    vertices: Vec<Box<dyn Vertex>>,
    journal: Rc<RefCell<Journal>>,
    drops: BTreeMap<&'static str, u64>,
}

impl IdealChain {
    /// An empty chain whose root has a window of `window` clocks. With `choices`, acquisitions get what
    /// they say.
    #[must_use]
    pub fn new(window: u64, choices: Option<Choices>) -> Self {
        let journal = Journal { choices, ..Journal::default() };
        Self { window, vertices: Vec::new(), journal: Rc::new(RefCell::new(journal)), drops: BTreeMap::new() }
    }

    /// A visitor that appends a vertex to the chain.
    pub fn append(&mut self, id: VertexId) -> Append<'_> {
        Append { chain: self, id }
    }

    /// Sends one packet through the chain. Clocks must rise from call to call.
    pub fn feed(&mut self, input: &Input<'_>) -> Outcome {
        if input.is_step {
            self.step(Step { clock: input.clock, time: input.time, number: input.number });
        }
        let mut output = Output {
            position: Position::packet(input.clock, Path::FIRST),
            time: input.time,
            number: input.number,
            link: input.link,
            wire_len: input.wire_len,
            frame: input.frame.to_vec(),
            identity: input.identity,
        };
        for vertex in &mut self.vertices {
            if let Verdict::Drop(reason) = vertex.packet(&mut output, &input.parsed) {
                *self.drops.entry(reason).or_default() += 1;
                return Outcome::Dropped { vertex: vertex.id(), reason };
            }
        }
        Outcome::Forwarded(output)
    }

    /// Time reaches `time` at a void clock.
    pub fn time_step(&mut self, clock: Clock, time: Time) {
        self.step(Step { clock, time, number: 0 });
    }

    /// The input has ended before `clock`: timers armed to fire at the end do.
    pub fn end(&mut self, clock: Clock) {
        self.step(Step { clock, time: Time::END, number: 0 });
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

    /// Every state object that differs from its declared initial value.
    #[must_use]
    pub fn state(&self) -> BTreeMap<StateKey, StateValue> {
        let mut all = BTreeMap::new();
        for vertex in &self.vertices {
            vertex.dump(&mut all);
        }
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
