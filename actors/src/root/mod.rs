//! The roots: the entry of a chain. They stamp input packets, keep what is in flight, and the first of them moves the
//! chain's cut.

pub mod actor;
pub mod core;
pub mod fragments;
pub mod intake;
mod lead;
mod logging;
pub mod reader;
pub mod shares;
