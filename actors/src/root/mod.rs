//! The root: the one entry of a chain. It stamps input packets, keeps what is in flight, and moves the
//! chain's cut.

pub mod actor;
pub mod core;
pub mod fragments;
mod logging;
