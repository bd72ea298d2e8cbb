//! The experiments behind `chc-bench`.
//!
//! An *experiment* measures one thing in several *modes*; what is compared runs in one process, sample
//! by sample in turn, so that whatever else the machine does falls on all alike. A *sample* is one
//! figure; a [`report::Line`] gives the least, the median and the greatest of a mode's samples.
//!
//! * [`traffic`]: packets in memory, established connections in random order.
//! * [`setup`]: the chain that is measured, and in which modes.
//! * [`chain`]: a whole chain on one thread, by the production path, beside [`bare`], a loop that does
//!   only what no translator can leave out.
//! * [`overhead`]: one network function alone, by its core in [`cores`].
//! * [`remote`]: a store shard on a thread or in a process of its own.
//! * [`cores`]: all cores of a chain called directly on one thread, without actors.

pub mod bare;
pub mod chain;
pub mod clock;
pub mod cores;
pub mod crossflow;
pub mod datastore;
pub mod delete;
pub mod idle;
pub mod io;
pub mod logging;
pub mod metadata;
pub mod moves;
pub mod offload;
pub mod overhead;
pub mod remote;
pub mod report;
pub mod scale;
pub mod setup;
pub mod shared;
pub mod stamp;
pub mod steady;
pub mod traffic;
mod veth;
