//! See the crate description.

pub mod chain;
pub mod command;
pub mod driver;
pub mod trw;
