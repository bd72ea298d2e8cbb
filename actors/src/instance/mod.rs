//! An instance: one running copy of a network function with its splitter.
//!
//! * [`core`] decides: duplicate suppression, order within flows, timers, progress, closing, replay.
//! * [`config`] is what it is told and what it counts.
//! * [`context`] is what network-function code sees of it.
//! * [`metrics`] is what it tells its manager.
//! * [`passing`] is the same for packets that are handled at once.
//! * [`records`] holds the cached per-flow records and their timers.
//! * [`deadlines`] are the timers that are not due yet.
//! * [`index`] finds records by a secondary key.
//! * [`lanes`] keeps packets of a flow in order behind one that waits.

pub mod actor;
pub mod config;
pub mod context;
pub mod core;
pub mod deadlines;
pub mod index;
pub mod lanes;
pub mod metrics;
pub mod passing;
pub mod records;
