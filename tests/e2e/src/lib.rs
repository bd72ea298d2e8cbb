//! See the crate description.

pub mod driver;
pub mod trw;
