//! A chain as a whole: compiled from its configuration, wired, run, and proved equivalent.
//!
//! * [`compile`]: from the logical chain to vertices with instances, slots and factories.
//! * [`wire`]: who reaches whom.
//! * [`recoveries`]: who failed and who has caught up.
//! * [`run`]: starts the supervision tree, injects faults, collects the report.
//! * [`sinks`]: capture and event files.
//! * [`state`], [`listing`], [`control`]: its state, as it is compared, as it is listed, and from outside.
//! * [`verify`]: the ideal chain on the same input, and the comparison.

pub mod compile;
pub mod control;
pub mod listing;
pub mod recoveries;
pub mod run;
pub mod sinks;
pub mod state;
pub mod verify;
pub mod wire;
