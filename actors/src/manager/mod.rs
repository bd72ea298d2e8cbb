//! The vertex manager: watches the load of a vertex's instances and has the operator's policy decide on it.

pub mod actor;
pub mod core;
pub mod policy;
