//! The actors of a chain.
//!
//! Every actor is two files: a core that decides, pure and deterministic, and a shell that wires it to
//! mailboxes, arbiters and files. The same cores run in production and in simulation.

pub mod awaited;
pub mod chain;
pub mod cli;
pub mod config;
pub mod control;
pub mod egress;
pub mod functions;
pub mod gateway;
pub mod ideal;
pub mod instance;
pub mod latency;
pub mod manager;
pub mod messages;
pub mod order;
pub mod root;
pub mod routing;
pub mod seen;
pub mod shard;
pub mod splitter;
pub mod steps;
pub mod topology;
pub mod trace;
