//! See the crate description.

pub mod chain;
pub mod command;
pub mod driver;
pub mod hosts;
pub mod trw;
pub mod wire;
