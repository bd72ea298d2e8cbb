//! The egress: where packets, events and drops leave the chain, each once.

pub mod actor;
pub mod core;
