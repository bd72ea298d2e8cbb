//! Deterministic simulation of whole chains.
//!
//! The cores that production runs (root, instances with their splitters, store shards, egress) run
//! here on one thread, under one seed: it draws the chain, the traffic, the order in which every
//! message is delivered, and who dies when. At the end everything the chain did is compared with the
//! ideal chain ([`chc_actors::ideal`]) on the same stamps: outputs, drops, events, state.
//!
//! * [`world`]: the run; [`links`]: who delivers next; [`traffic`]: what comes in.
//! * [`setup`]: what a seed draws; [`probe`]: a function that exercises the rest of the interface.
//! * [`check`]: the comparison; [`weaken`]: protections to switch off, each of which must be missed.
//! * [`run`]: seeds, in parallel.

pub mod check;
pub mod frame;
pub mod left;
pub mod links;
pub mod probe;
pub mod rng;
pub mod run;
pub mod setup;
pub mod traffic;
pub mod weaken;
pub mod world;
