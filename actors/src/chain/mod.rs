//! A chain as a whole: compiled from its configuration, wired, run, and proved equivalent.
//!
//! * [`compile`]: from the logical chain to vertices with instances, slots and factories.
//! * [`wire`]: who reaches whom.
//! * [`recoveries`]: who failed and who has caught up.
//! * [`cluster`]: its actors: starts their supervision tree, kills, collects what is to be reported.
//! * [`run`]: over a source that ends, with the faults asked for.
//! * [`sinks`]: capture and event files.
//! * [`up`]: between live interfaces, with the changes asked for; [`changes`] says which can be.
//! * [`state`], [`listing`], [`kept`]: its state, as it is compared, as it is listed, and in a file.
//! * [`verify`]: the ideal chain on the same input, and the comparison.

pub mod changes;
mod cluster;
pub mod compile;
pub mod kept;
pub mod listing;
pub mod recoveries;
pub mod run;
pub mod sinks;
pub mod state;
pub mod up;
pub mod verify;
pub mod wire;
