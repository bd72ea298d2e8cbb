//! The vocabulary of a chain: names, clocks and positions, packets and their identity, state
//! declarations, and the interface every network function is written against.
//!
//! * A **vertex** is a logical network function; an **instance** one running copy of it.
//! * The root stamps every input packet with a [`Clock`]; a [`Position`] names one packet, timer or
//!   operation of the chain and orders it among all others. Nothing is ever named by instance.
//! * An **epoch** is a power-of-two run of clocks; a **boundary** `b` is the point before clock `b`.
//! * State objects are declared ([`state`]), never coded: the framework derives from the
//!   declaration where an object lives, who may cache it and in which order it is updated.
//!
//! This crate depends on no runtime: no threads, sockets, wall clock or ambient randomness.

pub mod event;
pub mod identity;
pub mod ids;
pub mod matching;
pub mod nf;
pub mod op;
pub mod packet;
pub mod position;
pub mod protection;
mod side;
pub mod state;
pub mod time;
mod touched;
mod value;

pub use event::{Event, EventKind};
pub use identity::{Direction, FlowKey, Identity};
pub use ids::{Generation, InstanceId, ObjectId, ShardId, Slot, VertexId};
pub use nf::{Attachment, Context, NetworkFunction, Passing, Resolution, TimerEvent, Verdict};
pub use position::{Clock, Path, Position, Step, TimerOrigin};
pub use protection::{All, Protection, Protections};
pub use side::Side;
pub use state::{
    Consistency, Counter, CounterArray, CustomOp, Declarations, Flow, ObjectKey, Op, OpValue, Output, Pool,
    Replicated, Scope, Shared, StateError,
};
pub use time::Time;
